"""Who takes part in a benchmark: models of all kinds, their architectures without weights, and bicubic."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ...bases import BASES
from ...bases.textnets import TextNet
from ...counting.operators import weight_bytes
from ...counting.peak import without_data
from ...errors import ConfigError, MemoryLimit
from ...image import Picture
from ...models.checkpoint import base_of, embedded, load_student, resolve
from ...pixels.resize import resize
from ...pixels.tiling import free_memory
from ...students.latent import LatentStudent
from ...students.restorers import Restorer, RRDBNet, SRVGGNetCompact
from ...students.smallmemory import stored_bytes
from ...upscaling.upscaler import Upscaler, device_of, dtype_of
from .counted import Part, parts, text_part
from .stages import network_runs, student_runs, text_run
from .timing import Run
from .wanted import Wanted

BICUBIC = "bicubic"
RESTORERS: dict[str, Callable[[], SRVGGNetCompact | RRDBNet]] = {
    "SRVGGNetCompact-32": lambda: SRVGGNetCompact(64, 32, 4),
    "RRDBNet-23": lambda: RRDBNet(64, 23, 32, 4),
}
"""Architectures of realesr-general-x4v3 and of RealESRGAN_x4plus."""
UNTRAINED = "untrained weights of the published sizes"


@dataclass(frozen=True)
class Ways:
    """How all of them run: what `unistep upscale` calls by the same names."""

    device: str = "auto"
    dtype: str = "auto"
    tile: int | str = "auto"
    vae_tiles: str = "auto"
    colour: Any = None
    compile: bool = False
    """torch.compile over the network's call, on a GPU replayed as CUDA graphs."""


class Participant(ABC):
    name: str
    said: dict[str, Any]
    """What identifies it; no path."""
    scale: int = 4
    device: torch.device
    dtype: torch.dtype
    weight_bytes: int = 0
    """As they lie in memory."""

    @abstractmethod
    def counted(self, low: tuple[int, int], tiled: bool = False) -> list[Part]:
        """Of a low-quality picture of (width, height) pixels (`counted.parts`), without text encoders."""

    def text(self) -> Part | None:
        """Its text encoders, counted; None where it has none, or nothing is known of them."""
        return None

    @abstractmethod
    def runs(self, side: int) -> dict[str, Run]:
        """The network's call for a picture of side x side pixels, "whole", and that of each part by name."""

    @abstractmethod
    def enlarge(self, picture: Picture) -> Picture:
        """As `unistep upscale` does, by the factor `scale`."""


class Bicubic(Participant):
    """The resampling that `unistep upscale` itself uses (a = -0.5, float32), on the CPU."""

    def __init__(self, name: str) -> None:
        self.name, self.said = name, {"kind": BICUBIC, "how": "a = -0.5, float32, NumPy"}
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def counted(self, low: tuple[int, int], tiled: bool = False) -> list[Part]:
        return []

    def runs(self, side: int) -> dict[str, Run]:
        rgb = np.random.default_rng(0).random((side, side, 3), np.float32)
        return {"whole": lambda: resize(rgb, self.scale * side, self.scale * side)}

    def enlarge(self, picture: Picture) -> Picture:
        height, width = (self.scale * side for side in picture.rgb.shape[:2])
        return replace(picture, rgb=resize(picture.rgb, width, height).clip(0, 1))


class Model(Participant):
    """Anything that `unistep upscale -m` takes, or an architecture without its weights."""

    def __init__(self, wanted: Wanted, ways: Ways, measured: bool) -> None:
        """measured: it is to run, and not only to be counted.

        Raises ModelError, ConfigError, and MemoryLimit where there is no room for its weights.
        """
        self.name, self.ways = wanted.name, ways
        self.device = device_of(ways.device)
        model, self.outline, self.said, self.nets = _opened(wanted, self.device, measured)
        latent = isinstance(self.outline, LatentStudent)
        self.dtype = dtype_of(ways.dtype, self.device, latent)
        self.scale = getattr(self.outline, "scale", 4)
        if latent:  # others keep float32, whatever they compute in
            self.outline.to(self.dtype)
        self.weight_bytes = weight_bytes(self.outline)
        self.upscaler: Upscaler | None = None
        if model is not None:
            self.upscaler = Upscaler(model, self.device, ways.dtype)
            if wanted.options.weights != "full":
                self.weight_bytes = stored_bytes(self.upscaler.model)

    def counted(self, low: tuple[int, int], tiled: bool = False) -> list[Part]:
        return parts(self.outline, low, self.dtype, tiled)

    def text(self) -> Part | None:
        return text_part(self.nets)

    def runs(self, side: int) -> dict[str, Run]:
        upscaler = self.ready
        if upscaler.latent is None:
            return network_runs(upscaler, side, self.ways.compile)
        found = student_runs(upscaler.latent, side, self.dtype, self.ways.compile)
        if text := text_run(self.nets, self.device, self.dtype):
            found["text encoder"] = text
        return found

    def enlarge(self, picture: Picture) -> Picture:
        w = self.ways
        return self.ready(picture, self.scale, tile=w.tile, colour=w.colour, vae_tiles=w.vae_tiles)

    @property
    def ready(self) -> Upscaler:
        if self.upscaler is None:
            raise ConfigError(f"expected {self.name} to be opened for measuring, found it for counting alone")
        return self.upscaler


def opened(wanted: Wanted, ways: Ways, measured: bool) -> Participant:
    """Raises ModelError, ConfigError, MemoryLimit."""
    if wanted.model == BICUBIC:
        if wanted != Wanted(wanted.name, wanted.model):
            raise _no_options(BICUBIC)
        return Bicubic(wanted.name)
    return Model(wanted, ways, measured)


Found = tuple[nn.Module | None, nn.Module, dict[str, Any], list[TextNet]]
"""A model if it is to run, its outline without data, what identifies it, its text encoders."""


def _opened(wanted: Wanted, device: torch.device, measured: bool) -> Found:
    known = dict(RESTORERS) | {name: face.untrained for name, face in BASES.items()}
    build = known.get(wanted.model)
    if build is not None and wanted.model not in embedded():
        with torch.device("meta"):
            first = build()
        if first is not None:
            return _untrained(wanted, build, first, device, measured)
    path = resolve(wanted.model)
    _room(wanted.name, 2 * path.stat().st_size, device)  # files have 16 bits as a rule, memory has up to 32
    model = load_student(path, wanted.fidelity, wanted.options)
    header = getattr(model, "info", {}).get("student")
    nets: list[TextNet] = []
    if header:
        nets = base_of(path, {"student": header}).text_nets(header, wanted.text)
    if wanted.text is not None and not nets:
        raise ConfigError(f"expected text=FOLDER with a student whose base takes text, found {wanted.name}: "
                          "leave it out")  # fmt: skip
    o = wanted.options
    said = {"kind": "model", "file": path.name, "steps": o.steps, "decoder": o.decoder, "weights": o.weights,
            "offload": o.offload, "fidelity": wanted.fidelity}  # fmt: skip
    return model if measured else None, without_data(model), said, nets


def _untrained(
    wanted: Wanted, build: Callable[[], Any], first: Any, device: torch.device, measured: bool
) -> Found:
    if wanted != Wanted(wanted.name, wanted.model, text=wanted.text):
        raise _no_options(wanted.model)
    outline = without_data(first if isinstance(first, LatentStudent) else Restorer(first, {}))
    face = BASES.get(wanted.model)
    nets = [] if face is None or face.text is None else [
        TextNet(config, tokens) for config, tokens in zip(face.text.published, face.text.tokens, strict=True)
    ]  # fmt: skip
    said = {"kind": "architecture", "how": UNTRAINED}
    if not measured:
        return None, outline, said, nets
    _room(wanted.name, 2 * weight_bytes(outline), device)
    net = build()
    return _filled(net if isinstance(net, LatentStudent) else Restorer(net, {})), outline, said, nets


@torch.no_grad()
def _filled(model: nn.Module) -> nn.Module:
    """With drawn weights that keep the size of what goes through them; other constants are 0."""
    for module in model.modules():
        if any(p.is_meta for p in module.parameters(recurse=False)):
            module.to_empty(device="cpu", recurse=False)
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        p.normal_(std=p[0].numel() ** -0.5 if p.dim() > 1 else 0.3, generator=generator)
    for buffer in model.buffers():
        if buffer.is_floating_point():  # neither NaN nor numbers that slow the arithmetic down
            buffer.zero_()
    return model.eval().requires_grad_(False)


def _no_options(model: str) -> ConfigError:
    return ConfigError(f"expected no options with {model}, which has no weights, found some: leave them out")


def _room(name: str, needed: int, device: torch.device) -> None:
    free = free_memory(torch.device("cpu"))
    if needed > free:
        raise MemoryLimit(
            f"expected room for the weights of {name}, {needed / 1e9:.1f} GB, found {free / 1e9:.1f} GB "
            "free: bench fewer models at once, or give --count"
        )
