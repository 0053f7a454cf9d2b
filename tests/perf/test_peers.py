"""The photographs and the printed ratios of ``perf.peers``; the rest is measuring."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perf.peers import choose_copies, list_photographs, print_ratios, write_copies


@pytest.fixture
def photographs(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    for name, count in (("a", 1), ("b", 3)):
        folder = tmp_path / "photographs" / name
        folder.mkdir(parents=True)
        for number in range(count):
            image = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
            image.save(folder / f"{number}.png")
        (folder / "notes.txt").touch()
    return list_photographs(tmp_path / "photographs")


def test_photographs_take_turns_by_class(photographs: list[Path]) -> None:
    names = [f"{path.parent.name}/{path.name}" for path in photographs]
    assert names == ["a/0.png", "b/0.png", "b/1.png", "b/2.png"]


def test_copies_are_turned_and_mirrored_in_eight_ways(
    photographs: list[Path], tmp_path: Path
) -> None:
    write_copies(photographs, 32, tmp_path / "copies")
    found = sorted((tmp_path / "copies").glob("*/*"))
    assert len(found) == 32
    assert len({np.asarray(Image.open(path)).tobytes() for path in found}) == 32
    assert (tmp_path / "copies/a/0.png").read_bytes() == photographs[0].read_bytes()


def test_more_copies_than_differ_are_refused(photographs: list[Path]) -> None:
    with pytest.raises(SystemExit, match="4 photographs give 1 to 32 copies"):
        list(choose_copies(photographs, 33))


def test_ratios_are_taken_within_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"loop": 10.0, "ours": 5.0}, {"loop": 40.0, "ours": 40.0}, {"loop": 10.0, "ours": 8.0}]
    print_ratios(rows, "ours", "s")
    assert capsys.readouterr().out.splitlines() == [
        "loop: median 10.0 s",
        "ours: median 8.0 s",
        "ours / loop: median 0.80 (min 0.50, max 1.00)",
    ]
