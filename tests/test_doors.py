"""Bad input at the doors: experiment files and ``--set`` answer with one line, at once."""

from __future__ import annotations

import gc
import json
import math
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, create_model

from benchmark import fields
from benchmark.config import Experiment, Section, build, load
from benchmark.errors import UsageError
from benchmark.fields import shown

FILE = """
name = "toy"
backbones = ["random"]

[dataset]
name = "folder"
root = "data/images"

[report]
title = "Ünï"
"""

FUZZ = int(os.environ.get("BENCHMARK_FUZZ", "1"))
"""How many times as many inputs as in the suite: `make fuzz` draws other ones each time."""

DOORS = settings(
    derandomize=FUZZ == 1,
    deadline=None,
    max_examples=200 * FUZZ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def content(place: tuple[str, ...] = (), value: Any = None) -> dict[str, Any]:
    """Return a good file as a mapping, with one value changed."""
    base: dict[str, Any] = {
        "name": "toy",
        "backbones": ["random"],
        "dataset": {"name": "folder", "root": "data/images"},
    }
    table = base
    for part in place[:-1]:
        table = table.setdefault(part, {})
    if place:
        table[place[-1]] = value
    return base


def label(value: object) -> str:
    """Return a short id of a case, the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", shown(value, 2000))[:60]


def refused(call: Callable[[], object]) -> str:
    """Return the message of the error that a call raises at once."""
    # Not the work of other threads, nor a collection of what earlier tests left behind.
    gc.disable()
    try:
        begin = time.thread_time()
        with pytest.raises(UsageError, match=r".") as caught:
            call()
        assert time.thread_time() - begin < 1.0
    finally:
        gc.enable()
    text = str(caught.value)
    assert len(text) <= 2000
    assert text.isprintable()
    return text


def answer(call: Callable[[], Experiment]) -> None:
    """Check that a call returns an experiment of finite values, or raises one printable line."""
    try:
        experiment = call()
    except UsageError as error:
        text = str(error)
        assert 0 < len(text) <= 2000
        assert text.isprintable()
        return
    json.dumps(experiment.model_dump(mode="json"), allow_nan=False, ensure_ascii=False).encode()
    experiment.model_dump_json()


# --- the schema ---


def models_of(kind: Any) -> list[type[BaseModel]]:
    kinds = [kind, *get_args(kind)]
    return [item for item in kinds if isinstance(item, type) and issubclass(item, BaseModel)]


def places_of(model: type[BaseModel], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the keys of every table and setting of an experiment file."""
    for name, field in model.model_fields.items():
        if prefix or name != "path":
            yield (*prefix, name)
        for table in models_of(field.annotation):
            inner = (*prefix, name, "random") if name == "backbone" else (*prefix, name)
            yield from places_of(table, inner)


PLACES = sorted(places_of(Experiment))
SECTIONS = sorted({place[0] for place in PLACES if len(place) > 1})


def test_the_places_are_those_of_the_file() -> None:
    assert {
        ("seeds",),
        ("dataset",),
        ("dataset", "value_range"),
        ("finetune", "clip_norm"),
        ("backbone", "random", "layer"),
        ("resources", "tune", "num_cpus"),
    } <= set(PLACES)


def bare_types(schema: Any, where: str = "", checked: bool = False) -> Iterator[str]:
    """Yield the texts without a check and the numbers without bounds of a schema of pydantic."""
    if isinstance(schema, (list, tuple)):
        for item in schema:
            yield from bare_types(item, where)
    if not isinstance(schema, dict):
        return
    kind = schema.get("type")
    if kind in ("int", "float"):
        has_bounds = schema.keys() & {"gt", "ge"} and schema.keys() & {"lt", "le"}
        if not has_bounds or (kind == "float" and schema.get("allow_inf_nan") is not False):
            yield f"{where}: {kind}"
    elif kind == "tuple" and schema.get("variadic_item_index") is not None:
        if schema.get("max_length") is None:
            yield f"{where}: tuple without a largest length"
    elif kind == "dict" and schema.get("max_length") is None:
        yield f"{where}: dict without a largest length"
    elif kind in ("str", "path", "any", "bytes", "decimal") and not checked:
        yield f"{where}: {kind}"
    if kind == "function-after":
        function = schema["function"]["function"]
        is_ours = getattr(function, "__module__", "") == fields.__name__
        yield from bare_types(schema["schema"], where, checked=is_ours)
        return
    for key, value in schema.items():
        if key not in ("metadata", "serialization", "default", "function", "ref", "cls"):
            name = f"{where}.{key}" if isinstance(value, dict) and "schema" in value else where
            yield from bare_types(value, name)


def test_no_setting_has_a_bare_type() -> None:
    assert list(bare_types(Experiment.__pydantic_core_schema__)) == []


@pytest.mark.parametrize(
    ("kind", "is_bare"),
    [
        (str, True),
        (float | None, True),
        (Annotated[float, Field(gt=0)], True),
        (Annotated[float, Field(gt=0, lt=1)], True),
        (Annotated[int, Field(gt=0)], True),
        (int | Literal["auto"], True),
        (tuple[int, int], True),
        (tuple[fields.Name, ...], True),
        (Mapping[str, fields.Count], True),
        (Annotated[Mapping[fields.Name, int], Field(max_length=3)], True),
        (Path, True),
        (Any, True),
        (fields.Name | None, False),
        (fields.Seconds | Literal["auto"], False),
        (bool | tuple[fields.PixelValue, fields.Count], False),
        (Annotated[tuple[fields.Title, ...], Field(max_length=3)], False),
        (Annotated[Mapping[fields.Name, fields.Count], Field(max_length=3)], False),
    ],
    ids=label,
)
def test_a_bare_type_is_seen_wherever_it_stands(kind: Any, is_bare: bool) -> None:
    inner = create_model("Inner", __base__=Section, key=(kind, ...))
    outer = create_model("Outer", __base__=Section, table=(inner | None, None))
    assert bool(list(bare_types(outer.__pydantic_core_schema__))) == is_bare


# --- properties ---

TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=()), max_size=30),
    st.sampled_from(
        [
            *("", "a\0b", "\ud800", "\udcff", "a\nb", "a\u2028b", "~nobody/x", "hf:~nobody/x", "~"),
            *("x" * 255, "x" * 256, "x/" * 2048, "é" * 3000, "x" * 100_000, "s3://b/" + "x" * 300),
            *("\x1b[31m", "../..", "/", "auto", "timm:a", "file:///x", "a" * 200, "a" * 201),
        ]
    ),
)


def nested(depth: int, kind: type[list[Any]] | type[dict[Any, Any]]) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind is list else {"a": value}
    return value


# By name: hypothesis writes the elements of a strategy into its messages, and these are too long.
HUGE = {
    "decimal": 10**5000,
    "binary": 2**100_000,
    "list": nested(3000, list),
    "table": nested(3000, dict),
    "zeros": [0] * 20_000,
    "names": ["a"] * 1001,
    "range": list(range(10_000)),
}
NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from(
        [
            *(0, -1, 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64),
            *(10**308, 10**309, 10**400, -(10**400), True, False),
            *(math.inf, -math.inf, math.nan, 1e308, -1e308, 5e-324, 1e-320, -0.0, 0.5, 1.0),
        ]
    ),
)


SCALARS = st.one_of(TEXTS, NUMBERS, st.none(), st.binary(max_size=5), st.datetimes())
NASTY = st.one_of(
    SCALARS,
    st.recursive(
        SCALARS,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.tuples(inner, inner),
            st.dictionaries(TEXTS, inner, max_size=3),
        ),
        max_leaves=6,
    ),
    st.sampled_from(sorted(HUGE)).map(lambda name: HUGE[name]),
)


@settings(DOORS, max_examples=20 * FUZZ)
@pytest.mark.parametrize("place", PLACES, ids=".".join)
@given(value=NASTY)
def test_any_value_of_any_setting_has_an_answer(place: tuple[str, ...], value: Any) -> None:
    answer(lambda: build(content(place, value), where="x.toml"))


@DOORS
@given(key=TEXTS, section=st.sampled_from([None, *SECTIONS]))
def test_any_key_of_any_section_has_an_answer(key: str, section: str | None) -> None:
    place = (section, key) if section else (key,)
    for value in ({}, 1):
        answer(lambda value=value: build(content(place, value), where="x.toml"))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("doors") / "toy.toml"
    path.write_text(FILE, encoding="utf-8")
    return path


WORDS = [
    *("name", "dataset", "root", "seeds", "backbone", "a", "=", ".", ",", "[", "]", "[[", "]]"),
    *("{", "}", '"', "'", '"""', "'''", "\\", "#", "\n", "\r", " ", "\t", "\0", "\ufeff", "é"),
    *("inf", "-nan", "1e400", "0x" + "f" * 300, "9" * 4400, "1979-05-27", "true", "auto"),
    *("a." * 20, "[" * 40, "{a=" * 40, "\\u0000", "\\uD800", "\u2028", "\ud800", "x" * 1100),
]
FRAGMENTS = st.lists(st.sampled_from(WORDS), max_size=12).map("".join)
VALUES = st.one_of(TEXTS, FRAGMENTS, NUMBERS.map(str))


@DOORS
@given(place=st.sampled_from(PLACES), value=VALUES)
def test_any_override_of_a_setting_has_an_answer(
    path: Path, place: tuple[str, ...], value: str
) -> None:
    answer(lambda: load(path, [f"{'.'.join(place)}={value}"]))


@DOORS
@given(override=st.one_of(FRAGMENTS, TEXTS, st.tuples(FRAGMENTS, FRAGMENTS).map("=".join)))
@example(".".join("a" * 30_000) + "=1")
@example("a" * 2000 + "=1")
def test_any_override_has_an_answer(path: Path, override: str) -> None:
    answer(lambda: load(path, [override]))


@DOORS
@given(text=FRAGMENTS, begins=st.booleans())
def test_any_text_has_an_answer(
    tmp_path_factory: pytest.TempPathFactory, text: str, begins: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(((FILE if begins else "") + text).encode("utf-8", "surrogatepass"))
    answer(lambda: load(path))


@DOORS
@given(data=st.binary(max_size=100))
def test_any_bytes_have_an_answer(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.toml"
    path.write_bytes(data)
    answer(lambda: load(path))


@settings(DOORS, max_examples=100 * FUZZ)
@given(value=NASTY)
def test_any_value_is_shown(value: Any) -> None:
    text = shown(value)
    assert 0 < len(text) <= 300
    assert text.isprintable()


def test_short_values_are_shown_as_they_are() -> None:
    for value in (1, -1.5, "a", [1, "b"], {"a": [1]}, None, True, math.inf):
        assert shown(value) == repr(value)
    assert shown(("a", 1)) == "['a', 1]"


# --- texts ---


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("store",), "a\0b", r"x.toml: 'store' = 'a\x00b': contains the control character '\x00'"),
        (("store",), "\ud800", r"'store' = '\ud800': contains the control character '\ud800'"),
        (("store",), "a/" + "x" * 256, "has a folder or file name of 256 bytes; use at most 255"),
        (("store",), "a/" * 2500, "is a path of 5,000 bytes; use at most 4,096"),
        (("store",), "~nobody/x", "'store' = '~nobody/x': '~' is not expanded; write the whole"),
        (("dataset", "root"), "~/x", "[dataset]: 'root' = '~/x': '~' is not expanded"),
        (("dataset", "root"), "", "[dataset]: 'root' = '': is empty; write a path"),
        (("dataset", "root"), "a\nb", r"[dataset]: 'root' = 'a\nb': contains the control charac"),
        (("dataset", "root"), "é" * 128, "has a folder or file name of 256 bytes"),
        (("dataset", "name"), "x" * 201, "[dataset]: 'name' = 'xxx"),
        (("dataset", "name"), "x" * 201, "has 201 characters; use 1 to 200"),
        (("dataset", "bands"), ["red", "\x1b[1m"], r"'bands' = '\x1b[1m': contains the control"),
        (("dataset", "bands"), [""], "'bands' = '': has 0 characters; use 1 to 200"),
        (("dataset", "val_regions"), ["\0"], r"'val_regions' = '\x00': contains the control"),
        (("dataset", "test_regions"), ["\udcff"], r"'test_regions' = '\udcff': contains the con"),
        (("backbones",), ["a\0"], r"'backbones' = 'a\x00': contains the control character"),
        (("backbones",), ["hf:" + "x" * 5000], "has 5,003 characters; use 1 to 200"),
        (("backbones",), ["hf:~of-no-user/x"], "no user has the home folder '~of-no-user'"),
        (("heads",), ["a\x7f"], r"'heads' = 'a\x7f': contains the control character"),
        (("finetune", "backbones"), ["\0"], r"[finetune]: 'backbones' = '\x00': contains"),
        (("backbone", "a\0", "layer"), -2, r"[backbone]: name 'a\x00': contains the control"),
        (("report", "title"), "a\0", r"[report]: 'title' = 'a\x00': contains the control"),
        (("report", "title"), "\ud800", r"[report]: 'title' = '\ud800': contains the control"),
        (("report", "title"), "x" * 5000, "has 5,000 bytes; use at most 4,096"),
        (("\udcff",), 1, r"x.toml: key '\udcff': should be a valid string"),
    ],
    ids=label,
)
def test_a_text_that_no_file_can_have_is_refused(
    place: tuple[str, ...], value: Any, message: str
) -> None:
    assert message in refused(lambda: build(content(place, value), where="x.toml"))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("store",), "s3://bucket/" + "x" * 300),
        (("store",), "/" + "x" * 255 + "/ü"),
        (("dataset", "root"), "./~x"),
        (("report", "title"), "two\n\tlines"),
        (("report", "title"), ""),
        (("dataset", "bands"), ["b" * 200]),
        (("backbones",), ["hf:~/x"]),
    ],
    ids=label,
)
def test_a_long_or_foreign_text_is_kept(place: tuple[str, ...], value: Any) -> None:
    found: Any = build(content(place, value)).model_dump(mode="json")
    for part in place:
        found = found[part]
    assert found == value


# --- numbers ---


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("finetune", "clip_norm"), math.inf, "[finetune]: 'clip_norm' = inf: should be a finite"),
        (("finetune", "checkpoint_every_s"), math.nan, "= nan: should be a finite number"),
        (("finetune", "checkpoint_every_s"), 1e10, "should be less than or equal to 1000000000"),
        (("finetune", "clip_norm"), 10**400, "'clip_norm' = an integer of about 401 digits: shou"),
        (("embed", "num_gpus"), math.inf, "[embed]: 'num_gpus' = inf: should be a finite number"),
        (("dataset", "value_range"), [0, 10**400], "holds an integer that is larger than any fl"),
        (("dataset", "value_range"), [0.0, 10**400], "an integer of about 401 digits: should be"),
        (("dataset", "value_range"), [0, math.inf], "'value_range' = inf: should be a finite"),
        (("dataset", "value_range"), [-1e308, 1e308], "should be greater than or equal to -1"),
        (("dataset", "seed"), 2**63, "[dataset]: 'seed' = 9223372036854775808: should be less th"),
        (("dataset", "per_class"), 10**10, "'per_class' = 10000000000: should be less than or"),
        (("seeds",), [10**5000], "x.toml: 'seeds' = an integer of about 5001 digits: should be"),
        (("seeds",), list(range(10_001)), "has 10,001 items; at most 10,000 are read"),
        (("seeds",), list(range(1001)), "should have at most 1000 items"),
        (("seeds",), ["a"] * 500_000, "has 500,000 items; at most 10,000 are read"),
        (("heads",), [str(n) for n in range(1001)], "should have at most 1000 items"),
        (("backbones",), [str(n) for n in range(1001)], "should have at most 1000 items"),
        (("backbone",), {str(n): {} for n in range(1001)}, "should have at most 1000 items"),
        (("tune", "num_trials"), 10**5000, "[tune]: 'num_trials' = an integer of about 5001 dig"),
        (("tune", "num_trials"), 10**7, "'num_trials' = 10000000: should be less than or equal"),
        (("finetune", "num_epochs"), 10**7, "'num_epochs' = 10000000: should be less than or"),
        (("evaluate", "num_resamples"), 10**7, "should be less than or equal to 1000000"),
        (("backbone", "random", "layer"), -(10**9), "should be greater than or equal to -10000"),
    ],
    ids=label,
)
def test_a_number_out_of_all_bounds_is_refused(
    place: tuple[str, ...], value: Any, message: str
) -> None:
    assert message in refused(lambda: build(content(place, value), where="x.toml"))


def test_a_grid_too_large_to_be_listed_is_refused() -> None:
    given = content(("seeds",), list(range(1000)))
    given["backbones"] = [f"b{number}" for number in range(1000)]
    message = (
        "backbones x heads x train sets x seeds are 4,000,000 cells, more than 1,000,000; split the"
    )
    assert message in refused(lambda: build(given))


def test_a_thousand_seeds_are_read(path: Path) -> None:
    assert len(load(path, [f"seeds={list(range(1000))}"]).seeds) == 1000


def test_only_the_problems_of_one_setting_are_told() -> None:
    tune = {"num_trials": 0, "max_concurrent": 0}
    text = refused(lambda: build(content(("tune",), tune), where="x.toml"))
    assert text == "x.toml [tune]: 'num_trials' = 0: should be greater than 0"


# --- depth and size ---


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = " + "[" * 3000 + "]" * 3000, "its lists or tables are nested more than 16 deep"),
        ("a = " + "{a=" * 3000 + "1" + "}" * 3000, "are nested more than 16 deep; write them flat"),
        (".".join("a" * 30_000) + " = 1", "it has a dotted key of 30,000 parts; at most 16"),
        (f"[{'.'.join('a' * 30_000)}]", "it has a dotted key of 30,000 parts; at most 16"),
        ("b = {" + " . ".join(["'a'"] * 17) + " = 1}", "it has a dotted key of 17 parts"),
        ("a" * 1100 + " = 1", "it has a key of 1,101 characters; at most 1,000 are read"),
        (f"seeds = [{'9' * 5000}]", "not valid TOML: an integer has too many digits; write at m"),
        ("".join(f"a{n}=1\n" for n in range(10_001)), "it has 10,001 settings; at most 10,000"),
        ("seeds = [" + "0," * 50_000 + "]", "it has 50,000 items in lists; at most 20,000"),
        ("# x\n" * 60_000, "it has 60,000 lines; at most 50,000 are read"),
        ("a" + " " * 300_000, "it has 300,001 characters outside quotes and comments"),
        ("#" * (2**20 + 1), "cannot be read: it is larger than 1 MiB"),
        (FILE + "val_fraction = 1e400\n", "unknown setting 'val_fraction'"),
        ("dataset = {val_fraction = 1e400}", "missing"),
        ('a = "' + '\\"' * 500_000, "not valid TOML: Unterminated string"),
        ('a = """' + '\\""' * 300_000, "not valid TOML: Unterminated string"),
    ],
    ids=label,
)
def test_a_text_that_is_too_deep_or_too_large_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text)
    found = refused(lambda: load(path))
    assert message in found
    assert found.startswith(str(path))


def test_quotes_and_comments_are_not_measured_as_keys(tmp_path: Path) -> None:
    dots, brackets = "a." * 40, "[" * 40
    path = tmp_path / "x.toml"
    path.write_text(
        f'# {dots} {brackets} "\n{FILE.replace("[report]", "")}'.replace('title = "Ünï"', "")
        + f"[report] # '{dots}\ntitle = '''{dots} \"\n{brackets} '' '''\n"
        + "[tune]\nnum_trials = 3\n"
    )
    experiment = load(path)
    assert experiment.report.title == f"{dots} \"\n{brackets} '' "
    assert experiment.tune.num_trials == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (".".join("a" * 30_000) + "=1", "its key has 59,999 characters; write it as --set sect"),
        (".".join("a" * 17) + "=1", "its key has 17 parts; write it as --set section.setting=va"),
        ("heads=" + "[" * 3000 + "]" * 3000, "its lists or tables are nested more than 16 deep"),
        ("tune={" + ".".join("a" * 30_000) + "=1}", "it has a dotted key of 30,000 parts"),
        ("tune.num_trials=" + "9" * 5000, "an integer has too many digits; write at most 4,300"),
        ("dataset.value_range=[0, " + "9" * 400 + "]", "larger than any float"),
        ("dataset.val_fraction=1e400", "[dataset]: 'val_fraction' = inf: should be a finite"),
        ("finetune.clip_norm=inf", "[finetune]: 'clip_norm' = inf: should be a finite number"),
        ("report.title=" + "x" * 3_000_000, "has 3,000,000 bytes; use at most 4,096"),
        ("tune.num_trials=1\nname = 'x'", "should be a valid integer"),
        ("tune.num_trials=1\n" + ".".join("a" * 30_000) + "=1", "should be a valid integer"),
        ("store=a\0b", r"'store' = 'a\x00b': contains the control character"),
        ("name=\udcff", "use 1 to 64 letters"),
        ("\udcff=1", r"key '\udcff': should be a valid string"),
        ("name." + "x" * 900 + "=\x1b[1m", "'name' is a setting, not a section"),
    ],
    ids=label,
)
def test_an_override_that_is_too_deep_or_too_large_is_refused(
    path: Path, override: str, message: str
) -> None:
    assert message in refused(lambda: load(path, [override]))


# --- files ---


def test_a_byte_order_mark_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    for encoding, message in (
        ("utf-8-sig", "cannot be read: it begins with a byte order mark; save it as UTF-8 without"),
        ("utf-16", "cannot be read: it is UTF-16, UTF-32 or no text; save it as UTF-8 without"),
        ("utf-16-le", "cannot be read: it is UTF-16, UTF-32 or no text; save it as UTF-8"),
        ("utf-32", "cannot be read: it is UTF-16, UTF-32 or no text; save it as UTF-8"),
        ("latin-1", "cannot be read: not UTF-8: byte 0xdc in line 10; save it as UTF-8"),
    ):
        path.write_bytes(FILE.encode(encoding))
        assert f"{path}: {message}" in refused(lambda: load(path))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_kind_of_line_end_is_read(tmp_path: Path, end: str) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(f"# a comment\n{FILE}".replace("\n", end).encode())
    experiment = load(path)
    assert experiment.report.title == "Ünï"
    # A run compares its file with this text at its end.
    assert experiment.text == path.read_text(encoding="utf-8")


@pytest.mark.timeout(20)
def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "broken").symlink_to(tmp_path / "none")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "folder").symlink_to(tmp_path, target_is_directory=True)
    for path, message in (
        (tmp_path / "pipe", "cannot be read: it is a pipe; give the path of a regular file"),
        (Path("/dev/zero"), "/dev/zero: cannot be read: it is a device; give the path of a regul"),
        (tmp_path, "cannot be read: it is a directory; give the path of a file"),
        (tmp_path / "folder", "cannot be read: it is a directory; give the path of a file"),
        (tmp_path / "none", "none: no such experiment file"),
        (tmp_path / "broken", "broken: no such experiment file: it is a symbolic link to "),
        (tmp_path / "loop", "loop: cannot be read: its symbolic links form a loop"),
        (tmp_path / "a\0", r"a\x00', contains the control character '\x00'; remove it"),
        (tmp_path / "\ud800", r"', contains the control character '\ud800'; remove it"),
        (tmp_path / ("x" * 256), "has a folder or file name of 256 bytes; use at most 255"),
        (tmp_path / ("x/" * 3000), "is a path of 6,0"),
    ):
        assert message in refused(lambda path=path: load(path))
    assert "'', is empty; write a path" in refused(lambda: load(""))


def test_a_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        assert "socket: cannot be read: it is a socket; give" in refused(lambda: load("socket"))


def test_a_pipe_that_takes_the_place_of_the_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.toml"
    os.mkfifo(path)
    regular = Path(__file__).stat()
    monkeypatch.setattr(Path, "stat", lambda self: regular)
    assert "cannot be read: it is a pipe" in refused(lambda: load(path))


# --- regions ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val_regions": []}, "x.toml [dataset]: 'val_regions' = []: list at least one region"),
        ({"test_regions": []}, "x.toml [dataset]: 'test_regions' = []: list at least one region"),
        (
            {"val_regions": ["virginia"], "test_regions": ["delaware", "virginia"]},
            "x.toml [dataset]: region 'virginia' is in 'val_regions' = ['virginia'] and in "
            "'test_regions' = ['delaware', 'virginia']; keep it in one",
        ),
        ({"test_regions": ["delaware"]}, "region 'delaware' is in 'val_regions' = ['delaware']"),
    ],
    ids=label,
)
def test_splits_without_regions_or_with_the_same_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    given = content()
    given["dataset"] |= changes
    assert message in refused(lambda: build(given, where="x.toml"))


def test_an_empty_list_of_regions_in_an_override_is_refused(path: Path) -> None:
    text = refused(lambda: load(path, ["dataset.val_regions=[]"]))
    assert text == f"{path} [dataset]: 'val_regions' = []: list at least one region"
