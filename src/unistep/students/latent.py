"""A one-step student that works on the latents of an autoencoder, over whole pictures of any size.

    low-quality picture -> bicubic -> codec's encoder -> (+ noise) -> denoiser, once, in tiles -> decoder

The codec is computed whole where memory allows, otherwise block by block with the same result
(`layersync`). The denoiser's tiles are blended in the latent (`blend`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..autoencoder import layersync
from ..autoencoder.codecs import Codec
from ..counting.peak import without_data
from ..diffusion.denoiser import filled
from ..diffusion.sampler import Sampler
from ..errors import ConfigError, MemoryLimit, ModelError
from ..pixels.resize import MAX_OUTPUT_PIXELS, resize
from ..pixels.tiling import Progress, checked_tile, pad_to_multiple
from .blend import blended
from .onestep import OneStep, Options
from .planning import Plan, Planner, dtype_of
from .smallmemory import check, offload, quantise, stored_bytes


@dataclass(frozen=True)
class LatentConfig:
    """How a student of a latent base treats a whole picture; travels in the header as "latent"."""

    scale: int | None = None
    """The network's own factor (of some 4, for faces 1); None: it works at the size of the result."""
    shortest: int = 512
    """A picture whose shorter side would be less at the network, in pixels, is enlarged to it; 0: never."""
    resample: str = "torch"
    """The bicubic that makes the network's input: "torch" (a = -0.75) or "pillow" (a = -0.5)."""
    tile: int = 64
    """Side of the denoiser's tiles, in latents; a latent of at most tile^2 values is computed whole."""
    overlap: int = 8
    """Latents that neighbouring tiles share."""
    noise: float = 0.0
    """Standard deviation of what is added to the latent: kappa sqrt(eta_T) of residual shifting, else 0."""
    colour: str = "wavelet"
    """The default colour fix: wavelet, adain or none."""

    def __post_init__(self) -> None:
        good = (
            (self.scale is None or self.scale in range(1, 9))
            and 0 <= self.shortest <= 4096
            and self.resample in ("torch", "pillow")
            and 0 <= self.overlap < self.tile <= 4096
            and 0 <= self.noise < 100
            and self.colour in ("wavelet", "adain", "none")
        )
        if not good:
            raise ConfigError(f"expected the settings of a latent student, found {self}")


class LatentStudent(nn.Module):
    """Encoder, folded denoiser and decoder; `info` is the file's header.

    `forward` is the whole of it as one call, for sizes that fit: what is timed and compiled.
    """

    def __init__(
        self,
        denoiser: OneStep | Sampler,
        codec: Codec,
        config: LatentConfig,
        info: dict[str, Any] | None = None,
        options: Options | None = None,
        decoder: Codec | None = None,
    ):
        """`decoder`: decodes instead of `codec`."""
        super().__init__()
        self.denoiser, self.codec, self.config = denoiser, codec, config
        self.decoder = decoder or codec
        self.info, self.options = info or {}, options or Options()
        self.scale, self.colour = config.scale or 4, config.colour
        self.compiled: dict[str, Callable[..., Tensor]] = {}
        self.device = torch.device("cpu")
        self.plain: tuple[nn.Module, ...] = ()  # in a tuple, so that it is no part of this module

    def place(self, device: torch.device, dtype: torch.dtype) -> LatentStudent:
        """Ready to run on `device` in `dtype`, with the options that were asked for."""
        options, self.device = self.options, device
        check(options)
        self.eval().requires_grad_(False).to(dtype=dtype)
        # faster convolutions; but they round otherwise, which many steps in float32 amplify to other pictures
        if dtype != torch.float32 or not isinstance(self.denoiser, Sampler):
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if options.offload:  # the codec visits the device for each of its calls
            offload(self.denoiser, device)
            return self
        if options.weights != "full":  # 4-bit weights cannot be planned with; activations stay the same
            self.plain = (without_data(self.denoiser),)
            quantise(self.denoiser, options.weights, device)
        self.to(device)
        if options.compile:  # the three calls of a picture; on a GPU each replays as one graph
            mode = "reduce-overhead" if device.type == "cuda" else "default"
            calls = {"encode": self.codec.encode, "decode": self.decoder.decode}
            for name, call in calls.items():
                self.compiled[name] = cast(Any, torch.compile)(call, mode=mode)
            self.denoiser.compile(mode=mode)
        return self

    @property
    def multiple(self) -> int:
        """Sides of the network's input, in pixels, are multiples of it."""
        return self.codec.factor * self.denoiser.multiple

    def forward(self, x: Tensor, image: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """x [B, 3, H, W] in [-1, 1], sides multiples of `multiple` -> [B, 3, H, W], not clipped.

        image: the low-quality image, for bases that are conditioned on it; noise: standard normal, of the
        latent's shape, for those that start from noise.
        """
        z = self.codec.encode(x)
        if noise is not None:
            z = z + self.config.noise * noise
        z = self.denoiser(z, image)
        result: Tensor = self.decoder.decode(z.to(x.dtype))
        return result

    def native(self, size: tuple[int, int], source: tuple[int, int]) -> tuple[int, int]:
        """(width, height) at which the network works when `source` is to become `size`."""
        if self.config.scale is not None:
            return source[0] * self.config.scale, source[1] * self.config.scale
        grow = max(1.0, self.config.shortest / min(size))
        return round(size[0] * grow), round(size[1] * grow)

    def inputs(self, rgb: np.ndarray, size: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
        """(x [1, 3, H, W], image or None) of rgb [h, w, 3] in 0..1 that is to become `size`, padded."""
        scale, multiple = self.config.scale, self.multiple
        if scale is not None:  # the network sees the low-quality image too: both are padded alike
            image = pad_to_multiple(tensor(rgb), max(1, multiple // scale))
            return F.interpolate(image, scale_factor=scale, mode="bicubic"), image
        width, height = self.native(size, (rgb.shape[1], rgb.shape[0]))
        if self.config.resample == "pillow":
            x = tensor(resize(rgb, width, height).clip(0, 1))
        else:
            x = F.interpolate(tensor(rgb), (height, width), mode="bicubic").clamp(-1, 1)
        return pad_to_multiple(x, multiple), None

    @torch.no_grad()  # not inference_mode, whose tensors int8 weights cannot be cast with
    def enlarge(
        self,
        rgb: np.ndarray,
        size: tuple[int, int],
        *,
        tile: int | str = "auto",
        vae_tiles: str = "auto",
        seed: int = 0,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """[h, w, 3] in 0..1 -> [height, width, 3] float32 in 0..1 at the `native` size of `size`.

        Args:
            tile: side of the denoiser's tiles in pixels of `rgb`, or "auto".
            vae_tiles: auto, whole, exact (block by block, the same result) or fast (independent blocks).
            seed: of the noise that some students start from.

        Raises:
            MemoryLimit: not enough memory even for the smallest tile.
            ModelError: values are not finite, not even in float32.
            ConfigError: a setting that cannot be.
        """
        width, height = self.native(size, (rgb.shape[1], rgb.shape[0]))
        if width * height > MAX_OUTPUT_PIXELS:
            raise MemoryLimit(
                f"expected a less narrow picture, found one that the network would work on at {width} x "
                f"{height} pixels, since it needs a shorter side of {self.config.shortest}: cut it into parts"
            )
        x, image = self.inputs(rgb, size)
        ratio = width / rgb.shape[1]
        shape = cast(OneStep, self.plain[0]) if self.plain else self.denoiser
        visiting = max(map(stored_bytes, (self.codec, self.decoder))) if self.options.offload else 0
        planner = Planner(shape, self.codec, self.decoder, self.config.scale, self.device, visiting)
        plan = planner(x.shape[-2], x.shape[-1], self.config.tile, self._tile(tile, ratio), vae_tiles)
        total = rgb.shape[0] * rgb.shape[1]

        def stage(start: float, stop: float) -> Progress:
            def report(done: int, of: int) -> None:
                if progress:
                    progress(round(total * (start + (stop - start) * done / max(1, of))), total)

            return report

        generator = torch.Generator().manual_seed(seed % 2**63)
        z = self.code(self.codec, "encode", x, plan, stage(0, 0.3))
        z = self.denoise(z, image, plan, generator, stage(0.3, 0.5))
        y = self.code(self.decoder, "decode", z, plan, stage(0.5, 1))
        out = (y[0, :, :height, :width].float() / 2 + 0.5).clamp(0, 1)
        return np.ascontiguousarray(out.permute(1, 2, 0).cpu().numpy())

    def denoise(
        self, z: Tensor, image: Tensor | None, plan: Plan, generator: torch.Generator, progress: Progress
    ) -> Tensor:
        """The encoder's latent [1, C, h, w] -> the clean one, float32 on the device, in the plan's tiles."""
        z_y = z.to(self.device, torch.float32)
        image = None if image is None else image.to(self.device)

        def draw() -> Tensor:  # on the CPU: the same for every device
            return torch.randn(z_y.shape, generator=generator).to(self.device)

        def denoised(*given: Any) -> Tensor:
            out = self._finite(self.denoiser, lambda: self.denoiser(*given))
            return out.clone() if self.options.compile else out

        tiles = functools.partial(
            blended, image=image, tile=plan.tile, overlap=self.config.overlap, batch=plan.batch
        )
        start = z_y + self.config.noise * draw() if self.config.noise else z_y
        if not isinstance(self.denoiser, Sampler):
            return tiles(denoised, start, progress=progress)
        s, state = self.denoiser, start
        for i, (t, r) in enumerate(zip(s.times, [*s.times[1:], -1], strict=True)):

            def step(piece: Tensor, view: Tensor | None, t: int = t) -> Tensor:
                now, y = piece.chunk(2, dim=1)
                return denoised(now, t, y, view)

            def report(done: int, of: int, i: int = i) -> None:
                progress(i * of + done, len(s.times) * of)

            # state and z_y travel together, so that both are cut alike
            z0 = tiles(step, torch.cat([state, z_y], dim=1), progress=report)
            if r < 0:
                state = z0
            elif s.stochastic:
                mean, variance = s.process.posterior(z0, state, filled(t, state), z_y)
                state = mean + variance.sqrt() * draw()
            else:
                state = s.process.step(z0, state, filled(t, state), filled(r, state), z_y)
        return state

    def code(self, codec: Codec, name: str, value: Tensor, plan: Plan, progress: Progress) -> Tensor:
        """codec.encode or codec.decode, as `name` says, as planned; its weights may have to be fetched."""
        if self.options.offload:
            codec.to(self.device)
            try:
                return self._coded(codec, name, value, plan, progress)
            finally:
                codec.to("cpu")
        return self._coded(codec, name, value, plan, progress)

    def _coded(self, codec: Codec, name: str, value: Tensor, plan: Plan, progress: Progress) -> Tensor:
        if plan.vae != "whole":
            run = cast(Any, getattr(layersync, name))
            how = {"block": plan.block, "device": self.device, "store": plan.store, "mode": plan.vae}
            how |= {"dtype": dtype_of(codec), "progress": progress}
            return self._finite(codec, lambda: run(codec, value.cpu(), **how))
        call = self.compiled.get(name) or getattr(codec, name)
        out = self._finite(codec, lambda: call(value.to(self.device, dtype_of(codec))))
        progress(1, 1)
        return out.clone() if name in self.compiled else out  # a CUDA graph's next replay overwrites it

    def _finite(self, module: nn.Module, call: Callable[[], Tensor]) -> Tensor:
        """The call's result; if it is not finite, that of the same call in float32."""
        out = call()
        if bool(torch.isfinite(out).all()):
            return out
        dtype = dtype_of(module)
        if dtype != torch.float32 and self.options.weights == "full":
            module.float()
            try:
                out = call()
            finally:
                module.to(dtype)
        if not bool(torch.isfinite(out).all()):
            raise ModelError(
                "the model's values are not finite, not even in float32: its weights or this machine are "
                "damaged"
            )
        return out

    def _tile(self, tile: int | str, ratio: float) -> int | None:
        """Side of a tile in latents; None: to be planned."""
        if tile == "auto":
            return None
        unit = self.denoiser.multiple
        return max(unit, round(checked_tile(tile) * ratio / self.codec.factor / unit) * unit)


def tensor(rgb: np.ndarray) -> Tensor:
    """[H, W, 3] in 0..1 -> [1, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(rgb * 2 - 1, np.float32)).permute(2, 0, 1)[None]
