"""The notebook of docs/ runs from top to bottom, in a kernel of Jupyter."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs/first_steps.ipynb"


def cells(kind: str) -> list[dict]:
    content = json.loads(NOTEBOOK.read_text())
    return [cell for cell in content["cells"] if cell["cell_type"] == kind]


def test_the_notebook_is_stored_without_outputs() -> None:
    content = json.loads(NOTEBOOK.read_text())
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    assert all(cell["outputs"] == [] for cell in cells("code"))
    assert all(cell["execution_count"] is None for cell in cells("code"))


@pytest.mark.slow
def test_the_notebook_runs_in_a_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for kind in ("CONFIG", "DATA", "RUNTIME"):
        monkeypatch.setenv(f"JUPYTER_{kind}_DIR", str(tmp_path / kind))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    startup = tmp_path / "ipython/profile_default/startup"
    startup.mkdir(parents=True)
    startup.joinpath("forks.py").write_text("from tests.forked_workers import install; install()\n")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert [output.text for output in outputs if output.output_type == "stream"] == []
    shown = [output.data for output in outputs if output.output_type == "display_data"]
    # The bars: one display, replaced until all stages are complete.
    (bars,) = [data for data in shown if "embed" in data["text/plain"]]
    assert all(stage in bars["text/html"] for stage in ("patches", "embed", "tune", "<pre"))
    results = [output.data for output in outputs if output.output_type == "execute_result"]
    text = "\n".join(data["text/plain"] for data in results)
    assert "<Experiment 'first-steps': 2 backbones x 1 head x 1 seed on synthetic>" in text
    assert "<RunResult: 2 of 2 cells complete; " in text
    pages = [data.get("text/html", "") for data in results]
    assert any("Balanced accuracy on test" in page for page in pages)
    (report,) = [page for page in pages if "The page, " in page]
    assert "Balanced accuracy on test" in report
    assert 'href="first_steps/runs/report/' in report
    assert "confidence" in results[-1]["text/plain"]
