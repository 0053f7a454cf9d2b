"""A whole run on scenes that a web server keeps, through a failure of it, with a secret."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import ray

import benchmark as bm
from benchmark import api
from benchmark.store.artefacts import Store
from tests.ranges import serve

SECRET = "bearer-of-the-tests-0123456789"

EXPERIMENT = """name = "small"
backbones = ["mean_color"]
heads = ["majority"]
[dataset]
name = "chesapeake"
root = "{root}"
patch_size = 32
per_region = 40
[embed]
num_actors = 1
[tune]
num_trials = 1
[evaluate]
num_resamples = 20
"""


def read_patches(store: Path) -> object:
    (folder,) = (store / "patches").iterdir()
    artefact = Store(str(store)).artefact("patches", *folder.name.rsplit("-", 1))
    return artefact.read_table().sort_by("patch_id").replace_schema_metadata(None)


@pytest.mark.slow
def test_a_run_on_a_web_server_goes_on_after_its_failure_with_the_patches_of_a_folder(
    new_store: Callable[[], Path], scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GDAL_HTTP_BEARER", SECRET)
    path, store = tmp_path / "x.toml", tmp_path / "runs"
    with serve(scenes) as server:
        server.key = f"Bearer {SECRET}"
        path.write_text(EXPERIMENT.format(root=server.url))
        experiment = bm.load(path)

        def fails_when_pixels_are_read(method: str, name: str) -> int:
            seen = [item for item in server.requests if item.path == name and item.num_bytes]
            return 503 if method == "GET" and name.endswith("_naip-new.tif") and seen else 0

        server.faults.status = fails_when_pixels_are_read
        (cell,) = api.run_stage("patches", experiment, store=str(store))[0].cells
        assert cell.status == "failed"
        assert cell.reason.startswith(f"{server.url}/")
        assert "the server fails (HTTP 503) after 4 tries; check the address" in cell.reason
        assert cell.reason.endswith("what was read is kept")
        assert len({item.path for item in server.requests if item.path.endswith("_lc.tif")}) == 12

        server.faults.status = lambda method, name: 0
        server.requests.clear()
        result = bm.run(experiment, store=str(store), progress=False)
        assert not result.failed
        assert result.report
        # The labels were read before the failure, and are not read again.
        labels = [item for item in server.requests if item.path.endswith("_lc.tif")]
        assert {item.method for item in labels} == {"HEAD"}
        assert {item.status for item in server.requests} <= {200, 206, 404}
    assert read_patches(store).equals(read_patches(new_store()))
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    written = [item for folder in (tmp_path, logs) for item in folder.rglob("*") if item.is_file()]
    assert len(written) > 20
    assert not [item for item in written if SECRET.encode() in item.read_bytes()]
