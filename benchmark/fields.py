"""Types of an experiment's settings, and the guarded reading of experiment files.

Every type has bounds: a value that passes is a printable text, a finite number, or a count that a
dry run handles at once. Texts are measured before they are parsed, because ``tomllib`` needs
minutes for long dotted keys and fails on deep nesting.
"""

from __future__ import annotations

import codecs
import errno
import math
import os
import re
import reprlib
import tomllib
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from benchmark.errors import UsageError, tidy
from benchmark.regular import read_regular

MAX_NAME = 200
"""Characters of a name; names become parts of file names, which have at most 255 bytes."""
MAX_PATH_BYTES = 4096
MAX_COMPONENT_BYTES = 255
"""Bytes of one folder or file name in a path; the limits of Linux."""

MAX_FILE_BYTES = 2**20
MAX_CODE = 2**18
"""Characters outside quotes and comments."""
MAX_LINES = 50_000
MAX_SETTINGS = 10_000
MAX_ITEMS = 10_000
"""Items of one list; a text has at most twice as many commas."""
MAX_DEPTH = 16
MAX_PARTS = 16
MAX_KEY = 1000
MAX_DIGITS = 4300
"""Digits of a decimal integer that Python reads by default."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_CONTROL_BUT_SPACE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


# --- values in messages ---


class _Shown(reprlib.Repr):
    """A ``repr`` of bounded length and depth that never fails; tuples are TOML's arrays."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxlist = self.maxdict = 100
        self.maxstring = self.maxother = limit

    def repr_tuple(self, x: tuple[Any, ...], level: int) -> str:
        return self.repr_list(list(x), level)

    def repr_int(self, x: int, level: int) -> str:
        del level
        if x.bit_length() <= 1000:
            return repr(x)
        return f"an integer of about {math.ceil(x.bit_length() * math.log10(2))} digits"


def shown(value: object, limit: int = 300) -> str:
    """Return the ``repr`` of a value for a message, printable and at most ``limit`` characters."""
    return tidy(_Shown(limit).repr(value), limit)


# --- texts ---


def _check_printable(value: str, forbidden: re.Pattern[str] = _CONTROL) -> str:
    if found := forbidden.search(value):
        raise ValueError(f"contains the control character {found[0]!a}; remove it")
    return value


def check_name(value: str) -> str:
    """Return a name if it has at most ``MAX_NAME`` characters, all of them printable.

    Raises:
        ValueError: it is empty or too long, or contains a control character.
    """
    if not 1 <= len(value) <= MAX_NAME:
        raise ValueError(f"has {len(value):,} characters; use 1 to {MAX_NAME}")
    return _check_printable(value)


def _check_backbone(value: str) -> str:
    path = check_name(value).removeprefix("hf:")
    if path.startswith("~") and os.path.expanduser(path) == path:  # noqa: PTH111
        raise ValueError(f"no user has the home folder {shown(path.partition('/')[0], 100)}")
    return value


def _check_file_name(value: str) -> str:
    if not _FILE_NAME.fullmatch(value):
        raise ValueError("use 1 to 64 letters, digits, '.', '_' or '-'")
    return value


def _check_title(value: str) -> str:
    _check_printable(value, _CONTROL_BUT_SPACE)
    if (size := len(value.encode())) > MAX_PATH_BYTES:
        raise ValueError(f"has {size:,} bytes; use at most {MAX_PATH_BYTES:,}")
    return value


def check_file_path(value: str) -> str:
    """Return a path if a file system can hold it.

    Raises:
        ValueError: it is empty or too long, or contains a control character.
    """
    if not value:
        raise ValueError("is empty; write a path")
    _check_printable(value)
    if (size := len(value.encode())) > MAX_PATH_BYTES:
        raise ValueError(f"is a path of {size:,} bytes; use at most {MAX_PATH_BYTES:,}")
    # Stores in the cloud have no folders, and a query may follow their path.
    if "://" not in value:
        longest = max((part.encode() for part in value.split("/")), key=len)
        if len(longest) > MAX_COMPONENT_BYTES:
            raise ValueError(
                f"has a folder or file name of {len(longest):,} bytes; use at most "
                f"{MAX_COMPONENT_BYTES}"
            )
    return value


def _check_path(value: str) -> str:
    check_file_path(value)
    if value.startswith("~"):
        # The machines of a cluster have other homes, and a folder named '~' is never meant.
        raise ValueError("'~' is not expanded; write the whole path of the home folder")
    return value


Name = Annotated[str, AfterValidator(check_name)]
"""Name in a catalog, of a region or of a band."""
BackboneName = Annotated[str, AfterValidator(_check_backbone)]
"""Name in a catalog, or a source and a name or path."""
FileName = Annotated[str, AfterValidator(_check_file_name)]
PathText = Annotated[str, AfterValidator(_check_path)]
"""Path or URI."""
FilePathText = Annotated[str, AfterValidator(check_file_path)]
"""Path of the experiment file, or its description."""
Title = Annotated[str, AfterValidator(_check_title)]
"""Text of one or several lines."""


def _check_json(value: Any, depth: int = 4) -> Any:
    if isinstance(value, (list, tuple, dict)):
        if depth == 0 or len(value) > MAX_ITEMS // 100:
            raise ValueError("is nested too deeply or too long")
        for item in (*value, *(value.values() if isinstance(value, dict) else ())):
            _check_json(item, depth - 1)
    elif isinstance(value, str):
        _check_title(value)
    elif not isinstance(value, (int, float)) or not -(2.0**63) < value < 2.0**63:
        raise ValueError(f"{shown(value, 100)} is no text, number, boolean, list or table")
    return value


Json = Annotated[Any, AfterValidator(_check_json)]
OwnSettings = Annotated[dict[Name, Json], Field(max_length=100)]
"""Keyword arguments of a user's function."""

# --- numbers ---

FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]
PixelValue = Annotated[FiniteFloat, Field(ge=-1e38, le=1e38)]
"""Pixel value in the range of float32; differences of two are finite."""
Fraction = Annotated[FiniteFloat, Field(gt=0.0, lt=1.0)]
Share = Annotated[FiniteFloat, Field(gt=0.0, le=1.0)]
ShareOrZero = Annotated[FiniteFloat, Field(ge=0.0, lt=1.0)]
Norm = Annotated[FiniteFloat, Field(gt=0.0, le=1e38)]
Seconds = Annotated[FiniteFloat, Field(gt=0.0, le=1e9)]
Gpus = Annotated[FiniteFloat, Field(gt=0.0, le=10_000.0)]

Count = Annotated[int, Field(gt=0, le=1_000_000)]
CountOrZero = Annotated[int, Field(ge=0, le=1_000_000)]
PatchCount = Annotated[int, Field(gt=0, le=1_000_000_000)]
Side = Annotated[int, Field(ge=8, le=4096)]
"""Side of a square image, in px."""
Year = Annotated[int, Field(ge=1900, le=2100)]
Layer = Annotated[int, Field(lt=0, ge=-10_000)]
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
NumpySeed = Annotated[int, Field(ge=0, lt=2**32)]

# --- lists ---

Names = Annotated[tuple[Name, ...], Field(max_length=1000)]
BackboneNames = Annotated[tuple[BackboneName, ...], Field(min_length=1, max_length=1000)]


def _check_seeds(value: tuple[int, ...]) -> tuple[int, ...]:
    for seed in value:
        if not 0 <= seed < 2**32:
            raise ValueError(f"{seed} is not between 0 and 4294967295")
    return value


Seeds = Annotated[
    tuple[Seed, ...], Field(min_length=1, max_length=1000), AfterValidator(_check_seeds)
]
"""Seeds of the grid, in the range of NumPy's generators."""


def tuple_of_array(value: Any) -> Any:
    """Return an array of TOML as a tuple; other values unchanged.

    Raises:
        ValueError: the array is too long to check all of its items.
    """
    if isinstance(value, (list, tuple)) and len(value) > MAX_ITEMS:
        raise ValueError(f"has {len(value):,} items; at most {MAX_ITEMS:,} are read")
    return tuple(value) if isinstance(value, list) else value


def finite_floats(value: Any) -> Any:
    """Return a list of integers as floats; other values unchanged; ValueError: one is too large."""
    if isinstance(value, (list, tuple)) and all(type(item) is int for item in value):
        try:
            return tuple(float(item) for item in value)
        except OverflowError:
            raise ValueError("holds an integer that is larger than any float") from None
    return value


def refuse_duplicates(value: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    """Return a list unchanged; raise ValueError if an item is listed twice."""
    for item, count in Counter(value or ()).items():
        if count > 1:
            raise ValueError(f"{shown(item, 100)} is listed twice")
    return value


# --- files ---


def read_experiment_file(path: str | Path) -> str:
    r"""Return the text of an experiment file, with ``\n`` at the end of its lines.

    Raises:
        UsageError: the path is no regular file of UTF-8 text of at most 1 MiB.
    """
    where = str(path)
    try:
        check_file_path(where)
    except ValueError as error:
        raise UsageError(f"the path of the experiment file, {shown(where)}, {error}") from None
    try:
        data = read_regular(Path(path), most_bytes=MAX_FILE_BYTES)
    except FileNotFoundError:
        if not Path(path).is_symlink():
            raise UsageError(f"{where}: no such experiment file") from None
        target = tidy(Path(path).readlink(), 300)
        raise UsageError(
            f"{where}: no such experiment file: it is a symbolic link to {target}, which is missing"
        ) from None
    except OSError as error:
        is_loop = error.errno == errno.ELOOP
        reason = "its symbolic links form a loop" if is_loop else error.strerror or error
        raise UsageError(f"{where}: cannot be read: {reason}") from None
    except ValueError as error:
        raise UsageError(f"{where}: cannot be read: {error}") from None
    return decode_experiment(data, where)


def decode_experiment(data: bytes, where: str) -> str:
    r"""Return an experiment file's text, with ``\n`` at the end of lines; refuse all but UTF-8."""
    advice = "save it as UTF-8 without a byte order mark (BOM)"
    if data.startswith(codecs.BOM_UTF8):
        raise UsageError(f"{where}: cannot be read: it begins with a byte order mark; {advice}")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data:
        raise UsageError(f"{where}: cannot be read: it is UTF-16, UTF-32 or no text; {advice}")
    try:
        return data.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start]
        raise UsageError(
            f"{where}: cannot be read: not UTF-8: byte {byte:#04x} in line {line}; {advice}"
        ) from None


# --- TOML ---

# An unfinished quote goes on to the end of its line or of the text, as tomllib reads it: with
# nothing to go back to, the time is linear in the length of the text.
_QUOTES_AND_COMMENTS = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*+"{0,5}'
    r"|'''(?:[^']|'(?!''))*+'{0,5}"
    r'|"(?:[^"\\\n]|\\[^\n])*+"?'
    r"|'[^'\n]*+'?"
    r"|(#)[^\n]*+",
    re.DOTALL,
)
_SEGMENTS = re.compile(r"[\n,=\[\]{}]")


def _too_costly(text: str) -> str | None:
    """Return the reason why a text is not given to ``tomllib``, in time linear in its length."""
    if len(text) > MAX_FILE_BYTES:
        return "it is larger than 1 MiB"
    code = _QUOTES_AND_COMMENTS.sub(lambda found: "" if found[1] else "q", text)
    counts = (
        (len(code), MAX_CODE, "characters outside quotes and comments"),
        (text.count("\n"), MAX_LINES, "lines"),
        (code.count("="), MAX_SETTINGS, "settings"),
        (code.count(","), 2 * MAX_ITEMS, "items in lists"),
    )
    for count, limit, what in counts:
        if count > limit:
            return f"it has {count:,} {what}; at most {limit:,} are read"
    segments = _SEGMENTS.split(code)
    if (parts := max(segment.count(".") for segment in segments) + 1) > MAX_PARTS:
        return f"it has a dotted key of {parts:,} parts; at most {MAX_PARTS} are read"
    keys = (_SEGMENTS.split(piece)[-1] for piece in code.split("=")[:-1])
    if (length := max(map(len, keys), default=0)) > MAX_KEY:
        return f"it has a key of {length:,} characters; at most {MAX_KEY:,} are read"
    depth = 0
    for bracket in re.findall(r"[\[\]{}]", code):
        depth += 1 if bracket in "[{" else -1
        if depth > MAX_DEPTH:
            return f"its lists or tables are nested more than {MAX_DEPTH} deep; write them flat"
    return None


def parse_toml(text: str, *, where: str) -> dict[str, Any]:
    """Return the content of a TOML text.

    Raises:
        UsageError: the text is not TOML, too long or too deeply nested.
    """
    if reason := _too_costly(text):
        raise UsageError(f"{where}: not a valid experiment file: {reason}")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where}: not valid TOML: {error}") from None
    except (ValueError, OverflowError, RecursionError) as error:
        raise UsageError(f"{where}: not valid TOML: {_plain_reason(error)}") from None


def apply_override(content: dict[str, Any], override: str) -> None:
    """Write the value of a ``KEY=VALUE`` setting into the content of a file.

    Raises:
        UsageError: the setting is malformed, too long or too deeply nested.
    """
    where = f"--set {tidy(override, 300)}"
    key, equals, text = override.partition("=")
    advice = "write it as --set section.setting=value"
    if len(key) > MAX_KEY:
        raise UsageError(f"{where}: its key has {len(key):,} characters; {advice}")
    # A dot in quotes belongs to a name: backbone."timm:resnet18.a1_in1k".image_size.
    parts = [part.strip('"') for part in re.split(r'\.(?=(?:[^"]*"[^"]*")*[^"]*$)', key.strip())]
    if len(parts) > MAX_PARTS:
        raise UsageError(f"{where}: its key has {len(parts)} parts; {advice}")
    if not equals or not all(parts):
        raise UsageError(f"{where}: {advice}")
    value = _parse_value(text, where)
    table = content
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise UsageError(f"{where}: '{tidy(part, 100)}' is a setting, not a section")
    table[parts[-1]] = value


def _parse_value(text: str, where: str) -> Any:
    """Return a value written as TOML; other text is a string."""
    if reason := _too_costly(text):
        if text.lstrip().startswith(("[", "{")):
            raise UsageError(f"{where}: {reason}")
        return text
    try:
        found = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    except (ValueError, OverflowError, RecursionError) as error:
        raise UsageError(f"{where}: {_plain_reason(error)}") from None
    # More lines with settings of their own are no value.
    return found["value"] if found.keys() == {"value"} else text


def _plain_reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "its lists or tables are nested too deeply; write them flat"
    return f"an integer has too many digits; write at most {MAX_DIGITS:,}"
