"""What a method may ask of a network and of a base model, and what the loop may ask of a method."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .process import Process

Terms = dict[str, Tensor]
"""Named losses, already weighted: the loop sums, back-propagates and logs them."""

Distance = Callable[[Tensor, Tensor], Tensor]
"""A perceptual loss: images x, target [B, 3, H, W] in [-1, 1] -> a scalar with a gradient to x."""


@dataclass(frozen=True)
class Cond:
    """What a network is conditioned on."""

    image: Tensor
    """The low-quality image [B, 3, h, w] in [-1, 1]."""
    y: Tensor
    """The low-quality latent, at the latent's size: the shift of a process, the start of a residual."""
    prompt: Tensor | None = None
    """Embedding of a text [1 or B, L, D], where the base takes one."""
    pooled: Tensor | None = None
    """The text as one vector [1 or B, P], where the base takes it."""


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
    null: Cond | None = None
    """The condition without content, for classifier-free guidance; None where guidance is 1."""
    cond_hq: Cond | None = None
    """What the high-quality image shows, where images have prompts of their own; None: `cond` says it all."""

    restored: Tensor | None = None
    """What a stronger restorer makes of x_lq, as x_hq; None where the method asks for none."""

    @property
    def told(self) -> Cond:
        """What every role but the student is conditioned on (TSD-SR Sec. 4.1, "Implementation Details")."""
        return self.cond if self.cond_hq is None else self.cond_hq


class Denoiser(nn.Module, ABC):
    """A network at the border: (z_t, t, cond) -> z_0, float32 whatever the network's own dtype."""

    process: Process

    @abstractmethod
    def forward(self, z_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """z_t [B, C, h, w], t [B] int64 an index of `process` -> z_0 [B, C, h, w].

        A student that trains an encoder of its own looks at cond.image with it, in the place of z_t.
        """


class Features(nn.Module, ABC):
    """The encoder half of a network: (z_t, t, cond) -> feature maps, finest first, the middle block last."""

    process: Process
    widths: tuple[int, ...]
    """Channels of each map."""

    def latent(self, z: Tensor) -> Tensor:
        """A clean latent of the base [B, C, h, w] as this network, perhaps of another base, knows it."""
        return z

    @abstractmethod
    def forward(self, z_t: Tensor, t: Tensor, cond: Cond) -> list[Tensor]:
        """z_t [B, C, h, w], t [B] int64 an index of `process` -> one map [B, C_k, h_k, w_k] per width."""


class Base(Protocol):
    """A pretrained model, opened for training. Every call of `denoiser` and `features` gives a new copy.

    `role` is "student", "teacher", "score" or "critic"; all but the teacher are trainable.
    `process` is the view: "flow", "ddpm" or another one. Raises ConfigError for a view that the base lacks.
    """

    sigma_data: float
    """Standard deviation of z_hq - y: what errors of a latent are measured against."""
    guided: bool
    """Whether `null` gives a condition: whether classifier-free guidance is possible."""
    scale: int
    """Enlargement from the low-quality image to the result."""
    multiple: int
    """Sides of the low-quality images that `cond` takes are multiples of it."""

    def process(self, view: str) -> Process: ...
    def denoiser(self, role: str, view: str) -> Denoiser: ...
    def features(self, role: str, view: str) -> Features: ...
    def encode(self, x: Tensor) -> Tensor: ...
    def decode(self, z: Tensor) -> Tensor: ...
    def cond(self, x_lq: Tensor) -> Cond: ...
    def null(self, cond: Cond) -> Cond | None:
        """The condition without content that goes with `cond`; None if the base has none."""
        ...

    def told(self, cond: Cond, texts: Sequence[str]) -> Cond:
        """`cond` with a prompt for each image. Raises ConfigError for a base that takes no text."""
        ...

    def check_student(self, view: str, t: int) -> None:
        """Raises ConfigError unless a student that is asked at index t is what `restore` uses."""
        ...

    def restore(self, student: nn.Module, x_lq: Tensor) -> Tensor:
        """What the student is for: [B, 3, h, w] -> [B, 3, scale h, scale w], both in [0, 1], on the CPU."""
        ...

    def export(
        self, weights: Mapping[str, Tensor], method: str, dtype: torch.dtype
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """(header["student"], tensors) of the one-step student with these trained weights, folded.

        `weights`: name of a trained parameter of the student's denoiser -> tensor. Raises ConfigError for a
        base whose weights are used as they are.
        """
        ...

    def layout(self, weights: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """File name -> tensors, as the authors of the method keep them. Raises as `export`."""
        ...


class Method(Protocol):
    """One paper: a generator update and, if it has one, a critic update of a student."""

    student: nn.Module
    critic: nn.Module | None
    teacher: nn.Module | None = None
    """The frozen network that the student learns from, where there is one."""
    t_student: int | None = None
    """The index that the student is asked at, where it is a setting; None: the last of the process."""
    critic_first: bool = False
    """Whether the critic is updated before the student, on the same z_hat (TAD-SR, Algorithm 1)."""
    critic_file: bool = False
    """Whether the critic may start from a file of its own (train.critic_init)."""
    pretrains: bool = False
    """It makes a base's own network, from nothing or from train.init, and no student of one."""
    restores: bool = False
    """Whether it learns from what a stronger restorer makes of the low-quality images (train.restorer)."""

    @classmethod
    def build(cls, config: Any, base: Base, perceptual: Callable[[str], Distance]) -> "Method":
        """The method on its players. `perceptual("lpips" | "dists")` opens the run's feature network."""
        ...

    def generate(self, batch: Batch) -> Tensor:
        """The student's output z_hat, in one step."""
        ...

    def generator_loss(self, batch: Batch, z_hat: Tensor) -> Terms:
        """The student's losses; z_hat is what `generate` returned."""
        ...

    def critic_loss(self, batch: Batch, z_fake: Tensor) -> Terms:
        """The critic's losses; z_fake is z_hat, detached. Without a critic there are none."""
        return {}


def check_times(config: Any, names: Sequence[str], process: Process) -> int:
    """The last index of the process. Raises ConfigError for a setting of `names` that is no index."""
    last = len(process) - 1
    for name in names:
        if not 0 <= getattr(config, name) <= last:
            raise ConfigError(f"expected method.{name} to be from 0 to {last}, the last index of the "
                              f"process, found {getattr(config, name)}")  # fmt: skip
    return last


def check_steps(config: Any, names: Sequence[str], process: Process) -> None:
    """Raises ConfigError for a setting of `names` that is more than the steps of the process."""
    for name in names:
        if getattr(config, name) > len(process):
            raise ConfigError(
                f"expected method.{name} to be at most {len(process)}, the steps of method.process "
                f"“{config.process}”, found {getattr(config, name)}; set a smaller one"
            )


def join(*conds: Cond) -> Cond:
    """The conditions of several batches as those of one."""

    def text(c: Cond, name: str) -> Tensor | None:
        one: Tensor | None = getattr(c, name)
        return None if one is None else one.expand(len(c.y), *one.shape[1:])

    texts = {name: [text(c, name) for c in conds] for name in ("prompt", "pooled")}
    return Cond(
        torch.cat([c.image for c in conds]),
        torch.cat([c.y for c in conds]),
        **{
            name: torch.cat(given)
            for name, all_ in texts.items()
            if (given := [t for t in all_ if t is not None])
        },
    )


def filled(t: int, like: Tensor) -> Tensor:
    """[B] of the one time t."""
    return torch.full((len(like),), t, device=like.device)
