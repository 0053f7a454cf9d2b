"""``benchmark init``: an experiment that runs as it is, never over another file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark import api, config
from benchmark.cli import beginning
from benchmark.cli.commands import invoke
from tests.scenes import write_scenes

Texts = pytest.CaptureFixture[str]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten images of 24 px of each of three classes, in a folder below the current one."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for number, name in enumerate(("field", "forest", "water")):
        folder = tmp_path / "my photos" / name
        folder.mkdir(parents=True)
        for image in range(10):
            pixels = generator.integers(60 * number, 60 * number + 80, (24, 24, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{image}.png")
    return Path("my photos")


def complaint(capsys: Texts, *arguments: object) -> str:
    capsys.readouterr()
    assert invoke([str(item) for item in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


def test_what_is_written_says_what_was_found_and_loads(photos: Path, capsys: Texts) -> None:
    assert invoke(["init", str(photos)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "classes  3: field, forest, water"
    assert lines[1] == "images   30, 24 x 24 px"
    assert lines[3] == "split    random, stratified by class: 18 train, 6 val, 6 test"
    assert lines[-1] == "experiment.toml"
    experiment = api.load("experiment.toml")
    assert experiment.name == "my-photos"
    assert experiment.backbones[-2:] == ("random", "mean_color")
    assert experiment.dataset.model_dump(exclude_unset=True) == {
        "name": "folder",
        "root": "my photos",
        "patch_size": 24,
        "val_fraction": 0.2,
        "test_fraction": 0.2,
    }
    text = Path("experiment.toml").read_text()
    assert '# "hf:facebook/dinov2-small",' in text
    assert "# per_class = 500" in text
    assert invoke(["run", "experiment.toml", "--dry-run", "--json"]) == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert {cell["status"] for cell in cells} == {"missing"}


def test_the_commented_lines_are_settings_too(photos: Path) -> None:
    assert invoke(["init", str(photos)]) == 0
    text = Path("experiment.toml").read_text()
    for line in ("[finetune]", "num_epochs = 5", "per_class = 500"):
        assert f"# {line}" in text
        text = text.replace(f"# {line}", line)
    found = config.build(config.parse_toml(text, where="x"))
    assert found.finetune is not None
    assert found.dataset.per_class == 500


def test_the_facts_are_json_on_request(photos: Path, capsys: Texts) -> None:
    assert invoke(["init", str(photos), "--json", "--out", "other.toml"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["path"] == "other.toml"
    assert document["counts"] == {"train": 18, "val": 6, "test": 6}
    assert document["settings"]["patch_size"] == 24


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_nothing_is_overwritten(photos: Path, capsys: Texts, kind: str) -> None:
    out = Path("experiment.toml")
    if kind == "file":
        out.write_text("mine")
    elif kind == "folder":
        out.mkdir()
    else:
        out.symlink_to("nowhere")
    assert "experiment.toml exists and is not replaced; name another" in complaint(
        capsys, "init", photos
    )
    assert not Path("nowhere").exists()
    assert kind != "file" or out.read_text() == "mine"


def test_what_cannot_be_read_or_written_is_one_line(photos: Path, capsys: Texts) -> None:
    assert "root = 'nowhere': does not exist" in complaint(capsys, "init", "nowhere")
    Path("empty").mkdir()
    assert "holds no PNG, JPEG or TIFF images" in complaint(capsys, "init", "empty")
    Path("file").write_text("x")
    assert "is not a folder" in complaint(capsys, "init", "file")
    shutil.rmtree(photos / "field")
    shutil.rmtree(photos / "water")
    assert "there is only one class, 'forest'" in complaint(capsys, "init", photos)
    assert not Path("experiment.toml").exists()


def test_a_folder_for_the_file_must_exist(photos: Path, capsys: Texts) -> None:
    text = complaint(capsys, "init", photos, "--out", "no/where.toml")
    assert text == "benchmark: init: no/where.toml cannot be written: No such file or directory"


def test_data_without_colours_gets_backbones_for_any_bands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.catalog.test_survey import write_tiffs

    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 255, (5, 6, 16, 16)).astype(np.uint8)
    write_tiffs(Path("spectra"), pixels)
    assert invoke(["init", "spectra"]) == 0
    assert api.load("experiment.toml").backbones == beginning.ANY_BANDS
    assert "# bands = [...]" in Path("experiment.toml").read_text()
    api.check(api.load("experiment.toml"))


def test_scenes_get_an_experiment_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_scenes(tmp_path / "scenes")
    assert invoke(["init", "scenes", "--out", "scenes.toml"]) == 0
    experiment = api.load("scenes.toml")
    assert experiment.dataset.name == "chesapeake"
    assert experiment.dataset.patch_size == 32
    api.check(experiment)


def test_any_name_of_a_folder_gives_a_name_of_an_experiment(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(('a"b\\c', "Grün & 草", "...", "-x" * 60)):
        photos = photos.rename(tmp_path / name)
        assert invoke(["init", str(photos), "--out", f"{number}.toml"]) == 0
        assert api.load(f"{number}.toml").dataset.root == str(photos)


@pytest.mark.slow
def test_what_is_written_runs(photos: Path, capsys: Texts, ray_session: None) -> None:
    assert invoke(["init", str(photos)]) == 0
    less = ["--set", 'backbones=["mean_color"]', "--set", 'heads=["knn"]']
    assert invoke(["run", "experiment.toml", "--json", *less]) == 0
    document = json.loads(capsys.readouterr().out.partition("experiment.toml\n")[2])
    assert [cell["status"] for cell in document["cells"]] == ["complete"]
    assert Path(document["report"]).is_file()
