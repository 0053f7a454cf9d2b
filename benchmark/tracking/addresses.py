"""Check the address of an MLflow server, database or folder before anything is opened."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from benchmark.config import Experiment
from benchmark.errors import UsageError
from benchmark.fields import shown
from benchmark.store.credentials import holds_credentials

KNOWN = "http://HOST:PORT, https://HOST, sqlite:///PATH or file:PATH"
SHOWN = 200
"""Characters of an address in a message."""


class Address(NamedTuple):
    """Where MLflow logs to."""

    uri: str
    """As MLflow takes it; a path in it is absolute."""
    path: Path | None = None
    """The database or folder of this machine; None: a server."""

    @property
    def is_database(self) -> bool:
        """Whether it is a file of SQLite."""
        return self.uri.startswith("sqlite:")

    @property
    def artifacts(self) -> str | None:
        """URI of the folder of artifacts of a new experiment; None: MLflow chooses it.

        For a database MLflow would take the current folder.
        """
        if self.path is None or not self.is_database:
            return None
        return self.path.with_name(f"{self.path.stem}-artifacts").as_uri()


def find_address(experiment: Experiment) -> Address | None:
    """Return the MLflow address of an experiment; None: it has none.

    Raises:
        UsageError: the address holds a secret, is malformed, or its scheme is not supported.
    """
    tracking, where = experiment.tracking, f"{experiment.path} [tracking]"
    if tracking is None:
        return None
    text = tracking.mlflow
    if text is None:
        if tracking.exports is not None:
            raise UsageError(f"{where}: 'exports' are logged to MLflow; set 'mlflow' as well")
        return None
    scheme, _, rest = text.partition(":")
    scheme = scheme.lower()
    is_plain_file = scheme == "file" and not rest.startswith("//")
    if not is_plain_file and holds_credentials(f"{scheme}://{rest.removeprefix('//')}"):
        raise UsageError(
            f"{where}: mlflow must not hold a password or a token, since it is written into the "
            "store and logs; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
            "MLFLOW_TRACKING_TOKEN, in the environment"
        )
    try:
        return _parse(scheme, rest)
    except ValueError as error:
        raise UsageError(f"{where}: 'mlflow' = {shown(text, SHOWN)}: {error}") from None


def _parse(scheme: str, rest: str) -> Address:
    """Return an address from its parts around the first colon; raise ValueError if it is none."""
    if scheme in ("http", "https"):
        uri = f"{scheme}:{rest}".rstrip("/")
        parts = urlsplit(uri)
        # Reading the port checks it.
        _ = parts.port
        if not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"is no address of a server; write {scheme}://HOST:PORT")
        return Address(uri)
    if scheme == "sqlite":
        path = rest.removeprefix("///")
        if path == rest or not path or "?" in path or path == ":memory:":
            raise ValueError("names no file; write sqlite:///PATH")
        return Address(f"sqlite:///{_absolute(path)}", _absolute(path))
    if scheme == "file":
        path = unquote(rest.removeprefix("//")) if rest.startswith("//") else rest
        if not path or (rest.startswith("//") and not path.startswith("/")):
            raise ValueError("names no folder; write file:PATH or file:///PATH")
        return Address(_absolute(path).as_uri(), _absolute(path))
    raise ValueError(f"is no address of MLflow; write {KNOWN}")


def _absolute(path: str) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100
