"""Which scenes a command names, and where their maps go."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.errors import UsageError
from benchmark.mapping.finding import find_work


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with three scenes and other files."""
    for name in ("a.tif", "b.TIFF", "sub/a.tif", "notes.txt"):
        path = tmp_path / "scenes" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(given: list[str], out: str = "maps", *, overwrite: bool = False) -> dict[str, str]:
    return dict(find_work(given, out, overwrite=overwrite))


def test_one_raster_gives_one_file(folder: Path) -> None:
    assert found(["scenes/a.tif"], "deep/map.tif") == {"scenes/a.tif": "deep/map.tif"}
    # A mistyped name is a scene, too: opening it says what is wrong.
    assert found(["scenes/x.jp2"], "map.tif") == {"scenes/x.jp2": "map.tif"}


ALL = {
    "scenes/a.tif": "maps/a.tif",
    "scenes/b.TIFF": "maps/b.tif",
    "scenes/sub/a.tif": "maps/sub/a.tif",
}


@pytest.mark.parametrize(
    "given",
    [["scenes"], ["scenes/**/*.[tT]*[fF]"], ["scenes/a.tif", "scenes/b.TIFF", "scenes/sub/a.tif"]],
)
def test_folders_globs_and_lists_give_a_folder_of_maps(folder: Path, given: list[str]) -> None:
    assert found(given) == ALL


def test_an_index_lists_scenes_relative_to_itself(folder: Path) -> None:
    index = folder / "scenes/index.csv"
    index.write_text(f"path;season\nsub/a.tif;spring\n{folder}/scenes/b.TIFF;autumn\n")
    assert found(["scenes/index.csv"]) == {
        "scenes/sub/a.tif": "maps/sub/a.tif",
        f"{folder}/scenes/b.TIFF": "maps/b.tif",
    }
    index.write_text("path\n\n")
    with pytest.raises(UsageError, match="lists no scenes; write one row per scene"):
        found(["scenes/index.csv"])
    index.write_text("file\na.tif\n")
    with pytest.raises(UsageError, match="path"):
        found(["scenes/index.csv"])


def test_maps_inside_the_folder_of_scenes_are_no_scenes(folder: Path) -> None:
    (folder / "scenes/maps").mkdir()
    (folder / "scenes/maps/old.tif").touch()
    assert len(found(["scenes"], "scenes/maps")) == 3


def test_a_single_scene_of_a_folder_still_goes_into_a_folder(folder: Path) -> None:
    assert found(["."])["scenes/sub/a.tif"] == "maps/scenes/sub/a.tif"
    assert found(["scenes/sub"]) == {"scenes/sub/a.tif": "maps/a.tif"}


@pytest.mark.parametrize(
    ("given", "out", "message"),
    [
        (["scenes/a.tif"], "map.png", "a map is a GeoTIFF"),
        (["scenes/a.tif"], "scenes", "is a folder; for one scene"),
        (["scenes"], "map.tif", "there are 3 scenes, whose maps go into a folder"),
        (["scenes"], "scenes", r"the map .*a\.tif would replace a scene"),
        (["scenes/a.tif"], "scenes/a.tif", "would replace a scene"),
        (["nothing*.tif"], "maps", "no file matches"),
        (["."], "scenes/maps/../..", "replace a scene"),
        (["s3://bucket/a.tif"], "map.tif", "is no local path"),
        ([""], "map.tif", "is empty"),
    ],
)
def test_what_cannot_be_is_refused(folder: Path, given: list[str], out: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        found(given, out)


def test_two_scenes_cannot_share_a_map(folder: Path) -> None:
    (folder / "scenes/a.tiff").touch()
    with pytest.raises(UsageError, match="would both be"):
        found(["scenes"])


@pytest.mark.parametrize("name", ["map.tif", "map.confidence.tif"])
def test_a_map_that_exists_is_replaced_only_if_asked(folder: Path, name: str) -> None:
    (folder / name).touch()
    with pytest.raises(UsageError, match=r"exist already; add --overwrite"):
        found(["scenes/a.tif"], "map.tif")
    assert found(["scenes/a.tif"], "map.tif", overwrite=True)
