"""Statistics of 8-bit values equal those of numpy on the values themselves."""

from __future__ import annotations

import hypothesis
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmark.statistics.pixels import PERCENTILES, count_values, summarise


def test_values_are_counted_by_band() -> None:
    images = np.zeros((3, 2, 4, 4), np.uint8)
    images[:, 1] = 255
    images[0, 0, 0, 0] = 7
    counts = count_values(images)
    assert counts.shape == (2, 256)
    assert (counts[0, 0], counts[0, 7], counts[1, 255]) == (47, 1, 48)
    assert counts.sum() == images.size


@hypothesis.given(arrays(np.uint8, st.integers(1, 200)))
def test_a_summary_is_that_of_numpy(values: np.ndarray) -> None:
    found = summarise(np.bincount(values, minlength=256))
    assert np.isclose(found["mean"], values.mean())
    assert np.isclose(found["std"], values.std())
    assert (found["min"], found["max"]) == (values.min(), values.max())
    for percent in PERCENTILES:
        assert found[f"p{percent}"] == np.percentile(values, percent, method="inverted_cdf")
    assert found["share_0"] == (values == 0).mean()
    assert found["share_255"] == (values == 255).mean()
