"""The stages in the order in which they run; ``load`` imports a stage's module when needed."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from benchmark.registry import Registry

if TYPE_CHECKING:
    from benchmark.stages.base import Stage


@dataclass(frozen=True)
class StageEntry:
    """A stage's name, one line of help, and its class."""

    name: str
    help: str
    class_name: str

    def load(self) -> Stage:
        """Import the stage's module and return the stage."""
        module = import_module(f"benchmark.stages.{self.name}")
        stage: Stage = getattr(module, self.class_name)()
        return stage


STAGES: Registry[StageEntry] = Registry(
    "stage",
    [
        StageEntry("patches", "Sample labelled patches from the source.", "PatchesStage"),
        StageEntry("embed", "Embed the patches with every backbone.", "EmbedStage"),
        StageEntry("tune", "Tune heads on the embeddings.", "TuneStage"),
        StageEntry("finetune", "Fine-tune the backbones end to end.", "FinetuneStage"),
        StageEntry("evaluate", "Score the predictions, with intervals.", "EvaluateStage"),
        StageEntry("report", "Write the page that ranks the methods.", "ReportStage"),
    ],
)
