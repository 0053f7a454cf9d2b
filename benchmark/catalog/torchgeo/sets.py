"""Data sets of torchgeo by name, ``torchgeo:EuroSAT``: which there are, and how each is listed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.catalog.folder.bandnames import by_sensor
from benchmark.catalog.folder.splits import SPLIT_WORDS
from benchmark.errors import UsageError, did_you_mean, first_line, one_line
from benchmark.fields import shown
from benchmark.regular import follow_links

PREFIX = "torchgeo:"


def _image_folder(dataset: Any) -> list[tuple[str, str]]:
    return [(path, dataset.classes[label]) for path, label in dataset.samples]


def _advance(dataset: Any) -> list[tuple[str, str]]:
    return [(item["image"], item["cls"]) for item in dataset.files]


def _million_aid(dataset: Any) -> list[tuple[str, str]]:
    return [(item["image"], item["label"][0]) for item in dataset.files]


def _copernicus_eurosat(dataset: Any) -> list[tuple[str, str]]:
    # The path and the class are made from the name as in torchgeo's ``__getitem__``.
    folder = Path(dataset.root) / dataset.directory / "all_imgs"
    labels = [name.partition("_")[0] for name in dataset.files]
    files = [name.replace(".jpg", ".tif") for name in dataset.files]
    return [(str(folder / label / file), label) for label, file in zip(labels, files, strict=True)]


def _one_hot(dataset: Any) -> list[int]:
    from torchgeo.datasets.utils import lazy_import

    with lazy_import("h5py").File(hdf5_file(dataset), "r") as file:
        labels: list[int] = file["label"][:].argmax(axis=1).tolist()
    return labels


def _of_records(dataset: Any) -> list[int]:
    return [item["label"] for item in dataset.data]


def hdf5_file(dataset: Any) -> str:
    """Return the HDF5 file of a data set."""
    return str(dataset.fn if hasattr(dataset, "fn") else dataset.filepath)


class Form(NamedTuple):
    """How a class of torchgeo lists its images; one of ``files`` and ``labels`` is set."""

    files: Callable[[Any], Sequence[tuple[str, str]]] | None = None
    """Return the path and the class of each image file."""
    labels: Callable[[Any], Sequence[int]] | None = None
    """Return the label of each sample of an HDF5 file, which ``dataset[index]`` reads."""
    splits: tuple[str, ...] | None = None
    """Its names of the splits; None: as the class says."""
    bands: tuple[str, ...] | None = None
    """Names of its bands; None: as the class says."""


FORMS: Mapping[str, Form] = {
    "ADVANCE": Form(files=_advance),
    "CopernicusBenchEuroSATS1": Form(files=_copernicus_eurosat),
    "CopernicusBenchEuroSATS2": Form(files=_copernicus_eurosat),
    "CopernicusBenchLCZS2": Form(labels=_one_hot),
    "EuroSAT": Form(files=_image_folder),
    "EuroSAT100": Form(files=_image_folder),
    "EuroSATSpatial": Form(files=_image_folder),
    "FireRisk": Form(files=_image_folder),
    # Its test images have no labels.
    "MillionAID": Form(files=_million_aid, splits=("train",)),
    "PatternNet": Form(files=_image_folder),
    "QuakeSet": Form(labels=_of_records, bands=("vv_before", "vh_before", "vv_after", "vh_after")),
    "RESISC45": Form(files=_image_folder),
    "So2Sat": Form(labels=_one_hot, splits=("train", "validation", "test")),
    "UCMerced": Form(files=_image_folder),
}
"""torchgeo's classes of images with one label each."""


class Named(NamedTuple):
    """One data set of torchgeo."""

    name: str
    """Its class, e.g. ``EuroSAT``."""
    root: str

    @property
    def where(self) -> str:
        """Start of each message."""
        return f"[dataset] name = '{PREFIX}{self.name}', root = '{self.root}'"

    def build(self, split: str | None, **arguments: Any) -> Any:
        """Return torchgeo's data set of one of its splits (None: it has none), or its error."""
        given = {} if split is None else {"split": split}
        return class_of(self.name)(self.root, **given, **arguments)

    def open(self, split: str | None) -> Any:
        """Return torchgeo's data set of one of its splits; None: it has none.

        Raises:
            UsageError: it is not in the root, cannot be read, or needs a package.
        """
        with self.explained():
            return self.build(split)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn what torchgeo raises while a data set is opened into one line.

        Raises:
            UsageError: with what to do.
        """
        from torchgeo.datasets import DatasetNotFoundError
        from torchgeo.datasets.errors import DependencyNotFoundError

        try:
            yield
        except UsageError:
            raise
        except DatasetNotFoundError:
            raise UsageError(f"{self.where}: is not there; {self.how_to_prepare()}") from None
        except DependencyNotFoundError as error:
            raise self.lacks(error) from None
        except Exception as error:  # torchgeo and the libraries below it raise what they like
            raise UsageError(
                f"{self.where}: torchgeo cannot open it: {one_line(error)}; remove what is "
                f"incomplete, and {self.how_to_prepare()}"
            ) from None

    def lacks(self, error: Exception) -> UsageError:
        """Return the error for torchgeo's ``DependencyNotFoundError``."""
        package = first_line(error).partition(" ")[0]
        return UsageError(f"{self.where}: needs the package {package}; run `pip install {package}`")

    def how_to_prepare(self) -> str:
        """Return how the data set gets into its root."""
        if self.is_downloaded:
            return f"run `benchmark prepare {PREFIX}{self.name} --root {self.root}`"
        return (
            "torchgeo does not download it: put its files there as the documentation of "
            f"torchgeo.datasets.{self.name} says"
        )

    @property
    def is_downloaded(self) -> bool:
        """Whether torchgeo downloads it."""
        return "download" in inspect.signature(class_of(self.name)).parameters

    def splits(self) -> dict[str | None, str]:
        """Return train, val or test by torchgeo's names of the splits; None: there is one."""
        found = class_of(self.name)
        if "split" not in inspect.signature(found).parameters:
            return {None: "train"}
        names = (
            FORMS[self.name].splits or getattr(found, "splits", None) or ("train", "val", "test")
        )
        return {name: SPLIT_WORDS[name] for name in names}


def class_of(name: str) -> Any:
    """Return the class of a data set; imports torchgeo."""
    from torchgeo import datasets

    return getattr(datasets, name)


def check_name(name: str, where: str) -> None:
    """Check that a data set of torchgeo can be benchmarked; imports torchgeo if it cannot.

    Args:
        name: without the prefix.
        where: start of the message.

    Raises:
        UsageError: torchgeo has no such class, or its images have no single label.
    """
    if name in FORMS:
        return
    from torchgeo import datasets

    what = f"{where}: dataset '{PREFIX}{name}'".lstrip(": ")
    if name in datasets.__all__:
        raise UsageError(
            f"{what}: torchgeo's {name} is no set of images with one label each; those are: "
            f"{', '.join(FORMS)}"
        )
    same = [item for item in FORMS if item.casefold() == name.casefold()]
    hint = f" Did you mean '{same[0]}'?" if same else did_you_mean(name, FORMS)
    raise UsageError(f"{what}: torchgeo has no data set {shown(name, 100)}.{hint}")


def open_root(name: str, root: str) -> Named:
    """Return a data set in a folder, whose links are followed: workers run in other folders."""
    try:
        return Named(name, str(follow_links(Path(root))))
    except OSError as error:
        raise UsageError(
            f"{Named(name, root).where}: cannot be opened: {one_line(error)}"
        ) from None


def band_names(name: str) -> tuple[str, ...] | None:
    """Return the names of a set's bands as this package calls them; None: torchgeo has none.

    Codes of Sentinel-2 become names (``B04``: ``red``); others are in lower case.
    """
    found = class_of(name)
    given = getattr(found, "all_band_names", None) or getattr(found, "all_bands", None)
    if given is None:
        return FORMS[name].bands
    optical = [text.removeprefix("S2_") for text in given if not text.startswith("S1_")]
    sensed = by_sensor(optical)
    names = dict(zip(optical, sensed.names, strict=True)) if sensed else {}
    return tuple(names.get(text.removeprefix("S2_"), text.lower()) for text in given)
