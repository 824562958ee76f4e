"""The compact base: the small diffusion model that ships inside the package.

Codec: pixel-unshuffle x4 (48 channels at the low resolution, lossless). The network is a denoiser of the
residual r_0 = z_0 - z_y to the bicubic enlargement z_y, indexed by the noise-to-signal ratio s alone:

    w = r_0 + s eps,    D(w, y, s) ~ E[r_0 | w, y]

Every process z_t = a z_0 + b z_y + s_t eps is a view of it (a "clock"):
w = (z_t - (a + b) z_y) / a, s = s_t / a.
The one-step slot is the limit s = inf, where w tells nothing and D answers from y alone.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...diffusion.denoiser import Cond, Denoiser
from ...diffusion.process import Process
from ...errors import ConfigError
from .unet import UNet

SCALE = 4

SIGMA_DATA = 0.15
"""Standard deviation of r_0 (images in [-1, 1]), to which all noise is relative."""

S_SLOT = 5.0
"""Above this noise-to-signal ratio a process is at the one-step slot: SNR below 1e-3, never trained."""

FADE = 0.6
"""The noisy input is faded by 1 / (1 + (s / FADE)^2), so that it vanishes at the one-step slot."""


@dataclass(frozen=True)
class CompactConfig:
    """The shape of the compact network."""

    widths: tuple[int, ...] = (64, 96, 128)
    blocks: tuple[int, ...] = (2, 2, 3)
    folded: bool = False
    """Of one time alone, the one-step slot, which its convolutions hold: it cannot be a teacher or a critic.

    Without the layer scales in between, a step of Adam moves the answer about five times as far."""

    def __post_init__(self) -> None:
        # The limits also keep a forged header from taking all memory.
        for name, values, most in (("widths", self.widths, 512), ("blocks", self.blocks, 16)):
            if len(values) != 3 or not all(1 <= value <= most for value in values):
                raise ConfigError(
                    f"expected base.{name} to be three numbers from 1 to {most}, found {list(values)}"
                )


def encode(x: Tensor) -> Tensor:
    """[B, 3, 4h, 4w] -> latent [B, 48, h, w]: pixel-unshuffle, lossless."""
    return F.pixel_unshuffle(x, SCALE)


def decode(z: Tensor) -> Tensor:
    """Latent [B, 48, h, w] -> [B, 3, 4h, 4w]."""
    return F.pixel_shuffle(z, SCALE)


def bicubic_taps() -> Tensor:
    """[4, 5]: the weights of 5 neighbours for each of the 4 sub-pixel positions of a x4 interpolation."""

    a = -0.75  # as F.interpolate has it

    def cubic(d: float) -> float:
        d = abs(d)
        if d <= 1:
            return (a + 2) * d**3 - (a + 3) * d**2 + 1
        return a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0

    offsets = [(phase + 0.5) / SCALE - 0.5 for phase in range(SCALE)]
    return torch.tensor([[cubic(tap - offset) for tap in range(-2, 3)] for offset in offsets])


class Enlarge(nn.Module):
    """z_y: the bicubic x4 enlargement as one convolution at the low resolution, equal to F.interpolate's."""

    def __init__(self) -> None:
        super().__init__()
        taps = bicubic_taps()
        kernel = torch.einsum("ik,jl->ijkl", taps, taps).reshape(SCALE**2, 1, 5, 5)
        self.register_buffer("kernel", kernel.repeat(3, 1, 1, 1), persistent=False)

    def forward(self, y: Tensor) -> Tensor:
        """[B, 3, h, w] -> [B, 48, h, w]."""
        return F.conv2d(
            F.pad(y, (2, 2, 2, 2), mode="replicate"), self.get_buffer("kernel").to(y.dtype), groups=3
        )


class CompactDenoiser(nn.Module):
    """D(w, y, s) and its views. Parameters are those of the UNet alone."""

    def __init__(self, config: CompactConfig | None = None):
        super().__init__()
        self.config = config or CompactConfig()
        shape, folded = (self.config.widths, self.config.blocks), self.config.folded
        self.net = UNet(*shape, in_channels=3, folded=True) if folded else UNet(*shape)
        self.enlarge = Enlarge()

    def cond(self, x_lq: Tensor) -> Cond:
        """The condition of a low-quality image [B, 3, h, w] in [-1, 1]; h and w multiples of 4."""
        return Cond(image=x_lq, y=self.enlarge(x_lq))

    def residual(self, w: Tensor, image: Tensor, s: Tensor) -> Tensor:
        """E[r_0 | w, y] [B, 48, h, w], float32; s [B] in (0, inf], w is ignored where s = inf.

        A folded network knows s = inf alone, and is asked for nothing else (`CompactBase`).
        """
        if self.config.folded:
            r_0: Tensor = self.net(image)
            return r_0.float()
        ratio = (1 / s).view(-1, 1, 1, 1)
        sd = SIGMA_DATA
        # All in terms of 1/s, so that the slot s = inf needs no case of its own.
        c_skip = (sd * ratio) ** 2 / (1 + (sd * ratio) ** 2)
        c_out = sd / (1 + (sd * ratio) ** 2).sqrt()
        out: Tensor = self.net(self.encoder_input(w, image, s), s)
        return c_skip * w + c_out * out.float()

    def slot(self, cond: Cond) -> Tensor:
        """z_hat in one step, without noise: the limit s = inf."""
        s = torch.full((len(cond.image),), math.inf, device=cond.image.device)
        return cond.y + self.residual(torch.zeros_like(cond.y), cond.image, s)

    def clock(self, process: Process) -> "Clock":
        """This network as the denoiser of `process` (whose table alone is used, not `predicts`)."""
        return Clock(self, process)

    def encoder_input(self, w: Tensor, image: Tensor, s: Tensor) -> Tensor:
        """What the UNet sees [B, 51, h, w]: w scaled to unit size and faded, and the low-quality image."""
        ratio = (1 / s).view(-1, 1, 1, 1)
        c_in = (
            ratio / (1 + (SIGMA_DATA * ratio) ** 2).sqrt() * (FADE * ratio) ** 2 / (1 + (FADE * ratio) ** 2)
        )
        return torch.cat([c_in * w, image], dim=1)


def clocked(process: Process, z_t: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(w, s) of z_t. Where s > S_SLOT, s is infinite and w, which tells nothing there, is 0."""
    a, b, s = process.at(t)
    ratio = s / a
    far = (a <= 0) | (ratio > S_SLOT)
    w = torch.where(far, 0.0, (z_t - (a + b) * y) / torch.where(a > 0, a, 1.0))
    return w, torch.where(far, math.inf, ratio).flatten()


class Clock(Denoiser):
    """The compact network seen as the denoiser z_0(z_t, t, cond) of one process."""

    def __init__(self, denoiser: CompactDenoiser, process: Process):
        super().__init__()
        self.denoiser, self.process = denoiser, process

    def forward(self, z_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        w, s = clocked(self.process, z_t, t, cond.y)
        return cond.y + self.denoiser.residual(w, cond.image, s)


class Residual(nn.Module):
    """`CompactDenoiser.residual` as a module's forward: all that a distributed wrapper lets through."""

    def __init__(self, denoiser: CompactDenoiser):
        super().__init__()
        self.denoiser = denoiser

    def forward(self, w: Tensor, image: Tensor, s: Tensor) -> Tensor:
        return self.denoiser.residual(w, image, s)
