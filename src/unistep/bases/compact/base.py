"""The compact base: the small diffusion model that ships inside the package.

Codec: pixel-unshuffle x4 (48 channels at the low resolution, lossless). The network is a denoiser of the
residual r_0 = z_0 - z_y to the bicubic enlargement z_y, indexed by the noise-to-signal ratio s alone:

    w = r_0 + s eps,    D(w, y, s) ~ E[r_0 | w, y]

Every process z_t = a z_0 + b z_y + s_t eps is a view of it (a "clock"):
w = (z_t - (a + b) z_y) / a, s = s_t / a.
The one-step slot is the limit s = inf, where w tells nothing and D answers from y alone.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...diffusion.denoiser import Cond, Denoiser, Features
from ...diffusion.process import Process, ddpm, flow, resshift
from ...errors import ConfigError
from ..settings import wordless
from .unet import UNet, fold

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
        self.net = UNet(self.config.widths, self.config.blocks)
        self.enlarge = Enlarge()

    def cond(self, x_lq: Tensor) -> Cond:
        """The condition of a low-quality image [B, 3, h, w] in [-1, 1]; h and w multiples of 4."""
        return Cond(image=x_lq, y=self.enlarge(x_lq))

    def residual(self, w: Tensor, image: Tensor, s: Tensor) -> Tensor:
        """E[r_0 | w, y] [B, 48, h, w], float32; s [B] in (0, inf], w is ignored where s = inf."""
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


def without_template(w: Tensor) -> Tensor:
    """w [B, 48, h, w] without what repeats every 16 pixels all over, and every 4 pixels nearby.

    16 pixels are the network's own period (pixel-unshuffle by 4, two strides of 2). A pattern that repeats
    with it costs a network nothing to paint, and is the cheapest answer to whoever rewards fine detail.
    """
    cells = F.pixel_unshuffle(w, 4)
    w = w - F.pixel_shuffle(deviation(cells.mean(dim=(2, 3), keepdim=True)).expand_as(cells), 4)
    return w - deviation(F.avg_pool2d(w, 9, stride=1, padding=4, count_include_pad=False))


def deviation(template: Tensor) -> Tensor:
    """[B, 3 n, h, w], n positions of each colour -> the same, less each colour's mean over its positions."""
    b, n, h, w = template.shape
    colours = template.reshape(b, 3, n // 3, h, w)
    return (colours - colours.mean(dim=2, keepdim=True)).reshape(b, n, h, w)


class Taps(Features):
    """The compact network's encoder half and middle: maps at strides 4, 8 and 16 of the high resolution.

    They are blind to patterns that repeat with the network's period: critics and perceptual distances that
    see them reward them, and the student paints a grid.
    """

    def __init__(self, denoiser: CompactDenoiser, process: Process):
        super().__init__()
        self.denoiser, self.process, self.widths = denoiser, process, tuple(denoiser.config.widths)
        for name in ("up1", "up0", "dec1", "dec0", "out"):
            delattr(denoiser.net, name)

    def forward(self, z_t: Tensor, t: Tensor, cond: Cond) -> list[Tensor]:
        w, s = clocked(self.process, z_t, t, cond.y)
        net = self.denoiser.net
        return net.encode(self.denoiser.encoder_input(without_template(w), cond.image, s), net.time(s))


class CompactBase:
    """The compact model, opened for training (`denoiser.Base`)."""

    sigma_data = SIGMA_DATA
    guided = False
    scale = 4
    multiple = 4

    def __init__(
        self,
        denoiser: CompactDenoiser,
        device: torch.device | str = "cpu",
        critic: CompactDenoiser | None = None,
    ):
        """`critic`: another network, perhaps a larger one, that critics start from (DFOSD Tab. 6)."""
        self.pretrained, self.device, self.critic = denoiser, torch.device(device), critic or denoiser

    def process(self, view: str) -> Process:
        """One of VIEWS. Raises ConfigError for another."""
        if view not in VIEWS:
            raise ConfigError(f"expected method.process to be one of {', '.join(VIEWS)} on the compact base, "
                              f"found “{view}”")  # fmt: skip
        return VIEWS[view]()

    def network(self, role: str) -> CompactDenoiser:
        """A copy of the pretrained network, channels last: the layout in which convolutions are quickest."""
        source = self.critic if role == "critic" else self.pretrained
        copy = CompactDenoiser(source.config)
        copy.load_state_dict(source.state_dict())
        copy.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return copy.requires_grad_(role != "teacher")

    def denoiser(self, role: str, view: str) -> Clock:
        return self.network(role).clock(self.process(view))

    def residual(self) -> Residual:
        """The network itself, trainable, for pre-training (`methods/teacher.py`)."""
        return Residual(self.network("student"))

    def features(self, role: str, view: str) -> Taps:
        return Taps(self.network(role), self.process(view)).requires_grad_(role != "teacher")

    def encode(self, x: Tensor) -> Tensor:
        return encode(x)

    def decode(self, z: Tensor) -> Tensor:
        return decode(z)

    def cond(self, x_lq: Tensor) -> Cond:
        """The condition of [B, 3, h, w] in [-1, 1]; h and w multiples of 4."""
        image = x_lq.to(self.device)
        return Cond(image=image, y=self.enlarge(image))

    def null(self, cond: Cond) -> Cond | None:
        """None: the network was never trained without its image."""
        return None

    def told(self, cond: Cond, texts: Sequence[str]) -> Cond:
        raise wordless("compact")

    def export(
        self, weights: Mapping[str, Tensor], method: str, dtype: torch.dtype
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        raise ConfigError("expected a large base to export from, found the compact one, whose weights are "
                          "used as they are")  # fmt: skip

    def layout(self, weights: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        raise ConfigError("expected a method with an authors' layout, found the compact base, which has none")

    def check_student(self, view: str, t: int) -> None:
        """Raises ConfigError unless index t is at the slot, which alone is shipped."""
        process = self.process(view)
        far = (process.s > S_SLOT * process.a).nonzero().flatten()
        if t not in far:
            raise ConfigError(
                f"expected method.t_student to be from {int(far.min())} to {int(far.max())}, where the "
                f"compact base answers in one step, found {t}: set method.t_student={int(far.max())}"
            )

    def restore(self, student: nn.Module, x_lq: Tensor) -> Tensor:
        """The slot of `student`, a Clock or Residual, on images in [0, 1]; h and w multiples of 4."""
        denoiser = cast(CompactDenoiser, student.denoiser)
        return (decode(denoiser.slot(self.cond(x_lq * 2 - 1))).cpu() + 1) / 2

    @functools.cached_property
    def enlarge(self) -> Enlarge:
        return Enlarge().to(self.device)


def half_flow() -> Process:
    """Rectified flow with noise of the latent's own standard deviation, 0.5 for images in [-1, 1].

    The shift 0.5 spends the schedule where the residual is still visible: at sigma > 0.3 of the unshifted one
    its share of the energy is below 0.12.
    """
    process = flow(1000, shift=0.5)
    return dataclasses.replace(process, s=0.5 * process.s)


VIEWS: dict[str, Callable[[], Process]] = {
    "flow": half_flow,
    "ddpm": ddpm,
    "resshift": functools.partial(resshift, steps=15, kappa=0.5, min_noise_level=0.0125),
}
"""The processes of the compact base; ResShift's kappa and noise levels are scaled down with the latent."""


class CompactStudent(nn.Module):
    """A one-step model, folded: image in, image out; only Conv, SiLU, Add and PixelShuffle are left."""

    scale = SCALE
    overlap = 32
    """Low-resolution pixels that a tile sees beyond its own on each side: the fewest whose result stays
    within about half an 8-bit level of the untiled one (measured: docs/log.md)."""

    def __init__(self, net: UNet, info: dict[str, Any] | None = None):
        super().__init__()
        self.net, self.enlarge = net, Enlarge()
        self.info = info or {}

    def forward(self, x_lq: Tensor) -> Tensor:
        """[B, 3, h, w] in [-1, 1] -> [B, 3, 4h, 4w] (about [-1, 1], not clipped), any h and w from 1."""
        h, w = x_lq.shape[-2:]
        x = pad_to_multiple(x_lq, 4)
        z = self.net(x) + self.enlarge(x)  # in this order: the enlargement need not wait in memory
        return decode(z)[..., : SCALE * h, : SCALE * w]


def mix(student: CompactDenoiser, plain: CompactDenoiser, fidelity: float) -> CompactDenoiser:
    """A new network, (1 - fidelity) theta_student + fidelity theta_plain; exactly one of them at 0 and at 1.

    Where the student was fine-tuned from `plain`, the networks between them work too (network interpolation:
    ESRGAN, Wang et al. 2018, arXiv 1809.00219, Sec. 3.4).
    """
    theta, mixed = plain.state_dict(), CompactDenoiser(student.config)
    mixed.load_state_dict(
        {name: tensor.lerp(theta[name], fidelity) for name, tensor in student.state_dict().items()}
    )
    return mixed


def fold_slot(denoiser: CompactDenoiser, info: dict[str, Any] | None = None) -> CompactStudent:
    """The teacher's one-step slot as a student: time folded, noise inputs removed, output scaled to r_0."""
    net = fold(denoiser.net, math.inf, slice(48, 51), SIGMA_DATA)
    return CompactStudent(net, info).eval().requires_grad_(False)


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Reflects at the right and bottom up to a multiple (repeats the edge where the image is too small)."""
    h, w = x.shape[-2:]
    down, right = -h % multiple, -w % multiple
    if right:
        x = F.pad(x, (0, right, 0, 0), mode="reflect" if right < w else "replicate")
    if down:
        x = F.pad(x, (0, 0, 0, down), mode="reflect" if down < h else "replicate")
    return x
