"""Classes of scikit-learn and of packages that the user names are built; nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.catalog.own.trust import foreign_types


@pytest.mark.parametrize(
    ("name", "is_trusted"),
    [
        ("sklearn.tree._tree.Tree", True),
        ("sklearn.neural_network._stochastic_optimizers.AdamOptimizer", True),
        ("sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor", True),
        # A function, a class from elsewhere, vendored code, and what does not exist.
        ("sklearn.datasets._base.load_files", False),
        ("sklearn.datasets._base.Path", False),
        ("sklearn.externals._packaging.version.Version", False),
        ("sklearn.nowhere.Tree", False),
        ("sklearn_evil.Tree", False),
        ("os.system", False),
        ("mine.heads.Forest", False),
    ],
)
def test_only_classes_of_scikit_learn_are_trusted(name: str, is_trusted: bool) -> None:
    assert foreign_types([name]) == ([] if is_trusted else [name])


def test_packages_that_are_named_are_trusted(own_folder: Path) -> None:
    names = ["mine.heads.Forest", "mine2.Forest", "os.system"]
    assert foreign_types(names, ["mine"]) == ["mine2.Forest", "os.system"]
    assert foreign_types(names, ["mine.heads:Forest", "mine2"]) == ["os.system"]
