"""How one picture is computed in the memory that is free: tiles and blocks chosen, their bytes predicted.

Nothing is guessed: calls are run without data first (`peak`), blocks are added up from their shapes
(`layersync`).
"""

import tempfile
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..autoencoder import layersync
from ..autoencoder.codecs import Codec
from ..counting.peak import peak_bytes, without_data
from ..diffusion.sampler import Sampler
from ..errors import ConfigError, MemoryLimit
from ..pixels.tiling import free_memory
from .onestep import OneStep

VAE_TILES = ("auto", "whole", "exact", "fast")
BLOCKS = (1024, 768, 512, 384, 256, 192, 128, 96, 64)
"""Sides of the codec's blocks that are tried, in pixels of the picture."""
SLACK, SPARE = 1.3, 64 << 20
"""Workspaces and fragments on top of counted tensors: a share and a constant, measured on a CPU
(benchmarks/latent_memory.py)."""
SHARE = 0.9
"""Of the free memory that may be planned with."""


@dataclass(frozen=True)
class Plan:
    """How one picture will be computed, and what that takes beyond the weights."""

    vae: str
    """whole, exact or fast"""
    block: int
    """Side of the codec's blocks, in pixels of the picture; unused by whole."""
    tile: int
    """Side of the denoiser's tiles, in latents."""
    batch: int
    """Tiles per call."""
    device_bytes: int
    host_bytes: int
    store: str | None = None
    """Folder of the memory map for the codec's activations; None: memory as long as there is some."""


@dataclass(frozen=True)
class Planner:
    """The parts of a student, and where they run. `decoder` may be the codec itself."""

    denoiser: OneStep | Sampler
    codec: Codec
    decoder: Codec
    scale: int | None
    """LatentConfig.scale"""
    device: torch.device
    visiting: int = 0
    """Bytes of weights that are still elsewhere and will come to the device (offload)."""

    def __call__(
        self, height: int, width: int, most: int, tile: int | None = None, vae_tiles: str = "auto"
    ) -> Plan:
        """For a network input of height x width pixels.

        Args:
            most: the largest tile that is tried, in latents.
            tile: the tile, where it was asked for.
            vae_tiles: one of VAE_TILES; auto is whole where that fits, else exact.

        Raises MemoryLimit if not even the smallest tile or block fits, ConfigError for other `vae_tiles`.
        """
        if vae_tiles not in VAE_TILES:
            raise ConfigError(f"vae_tiles must be one of {', '.join(VAE_TILES)}, found {vae_tiles!r}")
        free = int(SHARE * free_memory(self.device)) - self.visiting
        side, batch, called = self.tiles(height, width, tile, most, free)
        whole = max(self.whole(name, height, width) for name in ("encode", "decode"))
        if whole <= free and vae_tiles in ("auto", "whole"):
            return Plan("whole", 0, side, batch, max(whole, called), 0)
        if vae_tiles == "whole":
            raise MemoryLimit(
                f"the autoencoder needs {whole / 1e9:.1f} GB for the whole picture, {free / 1e9:.1f} are "
                f"free on {self.device}; leave --vae-tiles at auto"
            )
        mode = "fast" if vae_tiles == "fast" else "exact"
        block, on_device, on_host, store = self.blocks(height, width, free, mode)
        return Plan(mode, block, side, batch, max(on_device, called), on_host, store)

    def tiles(self, height: int, width: int, tile: int | None, most: int, free: int) -> tuple[int, int, int]:
        """(side in latents, tiles per call, bytes of one call)."""
        unit, h, w = self.denoiser.multiple, height // self.codec.factor, width // self.codec.factor
        for side in [tile] if tile else [most * part // 8 for part in (8, 6, 4, 3, 2, 1)]:
            side = max(unit, side // unit * unit)
            shape = (h, w) if h * w <= side * side else (min(side, h, w),) * 2  # as `blended` cuts
            needed = self.call(*shape)
            if needed <= free:
                many = 1 if self.device.type == "cpu" else max(1, min(8, free // 2 // max(1, needed)))
                return side, many, needed * many
        raise MemoryLimit(
            f"not enough memory on {self.device} even for tiles of {side} latents: {needed / 1e9:.2f} GB are "
            f"needed, {free / 1e9:.2f} are free; free some, or choose another device"
        )

    def blocks(self, height: int, width: int, free: int, mode: str) -> tuple[int, int, int, str | None]:
        """(side of the codec's blocks, bytes on the device, bytes on the host or in a map, the map's folder).

        No folder: the activations lie where layersync puts them.
        """
        on_cpu = self.device.type != "cuda"
        for store in (None, tempfile.gettempdir()) if on_cpu else (None,):
            for block in BLOCKS:
                plans = [
                    layersync.plan(
                        codec, height, width, direction=name, block=block, dtype=dtype_of(codec), mode=mode
                    )
                    for name, codec in (("encode", self.codec), ("decode", self.decoder))
                ]
                on_device = with_slack(max(plan.device_bytes for plan in plans))
                on_host = max(plan.host_bytes for plan in plans)
                held = store is None and on_host <= layersync.SHARE * free_memory(torch.device("cpu"))
                shared = on_host if held and on_cpu else 0
                if on_device + shared <= free and (held or layersync.spills(on_host)):
                    return block, on_device, on_host, store
        raise MemoryLimit(
            f"not enough memory on {self.device} even for blocks of {block} pixels: {on_device / 1e9:.2f} GB "
            f"are needed, {free / 1e9:.2f} are free, besides {on_host / 1e9:.2f} GB of host memory or of the "
            "folder for temporary files; free some, or choose another device"
        )

    def call(self, h: int, w: int) -> int:
        """Bytes that one call of the denoiser takes for a tile of h x w latents."""
        shapes: list[tuple[int, ...]] = [(1, self.codec.channels, h, w)]
        if self.scale is not None:
            r = self.codec.factor // self.scale
            shapes.append((1, 3, h * r, w * r))
        empty, sampler = without_data(self.denoiser), isinstance(self.denoiser, Sampler)

        def call(z: Tensor, image: Tensor | None = None) -> object:
            return empty(z, 0, z, image) if sampler else empty(z, image)

        return with_slack(peak_bytes(call, *shapes, dtype=torch.float32))

    def whole(self, name: str, height: int, width: int) -> int:
        """Bytes that codec.encode or decoder.decode takes at once."""
        codec = self.decoder if name == "decode" else self.codec
        shape = (1, 3, height, width)
        if name == "decode":
            shape = (1, codec.channels, height // codec.factor, width // codec.factor)
        empty = without_data(codec)
        return with_slack(peak_bytes(getattr(empty, name), shape, dtype=dtype_of(codec)))


def with_slack(counted: int) -> int:
    """Bytes to have free for tensors of `counted` bytes."""
    return int(SLACK * counted) + SPARE


def dtype_of(module: nn.Module) -> torch.dtype:
    """The dtype in which a module computes."""
    return next(p.dtype for p in module.parameters() if p.is_floating_point())
