"""Files of a transformers checkpoint: a folder or a repository of the Hugging Face hub.

Imports neither torch nor transformers, so that checking an experiment is fast.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmark.catalog.huggingface.documents import (
    MAX_JSON_BYTES,
    explained,
    field,
    parse_object,
)
from benchmark.catalog.huggingface.header import check_tensors, read_header, read_saved
from benchmark.catalog.options import backbone_what
from benchmark.errors import UsageError, first_line, one_line
from benchmark.fields import shown

CONFIG = "config.json"
PROCESSOR = "preprocessor_config.json"
NESTED_PROCESSOR = "processor_config.json"
"""Holds the image processor beside a tokenizer or others; transformers reads it first."""
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
BIN, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_FORMATS = ((WEIGHTS, INDEX), (BIN, BIN_INDEX))
"""A single file, or the index of its shards, of each format; the first that is there is read."""

_HUB = "https://huggingface.co"
_SHARD = re.compile(r"[\w-][\w.-]{0,200}\.(safetensors|bin)")
"""A bare file name beside the index: no path that leaves the checkpoint's folder."""
_MODULE = re.compile(r"\w{1,200}")
HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@(\w[\w.-]*(?:/\w[\w.-]*)*))?")
"""With a revision whose parts do not begin with a dot: they are folders of the hub's cache."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Location of a checkpoint. It pickles; each worker finds the files on its own node."""

    name: str
    """As the user wrote it, with ``hf:``."""
    where: str
    """Where the name was written; prefix of error messages."""
    path: str | None = None
    """The folder; None: on the hub."""
    repo: str = ""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    trusts_code: bool = False
    """Whether the checkpoint's own Python code may be run."""
    stand_in: str | None = None
    """The configuration of an image processor, as JSON, for a checkpoint without one."""

    @property
    def what(self) -> str:
        """Prefix of error messages."""
        return backbone_what(self.name, self.where)

    @property
    def source(self) -> str:
        """Origin, as model cards state it."""
        # Cards are published; the parent folders are private.
        return f"folder {Path(self.path).name}" if self.path else f"{_HUB}/{self.repo}"

    @property
    def folder_name(self) -> str | None:
        """Last part of the folder's path; None: on the hub."""
        return None if self.path is None else Path(self.path).name or "root"

    @property
    def fetch_line(self) -> str:
        """The command that fetches it from the hub."""
        revision = f" --revision {self.revision}" if self.revision else ""
        return f"hf download {self.repo}{revision}"

    def file(self, name: str) -> Path | None:
        """Return a file of the folder or the hub's cache, fetched if absent; None: no such file.

        Raises:
            UsageError: the hub has no such repository or cannot be reached.
        """
        found, is_final = self._look_up(name)
        return found if is_final else self._fetch(name)

    def need(self, name: str) -> Path:
        """Return a file like ``file``, or raise UsageError if the checkpoint has none."""
        found = self.file(name)
        if found is None:
            raise UsageError(f"{self.what}: there is no {name} in {self.path or self.repo}")
        return found

    def pinned(self, name: str = CONFIG) -> Checkpoint:
        """Return a checkpoint of the hub at the present commit of its branch.

        Args:
            name: the file that is looked up to find the commit.
        """
        # The cache keeps files under snapshots/COMMIT/.
        return replace(self, revision=self.need(name).parent.name)

    def has(self, name: str) -> bool:
        """Return whether a file is on this machine; fetches nothing."""
        return self._look_up(name)[0] is not None

    def _look_up(self, name: str) -> tuple[Path | None, bool]:
        """Return a local file or None, and whether that is final (no fetch needed)."""
        if self.path is not None:
            found = Path(self.path) / name
            # Path.is_file() fails on folders that may not be read.
            return (found if os.path.isfile(found) else None), True  # noqa: PTH113
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(self.repo, name, revision=self.revision)
        if isinstance(cached, str):
            return Path(cached), True
        # The cache also records files that the repository lacks.
        return None, cached is not None

    def _fetch(self, name: str) -> Path | None:
        from huggingface_hub import errors, hf_hub_download

        self._check_reachable(name)
        try:
            return Path(hf_hub_download(self.repo, name, revision=self.revision))
        except errors.RevisionNotFoundError:
            raise UsageError(
                f"{self.what}: the hub has no revision '{self.revision}'; check its name"
            ) from None
        except (errors.GatedRepoError, errors.RepositoryNotFoundError):
            raise UsageError(
                f"{self.what}: the hub has no such repository, or you have no access; check the "
                "name or log in with `hf auth login`"
            ) from None
        except errors.RemoteEntryNotFoundError:
            return None
        except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
            raise UsageError(
                f"{self.what}: {name} cannot be fetched ({one_line(error, limit=120)}); try "
                f"`{self.fetch_line}`"
            ) from None

    def _check_reachable(self, name: str) -> None:
        from huggingface_hub import constants

        if constants.HF_HUB_OFFLINE or not is_reachable(constants.ENDPOINT):
            raise UsageError(
                f"{self.what}: {name} is not in the local Hugging Face cache and the hub cannot "
                f"be reached; with network access, run `{self.fetch_line}`"
            )

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Return the content of a JSON file; None: no such file.

        Raises:
            UsageError: the file is not a JSON object, or one that no checkpoint has.
        """
        path = self.file(name)
        if path is None:
            return None
        try:
            with path.open("rb") as file:
                data = file.read(MAX_JSON_BYTES + 1)
        except OSError as error:
            raise UsageError(f"{self.what}: {path} cannot be read: {error.strerror}") from None
        return parse_object(data, f"{self.what}: {path}")

    def read_processor(self) -> tuple[dict[str, Any] | None, str]:
        """Return the configuration that transformers reads of the image processor, and its file.

        The configuration is None if there is none.

        Raises:
            UsageError: a file is not a JSON object, or one that no checkpoint has.
        """
        plain = None if self.has(NESTED_PROCESSOR) else self.read_json(PROCESSOR)
        if plain is None:
            nested = self.read_json(NESTED_PROCESSOR) or {}
            if "image_processor" in nested:
                found = field(nested, "image_processor", f"{self.what}: its {NESTED_PROCESSOR}")
                return dict(found), NESTED_PROCESSOR
        given = json.loads(self.stand_in) if self.stand_in else None
        return plain or self.read_json(PROCESSOR) or given, PROCESSOR

    def weights(self) -> list[Path]:
        """Return the files of the weights: one, or all shards.

        Raises:
            UsageError: there are none, or a shard is missing.
        """
        for single, index in self._present or _FORMATS:
            # A cache with shards may not record that there is no single file.
            found = None if self.has(index) and not self.has(single) else self.file(single)
            if found is not None:
                return [found]
            content = self.read_json(index)
            if content is not None:
                return self._shards(content, index)
        place = f" in {self.path}" if self.path else ""
        raise UsageError(
            f"{self.what}: there is no {WEIGHTS} and no {BIN}{place}; put the weights there, or "
            "save the model with save_pretrained()"
        )

    @property
    def _present(self) -> list[tuple[str, str]]:
        """The formats of weights of which a file is on this machine."""
        return [names for names in _FORMATS if any(map(self.has, names))]

    def _shards(self, content: Mapping[str, Any], index: str) -> list[Path]:
        field(content, "metadata", f"{self.what}: its {index}")
        names = field(content, "weight_map", f"{self.what}: its {index}")
        if not names:
            raise UsageError(f"{self.what}: {index} has no weight_map; fetch it again")
        for tensor, name in names.items():
            is_name = isinstance(name, str) and _SHARD.fullmatch(name)
            # The shards of an index are of its format.
            if not is_name or Path(name).suffix != Path(index.partition(".index")[0]).suffix:
                raise UsageError(
                    f"{self.what}: {index} names {shown(name)} for the tensor "
                    f"{shown(tensor, 100)}, which is not a shard beside it; fetch it again"
                )
        shards = {name: self.file(name) for name in sorted(set(names.values()))}
        missing = [name for name, path in shards.items() if path is None]
        if missing:
            raise UsageError(f"{self.what}: the weights {missing[0]} are missing; fetch them")
        return [path for path in shards.values() if path is not None]

    def headers(self) -> list[Mapping[str, Any]]:
        """Return the headers of all weights, from the hub if they are not fetched yet.

        Raises:
            UsageError: there are no weights, or a file is truncated or holds more than tensors.
        """
        if self.path is None and not self._present:
            from huggingface_hub import errors, get_safetensors_metadata

            self._check_reachable(WEIGHTS)
            failed = f"{self.what}: its weights cannot be read"
            with (
                explained(failed, f"try `{self.fetch_line}`"),
                suppress(errors.NotASafetensorsRepoError),
            ):
                files = get_safetensors_metadata(self.repo, revision=self.revision).files_metadata
                found: list[Mapping[str, Any]] = [
                    {
                        name: {**vars(item), "data_offsets": [*item.data_offsets]}
                        for name, item in file.tensors.items()
                    }
                    for file in files.values()
                ]
                for header in found:
                    check_tensors(header, self.what)
                return found
        return [
            read_header(path, what=self.what)
            if path.suffix == ".safetensors"
            else read_saved(path, what=self.what)
            for path in self.weights()
        ]

    def folder(self) -> Path:
        """Return the folder on this node; fetches every file that loading needs."""
        config = self.need(CONFIG)
        self.read_processor()
        self.weights()
        self.code()
        return config.parent

    def code(self) -> list[Path]:
        """Return the checkpoint's own Python modules; none unless their code may be run.

        Raises:
            UsageError: a module is missing or in another repository.
        """
        if not self.trusts_code:
            return []
        named = [
            item
            for document in (self.read_json(CONFIG), self.read_processor()[0])
            for value in self._auto_map(document or {}).values()
            for item in (value if isinstance(value, list) else [value])
            if isinstance(item, str)
        ]
        waiting, found = [item.partition(".")[0] for item in named], dict[str, Path]()
        while waiting:
            name = waiting.pop()
            if name in found:
                continue
            if "--" in name:
                raise UsageError(
                    f"{self.what}: its code is in another repository ({name.partition('--')[0]}), "
                    "which has no fixed version; fetch both and name the folder"
                )
            if not _MODULE.fullmatch(name):
                raise UsageError(
                    f"{self.what}: its code is named {shown(name)}, which is not a module"
                )
            path = self.file(f"{name}.py")
            if path is None:
                raise UsageError(f"{self.what}: its module {name}.py is missing; fetch it")
            found[name] = path
            text = path.read_text("utf-8", "replace")
            waiting += re.findall(r"^\s*from\s+\.(\w+)\s+import", text, re.M)
        return [found[name] for name in sorted(found)]

    def _auto_map(self, document: Mapping[str, Any]) -> Mapping[str, Any]:
        return field(document, "auto_map", f"{self.what}: its configuration")


def locate(name: str, *, where: str) -> Checkpoint:
    """Return the checkpoint named by ``hf:PATH`` or ``hf:ORG/NAME[@REVISION]``.

    Raises:
        UsageError: the name is neither a folder nor a repository.
    """
    from huggingface_hub import errors
    from huggingface_hub import utils as untyped

    utils: Any = untyped
    what = backbone_what(name, where)
    given = name.removeprefix("hf:")
    # The methods of Path fail on long names, and on the home folders of unknown users.
    folder = os.path.expanduser(given)  # noqa: PTH111
    if given and os.path.isdir(folder):  # noqa: PTH112
        # Workers run in another folder.
        return Checkpoint(name=name, where=where, path=str(Path(folder).resolve()))
    if given.startswith(("./", "../", "/", "~")):
        raise UsageError(f"{what}: there is no folder {Path(folder).absolute()}")
    neither = (
        f"{what}: neither a folder nor a model of the hub; write hf:PATH/TO/FOLDER or "
        "hf:ORG/NAME[@REVISION]"
    )
    match = HUB_ID.fullmatch(given)
    if match is None:
        raise UsageError(neither)
    try:
        utils.validate_repo_id(match[1])
    except errors.HFValidationError as error:
        raise UsageError(f"{neither} ({first_line(error)})") from None
    return Checkpoint(name=name, where=where, repo=match[1], revision=match[2])


def is_reachable(endpoint: str) -> bool:
    """Return whether a server answers within 3 s; the hub's client retries for half a minute."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return True
    host = endpoint.partition("://")[2].partition("/")[0]
    name, _, port = host.partition(":")
    try:
        socket.create_connection((name, int(port or 443)), timeout=3).close()
    except OSError:
        return False
    return True
