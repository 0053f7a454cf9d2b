"""What the commands and Python share about finished runs: compare them, collect and query them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmark import api
from benchmark.arguments import path_text
from benchmark.config import Experiment
from benchmark.interactive import store_of

if TYPE_CHECKING:
    import os

    from benchmark.comparing.paired import RunComparison
    from benchmark.comparing.runs import FinishedRun


def compare(
    a: str | os.PathLike[str] | Experiment, b: str | os.PathLike[str] | Experiment
) -> RunComparison:
    """Compare two runs on the test patches that both have: differences are B minus A.

    Args:
        a: an experiment, its file (``*.toml``), a store with the scores of one experiment, or a
            folder of scores (``STORE/evaluate/NAME-FINGERPRINT``).
        b: the same of the other run.

    Returns: the differences, which a notebook shows as a table; ``content`` holds them as JSON.

    Raises:
        UsageError: there are no complete scores, the runs share no test patch, or the labels of
            shared patches differ.
        CellError: a file of a store is missing, damaged, or of another version.
    """
    from benchmark.comparing.paired import compare_runs

    return compare_runs(open_run("compare: a", a), open_run("compare: b", b))


def open_run(where: str, given: str | os.PathLike[str] | Experiment) -> FinishedRun:
    """Return the complete scores of an experiment, an experiment file, or a store.

    Args:
        where: the function and the argument.
        given: as ``compare`` takes it.

    Raises:
        UsageError: there are none.
        CellError: the store cannot be read, or the scores are of a newer version.
    """
    from benchmark.comparing.runs import find_run, run_of

    store = None
    if isinstance(given, Experiment):
        experiment, store = given, store_of(where.partition(":")[0], given, None)
    else:
        text = path_text(where, given, "give an experiment, its file, or a store")
        if not text.endswith(".toml"):
            return find_run(text)
        experiment = api.load(text)
    with api.open_readable(experiment, store=store) as context:
        return run_of(context)
