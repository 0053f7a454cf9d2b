"""Open an exported folder, of any kind, and predict probabilities of patches with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from zipfile import BadZipFile

from benchmark.errors import UsageError, one_line
from benchmark.networks.freed import keep_freed_memory
from benchmark.store.cache import cache_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DESCRIPTION = "benchmark.json"
"""What the folder is, in every folder that ``export`` writes."""
PROGRAM_FILE = "program.pt2"
ONNX_FILE = "model.onnx"
FITTED = "fitted.safetensors"
"""The state of a backbone that was fitted on train."""
CONFIG = "config.json"
"""The configuration of transformers, or the input of a head that needs this package."""

PIPELINE = "pipeline"
"""Kind of a folder that the ``image-classification`` pipeline of transformers loads."""
PROGRAM = "program"
"""Kind of a folder with a program of torch and the ``predict.py`` that runs it."""
PACKAGE = "package"
"""Kind of a folder with a head, whose backbone is built by this package."""
ONNX = "onnx"
"""Kind of a folder with one ONNX graph, from pixels to probabilities."""
ONNX_INPUT, ONNX_OUTPUT = "pixels", "probabilities"
ONNX_BATCH = 16
"""Patches per run of the graph."""
CANNOT_OPEN = (OSError, KeyError, TypeError, ValueError, RuntimeError, BadZipFile)
"""What libraries raise for the files of a folder that is damaged."""


class OpenedModel(Protocol):
    """A classifier of patches, ready to predict."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes, in the order of the columns of ``predict``."""
        ...

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the C bands of its input, in order."""
        ...

    @property
    def patch_size(self) -> int | None:
        """Side of the patches of the training, in px; None: the folder does not tell."""
        ...

    def predict(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probability of each class.

        Args:
            pixels: patches like those of the training, uint8 (N, C, H, W), C as in ``bands``.

        Returns: float32 (N, K); each row sums to one.

        Raises:
            UsageError: the patches have another number of bands, dtype, or a size in px that
                the model does not take.
        """
        ...


def open_model(folder: str | Path, *, trust_code: bool = False) -> OpenedModel:
    """Open a folder that ``benchmark export`` or ``bm.export`` wrote; on the CPU, in float32.

    A folder with a program runs the program, whose probabilities are the closest to those of the
    experiment. A program is code: without ``trust_code``, only those that this user exported on
    this machine are run. A folder's ``predict.py`` is never run here.

    Args:
        folder: on a local disk.
        trust_code: whether to run a program of others, or the own code of a backbone of the
            Hugging Face hub.

    Raises:
        UsageError: the folder is absent, was not exported, one of its files is missing or damaged,
            or it brings code that is not trusted.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UsageError(f"{root}: there is no such folder; give one that `benchmark export` wrote")
    description = _read_description(root)
    kind = description["kind"]
    keep_freed_memory()
    try:
        if kind == PROGRAM:
            check_trusted(root, trust_code=trust_code)
            return _ProgramModel(root, description)
        if kind == ONNX:
            return _OnnxModel(root, description)
        if kind == PACKAGE:
            return _PackageModel(root, description, trust_code)
        return _PipelineModel(root, description)
    except CANNOT_OPEN as error:
        raise UsageError(f"{root}: cannot be opened ({one_line(error)}); export it again") from None


def write_description(folder: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Add facts to the description of a folder, and return all of it."""
    path = folder / DESCRIPTION
    known = json.loads(path.read_text()) if path.is_file() else {}
    content = {**known, **facts}
    path.write_text(json.dumps(content, indent=2) + "\n")
    return content


def read_description(folder: str | Path) -> dict[str, Any]:
    """Return what an exported folder says of itself: kind, classes, bands and more.

    Raises:
        UsageError: it was not exported.
    """
    return _read_description(Path(folder))


def record_program(folder: Path) -> None:
    """Remember in this user's cache that the program of a folder may be run."""
    # A home folder that cannot be written: the program is then run with ``trust_code`` alone.
    with suppress(OSError):
        _record_of(folder / PROGRAM_FILE).touch()


def check_trusted(folder: str | Path, *, trust_code: bool) -> None:
    """Raise UsageError if a folder holds a program of others, unless ``trust_code``."""
    root = Path(folder)
    if not trust_code and _is_foreign(root / PROGRAM_FILE):
        raise UsageError(
            f"{root}: its program was not exported by you on this machine; a program is code: if "
            "you trust it, open the folder with trust_code=True (--trust-code)"
        )


def _is_foreign(program: Path) -> bool:
    """Return whether a program exists that this user did not export on this machine."""
    if not program.is_file():
        return False
    try:
        return not _record_of(program).is_file()
    except OSError:
        return True


def _record_of(program: Path) -> Path:
    with program.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return cache_folder("exported") / digest


def check_pixels(pixels: NDArray[np.uint8], bands: tuple[str, ...]) -> None:
    """Raise UsageError unless ``pixels`` is uint8 (N, C, H, W) with these bands."""
    if pixels.ndim != 4 or pixels.dtype != "uint8" or pixels.shape[1] != len(bands):
        raise UsageError(
            f"predict: given {pixels.dtype} {pixels.shape}; give uint8 (N, {len(bands)}, H, W), "
            f"the bands {', '.join(bands)}"
        )


def _read_description(root: Path) -> dict[str, Any]:
    """Return the description; folders of older versions have the same facts elsewhere."""
    for name in (DESCRIPTION, CONFIG):
        path = root / name
        if not path.is_file():
            continue
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise UsageError(f"{path}: cannot be read ({one_line(error)})") from None
        if name == CONFIG and isinstance(found, dict):
            found = _describe_older(found)
        if isinstance(found, dict) and {"kind", "classes", "bands"} <= found.keys():
            return found
    raise UsageError(f"{root}: was not exported; give a folder that `benchmark export` wrote")


def _describe_older(config: dict[str, Any]) -> dict[str, Any]:
    if "head" in config:
        return {**config, "kind": PACKAGE}
    names = config.get("id2label")
    classes = config.get("label_names") or (list(names.values()) if names else None)
    if "model_type" not in config or not classes:
        return {}
    return {"kind": PIPELINE, "classes": classes, "bands": ["red", "green", "blue"]}


@dataclass(frozen=True)
class _Described:
    """The facts that every kind of folder has."""

    folder: Path
    description: Mapping[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes."""
        return tuple(self.description["classes"])

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the C bands."""
        return tuple(self.description["bands"])

    @property
    def patch_size(self) -> int | None:
        """Side of the patches of the training, in px."""
        return self.description.get("patch_size")


class _ProgramModel(_Described):
    """The program of the folder, run by the code of which ``predict.py`` is a copy."""

    def __init__(self, folder: Path, description: Mapping[str, Any]) -> None:
        from benchmark.exporting.standalone import Classifier

        super().__init__(folder, description)
        object.__setattr__(self, "_classify", Classifier(folder))

    _classify: Any

    def predict(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return probabilities float32 (N, K) of pixels (N, C, H, W)."""
        check_pixels(pixels, self.bands)
        try:
            found: NDArray[np.float32] = self._classify.probabilities(pixels)
        except ValueError as error:
            raise UsageError(f"predict: {error}") from None
        return found


class _OnnxModel(_Described):
    """The ONNX graph of the folder, run by ONNX Runtime on the CPU."""

    _session: Any

    def __init__(self, folder: Path, description: Mapping[str, Any]) -> None:
        super().__init__(folder, description)
        object.__setattr__(self, "_session", open_session(folder / ONNX_FILE))

    def predict(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return probabilities float32 (N, K) of pixels (N, C, H, W)."""
        import numpy as np

        check_pixels(pixels, self.bands)
        side = self.description["patch_size"]
        if pixels.shape[2:] != (side, side):
            raise UsageError(
                f"predict: given patches of {pixels.shape[2]} x {pixels.shape[3]} px; the graph "
                f"takes {side} x {side} px"
            )
        step = ONNX_BATCH if self.description["takes_batches"] else 1
        parts = [np.empty((0, len(self.classes)), np.float32)]
        for begin in range(0, len(pixels), step):
            given = {ONNX_INPUT: np.ascontiguousarray(pixels[begin : begin + step])}
            parts += self._session.run([ONNX_OUTPUT], given)
        return np.concatenate(parts)


class _PipelineModel(_Described):
    """The ``image-classification`` pipeline of transformers."""

    _pipeline: Any

    def __init__(self, folder: Path, description: Mapping[str, Any]) -> None:
        super().__init__(folder, description)
        object.__setattr__(self, "_pipeline", load_pipeline(folder))

    def predict(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return probabilities float32 (N, K) of pixels (N, C, H, W)."""
        check_pixels(pixels, self.bands)
        return run_pipeline(self._pipeline, pixels, self.classes)


class _PackageModel(_Described):
    """A head on the embeddings of a backbone that this package builds."""

    _embed: Any
    _head: Any

    def __init__(self, folder: Path, description: Mapping[str, Any], trust_code: bool) -> None:
        from benchmark.exporting.embedding import package_backbone
        from benchmark.exporting.saved import load_head
        from benchmark.networks.devices import plan_device
        from benchmark.networks.embedder import Embedder

        super().__init__(folder, description)
        backbone = package_backbone(folder, trust_code=trust_code)
        plan = plan_device(precision="float32", device="cpu", num_threads=torch_threads())
        object.__setattr__(self, "_embed", Embedder(backbone, self.bands, plan))
        object.__setattr__(self, "_head", load_head(folder))

    def predict(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return probabilities float32 (N, K) of pixels (N, C, H, W)."""
        check_pixels(pixels, self.bands)
        return head_scores(self._head, self._embed(pixels)[0], len(self.classes))


def open_session(path: Path) -> Any:
    """Return a session of ONNX Runtime for a graph, on the CPU.

    Raises:
        UsageError: the package is absent.
    """
    try:
        runtime = import_module("onnxruntime")
    except ModuleNotFoundError:
        raise UsageError(f"{path}: needs onnxruntime: pip install onnxruntime") from None
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch_threads()
    return runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def load_pipeline(folder: Path) -> Any:
    """Return the pipeline of transformers of a folder, on the CPU; the hub is not asked."""
    from transformers import pipeline
    from transformers.utils import logging as untyped

    logging: Any = untyped
    level, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return pipeline("image-classification", model=str(folder), device="cpu")
    finally:
        logging.set_verbosity(level)
        if has_bars:
            logging.enable_progress_bar()


def run_pipeline(
    pipeline: Any, pixels: NDArray[np.uint8], classes: tuple[str, ...]
) -> NDArray[np.float32]:
    """Return probabilities float32 (N, K) of red, green and blue pixels (N, 3, H, W)."""
    import numpy as np
    from PIL import Image

    scores = np.empty((len(pixels), len(classes)), np.float32)
    for row, item in zip(scores, pixels, strict=True):
        picture = Image.fromarray(np.ascontiguousarray(item.transpose(1, 2, 0)))
        found = {one["label"]: one["score"] for one in pipeline(picture, top_k=len(classes))}
        row[:] = [found[name] for name in classes]
    return scores


def head_scores(
    head: Any, embeddings: NDArray[np.float32], num_classes: int
) -> NDArray[np.float32]:
    """Return probabilities (N, K) of a head; zero for classes that it never saw."""
    import numpy as np

    scores = np.zeros((len(embeddings), num_classes), np.float32)
    if len(embeddings):
        scores[:, head.classes_] = head.predict_proba(embeddings)
    return scores


def torch_threads() -> int:
    """Return the number of threads that torch uses now, which opening a model keeps."""
    import torch

    return torch.get_num_threads()
