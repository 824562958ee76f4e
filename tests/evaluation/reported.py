"""A small evaluation with kept pictures, for the tests of its page."""

import json
import re
from base64 import b64decode
from io import BytesIO

import numpy as np
from PIL import Image
from test_eval import run, smooth

METRICS = ("psnr_y", "ssim_y", "grid", "niqe")
HOSTILE = "<img src onerror alert(1)>"
"""A name has no = and no slash."""


def evaluated(root, *, names=("good", "bad"), images=("a", "b", "c"), truth=True, keep=True):
    """Writes an evaluation of bicubic and two folders, where "bad" is darkest on the last image."""
    for i, image in enumerate(images):
        smooth(root / "gt" / f"{image}.png", 96, 64, i)
        smooth(root / "lq" / f"{image}.png", 24, 16, i)
        whole = np.asarray(Image.open(root / "gt" / f"{image}.png")).astype(int)
        for folder, shift in (("good", 2), ("bad", 10 * (i + 1))):
            other = whole.copy()
            other[:32, 64:] -= shift  # one corner
            (root / folder).mkdir(exist_ok=True)
            Image.fromarray(other.clip(0, 255).astype(np.uint8)).save(root / folder / f"{image}.png")
    pictures = ["--pairs", f"mine={root / 'lq'}", root / "gt"] if truth else ["--lq", f"mine={root / 'lq'}"]
    who = [x for name, folder in zip(names, ("good", "bad"), strict=True)
           for x in ("--results", f"{name}={root / folder}")]  # fmt: skip
    metrics = [x for name in METRICS for x in ("--metric", name)]
    more = ["--keep-pictures"] if keep else []
    assert run("--model", "bicubic", *who, *pictures, *metrics, "--out", root / "out", *more) == 0
    return root / "out"


def data_of(page):
    """What the script of a page (bytes) is given."""
    return json.loads(re.search(rb'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def pixels(uri):
    """Of a data URI: uint8 [H, W, 3]."""
    with Image.open(BytesIO(b64decode(uri.removeprefix("data:image/webp;base64,"), validate=True))) as image:
        return np.asarray(image.convert("RGB"))
