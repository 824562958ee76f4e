"""Image in, larger image of the same kind out: what the command, scripts and the evaluation call.

How an exact size is made: the model multiplies by 4, in tiles; finished rows pass through the colour fix and
are resampled to the size wanted (area below 4, bicubic above), then land in the output. Nothing else of the
size of the picture is held. What the model never sees travels beside it, enlarged by bicubic: alpha, and what
lies outside 0..1 (colours outside sRGB).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Literal, TypeVar, cast

import numpy as np
import torch
from PIL import Image
from torch import nn

from unistep import tiling
from unistep.checkpoint import load_student
from unistep.colour import Moments, wavelet_bands
from unistep.errors import ConfigError, ImageError, MemoryLimit
from unistep.image import Picture
from unistep.image.pixels import bleed, quantise
from unistep.resize import MAX_OUTPUT_PIXELS, gather, resize, taps, target_size

Pack = Callable[[np.ndarray, np.ndarray | None], Any]
Kind = TypeVar("Kind", Image.Image, np.ndarray, Picture)
Colour = Literal["wavelet", "adain", "none"]
COLOURS = ("wavelet", "adain", "none")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CHUNK = 256  # rows that whole-picture arithmetic takes at a time
FLOAT_LIMIT = 8.0  # above it, floats are not 0..1 with wide colours, but 0..255
# What Pillow's modes are worked on as.
MODES = {"L": "L", "LA": "LA", "RGB": "RGB", "RGBA": "RGBA", "P": "RGB", "PA": "RGBA", "1": "L", "La": "LA"}
MODES |= {"RGBa": "RGBA", "RGBX": "RGB", "CMYK": "RGB", "YCbCr": "RGB"}
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # BT.601, as Pillow's grey


class Upscaler:
    """A one-step model, ready to enlarge pictures.

        from unistep import Upscaler
        larger = Upscaler.from_pretrained()(Image.open("photo.jpg"), scale=4)

    Args:
        model: maps [B, 3, h, w] in [-1, 1] to [B, 3, 4h, 4w]; may name its `overlap` (low-resolution pixels),
            `scale` and default `colour` fix.
        device: "auto" (a CUDA GPU, else Apple's, else the CPU) or what torch.device takes.
        dtype: "auto", "float32", "bfloat16" or "float16". Auto is float16 on CUDA GPUs that compute in it,
            else float32: bfloat16's 8 bits would cost half a level of the picture, and a tile that overflows
            in float16 is computed again in float32.

    Raises:
        ConfigError: `device` or `dtype` does not exist here.
    """

    def __init__(
        self, model: nn.Module, device: torch.device | str = "auto", dtype: torch.dtype | str = "auto"
    ) -> None:
        self.device = _device(device)
        self.dtype = _dtype(dtype, self.device)
        layout: Any = {"memory_format": torch.channels_last}  # the faster one for convolutions
        self.model = model.eval().float().to(self.device, **layout)
        self.scale: int = getattr(model, "scale", 4)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str] | None = None,
        *,
        device: torch.device | str = "auto",
        dtype: torch.dtype | str = "auto",
        fidelity: float | None = None,
    ) -> Upscaler:
        """The upscaler of a model inside the package (None: the default one) or of a .safetensors file.

        `fidelity`: from 0, the model as it was trained, to 1, the plain reconstruction that its header
        names, with less detail and as a rule a smaller error; None: the file's own default. Costs no time.

        Raises:
            ModelError: there is no such model, its file is damaged or of another kind, or the plain model is
                needed and not there.
            ConfigError: `device` or `dtype` does not exist here, or `fidelity` is not from 0 to 1.
        """
        return cls(load_student(name_or_path, fidelity), device, dtype)

    @property
    def info(self) -> dict[str, Any]:
        """What the model's file says about itself."""
        return dict(getattr(self.model, "info", {}))

    def __call__(
        self,
        image: Kind,
        scale: float = 4,
        *,
        width: int | None = None,
        height: int | None = None,
        fit: tuple[int, int] | None = None,
        megapixels: float | None = None,
        tile: int | str = "auto",
        colour: Colour | None = None,
        seed: int = 0,
        progress: tiling.Progress | None = None,
        max_output_pixels: int = MAX_OUTPUT_PIXELS,
        twice: bool = False,
    ) -> Kind:
        """Enlarges one picture; the result is of the same kind.

        Args:
            image: a Picture; a Pillow image; or an array [H, W] or [H, W, 1..4] of uint8, uint16 or floats
                (0..1 nominal): sRGB-encoded grey or RGB, alpha last and not multiplied in. Pillow's palette
                images come back as RGB and its 1-bit ones as grey: a larger picture has more colours.
            scale: any factor from 1 to 8; or instead one of `width`, `height` (pixels, in proportion), `fit`
                (the largest size within width x height) and `megapixels`. The size is exact.
            tile: side of the pieces that the model works on, in pixels of `image`, or "auto".
            colour: "wavelet" or "adain" takes the colours of the input, "none" those of the model; None: the
                model's default.
            seed: of models that draw noise; the embedded one draws none.
            progress: called with (done, total) after every call of the model, in pixels.
            max_output_pixels: a larger result is refused before any work.
            twice: beyond x4 the model works on its own result instead of that being resampled up.

        Raises:
            ImageError: an array or image of another kind, values that are not finite, or too large a result.
            ConfigError: a setting that cannot be.
            ModelError: the model's values are not finite.
            MemoryLimit: not enough memory even for the smallest tile, or for the result.
        """
        if colour is None:
            colour = cast(Colour, getattr(self.model, "colour", "none"))
        if colour not in COLOURS:
            raise ConfigError(f"colour must be one of {', '.join(COLOURS)}, found {colour!r}")
        try:
            rgb, alpha, pack = unpack(image)
            sizes: list[Any] = [width, height, fit, megapixels]
            default = scale == 4 and any(size is not None for size in sizes)  # and so gives way
            size = target_size(
                rgb.shape[1],
                rgb.shape[0],
                scale=None if default else scale,
                to_width=width,
                to_height=height,
                fit=fit,
                megapixels=megapixels,
            )
            if size[0] * size[1] > max_output_pixels:
                raise ImageError(
                    f"the result would have {size[0]} x {size[1]} pixels, more than the limit of "
                    f"{max_output_pixels}; ask for a smaller size or raise the limit"
                )
            if not all(np.isfinite(rows).all() for part in (rgb, alpha) for rows in _chunks(part)):
                raise ImageError("expected finite pixel values, found NaN or infinity; clean the array first")
            if alpha is not None:
                rgb = bleed(rgb.copy(), alpha)
                alpha = resize(alpha[..., None], *size)[..., 0].clip(0, 1)
            devices = [self.device] if self.device.type == "cuda" else []
            with torch.random.fork_rng(devices):
                torch.manual_seed(seed % 2**64)
                larger = self._enlarge(rgb, size, tile, colour, progress, twice)
            return cast(Kind, pack(larger, alpha))
        except MemoryError as error:
            says = "not enough memory for the picture and its result; ask for a smaller size"
            raise MemoryLimit(says) from error

    def _enlarge(
        self,
        rgb: np.ndarray,
        size: tuple[int, int],
        tile: int | str,
        colour: Colour,
        progress: tiling.Progress | None,
        twice: bool,
    ) -> np.ndarray:
        """[H, W, 3] -> [height, width, 3] float32; inside 0..1 wherever the input is."""
        width, height = size
        s, (h, w) = self.scale, rgb.shape[:2]
        beyond = float(rgb.min()) < 0 or float(rgb.max()) > 1
        source = rgb
        if twice and (width > s * w or height > s * h):
            source = self._enlarge(rgb.clip(0, 1), (s * w, s * h), tile, colour, None, False)
        out = np.empty((height, width, 3), np.float32)
        own, full = Moments(), s * source.shape[0]
        exact = out.shape[:2] == (full, s * source.shape[1])
        rows = tiling.bands(
            self.model, source, scale=s, tile=tile, device=self.device, dtype=self.dtype, progress=progress,
            out=out if exact and colour != "wavelet" else None,
        )  # fmt: skip
        if colour == "wavelet":
            rows = wavelet_bands(rows, lambda start, stop: _enlarged_rows(source, s, start, stop), full)
        elif colour == "adain":
            rows = _counted(rows, own)
        top = 0
        if not exact:
            rows = _resampled(rows, full, width, height)
        for band in rows:
            if not np.may_share_memory(band, out):
                out[top : top + len(band)] = band
            top += len(band)
            del band  # before the next one is made
        if colour == "adain":
            wanted = Moments()
            for part in _chunks(source):
                wanted.add(part.clip(0, 1))
            gain, offset = own.matching(wanted)
            for part in _chunks(out):
                part *= gain
                part += offset
        for part in _chunks(out):
            part.clip(0, 1, out=part)
        if beyond:
            top = 0
            rest = (part - part.clip(0, 1) for part in _chunks(rgb))
            for band in _resampled(rest, h, width, height):
                out[top : top + len(band)] += band
                top += len(band)
        return out


def _enlarged_rows(image: np.ndarray, scale: int, start: int, stop: int) -> np.ndarray:
    """The rows start..stop of `image`, clipped and enlarged by bicubic, without enlarging the rest."""
    reach = 4  # rows of the image that bicubic may look at, and some to spare
    top, bottom = max(0, start // scale - reach), min(len(image), -(-stop // scale) + reach)
    part = image[top:bottom].clip(0, 1)
    large = resize(part, scale * image.shape[1], scale * len(part))
    return large[start - scale * top : stop - scale * top]


def _counted(bands: Iterable[np.ndarray], found: Moments) -> Iterator[np.ndarray]:
    for band in bands:
        found.add(band)
        yield band


def _chunks(image: np.ndarray | None) -> Iterator[np.ndarray]:
    return iter(()) if image is None else (image[top : top + CHUNK] for top in range(0, len(image), CHUNK))


def _resampled(bands: Iterable[np.ndarray], rows: int, width: int, height: int) -> Iterator[np.ndarray]:
    """`resize` to width x height of a picture, `rows` high, that comes in bands and leaves in other ones."""
    indices, weights = taps(rows, height)
    first, last = indices.min(1), indices.max(1)
    held, top, done = np.empty((0, width, 3), np.float32), 0, 0  # `held` begins at the incoming row `top`
    for band in bands:
        held = np.concatenate([held, resize(band, width, len(band))])
        del band
        ready = int(np.searchsorted(last, top + len(held)))
        for at in range(done, ready, CHUNK):
            part = slice(at, min(at + CHUNK, ready))
            yield gather(held, indices[part] - top, weights[part], axis=0)
        done = ready
        keep = int(first[done]) if done < height else top + len(held)
        held, top = held[keep - top :].copy(), keep


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


def _device(device: torch.device | str) -> torch.device:
    if device == "auto":
        kinds = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        return torch.device(next(kind for kind, there in kinds.items() if there))
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for CUDA
        raise ConfigError(f"the device {str(device)!r} cannot be used here; use auto or cpu") from error
    return found


def _dtype(dtype: torch.dtype | str, device: torch.device) -> torch.dtype:
    if dtype == "auto":
        fast = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0)
        return torch.float16 if fast else torch.float32
    found = DTYPES.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise ConfigError(f"dtype must be auto, {', '.join(DTYPES)}, found {dtype!r}")
    return found
