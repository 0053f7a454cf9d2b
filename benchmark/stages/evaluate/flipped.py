"""What a reader of scores with flips at test must know."""

from __future__ import annotations

from benchmark.experiment.context import Context
from benchmark.flipping import FLIPS


def flip_notes(context: Context) -> list[str]:
    """Return what flips are in the predictions, and which backbones go without; or nothing."""
    flips = FLIPS[context.experiment.protocol.flips]
    if not flips:
        return []
    notes = []
    plain = [item.name for item in context.backbones if not context.flips_of(item)]
    if len(plain) < len(context.backbones):
        notes.append(
            "Predictions on val and test are means of class probabilities over the patch and its "
            f"flips ({', '.join(flips)}), of heads and fine-tuning alike; device-seconds include "
            "the flips. Trials and epochs were chosen on val patches without flips."
        )
    if plain:
        notes.append(
            f"{', '.join(plain)}: stored embeddings, without pixels to flip: their heads predict "
            'without flips; set flips = "none" to compare all backbones alike. Sizes of embeddings '
            "are compared without flips alone."
        )
    return notes
