"""Ray's client of a job server: with limits of time, and errors that say what to do."""

from __future__ import annotations

import logging
import os
from typing import Any
from urllib.parse import urlsplit

from benchmark.cluster.connection import has_token, use_token
from benchmark.errors import UsageError, first_line
from benchmark.store.credentials import holds_credentials

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 8.0
ORDER_TIMEOUT_S = 60.0
"""For a job to be taken: the first one waits until a new head has started what runs it."""
UPLOAD_TIMEOUT_S = 600.0


def check_address(address: str | None) -> str:
    """Return the URL of a job server as it was given, without a slash at its end.

    Raises:
        UsageError: there is none, or it is no URL of a job server.
    """
    names = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
    url = address or next((os.environ[name] for name in names if os.environ.get(name)), "")
    example = "http://127.0.0.1:8265"
    if not url:
        raise UsageError(f"submit: give the cluster's job server, e.g. --address {example}")
    if holds_credentials(url):
        # Not repeated: what stands there is a secret.
        raise UsageError(
            "--address holds a password, which would be shown; give the cluster's token in "
            "RAY_AUTH_TOKEN or ~/.ray/auth_token"
        )
    if not _is_url(url):
        raise UsageError(
            f"--address {url}: is no job server's; give the URL of the cluster's dashboard, "
            f"e.g. {example}"
        )
    return url.rstrip("/")


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        # A port that is no number is found when it is read.
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def open_client(url: str) -> Any:
    """Return a client of the job server at a URL, having spoken with it.

    Raises:
        UsageError: it does not answer within seconds, or does not let us in.
    """
    use_token()
    given = os.environ.get("RAY_API_SERVER_ADDRESS")
    # Ray's client takes the variables before its argument; the flag must win.
    os.environ["RAY_API_SERVER_ADDRESS"] = url
    try:
        return _try_to_open(url)
    finally:
        if given is None:
            del os.environ["RAY_API_SERVER_ADDRESS"]
        else:
            os.environ["RAY_API_SERVER_ADDRESS"] = given


def _try_to_open(url: str) -> Any:
    import requests
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    # Modules that set their own level when they are imported.
    for name in (
        "ray.dashboard.modules.job.sdk",
        "ray.dashboard.modules.dashboard_sdk",
        "ray._private.runtime_env.packaging",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)

    class Client(JobSubmissionClient):
        """With limits of time, which Ray's own lacks."""

        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            longer = {"PUT": UPLOAD_TIMEOUT_S, "POST": ORDER_TIMEOUT_S}
            answer_s = longer.get(method, ANSWER_TIMEOUT_S)
            options.setdefault("timeout", (CONNECT_TIMEOUT_S, answer_s))
            return super()._do_request(method, endpoint, **options)

    where = f"--address {url}"
    places = "RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"
    try:
        client = Client(url)
        # The version is told to everyone; this asks whether we are let in.
        client._do_request("GET", "/api/jobs/")
        return client
    except AuthenticationError:
        if os.environ.get("RAY_AUTH_MODE") == "token" and has_token():
            reason = f"refuses our token: the cluster's belongs in {places}"
        else:
            reason = f"asks for a token: set RAY_AUTH_MODE=token, with the cluster's in {places}"
        raise UsageError(f"{where}: the job server {reason}") from None
    except (ConnectionError, requests.exceptions.RequestException) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        reason = f"it answers with HTTP {status}" if status else "check it, and the tunnel to it"
        raise UsageError(f"{where}: no job server answers there; {reason}") from None
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = first_line(error).partition(". ")[0]
        raise UsageError(f"{where}: is no Ray job server: {reason}") from None
