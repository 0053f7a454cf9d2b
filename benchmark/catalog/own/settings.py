"""Settings that a user passes to own code, checked against the signature of its function."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from benchmark.catalog.own.adapters import parameters_of
from benchmark.errors import UsageError, did_you_mean
from benchmark.fields import shown

KEYWORDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def check_settings(
    function: Any,
    settings: Mapping[str, Any],
    *,
    num_fixed: int,
    given: Collection[str] = (),
    where: str,
) -> None:
    """Check that a function can be called with these settings.

    Args:
        function: of the user.
        settings: keyword arguments.
        num_fixed: positional arguments that this package passes first.
        given: names of further keyword arguments that this package passes.
        where: start of each message, with the name of the function.

    Raises:
        UsageError: a setting is unknown or missing, or the function takes no fixed argument.
    """
    parameters = parameters_of(function)
    if parameters is None:
        return
    kinds = [item.kind for item in parameters.values()]
    positional = [name for name, item in parameters.items() if item.kind in POSITIONAL]
    if len(positional) < num_fixed and inspect.Parameter.VAR_POSITIONAL not in kinds:
        raise UsageError(
            f"{where}: takes {len(positional)} positional arguments, but is called with {num_fixed}"
        )
    fixed = positional[:num_fixed]
    known = [
        name for name, item in parameters.items() if item.kind in KEYWORDS and name not in fixed
    ]
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        for key in settings:
            if key not in known:
                none = "" if known else " It takes no settings."
                raise UsageError(
                    f"{where}: unknown setting {shown(key, 100)}."
                    f"{did_you_mean(key, known) if known else none}"
                )
    for name in known:
        item = parameters[name]
        if item.default is item.empty and name not in settings and name not in given:
            raise UsageError(
                f"{where}: the setting '{name}' is missing; add settings = {{ {name} = ... }}"
            )


def identify_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings for a fingerprint, with the digests of the files that they name."""
    from benchmark.store.digest import digest_file

    found: dict[str, Any] = {"settings": dict(settings)} if settings else {}
    files = {
        key: digest_file(Path(value))
        for key, value in settings.items()
        if isinstance(value, str) and 0 < len(value) < 4096 and Path(value).is_file()
    }
    return {**found, "files": files} if files else found
