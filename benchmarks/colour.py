"""How far a model's colours drift, and what the colour fix costs in sharpness.

    python benchmarks/colour.py FOLDER [--model NAME]

For every picture of a folder and for two patterns that are hard on colours (a black-and-white screen stored
as RGB, fine checks of saturated colours): the low frequencies of the x4 result against those of the picture
enlarged by bicubic, mean and largest difference in 8-bit levels, without and with the wavelet fix; the energy
of the result's gradients relative to the one without it; and CPU seconds.
"""

import argparse
import resource
from pathlib import Path

import numpy as np

from unistep import Upscaler
from unistep.image import read_image
from unistep.pixels.colour import low_pass
from unistep.pixels.resize import resize


def patterns() -> dict[str, np.ndarray]:
    """[H,W,3] float32 0..1."""
    y, x = np.mgrid[0:96, 0:96]
    dots = ((x % 4 < 2) ^ (y % 4 < 2))[..., None].astype(np.float32) * np.ones(3, np.float32) / 2
    even = ((x + y) % 2 == 0)[..., None]
    colours = np.where(even, np.array([1, 0, 0]), np.array([0, 0.6, 1])).astype(np.float32)
    return {"grey screen": dots, "saturated checks": colours}


def drift(result: np.ndarray, picture: np.ndarray) -> tuple[float, float]:
    """(mean, largest) distance of the low frequencies, levels of 255."""
    height, width = result.shape[:2]
    off = np.abs(low_pass(result - resize(picture, width, height)))
    return 255 * float(off.mean()), 255 * float(off.max())


def energy(result: np.ndarray) -> float:
    """Mean squared difference of neighbours."""
    return sum(float((np.diff(result, axis=axis) ** 2).mean()) for axis in (0, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model")
    arguments = parser.parse_args()
    upscaler = Upscaler.from_pretrained(arguments.model, device="cpu")
    pictures = {
        p.name: read_image(p).rgb.clip(0, 1) for p in sorted(arguments.folder.iterdir()) if p.is_file()
    }
    sets = {f"{len(pictures)} pictures": list(pictures.values())}
    sets |= {name: [pattern] for name, pattern in patterns().items()}
    print(f"{'':18} {'colour':8} {'mean':>6} {'largest':>8} {'energy':>7} {'CPU s':>6}")
    for name, group in sets.items():
        base = 0.0
        for colour in ("none", "wavelet"):
            began = resource.getrusage(resource.RUSAGE_SELF).ru_utime
            results = [upscaler(picture, 4, colour=colour) for picture in group]
            seconds = resource.getrusage(resource.RUSAGE_SELF).ru_utime - began
            mean, most = np.array([drift(y, x) for y, x in zip(results, group, strict=True)]).T
            sharp = sum(map(energy, results))
            base = base or sharp
            print(f"{name:18} {colour:8} {mean.mean():6.2f} {most.max():8.2f}", end=" ")
            print(f"{sharp / base:7.3f} {seconds:6.1f}", flush=True)


if __name__ == "__main__":
    main()
