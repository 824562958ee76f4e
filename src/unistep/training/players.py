"""Who is trained: a network, its optimiser and, for the student, the moving average of its weights."""

import contextlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from ..diffusion.denoiser import Method
from ..recipes.config import Run


def is_split(t: Tensor) -> bool:
    """Whether it is a DTensor, whose import costs more than all of training's."""
    return hasattr(t, "full_tensor")


def whole(t: Tensor) -> Tensor:
    """A tensor that is split over the processes, put together; every process must ask. Others as they are."""
    return t.full_tensor() if is_split(t) else t  # type: ignore[attr-defined]


def split(t: Tensor, like: Tensor) -> Tensor:
    """The opposite: a tensor, split as `like` is."""
    if not is_split(like) or is_split(t):
        return t
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(t.to(like.device), like.device_mesh, like.placements, src_data_rank=None)  # type: ignore[attr-defined]


class Player:
    """One trained network."""

    def __init__(
        self, net: nn.Module, lr: float, run: Run, ema: bool, decays: bool = True,
        shared: frozenset[int] = frozenset(),
    ):  # fmt: skip
        """decays: whether the rate follows the cosine. shared: ids of tensors of other networks too."""
        self.net, self.lr, self.run, self.decays, self.shared = net, lr, run, decays, shared
        self.params = {name: p for name, p in net.named_parameters() if p.requires_grad}
        self.optimiser = torch.optim.AdamW(
            self.params.values(), lr=lr, betas=run.train.betas, weight_decay=run.train.weight_decay
        )
        self.ema = {name: p.detach().clone() for name, p in self.params.items()} if ema else {}
        device = next(iter(self.params.values())).device.type
        self.scaler = torch.amp.GradScaler(device, enabled=run.train.precision == "fp16")
        self.skipped = 0
        """Steps in a row that float16's range did not allow."""
        self.stand_in: nn.Module | None = None
        """A whole network of the same kind, where `net` itself is split."""

    @property
    def buffers(self) -> dict[str, Tensor]:
        """What it alone remembers beside its weights (spectral norms, an adaptive range of noise)."""
        kept = self.net.state_dict()
        return {name: b for name, b in self.net.named_buffers() if name in kept and id(b) not in self.shared}

    @contextlib.contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The network with the moving average in the place of its weights."""
        mean = {name: whole(t) for name, t in self.ema.items()}
        if self.stand_in is not None:
            put(dict(self.stand_in.named_parameters()), mean)
            yield self.stand_in
            return
        own = {name: p.detach().clone() for name, p in self.params.items()}
        try:
            put(self.params, mean)
            yield self.net
        finally:
            put(self.params, own)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Another player's loss may pass through the network, and leaves no gradient in it."""
        try:
            for p in self.params.values():
                p.requires_grad_(False)
            yield
        finally:
            for p in self.params.values():
                p.requires_grad_(True)

    @torch.no_grad()
    def average(self, decay: float) -> None:
        for name, mean in self.ema.items():
            mean.lerp_(self.params[name].detach(), 1 - decay)

    def step(self, step: int) -> dict[str, float]:
        """One step of the optimiser, at the rate of `step`; returns the gradient's norm before clipping.

        No weight moves if that is not finite.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = self.lr * learning_rate(self.run, step, self.decays)
        self.scaler.unscale_(self.optimiser)
        limit = self.run.train.clip or math.inf
        norm = float(whole(torch.nn.utils.clip_grad_norm_(self.params.values(), limit)))
        finite = math.isfinite(norm)
        if finite:
            self.optimiser.step()
        if not self.scaler.is_enabled():
            return {"grad_norm": norm}
        self.scaler.update()
        self.skipped = 0 if finite else self.skipped + 1
        return {"skipped": float(not finite), **({"grad_norm": norm} if finite else {})}

    def state(self) -> dict[str, Tensor]:
        """Weights, average and the optimiser's moments under flat names, whole."""
        tensors = {f"net.{name}": p.detach() for name, p in {**self.params, **self.buffers}.items()}
        tensors |= {f"ema.{name}": mean for name, mean in self.ema.items()}
        for name, p in self.params.items():
            tensors |= {
                f"optim.{key}.{name}": value for key, value in self.optimiser.state.get(p, {}).items()
            }
        if self.scaler.is_enabled():
            scale = self.scaler.state_dict()
            tensors["scaler"] = torch.tensor([scale["scale"], scale["_growth_tracker"], self.skipped])
        return {name: whole(t) for name, t in tensors.items()}

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        for name, buffer in self.buffers.items():
            buffer.copy_(tensors[f"net.{name}"])
        put(self.params, {name: tensors[f"net.{name}"] for name in self.params})
        put(self.ema, {name: tensors[f"ema.{name}"] for name in self.ema})
        for name, p in self.params.items():
            if f"optim.step.{name}" in tensors:
                # With p's device and memory format: the arithmetic is then that of an unbroken run.
                moments = {
                    key: torch.empty_like(p).copy_(split(tensors[f"optim.{key}.{name}"], p))
                    for key in ("exp_avg", "exp_avg_sq")
                }
                self.optimiser.state[p] = {"step": tensors[f"optim.step.{name}"].clone(), **moments}
        if self.scaler.is_enabled():
            scale, tracker, skipped = tensors["scaler"].tolist()
            self.skipped = int(skipped)
            kept = {"scale": scale, "_growth_tracker": int(tracker)}
            self.scaler.load_state_dict({**self.scaler.state_dict(), **kept})


@torch.no_grad()
def put(targets: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Copies whole values into tensors, split or not."""
    for name, value in values.items():
        targets[name].copy_(split(value, targets[name]))


def learning_rate(run: Run, step: int, decays: bool = True) -> float:
    """Share of the full rate at `step` (from 0): linear warm-up, then a cosine down to lr_min; or 1."""
    t = run.train
    if not decays:
        return 1.0
    if step < t.warmup:
        return (step + 1) / t.warmup
    progress = (step - t.warmup) / max(1, t.steps - t.warmup)
    return t.lr_min + (1 - t.lr_min) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def players(method: Method, run: Run) -> dict[str, Player]:
    """The student and, if the method has one, the critic."""
    nets = {net for net in vars(method).values() if isinstance(net, nn.Module)}
    held = Counter(id(b) for net in nets for b in net.buffers())
    shared = frozenset(b for b, times in held.items() if times > 1)
    t = run.train
    table = {"student": Player(method.student, t.lr, run, ema=True, shared=shared)}
    if method.critic is not None:
        table["critic"] = Player(
            method.critic, t.lr_critic, run, ema=False, decays=t.schedule_critic, shared=shared
        )
    return table
