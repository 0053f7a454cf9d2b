"""Names of the methods that train a backbone."""

from __future__ import annotations

import pytest

from benchmark.finetune_settings import FinetuneConfig
from benchmark.methods import finetunings, is_finetuned, with_mode


@pytest.mark.parametrize(
    ("method", "expected", "words"),
    [
        ("finetune", True, "net"),
        ("finetune-lora", True, "net (lora)"),
        ("finetune-linear_then_full", True, "net (linear_then_full)"),
        ("knn", False, "net"),
        # A head of one's own.
        ("finetune-heads.py:Probe", False, "net"),
        (None, False, "net"),
    ],
)
def test_a_name_tells_whether_the_backbone_is_trained_and_how(
    method: str | None, expected: bool, words: str
) -> None:
    assert is_finetuned(method) == expected
    assert with_mode("net", method) == words


def test_each_method_has_its_one_mode_in_the_order_of_the_file() -> None:
    assert finetunings(None) == {}
    (one,) = finetunings(FinetuneConfig()).items()
    assert (one[0], one[1].mode) == ("finetune", "full")
    assert finetunings(FinetuneConfig(mode="lora"))["finetune"].mode == "lora"
    several = finetunings(FinetuneConfig(modes=("lora", "full"), num_epochs=3))
    assert [(name, item.mode) for name, item in several.items()] == [
        ("finetune-lora", "lora"),
        ("finetune-full", "full"),
    ]
    assert {(item.modes, item.num_epochs) for item in several.values()} == {(None, 3)}
