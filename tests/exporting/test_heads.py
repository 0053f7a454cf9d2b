"""Heads as torch modules and as linear layers give the probabilities of scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from benchmark.catalog.heads import HEADS
from benchmark.exporting.heads import build_head, linear_head
from tests.search.test_fitting import PARAMS, ROWS, K

LINEAR = ("logistic_regression", "ridge", "linear_svm", "lda", "majority")


def fitted(name: str, labels: Any, **changes: Any) -> Any:
    params = {**PARAMS[name], **changes}
    return HEADS.get(name).build(params, 0).fit(ROWS.x_train, labels)


@pytest.mark.parametrize("num_classes", [2, K])
@pytest.mark.parametrize("name", [name for name in PARAMS if name != "hist_gradient_boosting"])
def test_a_module_gives_the_probabilities_of_a_head(name: str, num_classes: int) -> None:
    labels = ROWS.y_train % num_classes
    model = fitted(name, labels)
    module = build_head(model, K)
    assert module is not None
    found = module(torch.from_numpy(ROWS.x_val.copy())).numpy()
    wanted = np.zeros((len(found), K))
    wanted[:, model.classes_] = model.predict_proba(ROWS.x_val)
    np.testing.assert_allclose(found, wanted, atol=2e-6)


@pytest.mark.parametrize("num_classes", [2, K])
@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_layer_gives_the_probabilities_of_a_head(name: str, num_classes: int) -> None:
    model = fitted(name, ROWS.y_train % num_classes)
    layer = linear_head(model, K, ROWS.x_val.shape[1])
    assert layer is not None
    logits = torch.from_numpy(ROWS.x_val).double() @ layer.weight.T + layer.bias
    found = logits.softmax(dim=1).numpy()[:, model.classes_]
    np.testing.assert_allclose(found, model.predict_proba(ROWS.x_val), atol=2e-6)


@pytest.mark.parametrize("name", ["ridge", "linear_svm", "lda"])
def test_rows_of_unit_length_are_no_linear_layer(name: str) -> None:
    model = fitted(name, ROWS.y_train, scaler="l2")
    assert linear_head(model, K, ROWS.x_val.shape[1]) is None
    assert build_head(model, K) is not None


def test_trees_are_no_module() -> None:
    model = fitted("hist_gradient_boosting", ROWS.y_train)
    assert build_head(model, K) is None
    assert linear_head(model, K, ROWS.x_val.shape[1]) is None
