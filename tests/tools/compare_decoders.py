"""Our reading of a folder of pictures beside another decoder's, and a list of where they disagree.

    pip install pyvips pyvips-binary
    python tests/tools/compare_decoders.py FOLDER... [--decoder vips|pillow] [--levels 4]

Both are brought to upright sRGB of 8 bits with alpha. A file disagrees when only one of the two reads it,
when the sizes differ, or when colours (where they can be seen) or alpha are off by more than `--levels` on
average or by more than four times that at the 99th percentile. What each disagreement comes from is for a
person to say: libvips takes no notice of CICP and gamma, and has its own idea of CMYK without a profile.
"""

import argparse
import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from unistep.errors import ImageError
from unistep.image import read_image
from unistep.image.decoders import sniff

SRGB_8 = {"grey16": 257, "rgb16": 257}


def ours(path: Path) -> np.ndarray:
    """[H,W,4] 0..255, colours multiplied by alpha. Raises ImageError."""
    picture = read_image(path)
    alpha = np.ones(picture.rgb.shape[:2], np.float32) if picture.alpha is None else picture.alpha
    return _seen(picture.rgb.clip(0, 1) * 255, alpha * 255)


def by_pillow(path: Path) -> np.ndarray:
    """The same by Pillow, whose colour profiles are left alone."""
    with Image.open(path) as image:
        values = np.asarray(ImageOps.exif_transpose(image).convert("RGBA")).astype(np.float32)
    return _seen(values[..., :3], values[..., 3])


def by_vips(path: Path) -> np.ndarray:
    """The same by libvips."""
    import pyvips

    image = pyvips.Image.new_from_file(str(path), fail_on="error").autorot()
    if image.get_typeof("icc-profile-data") and image.interpretation not in ("lab", "labs"):
        image = image.icc_transform("srgb", embedded=True, intent="relative", depth=8)
    alpha = None
    if image.hasalpha():
        alpha = image[image.bands - 1].numpy().astype(np.float32)
        alpha = alpha / (257 if image.interpretation in SRGB_8 else 1)
        image = image[: image.bands - 1] if image.bands > 2 else image[0]
    if image.interpretation != "srgb":
        image = image.colourspace("srgb")
    values = image.cast("uchar").numpy().astype(np.float32)
    values = values if values.ndim == 3 else values[..., None]
    rgb = np.broadcast_to(values[..., :1], (*values.shape[:2], 3)) if values.shape[2] < 3 else values[..., :3]
    return _seen(
        rgb, np.full(rgb.shape[:2], 255, np.float32) if alpha is None else alpha.reshape(rgb.shape[:2])
    )


def _seen(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.concatenate([rgb * (alpha / 255)[..., None], alpha[..., None]], axis=-1)


DECODERS = {"vips": by_vips, "pillow": by_pillow}


def compare(path: Path, decoder: str, levels: float) -> tuple[str, str]:
    """(verdict, what there is to say)."""
    results: list[np.ndarray | str] = []
    for read in (ours, DECODERS[decoder]):
        try:
            results.append(read(path))
        except Exception as error:  # whatever another decoder raises
            if read is ours and not isinstance(error, ImageError):
                raise
            results.append(" ".join(str(error).removeprefix(f"{path}: ").split())[:150])
    mine, other = results
    if isinstance(mine, str) or isinstance(other, str):
        if isinstance(mine, str) and isinstance(other, str):
            return "both refuse", mine
        return (f"only {decoder} reads", mine) if isinstance(mine, str) else ("only we read", str(other))
    if mine.shape != other.shape:
        return (
            "other size",
            f"ours {mine.shape[1]}x{mine.shape[0]}, theirs {other.shape[1]}x{other.shape[0]}",
        )
    off = np.abs(mine - other).max(axis=-1)
    mean, most = float(off.mean()), float(np.quantile(off, 0.99))
    agree = mean <= levels and most <= 4 * levels
    return ("agree" if agree else "other colours"), f"mean {mean:.1f}, 99 of 100 within {most:.0f} of 255"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--decoder", choices=DECODERS, default="vips")
    parser.add_argument("--refused", action="store_true", help="also what both refuse")
    parser.add_argument("--levels", type=float, default=4.0)
    arguments = parser.parse_args()
    count: Counter[str] = Counter()
    for folder in arguments.folders:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            with path.open("rb") as file:
                if sniff(file.read(64)) is None:
                    continue
            verdict, text = compare(path, arguments.decoder, arguments.levels)
            count[verdict] += 1
            if verdict != "agree" and (arguments.refused or verdict != "both refuse"):
                print(f"{verdict:20} {os.path.relpath(path, folder)}: {text}", flush=True)
    print(", ".join(f"{verdict}: {n}" for verdict, n in count.most_common()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
