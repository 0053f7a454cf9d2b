"""The table ``[finetune]``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from benchmark.fields import (
    BackboneNames,
    Count,
    CountOrZero,
    Fraction,
    Norm,
    Seconds,
    Share,
    ShareOrZero,
    refuse_duplicates,
)
from benchmark.methods import Mode
from benchmark.section import Section


class FinetuneConfig(Section):
    """``[finetune]``: end-to-end training of backbones; without the table none is trained."""

    backbones: BackboneNames | None = None
    """Backbones of the experiment to train; unset: all trainable ones outside the floor."""
    num_trials: Count = 1
    """Trials of Optuna; the first uses the settings below unchanged."""
    num_epochs: Count = 5
    """Largest number of epochs; a searched trial may have fewer."""
    mode: Mode | None = None
    """What is trained: all weights; the classification layer first, then all; the last
    ``num_blocks`` blocks; or low-rank adapters of the linear layers (LoRA). A backbone that it does
    not suit is left out, with the reason. Unset: ``full``, or ``modes``."""
    modes: Annotated[tuple[Mode, ...], Field(min_length=1, max_length=4)] | None = None
    """Modes to compare in place of one ``mode``: each is a method of its own, ``finetune-MODE``,
    with the settings below; unset: the method ``finetune``."""
    num_blocks: Count = 1
    """Blocks trained in mode ``last_blocks``."""
    lora_rank: Count = 8
    """Rank of the adapters in mode ``lora``."""
    batch_size: Count = 32
    """Patches per step, over all workers; at most those of train."""
    learning_rate: Fraction = 1e-3
    """Peak learning rate of the classification layer."""
    backbone_ratio: Share = 0.1
    """Learning rate of the backbone divided by that of the classification layer."""
    weight_decay: ShareOrZero = 0.01
    """Weight decay of AdamW."""
    warmup: ShareOrZero = 0.1
    """Share of the steps during which the learning rate rises."""
    label_smoothing: ShareOrZero = 0.1
    """Share of the target that is spread over all classes."""
    class_weight: Literal["none", "balanced"] = "balanced"
    """Weights of the loss; ``balanced`` is inverse to the class counts of train."""
    augmentation: Literal["none", "flips", "flips+color"] = "flips+color"
    """Random changes of train patches: flips and quarter turns, and small ones of contrast and
    colour."""
    clip_norm: Norm = 1.0
    """Largest norm of the gradient of a step."""
    patience: Count = 5
    """Epochs without a better val score after which training stops."""
    pruning: bool = True
    """Stop trials early unless they are in the best third of those that got as far."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """``auto``: bfloat16 on GPUs that support it, float32 elsewhere."""
    ingest: Literal["auto", "memory", "stream"] = "auto"
    """``memory``: load train once; ``stream``: Ray Data reads it in every epoch."""
    num_workers: Count | Literal["auto"] = "auto"
    """Processes that train one network together."""
    micro_batch: Count | Literal["auto"] = "auto"
    """Patches per forward pass of one worker; gradients are summed over a step."""
    max_failures: CountOrZero = 3
    """Number of restarts after a worker is killed."""
    checkpoint_every_s: Seconds = 120.0
    """Interval of checkpoints, which are also written after every epoch."""

    _modes_differ = field_validator("modes")(refuse_duplicates)
