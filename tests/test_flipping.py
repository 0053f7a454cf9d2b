"""Flips and means of probabilities, computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmark.flipping import AXES, FLIPS, flip_images, mean_scores, predict_flipped

PATCH = np.array([[[[1, 2], [3, 4]]]], np.uint8)


@pytest.mark.parametrize(
    ("flip", "expected"),
    [
        ("left-right", [[2, 1], [4, 3]]),
        ("up-down", [[3, 4], [1, 2]]),
        ("both", [[4, 3], [2, 1]]),
    ],
)
def test_a_flip_reverses_its_axes(flip: str, expected: list[list[int]]) -> None:
    found = flip_images(PATCH, flip)
    assert found.tolist() == [[expected]]
    assert found.flags.c_contiguous and found.dtype == np.uint8
    np.testing.assert_array_equal(flip_images(found, flip), PATCH)


def test_the_settings_name_flips() -> None:
    assert {"none": (), "horizontal": ("left-right",), "all": tuple(AXES)} == FLIPS


def test_the_mean_is_that_of_the_probabilities() -> None:
    versions = [np.array([[0.9, 0.1]], np.float32), np.array([[0.2, 0.8]], np.float32)]
    found = mean_scores(versions)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[0.55, 0.45]], atol=1e-7)


def test_equal_versions_have_exactly_their_own_mean() -> None:
    scores = np.random.default_rng(0).dirichlet(np.ones(7), 1000).astype(np.float32)
    for count in (1, 2, 4):
        np.testing.assert_array_equal(mean_scores([scores] * count), scores)


def test_each_flip_is_predicted_once() -> None:
    seen: list[list[list[int]]] = []

    def predict(pixels: np.ndarray) -> np.ndarray:
        seen.append(pixels[0, 0].tolist())
        share = pixels[:, 0, 0, 0].astype(np.float32) / 10
        return np.stack([share, 1 - share], axis=1)

    found = predict_flipped(predict, PATCH, FLIPS["all"])
    assert seen == [[[1, 2], [3, 4]], [[2, 1], [4, 3]], [[3, 4], [1, 2]], [[4, 3], [2, 1]]]
    np.testing.assert_allclose(found, [[0.25, 0.75]], atol=1e-7)
    seen.clear()
    np.testing.assert_allclose(predict_flipped(predict, PATCH, ()), [[0.1, 0.9]], atol=1e-7)
    assert len(seen) == 1
