"""Two ways to give an upscaled picture the colours of its input, as one-step diffusion upscalers commonly do.

"wavelet" replaces the low frequencies of the result by those of the upsampled input; "adain" gives every
channel the mean and the standard deviation of the input. Both agree in floating point with the implementation
that the official code of these upscalers shares; its 8-bit files are cut off instead of rounded, which is not
imitated here. Nothing clips: that is for the caller.

Both also work on a picture that arrives in bands of rows: the wavelet fix waits for the `HALO` rows below the
ones that it finishes, AdaIN adds up `Moments` first and is one affine map per channel afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

LEVELS = 5
HALO = 2**LEVELS - 1  # 1 + 2 + 4 + 8 + 16 pixels
EPSILON = 1e-5  # added to the variance


def wavelet(target: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """High frequencies of `target`, low ones of `reference`; both [H, W, C] float32 of one size."""
    # = (target - low(target)) + low(reference), with one blur instead of two
    fixed: np.ndarray = target + low_pass(reference - target)
    return fixed


def low_pass(image: np.ndarray) -> np.ndarray:
    """Five blurs by (1, 2, 1)/4 along both axes, at distances 1, 2, 4, 8, 16; each repeats the borders."""
    image = np.asarray(image, np.float32)
    for level in range(LEVELS):
        for axis in (0, 1):
            image = _blur(image, 2**level, axis)
    return image


def _blur(image: np.ndarray, radius: int, axis: int) -> np.ndarray:
    out = image * np.float32(0.5)
    a, x = np.moveaxis(out, axis, 0), np.moveaxis(image * np.float32(0.25), axis, 0)
    a[radius:] += x[:-radius]
    a[:radius] += x[0]
    a[:-radius] += x[radius:]
    a[-radius:] += x[-1]
    return out


def wavelet_bands(
    bands: Iterable[np.ndarray], reference: Callable[[int, int], np.ndarray], height: int
) -> Iterator[np.ndarray]:
    """`wavelet` of a picture that comes as bands of rows, and leaves as other bands, `HALO` rows later.

    Args:
        bands: [h, W, C] float32 each, together `height` rows.
        reference: gives the rows start..stop of the reference, [stop - start, W, C] float32.
    """
    held, top, done = None, 0, 0  # `held` begins at row `top`; the rows before `done` have left
    for band in bands:
        held = band if held is None else np.concatenate([held, band])
        bottom = top + len(held)
        ready = bottom if bottom == height else bottom - HALO
        if ready <= done:
            continue
        fixed = wavelet(held, reference(top, bottom))
        yield fixed[done - top : ready - top]
        done = ready
        held, top = held[max(0, done - HALO - top) :].copy(), max(top, done - HALO)


@dataclass
class Moments:
    """Mean and standard deviation of every channel of pixels that come in portions, added up in float64."""

    count: int = 0
    mean: np.ndarray = field(default_factory=lambda: np.zeros(3))  # [C]
    squares: np.ndarray = field(default_factory=lambda: np.zeros(3))  # [C] sum of (value - mean)^2

    def add(self, image: np.ndarray) -> None:
        """Counts in the pixels of `image`, [H, W, C]."""
        n = image.shape[0] * image.shape[1]
        mean = image.mean((0, 1), dtype=np.float64)
        squares = image.var((0, 1), dtype=np.float64) * n
        away, both = mean - self.mean, self.count + n
        self.squares = self.squares + squares + away**2 * (self.count * n / both)  # Chan et al. 1979
        self.mean = self.mean + away * (n / both)
        self.count = both

    @property
    def std(self) -> np.ndarray:
        """[C] sqrt(variance + EPSILON), with the unbiased variance (0 for a single pixel)."""
        std: np.ndarray = np.sqrt(self.squares / max(1, self.count - 1) + EPSILON)
        return std

    def matching(self, reference: Moments) -> tuple[np.ndarray, np.ndarray]:
        """Gain and offset, [C] float32 each, that turn these moments into those of `reference`."""
        gain = reference.std / self.std
        return gain.astype(np.float32), (reference.mean - gain * self.mean).astype(np.float32)


def moments(image: np.ndarray) -> Moments:
    """The `Moments` of one picture, [H, W, C]."""
    found = Moments()
    found.add(image)
    return found


def adain(target: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """`target` with the mean and standard deviation of `reference`; [H, W, C] float32, of any two sizes."""
    gain, offset = moments(target).matching(moments(reference))
    fixed: np.ndarray = target * gain + offset
    return fixed
