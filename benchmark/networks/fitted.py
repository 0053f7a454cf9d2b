"""The fitted state of a backbone, as one safetensors file in its embeddings' artefact.

It is written before the first part of the embeddings, so that a resumed run, every worker and
the report use the same state.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import CellError
from benchmark.specs import Fitted
from benchmark.store.artefacts import Artefact
from benchmark.store.damage import MISSING
from benchmark.store.names import FITTED

if TYPE_CHECKING:
    import torch


def write_fitted(artefact: Artefact, fitted: Fitted) -> None:
    """Write the state, with its facts in the file's metadata, atomically.

    Raises:
        CellError: the store is full or cannot be written.
    """
    import numpy as np
    from safetensors.torch import save_file

    state = {name: tensor.contiguous() for name, tensor in fitted.state.items()}
    with tempfile.TemporaryDirectory() as folder:
        # Through a file: serialising in memory would hold three copies.
        path = Path(folder) / FITTED
        try:
            save_file(state, path, {"facts": json.dumps(fitted.facts)})
        except OSError as error:
            raise CellError(f"{path} cannot be written: {error.strerror or error}") from None
        content = np.memmap(path, np.uint8, mode="r")
        artefact.write_bytes(FITTED, memoryview(content))  # type: ignore[arg-type]


def read_fitted(artefact: Artefact) -> dict[str, torch.Tensor]:
    """Return the state; on a local disk all processes that read it share its pages.

    Raises:
        CellError: the file is absent or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load, load_file

    try:
        if not artefact.store.is_local:
            return load(artefact.read_verified(FITTED))
        if artefact.is_complete:
            artefact.read_verified(FITTED)
        return artefact.find(FITTED, lambda name: load_file(artefact.file(name)))
    except FileNotFoundError:
        raise artefact.damage_of(FITTED, MISSING) from None
    except SafetensorError as error:
        raise artefact.damage_of(FITTED, error) from None


def read_facts(artefact: Artefact) -> dict[str, Any]:
    """Return the facts of the fit without reading the state.

    Raises:
        CellError: the file is absent or damaged, or the store cannot be read.
    """

    def read(name: str) -> bytes:
        with artefact.store.fs.open_input_file(artefact.file(name)) as stream:
            length = int.from_bytes(stream.read(8), "little")
            return bytes(stream.read(min(length, 2**20)))

    try:
        header = json.loads(
            artefact.store.attempt(artefact.folder, "read", lambda: artefact.find(FITTED, read))
        )
        return dict(json.loads(header["__metadata__"]["facts"]))
    except FileNotFoundError:
        raise artefact.damage_of(FITTED, MISSING) from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise artefact.damage_of(FITTED, error) from None
