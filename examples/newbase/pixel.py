"""A base of one's own in one file: a tiny diffusion model on pixels, which predicts noise.

Everything that Unistep must know stands in three classes: the network as a denoiser (and as its encoder half,
for critics), the base that gives a copy of it to each role, and the face, by which it is found before it
is opened. The last line registers it. From then on every method that noise suffices for trains on it.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unistep.bases import BASES
from unistep.bases.face import Face, Plainly, Source, Sources, Tiny
from unistep.diffusion.denoiser import Cond, Denoiser, Features, filled
from unistep.diffusion.process import Process, ddpm
from unistep.errors import ConfigError
from unistep.tensors import read_tensors, save_weights

SCALE = 4


@dataclass(frozen=True)
class PixelConfig:
    """What a run may set of it."""

    width: int = 8


class Pixel(Denoiser):
    """(z_t, y, t) -> noise by three convolutions; `Process.clean` makes z_0 of it."""

    def __init__(self, config: PixelConfig, process: Process):
        super().__init__()
        self.process, self.time = process, nn.Embedding(len(process), config.width)
        self.first = nn.Conv2d(6, config.width, 3, padding=1)
        self.middle = nn.Conv2d(config.width, config.width, 3, padding=1)
        self.last = nn.Conv2d(config.width, 3, 3, padding=1)

    def maps(self, z_t: Tensor, t: Tensor, cond: Cond) -> list[Tensor]:
        first = F.silu(self.first(torch.cat([z_t, cond.y], 1)) + self.time(t)[..., None, None])
        return [first, F.silu(self.middle(first))]

    def forward(self, z_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        eps = self.last(self.maps(z_t, t, cond)[-1])
        return self.process.clean(eps.float(), z_t.float(), t, cond.y)


class PixelFeatures(Features):
    """Its two maps, for a discriminator or a perceptual loss."""

    def __init__(self, net: Pixel):
        super().__init__()
        self.net, self.process, self.widths = net, net.process, (net.first.out_channels,) * 2
        del net.last

    def forward(self, z_t: Tensor, t: Tensor, cond: Cond) -> list[Tensor]:
        return self.net.maps(z_t, t, cond)


class PixelBase(Plainly):
    """The latent is the picture itself; every role trains the whole network."""

    name, sigma_data, scale, multiple = "pixel", 0.5, SCALE, 1

    def __init__(self, net: Pixel, device: torch.device | str):
        self.net, self.device = net.requires_grad_(False), torch.device(device)

    def process(self, view: str) -> Process:
        if view != "ddpm":
            raise ConfigError(f"expected method.process to be ddpm on the base pixel, found “{view}”")
        return self.net.process

    def denoiser(self, role: str, view: str) -> Pixel:
        self.process(view)
        return copy.deepcopy(self.net).to(self.device).requires_grad_(role != "teacher")

    def features(self, role: str, view: str) -> PixelFeatures:
        return PixelFeatures(self.denoiser(role, view))

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, z: Tensor) -> Tensor:
        return z

    def cond(self, x_lq: Tensor) -> Cond:
        image = x_lq.to(self.device)
        return Cond(image, F.interpolate(image, scale_factor=SCALE, mode="bicubic"))

    def check_student(self, view: str, t: int) -> None:
        if t != len(self.process(view)) - 1:
            raise ConfigError(f"expected method.t_student to be the last index on the base pixel, found {t}")

    def restore(self, student: nn.Module, x_lq: Tensor) -> Tensor:
        cond = self.cond(x_lq * 2 - 1)
        return (student(cond.y, filled(len(self.net.process) - 1, cond.y), cond).cpu() + 1) / 2


class Upscale(nn.Module):
    """A trained student at use: [B, 3, h, w] in [-1, 1] -> [B, 3, 4h, 4w]."""

    scale = SCALE

    def __init__(self, net: Pixel):
        super().__init__()
        self.base = PixelBase(net, "cpu")

    def forward(self, x_lq: Tensor) -> Tensor:
        return self.base.restore(self.base.net, x_lq / 2 + 0.5) * 2 - 1


class PixelFace(Face):
    """What is known of it before it is opened."""

    name, title, Config = "pixel", "pixels", PixelConfig
    start = "a file that examples/newbase/pixel.py wrote"
    whole = own_features = True

    def open(self, config: Any, sources: Sources, device: torch.device, prompts: Any = None) -> PixelBase:
        net = Pixel(config, ddpm())
        net.load_state_dict(read_tensors(sources["train.init"].path))
        return PixelBase(net, device)

    def shapes(self, config: Any, source: Source | None = None) -> PixelBase:
        return PixelBase(Pixel(config, ddpm()).to("meta"), "meta")

    def tiny(self, config: Any, folder: Path) -> Tiny:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "pixel.safetensors"
        save_weights(file, Pixel(config, ddpm()).state_dict(), {}, torch.float32)
        return Tiny(config, str(file))

    def load(
        self, path: Path, header: dict[str, Any], tensors: dict[str, Tensor], fidelity: float | None,
        options: Any, plain: Callable[[], Path | None], decoder: Any,
    ) -> nn.Module:  # fmt: skip
        net = Pixel(PixelConfig(header["run"]["base"]["width"]), ddpm())
        net.load_state_dict({name: p.float() for name, p in tensors.items()})
        return Upscale(net).eval()


BASES["pixel"] = PixelFace()
