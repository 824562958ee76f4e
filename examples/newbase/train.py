"""Trains students of the pixel base with two papers' methods, for a few steps.

python examples/newbase/train.py OUT
"""

import sys
from pathlib import Path

from PIL import Image
from pixel import PixelConfig, PixelFace
from skimage import data

from unistep.data.pairs import DataConfig
from unistep.methods import DFOSDConfig, TSDSRConfig
from unistep.recipes.config import Run, TrainConfig
from unistep.training.loop import fit

METHODS = {
    "tsdsr": TSDSRConfig(process="ddpm", guidance=1.0, weight_lpips=0.0),
    "dfosd": DFOSDConfig(process="ddpm", t_student=999, spatial="mse"),
}


def main(out: Path, steps: int = 20) -> list[Path]:
    """Writes a file of weights for each method, and returns them."""
    photographs = out / "photographs"
    photographs.mkdir(parents=True, exist_ok=True)
    for name in ("astronaut", "chelsea", "coffee"):
        Image.fromarray(getattr(data, name)()).save(photographs / f"{name}.png")
    base = PixelFace().tiny(PixelConfig(), out)
    train = TrainConfig(
        steps=steps, batch=2, warmup=0, save_every=steps, validate_every=steps, init=base.init or "",
        plain="self",
    )  # fmt: skip
    pictures = DataConfig(patch=64, holdout=0.0, workers=0)
    return [
        fit(Run(f"pixel-{name}", base.config, method, pictures, train), photographs, out / name, print)
        for name, method in METHODS.items()
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/newbase"))
