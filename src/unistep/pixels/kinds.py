"""The kinds of image that the upscaler takes, as arrays of floats, and the way back to the same kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from unistep.errors import ImageError
from unistep.image import Picture
from unistep.image.pixels import quantise

Pack = Callable[[np.ndarray, np.ndarray | None], Any]
FLOAT_LIMIT = 8.0  # above it, floats are not 0..1 with wide colours, but 0..255
# What Pillow's modes are worked on as.
MODES = {"L": "L", "LA": "LA", "RGB": "RGB", "RGBA": "RGBA", "P": "RGB", "PA": "RGBA", "1": "L", "La": "LA"}
MODES |= {"RGBa": "RGBA", "RGBX": "RGB", "CMYK": "RGB", "YCbCr": "RGB"}
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # BT.601, as Pillow's grey


def unpack(image: Image.Image | np.ndarray | Picture) -> tuple[np.ndarray, np.ndarray | None, Pack]:
    """(rgb [H, W, 3] float32, alpha [H, W] float32 0..1 or None, the way back to the same kind)."""
    if isinstance(image, Picture):
        return _unpack_picture(image)
    if isinstance(image, Image.Image):
        return _unpack_pillow(image)
    if isinstance(image, np.ndarray):
        return _unpack_array(image)
    raise ImageError(f"expected a Picture, a Pillow image or a numpy array, found {type(image).__name__}")


def _unpack_picture(picture: Picture) -> tuple[np.ndarray, np.ndarray | None, Pack]:
    rgb, alpha = picture.rgb, picture.alpha
    if (
        rgb.ndim != 3
        or rgb.shape[2] != 3
        or rgb.size == 0
        or (alpha is not None and alpha.shape != rgb.shape[:2])
    ):
        found = f"{list(rgb.shape)}" + ("" if alpha is None else f" and {list(alpha.shape)}")
        raise ImageError(f"expected a Picture of rgb [H, W, 3] and alpha [H, W] or None, found {found}")
    alpha = None if alpha is None else alpha.astype(np.float32, copy=False)
    return rgb.astype(np.float32, copy=False), alpha, lambda r, a: replace(picture, rgb=r, alpha=a)


def _unpack_array(array: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, Pack]:
    shape, dtype = array.shape, array.dtype.newbyteorder("=")
    if array.ndim not in (2, 3) or array.size == 0 or (array.ndim == 3 and shape[2] > 4):
        raise ImageError(f"expected an array [H, W] or [H, W, 1..4] with H, W >= 1, found {list(shape)}")
    if dtype not in (np.uint8, np.uint16) and dtype.kind != "f":
        raise ImageError(f"expected an array of uint8, uint16 or floats, found {dtype}")
    levels = np.iinfo(dtype).max if dtype.kind == "u" else 1
    values = array.reshape(*shape[:2], -1).astype(np.float32, copy=False)
    if levels != 1:
        values = values / np.float32(levels)
    if dtype.kind == "f" and FLOAT_LIMIT < np.abs(values).max() < np.inf:
        raise ImageError(
            f"expected floats from 0 to 1, found up to {np.abs(values).max():g}; divide by the value of white"
        )
    channels = values.shape[2]
    grey, alpha = channels < 3, values[..., -1].clip(0, 1) if channels in (2, 4) else None
    rgb = np.broadcast_to(values[..., :1], (*shape[:2], 3)) if grey else values[..., :3]

    def pack(rgb: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
        if dtype == np.float32 and channels == 3:
            return rgb  # a copy would be as large as the result
        out = np.empty((*rgb.shape[:2], channels), dtype)
        colour = (rgb @ LUMA)[..., None] if grey else rgb
        for part, values in ((out[..., : colour.shape[2]], colour), (out[..., -1:], alpha)):
            if values is not None:
                values = values.reshape(part.shape)
                if dtype.kind == "f":
                    part[:] = values
                else:
                    quantise(values, 8 * dtype.itemsize, out=part)
        return out.reshape(*rgb.shape[:2], *shape[2:])

    return rgb, alpha, pack


def _unpack_pillow(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None, Pack]:
    if image.mode.startswith("I;16"):
        mode = image.mode
    elif image.mode in MODES:
        mode = MODES[image.mode]
        if "transparency" in image.info:
            mode = {"L": "LA", "RGB": "RGBA"}.get(mode, mode)
    else:
        known = ", ".join([*MODES, "I;16"])
        raise ImageError(f"expected a Pillow image of mode {known}, found {image.mode}; convert it")
    try:
        straight = image if image.mode == mode else image.convert(mode)
        rgb, alpha, pack_array = _unpack_array(np.asarray(straight))
    except OSError as error:
        raise ImageError(f"the image cannot be read ({error})") from error
    back = image.mode if image.mode in ("CMYK", "YCbCr") else mode

    def pack(rgb: np.ndarray, alpha: np.ndarray | None) -> Image.Image:
        larger = Image.fromarray(pack_array(rgb, alpha))
        larger = larger if back in (larger.mode, mode) else larger.convert(back)
        larger.info = {key: value for key, value in image.info.items() if key != "transparency"}
        return larger

    return rgb, alpha, pack
