"""Training of one backbone: its steps on one device, alone or as one of several workers.

Does not use Ray. Every random number of a step comes from the seed, the epoch and the step, so
that an interrupted training resumes without a difference.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from benchmark.errors import CellError
from benchmark.finetune_settings import FinetuneConfig
from benchmark.networks.classifier import build_classifier
from benchmark.networks.embedder import Preprocessing
from benchmark.networks.freed import keep_freed_memory
from benchmark.networks.pointwise import choose_pointwise
from benchmark.training.adaptation import Parts, drop_unreached, select_parts, train_mode
from benchmark.training.augmentation import Draws, draw, shift_colors, turn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmark.specs import Backbone
    from benchmark.training.feeds import Batch, Samples

logger = logging.getLogger("benchmark")

CHECK_EVERY = 20
"""Steps between two checks that the loss is finite: each check waits for the device."""
EVAL_FACTOR = 2
"""Size of a forward pass without gradients, in micro-batches."""
CPU_MICRO_BATCH = 8
"""Patches whose activations about fit a core's cache: measured in docs/PERFORMANCE.md."""
GPU_MICRO_BATCH = 128
LINEAR_SHARE = 0.3
"""Share of the epochs of ``linear_then_full`` in which the classification layer trains alone."""


class Ranks(NamedTuple):
    """Rank of this worker, number of workers, and device of this worker."""

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum over all workers."""
        if self.world > 1:
            torch.distributed.all_reduce(values)
        return values


ALONE = Ranks()


class Validation(NamedTuple):
    """Balanced accuracy and mean cross-entropy on val."""

    score: float
    loss: float

    @property
    def order(self) -> tuple[float, float]:
        """Sort key, larger is better: the score, and between equals the loss."""
        return self.score, -self.loss


class MemoryShort(CellError):
    """One of several workers ran out of memory: all must restart with smaller micro-batches."""

    def __init__(self, message: str, micro_batch: int) -> None:
        super().__init__(message)
        self.micro_batch = micro_batch


def seed_of(*parts: int | str) -> int:
    """Return a seed in 0...2**62 from parts, e.g. the seed, the epoch and the step."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 2


def choose_precision(asked: str, device: torch.device) -> str:
    """Return ``float32`` or ``bfloat16``: ``auto`` takes bfloat16 where a GPU has it."""
    if asked != "auto":
        return asked
    has_it = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if has_it else "float32"


class Training:
    """A classifier with its optimiser and schedule."""

    def __init__(
        self,
        backbone: Backbone,
        bands: Sequence[str],
        class_counts: Sequence[int],
        config: FinetuneConfig,
        *,
        seed: int,
        num_steps: int,
        ranks: Ranks = ALONE,
        micro_batch: int | None = None,
    ) -> None:
        """Build the model with its weights and select the parameters to train.

        Args:
            backbone: to fine-tune.
            bands: of the data set.
            class_counts: patches of each class (K,) in train.
            config: the recipe, with the trial's parameters applied.
            seed: of the new layer, the order, augmentation and dropout.
            num_steps: of an epoch.
            ranks: the workers.
            micro_batch: patches passed forward at once; None chooses.

        Raises:
            UsageError: the mode does not suit the architecture.
        """
        self.config = config
        self.ranks = ranks
        self.notes: list[str] = []
        self._seed = seed
        self._num_steps = num_steps
        self._name = backbone.name
        device = ranks.device
        self.precision = choose_precision(config.precision, device)
        self._dtype = torch.bfloat16 if self.precision == "bfloat16" else None
        default = GPU_MICRO_BATCH if device.type == "cuda" else CPU_MICRO_BATCH
        share = -(-config.batch_size // ranks.world)
        self.micro_batch = min(share, micro_batch or default)
        self.preprocess = Preprocessing(backbone, bands).to(device)
        torch.manual_seed(seed_of(seed, "layer"))
        model = build_classifier(backbone, self.preprocess.num_bands, len(class_counts))
        self.parts = select_parts(model, config, name=backbone.name)
        self.model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if device.type == "cpu":
            choose_pointwise(self.model, is_fast=True)
            keep_freed_memory()
        self._weights = _class_weights(class_counts, config).to(device)
        self._wrapped: torch.nn.Module = self.model
        self.parts = self._drop_unreached(len(bands), backbone.image_size or 64)
        self.optimizer = _build_optimizer(self.parts, config, device)
        self._is_linear: bool | None = None

    def _drop_unreached(self, num_bands: int, side: int) -> Parts:
        pixels = torch.zeros(
            (2, num_bands, side, side), dtype=torch.uint8, device=self.ranks.device
        )
        self.model.eval()
        self._forward(pixels, None).sum().backward()  # type: ignore[no-untyped-call]
        kept = drop_unreached(self.parts)
        self.model.zero_grad(set_to_none=True)
        return kept

    @property
    def linear_epochs(self) -> int:
        """Epochs in which the classification layer trains alone; never all of them."""
        if self.config.mode != "linear_then_full":
            return 0
        last = self.config.num_epochs - 1
        return min(last, max(1, round(LINEAR_SHARE * self.config.num_epochs)))

    def rate(self, epoch: int, step: int) -> float:
        """Return the factor of the learning rates: linear warm-up, then half a cosine to zero.

        Loshchilov and Hutter 2017, "SGDR". The epochs of the layer alone keep the full rate.
        """
        linear = self.linear_epochs
        if epoch < linear:
            return 1.0
        done = (epoch - linear) * self._num_steps + step
        total = max(1, (self.config.num_epochs - linear) * self._num_steps)
        warmup = self.config.warmup * total
        if done < warmup:
            return (done + 1) / (warmup + 1)
        return 0.5 * (1.0 + math.cos(math.pi * (done - warmup) / max(1.0, total - warmup)))

    def begin_epoch(self, epoch: int) -> None:
        """Set the model to training mode, and unfreeze the parameters that the epoch trains."""
        is_linear = epoch < self.linear_epochs
        if is_linear != self._is_linear:
            self._is_linear = is_linear
            for _, parameter in self.parts.body:
                parameter.requires_grad_(not is_linear)
            if self.ranks.world > 1:
                on_gpu = self.ranks.device.type == "cuda"
                self._wrapped = DistributedDataParallel(
                    self.model,
                    device_ids=[self.ranks.device.index] if on_gpu else None,
                    broadcast_buffers=False,
                    gradient_as_bucket_view=True,
                )
        train_mode(self.model)

    def step(self, batch: Batch, epoch: int, step: int) -> torch.Tensor:
        """Do one step on this worker's share of a batch; return its sum of losses, a scalar.

        Raises:
            CellError: the loss is not finite.
        """
        factor = self.rate(epoch, step)
        for group in self.optimizer.param_groups:
            group["lr"] = factor * group["peak"]
        while True:
            torch.manual_seed(seed_of(self._seed, epoch, step, self.ranks.rank))
            try:
                loss = self._accumulate(batch, seed_of(self._seed, epoch, step, "draws"))
                break
            except (MemoryError, RuntimeError) as error:
                self._halve(error)
        trained = [parameter for group in self.parts for _, parameter in group]
        torch.nn.utils.clip_grad_norm_(trained, self.config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if step % CHECK_EVERY == 0 or step + 1 == self._num_steps:
            self._check_finite(loss, epoch, step)
        return loss

    def validate(self, reader: Iterable[Samples], num_classes: int) -> Validation:
        """Return balanced accuracy and loss on a split, from sums over all workers' rows."""
        device = self.ranks.device
        # One reduction sums counts and loss; float64 counts exactly up to 2**53.
        sums = torch.zeros(num_classes**2 + 1, dtype=torch.float64, device=device)
        for samples in reader:
            labels = samples.labels.to(device)
            probabilities = self.predict(samples.pixels)
            cells = labels * num_classes + probabilities.argmax(dim=1)
            sums[:-1] += torch.bincount(cells, minlength=num_classes**2)
            sums[-1] += F.nll_loss(probabilities.clamp_min(1e-12).log(), labels, reduction="sum")
        sums = self.ranks.sum(sums).cpu()
        counts = sums[:-1].reshape(num_classes, num_classes)
        true = counts.sum(dim=1)
        recalls = counts.diagonal()[true > 0] / true[true > 0]
        return Validation(float(recalls.mean()), float(sums[-1] / true.sum()))

    def predict(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return probabilities (N, K), float32 on the device, of patches uint8 (N, C, H, W)."""
        self.model.eval()
        self._wrapped, wrapped = self.model, self._wrapped
        size = EVAL_FACTOR * self.micro_batch
        with torch.inference_mode():
            found = [
                self._forward(self._to_device(pixels[at : at + size]), None).softmax(dim=1)
                for at in range(0, len(pixels), size)
            ]
        self._wrapped = wrapped
        return torch.cat(found)

    def _forward(self, pixels: torch.Tensor, draws: Draws | None) -> torch.Tensor:
        jitter: Callable[[torch.Tensor], torch.Tensor] | None = None
        if draws is not None:
            pixels = turn(pixels, draws)
            if "color" in self.config.augmentation:
                jitter = partial(shift_colors, draws=draws)
        x = self.preprocess(pixels, jitter).contiguous(memory_format=torch.channels_last)
        with torch.autocast(
            self.ranks.device.type, dtype=self._dtype, enabled=self._dtype is not None
        ):
            logits: torch.Tensor = self._wrapped(x)
        return logits.float()

    def _accumulate(self, batch: Batch, seed: int) -> torch.Tensor:
        """Sum the gradients of a batch over micro-batches, and over workers in the last one."""
        draws = None
        if self.config.augmentation != "none":
            # A streamed batch has at least one patch per worker, even if batch_size is smaller.
            count = max(self.config.batch_size, batch.num_global)
            drawn = draw(count, self.preprocess.num_bands, seed)
            draws = drawn.take(batch.positions, self.ranks.device)
        pixels, labels = self._to_device(batch.pixels), self._to_device(batch.labels)
        total = torch.zeros((), device=self.ranks.device)
        # A worker with an empty share passes one blank patch of weight zero: the others wait for
        # its gradients.
        num_mine = max(1, len(labels))
        scale = self.ranks.world / batch.num_global
        for begin in range(0, num_mine, self.micro_batch):
            rows = slice(begin, begin + self.micro_batch)
            is_last = begin + self.micro_batch >= num_mine
            wait: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
            if isinstance(self._wrapped, DistributedDataParallel) and not is_last:
                wait = self._wrapped.no_sync()
            with wait:
                if len(labels):
                    part = None if draws is None else draws.take(rows, pixels.device)
                    loss = self._loss(self._forward(pixels[rows], part), labels[rows])
                else:
                    loss = 0.0 * self._forward(pixels.new_zeros((1, *pixels.shape[1:])), None).sum()
                (scale * loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        losses = F.cross_entropy(
            logits, labels, reduction="none", label_smoothing=self.config.label_smoothing
        )
        return (losses * self._weights[labels]).sum()

    def _to_device(self, values: torch.Tensor) -> torch.Tensor:
        device = self.ranks.device
        if device.type == "cuda" and values.device.type == "cpu":
            return values.pin_memory().to(device, non_blocking=True)
        return values.to(device)

    def _halve(self, error: BaseException) -> None:
        """Halve the micro-batch if memory ran out; raise any other error."""
        is_memory = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
            text in str(error) for text in ("out of memory", "can't allocate memory")
        )
        if not is_memory:
            raise error
        if self.micro_batch == 1:
            raise CellError(
                f"backbone '{self._name}': out of memory with one patch at a time; use a smaller "
                'backbone, [finetune] mode = "last_blocks", or a larger device'
            ) from None
        smaller = -(-self.micro_batch // 2)
        note = f"{self._name}: out of memory: the micro-batch was halved to {smaller}"
        if self.ranks.world > 1:
            # The other workers wait for gradients that this step will not send.
            raise MemoryShort(note, smaller) from None
        self.optimizer.zero_grad(set_to_none=True)
        if self.ranks.device.type == "cuda":
            torch.cuda.empty_cache()
        self.micro_batch = smaller
        self.notes.append(note)
        logger.warning("%s", note)

    def _check_finite(self, loss: torch.Tensor, epoch: int, step: int) -> None:
        value = float(self.ranks.sum(loss.clone()))
        if not math.isfinite(value):
            raise CellError(
                f"backbone '{self._name}': the loss became {value} in epoch {epoch + 1}, step "
                f"{step + 1} of {self._num_steps} (learning_rate {self.config.learning_rate:g}); "
                "set a smaller [finetune] learning_rate or backbone_ratio"
            )


def _class_weights(class_counts: Sequence[int], config: FinetuneConfig) -> torch.Tensor:
    """Return a weight for each class (K,): inverse to its count, with a mean of 1 over train."""
    counts = torch.tensor(class_counts, dtype=torch.float32)
    if config.class_weight == "none":
        return torch.ones_like(counts)
    present = counts > 0
    weights = torch.zeros_like(counts)
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights


def _build_optimizer(
    parts: Parts, config: FinetuneConfig, device: torch.device
) -> torch.optim.Optimizer:
    """Build AdamW (Loshchilov and Hutter 2019); biases and norms are not decayed."""
    groups = []
    for named, peak in (
        (parts.head, config.learning_rate),
        (parts.body, config.learning_rate * config.backbone_ratio),
    ):
        for is_matrix in (True, False):
            group = [item for _, item in named if (item.ndim > 1) is is_matrix]
            if group:
                decay = config.weight_decay if is_matrix else 0.0
                groups.append({"params": group, "peak": peak, "weight_decay": decay})
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=device.type == "cuda")
