"""Which flips are embedded, and that they change no identity of what was there before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmark.config import build
from benchmark.derived import Derivation
from benchmark.errors import UsageError
from benchmark.experiment.cells import count_flips
from benchmark.experiment.flipped import FlippedPatches, embedding_seconds, flipped_patches
from benchmark.experiment.upkeep import _folders
from benchmark.protocol_settings import ProtocolConfig
from benchmark.stages.embed import EmbedStage
from benchmark.stages.evaluate.flipped import flip_notes
from tests.experiment.test_context import BACKBONE, CONTENT, HEAD, context

ALL = {"protocol": {"flips": "all"}}
HELD_OUT = ("val", "test")


def names(**protocol: Any) -> list[str]:
    return [item.name for item in flipped_patches(ProtocolConfig(**protocol))]


def test_train_is_flipped_where_it_may_be_val_or_test() -> None:
    assert names() == []
    assert names(flips="horizontal") == ["flipped left-right"]
    assert names(flips="all", shots=[1]) == [
        "flipped left-right", "flipped up-down", "flipped both"
    ]  # fmt: skip
    both = ["flipped left-right", "flipped left-right train"]
    assert names(flips="horizontal", cross_validation=3) == both
    assert names(flips="horizontal", transfer="leave_one_region_out") == both


def test_flips_leave_what_was_embedded_and_predict_anew(tmp_path: Path) -> None:
    plain, flipped = context(tmp_path), context(tmp_path, ALL)
    assert flipped.embeddings(BACKBONE).path == plain.embeddings(BACKBONE).path
    assert plain.flipped(BACKBONE) == {}
    assert "flips" not in plain.predictions_inputs(BACKBONE, HEAD, 0)
    assert "flips" not in plain.finetuned_inputs(BACKBONE, 0)
    assert "flips" not in plain.scores_inputs()
    for given, there in zip(plain.prediction_cells(), flipped.prediction_cells(), strict=True):
        assert given.artefact.path != there.artefact.path


def test_more_flips_and_further_train_sets_embed_only_what_is_new(tmp_path: Path) -> None:
    one = context(tmp_path, {"protocol": {"flips": "horizontal"}})
    all_of_them = context(tmp_path, ALL)
    moved = context(tmp_path, {"protocol": {**ALL["protocol"], "transfer": {"test": ["east"]}}})
    paths = [{item.path for item in given.flipped(BACKBONE).values()} for given in (one, moved)]
    more = {item.path for item in all_of_them.flipped(BACKBONE).values()}
    assert [len(item) for item in (*paths, more)] == [1, 6, 3]
    assert paths[0] < more < paths[1]
    # What is predicted for ``all`` does not depend on the other train sets.
    first = [cell.artefact.path for cell in all_of_them.prediction_cells()]
    second = [cell.artefact.path for cell in moved.prediction_cells() if cell.train_set == "all"]
    assert first == second


def test_each_flip_is_a_cell_of_embed_with_a_name(tmp_path: Path) -> None:
    cells = EmbedStage().cells(context(tmp_path, {"protocol": {"flips": "horizontal"}}))
    assert [cell.label for cell in cells] == ["net", "net / flipped left-right"]
    assert cells[1].artefact.name == "toy-net-flipped-left-right"
    assert [cell.flipped for cell in cells] == [None, FlippedPatches("left-right", HELD_OUT)]


def test_artefacts_of_flips_are_used(tmp_path: Path) -> None:
    given = context(tmp_path, ALL)
    assert {item.folder for item in given.flipped(BACKBONE).values()} < _folders(given, {})


@pytest.mark.parametrize(
    "what", [{"product": object()}, {"derived": Derivation(parents=("net",), dtype="float16")}]
)
def test_stored_embeddings_are_not_flipped_and_a_note_says_so(
    tmp_path: Path, what: dict[str, Any]
) -> None:
    product = replace(BACKBONE, **what, name="mine")
    given = context(tmp_path, ALL)
    given.backbones = (BACKBONE, product)
    assert given.flipped(product) == {}
    plain = context(tmp_path)
    plain.backbones = given.backbones
    before = plain.predictions_inputs(product, HEAD, 0)
    assert given.predictions_inputs(product, HEAD, 0) == before
    notes = flip_notes(given)
    assert "(left-right, up-down, both)" in notes[0] and "device-seconds include" in notes[0]
    assert notes[1].startswith("mine: stored embeddings, without pixels")
    given.backbones = (product,)
    assert len(flip_notes(given)) == 1
    assert flip_notes(context(tmp_path)) == []


def test_the_seconds_of_embeddings_are_those_of_all_flips_or_unknown(tmp_path: Path) -> None:
    given = context(tmp_path, {"protocol": {"flips": "all"}})
    manifest = {"seconds": {"device": 4.0}}
    artefacts = list(given.flipped(BACKBONE).values())
    assert embedding_seconds(manifest, []) == 4.0
    for number, artefact in enumerate(artefacts):
        assert embedding_seconds(manifest, artefacts) is None
        artefact.commit({"seconds": {"device": number + 1.0}})
    assert embedding_seconds(manifest, artefacts) == 10.0
    assert embedding_seconds({}, artefacts) is None


def test_what_is_left_to_embed_is_counted(tmp_path: Path) -> None:
    given = context(tmp_path, {"protocol": {"flips": "horizontal", "cross_validation": 2}})
    plain, held_out, train = EmbedStage().cells(given)
    assert count_flips(plain, 12, 8) is None
    assert (count_flips(held_out, 12, 8), count_flips(train, 12, 8)) == (4, 8)
    assert count_flips(train, None, None) is None


@pytest.mark.parametrize("value", ["vertical", True, "", None, 3, ["all"], "x" * 10_000])
def test_another_value_is_refused_in_one_line(value: Any) -> None:
    with pytest.raises(UsageError, match=r"\[protocol\].*'flips'.*'none', 'horizontal'") as caught:
        build({**CONTENT, "protocol": {"flips": value}})
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500


def test_flips_stand_beside_folds() -> None:
    protocol = build({**CONTENT, "protocol": {"flips": "all", "cross_validation": 3}}).protocol
    assert (protocol.flips, protocol.cross_validation) == ("all", 3)
