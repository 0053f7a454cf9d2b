"""Preprocessing of a backbone, read from an image processor of transformers.

Reads only ``preprocessor_config.json``, so that an experiment is checked without torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from benchmark.errors import UsageError

_INTERPOLATIONS: Mapping[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}
"""By PIL's number; nearest and Lanczos are not implemented on the device."""

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
    when the network is built."""

    @property
    def fields(self) -> dict[str, Any]:
        """The arguments of ``specs.Backbone``; transformers rounds, since it resizes PIL images."""
        found = self._asdict()
        del found["is_known"]
        return {**found, "is_rounded": True}


class _Rules(NamedTuple):
    """Defaults of a processor for keys that its file lacks."""

    resample: int = 3
    crops: bool = False


_KNOWN: Mapping[str, _Rules] = {
    "Beit": _Rules(),
    "Bit": _Rules(crops=True),
    "CLIP": _Rules(crops=True),
    "ConvNext": _Rules(),
    "DeiT": _Rules(crops=True),
    "MobileNetV1": _Rules(resample=2, crops=True),
    "MobileNetV2": _Rules(resample=2, crops=True),
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
    processor: Mapping[str, Any], model_type: str, *, what: str
) -> Preprocessing:
    """Translate ``preprocessor_config.json``.

    Args:
        processor: the file's content.
        model_type: of ``config.json``; selects the processor if the file names none.
        what: prefix of error messages.

    Raises:
        UsageError: the file has a setting that is not supported.
    """
    name = str(processor.get("image_processor_type") or processor.get("feature_extractor_type"))
    for ending in ("Fast", "Pil", "ImageProcessor", "FeatureExtractor"):
        name = name.removesuffix(ending)
    if name == "None":
        name = _OF_MODEL.get(model_type, "")
    rules = _KNOWN.get(name, _Rules())
    resample = processor.get("resample", rules.resample)
    if resample not in _INTERPOLATIONS:
        raise UsageError(
            f"{what}: preprocessor_config.json has resample = {resample}; set 2 (bilinear) or "
            "3 (bicubic)"
        )
    image_size, resize_to = _sizes(processor, name, rules, what)
    mean, std = _normalisation(processor, what)
    return Preprocessing(
        image_size, resize_to, _INTERPOLATIONS[resample], mean, std, name in _KNOWN
    )


def _sizes(
    processor: Mapping[str, Any], name: str, rules: _Rules, what: str
) -> tuple[int | None, int | None]:
    """Return the side of the input, and the side before the crop to it (None: no crop)."""
    size = None
    if processor.get("do_resize", True):
        size = _side(processor.get("size"), what, "size")
        if name == "ConvNext" and size < _WHOLE_FROM:
            # Null and an absent key mean the processor's default.
            share = processor.get("crop_pct") or 224 / 256
            return size, int(size / share)
    if not processor.get("do_center_crop", rules.crops):
        return size, None
    crop = _side(processor.get("crop_size", 224), what, "crop_size")
    if size is None or crop > size:
        raise UsageError(
            f"{what}: preprocessor_config.json crops {crop} px from {size or 'any number of'} px; "
            "set size to at least crop_size"
        )
    return crop, None if crop == size else size


def _side(size: Any, what: str, key: str) -> int:
    """Return the side in px of a size in any notation of transformers.

    Patches are square, so that the shortest edge equals the height.
    """
    if isinstance(size, Mapping):
        sides = {size[name] for name in ("height", "width", "shortest_edge") if size.get(name)}
        size = sides.pop() if len(sides) == 1 else None
    if type(size) is not int or size < 1:
        raise UsageError(
            f"{what}: preprocessor_config.json has no square {key}; set a number of px, equal "
            "height and width, or shortest_edge"
        )
    return size


def _normalisation(
    processor: Mapping[str, Any], what: str
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation for pixels scaled to 0...1."""
    rescales = processor.get("do_rescale", True)
    factor = 255.0 * (float(processor.get("rescale_factor", 1 / 255)) if rescales else 1.0)
    if math.isclose(factor, 1.0, rel_tol=1e-6):
        factor = 1.0
    if not processor.get("do_normalize", True):
        return (0.0,), (1.0 / factor,)
    found = []
    for key in ("image_mean", "image_std"):
        values: Any = processor.get(key)
        values = [values] if isinstance(values, (int, float)) else values
        is_right = isinstance(values, list) and len(values) in (1, 3)
        if not is_right or not all(isinstance(value, (int, float)) for value in values):
            raise UsageError(
                f"{what}: preprocessor_config.json has {key} = {values}; give one number for "
                "each of red, green and blue"
            )
        found.append(tuple(float(value) / factor for value in values))
    mean, std = found
    if min(std) <= 0:
        raise UsageError(f"{what}: preprocessor_config.json has image_std = {std}; set it above 0")
    return mean, std
