"""Scenes and their strips through a pool of Ray actors, in order, with a bound on restarts."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmark.errors import BenchmarkError, UsageError, one_line
from benchmark.mapping.finding import Work
from benchmark.mapping.strips import Strip

if TYPE_CHECKING:
    import pyarrow as pa

    from benchmark.cluster.pools import Pool

RESTARTS: dict[str, Any] = {"max_restarts": 3, "max_task_retries": 3}
"""By default, Ray retries what kills its process for ever."""
DIED = "its process died repeatedly (out of memory?)"


class Piece(NamedTuple):
    """What an actor does at once: a strip of a scene, or the whole scene and its output."""

    work: Work
    strip: Strip | None

    def to_json(self) -> str:
        """Return the piece as text."""
        return json.dumps([*self.work, self.strip])

    @classmethod
    def from_json(cls, text: str) -> Piece:
        """Return the piece of a text."""
        scene, out, strip = json.loads(text)
        return cls(Work(scene, out), None if strip is None else Strip(*strip))


class Stream:
    """The rows that the actors return; it ends early where Ray gives up, and says why."""

    def __init__(
        self,
        actor: Callable[..., Any],
        plan: Any,
        pieces: Sequence[Piece],
        pool: Pool,
        *,
        keeps_order: bool,
    ) -> None:
        """Prepare; iterating starts the actors.

        Args:
            actor: a class, made with the plan, the number of threads of a process, and whether it
                has booked a GPU; it turns a block of one row, the column ``piece``, into a row with
                a column ``reason``.
            plan: of the work.
            pieces: of work.
            pool: of actors.
            keeps_order: whether rows come in the order of the pieces.
        """
        self._actor, self._plan, self._pieces, self._pool = actor, plan, pieces, pool
        self._keeps_order = keeps_order
        self.reason = DIED
        """Why the stream ended early."""

    def __iter__(self) -> Generator[dict[str, Any]]:
        """Run the actors and yield their rows."""
        from benchmark.cluster.streaming import Items, read_items, status_rows

        with warnings.catch_warnings():
            # The only way to bound restarts; deprecated before it has a replacement.
            warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
            dataset = read_items(
                Items("scenes", self._pieces, read_piece),
                num_items=len(self._pieces),
                keeps_order=self._keeps_order,
            ).map_batches(
                self._actor,
                fn_constructor_args=(self._plan, self._pool.num_threads, self._pool.num_gpus > 0),
                batch_size=1,
                batch_format="pyarrow",
                concurrency=min(self._pool.num_actors, len(self._pieces)),
                num_cpus=self._pool.num_cpus,
                num_gpus=self._pool.num_gpus or None,
                **RESTARTS,
            )
        try:
            yield from status_rows(dataset)
        except BenchmarkError as error:
            self.reason = str(error)
        except Exception as error:  # Ray raises what the worker raised, of any type
            self.reason = f"the pipeline stopped: {one_line(error)}"

    def blocks(
        self, rows: Iterable[dict[str, Any]], strips: Sequence[Strip]
    ) -> Iterator[tuple[Strip, dict[str, Any]]]:
        """Yield the strips of one scene with their rows.

        Args:
            rows: as they come, in the order of the strips.
            strips: of the scene.

        Raises:
            UsageError: a strip could not be done.
            BenchmarkError: Ray gave up.
        """
        num_found = 0
        for row, strip in zip(rows, strips, strict=False):
            if row["reason"]:
                raise UsageError(row["reason"])
            yield strip, row
            num_found += 1
        if num_found < len(strips):
            raise BenchmarkError(self.reason)


def read_piece(piece: Piece) -> pa.Table:
    """Return one row that names a piece (a Ray Data read task)."""
    import pyarrow as pa

    return pa.table({"piece": [piece.to_json()]})
