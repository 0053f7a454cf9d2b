"""``[tracking]``: the settings of trackers."""

from __future__ import annotations

from benchmark.fields import FilePathText
from benchmark.section import Section


class TrackingConfig(Section):
    """``[tracking]``: trackers that a finished run is logged to (docs/TRACKING.md)."""

    mlflow: FilePathText | None = None
    """MLflow server (``http://HOST:PORT``, ``https://...``), database (``sqlite:///PATH``) or
    folder (``file:PATH``) to which settings, scores and the page are logged."""
    tensorboard: bool = False
    """Whether trials and trainings are written as event files into ``STORE/tensorboard``."""
