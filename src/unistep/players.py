"""Who is trained: a network, its optimiser and, for the student, the moving average of its weights."""

import contextlib
import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from .config import Run
from .denoiser import Method


class Player:
    """One trained network."""

    def __init__(self, net: nn.Module, lr: float, run: Run, ema: bool):
        self.net, self.lr = net, lr
        self.params = {name: p for name, p in net.named_parameters() if p.requires_grad}
        self.optimiser = torch.optim.AdamW(
            self.params.values(), lr=lr, betas=run.train.betas, weight_decay=run.train.weight_decay
        )
        self.ema = {name: p.detach().clone() for name, p in self.params.items()} if ema else {}

    @property
    def buffers(self) -> dict[str, Tensor]:
        """What the network remembers beside its weights (spectral norms, an adaptive range of noise)."""
        kept = self.net.state_dict()
        return {name: b for name, b in self.net.named_buffers() if name in kept}

    @contextlib.contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The network with the moving average in the place of its weights."""
        own = {name: p.detach().clone() for name, p in self.params.items()}
        try:
            self._set(self.ema)
            yield self.net
        finally:
            self._set(own)

    @torch.no_grad()
    def _set(self, values: Mapping[str, Tensor]) -> None:
        for name, p in self.params.items():
            p.copy_(values[name])

    @torch.no_grad()
    def average(self, decay: float) -> None:
        for name, mean in self.ema.items():
            mean.lerp_(self.params[name].detach(), 1 - decay)

    def state(self) -> dict[str, Tensor]:
        """Weights, average and the optimiser's moments under flat names."""
        tensors = {f"net.{name}": p.detach() for name, p in {**self.params, **self.buffers}.items()}
        tensors |= {f"ema.{name}": mean for name, mean in self.ema.items()}
        for name, p in self.params.items():
            tensors |= {
                f"optim.{key}.{name}": value for key, value in self.optimiser.state.get(p, {}).items()
            }
        return tensors

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        for name, buffer in self.buffers.items():
            buffer.copy_(tensors[f"net.{name}"])
        for name, p in self.params.items():
            p.copy_(tensors[f"net.{name}"])
            if self.ema:
                self.ema[name].copy_(tensors[f"ema.{name}"])
            if f"optim.step.{name}" in tensors:
                # With p's device and memory format: the arithmetic is then that of an unbroken run.
                moments = {
                    key: torch.empty_like(p).copy_(tensors[f"optim.{key}.{name}"])
                    for key in ("exp_avg", "exp_avg_sq")
                }
                self.optimiser.state[p] = {"step": tensors[f"optim.step.{name}"].clone(), **moments}


def learning_rate(run: Run, step: int) -> float:
    """Share of the full rate at `step` (from 0): linear warm-up, then a cosine down to lr_min."""
    t = run.train
    if step < t.warmup:
        return (step + 1) / t.warmup
    progress = (step - t.warmup) / max(1, t.steps - t.warmup)
    return t.lr_min + (1 - t.lr_min) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def players(method: Method, run: Run) -> dict[str, Player]:
    """The student and, if the method has one, the critic."""
    table = {"student": Player(method.student, run.train.lr, run, ema=True)}
    if method.critic is not None:
        table["critic"] = Player(method.critic, run.train.lr_critic, run, ema=False)
    return table
