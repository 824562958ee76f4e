"""Small pictures for the tests of image files."""

from io import BytesIO

import numpy as np
from PIL import Image

MODES = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}


def photo(height, width, channels, seed=0):
    """Smooth 8-bit colours with a little noise, alpha from 0 to 255."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [127 + 100 * np.sin((i + 1) * x / 9 + y / (7 + i) + i) for i in range(channels)]
    noise = np.random.default_rng(seed).integers(-20, 21, (height, width, channels))
    return np.clip(np.stack(waves, axis=-1) + noise, 0, 255).astype(np.uint8)


def pil(codes, mode):
    return Image.frombytes(mode, (codes.shape[1], codes.shape[0]), np.ascontiguousarray(codes).tobytes())


def saved(image, format, **options):
    file = BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def codes_of(path, mode):
    with Image.open(path) as image:
        assert image.mode == mode
        return np.asarray(image).copy()


def ramp16(channels, height=40, width=33):
    return np.random.default_rng(1).integers(0, 65536, (height, width, channels), dtype=np.uint16)
