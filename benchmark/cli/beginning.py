"""The command ``init``: look at a folder of data and write an experiment that runs on it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmark.cli.app import JsonOption, app
from benchmark.cli.printing import print_json, say
from benchmark.errors import UsageError

if TYPE_CHECKING:
    from benchmark.catalog.survey import Survey

PACKAGED = ("efficientnet_lite0", "random", "mean_color")
ANY_BANDS = ("pca", "mean_color")
"""Backbones of data without red, green and blue bands."""

HUB = (
    ("hf:facebook/dinov2-small", "22 M parameters, trained without labels"),
    ("hf:facebook/convnext-tiny-224", "29 M parameters, ImageNet"),
    ("timm:resnet50.a1_in1k", "26 M parameters, ImageNet"),
    ("torchgeo:resnet50/ResNet50_Weights.SENTINEL2_RGB_MOCO", "26 M, trained on Sentinel-2"),
)
HUB_WITH_GPU = (
    ("hf:facebook/dinov2-base", "87 M parameters, trained without labels"),
    ("hf:facebook/convnext-base-224-22k", "89 M parameters, ImageNet-22k"),
    ("torchgeo:swin_v2_b/Swin_V2_B_Weights.NAIP_RGB_MI_SATLAS", "88 M, trained on NAIP"),
)
MANY = 20_000
"""Images from which a first look with fewer is proposed."""
MAX_NAME = 64


@app.command("init")
def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of labelled images.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The new experiment file.")] = Path(
        "experiment.toml"
    ),
    as_json: JsonOption = False,
) -> None:
    """Look at a folder of images and write an experiment that runs on it."""
    from benchmark.catalog.survey import survey

    root = _checked(folder, "FOLDER")
    path = _checked(out, "--out")
    _refuse_existing(path)
    found = survey(root)
    text = draft(found, root, path=path)
    _check(text, path)
    _write(text, path)
    if as_json:
        print_json({"path": path, **_facts(found, root)})
        return
    for line in _report(found):
        say(line)
    say(path)


def draft(found: Survey, root: str, *, path: str) -> str:
    """Return the text of an experiment on the data in ``root``."""
    ready, others = _choose_backbones(found)
    listed = _in_columns([(f"{_quote(name)},", text) for name, text in ready])
    if others:
        listed.append("# These need weights that are not on this machine; a run fetches them:")
        listed += _in_columns([(f"# {_quote(name)},", text) for name, text in others])
    settings = [
        ("name", found.dataset, ""),
        ("root", root, "" if Path(root).is_absolute() else "relative to where the command runs"),
        *found.settings,
    ]
    lines = [
        f"# Written by `benchmark init`: {_summary(found)}.",
        "#",
        f"#   benchmark run {path} --dry-run      what it will compute",
        f"#   benchmark run {path}",
        f"name      = {_quote(_name_of(root))}",
        "backbones = [",
        *(f"    {line}" for line in listed),
        "]",
        'heads     = ["logistic_regression", "mlp", "knn", "majority"]',
        "seeds     = [0]              # more seeds show how much chance matters: [0, 1, 2]",
        'store     = "runs"           # or s3://bucket/prefix',
        "",
        "[dataset]",
        *_assignments(settings),
        *(_in_columns([_fewer(found)], 27) if found.dataset == "folder" else []),
        "",
        "[tune]",
        "num_trials = 10              # of each head on each backbone",
        "",
        "# To train the backbones themselves, too (have a GPU for large ones):",
        "# [finetune]",
        "# num_epochs = 5",
        "",
    ]
    return "\n".join(lines)


def _in_columns(rows: Sequence[tuple[str, str]], width: int = 0) -> list[str]:
    """Return lines of code, with comments that begin in one column."""
    width = width or max(len(code) for code, _ in rows)
    return [f"{code:<{width}}  # {text}" if text else code for code, text in rows]


def _assignments(settings: Sequence[tuple[str, Any, str]]) -> list[str]:
    rows = [
        (f"# {key} = [...]" if value is None else f"{key} = {_quote(value)}", comment)
        for key, value, comment in settings
    ]
    return _in_columns(rows, 27)


def _fewer(found: Survey) -> tuple[str, str]:
    """Return a setting that takes fewer images, as a comment unless there are many."""
    code = "per_class = 500" if found.num_items > MANY else "# per_class = 500"
    return code, "at most, of each class in each split"


def _quote(value: Any) -> str:
    """Return a value as TOML, whose texts, numbers and lists are those of JSON."""
    return json.dumps(value, ensure_ascii=False)


def _choose_backbones(found: Survey) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the backbones that run on this machine as it is, and others, each with a remark."""
    from benchmark.catalog.backbones import find_backbone

    has_colours = {"red", "green", "blue"} <= set(found.bands)
    hub = HUB + (HUB_WITH_GPU if shutil.which("nvidia-smi") else ())
    names = PACKAGED if has_colours else ANY_BANDS
    wanted = [(name, find_backbone(name).description) for name in names]
    ready: list[tuple[str, str]] = []
    others: list[tuple[str, str]] = []
    for name, text in (*wanted, *hub):
        is_here = has_colours or (name, text) in wanted
        (ready if is_here and _has_weights(name) else others).append((name, text))
    return ready, others


def _has_weights(name: str) -> bool:
    """Return whether a backbone can be used without a download."""
    from benchmark.catalog.backbones import BACKBONES, find_backbone
    from benchmark.submission.probing import is_cached

    if name not in BACKBONES and not is_cached(name):
        return False
    try:
        find_backbone(name).revision()
    except UsageError:
        return False
    return True


def _name_of(root: str) -> str:
    """Return a name of the experiment from the name of the folder."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(root).resolve().name).lstrip("._-")
    return name[:MAX_NAME] or "experiment"


def _summary(found: Survey) -> str:
    return (
        f"{len(found.classes)} classes, {found.num_items:,} {found.unit}, {found.sizes}, "
        f"{len(found.bands)} bands"
    )


def _report(found: Survey) -> Iterator[str]:
    """Yield what was found, in a few lines."""
    names = ", ".join(found.classes[:10])
    more = f" and {len(found.classes) - 10} more" if len(found.classes) > 10 else ""
    parts = ", ".join(f"{count:,} {split}" for split, count in found.counts.items())
    some = "" if found.num_looked_at == found.num_items else f" ({found.num_looked_at} looked at)"
    yield f"classes  {len(found.classes)}: {names}{more}"
    yield f"{found.unit:<8} {found.num_items:,}, {found.sizes}{some}"
    yield f"bands    {', '.join(found.bands)}"
    yield f"split    {found.split}: {parts}"
    for note in found.notes:
        yield f"note     {note}"


def _facts(found: Survey, root: str) -> dict[str, Any]:
    return {
        "dataset": found.dataset,
        "root": root,
        "classes": list(found.classes),
        "unit": found.unit,
        "counts": dict(found.counts),
        "bands": list(found.bands),
        "smallest": list(found.smallest),
        "largest": list(found.largest),
        "split": found.split,
        "settings": {item.key: item.value for item in found.settings if item.value is not None},
        "notes": list(found.notes),
    }


def _checked(path: Path, what: str) -> str:
    """Return a path as text.

    Raises:
        UsageError: no file system can hold it.
    """
    from benchmark.fields import check_file_path, shown

    try:
        return check_file_path(str(path))
    except ValueError as error:
        raise UsageError(f"init: {what} {shown(str(path))} {error}") from None


def _refuse_existing(path: str) -> None:
    if Path(path).is_symlink() or Path(path).exists():
        raise UsageError(f"init: {path} exists and is not replaced; name another file with --out")


def _check(text: str, path: str) -> None:
    """Load the experiment as ``run`` will, before it is written.

    Raises:
        UsageError: a setting or a name is wrong, e.g. the folder's name.
    """
    from benchmark.catalog.names import check_names
    from benchmark.config import build
    from benchmark.fields import parse_toml

    check_names(build(parse_toml(text, where=path), where=path))


def _write(text: str, path: str) -> None:
    try:
        with Path(path).open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        _refuse_existing(path)
        raise
    except OSError as error:
        raise UsageError(f"init: {path} cannot be written: {error.strerror or error}") from None
