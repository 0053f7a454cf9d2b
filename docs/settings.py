"""Write docs/SETTINGS.md from the docstrings, types and limits of an experiment's models.

python -m docs.settings
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from benchmark import config

PAGE = Path(__file__).with_name("SETTINGS.md")
HEAD = """# Settings

<!-- Written by `python -m docs.settings` from benchmark/config.py and the tables it names. -->

An experiment is a file in TOML. Each setting can also be given on the command line, as
`--set embed.batch_size=64` or `--set 'backbone."hf:org/name".pooling=cls'`. Unknown settings, wrong
types and values outside the limits are refused before anything runs. `auto` means that the
benchmark chooses.
"""
PLACES = {name: f'[{name}."NAME"]' for name in ("backbone", "head", "metric")}
"""Headers of tables whose name the user chooses."""


def write_page() -> str:
    """Return the page."""
    schema = config.Experiment.model_json_schema()
    properties = {key: value for key, value in schema["properties"].items() if key != "path"}
    root = {key: value for key, value in properties.items() if not tables_of(value)}
    parts = [HEAD, *section("The experiment", "Before the first table.", config.Experiment, root)]
    for key, value in properties.items():
        for name in tables_of(value):
            parts += table(PLACES.get(key, f"[{key}]"), name, schema["$defs"])
    return "\n".join(parts)


@functools.cache
def models() -> dict[str, type[BaseModel]]:
    """Return the models of an experiment file by name."""
    found: dict[str, type[BaseModel]] = {}
    waiting: list[Any] = [config.Experiment]
    while waiting:
        kind = waiting.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            if kind.__name__ not in found:
                found[kind.__name__] = kind
                waiting += [field.annotation for field in kind.model_fields.values()]
        else:
            waiting += get_args(kind)
    return found


def table(header: str, name: str, definitions: Mapping[str, Any]) -> list[str]:
    """Return the lines of a table and of the tables in it."""
    model = models()[name]
    properties = definitions[name]["properties"]
    nested = {key: found for key, value in properties.items() for found in tables_of(value)}
    plain = {key: value for key, value in properties.items() if key not in nested}
    _, _, summary = plain_text(inspect.getdoc(model) or "").partition(": ")
    if not plain and len(set(nested.values())) == 1:
        # Tables of one kind: their settings are shown once.
        (inner,) = set(nested.values())
        keys = ", ".join(f"`{key}`" for key in nested)
        text = plain_text(inspect.getdoc(models()[inner]) or "")
        summary = f"{summary} Tables: {keys}. {text}"
        model, properties, nested = models()[inner], definitions[inner]["properties"], {}
    lines = section(f"`{header}`", summary, model, properties)
    for key, inner in nested.items():
        lines += table(f"{header[:-1]}.{key}]", inner, definitions)
    return lines


def section(title: str, summary: str, model: type, properties: Mapping[str, Any]) -> list[str]:
    """Return the lines of one table of settings."""
    meanings = docstrings(model)
    lines = [f"## {title}", "", summary[:1].upper() + summary[1:], ""]
    lines += ["| setting | values | default | meaning |", "|---|---|---|---|"]
    for key, value in properties.items():
        default = f"`{literal(value['default'])}`" if "default" in value else "needed"
        cells = (f"`{key}`", values_of(value), default, meanings.get(key, ""))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return [*lines, ""]


def docstrings(model: type) -> dict[str, str]:
    """Return the docstring below each field of a model."""
    (tree,) = ast.parse(inspect.getsource(model)).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, following in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(following, ast.Expr):
            text = ast.literal_eval(following.value)
            found[ast.unparse(field.target)] = plain_text(inspect.cleandoc(text))
    return found


def plain_text(text: str) -> str:
    """Return a docstring as one line of Markdown."""
    return re.sub(r"``(.+?)``", r"`\1`", " ".join(text.split()))


def tables_of(value: Mapping[str, Any]) -> list[str]:
    """Return the name of the model of a setting that is a table; empty for other settings."""
    inner = value.get("additionalProperties")
    options = (value, *value.get("anyOf", ()), inner if isinstance(inner, dict) else {})
    return [item["$ref"].rpartition("/")[2] for item in options if "$ref" in item]


def values_of(value: Mapping[str, Any]) -> str:
    """Return the type and the limits of a setting in words."""
    # Alternatives that are told apart by a function are listed as one of them.
    options = value.get("anyOf") or value.get("oneOf")
    if options:
        found = [values_of(item) for item in options if item.get("type") != "null"]
        return " or ".join(found)
    if "enum" in value:
        return ", ".join(f"`{literal(item)}`" for item in value["enum"])
    if "const" in value:
        return f"`{literal(value['const'])}`"
    if value.get("type") == "array":
        if "prefixItems" in value:
            return f"{len(value['prefixItems'])} of: {values_of(value['prefixItems'][0])}"
        low, high = value.get("minItems", 0), value.get("maxItems")
        size = f"{low} to {high:,}" if high else f"at least {low}"
        return f"list of {size}: {values_of(value['items'])}"
    kind = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false"}
    return f"{kind.get(value.get('type', ''), 'table')}{limits_of(value)}"


def limits_of(value: Mapping[str, Any]) -> str:
    """Return the limits of a number in words; empty without any."""
    words = {
        "minimum": "at least", "exclusiveMinimum": "above",
        "maximum": "at most", "exclusiveMaximum": "below",
    }  # fmt: skip
    found = [f"{word} {value[key]:,}" for key, word in words.items() if key in value]
    return f", {' and '.join(found)}" if found else ""


def literal(value: Any) -> str:
    """Return a value as TOML writes it."""
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(literal, value))}]"
    return str(value)


if __name__ == "__main__":
    PAGE.write_text(write_page(), encoding="utf-8")
