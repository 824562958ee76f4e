"""Train a very small model on scikit-image's photographs, in about a minute, and use it.

    python examples/train.py OUT

It shows the loop, not quality. A real run: docs/train.md.
"""

import sys
from pathlib import Path

from PIL import Image
from skimage import data

from unistep import Upscaler
from unistep.training.loop import main

out = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example")
photographs = out / "photographs"
photographs.mkdir(parents=True, exist_ok=True)
for name in ("astronaut", "chelsea", "coffee", "rocket"):
    Image.fromarray(getattr(data, name)()).save(photographs / f"{name}.png")

settings = [
    "base.widths=[16,24,32]", "base.blocks=[1,1,1]", "data.patch=64", "data.holdout=0.3", "data.workers=0",
    "train.batch=4", "train.steps=100", "train.validate_every=50", "train.save_every=50",
]  # fmt: skip
weights = main("compact-teacher", photographs, out / "run", settings)
large = Upscaler.from_pretrained(weights)(Image.open(photographs / "chelsea.png"), scale=4)
large.save(out / "chelsea_x4.png")
print(f"{out / 'chelsea_x4.png'}: {large.width}x{large.height}")
