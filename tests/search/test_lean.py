"""skops is imported without torch, and still loads all heads."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
from benchmark.search.lean import torch_kept_away

with torch_kept_away():
    import skops.io
assert "torch" not in sys.modules

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

x, y = np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1])
model = make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y)
again = skops.io.loads(skops.io.dumps(model), trusted=[])
assert (again.predict_proba(x) == model.predict_proba(x)).all()

# torch can still be imported afterwards.
import torch
import sklearn.externals.array_api_compat.torch
with torch_kept_away():
    import sklearn.externals.array_api_compat.torch
"""


def test_a_head_is_saved_and_loaded_without_torch() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
