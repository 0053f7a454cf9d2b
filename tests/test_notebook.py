"""The notebook of docs/ runs from top to bottom, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

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
def test_the_notebook_runs(tmp_path: Path) -> None:
    # Each cell shows the value of its last line, as a notebook does.
    script = f"""
        import ast, json
        names = {{}}
        for source in json.loads({json.dumps([c["source"] for c in cells("code")])!r}):
            tree = ast.parse("".join(source))
            last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, "cell", "exec"), names)
            if last:
                value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
                html = getattr(value, "_repr_html_", lambda: "")()
                print(json.dumps([repr(value), html]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    text = "\n".join(item[0] for item in shown)
    assert "<Experiment 'first-steps': 2 backbones x 1 head x 1 seed on synthetic>" in text
    assert "<RunResult: 2 of 2 cells complete; " in text
    assert any("Balanced accuracy on test" in html for _, html in shown)
    assert any("<iframe srcdoc=" in html for _, html in shown)
    *_, (predicted, _) = shown
    assert "confidence" in predicted
