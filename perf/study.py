"""A study of the article's size, and what waited for what: python -m perf.study [--patches N]

Writes 15,809 PNG files of 128 px (fewer with ``--patches``) with SYNTHETIC pixels: five classes,
six states, and the article's counts of each class in its test state and outside it. Then runs two
networks with RANDOM weights and two floors, logistic regression and MLP with ten trials each, and
fine-tuning. Networks are of base size where torch finds a GPU and small elsewhere; ``--backbones``
names others. Prints when each stage and cell began, had its first item and ended, how busy its
slots, the cores and the GPUs were meanwhile, and when the device waited. Shares of cores are those
of the run's own processes, so other programs lower them. ``--patches 300`` takes two minutes on
two cores that are mostly free.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SIDE = 128
CLASSES = ("water", "trees", "low_vegetation", "barren", "impervious")
TOTALS = (2450, 9514, 3672, 49, 124)
TEST = (66, 1992, 461, 24, 43)
NUM_VAL = 2088
"""The article's counts. It does not say which classes val has: here the same shares as train."""
STATES = {
    "train": ("maryland", "new_york", "virginia", "west_virginia"),
    "val": ("delaware",),
    "test": ("pennsylvania",),
}
SCENES = 20
"""Of a state; ASSUMED."""
FLOORS = ("random", "mean_color")
EVERY_S = 0.5
IDLE = 0.1
"""A device below it waits."""
LONG_S = 1.0
"""Shortest wait that is printed."""


def count_patches(num_patches: int) -> dict[str, list[int]]:
    """Return the patches of each class by split, in the article's shares, at least two of each."""
    others = [total - test for total, test in zip(TOTALS, TEST, strict=True)]
    val = [round(NUM_VAL * count / sum(others)) for count in others]
    train = [count - held for count, held in zip(others, val, strict=True)]
    share = num_patches / sum(TOTALS)
    return {
        split: [max(2, round(share * count)) for count in counts]
        for split, counts in (("train", train), ("val", val), ("test", TEST))
    }


class Picture(NamedTuple):
    """A file to write."""

    path: str
    split: str
    scene: str
    region: str
    label: int
    seed: int


def list_pictures(num_patches: int) -> list[Picture]:
    """Return the files, the classes of a split spread over its states and scenes."""
    rng = np.random.default_rng(0)
    found: list[Picture] = []
    for split, counts in count_patches(num_patches).items():
        states = STATES[split]
        for number, label in enumerate(rng.permutation(np.repeat(np.arange(len(CLASSES)), counts))):
            state = states[number % len(states)]
            scene = f"{state}-{number // len(states) % SCENES:02d}"
            path = f"{CLASSES[label]}/{scene}-{number:05d}.png"
            found.append(Picture(path, split, scene, state, int(label), len(found)))
    return found


def draw(picture: Picture) -> np.ndarray:
    """Return the pixels, uint8 (128, 128, 3): a colour near that of its class, spots, noise."""
    rng = np.random.default_rng(picture.seed)
    colour = np.random.default_rng(picture.label).uniform(70, 180, 3) + rng.normal(0, 25, 3)
    spots = np.kron(rng.normal(0, 8 + 4 * picture.label, (16, 16, 3)), np.ones((8, 8, 1)))
    noise = rng.normal(0, 6, (SIDE, SIDE, 3))
    return np.clip(colour + spots + noise, 0, 255).astype(np.uint8)


def write_pictures(root: Path, num_patches: int) -> Counter[str]:
    """Write the files and their ``splits.csv``; return the patches of each split."""
    from PIL import Image

    pictures = list_pictures(num_patches)
    for name in CLASSES:
        (root / name).mkdir(parents=True)

    def write(picture: Picture) -> None:
        Image.fromarray(draw(picture)).save(root / picture.path)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, pictures))
    lines = [f"{item.path},{item.split},{item.scene},{item.region}" for item in pictures]
    (root / "splits.csv").write_text("\n".join(["path,split,scene,region", *lines]) + "\n")
    return Counter(item.split for item in pictures)


@dataclass
class Span:
    """When a stage, or a cell of it, began, had its first item and ended (s since the epoch)."""

    stage: str
    cell: str
    began: float
    first: float | None = None
    ended: float | None = None
    busy: float | None = None
    """Share of its slots at work; None: not measured."""
    items: str = ""


class Recorder:
    """The progress of a run, as times."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def stage(self, name: str, **_: Any) -> _Stage:
        return _Stage(self.spans, name)

    def message(self, text: str) -> None:
        print(f"  {text}", flush=True)


class _Stage:
    def __init__(self, spans: list[Span], name: str) -> None:
        self._spans, self._name = spans, name
        self._whole = Span(name, "", time.time())
        self._cells: dict[str, Span] = {}
        spans.append(self._whole)

    def start(self, cell: str) -> None:
        self._cells[cell] = Span(self._name, cell, time.time())
        self._spans.append(self._cells[cell])

    def advance(self, count: int) -> None:
        if count and self._whole.first is None:
            self._whole.first = time.time()

    def done(self, cell: str) -> None:
        if cell in self._cells:
            self._cells[cell].ended = time.time()

    def failed(self, cell: str, reason: str) -> None:
        print(f"  {self._name}: {cell} failed: {reason}", flush=True)
        self.done(cell)

    def close(self) -> None:
        self._whole.ended = time.time()


class Sample(NamedTuple):
    """Shares in use since the sample before."""

    at: float
    """Seconds since the epoch."""
    cores: float
    gpus: float | None
    """Mean over all GPUs; None: no GPU that tells."""

    @property
    def device(self) -> float:
        """Of the GPUs, or of the cores where there are none."""
        return self.cores if self.gpus is None else self.gpus


def watch(child: subprocess.Popen[Any]) -> list[Sample]:
    """Sample a run until it has ended."""
    from perf.timeline import Tree

    tree, read_gpus = Tree(child.pid, EVERY_S), gpu_reader()
    cores = len(os.sched_getaffinity(0))
    samples, before, cpu_s = [], time.time(), 0.0
    while child.poll() is None:
        time.sleep(EVERY_S)
        now, spent = time.time(), tree.cpu_s
        share = min(1.0, max(0.0, spent - cpu_s) / (now - before) / cores)
        samples.append(Sample(now, share, read_gpus() if read_gpus else None))
        before, cpu_s = now, spent
    tree.stop()
    return samples


def gpu_reader() -> Callable[[], float] | None:
    """Return what reads the utilisation of all GPUs through NVML; None: there is none to read."""
    from ray._private.thirdparty import pynvml

    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]

        def read() -> float:
            rates = [pynvml.nvmlDeviceGetUtilizationRates(item).gpu for item in handles]
            return sum(rates) / len(rates) / 100

        read()
    except (pynvml.NVMLError, ZeroDivisionError) as error:
        print(f"GPUs are not sampled: {error}", flush=True)
        return None
    return read


def mean(samples: Sequence[Sample], began: float, ended: float, name: str) -> float | None:
    """Return the mean share from ``began`` to ``ended`` of ``cores`` or ``gpus``, if known."""
    values = [getattr(item, name) for item in samples if began < item.at <= ended]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def waits(samples: Sequence[Sample]) -> Iterator[tuple[float, float]]:
    """Yield the times, at least a second long, in which the device was hardly used."""
    began: float | None = None
    for before, item in itertools.pairwise(samples):
        if item.device < IDLE and began is None:
            began = before.at
        elif item.device >= IDLE and began is not None:
            if before.at - began >= LONG_S:
                yield began, before.at
            began = None
    if began is not None and samples[-1].at - began >= LONG_S:
        yield began, samples[-1].at


def name_running(spans: Sequence[Span], began: float, ended: float) -> str:
    """Return the stages of a time, and whether they had their first item before it ended."""
    found = [
        item.stage + (" without an item yet" if (item.first or ended) >= ended else "")
        for item in spans
        if not item.cell and item.began < ended and (item.ended or ended) > began
    ]
    return ", ".join(found) or "no stage"


def table(
    spans: Sequence[Span], samples: Sequence[Sample], began: float, ended: float
) -> list[str]:
    """Return the lines of the table of stages and cells, in seconds since ``began``."""

    def seconds(value: float | None) -> str:
        return "-" if value is None else f"{value - began:.1f}"

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.0f}"

    row = "{:<44} {:>7} {:>10} {:>7} {:>7} {:>6} {:>7} {:>6}  {}".format
    lines = [row("", "began", "first item", "ended", "took", "busy %", "cores %", "GPU %", "items")]
    order = {item.stage: item.began for item in spans if not item.cell}
    whole = Span("the whole command", "", began, ended=ended)
    for item in [*sorted(spans, key=lambda it: (order[it.stage], it.cell != "", it.began)), whole]:
        until = ended if item.ended is None else item.ended
        lines.append(
            row(
                f"  {item.cell}"[:44] if item.cell else item.stage,
                seconds(item.began),
                seconds(item.first),
                seconds(item.ended),
                f"{until - item.began:.1f}",
                percent(item.busy),
                percent(mean(samples, item.began, until, "cores")),
                percent(mean(samples, item.began, until, "gpus")),
                item.items,
            ).rstrip()
        )
    return lines


def run_here(folder: Path) -> None:
    """Run the study of a folder in this process and write its spans."""
    import benchmark as bm

    recorder = Recorder()
    result = bm.run(bm.load(folder / "study.toml"), progress=recorder)
    wholes = {item.stage: item for item in recorder.spans if not item.cell}
    for usage in result.usages:
        if usage.stage not in wholes:
            steps = [it for it in recorder.spans if it.stage.startswith(f"{usage.stage}/")]
            first = steps[0].first if steps else None
            wholes[usage.stage] = Span(usage.stage, "", usage.began_s, first, usage.ended_s)
            recorder.spans.append(wholes[usage.stage])
        span = wholes[usage.stage]
        span.busy, span.items = usage.utilisation, f"{usage.num_items:,} {usage.unit}"
    for span in recorder.spans:
        span.cell = span.cell.replace(f"hf:{folder}/", "")
    (folder / "spans.json").write_text(json.dumps([asdict(item) for item in recorder.spans]))
    sys.exit(int(bool(result.failed)))


def incidents(store: Path) -> Counter[str]:
    """Return how often each kind of loss was repaired, from the manifests of a store."""
    found: Counter[str] = Counter()
    for path in store.rglob("_manifest.json"):
        for item in json.loads(path.read_text()).get("incidents", []):
            found[item["kind"]] += item["count"]
    return found


def write_experiment(folder: Path, options: argparse.Namespace) -> None:
    """Write the networks and ``study.toml``."""
    from perf.gpu import CHECKPOINTS, write_checkpoint

    names = [
        write_checkpoint(folder, name) if name in CHECKPOINTS else name
        for name in options.backbones
    ]
    lines = [
        'name = "study"',
        f"backbones = {json.dumps([*names, *FLOORS])}",
        'heads = ["logistic_regression", "mlp"]',
        f"store = {json.dumps(str(folder / 'runs'))}",
        "[dataset]",
        'name = "folder"',
        f"root = {json.dumps(str(folder / 'patches'))}",
        f"patch_size = {SIDE}",
        "[tune]",
        f"num_trials = {options.trials}",
    ]
    if options.epochs:
        lines += ["[finetune]", f"num_epochs = {options.epochs}"]
    (folder / "study.toml").write_text("\n".join(lines) + "\n")


def measure(folder: Path, options: argparse.Namespace) -> int:
    """Write the data, run the study in a process of its own, print; return its exit code."""
    began = time.perf_counter()
    counts = write_pictures(folder / "patches", options.patches)
    write_experiment(folder, options)
    print(
        f"{counts.total():,} PNG files with SYNTHETIC pixels {dict(counts)} and the networks "
        f"written in {time.perf_counter() - began:.1f} s; {' '.join(options.backbones)} and the "
        f"floors {' '.join(FLOORS)}, {options.trials} trials of each head, {options.epochs} epochs "
        f"of fine-tuning; {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.0f}",
        flush=True,
    )
    start = time.time()
    command = [sys.executable, "-m", "perf.study", "--run", str(folder)]
    with subprocess.Popen(command) as child:
        samples = watch(child)
    end = samples[-1].at
    if not (folder / "spans.json").exists():
        return child.returncode or 1
    spans = [Span(**item) for item in json.loads((folder / "spans.json").read_text())]
    print(*table(spans, samples, start, end), sep="\n")
    idle = list(waits(samples))
    kind = "cores" if samples[-1].gpus is None else "GPUs"
    print(f"{kind} below {100 * IDLE:.0f} % for {sum(b - a for a, b in idle):.1f} s in all:")
    for first, last in idle:
        print(f"  {first - start:.1f} to {last - start:.1f}: {name_running(spans, first, last)}")
    repaired = dict(incidents(folder / "runs")) or "nothing"
    print(f"repaired: {repaired}; load {os.getloadavg()[0]:.0f}")
    return child.returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patches", type=int, default=sum(TOTALS))
    parser.add_argument("--backbones", nargs="+", metavar="NAME")
    parser.add_argument("--trials", type=int, default=10, help="of each head")
    parser.add_argument("--epochs", type=int, default=5, help="of fine-tuning; 0: none")
    parser.add_argument("--folder", type=Path, help="keep data and results in this new folder")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run_here(options.run)
    if options.folder and options.folder.exists():
        parser.error(f"--folder {options.folder} exists; name a new one")
    if not options.backbones:
        import torch

        ending = "" if torch.cuda.is_available() else "-small"
        options.backbones = [f"beit{ending}", f"convnext{ending}"]
    with tempfile.TemporaryDirectory() as temporary:
        code = measure((options.folder or Path(temporary)).absolute(), options)
    sys.exit(code)


if __name__ == "__main__":
    main()
