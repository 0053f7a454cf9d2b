"""Which cells of the simulation hold, and which cannot."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from perf.claims import HIGH, LOW, Cell, leaves_no_choice, print_coverage, print_size
from perf.coverage import USUAL, Case, Wanted


@pytest.mark.parametrize("recall", [0.5, 0.8, 0.9, 0.95, 0.99, 1.0])
@pytest.mark.parametrize("num", [1, 3, 10, 15, 56])
def test_all_pairs_of_tails_are_looked_through(num: int, recall: float) -> None:
    chances = stats.binom.pmf(np.arange(num + 1), num, recall)
    covers = [chances[i:j].sum() for i in range(num + 2) for j in range(i, num + 2)]
    expected = not any(LOW <= share <= HIGH for share in covers)
    assert leaves_no_choice(chances) is expected


def test_designs_that_leave_no_choice() -> None:
    assert Case((3,), 0, 0.0, 0.95).leaves_no_choice("accuracy")
    assert Case((3,) * 20, 0, 0.0, 0.95).leaves_no_choice("recall")
    assert not Case((3,) * 20, 0, 0.0, 0.95).leaves_no_choice("balanced_accuracy")
    assert Case((2000,) * 5, 0, 0.0, 1.0).leaves_no_choice("macro_f1")
    assert not Case((2000,) * 5, 0, 0.0, 0.99).leaves_no_choice("accuracy")
    assert not Case(USUAL, 3, 0.0, 0.97).leaves_no_choice("recall")


def test_a_cell_is_below_for_sure_or_perhaps(capsys: pytest.CaptureFixture[str]) -> None:
    perhaps, sure = Cell("one", 0.92, 400, LOW), Cell("two", 0.85, 400, LOW)
    assert print_coverage({"recall": [perhaps, Cell("three", 1.0, 400, LOW, True)]})
    assert "| recall | 2 | 1 (0) | 0 | 1 (1) | 1 | 0.920 (one) | 0.920 (one) |" in (
        capsys.readouterr().out
    )
    assert not print_coverage({"recall": [perhaps, sure]})
    assert print_coverage({"recall": [sure._replace(limit=0.85)]})
    assert print_size("verdicts", [Cell("one", 0.07, 400, 0.06)])
    assert not print_size("verdicts", [Cell("one", 0.12, 400, 0.06)])


def test_the_command_line_chooses_designs() -> None:
    wanted = Wanted(["--only", "scenes=3", "--only", "scenes=6", "--only", "table=equal"])
    assert wanted.holds(Case(USUAL, 6, 0.2, 0.85)) and not wanted.holds(Case(USUAL, 10, 0.2, 0.85))
    assert wanted.table("equal") and not wanted.table("intervals")
    assert Wanted(["--repeats", "7"]).repeats_of_tables == 7
    for wrong in (["--only", "scenes"], ["--only", "foo=1"], ["--repeats", "0"]):
        with pytest.raises(SystemExit, match="2"):
            Wanted(wrong)
