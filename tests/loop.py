"""A method on a tiny compact base through the real training loop, and what each update changed."""

import itertools
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor, nn

from unistep.bases.compact.base import CompactBase
from unistep.bases.compact.network import CompactConfig, CompactDenoiser
from unistep.diffusion.denoiser import Batch
from unistep.recipes.config import MethodConfig, Run, TrainConfig
from unistep.training.loop import build, train
from unistep.training.players import players

TINY = CompactConfig((8, 8, 8), (1, 1, 1))


class Watched(CompactBase):
    """Remembers the networks that it gave for the teacher's role: denoisers and features, all frozen."""

    def network(self, role: str) -> CompactDenoiser:
        net = super().network(role)
        if role == "teacher":
            self.frozen = [*getattr(self, "frozen", [self.pretrained]), net]
        return net


def tensors(net: nn.Module) -> Iterator[Tensor]:
    """Weights, and of frozen networks the buffers too: a critic's may follow what it sees."""
    yield from net.parameters()
    if not any(p.requires_grad for p in net.parameters()):
        yield from net.buffers()


def updates(config: MethodConfig, steps: int = 1) -> tuple[list[tuple[str, set[str]]], dict[str, float]]:
    """Each update of `steps` steps: of whom it was, and who has changed since the one before, to the bit.

    Also the losses of the last step. Weight decay is off: nothing moves without a gradient.
    """
    torch.manual_seed(0)
    denoiser = CompactDenoiser(TINY)
    with torch.no_grad():
        for p in denoiser.parameters():
            p.add_(0.05 * torch.randn_like(p))  # a new network answers almost nothing
    base = Watched(denoiser)
    run = Run(
        "test", method=config, base=TINY,
        train=TrainConfig(steps=steps, batch=2, warmup=0, weight_decay=0.0, precision="fp32", init="teacher"),
    )  # fmt: skip
    x_lq, x_hq = torch.rand(2, 3, 8, 8) * 2 - 1, torch.rand(2, 3, 32, 32) * 2 - 1
    batch = Batch(x_lq, x_hq, base.encode(x_hq), base.cond(x_lq))
    method = build(run, base, torch.device("cpu"))
    table = players(method, run)
    nets = {name: [player.net] for name, player in table.items()}
    nets["frozen"] = getattr(base, "frozen", [denoiser])

    def now() -> dict[str, list[Tensor]]:
        return {
            name: [t.detach().clone() for net in group for t in tensors(net)] for name, group in nets.items()
        }

    found: list[tuple[str, set[str]]] = []
    last = now()

    def compare(who: str) -> None:
        nonlocal last
        was, last = last, now()
        found.append((who, {
            name for name in nets if not all(map(torch.equal, was[name], last[name]))
        }))  # fmt: skip

    for name, player in table.items():
        player.optimiser.register_step_post_hook(lambda *_, name=name: compare(name))
    try:
        losses = list(train(method, itertools.repeat(batch), run, table, Accelerator(cpu=True)))[-1][1]
    finally:
        AcceleratorState._reset_state()  # accelerate keeps its precision for the whole process
        PartialState._reset_state()
    return found, losses
