"""Schemas of the tables that compare methods and regions."""

from __future__ import annotations

import pyarrow as pa

from benchmark.statistics.flips import NO_DIFFERENCE, TOO_LITTLE
from benchmark.tables import column

RANKING = pa.schema(
    [
        column("metric", pa.string(), "name of the metric of all values here"),
        column("split", pa.string(), "split that was scored: test"),
        column("train_set", pa.string(), "rows that the method was trained on, e.g. `all`"),
        column("backbone", pa.string(), "name of the backbone"),
        column("method", pa.string(), "name of the head, `finetune` or `finetune-MODE`"),
        column("value", pa.float64(), "the score, mean over seeds", nullable=True),
        column("ci_low", pa.float64(), "lower end of its interval on other scenes", nullable=True),
        column("ci_high", pa.float64(), "upper end of its interval on other scenes", nullable=True),
        column(
            "seed_std", pa.float64(), "standard deviation over seeds; null: one seed", nullable=True
        ),
        column("num_seeds", pa.int64(), "seeds that are complete"),
        column(
            "expected_low",
            pa.float64(),
            "lower end of the interval over seeds and scenes; null: one seed",
            nullable=True,
        ),
        column(
            "expected_high",
            pa.float64(),
            "upper end of the interval over seeds and scenes; null: one seed",
            nullable=True,
        ),
        column("is_floor", pa.bool_(), "whether any useful method should be better"),
        column("seed_values", pa.list_(pa.float64()), "the score of each seed"),
        column("rank", pa.int64(), "from 1, by value, within the train set"),
        column(
            "difference",
            pa.float64(),
            "value of the train set's leader minus that of the row",
            nullable=True,
        ),
        column(
            "difference_low", pa.float64(), "lower end of the flip test's interval", nullable=True
        ),
        column(
            "difference_high", pa.float64(), "upper end of the flip test's interval", nullable=True
        ),
        column(
            "p_value",
            pa.float64(),
            "of the flip test, corrected over the train set; null: leader",
            nullable=True,
        ),
        column("is_tie", pa.bool_(), "whether no difference from the leader was detected"),
        column(
            "verdict",
            pa.string(),
            f"`leader`, `behind`, `{NO_DIFFERENCE}` or `{TOO_LITTLE}`",
        ),
    ]
)
"""One row per train set, backbone and method: the fullest train set first, in it the best."""

COMPARISON = pa.schema(
    [
        column("train_set", pa.string(), "rows that both sides were trained on, e.g. `all`"),
        column("backbone", pa.string(), "backbone with fine-tuned and frozen predictions"),
        column("method", pa.string(), "of the fine-tuned side: `finetune` or `finetune-MODE`"),
        column("head", pa.string(), "of the frozen side: the best on val"),
        column("head_val_score", pa.float64(), "its balanced accuracy on val, mean over seeds"),
        column("frozen_value", pa.float64(), "balanced accuracy on test, mean over seeds"),
        column("finetuned_value", pa.float64(), "balanced accuracy on test, mean over seeds"),
        column("gain", pa.float64(), "fine-tuned minus frozen"),
        column("gain_low", pa.float64(), "lower end of the flip test's interval"),
        column("gain_high", pa.float64(), "upper end of the flip test's interval"),
        column("is_detectable", pa.bool_(), "whether the test rejects that there is no difference"),
        column(
            "verdict",
            pa.string(),
            f"`gains`, `loses`, `{NO_DIFFERENCE}` or `{TOO_LITTLE}`",
        ),
        column("p_value", pa.float64(), "of the test, corrected over the train set", nullable=True),
        column("frozen_seeds", pa.int32(), "seeds of the frozen side"),
        column("finetuned_seeds", pa.int32(), "seeds of the fine-tuned side"),
        column(
            "frozen_seconds",
            pa.float64(),
            "device-seconds of one seed, embeddings included; null: unknown",
            nullable=True,
        ),
        column(
            "finetuned_seconds",
            pa.float64(),
            "device-seconds of one seed; null: unknown",
            nullable=True,
        ),
        column("ratio", pa.float64(), "fine-tuned over frozen seconds, or null", nullable=True),
        column("frozen_device", pa.string(), "device of the embeddings", nullable=True),
        column("finetuned_device", pa.string(), "device of the fine-tuning", nullable=True),
        column("sentence", pa.string(), "the row as a sentence"),
    ]
)
"""One row per train set, backbone and fine-tuning with frozen predictions beside it, on test."""

TRANSFER = pa.schema(
    [
        column("train_set", pa.string(), "regions that the method was trained in"),
        column("region", pa.string(), "region of the test patches"),
        column("is_within", pa.bool_(), "whether the region is among those trained in"),
        column("backbone", pa.string(), "name of the backbone"),
        column("method", pa.string(), "name of the head, `finetune` or `finetune-MODE`"),
        column("value", pa.float64(), "balanced accuracy in the region, mean over seeds"),
        column("ci_low", pa.float64(), "lower end of its interval", nullable=True),
        column("ci_high", pa.float64(), "upper end of its interval", nullable=True),
        column("num_seeds", pa.int64(), "seeds that are complete"),
        column("num_patches", pa.int64(), "test patches of the region"),
        column(
            "drop",
            pa.float64(),
            "value of the method trained within the region, minus this one; null: trained within",
            nullable=True,
        ),
        column("drop_low", pa.float64(), "lower end of the flip test's interval", nullable=True),
        column("drop_high", pa.float64(), "upper end of the flip test's interval", nullable=True),
        column(
            "p_value", pa.float64(), "of the flip test, corrected over the region", nullable=True
        ),
        column(
            "verdict",
            pa.string(),
            f"`drops`, `rises`, `{NO_DIFFERENCE}` or `{TOO_LITTLE}`",
            nullable=True,
        ),
    ]
)
"""One row per region of test, train set, backbone and method."""

DROPS = pa.schema(
    [
        column("backbone", pa.string(), "name of the backbone"),
        column("method", pa.string(), "name of the head, `finetune` or `finetune-MODE`"),
        column("is_floor", pa.bool_(), "whether any useful method should be better"),
        column("within", pa.float64(), "mean over regions of the score trained within"),
        column("elsewhere", pa.float64(), "mean over regions of the score trained elsewhere"),
        column("drop", pa.float64(), "within minus elsewhere, on the same patches"),
        column("drop_low", pa.float64(), "lower end of the flip test's interval"),
        column("drop_high", pa.float64(), "upper end of the flip test's interval"),
        column("p_value", pa.float64(), "of the flip test, corrected over the table"),
        column("verdict", pa.string(), f"`drops`, `rises`, `{NO_DIFFERENCE}` or `{TOO_LITTLE}`"),
        column(
            "rank",
            pa.int64(),
            "from 1, by drop, among fine-tuning and the head of each backbone that is best on val",
            nullable=True,
        ),
        column(
            "difference", pa.float64(), "drop minus that of the first; null: no rank", nullable=True
        ),
        column(
            "difference_low", pa.float64(), "lower end of the flip test's interval", nullable=True
        ),
        column(
            "difference_high", pa.float64(), "upper end of the flip test's interval", nullable=True
        ),
        column(
            "standing",
            pa.string(),
            f"`drops least`, `drops more`, `{NO_DIFFERENCE}` or `{TOO_LITTLE}`",
            nullable=True,
        ),
    ]
)
"""One row per backbone and method, ranked ones first."""

PROPERTIES = pa.schema(
    [
        column("backbone", pa.string(), "name of the backbone"),
        column(
            "property",
            pa.string(),
            "`dimension`, `effective_rank`, `dimension_twonn`, `dimension_mle`, "
            "`duplicate_share`, `norm_mean`, `norm_spread`, `neighbour_precision`, or the last "
            "with `/class` (LAYERS.md)",
        ),
        column("value", pa.float64(), "null: not computable from so few patches", nullable=True),
        column("num_patches", pa.int64(), "patches that it was computed from"),
        column("artefact", pa.string(), "folder of the embeddings, relative to the store"),
        column("version", pa.int64(), "of the code that computed it"),
    ]
)
"""One row per backbone with embeddings and property."""
