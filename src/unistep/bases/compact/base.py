"""The compact model, opened for training: its roles, its encoder half and its processes."""

import dataclasses
import functools
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...diffusion.denoiser import Cond, Features
from ...diffusion.process import Process, ddpm, flow, residual_shift
from ...errors import ConfigError
from ..face import Plainly
from .network import S_SLOT, SIGMA_DATA, Clock, CompactDenoiser, Enlarge, Residual, clocked, decode, encode


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


class CompactBase(Plainly):
    """The compact model, opened for training (`denoiser.Base`)."""

    name = "compact"
    sigma_data = SIGMA_DATA
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
        """A copy of the pretrained network, channels last: the layout in which convolutions are quickest.

        Raises ConfigError for a folded one in another role than the student's.
        """
        source = self.critic if role == "critic" else self.pretrained
        if source.config.folded and role != "student":
            raise ConfigError(
                f"expected a network of all times as {role}, found a folded one, which knows one step alone: "
                "set base.folded=false"
            )
        copy = CompactDenoiser(source.config)
        copy.load_state_dict(source.state_dict())
        copy.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return copy.requires_grad_(role != "teacher")

    def denoiser(self, role: str, view: str) -> Clock:
        return self.network(role).clock(self.process(view))

    def residual(self) -> Residual:
        """The network itself, trainable, for pre-training (`methods/teacher.py`).

        Raises ConfigError for a folded one.
        """
        self.network("teacher")
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
    "resshift": functools.partial(residual_shift, steps=15, kappa=0.5, min_noise_level=0.0125),
}
"""The processes of the compact base; ResShift's kappa and noise levels are scaled down with the latent."""
