"""A frozen network, its scaler and its head as one program of torch, with its ``predict.py``."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmark.errors import BenchmarkError, one_line
from benchmark.exporting import standalone
from benchmark.exporting.embedding import embedding_facts
from benchmark.exporting.heads import Frozen
from benchmark.exporting.running import PROGRAM_FILE, write_description
from benchmark.networks.embedder import Network
from benchmark.specs import Backbone

SCRIPT = "predict.py"
OWN_OPERATORS = frozenset({"aten", "prims", "prim", "higher_order"})
"""Operators that torch brings; others would need the package that registers them."""


class CannotExportError(BenchmarkError):
    """The reason why there is no program, as the second part of a sentence."""


class _Whole(torch.nn.Module):
    """A backbone and a head: prepared pixels (B, C, S, S) to probabilities (B, K)."""

    def __init__(self, backbone: torch.nn.Module, head: Frozen) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        probabilities: torch.Tensor = self.head(self.backbone(x).float())
        return probabilities


def write_program(
    folder: Path,
    network: Network,
    head: Frozen,
    x: torch.Tensor,
    *,
    backbone: Backbone,
    description: Mapping[str, Any],
) -> None:
    """Write the program, its description and the script that runs it.

    Args:
        folder: to write to.
        network: in evaluation mode.
        head: reads its embedding.
        x: the network's input for two patches or more, float32 (n, C, S, S).
        backbone: of the network.
        description: what else ``benchmark.json`` says.

    Raises:
        CannotExportError: torch cannot export the network, or it needs another package.
    """
    if backbone.processor is not None:
        raise CannotExportError(f"its {backbone.processor.name} cannot run without transformers")
    program, takes_batches = export_program(_Whole(network.backbone, head).eval(), x)
    with quiet():
        torch.export.save(program, folder / PROGRAM_FILE)
    content = {
        **description,
        "takes_batches": takes_batches,
        "torch": torch.__version__.partition("+")[0],
        **embedding_facts(backbone),
    }
    write_description(folder, content)
    shutil.copyfile(standalone.__file__, folder / SCRIPT)


def export_program(
    whole: torch.nn.Module, x: torch.Tensor
) -> tuple[torch.export.ExportedProgram, bool]:
    """Return the program, and whether it takes any number of patches or one at a time.

    Args:
        whole: in evaluation mode.
        x: its input for two patches or more.

    Raises:
        CannotExportError: torch cannot export it, or it needs operators of a package.
    """
    reason = ""
    for takes_batches in (True, False):
        # A copy: of a view, torch would look at the whole memory and guard its size.
        example = x[: 2 if takes_batches else 1].clone()
        shapes = ({0: torch.export.Dim("batch", min=1, max=2**16)},) if takes_batches else None
        try:
            with torch.no_grad(), quiet():
                program = torch.export.export(whole, (example,), dynamic_shapes=shapes)
        except Exception as error:  # torch raises many types for what it cannot export
            reason = reason or f"torch.export cannot export it ({one_line(error, limit=160)})"
            continue
        if foreign := _foreign(program):
            raise CannotExportError(f"it uses operators of another package ({', '.join(foreign)})")
        return program, takes_batches
    raise CannotExportError(reason)


class _Cut(torch.nn.Module):
    """The part of a program before its head: prepared pixels (B, C, S, S) to embeddings (B, D)."""

    def __init__(self, program: torch.nn.Module, takes_batches: bool) -> None:
        super().__init__()
        self.program = program
        self._takes_batches = takes_batches

    def train(self, mode: bool = True) -> _Cut:
        """Do nothing: a program was traced in evaluation mode, and torch refuses to change it."""
        del mode
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Views in the program were traced on images in this layout.
        x = x.contiguous()
        size = len(x) if self._takes_batches else 1
        return torch.cat([self.program(x[i : i + size]) for i in range(0, len(x), size)])


def load_program(path: str | Path) -> torch.nn.Module:
    """Return a program that ``write_program`` wrote, whose code is then trusted."""
    with quiet():
        module: torch.nn.Module = torch.export.load(path).module()
    return module


def cut_head(program: Any, *, takes_batches: bool) -> torch.nn.Module:
    """Return a program without its head: (B, C, S, S) to the embeddings (B, D) that it reads.

    Args:
        program: of a ``_Whole``, as ``load_program`` returns it.
        takes_batches: as of ``export_program``.

    Raises:
        ValueError: not one embedding enters the head.
    """
    graph = program.graph
    head = {node for node in graph.nodes if _is_of_head(node)}
    given = {
        item: None
        for node in graph.nodes
        if node in head
        for item in node.all_input_nodes
        # Weights are attributes, and numbers of patches are no tensors.
        if item not in head
        and item.op != "get_attr"
        and isinstance(item.meta.get("val"), torch.Tensor)
    }
    if len(given) != 1 or (found := next(iter(given))).meta["val"].ndim != 2:
        raise ValueError(f"{len(given)} tensors enter its head, in place of one embedding")
    (output,) = graph.find_nodes(op="output")
    output.args = ((found,),)
    graph.eliminate_dead_code()
    program.recompile()
    return _Cut(program, takes_batches)


def _is_of_head(node: torch.fx.Node) -> bool:
    """Return whether a node was traced inside ``_Whole.head``."""
    stack = node.meta.get("nn_module_stack") or {}
    return any(path in ("head", "L['self'].head") for path, _ in stack.values())


def _foreign(program: torch.export.ExportedProgram) -> list[str]:
    """Return the name spaces of operators that plain torch lacks."""
    spaces = {
        node.target.namespace
        for module in program.graph_module.modules()
        if isinstance(module, torch.fx.GraphModule)
        for node in module.graph.nodes
        if isinstance(node.target, torch._ops.OpOverload)
    }
    return sorted(spaces - OWN_OPERATORS)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings and the log of torch's exporter; errors still raise."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
