"""The data and the table of ``perf.study``; its run is a measurement."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from ray._private.thirdparty import pynvml

from perf.study import (
    CLASSES,
    TOTALS,
    Recorder,
    Sample,
    Span,
    count_patches,
    gpu_reader,
    incidents,
    list_pictures,
    name_running,
    table,
    waits,
    write_pictures,
)

SPANS = [
    Span("embed", "", began=110.0, first=115.0, ended=120.0, busy=0.5, items="90 patches"),
    Span("embed", "beit", began=111.0, ended=119.0),
    Span("tune", "", began=116.0, ended=124.0),
]


def test_counts_are_those_of_the_article() -> None:
    counts = count_patches(15_809)
    assert {split: sum(numbers) for split, numbers in counts.items()} == {
        "train": 11_135,
        "val": 2_088,
        "test": 2_586,
    }
    assert tuple(map(sum, zip(*counts.values(), strict=True))) == TOTALS


def test_a_smaller_set_has_every_class_in_every_split_and_no_scene_in_two() -> None:
    pictures = list_pictures(300)
    assert 300 <= len(pictures) <= 330
    assert len({item.path for item in pictures}) == len(pictures)
    cells = Counter((item.split, item.label) for item in pictures)
    assert len(cells) == 3 * len(CLASSES) and min(cells.values()) >= 2
    splits_of = {item.scene: set[str]() for item in pictures}
    for item in pictures:
        splits_of[item.scene].add(item.split)
    assert {len(found) for found in splits_of.values()} == {1}


def test_files_are_written_with_their_splits(tmp_path: Path) -> None:
    counts = write_pictures(tmp_path, 1)
    files = sorted(tmp_path.glob("*/*.png"))
    assert len(files) == counts.total() == 30
    header, *rows = (tmp_path / "splits.csv").read_text().splitlines()
    assert header == "path,split,scene,region"
    assert {row.split(",")[0] for row in rows} == {f"{f.parent.name}/{f.name}" for f in files}
    with Image.open(files[0]) as image:
        assert (image.size, image.mode) == ((128, 128), "RGB")
    assert len({file.read_bytes() for file in files}) == 30


def test_a_recorder_keeps_begin_first_item_and_end() -> None:
    recorder = Recorder()
    stage = recorder.stage("embed", num_cells=1, num_items=None, unit="patches")
    stage.start("beit")
    stage.advance(0)
    assert recorder.spans[0].first is None
    stage.advance(4)
    first = recorder.spans[0].first
    stage.advance(4)
    stage.done("beit")
    stage.close()
    whole, cell = recorder.spans
    assert (whole.cell, cell.cell) == ("", "beit")
    assert whole.first == first is not None
    assert whole.began <= cell.began <= first <= (cell.ended or 0) <= (whole.ended or 0)


def test_the_table_has_seconds_and_shares_of_each_span() -> None:
    shares = [0.25] * 14 + [0.75] * 16
    samples = [Sample(101.0 + i, share, 1 - share) for i, share in enumerate(shares)]
    lines = [" ".join(line.split()) for line in table(SPANS, samples, 100.0, 130.0)]
    assert lines[1:] == [
        "embed 10.0 15.0 20.0 10.0 50 55 45 90 patches",
        "beit 11.0 - 19.0 8.0 - 56 44",
        "tune 16.0 - 24.0 8.0 - 75 25",
        "the whole command 0.0 - 30.0 30.0 - 52 48",
    ]


def test_waits_are_of_the_gpu_where_there_is_one_and_name_what_ran() -> None:
    shares = [0.0, 0.0, 0.0, 0.9, 0.0, 0.9, 0.0, 0.0]
    gpus = [Sample(110.0 + 2 * i, 1.0, share) for i, share in enumerate(shares)]
    assert list(waits(gpus)) == [(110.0, 114.0), (116.0, 118.0), (120.0, 124.0)]
    assert list(waits([Sample(item.at, 1.0, None) for item in gpus])) == []
    assert name_running(SPANS, 110.0, 114.0) == "embed without an item yet"
    assert name_running(SPANS, 116.0, 118.0) == "embed, tune without an item yet"
    assert name_running(SPANS, 125.0, 126.0) == "no stage"


def test_gpus_are_read_as_a_mean_share(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = [pynvml.c_nvmlUtilization_t(gpu=gpu) for gpu in (30, 90)]
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 2)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: index)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", lambda index: rates[index])
    read = gpu_reader()
    assert read is not None and read() == pytest.approx(0.6)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 0)
    assert gpu_reader() is None


def test_repairs_are_summed_over_manifests(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "_manifest.json").write_text(
            '{"incidents": [{"kind": "trial_repeated", "count": 2, "detail": ""}]}'
        )
    assert incidents(tmp_path) == {"trial_repeated": 4}
