"""`make demo`: upscales four photographs that come with scikit-image, as they are and once degraded.

    python examples/demo.py OUT

Writes full-size results (x4, PNG) and sheet.png: at 1:1, what the model saw, bicubic, ours and, where known,
the truth.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from skimage import data

from unistep import Upscaler
from unistep.data.degrade import degrade

PHOTOGRAPHS = ("chelsea", "coffee", "rocket", "astronaut")  # CC0 or public domain
CROP = 320
CENTRES = {"chelsea": (0.40, 0.40), "coffee": (0.62, 0.55), "rocket": (0.58, 0.50), "astronaut": (0.22, 0.45)}
"""Where the sheet looks, as shares of height and width."""


def degraded(image: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
    """The `light` preset of the training degradation: (a quarter of the size, the truth), uint8."""
    h, w = (side // 4 * 4 for side in image.shape[:2])
    x = torch.from_numpy(image[:h, :w].copy()).permute(2, 0, 1)[None].float() / 255
    pair = degrade(x, "light", seed=1, indices=[index])
    low, high = ((x[0].permute(1, 2, 0) * 255).round().byte().numpy() for x in pair)
    return low, high


def row(name: str, low: np.ndarray, ours: np.ndarray, truth: np.ndarray | None) -> Image.Image:
    """Crops of CROP pixels at 1:1, side by side, under their names."""
    h, w = ours.shape[:2]
    side = min(CROP, h, w)
    down, right = CENTRES[name]
    top = int(np.clip(down * h - side / 2, 0, h - side)) // 4 * 4
    left = int(np.clip(right * w - side / 2, 0, w - side)) // 4 * 4
    source = Image.fromarray(low)
    columns = {
        f"{name}: input": source.resize((w, h), Image.Resampling.NEAREST),
        "bicubic": source.resize((w, h), Image.Resampling.BICUBIC),
        "Unistep": Image.fromarray(ours),
    }
    if truth is not None:
        columns["truth"] = Image.fromarray(truth)
    strip = Image.new("RGB", (4 * (CROP + 8), CROP + 28), "white")
    draw = ImageDraw.Draw(strip)
    for i, (label, image) in enumerate(columns.items()):
        draw.text((i * (CROP + 8) + 4, 5), label, "black", font=ImageFont.load_default(15))
        strip.paste(image.crop((left, top, left + side, top + side)), (i * (CROP + 8), 24))
    return strip


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    upscaler = Upscaler.from_pretrained()
    rows, started = [], time.perf_counter()
    for index, name in enumerate(PHOTOGRAPHS):
        image = getattr(data, name)()
        low, truth = degraded(image, index)
        for kind, source, reference in (("original", image, None), ("degraded", low, truth)):
            result = upscaler(source, scale=4)
            rows.append(row(name, source, result, reference))
            Image.fromarray(source).save(out / f"{name}_{kind}.png")
            Image.fromarray(result).save(out / f"{name}_{kind}_x4.png")
            print(
                f"{name} ({kind}): {source.shape[1]}x{source.shape[0]} -> {result.shape[1]}x{result.shape[0]}"
            )
    sheet = Image.new("RGB", (rows[0].width, sum(r.height for r in rows)), "white")
    for i, strip in enumerate(rows):
        sheet.paste(strip, (0, i * strip.height))
    sheet.save(out / "sheet.png")
    print(f"\n{len(rows)} results in {time.perf_counter() - started:.1f} s: {out}/*_x4.png")
    print(f"side by side (input, bicubic, Unistep, truth): {out}/sheet.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
