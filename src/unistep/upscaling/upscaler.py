"""Image in, larger image of the same kind out: what the command, scripts and the evaluation call.

How an exact size is made: the model multiplies by 4, in tiles; finished rows pass through the colour fix and
are resampled to the size wanted (area below 4, bicubic above), then land in the output. Nothing else of the
size of the picture is held. What the model never sees travels beside it, enlarged by bicubic: alpha, and what
lies outside 0..1 (colours outside sRGB).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import numpy as np
import torch
from PIL import Image
from torch import nn

from unistep.errors import ConfigError, ImageError, MemoryLimit
from unistep.image import Picture
from unistep.image.pixels import bleed, quantise
from unistep.models.checkpoint import load_student
from unistep.pixels import tiling
from unistep.pixels.colour import Moments, adain, wavelet, wavelet_bands
from unistep.pixels.kinds import LUMA, unpack
from unistep.pixels.resize import MAX_OUTPUT_PIXELS, Box, centre, covering, gather, resize, taps, target_size
from unistep.students.onestep import Options

if TYPE_CHECKING:
    from unistep.students.latent import LatentStudent

Kind = TypeVar("Kind", Image.Image, np.ndarray, Picture)
Colour = Literal["wavelet", "adain", "none"]
COLOURS = ("wavelet", "adain", "none")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
GREY_BELOW = 1.5 / 255  # distance of the channels of a picture without colours
CHUNK = 256  # rows that whole-picture arithmetic takes at a time


class Upscaler:
    """A one-step model, ready to enlarge pictures.

        from unistep import Upscaler
        larger = Upscaler.from_pretrained()(Image.open("photo.jpg"), scale=4)

    Args:
        model: maps [B, 3, h, w] in [-1, 1] to [B, 3, 4h, 4w]; may name its `overlap` (low-resolution pixels),
            `scale` and default `colour` fix. Or a LatentStudent, which takes whole pictures.
        device: "auto" (a CUDA GPU, else Apple's, else the CPU) or what torch.device takes.
        dtype: "auto", "float32", "bfloat16" or "float16". Auto is float32 except on CUDA GPUs. There the
            small model takes float16 (bfloat16's 8 bits would cost half a level of the picture), and latent
            students take bfloat16 where the GPU has it, else float16. What overflows is computed again in
            float32.

    Raises:
        ConfigError: `device` or `dtype` does not exist here.
    """

    def __init__(
        self, model: nn.Module, device: torch.device | str = "auto", dtype: torch.dtype | str = "auto"
    ) -> None:
        self.device = device_of(device)
        # A LatentStudent takes whole pictures (asked so: most users never import that half).
        self.latent = cast("LatentStudent", model) if hasattr(model, "place") else None
        self.dtype = dtype_of(dtype, self.device, self.latent is not None)
        layout: Any = {"memory_format": torch.channels_last}  # the faster one for convolutions
        self.model: nn.Module
        if self.latent:  # its weights are most of the memory: they are kept in the dtype that computes
            self.model = self.latent.place(self.device, self.dtype)
        else:
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
        options: Options | None = None,
    ) -> Upscaler:
        """The upscaler of a model inside the package (None: the default one) or of a .safetensors file.

        `fidelity`: from 0, the model as it was trained, to 1, the plain reconstruction that its header
        names, with less detail and as a rule a smaller error; None: the file's own default. Costs no time.
        `options`: what only students of large models know: steps, decoder, small weights, offload, compile.

        Raises:
            ModelError: there is no such model, its file is damaged or of another kind, or the plain model is
                needed and not there.
            ConfigError: `device` or `dtype` does not exist here, or `fidelity` is not from 0 to 1.
        """
        return cls(load_student(name_or_path, fidelity, options), device, dtype)

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
        box: Box = "fit",
        tile: int | str = "auto",
        colour: Colour | None = None,
        seed: int = 0,
        progress: tiling.Progress | None = None,
        max_output_pixels: int = MAX_OUTPUT_PIXELS,
        twice: bool = False,
        vae_tiles: str = "auto",
    ) -> Kind:
        """Enlarges one picture; the result is of the same kind.

        Args:
            image: a Picture; a Pillow image; or an array [H, W] or [H, W, 1..4] of uint8, uint16 or floats
                (0..1 nominal): sRGB-encoded grey or RGB, alpha last and not multiplied in. Pillow's palette
                images come back as RGB and its 1-bit ones as grey: a larger picture has more colours.
            scale: any factor from 1 to 8; or instead one of `width`, `height` (pixels, in proportion), `fit`
                (the largest size within width x height) and `megapixels`. The size is exact.
            box: what `width` and `height` together mean: "fit" within them in proportion, "fill" them and cut
                off what stands over, the same on both sides, or "stretch" to them.
            tile: side of the pieces that the model works on, in pixels of `image`, or "auto".
            colour: "wavelet" or "adain" takes the colours of the input, "none" those of the model; None: the
                model's default. A picture without colours gets none from any.
            seed: of models that draw noise; the embedded one draws none.
            progress: called with (done, total) after every call of the model, in pixels.
            max_output_pixels: a larger result is refused before any work.
            twice: beyond x4 the model works on its own result instead of that being resampled up.
            vae_tiles: how latent students compute their autoencoder: "auto", "whole", "exact" (block by
                block, the same result in less memory) or "fast" (independent blocks, a close result).

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
                box=box,
            )
            wanted = size
            if box == "fill":
                size = covering(rgb.shape[1], rgb.shape[0], wanted)
                if isinstance(image, Picture) and image.inks is not None:
                    h, w = image.inks.shape[:2]
                    inks = centre(image.inks, round(w * wanted[0] / size[0]), round(h * wanted[1] / size[1]))
                    pack = unpack(replace(image, inks=inks))[2]
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
                if self.latent:
                    larger = self._enlarge_latent(rgb, size, tile, colour, progress, vae_tiles, seed)
                else:
                    larger = self._enlarge(rgb, size, tile, colour, progress, twice)
            if _is_grey(rgb):
                for part in _chunks(larger):
                    part[:] = (part @ LUMA)[..., None]
            if size != wanted:
                larger, alpha = centre(larger, *wanted), None if alpha is None else centre(alpha, *wanted)
            return cast(Kind, pack(larger, alpha))
        except (MemoryError, RuntimeError) as error:
            if not tiling.out_of_memory(error):
                raise
            says = (
                "not enough memory for the picture and its result; ask for a smaller size or a smaller tile"
            )
            raise MemoryLimit(says) from error

    def reproduce(self, picture: Picture, scale: int = 4, colour: Colour | None = None) -> Picture:
        """What the authors' own script makes of a picture, to the 8-bit level (bases/reproduce.py).

        Raises ConfigError for a model without such a script.
        """
        if self.latent is None:
            raise ConfigError(
                "expected a model made of its authors' files, found another: leave --reproduce out"
            )
        from unistep.students.reproduce import reproduce

        levels = quantise(picture.rgb.clip(0, 1), 8)
        try:
            larger = reproduce(self.latent, levels, scale=scale, colour=colour).astype(np.float32)
        except (MemoryError, RuntimeError) as error:
            if not tiling.out_of_memory(error):
                raise
            raise MemoryLimit("not enough memory for the authors' way; leave --reproduce out") from error
        larger = larger / np.float32(255)
        alpha = picture.alpha
        if alpha is not None:
            alpha = resize(alpha[..., None], larger.shape[1], larger.shape[0])[..., 0].clip(0, 1)
        return replace(picture, rgb=larger, alpha=alpha)

    def _enlarge_latent(
        self,
        rgb: np.ndarray,
        size: tuple[int, int],
        tile: int | str,
        colour: Colour,
        progress: tiling.Progress | None,
        vae_tiles: str,
        seed: int,
    ) -> np.ndarray:
        """As `_enlarge`, by a model that takes whole pictures."""
        inside, model = rgb.clip(0, 1), cast("LatentStudent", self.latent)
        out = model.enlarge(inside, size, tile=tile, vae_tiles=vae_tiles, seed=seed, progress=progress)
        if out.shape[1::-1] != size:
            out = resize(out, *size)
        if colour == "wavelet":
            out = wavelet(out, resize(inside, *size))
        elif colour == "adain":
            out = adain(out, inside)
        out.clip(0, 1, out=out)
        if float(rgb.min()) < 0 or float(rgb.max()) > 1:
            out += resize(rgb - inside, *size)
        return out

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


def _is_grey(rgb: np.ndarray) -> bool:
    """Whether the channels are equal, but for what rounding to 8 bits can do."""
    return all(float(np.ptp(part, axis=2).max()) < GREY_BELOW for part in _chunks(rgb))


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


def device_of(device: torch.device | str) -> torch.device:
    """What "auto" or a name stands for here. Raises ConfigError for a device that cannot be used."""
    if device == "auto":
        kinds = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        return torch.device(next(kind for kind, there in kinds.items() if there))
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for CUDA
        raise ConfigError(f"the device {str(device)!r} cannot be used here; use auto or cpu") from error
    return found


def dtype_of(dtype: torch.dtype | str, device: torch.device, latent: bool) -> torch.dtype:
    """What a model computes in on `device`; latent: a student of a large base. Raises ConfigError."""
    if dtype == "auto":
        fast = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0)
        if fast and latent and torch.cuda.get_device_capability(device) >= (8, 0):
            return torch.bfloat16
        return torch.float16 if fast else torch.float32
    found = DTYPES.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise ConfigError(f"dtype must be auto, {', '.join(DTYPES)}, found {dtype!r}")
    return found
