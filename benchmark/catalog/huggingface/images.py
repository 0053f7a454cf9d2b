"""Preprocessing of a backbone, read from an image processor of transformers.

Reads only its JSON, so that an experiment is checked without torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from benchmark.catalog.huggingface.files import PROCESSOR
from benchmark.catalog.huggingface.sizes import MAX_SIDE
from benchmark.errors import UsageError
from benchmark.fields import shown

_INTERPOLATIONS: Mapping[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}
"""By PIL's number; with any other, the processor itself runs."""
_MAX_RESAMPLE = 5

_EDGES = ("height", "width", "shortest_edge", "longest_edge")
"""Names of the sides of a size."""
_WHOLE_FROM = 384
"""From this side on, ConvNeXt's processor resizes the whole image; below it, it crops."""


class Preprocessing(NamedTuple):
    """The fields of ``specs.Backbone`` that describe its input."""

    image_size: int | None
    resize_to: int | None
    interpolation: Literal["bilinear", "bicubic"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    is_known: bool
    """Whether the processor's rules are in ``_KNOWN``; any other is compared with transformers
    when the entry is made."""
    is_rounded: bool = True
    """transformers resizes bytes, unless it rescales them before."""
    flips_bands: bool = False

    @property
    def fields(self) -> dict[str, Any]:
        """The arguments of ``specs.Backbone``."""
        found = self._asdict()
        del found["is_known"]
        return found


class _Rules(NamedTuple):
    """Defaults of a processor for keys that its file lacks."""

    resample: int = 3
    crops: bool = False
    is_rounded: bool = True


_KNOWN: Mapping[str, _Rules] = {
    "Beit": _Rules(),
    "Bit": _Rules(crops=True),
    "CLIP": _Rules(crops=True),
    "ConvNext": _Rules(),
    "DINOv3ViT": _Rules(resample=2, is_rounded=False),
    "DeiT": _Rules(crops=True),
    "EfficientNet": _Rules(),
    "Levit": _Rules(crops=True),
    "MobileNetV1": _Rules(resample=2, crops=True),
    "MobileNetV2": _Rules(resample=2, crops=True),
    "MobileViT": _Rules(crops=True),
    "PoolFormer": _Rules(crops=True),
    "Siglip": _Rules(),
    "ViT": _Rules(resample=2),
}
_OF_MODEL: Mapping[str, str] = {
    "beit": "Beit",
    "clip_vision_model": "CLIP",
    "convnext": "ConvNext",
    "convnextv2": "ConvNext",
    "deit": "DeiT",
    "dinov2": "Bit",
    "mobilenet_v2": "MobileNetV2",
    "resnet": "ConvNext",
    "siglip_vision_model": "Siglip",
    "swin": "ViT",
    "swinv2": "ViT",
    "vit": "ViT",
    "vit_mae": "ViT",
}
"""Processors by model type, for old files that do not name one."""


def read_preprocessing(
    processor: Mapping[str, Any],
    model_type: str,
    *,
    what: str,
    file: str = PROCESSOR,
    num_bands: int = 3,
) -> Preprocessing:
    """Translate the configuration of an image processor.

    Args:
        processor: the file's content.
        model_type: of ``config.json``; selects the processor if the file names none.
        what: prefix of error messages.
        file: name of the file, for error messages.
        num_bands: that the weights take.

    Raises:
        UsageError: the file has a setting that is not supported.
    """
    where = f"{what}: {file}"
    # Null and an absent key mean the processor's default.
    processor = {key: value for key, value in processor.items() if value is not None}
    _check_sizes(processor, where)
    _check_flags(processor, where)
    name = processor.get("image_processor_type", processor.get("feature_extractor_type", "None"))
    if not isinstance(name, str):
        raise UsageError(
            f"{where} has image_processor_type = {shown(name)}; name a class of transformers"
        )
    for ending in ("Fast", "Pil", "ImageProcessor", "FeatureExtractor"):
        name = name.removesuffix(ending)
    if name == "None":
        name = _OF_MODEL.get(model_type, "")
    rules = _KNOWN.get(name, _Rules())
    resample = processor.get("resample", rules.resample)
    if type(resample) is not int or not 0 <= resample <= _MAX_RESAMPLE:
        raise UsageError(
            f"{where} has resample = {shown(resample)}; set 2 (bilinear) or 3 (bicubic)"
        )
    image_size, resize_to = _sizes(processor, name, rules, where)
    mean, std = _normalisation(processor, name, where, num_bands)
    return Preprocessing(
        image_size,
        resize_to,
        _INTERPOLATIONS.get(resample, "bilinear"),
        mean,
        std,
        name in _KNOWN and resample in _INTERPOLATIONS,
        rules.is_rounded,
        name == "MobileViT" and processor.get("do_flip_channel_order", True),
    )


def check_normalisation(
    mean: Any, std: Any, where: str, names: tuple[str, str], num_bands: int = 3
) -> None:
    """Check that pixels remain finite.

    Args:
        mean: of each band, or of all.
        std: as ``mean``.
        where: names the file; prefix of error messages.
        names: of both in the file.
        num_bands: that the weights take; bands after the third may lack values.

    Raises:
        UsageError: one is no list of one number, three, or one for each band, or out of range.
    """
    for key, values, low in ((names[0], mean, -1e6), (names[1], std, 1e-6)):
        is_right = isinstance(values, (list, tuple)) and len(values) in (1, 3, num_bands)
        if not is_right or not all(_is_number(value, low, 1e6) for value in values):
            raise UsageError(
                f"{where} has {key} = {shown(values)}; give one number for each of red, green and "
                f"blue, from {low:g} to 1e6"
            )


def _is_number(value: Any, low: float, high: float) -> bool:
    return type(value) in (int, float) and low <= value <= high


def _check_flags(processor: Mapping[str, Any], where: str) -> None:
    for key, value in processor.items():
        if key.startswith("do_") and not isinstance(value, bool):
            raise UsageError(f"{where} has {key} = {shown(value)}; set true or false")


def _check_sizes(processor: Mapping[str, Any], where: str) -> None:
    """Refuse large sizes under any name: processors of other kinds pad to sizes of their own."""
    for key, value in processor.items():
        sides = value.values() if isinstance(value, Mapping) else [value]
        if "size" in key and any(isinstance(n, (int, float)) and n > MAX_SIDE for n in sides):
            raise UsageError(f"{where} has {key} = {shown(value)}; set at most {MAX_SIDE:,} px")


def _sizes(
    processor: Mapping[str, Any], name: str, rules: _Rules, where: str
) -> tuple[int | None, int | None]:
    """Return the side of the input, and the side before the crop to it (None: no crop)."""
    size = None
    # Some processors have no size and round the sides of an image: they are compared.
    if processor.get("do_resize", True) and (name in _KNOWN or "size" in processor):
        size = _side(processor.get("size"), where, "size")
        if name == "ConvNext" and size < _WHOLE_FROM:
            return size, int(size / _crop_share(processor, 224 / 256, where))
        if name == "PoolFormer":
            size = int(size / _crop_share(processor, 0.9, where))
        elif name == "Levit" and not _has_height(processor.get("size")):
            size = int(256 / 224 * size)
    if not processor.get("do_center_crop", rules.crops):
        return size, None
    crop = _side(processor.get("crop_size", 224), where, "crop_size")
    if size is None or crop > size:
        raise UsageError(
            f"{where} crops {crop} px from {size or 'any number of'} px; "
            "set size to at least crop_size"
        )
    return crop, None if crop == size else size


def _has_height(size: Any) -> bool:
    return isinstance(size, Mapping) and size.get("height") is not None


def _crop_share(processor: Mapping[str, Any], default: float, where: str) -> float:
    share = processor.get("crop_pct", default)
    if not _is_number(share, 0.1, 1.0):
        raise UsageError(f"{where} has crop_pct = {shown(share)}; set a number from 0.1 to 1")
    return float(share)


def _side(size: Any, where: str, key: str) -> int:
    """Return the side in px of a size in any notation of transformers.

    Patches are square, so that the shortest and the longest edge equal the height.
    """
    side = size
    if isinstance(size, Mapping):
        sides = [size.get(name) for name in _EDGES]
        found = [item for item in sides if item is not None]
        side = found[0] if found and all(item == found[0] for item in found) else None
    if type(side) is not int or side < 1:
        raise UsageError(
            f"{where} has no square {key} but {shown(size)}; set a number of px, equal "
            "height and width, or shortest_edge"
        )
    return side


def _normalisation(
    processor: Mapping[str, Any], name: str, where: str, num_bands: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation for pixels scaled to 0...1."""
    is_scaled = processor.get("do_rescale", True)
    scale = processor.get("rescale_factor", 1 / 255) if is_scaled else 1.0
    if not _is_number(scale, 1e-6, 1e3):
        raise UsageError(
            f"{where} has rescale_factor = {shown(scale)}; set a number above 0, as 1/255"
        )
    factor = 255.0 * scale
    if math.isclose(factor, 1.0, rel_tol=1e-6):
        factor = 1.0
    # MobileViT's takes the setting and does not use it; others have none by default.
    by_default = name in _KNOWN or "image_mean" in processor
    is_normalised = name != "MobileViT" and processor.get("do_normalize", by_default)
    is_divided_again = name == "EfficientNet" and processor.get("include_top", True)
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    if is_normalised or is_divided_again:
        centre, spread = (_listed(processor.get(key)) for key in ("image_mean", "image_std"))
        check_normalisation(centre, spread, where, ("image_mean", "image_std"), num_bands)
        mean = tuple(centre) if is_normalised else mean
        std = tuple(value ** (is_normalised + is_divided_again) for value in spread)
    if name == "EfficientNet" and is_scaled and processor.get("rescale_offset", False):
        mean = tuple(value + 1.0 for value in mean)
    return tuple(value / factor for value in mean), tuple(value / factor for value in std)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, (int, float)) else value
