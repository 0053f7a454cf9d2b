"""Problems and remarks of a pass, as they are kept beside its tables, and as notes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence

from benchmark.specs import Problem, Remark


def to_json(problems: Sequence[Problem]) -> str:
    """Return problems as JSON."""
    return json.dumps([problem._asdict() for problem in problems])


def from_json(text: str | bytes) -> list[Problem]:
    """Return the problems of JSON."""
    return [Problem(**item) for item in json.loads(text)]


def remarks_of(metadata: Mapping[bytes, bytes]) -> list[Remark]:
    """Return the remarks in the metadata of a table."""
    return [Remark(*item) for item in json.loads(metadata.get(b"remarks", b"[]"))]


def remark_notes(remarks: Sequence[Remark]) -> list[str]:
    """Return the sum of each remark as a note, with its first patch as an example."""
    sums: Counter[str] = Counter()
    first: dict[str, str] = {}
    for text, num, patch_id in remarks:
        sums[text] += num
        first.setdefault(text, f", e.g. '{patch_id}'" if patch_id else "")
    return [f"{text}: {num:,}{first[text]}." for text, num in sums.items()]
