"""Factors other than 4: which way measures better.

    python benchmarks/scales.py HR_FOLDER [--model MODEL]

Each clean image is reduced by the factor (area) and enlarged again: by bicubic, by the x4 result resampled to
the size, and beyond 4 by running the model twice. Mean PSNR-Y and SWD (lower is better).
Then the tile overlap: the largest difference to the untiled result, in 8-bit levels.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from unistep import METRICS, Upscaler
from unistep.pixels.resize import resize
from unistep.pixels.tiling import bands


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].clamp(0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--factors", type=float, nargs="+", default=[1.5, 2, 3, 4, 6, 8])
    parser.add_argument("--most", type=int, default=8, help="images at most")
    args = parser.parse_args()
    upscaler = Upscaler.from_pretrained(args.model)
    psnr, swd = METRICS["psnr_y"].open(), METRICS["swd"].open()
    files = sorted(p for p in args.folder.iterdir() if p.suffix in (".png", ".webp", ".jpg"))[: args.most]
    images = [np.asarray(Image.open(f).convert("RGB"), np.float32) / 255 for f in files]

    print("| factor | bicubic | x4, resampled | twice |\n|---|---|---|---|")
    for factor in args.factors:
        table: dict[str, list[tuple[float, float]]] = {}
        for truth in images:
            h, w = truth.shape[:2]
            low = resize(truth, round(w / factor), round(h / factor)).clip(0, 1)
            ways = {"bicubic": resize(low, w, h), "once": upscaler(low, width=w)}
            if factor > 4:
                ways["twice"] = upscaler(low, width=w, twice=True)
            for way, result in ways.items():
                pair = tensor(result[:h, :w]), tensor(truth[: len(result)])
                table.setdefault(way, []).append((psnr(*pair).item(), swd(*pair).item()))
        cells = [
            f"{np.mean([p for p, _ in v]):.2f} dB, {np.mean([s for _, s in v]):.0f}" for v in table.values()
        ]
        print(f"| {factor:g} | " + " | ".join(cells) + (" |" if len(cells) == 3 else " | |"), flush=True)

    print("\n| overlap | largest | 99.9 % |\n|---|---|---|")
    photo = resize(images[0], 256, 256)
    whole = np.concatenate(list(bands(upscaler.model, photo, tile=1024)))
    for overlap in (4, 8, 12, 16, 24, 32, 48, 56):
        tiled = np.concatenate(list(bands(upscaler.model, photo, tile=64, overlap=overlap)))
        levels = np.abs(tiled - whole) * 255
        print(f"| {overlap} | {levels.max():.3f} | {np.quantile(levels, 0.999):.3f} |", flush=True)


if __name__ == "__main__":
    main()
