"""What data name, they name within their own folder: indices, archives, links and manifests."""

from __future__ import annotations

import hashlib
import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import benchmark as bm
from benchmark.catalog.chesapeake.preparing import prepare_chesapeake
from benchmark.catalog.chesapeake.scenes import open_chesapeake
from benchmark.catalog.folder.source import open_folder
from benchmark.catalog.huggingface.files import Checkpoint
from benchmark.config import DatasetConfig
from benchmark.errors import BenchmarkError, CellError, UsageError
from benchmark.store.artefacts import Store
from tests.scenes import write_scenes


def config(name: str, root: Path) -> DatasetConfig:
    content = {"name": name, "root": str(root), "patch_size": 32}
    return DatasetConfig.model_validate(content)


# --- links ---


def test_a_scene_that_is_a_link_out_of_the_root_is_refused(tmp_path: Path) -> None:
    root = write_scenes(tmp_path / "scenes", num_scenes=1, windows=2)
    assert open_chesapeake(config("chesapeake", root)).scenes
    # A root that is a link itself is what its user named.
    (tmp_path / "link").symlink_to(root, target_is_directory=True)
    assert open_chesapeake(config("chesapeake", tmp_path / "link")).scenes
    scene = next(root.rglob("*_naip-new.tif"))
    scene.rename(tmp_path / "hidden.tif")
    scene.symlink_to(tmp_path / "hidden.tif")
    with pytest.raises(UsageError, match=r"feature \d+: '.*_naip-new\.tif' is outside "):
        open_chesapeake(config("chesapeake", root))


def test_a_folder_of_scenes_that_is_a_link_out_of_the_root_is_refused(tmp_path: Path) -> None:
    root = write_scenes(tmp_path / "scenes", num_scenes=1, windows=2)
    folder = next(root.rglob("*_naip-new.tif")).parent
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(UsageError, match="is outside"):
        open_chesapeake(config("chesapeake", root))


def test_links_of_a_folder_are_named_where_they_lead_out(tmp_path: Path) -> None:
    root, outside = tmp_path / "images", tmp_path / "outside"
    for place in (root / "a", root / "b", outside):
        place.mkdir(parents=True)
        for number in range(3):
            colour = (10 * number, len(place.name), 9)
            Image.new("RGB", (32, 32), colour).save(place / f"{number}.png")
    (root / "a" / "secret.png").symlink_to(outside / "0.png")
    (root / "c").symlink_to(outside, target_is_directory=True)
    (root / "b" / "twin.png").symlink_to(root / "b" / "0.png")
    source = open_folder(config("folder", root))
    # A linked folder makes no class; a linked file is the user's own choice, which is told.
    assert source.classes == ("a", "b")
    assert any("outside the folder: 1, e.g. 'a/secret.png'" in note for note in source.notes)
    # No text of a file that is no image comes out, under whatever name.
    (outside / "text").write_text("the-content-of-another-file")
    (root / "a" / "words.png").symlink_to(outside / "text")
    source = open_folder(config("folder", root))
    problems = [
        item
        for unit in source.units()
        for item in source.read(source.find(unit).candidates).problems
    ]
    assert [Path(item.path).name for item in problems] == ["words.png"]
    assert "the-content" not in str(problems) + str(source.notes)


# --- archives ---


def write_hostile_zip(path: Path, outside: Path) -> None:
    """Write an archive whose members try every way out of the folder that it is unpacked into."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("../out", "a/../../out", str(outside / "absolute"), "..\\out", "inside.txt"):
            archive.writestr(name, b"x")
        link = zipfile.ZipInfo("link")
        link.create_system = 3
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, str(outside))
        archive.writestr("link/through", b"x")


def test_an_archive_that_is_not_the_published_one_is_not_unpacked(tmp_path: Path) -> None:
    from torchgeo.datasets import ChesapeakeCVPR

    root = tmp_path / "root"
    root.mkdir()
    for name in ChesapeakeCVPR.filenames.values():
        write_hostile_zip(root / name, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BenchmarkError, match=r"\.zip is not the published archive; delete it"):
        prepare_chesapeake(root)
    assert sorted(tmp_path.rglob("*")) == before


def test_no_member_of_an_archive_leaves_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should the publisher's own archive turn hostile: its digest is then right."""
    from torchgeo.datasets import ChesapeakeCVPR

    root = tmp_path / "root"
    root.mkdir()
    digests = {}
    for kind, name in ChesapeakeCVPR.filenames.items():
        write_hostile_zip(root / name, tmp_path / "outside")
        digests[kind] = hashlib.md5((root / name).read_bytes()).hexdigest()
    monkeypatch.setattr(ChesapeakeCVPR, "md5s", digests)
    (tmp_path / "outside").mkdir()
    # It holds no scenes, or cannot be unpacked: either ends in one line.
    with pytest.raises(BenchmarkError, match="chesapeake: the download into"):
        prepare_chesapeake(root)
    assert (root / "inside.txt").exists()
    assert [path for path in tmp_path.iterdir() if path.name not in ("root", "outside")] == []
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_saved_head_with_members_that_lead_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "head").mkdir()
    write_hostile_zip(tmp_path / "head" / "head.skops", tmp_path)
    with pytest.raises(UsageError, match=r"head\.skops: not a saved head"):
        bm.load_head(tmp_path / "head")
    assert [path.name for path in tmp_path.iterdir()] == ["head"]


# --- checkpoints of transformers ---

ESCAPES = ["../weights.safetensors", "/etc/weights.safetensors", "a/b.safetensors", "x.bin", 3]


@pytest.mark.parametrize("shard", ESCAPES)
def test_a_shard_lies_beside_its_index(tmp_path: Path, shard: object) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for place in (tmp_path, folder):
        (place / "weights.safetensors").write_bytes(b"")
    index = {"weight_map": {"tensor": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    checkpoint = Checkpoint(name="hf:model", where="x.toml", path=str(folder))
    with pytest.raises(UsageError, match="which is not a shard beside it"):
        checkpoint.weights()


@pytest.mark.parametrize("module", ["/etc/module.Class", "a/module.Class", "../module.Class"])
def test_code_that_is_trusted_lies_beside_its_configuration(tmp_path: Path, module: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": module}}))
    checkpoint = Checkpoint(name="hf:x", where="x.toml", path=str(tmp_path), trusts_code=True)
    with pytest.raises(UsageError, match="which is not a module"):
        checkpoint.code()


# --- the store ---


@pytest.mark.parametrize(
    "use",
    [
        lambda store, name: store.read(name),
        lambda store, name: store.write(name, b"x"),
        lambda store, name: store.delete(name),
        lambda store, name: store.sizes(name),
        lambda store, name: store.has(name),
        lambda store, name: store.artefact("patches", "x", "f").read_table(names=[name]),
        lambda store, name: store.artefact("patches", "x", "f").read_schema(name),
        lambda store, name: store.artefact("patches", "x", "f").read_bytes(name),
    ],
)
@pytest.mark.parametrize("name", ["../secret", "a/../../secret", "../../../secret"])
def test_no_file_outside_a_store_is_touched(
    tmp_path: Path, use: Callable[[Store, str], object], name: str
) -> None:
    """The names of parts stand in manifests, which whoever writes into a store may change."""
    (tmp_path / "secret").write_bytes(b"kept")
    store = Store(str(tmp_path / "runs"))
    with pytest.raises(CellError, match="leads out of the store"):
        use(store, name)
    assert (tmp_path / "secret").read_bytes() == b"kept"
