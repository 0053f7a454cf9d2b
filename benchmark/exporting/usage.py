"""What an exported folder is, and the lines that run it: for the model card and the console."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from benchmark.exporting.running import ONNX, PACKAGE, PIPELINE, PROGRAM

_PIPELINE_CODE = """\
from transformers import pipeline

classify = pipeline("image-classification", model="path/to/this/folder")
print(classify("patch.png"))"""

_PROGRAM_CODE = """\
import sys

sys.path.insert(0, "path/to/this/folder")
from predict import Classifier

print(Classifier()("patch.png"))"""

_PACKAGE_CODE = """\
import numpy as np
from PIL import Image
from benchmark.exporting.running import open_model

model = open_model("path/to/this/folder")
pixels = np.asarray(Image.open("patch.png"))[None].transpose(0, 3, 1, 2)
print(model.classes[model.predict(pixels)[0].argmax()])"""


_ONNX_CODE = """\
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

folder = Path("path/to/this/folder")
session = onnxruntime.InferenceSession(folder / "model.onnx")
pixels = np.asarray(Image.open("patch.png"))[None].transpose(0, 3, 1, 2)
(probabilities,) = session.run(None, {"pixels": pixels})
classes = json.loads((folder / "benchmark.json").read_text())["classes"]
print(classes[probabilities[0].argmax()])"""


class Usage(NamedTuple):
    """One way to run a folder."""

    text: str
    """Sentences before the code."""
    code: str
    """Python, for a file ``patch.png`` or ``patch.npy``."""


def usages(description: Mapping[str, Any]) -> list[Usage]:
    """Return the ways to run a folder, the closest to the experiment first."""
    kind = description["kind"]
    compared = _compared(description)
    why = "; ".join(description.get("reasons", ()))
    if kind == PIPELINE:
        folded = "The head is folded into the network's own classifier. " if compared else ""
        text = f"It runs in the `image-classification` pipeline of transformers. {folded}{compared}"
        return [Usage(text.strip(), _PIPELINE_CODE)]
    if kind == ONNX:
        batch = "N" if description["takes_batches"] else "1"
        side, num_bands = description["patch_size"], len(description["bands"])
        text = (
            "`model.onnx` is one graph: the input `pixels` is uint8 "
            f"({batch}, {num_bands}, {side}, {side}), resizing and normalisation are inside, and "
            f"the output `probabilities` is float32 ({batch}, {len(description['classes'])}). "
            f"{_compared(description)}"
        )
        return [Usage(text, _of_bands(_ONNX_CODE, description))]
    if kind == PACKAGE:
        text = f"It needs this package, since {why}. {compared}"
        return [Usage(text.strip(), _of_bands(_PACKAGE_CODE, description))]
    text = (
        "`program.pt2` holds the network, its pooling, the scaler and the head; `predict.py` runs "
        f"it on the CPU with torch ({description['torch']} or newer), numpy and Pillow, and is a "
        f"command, too: `python predict.py FILE ...`. {compared}"
    )
    found = [Usage(text, _of_bands(_PROGRAM_CODE, description))]
    if (other := description.get("pipeline_difference")) is not None:
        text = (
            "It also runs in the `image-classification` pipeline of transformers, which resizes "
            f"images in its own way: there, the largest difference is {other:.1e}."
        )
        found.append(Usage(text, _PIPELINE_CODE))
    elif why:
        found[0] = Usage(f"{text} It is no pipeline of transformers, since {why}.", found[0].code)
    return found


def summarise(description: Mapping[str, Any]) -> str:
    """Return one line that says what kind of folder it is."""
    kind = description["kind"]
    names = {
        PIPELINE: "for the image-classification pipeline of transformers",
        PROGRAM: "a program of torch; predict.py in it runs without this package",
        PACKAGE: "a head that needs this package",
        ONNX: "one ONNX graph from pixels to probabilities, for ONNX Runtime",
    }
    text = names[kind]
    if description.get("pipeline_difference") is not None:
        text += ", and so does the image-classification pipeline of transformers"
    if "largest_difference" in description:
        text += f"; largest difference of a probability: {description['largest_difference']:.1e}"
    if description.get("reference"):
        text += f" from those {description['reference']}"
    return text


def _compared(description: Mapping[str, Any]) -> str:
    if "num_compared" not in description:
        return ""
    if "largest_difference" not in description:
        return "Its probabilities were not compared with those of the experiment."
    reference = description.get("reference")
    return (
        f"On {description['num_compared']} patches of the experiment, its probabilities differ by "
        f"at most {description['largest_difference']:.1e} from those of the experiment"
        f"{f' ({reference})' if reference else ''}."
    )


def _of_bands(code: str, description: Mapping[str, Any]) -> str:
    """Return the lines for images of these bands: pictures have one or three, arrays any number."""
    if len(description["bands"]) in (1, 3):
        return code
    picture = 'np.asarray(Image.open("patch.png"))[None].transpose(0, 3, 1, 2)'
    code = code.replace(picture, 'np.load("patch.npy")[None]').replace(
        "from PIL import Image\n", ""
    )
    return code.replace("patch.png", "patch.npy")
