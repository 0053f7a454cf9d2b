"""Start a backbone in an embedding actor, in the mode of its artefact."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmark.experiment.flipped import FlippedPatches
from benchmark.networks.devices import Asked, plan_device
from benchmark.networks.fitted import read_fitted
from benchmark.specs import Backbone
from benchmark.stages.embed.learning import Lesson
from benchmark.store.artefacts import Artefact

if TYPE_CHECKING:
    from benchmark.networks.embedder import Embedder, Network, Pixels

KEPT = (
    "batch_size",
    "channels_last",
    "precision",
    "num_threads",
    "is_compiled",
    "is_cast",
    "attention",
    "fast_pointwise",
    "reason",
)
"""Settings that an artefact keeps: other values would change the last bits of later parts."""

BEFORE = {"fast_pointwise": False}
"""Values of the settings that the plans of older artefacts lack."""


class Output(NamedTuple):
    """One of the embeddings that a pass gives side by side."""

    backbone: Backbone
    artefact: Artefact
    plain: Artefact | None = None
    """The embeddings of the patches as they are, if these are of a flip."""
    dim: int | None = None
    """Its number of columns; None: all."""

    @property
    def origin(self) -> Artefact:
        """The artefact with the fitted state and first plan, the same for all flips."""
        return self.plain or self.artefact


@dataclass(frozen=True, kw_only=True)
class Job(Lesson):
    """The embeddings of one backbone; ``asked.num_threads`` overrides ``num_threads``."""

    variants: tuple[Output, ...] = ()
    """Of a network that gives several embeddings in one pass, the first in ``artefact``; empty:
    it gives one."""
    asked: Asked
    num_patches: int
    """Expected number of patches per actor."""
    num_in_all: int
    """Number of patches of all actors."""
    uses_gpu: bool
    """Whether an actor has booked (a share of) a GPU; its process also sees other GPUs."""
    num_gpus: float = 1.0
    """The share of it."""
    flipped: FlippedPatches | None = None
    """The flip to embed; None: all patches as they are."""
    plain: Artefact | None = None
    """The embeddings of the patches as they are, if these are of a flip."""

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The embeddings of a pass, in the order of their columns."""
        return self.variants or (Output(self.backbone, self.artefact, self.plain),)

    @property
    def origins(self) -> tuple[str, ...]:
        """What its network gives: jobs with the same origins have the same network."""
        return tuple(output.origin.path for output in self.outputs)

    def label_of(self, output: Output) -> str:
        """Return the name of one of its embeddings, for progress."""
        flip = [self.flipped.name] if self.flipped else []
        return " / ".join((output.backbone.name, *flip))


def build(job: Job) -> Network:
    """Build the network of a job on the CPU."""
    from benchmark.networks.embedder import build_network

    state = None if job.backbone.fit is None else read_fitted(job.outputs[0].origin)
    return build_network(job.backbone, job.bands, state)


def start(
    job: Job, network: Network, pixels: Pixels, tell: Callable[[str], None]
) -> tuple[Embedder, float]:
    """Return the backbone in the mode of its artefact, and the seconds that its setup took.

    The first process of a new artefact measures the best mode and tells its first rate; all later
    processes, in this run and in the next, keep it.
    """
    from benchmark.networks.calibration import Calibration
    from benchmark.networks.embedder import Embedder
    from benchmark.networks.trials import recall

    asked = asdict(job.asked)
    plan = plan_device(
        **{**asked, "num_threads": asked["num_threads"] or job.num_threads},
        device=None if job.uses_gpu else "cpu",
    )
    embedder = Embedder(job.backbone, job.bands, plan, network=network)
    began = time.perf_counter()
    waited_s = 0.0
    is_warm = False
    begun = _begun(job)
    if begun is None:
        with recall(job.backbone, plan, job.shape) as (memory, waited_s):
            begun = _begun(job)
            if begun is None:
                calibration = Calibration(embedder, pixels, memory, tell)
                chosen = calibration.plan(
                    job.asked,
                    job.num_patches,
                    num_in_all=job.num_in_all,
                    is_network=job.backbone.is_trainable,
                )
                is_warm = True
                begun = job.artefact.begin({**chosen.to_json(), "trials": memory.to_json()})
    _begin_others(job, begun)
    if _adopt(embedder, begun) or not is_warm:
        embedder.warm_up(pixels)
    return embedder, time.perf_counter() - began - waited_s


def _begun(job: Job) -> dict[str, Any] | None:
    """Return the plan of an artefact; flips begin with that of the plain patches, if it has one."""
    begun = job.artefact.plan()
    if begun is None and job.plain is not None:
        begun = job.plain.plan()
        return None if begun is None else job.artefact.begin(begun)
    return begun


def _begin_others(job: Job, begun: dict[str, Any]) -> None:
    """Begin the other embeddings of the pass: computed together, they are resumed with one plan."""
    for output in job.outputs[1:]:
        output.artefact.begin(begun)


def _adopt(embedder: Embedder, begun: dict[str, Any]) -> bool:
    """Switch to the plan of an artefact; return whether the mode changed."""
    kept = BEFORE | {key: begun[key] for key in KEPT if key in begun}
    return embedder.adopt(replace(embedder.plan, **kept))


def go_on(job: Job, embedder: Embedder, pixels: Pixels) -> tuple[Embedder, float]:
    """Return the network of the last job for this one, and the seconds that it took."""
    began = time.perf_counter()
    begun = _begun(job) or job.artefact.begin(embedder.plan.to_json())
    _begin_others(job, begun)
    if _adopt(embedder, begun):
        embedder.warm_up(pixels)
    return embedder, time.perf_counter() - began
