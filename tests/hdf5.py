"""HDF5 for tests: h5py if it is installed, else a stand-in that stores the same tree by pickle."""

from __future__ import annotations

import importlib.util
import pickle
import types
from pathlib import Path
from typing import Any

import numpy as np

IS_INSTALLED = importlib.util.find_spec("h5py") is not None


class Group(dict[str, Any]):
    """A group of arrays and groups, with attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.attrs: dict[str, Any] = {}

    def create_group(self, name: str) -> Group:
        self[name] = Group()
        found: Group = self[name]
        return found

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value if isinstance(value, Group) else np.asarray(value))


class File(Group):
    """The root of a file, which is written when it is closed."""

    def __init__(self, path: Any, mode: str = "r") -> None:
        super().__init__()
        self._path, self._mode = Path(path), mode
        if mode == "r":
            stored = pickle.loads(self._path.read_bytes())
            self.update(stored)

    def __enter__(self) -> File:
        return self

    def __exit__(self, *error: object) -> None:
        if self._mode == "w":
            self._path.write_bytes(pickle.dumps(dict(self)))


def hdf5_module() -> Any:
    """Return h5py, or the stand-in."""
    if IS_INSTALLED:
        return importlib.import_module("h5py")
    module = types.ModuleType("h5py")
    module.File = File  # type: ignore[attr-defined]
    return module
