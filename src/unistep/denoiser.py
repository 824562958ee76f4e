"""What a method may ask of a network, and what the loop may ask of a method."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

Terms = dict[str, Tensor]
"""Named losses, already weighted: the loop sums, back-propagates and logs them."""


@dataclass(frozen=True)
class Cond:
    """What a network is conditioned on."""

    image: Tensor
    """The low-quality image [B, 3, h, w] in [-1, 1]."""
    y: Tensor
    """The low-quality latent, at the latent's size: the shift of ResShift, the start of a residual."""


@dataclass(frozen=True)
class Batch:
    """One training batch; everything is float32."""

    x_lq: Tensor
    """[B, 3, h, w] in [-1, 1]"""
    x_hq: Tensor
    """[B, 3, 4h, 4w] in [-1, 1]"""
    z_hq: Tensor
    """The latent of x_hq."""
    cond: Cond


class Method(Protocol):
    """One paper: a generator update and, if it has one, a critic update of a student."""

    student: nn.Module
    critic: nn.Module | None

    def generator_loss(self, batch: Batch) -> tuple[Terms, Tensor]:
        """The student's losses and its output z_hat."""
        ...

    def critic_loss(self, batch: Batch, z_fake: Tensor) -> Terms:
        """The critic's losses; z_fake comes detached."""
        ...
