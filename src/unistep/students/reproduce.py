"""The authors' scripts, step by step: their sizes, resampling, tile weights, colour references and 8 bits.

For comparing results with theirs. Where the ordinary way (`LatentStudent.enlarge`, `Upscaler`) differs, it
is because theirs loses something:

                   the authors                                        the ordinary way
    sizes          cut to multiples of 8; OSEDiff leaves small        the exact size: the input is padded and
                   pictures at the enlarged size                      the result cut
    odd latents    TSD-SR fails (patches of 2)                        padded
    tile weights   off by half a latent along y                       symmetric
    8 bits         cut off, twice where colours are fixed             rounded, once
    posterior      sampled, without a seed                            its mean

The posterior's mean is taken here too: without their random state nothing else could be repeated.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..diffusion.sampler import Sampler
from ..errors import ConfigError
from ..pixels.colour import adain, wavelet
from ..pixels.tiling import pad_to_multiple
from .blend import averaged, blended
from .latent import LatentStudent, tensor
from .planning import dtype_of

BICUBIC, LANCZOS = Image.Resampling.BICUBIC, Image.Resampling.LANCZOS


@torch.inference_mode()
def reproduce(
    student: LatentStudent,
    rgb: np.ndarray,
    *,
    scale: int = 4,
    colour: str | None = None,
    noise: Tensor | None = None,
    tile: int | None = None,
    overlap: int | None = None,
    shortest: int | None = None,
) -> np.ndarray:
    """[H, W, 3] uint8 -> [H', W', 3] uint8, as the script that published `student`'s weights writes it.

    Args:
        scale: their --upscale.
        colour: wavelet, adain or none (their --align_method); None: their default. With noise: none.
        noise: of SinSR, TAD-SR and their teacher: standard normal, of the latent's shape; None: seed 0.
        tile, overlap: in latents (their --latent_tiled_size, --latent_tiled_overlap); shortest: their
            --process_size; None: theirs. Models with noise: patches of 512 pixels every 448.

    Raises ConfigError for an array of another kind or a scale that the student cannot do.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ConfigError(f"expected an array [H, W, 3] of uint8, found {rgb.dtype} {list(rgb.shape)}")
    whole = student.decoder is student.codec and not student.options.offload
    if isinstance(student.denoiser, Sampler) or not whole:
        raise ConfigError(
            "expected a folded student with its own decoder and without offload to reproduce its authors' "
            "script, found another: leave --reproduce or the other options out"
        )
    config = student.config
    if config.scale is not None:
        if scale != config.scale:
            raise ConfigError(f"expected scale {config.scale}, the only one of this model, found {scale}")
        return _shifted(student, rgb, noise)
    colour, shortest = colour or config.colour, config.shortest if shortest is None else shortest
    tiles = functools.partial(
        blended, image=None, tile=tile or config.tile, overlap=config.overlap if overlap is None else overlap,
        asymmetric=True,
    )  # fmt: skip

    def through(x: Tensor) -> Image.Image:
        z = student.codec.encode(x.to(student.device, dtype_of(student.codec)))
        z_hat = tiles(lambda piece, _: student.denoiser(piece), z)
        return _cut(student.codec.decode(z_hat.to(z.dtype)))

    photo = Image.fromarray(rgb)
    way = _tsdsr if config.resample == "torch" else _osediff
    return way(photo, through, scale, shortest, colour)


def _tsdsr(
    photo: Image.Image, through: Callable[[Tensor], Image.Image], scale: int, shortest: int, colour: str
) -> np.ndarray:
    exact = (photo.width * scale, photo.height * scale)
    width, height = (side * scale // 8 * 8 for side in _enlarged(photo, shortest // scale))
    x = F.interpolate(tensor(np.asarray(photo) / np.float32(255)), (height, width), mode="bicubic")
    result = through(x.clamp(-1, 1))
    if (width, height) != exact:
        result = result.resize(exact, BICUBIC)
    if colour == "adain":
        return _fix(adain, result, photo)
    return _fix(wavelet, result, photo.resize(exact, BICUBIC)) if colour == "wavelet" else np.asarray(result)


def _osediff(
    photo: Image.Image, through: Callable[[Tensor], Image.Image], scale: int, shortest: int, colour: str
) -> np.ndarray:
    photo = photo.resize(_enlarged(photo, shortest // scale), BICUBIC)
    photo = photo.resize((photo.width * scale, photo.height * scale), BICUBIC)
    photo = photo.resize((photo.width // 8 * 8, photo.height // 8 * 8), LANCZOS)
    result = through(tensor(np.asarray(photo) / np.float32(255)))
    fix = {"adain": adain, "wavelet": wavelet}.get(colour)
    return _fix(fix, result, photo) if fix else np.asarray(result)


def _shifted(student: LatentStudent, rgb: np.ndarray, noise: Tensor | None) -> np.ndarray:
    scale = student.config.scale or 1
    generator = torch.Generator().manual_seed(0)

    def through(image: Tensor) -> Tensor:
        h, w = image.shape[-2:]
        image = pad_to_multiple(image, max(1, student.multiple // scale))
        z = student.codec.encode(F.interpolate(image, scale_factor=scale, mode="bicubic"))
        eps = torch.randn(z.shape, generator=generator).to(z) if noise is None else noise
        z_hat = student.denoiser(z + student.config.noise * eps, image)
        return student.codec.decode(z_hat.to(z.dtype))[..., : scale * h, : scale * w].clamp(-1, 1).float()

    x = tensor(rgb / np.float32(255)).to(student.device, dtype_of(student.codec))
    patch, stride = 512 * (4 // scale), 448 * (4 // scale)
    out = through(x) if max(x.shape[-2:]) <= patch else averaged(through, x, patch, stride, scale)
    values = (out[0].permute(1, 2, 0) * 0.5 + 0.5).clamp(0, 1) * 255
    return values.round().to(torch.uint8).cpu().numpy()


def _enlarged(photo: Image.Image, least: int) -> tuple[int, int]:
    """The size of the photo, with a shorter side of at least `least`."""
    grow = max(1.0, least / min(photo.size))
    return int(grow * photo.width), int(grow * photo.height)  # int() may lose a pixel, as theirs does


def _cut(y: Tensor) -> Image.Image:
    """[1, 3, H, W] about [-1, 1] -> 8 bits, cut off."""
    values = (y[0].float().clamp(-1, 1) / 2 + 0.5) * 255
    return Image.fromarray(values.permute(1, 2, 0).to(torch.uint8).cpu().numpy())


def _fix(
    fix: Callable[[np.ndarray, np.ndarray], np.ndarray], target: Image.Image, reference: Image.Image
) -> np.ndarray:
    pair = [np.asarray(picture, np.float32) / np.float32(255) for picture in (target, reference)]
    return (fix(*pair).clip(0, 1) * 255).astype(np.uint8)
