"""``[tracking]``: the settings of trackers."""

from __future__ import annotations

import os
import re

from benchmark.fields import FilePathText, PathText
from benchmark.section import Section

_LOCAL = re.compile(r"(?i)(sqlite:///|file:(?!//))(?=.)")


class TrackingConfig(Section):
    """``[tracking]``: trackers that a finished run is logged to (docs/TRACKING.md)."""

    mlflow: FilePathText | None = None
    """MLflow server (``http://HOST:PORT``, ``https://...``), database (``sqlite:///PATH``) or
    folder (``file:PATH``) to which settings, scores and the page are logged."""
    exports: PathText | None = None
    """Folder whose sub-folders ``benchmark export`` has written: those of this run's models are
    logged to MLflow, too. Unset: no models are logged."""
    tensorboard: bool = False
    """Whether trials and trainings are written as event files into ``STORE/tensorboard``."""


def absolute_address(text: str) -> str:
    """Return an address of MLflow with an absolute path, if it is one of this machine."""
    found = _LOCAL.match(text)
    return f"{found[0]}{os.path.abspath(text[found.end() :])}" if found else text  # noqa: PTH100
