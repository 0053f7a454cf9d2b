"""Textures are scikit-image's, and components are scikit-learn's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage.feature import graycomatrix, graycoprops, hog, local_binary_pattern
from sklearn.decomposition import PCA

from benchmark.catalog.backbones import BACKBONES
from benchmark.catalog.contracts.backbones import TrainRows
from benchmark.catalog.handcrafted import FitPca
from benchmark.errors import CellError
from benchmark.networks import principal
from benchmark.networks.embedder import Network
from benchmark.networks.fitted import read_facts, read_fitted, write_fitted
from benchmark.networks.handcrafted import Projected, depict_projected
from benchmark.networks.principal import fit_components, is_exact_better
from benchmark.store.artefacts import Artefact, Store
from benchmark.store.names import FITTED

RGB = ("red", "green", "blue")
BANDS = (*RGB, "nir")
WAYS = pytest.mark.parametrize("is_exact", [True, False], ids=["exact", "iteration"])


def textured(n: int = 4, num_bands: int = 4, side: int = 128) -> np.ndarray:
    rng = np.random.default_rng(0)
    waves = np.sin(np.arange(side) / rng.uniform(2, 9, (n, num_bands, 1)))
    pictures = 100 + 60 * waves[:, :, None] * waves[:, :, :, None]
    return np.clip(pictures + rng.normal(0, 20, pictures.shape), 0, 255).astype(np.uint8)


def embedded(name: str, pixels: np.ndarray, bands: tuple[str, ...] = BANDS) -> np.ndarray:
    with torch.inference_mode():
        return Network(BACKBONES.get(name), bands).eval()(torch.from_numpy(pixels)).numpy()


def test_hog_is_that_of_scikit_image() -> None:
    pixels = textured()
    for count in (3, 4):
        # Of the mean of three whole numbers the last bit would decide between two bins.
        grey = pixels[:, :count].sum(axis=1, dtype=float) / 1024
        expected = [hog(picture, 8, (16, 16), (2, 2)) for picture in grey]
        found = embedded("hog", pixels[:, :count], BANDS[:count])
        assert found.shape == (4, 1568)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_lbp_glcm_is_that_of_scikit_image() -> None:
    pixels = textured()
    angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
    for picture, features in zip(pixels, embedded("lbp_glcm", pixels), strict=True):
        # The mean of four whole numbers, halves rounded up.
        grey = ((picture.sum(axis=0, dtype=int) + 2) // 4).astype(np.uint8)
        shares = [
            np.histogram(local_binary_pattern(grey, p, r, "uniform"), p + 2, (0, p + 2))[0]
            / grey.size
            for p, r in ((8, 1), (16, 2))
        ]
        matrix = graycomatrix(grey // 8, [1, 2, 4], angles, 32, symmetric=True, normed=True)
        names = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation")
        expected = np.concatenate([*shares, *(graycoprops(matrix, x).ravel() for x in names)])
        assert features.shape == (88,)
        np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["hog", "lbp_glcm"])
def test_textures_of_a_plain_picture_are_finite_and_stay_on_the_layout(name: str) -> None:
    plain = np.full((1, 4, 32, 32), 120, np.uint8)
    assert np.isfinite(embedded(name, plain)).all()
    module = BACKBONES.get(name).build(4)
    x = torch.from_numpy(textured()).float() / 255
    turned = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(module(x), module(turned))


def decaying(n: int = 120, shape: tuple[int, int, int] = (3, 12, 12), seed: int = 0) -> np.ndarray:
    """Rows whose variance falls fast from direction to direction, around 0.5."""
    rng = np.random.default_rng(seed)
    d = int(np.prod(shape))
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    rows = rng.normal(size=(n, d)) * 0.8 ** np.arange(d) @ turn
    return (0.5 + 0.1 * rows).astype(np.float32).reshape(n, *shape)


def reference(rows: np.ndarray) -> PCA:
    return PCA(svd_solver="full").fit(rows.reshape(len(rows), -1).astype(np.float64))


@WAYS
@pytest.mark.parametrize("block_rows", [1000, 50, 13])
def test_components_are_those_of_scikit_learn(
    is_exact: bool, block_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = decaying()
    expected = reference(rows)
    monkeypatch.setattr(principal, "BLOCK_BYTES", block_rows * 4 * rows[0].size)
    monkeypatch.setattr(principal, "CHUNK_BYTES", 10_000)
    found = fit_components(TrainRows(rows), num_components=20, is_exact=is_exact)
    cosines = (found.axes.numpy() * expected.components_[:20]).sum(axis=1)
    np.testing.assert_allclose(np.abs(cosines), 1, atol=1e-4)
    np.testing.assert_allclose(found.variance, expected.explained_variance_[:20], rtol=1e-4)
    assert found.explained == pytest.approx(expected.explained_variance_ratio_[:20].sum())
    np.testing.assert_allclose(found.axes @ found.axes.T, np.eye(20), atol=1e-5)
    np.testing.assert_allclose(found.mean, expected.mean_, atol=1e-6)
    largest = found.axes.abs().argmax(dim=1).numpy()
    assert (found.axes.numpy()[np.arange(20), largest] > 0).all()


@WAYS
def test_the_fit_gives_the_same_bits_twice(is_exact: bool) -> None:
    one, other = (
        fit_components(TrainRows(decaying()), num_components=9, is_exact=is_exact) for _ in range(2)
    )
    assert torch.equal(one.axes, other.axes)
    assert torch.equal(one.variance, other.variance)


@WAYS
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_it_stops_at_the_kept_variance(is_exact: bool, share: float) -> None:
    rows = decaying()
    ratios = reference(rows).explained_variance_ratio_.cumsum()
    expected = int((ratios < share).sum()) + 1
    found = fit_components(
        TrainRows(rows), num_components=60, kept_variance=share, is_exact=is_exact
    )
    assert len(found.axes) == len(found.variance) == expected
    assert found.explained >= share > ratios[expected - 2]
    few = fit_components(TrainRows(rows), num_components=2, kept_variance=0.99, is_exact=is_exact)
    assert len(few.axes) == 2


@WAYS
def test_there_are_no_more_components_than_the_patches_have(is_exact: bool) -> None:
    few = fit_components(TrainRows(decaying(5)), num_components=50, is_exact=is_exact)
    assert len(few.axes) == 4
    assert few.explained == pytest.approx(1, abs=1e-5)
    # Three different pictures among forty span two directions.
    same = fit_components(TrainRows(decaying(3)[np.arange(40) % 3]), num_components=9)
    assert len(same.axes) == 2


@pytest.mark.parametrize("rows", [decaying(1), np.full((4, 1, 3, 3), 0.5, np.float32)])
def test_too_few_or_equal_patches_are_refused(rows: np.ndarray) -> None:
    with pytest.raises(CellError, match=r"principal components need (two )?patches"):
        fit_components(TrainRows(rows), num_components=2)


def test_a_flat_spectrum_loses_little_by_iteration() -> None:
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(400, 600)) * np.arange(1, 601) ** -0.5).astype(np.float32)
    rows = rows.reshape(400, 6, 10, 10)
    exact, iterated = (
        fit_components(TrainRows(rows), num_components=40, is_exact=way) for way in (True, False)
    )
    assert exact.explained * 0.99 < iterated.explained <= exact.explained + 1e-9


def test_the_way_depends_on_the_numbers_of_patches_and_components() -> None:
    assert is_exact_better(5_000, 512) and not is_exact_better(6_000, 512)
    assert is_exact_better(11_135, 3000) and not is_exact_better(12_001, 3000)


def projected(rows: np.ndarray, **options: Any) -> Projected:
    module = Projected()
    module.load_state_dict(FitPca(**options)(TrainRows(rows)).state, assign=True)
    return module


def test_embeddings_are_scores_and_more_components_reconstruct_better() -> None:
    rows = decaying()
    flat = rows.reshape(len(rows), -1)
    model = reference(rows)
    errors = []
    for count in (1, 5, 20):
        module = projected(rows, num_components=count)
        scores = module(torch.from_numpy(rows)).numpy()
        expected = model.transform(flat)[:, :count]
        np.testing.assert_allclose(np.abs(scores), np.abs(expected), atol=1e-4)
        again = depict_projected(module, rows).pictures
        kept = model.components_[:count]
        exact = np.clip((flat - model.mean_) @ kept.T @ kept + model.mean_, 0, 1)
        np.testing.assert_allclose(again.reshape(flat.shape), exact, atol=1e-4)
        errors.append(float(((again - rows) ** 2).mean()))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_scores_are_float32_in_a_run_of_bfloat16() -> None:
    rows = decaying()
    module, x = projected(rows, num_components=5), torch.from_numpy(rows)
    expected = module(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(module(x), expected)


def test_a_backbone_that_is_not_fitted_says_so() -> None:
    with pytest.raises(CellError, match="backbone 'pca' is not fitted on train yet"):
        Network(BACKBONES.get("pca"), RGB)
    with pytest.raises(CellError, match="are not fitted on train yet"):
        BACKBONES.get("pca").build(3)(torch.zeros(1, 3, 4, 4))


def test_the_state_goes_through_a_file_of_the_artefact(tmp_path: Path) -> None:
    artefact = Artefact(store=Store(str(tmp_path)), stage="embed", name="x", fingerprint="1")
    fitted = FitPca(num_components=3)(TrainRows(decaying()))
    write_fitted(artefact, fitted)
    state = read_fitted(artefact)
    assert state.keys() == {"mean", "axes"}
    assert all(torch.equal(state[name], fitted.state[name]) for name in state)
    assert read_facts(artefact) == fitted.facts
    assert fitted.facts["num_components"] == 3 and fitted.facts["num_patches"] == 120
    assert 0 < fitted.facts["explained_variance"] < 1
    artefact.write_bytes(FITTED, b"torn")
    for read in (read_fitted, read_facts):
        with pytest.raises(CellError, match=r"fitted.safetensors is damaged .* delete"):
            read(artefact)
    artefact.delete(FITTED)
    for read in (read_fitted, read_facts):
        with pytest.raises(CellError, match=r"fitted.safetensors is missing: run again"):
            read(artefact)
