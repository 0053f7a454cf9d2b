"""``prepare chesapeake`` copies the chosen scenes alone, whole, and adds them to the index."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import benchmark as bm
from benchmark.catalog.chesapeake.preparing import prepare_chesapeake
from benchmark.catalog.chesapeake.scenes import open_chesapeake
from benchmark.cli.commands import main
from benchmark.config import DatasetConfig
from benchmark.errors import BenchmarkError, UsageError
from tests.ranges import Server, serve
from tests.scenes import write_scenes

INDEX = "spatial_index.geojson"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = write_scenes(tmp_path_factory.mktemp("all"), num_scenes=4, windows=3)
    with serve(root) as found:
        yield found


def rasters(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.tif")}


def listed(root: Path) -> list[str]:
    features = json.loads((root / INDEX).read_text())["features"]
    return sorted(item["properties"]["split"] for item in features)


def test_the_command_copies_only_the_chosen_scenes(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    arguments = ["prepare", "chesapeake", "--root", str(root), "--source", server.url]
    with pytest.raises(SystemExit, match="0"):
        main([*arguments, "--regions", "de,pennsylvania", "--scenes", "2"])
    assert capsys.readouterr().out == f"{root}\n"
    found = rasters(root)
    assert len(found) == 2 * 2 * 2
    assert {name.partition("_")[0] for name in found} == {"de", "pa"}
    assert found == {name: (server.folder / name).read_bytes() for name in found}
    assert listed(root) == ["de-train"] * 2 + ["pa-train"] * 2
    tifs = [item for item in server.requests if item.path.endswith(".tif")]
    assert len(tifs) == 8
    assert server.num_bytes(".tif") == sum(map(len, found.values()))
    source = open_chesapeake(DatasetConfig(name="chesapeake", root=str(root), patch_size=32))
    assert len(source.units()) == 4
    assert sorted(path.name for path in root.iterdir() if path.is_file()) == [INDEX]


def test_more_scenes_are_added_to_those_that_are_there(server: Server, tmp_path: Path) -> None:
    root = tmp_path / "data"
    bm.prepare("chesapeake", root, regions=["de"], scenes=1, source=server.url)
    before = rasters(root)
    server.reset()
    bm.prepare("chesapeake", root, regions=["de", "md"], scenes=2, source=server.url)
    assert before.items() < rasters(root).items()
    assert listed(root) == ["de-train"] * 2 + ["md-train"] * 2
    assert len([item for item in server.requests if item.path.endswith(".tif")]) == 6
    prepare_chesapeake(root, regions=["de"], scenes=1, source=server.url)
    assert listed(root) == ["de-train"] * 2 + ["md-train"] * 2


def test_a_folder_is_a_source_and_all_scenes_may_be_copied(server: Server, tmp_path: Path) -> None:
    prepare_chesapeake(tmp_path / "data", source=str(server.folder))
    assert rasters(tmp_path / "data") == rasters(server.folder)


def test_an_interrupted_copy_goes_on(server: Server, tmp_path: Path) -> None:
    root = tmp_path / "data"
    server.faults.stop = lambda path: "close" if path.endswith("_lc.tif") else ""
    with pytest.raises(BenchmarkError, match=r"_lc\.tif\); check the address and the network"):
        prepare_chesapeake(root, regions=["de"], source=server.url)
    assert not (root / INDEX).exists()
    assert all(name.endswith("_naip-new.tif") for name in rasters(root))
    num_copied = len(rasters(root))
    assert num_copied
    server.reset()
    prepare_chesapeake(root, regions=["de"], source=server.url)
    assert len(rasters(root)) == 8
    assert len([item for item in server.requests if item.path.endswith(".tif")]) == 8 - num_copied
    assert not list(root.rglob("*.partial"))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"regions": ["dee"]}, r"regions: unknown region 'dee'\. Did you mean 'de'"),
        ({"regions": ["de"], "scenes": 0}, "scenes = 0: give a number from 1"),
        ({"source": "ftp://host/x"}, "prepare chesapeake: source: root = 'ftp://host/x': unsupp"),
        ({"source": "https://me:secret@host/x"}, "source: root must not hold a password"),
        ({"source": "nowhere"}, "root = 'nowhere': spatial_index.geojson is missing"),
        ({"regions": 7}, r"bm\.prepare: regions = 7: give a list of states"),
        ({"regions": ["de"], "seed": 1}, "seed does not apply to the data set 'chesapeake'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], reason: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=reason):
        bm.prepare("chesapeake", tmp_path / "data", **options)
    assert not (tmp_path / "data").exists()


def test_a_state_without_scenes_and_a_missing_file(server: Server, tmp_path: Path) -> None:
    server.faults.status = lambda method, path: 404 if path.endswith("_lc.tif") else 0
    with pytest.raises(BenchmarkError, match=r"_lc\.tif is missing, though the index lists it"):
        prepare_chesapeake(tmp_path / "data", regions=["de"], source=server.url)
    prepare_chesapeake(tmp_path / "part", regions=["pa"], source=str(server.folder))
    with pytest.raises(UsageError, match="the source has no scenes of delaware"):
        prepare_chesapeake(tmp_path / "data", regions=["de"], source=str(tmp_path / "part"))


def test_synthetic_scenes_are_not_copied(server: Server, tmp_path: Path) -> None:
    prepare_chesapeake(tmp_path / "part", regions=["pa"], source=str(server.folder))
    (tmp_path / "part" / "SYNTHETIC.txt").write_text("x")
    with pytest.raises(UsageError, match="holds synthetic scenes; run `benchmark prepare synthe"):
        prepare_chesapeake(tmp_path / "data", source=str(tmp_path / "part"))


def test_nothing_is_written_through_a_link(server: Server, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "data").mkdir()
    name = next(path.parent.name for path in server.folder.glob("de*/*.tif"))
    (tmp_path / "data" / name).symlink_to(tmp_path / "outside")
    with pytest.raises(UsageError, match="leads out of it through a link"):
        prepare_chesapeake(tmp_path / "data", regions=["de"], source=server.url)
    assert not list((tmp_path / "outside").iterdir())
