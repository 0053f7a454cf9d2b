"""Checkpoint folders of strangers: whatever they hold, a backbone comes out or one clear line."""

from __future__ import annotations

import copy
import json
import math
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from benchmark.catalog.backbones import find_backbone
from benchmark.catalog.huggingface.documents import explained
from benchmark.catalog.huggingface.files import locate
from benchmark.catalog.huggingface.sizes import bounded
from benchmark.errors import UsageError
from benchmark.fields import shown
from benchmark.networks.classifier import build_classifier
from benchmark.specs import Backbone
from tests.test_doors import FUZZ
from tests.tiny_models import write_tiny

ROOT = Path(__file__).resolve().parents[2]

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = "model-1-of-1.safetensors"

Edit = Callable[..., Path]


def short(value: object) -> str:
    """Return the id of a test: no long texts, no addresses."""
    return shown(value, 40)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("strange")


@pytest.fixture(scope="module")
def tiny(root: Path) -> Callable[[str], Path]:
    """Return the folder of a tiny checkpoint; it must not be changed."""
    return lambda family: write_tiny(root / family, family)


def read(folder: Path, name: str) -> dict[str, Any]:
    """Return a file of JSON, the header of the weights, or an index of the weights."""
    if name == INDEX:
        names = read(folder, WEIGHTS)
        return {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, SHARD)}
    data = (folder / name).read_bytes()
    if name == WEIGHTS:
        data = data[8 : 8 + int.from_bytes(data[:8], "little")]
    content: dict[str, Any] = json.loads(data)
    content.pop("__metadata__", None)
    return content


@pytest.fixture(scope="module")
def edit(root: Path, tiny: Callable[[str], Path]) -> Edit:
    """Return a copy of a tiny checkpoint in which one value is another."""

    def change(family: str, name: str, *path: Any, value: Any) -> Path:
        source, folder = tiny(family), root / "edited"
        content = copy.deepcopy(read(source, name))
        place: Any = content
        for key in path[:-1]:
            place = place.setdefault(key, {}) if isinstance(place, dict) else place[key]
        if path:
            place[path[-1]] = value
        text = json.dumps(content if path else value).encode()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for file in (CONFIG, PROCESSOR, WEIGHTS):
            (folder / file).symlink_to(source / file)
        if name == INDEX:
            (folder / WEIGHTS).rename(folder / SHARD)
        if name == WEIGHTS:
            data = (source / WEIGHTS).read_bytes()
            text = (
                struct.pack("<Q", len(text)) + text + data[8 + int.from_bytes(data[:8], "little") :]
            )
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(text)
        return folder

    return change


def resolve(folder: Path) -> Backbone:
    return find_backbone(f"hf:{folder}", where="x.toml")


def embed(backbone: Backbone) -> torch.Tensor:
    side = backbone.image_size or 32
    with torch.inference_mode():
        found: torch.Tensor = backbone.build(3)(torch.zeros(1, 3, side, side))
    return found


def complaint(use: Callable[[], Any], match: str) -> str:
    """Return the one line that a use ends in."""
    began = time.process_time()
    with pytest.raises(UsageError, match=match) as caught:
        use()
    # Of this process alone, so that a busy machine does not matter.
    assert time.process_time() - began < 5
    line = str(caught.value)
    assert len(line) <= 2000
    assert line.isprintable()
    return line


# --- names ---

NEITHER = r"neither a folder nor a model of the hub; write hf:PATH/TO/FOLDER or hf:ORG/NAME"


@pytest.mark.parametrize(
    "name",
    [
        ".a/b", "a/b.", "--/--", "a--b/c", "a..b/c", "ü/ü", "a/b.git", "a/" + "b" * 300, "b" * 300,
        "a/b@..", "a/b@../../main", "a/b@/etc/hosts", "a/b@x/./y", "a/b\n", "a\0b", "\ud800/x",
    ],
    ids=short,
)  # fmt: skip
def test_a_name_that_the_hub_refuses_is_refused_before_any_request(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: pytest.fail("a request"))
    complaint(lambda: find_backbone(f"hf:{name}", where="x.toml"), NEITHER)


@pytest.mark.parametrize("name", ["~no-such-user/x", "./" + "b" * 300, "/\0"], ids=short)
def test_a_path_that_no_system_has_is_no_folder(name: str) -> None:
    complaint(lambda: find_backbone(f"hf:{name}", where="x.toml"), r"there is no folder /")


# --- config.json ---


@pytest.mark.parametrize(
    ("family", "path", "value", "message"),
    [
        ("vit", "hidden_size", 10**9, r"config.json has hidden_size = 1000000000; .* 1 to 48$"),
        ("vit", "hidden_size", 33, r"hidden_size = 33, but no vector of its weights has that len"),
        ("vit", "hidden_size", -32, r"hidden_size = -32; .*integers from 1 to 48"),
        ("vit", "hidden_size", True, r"hidden_size = True; "),
        ("vit", "hidden_size", "32" * 9999, r"hidden_size = '3232.*23232'; "),
        ("vit", "num_hidden_layers", 10**9, r"num_hidden_layers = 1000000000; "),
        ("vit", "num_attention_heads", 0, r"num_attention_heads = 0; "),
        ("vit", "intermediate_size", {"a": 1}, r"intermediate_size = {'a': 1}; "),
        ("vit", "image_size", 10**6, r"image_size = 1000000; .* 1 to 4,096"),
        ("vit", "patch_size", [], r"patch_size = \[\]; "),
        ("vit", "model_type", ["vit"], r"has no model_type but \['vit'\]; name a checkpoint"),
        ("vit", "layer_norm_eps", math.nan, r"config.json has layer_norm_eps = nan, which is no f"),
        ("vit", "id2label", {"0": math.inf}, r"config.json has id2label.0 = inf, which is no fin"),
        ("vit", "x", nested(15), r"config.json is nested more than 16 deep in 'x.0.0.0.0.0.0.0.0"),
        ("beit", "intermediate_size", 10**9, r"intermediate_size = 1000000000; "),
        ("convnext", "hidden_sizes", [8, 16, 24, "40"], r"hidden_sizes = \[8, 16, 24, '40'\]; "),
        ("convnext", "depths", [1, 1, 10**9, 1], r"depths = \[1, 1, 1000000000, 1\]; "),
        ("resnet", "hidden_sizes", {"0": 8}, r"hidden_sizes = {'0': 8}; "),
        ("resnet", "hidden_sizes", [], r"hidden_sizes = \[\]; "),
        ("swin", "embed_dim", "16", r"embed_dim = '16'; "),
        ("swin", "num_heads", [2, -2], r"num_heads = \[2, -2\]; "),
        ("mobilenet_v2", "depth_multiplier", "0.35", r"depth_multiplier = '0.35'; set a number"),
        ("mobilenet_v2", "depth_multiplier", 0, r"depth_multiplier = 0; set a number above 0"),
        ("mobilenet_v2", "depth_multiplier", 1e300, r"depth_multiplier = 1e\+300; set a number"),
        ("clip", "vision_config", "tiny", r"config.json has vision_config = 'tiny'; give a JSON o"),
        ("clip", "vision_config.hidden_size", 10**9, r"hidden_size = 1000000000; "),
        ("siglip", "vision_config.num_hidden_layers", 0, r"num_hidden_layers = 0; "),
    ],
    ids=short,
)
def test_a_strange_size_is_found_by_a_dry_run(
    family: str, path: str, value: Any, message: str, edit: Edit
) -> None:
    folder = edit(family, CONFIG, *path.split("."), value=value)
    line = complaint(lambda: resolve(folder), message)
    assert line.startswith("x.toml: backbone 'hf:")


@pytest.mark.parametrize(
    ("family", "path", "value", "message"),
    [
        ("vit", "hidden_act", "strange", r"config.json has hidden_act = 'strange'; name an activ"),
        ("vit", "qkv_bias", "yes", r"cannot read its config.json: .*'qkv_bias' expected bool"),
        ("vit", "hidden_dropout_prob", -1, r"'vit' of its config.json cannot be built .*dropout"),
        ("vit", "dtype", "strange", r"transformers cannot read its config.json: .*'strange'"),
        ("vit", "encoder_stride", 10**7, r"config.json has encoder_stride = 10000000; set numbers"),
        ("vit", "image_size", 40, r"built with images of 32 px: .*size \(32\*32\) doesn't match"),
        ("vit", "per_layer_config", [[]], r"transformers cannot read its config.json: "),
        ("vit", "num_hidden_layers", 40, r"weights lack the tensor '.*layers.10.atten.* and 607"),
        ("resnet", "embedding_size", 99999, r"larger than its weights: at 'weight' of shape \[999"),
        ("swin", "mlp_ratio", 1e6, r"larger than its weights: at 'weight' of shape \[16000000, 16"),
        ("swin", "window_size", 10**5, r"its weights have another shape|larger than its weights"),
        ("mobilenet_v2", "expand_ratio", 10**5, r"describes a network that is larger"),
        ("mobilenet_v2", "depth_divisible_by", 0, r"config.json cannot be built .*: ZeroDivisio"),
        ("clip", "vision_config.patch_size", 7, r"built with images of 32 px|another shape"),
        ("siglip", "vision_config.hidden_size", None, r"'hidden_size' expected int, got NoneType"),
    ],
    ids=short,
)
def test_what_only_transformers_can_find_is_one_line_too(
    family: str, path: str, value: Any, message: str, edit: Edit
) -> None:
    folder = edit(family, CONFIG, *path.split("."), value=value)
    complaint(lambda: resolve(folder).build(3), message)
    if family != "siglip":
        complaint(lambda: build_classifier(resolve(folder), 3, 2), message)


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        (CONFIG, "return_dict", False),
        (CONFIG, "dtype", "float16"),
        (CONFIG, "extra", 10**30),
        (PROCESSOR, "resample", None),
        (PROCESSOR, "do_resize", None),
        (PROCESSOR, "do_resize", False),
    ],
    ids=short,
)
def test_what_is_only_unusual_is_a_backbone(name: str, path: str, value: Any, edit: Edit) -> None:
    assert embed(resolve(edit("vit", name, path, value=value))).shape == (1, 32)


def test_an_unknown_kind_of_model_is_bounded_as_well(tmp_path: Path, edit: Edit) -> None:
    folder = edit("vit", CONFIG, value={"model_type": "poolformer", "depths": [1, 1, 10**9, 1]})
    complaint(lambda: resolve(folder), r"depths = \[1, 1, 1000000000, 1\]; set numbers of at most")
    folder = edit("vit", CONFIG, value={"model_type": "poolformer", "depths": [999] * 4})
    complaint(lambda: resolve(folder), r"larger than its weights: .* in 1,401 parts; use config")


def test_a_dry_run_of_strange_folders_imports_nothing_heavy(edit: Edit, root: Path) -> None:
    folders = []
    for number, (name, path, value) in enumerate(
        [(CONFIG, "hidden_size", 10**9), (PROCESSOR, "size", 10**7), (INDEX, "weight_map", [1])]
    ):
        folders.append(shutil.move(edit("vit", name, path, value=value), root / f"dry{number}"))
    code = (
        "import sys; from benchmark.catalog.backbones import find_backbone\n"
        "from benchmark.errors import UsageError\n"
        "for folder in sys.argv[1:]:\n"
        "    try: find_backbone(f'hf:{folder}')\n"
        "    except UsageError: print('refused')\n"
        "print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, folders)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split("\n") == ["refused"] * 3 + ["[]", ""]


# --- preprocessor_config.json ---


@pytest.mark.parametrize(
    ("family", "path", "value", "message"),
    [
        (
            "vit",
            "image_mean",
            [0.5, math.nan, 0.5],
            r"preprocessor_config.json has image_mean.1 = ",
        ),
        ("vit", "image_mean", [0.5, 0.5], r"has image_mean = \[0.5, 0.5\]; give one number for ea"),
        ("vit", "image_mean", [0.5, 0.5, True], r"has image_mean = \[0.5, 0.5, True\]; give one"),
        ("vit", "image_std", [0.5, math.inf, 0.5], r"has image_std.1 = inf, which is no finite n"),
        ("vit", "image_std", [0.5, -1, 0.5], r"has image_std = \[0.5, -1, 0.5\]; .* from 1e-06 to"),
        ("vit", "image_std", 0, r"has image_std = \[0\]; give one number"),
        ("vit", "image_std", 1e-300, r"has image_std = \[1e-300\]; give one number"),
        ("vit", "image_std", {"a": 1}, r"has image_std = {'a': 1}; give one number"),
        ("vit", "rescale_factor", 0, r"has rescale_factor = 0; set a number above 0"),
        ("vit", "rescale_factor", "1", r"has rescale_factor = '1'; set a number above 0"),
        ("vit", "rescale_factor", math.inf, r"has rescale_factor = inf, which is no finite number"),
        ("vit", "size", 5_000_000, r"has size = 5000000; set at most 4,096 px"),
        ("vit", "size", {"height": 9999, "width": 9999}, r"has size = .*9999}; set at most 4,096"),
        ("vit", "size", 0, r"has no square size but 0; set a number of px"),
        ("vit", "size", {"height": 0, "width": 32}, r"has no square size but {'height': 0, 'wid"),
        ("vit", "size", {"height": [], "width": []}, r"has no square size but {'height': \[\]"),
        ("vit", "size", -32, r"has no square size but -32"),
        ("vit", "pad_size", {"height": 10**6}, r"has pad_size = {'height': 1000000}; set at most"),
        ("clip", "crop_size", 0, r"has no square crop_size but 0"),
        ("clip", "crop_size", {"height": 64, "width": 64}, r"crops 64 px from 32 px; set size"),
        ("convnext", "crop_pct", 0, r"has crop_pct = 0; set a number from 0.1 to 1"),
        ("convnext", "crop_pct", 1e-9, r"has crop_pct = 1e-09; set a number from 0.1 to 1"),
        ("vit", "resample", "bicubic", r"has resample = 'bicubic'; set 2 \(bilinear\) or 3"),
        ("vit", "resample", [3], r"has resample = \[3\]; set 2"),
        ("vit", "do_resize", "no", r"has do_resize = 'no'; set true or false"),
        ("vit", "image_processor_type", ["x"], r"has image_processor_type = \['x'\]; name a class"),
        ("vit", "x", nested(500), r"preprocessor_config.json is nested more than 16 deep"),
    ],
    ids=short,
)
def test_a_strange_processor_is_found_by_a_dry_run(
    family: str, path: str, value: Any, message: str, edit: Edit
) -> None:
    complaint(lambda: resolve(edit(family, PROCESSOR, path, value=value)), message)


@pytest.mark.parametrize("name", [CONFIG, PROCESSOR, WEIGHTS, INDEX])
@pytest.mark.parametrize("value", [[], 3, "x", None])
def test_a_file_that_is_no_object_is_named(name: str, value: Any, edit: Edit) -> None:
    complaint(lambda: resolve(edit("vit", name, value=value)), rf"{name} is not a JSON object; f")


@pytest.mark.parametrize("name", [CONFIG, PROCESSOR, WEIGHTS, INDEX])
def test_a_file_that_no_parser_can_follow_is_named(name: str, edit: Edit) -> None:
    text = b'{"x": ' + b"[" * 10**5
    folder = edit("vit", name, "x", value=1)
    (folder / name).write_bytes(struct.pack("<Q", len(text)) * (name == WEIGHTS) + text)
    complaint(lambda: resolve(folder), rf"{name} is nested more than 16 deep; fetch the checkpoin")


def test_a_file_is_not_read_without_bounds(edit: Edit) -> None:
    folder = edit("vit", CONFIG, "x", value="x" * 2**24)
    complaint(lambda: resolve(folder), r"config.json is longer than 16,777,216 bytes; fetch")


# --- weights ---

BIAS = "vit.layernorm.bias"


@pytest.mark.parametrize(
    ("name", "path", "value", "message"),
    [
        (INDEX, ("weight_map",), [SHARD], r"index.json has weight_map = \['model-1.*; give a JSO"),
        (INDEX, ("weight_map", BIAS), [SHARD], r"names \['model-1-of-1.safetensors'\] for the te"),
        (INDEX, ("weight_map", BIAS), "../" + SHARD, r"names '../model.* which is not a shard bes"),
        (INDEX, ("weight_map", BIAS), "a" * 300 + SHARD, r"names 'aaa.* which is not a shard"),
        (INDEX, ("weight_map", BIAS), "b.safetensors", r"the weights b.safetensors are missing"),
        (INDEX, ("metadata",), 3, r"index.json has metadata = 3; give a JSON object"),
        (INDEX, ("x",), nested(500), r"index.json is nested more than 16 deep"),
        (WEIGHTS, (BIAS, "shape"), [-32], r"tensor 'vit.layernorm.bias' has shape = \[-32\], whic"),
        (WEIGHTS, (BIAS, "shape"), ["32"], r"has shape = \['32'\], which is no shape"),
        (WEIGHTS, (BIAS, "shape"), [2**63], r"has shape = \[9223372036854775808\], which is no sh"),
        (WEIGHTS, (BIAS, "shape"), [1] * 99, r"has shape = \[1, 1.*, which is no shape"),
        (WEIGHTS, (BIAS, "shape"), [16], r"has data_offsets = .*F32 of shape \[16\] takes 64 byte"),
        (WEIGHTS, (BIAS, "dtype"), "F33", r"has dtype = 'F33', which is unknown"),
        (WEIGHTS, (BIAS, "dtype"), [], r"has dtype = \[\], which is unknown"),
        (WEIGHTS, (BIAS, "dtype"), "F16", r"but F16 of shape \[32\] takes 64 bytes"),
        (WEIGHTS, (BIAS, "data_offsets"), [0, 10**12], r"has data_offsets = \[0, 1000000000000\]"),
        (WEIGHTS, (BIAS, "data_offsets"), [-128, 0], r"has data_offsets = \[-128, 0\], but F32"),
        (WEIGHTS, (BIAS, "data_offsets"), [0, 128], r"data_offsets = \[0, \d+\], but the tensor b"),
        (WEIGHTS, (BIAS, "data_offsets"), [10**9, 10**9 + 128], r", but the tensor before it ends"),
        (WEIGHTS, (BIAS,), 3, r"has dtype = None, which is unknown"),
        (WEIGHTS, ("__metadata__",), 3, r"header of .* has __metadata__ = 3; give a JSON object"),
        (WEIGHTS, (BIAS, "x"), nested(500), r"the header of .* is nested more than 16 deep"),
    ],
    ids=short,
)
def test_strange_weights_are_found_by_a_dry_run(
    name: str, path: tuple[str, ...], value: Any, message: str, edit: Edit
) -> None:
    complaint(lambda: resolve(edit("vit", name, *path, value=value)), message)


def test_an_index_of_one_shard_is_a_backbone(edit: Edit) -> None:
    assert embed(resolve(edit("vit", INDEX, "x", value=1))).shape == (1, 32)


@pytest.mark.parametrize(
    ("shape", "offsets", "message"),
    [
        ([32], (0, 128), ""),
        ([-32], (0, 128), r"'a' has shape = \[-32\], which is no shape"),
        ([32], 3, r"its weights cannot be read: TypeError.*; try `hf download org/strange`"),
    ],
    ids=short,
)
def test_headers_that_the_hub_sends_are_checked(
    shape: list[int], offsets: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensor = SimpleNamespace(dtype="F32", shape=shape, data_offsets=offsets)
    files = SimpleNamespace(files_metadata={"x": SimpleNamespace(tensors={"a": tensor})})
    monkeypatch.setattr("huggingface_hub.get_safetensors_metadata", lambda *_, **__: files)
    checkpoint = locate("hf:org/strange", where="x.toml")
    monkeypatch.setattr(type(checkpoint), "_check_reachable", lambda *_: None)
    if message:
        complaint(checkpoint.headers, message)
    else:
        assert checkpoint.headers()[0]["a"]["shape"] == [32]


# --- networks of timm ---


@pytest.fixture(scope="module")
def timm_folder(root: Path) -> Path:
    import timm
    from timm.models import save_for_hf

    save_for_hf(timm.create_model("test_vit"), str(root / "timm"), safe_serialization=True)
    return root / "timm"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("pretrained_cfg",), [1], r"config.json has pretrained_cfg = \[1\]; give a JSON object"),
        (("pretrained_cfg", "crop_pct"), "x", r"pretrained_cfg is invalid: TypeError"),
        (("pretrained_cfg", "crop_pct"), 1e-6, r"cut out of \d+ px; set input_size and crop_pct"),
        (("pretrained_cfg", "input_size"), [3, 10**6, 10**6], r"has images of 1000000 px, cut out"),
        (
            ("pretrained_cfg", "std"),
            [1e-300] * 3,
            r"pretrained_cfg has std = \[1e-300.* from 1e-06",
        ),
        (("pretrained_cfg", "mean"), [{}] * 3, r"pretrained_cfg is invalid"),
        (("num_classes",), 10**9, r"config.json has num_classes = 1000000000; set numbers"),
        (("model_args",), [1], r"config.json has model_args = \[1\]; give a JSON object"),
        (("model_args", "depth"), 10**9, r"in model_args, has depth = 1000000000; set numbers of"),
        (("model_args", "depth"), 10**5, r"larger than its weights: .* in 1,801 parts"),
        (("model_args", "embed_dim"), 10**6, r"larger than its weights: at .* of shape \["),
        (("model_args", "act_layer"), {"a": 1}, r"has act_layer = {'a': 1} in model_args; only n"),
        (("model_args", "img_size"), [[160], {}], r"has img_size = \[\[160\], {}\]; only square"),
        (("model_args", "num_heads"), 0, r"test_vit cannot take 3 bands|timm cannot use its conf"),
        (("x",), nested(500), r"config.json is nested more than 16 deep"),
    ],
    ids=short,
)
def test_a_strange_network_of_timm_is_one_line(
    path: tuple[str, ...], value: Any, message: str, timm_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(timm_folder, tmp_path / "timm"))
    content = read(folder, CONFIG)
    place = content if len(path) == 1 else content.setdefault(path[0], {})
    place[path[-1]] = value
    (folder / CONFIG).write_text(json.dumps(content))
    complaint(lambda: resolve(folder), message)


# --- guards ---


@pytest.mark.parametrize(
    "error",
    [
        RecursionError("a\nb"), ZeroDivisionError(), OverflowError("x" * 9999), AssertionError(),
        IndexError("i"), StopIteration(), ImportError("m"), KeyError("k"), OSError(5, "e"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_whatever_fails_inside_a_library_is_one_line(error: Exception) -> None:
    def fail() -> None:
        with explained("x: its config.json cannot be used"):
            raise error

    complaint(fail, rf"^x: its config.json cannot be used: {type(error).__name__}.*; fetch the ch")


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), KeyboardInterrupt()],
    ids=lambda error: type(error).__name__,
)
def test_a_lack_of_memory_goes_on_as_it_is(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, explained("x"):
        raise error
    assert caught.value is error


HEADERS = [{"a": {"shape": [32]}}]


def test_a_network_of_many_parts_without_tensors_is_bounded() -> None:
    def build() -> None:
        with bounded(HEADERS, "x"):
            torch.nn.Sequential(*[torch.nn.Identity() for _ in range(2000)])

    complaint(build, r"x: its config.json describes a network .* in 1,011 parts; use config.json")
    torch.nn.Sequential(*[torch.nn.Identity() for _ in range(2000)])


def test_tensors_that_take_the_place_of_others_are_not_counted_twice() -> None:
    with bounded(HEADERS, "x"), torch.device("meta"):
        layer = torch.nn.Linear(3000, 3000)
        for _ in range(9):
            layer.weight = torch.nn.Parameter(torch.empty(3000, 3000))
        other = threading.Thread(target=lambda: torch.nn.Linear(9000, 9000, device="meta"))
        other.start()
        other.join()
        complaint(lambda: torch.nn.Linear(3000, 3000), r"at 'weight' of shape \[3000, 3000\] of Li")


# --- any value ---

FAMILIES = ("vit", "convnext", "clip", "siglip", "mobilenet_v2")
VALUES: list[Any] = [
    None, True, False, "", "strange", "\ud800\n", "x" * 9999, -1, 0, 1, 2, 3, 33, 999, 10**5, 10**9,
    10**30, 1e300, 1e-300, -0.5, 0.3, math.nan, math.inf, [], [0], [[]], [-1], [8, 16], [10**9],
    [10**5] * 50, ["x"], {}, {"a": 1}, {"height": 8, "width": 10**6}, "../x.safetensors",
    nested(14), nested(500),
]  # fmt: skip


def places(content: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    pairs = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in pairs:
        if key != "text_config":
            yield (*before, key)
            if isinstance(value, (dict, list)):
                yield from places(value, (*before, key))


@pytest.mark.parametrize("name", [CONFIG, PROCESSOR, WEIGHTS, INDEX])
def test_any_value_gives_a_backbone_or_one_line(
    name: str, tiny: Callable[[str], Path], edit: Edit
) -> None:
    known = [
        (family, path)
        for family in (FAMILIES if name in (CONFIG, PROCESSOR) else FAMILIES[:1])
        for path in places(read(tiny(family), name))
    ]
    value = st.sampled_from(VALUES) | st.integers() | st.floats() | st.text(max_size=9)

    @hypothesis.settings(
        derandomize=FUZZ == 1, deadline=None, max_examples=80 * FUZZ, database=None
    )
    @hypothesis.given(place=st.sampled_from(known), value=value)
    def check(place: tuple[str, tuple[Any, ...]], value: Any) -> None:
        family, path = place
        folder = edit(family, name, *path, value=value)
        began = time.process_time()
        try:
            backbone = resolve(folder)
            found = embed(backbone)
        except UsageError as error:
            assert len(str(error)) <= 2000
            assert str(error).isprintable()
            assert str(error).startswith(("x.toml: backbone 'hf:", 'x.toml [backbone."hf:'))
        else:
            assert found.shape == (1, backbone.dim)
        assert time.process_time() - began < 5

    check()
