"""The contract of a backbone: pixels in, embeddings out, whatever the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmark.catalog.contracts.checks import Check, expect, pickles
from benchmark.networks.classifier import check_embeddings
from benchmark.networks.devices import plan_device
from benchmark.networks.embedder import Embedder, Preprocessing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmark.specs import Backbone

SIDE = 64
NUM_TRAIN = 24
"""Toy patches on which a backbone that learns from train is fitted."""
TOLERANCE = 1e-4
"""Relative to the largest value of an embedding."""


def toy_patches(num_bands: int, n: int = 5, side: int = SIDE) -> NDArray[np.uint8]:
    """Return smooth textures of different colours, uint8 (N, C, side, side), read-only as Ray's."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (n, num_bands, 8, 8)).astype(np.uint8)
    patches: NDArray[np.uint8] = coarse.repeat(side // 8, axis=2).repeat(side // 8, axis=3)
    patches = patches // 2 + generator.integers(0, 128, patches.shape, np.uint8)
    patches[-1] = patches[-1] // 4
    patches.flags.writeable = False
    return patches


class TrainRows:
    """Patches as a backbone is fitted on them: float32 (N, C, H, W), in uneven batches."""

    def __init__(self, pixels: NDArray[np.float32], *, batch: int = 7) -> None:
        """Hold the patches."""
        self._pixels = np.asarray(pixels, np.float32)
        self._batch = batch
        self.num_passes = 0

    @property
    def num_patches(self) -> int:
        """Number of patches."""
        return len(self._pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a patch."""
        _, c, h, w = self._pixels.shape
        return c, h, w

    def batches(self, first: int = 0) -> Iterator[NDArray[np.float32]]:
        """Yield the patches from ``first`` on."""
        self.num_passes += 1
        for start in range(first, len(self._pixels), self._batch):
            yield self._pixels[start : start + self._batch]


def fit_state(
    backbone: Backbone, bands: Sequence[str], pixels: NDArray[np.uint8]
) -> dict[str, torch.Tensor] | None:
    """Return the state of a fitted backbone, from uint8 (N, C, H, W); None for any other."""
    if backbone.fit is None:
        return None
    fed = Preprocessing(backbone, bands)(torch.from_numpy(np.array(pixels)))
    return dict(backbone.fit(TrainRows(fed.numpy())).state)


@dataclass(frozen=True)
class Case:
    """A backbone on toy patches of a data set with these bands."""

    backbone: Backbone
    bands: tuple[str, ...]

    @cached_property
    def patches(self) -> NDArray[np.uint8]:
        """Five different patches, uint8 (N, C, H, W)."""
        return toy_patches(len(self.bands), side=max(SIDE, _multiple(self.backbone.image_size)))

    @cached_property
    def state(self) -> dict[str, torch.Tensor] | None:
        """The state that it learns from train, if it learns any."""
        return fit_state(self.backbone, self.bands, toy_patches(len(self.bands), n=NUM_TRAIN))

    @cached_property
    def embedder(self) -> Embedder:
        """The backbone on one thread, in batches of four."""
        return self.build()

    @cached_property
    def embeddings(self) -> NDArray[np.float32]:
        """The embeddings of the patches, (N, D)."""
        return self.embedder(self.patches)[0]

    def build(self, batch_size: int = 4) -> Embedder:
        """Build it anew."""
        plan = plan_device(precision="float32", batch_size=batch_size, num_threads=1, device="cpu")
        return Embedder(self.backbone, self.bands, plan, self.state)


def _multiple(size: int | None) -> int:
    """Return a size that is not far above that of the input, for patches in steps of 8 px."""
    return min(256, (size or 0) // 8 * 8)


def returns_float32(case: Case) -> None:
    """The network returns float32 (B, D) for normalised float32 (B, C, H, W)."""
    fed = Preprocessing(case.backbone, case.bands)(torch.from_numpy(case.patches.copy()))
    with torch.inference_mode():
        found = case.embedder._network.backbone(fed)
    check_embeddings(found, len(fed), name=case.backbone.name)
    expect(found.dtype == torch.float32, f"it returned {found.dtype}; return torch.float32")


def is_finite_and_of_its_length(case: Case) -> None:
    """Embeddings are finite, and as long as the entry says."""
    found = case.embeddings
    expect(found.shape[0] == len(case.patches), f"{len(found)} for {len(case.patches)} patches")
    expect(bool(np.isfinite(found).all()), "some are not finite")
    dim = case.backbone.dim
    expect(dim in (None, found.shape[1]), f"the entry says dim = {dim}, but it is {found.shape[1]}")


def is_the_same_twice(case: Case) -> None:
    """The same patches have the same embeddings, bit by bit."""
    again = case.embedder(case.patches)[0]
    expect(np.array_equal(again, case.embeddings), "two passes differ: is dropout left on?")


def is_the_same_when_built_again(case: Case) -> None:
    """A network that is built again, as in another process, gives the same bits."""
    again = case.build()(case.patches)[0]
    expect(
        np.array_equal(again, case.embeddings),
        "two networks that are built alike differ: seed whatever is drawn",
    )


def does_not_depend_on_the_batch(case: Case) -> None:
    """An embedding does not depend on the other patches of its batch, nor on their order."""
    alone = case.build(batch_size=1)(case.patches)[0]
    scale = float(np.abs(alone).max())
    for other in (case.embeddings, case.embedder(case.patches[::-1])[0][::-1]):
        gap = float(np.abs(other - alone).max())
        expect(
            np.allclose(other, alone, rtol=TOLERANCE, atol=TOLERANCE * scale),
            f"an embedding changes by {gap:.2g} with its batch",
        )


def tells_patches_apart(case: Case) -> None:
    """Different patches have different embeddings."""
    found = case.embeddings
    expect(len(np.unique(found, axis=0)) == len(found), "different patches have equal embeddings")
    share = float((found.std(axis=0) > 0).mean())
    expect(share > 0.25, f"only {100 * share:.0f} % of the numbers differ between patches")


def uses_its_bands(case: Case) -> None:
    """A band that it does not name changes nothing; without names, every band counts."""
    wide = Case(case.backbone, (*case.bands, "another"))
    four = toy_patches(len(wide.bands), side=case.patches.shape[-1])
    changed = four.copy()
    changed[:, -1] = 255 - changed[:, -1]
    is_same = np.array_equal(wide.embedder(four)[0], wide.embedder(changed)[0])
    takes_all = case.backbone.bands is None
    expect(
        is_same is not takes_all, "a band has no effect" if takes_all else "a band too many counts"
    )


def pickles_for_workers(case: Case) -> None:
    """The entry reaches another process."""
    copy = pickles(case.backbone)
    expect(copy.revision() == case.backbone.revision(), "its revision differs in another process")


def counts_its_parameters(case: Case) -> None:
    """The number of parameters is that of the network for its own bands, or three."""
    network = case.backbone.build(len(case.backbone.bands or "rgb"))
    found = sum(item.numel() for item in network.parameters())
    said = case.backbone.num_parameters
    expect(found == said, f"the entry says {said:,} parameters, the network has {found:,}")


def can_be_trained(case: Case) -> None:
    """A gradient reaches its weights, if it says that it can be fine-tuned."""
    if not case.backbone.is_trainable:
        return
    network = case.backbone.build(len(case.backbone.bands or case.bands)).train()
    fed = Preprocessing(case.backbone, case.bands)(torch.from_numpy(case.patches.copy()))
    network(fed).float().pow(2).sum().backward()
    expect(
        any(item.grad is not None for item in network.parameters()),
        "no gradient reaches its weights: is forward under no_grad?",
    )


CHECKS: Sequence[Check[Case]] = (
    returns_float32,
    is_finite_and_of_its_length,
    is_the_same_twice,
    is_the_same_when_built_again,
    does_not_depend_on_the_batch,
    tells_patches_apart,
    uses_its_bands,
    counts_its_parameters,
    can_be_trained,
    pickles_for_workers,
)


@contextmanager
def kept_threads() -> Iterator[None]:
    """Restore torch's number of threads, which an embedder sets."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def case_of(backbone: Backbone) -> Case:
    """Return a backbone on patches of its own bands, or of red, green and blue."""
    return Case(backbone, backbone.bands or ("red", "green", "blue"))
