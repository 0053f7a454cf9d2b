"""An explorer of few patches whose numbers are known."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmark.page.explorer import Explorer, draw_sheets

EVIL = "</script><b>\"bold\"</b> & 'co'\nsecond line"
RIGHT_TO_LEFT = "\N{HEBREW LETTER ALEF}\N{HEBREW LETTER BET}\N{RIGHT-TO-LEFT OVERRIDE}cba"
CLASSES = (EVIL, RIGHT_TO_LEFT, "water")
PER_CLASS = 30


def explorer(**changes: Any) -> Explorer:
    """Return 90 patches of test and 9 of train.

    The first method has 5 of class 0 as class 2, of 80 that are in the table of counts; the second
    has only 2 of class 1 as class 0.
    """
    num_tested = PER_CLASS * len(CLASSES)
    tested = np.repeat(np.arange(3), PER_CLASS)
    labels = np.concatenate([tested, np.repeat(np.arange(3), 3)])
    first, second = tested.copy(), tested.copy()
    first[:5], second[PER_CLASS : PER_CLASS + 2] = 2, 0
    images = np.random.default_rng(0).integers(0, 255, (len(labels), 48, 48, 3), dtype=np.uint8)
    methods = []
    for name, predicted in (("network / knn", first), (EVIL, second)):
        counts = np.zeros((3, 3), int)
        np.add.at(counts, (tested, predicted), 1)
        confidence = 990 - 5 * np.arange(num_tested)
        methods.append(
            {
                "name": name,
                "counts": counts.tolist(),
                "predicted": predicted.tolist(),
                "confidence": confidence.tolist(),
            }
        )
    # More wrong patches than have a picture.
    methods[0]["counts"][0][2] = 80
    x, y = labels.astype(float), list(range(len(labels)))
    data = {
        "classes": list(CLASSES),
        "most": 20,
        "total": 165,
        "ids": [f"<i>{n}</i>" for n in range(len(labels))],
        "labels": labels.tolist(),
        "splits": [2] * num_tested + [0] * 9,
        "splitNames": ["train", "val", "test"],
        "regions": [k % 2 for k in range(len(labels))],
        "regionNames": ["east", RIGHT_TO_LEFT, "other regions", "unknown"],
        "neighbours": "",
        "truth": (np.arange(num_tested)[::-1] * 10).tolist(),
        "differ": [[0, 7], [7, 0]],
        "methods": methods,
        # Class 0 is at the left of the first map, at the right of the second.
        "maps": [
            {"name": "network", "axes": ["first", "second"], "x": x.tolist(), "y": y},
            {"name": EVIL, "axes": ["first", "second"], "x": (2 - x).tolist(), "y": [None, *y[1:]]},
        ],
        **changes,
    }
    return Explorer(
        sentences=("All patches are here.",),
        methods=("network / knn", EVIL),
        maps=("network", EVIL),
        sheets=draw_sheets(images, labels, 3),
        data=data,
    )
