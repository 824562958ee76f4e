"""Random numbers of a step: new in each of its calls, and the same whatever the other calls drew."""

from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from unistep.bases.compact.network import CompactConfig
from unistep.diffusion.denoiser import Batch, Terms
from unistep.methods import TADSRConfig
from unistep.recipes.config import Run, TrainConfig
from unistep.training.players import players
from unistep.training.steps import Steps

SIZE = 4
"""Samples of the whole batch."""
CALLS = ("generate", "generator_loss", "critic_loss")


class Drawing:
    """A method whose calls draw t and noise, `more` of them in the one that is named, and remember both."""

    def __init__(self, greedy: str = "", critic_first: bool = False):
        self.student, self.critic = nn.Linear(1, 1), nn.Linear(1, 1)
        self.greedy, self.critic_first = greedy, critic_first
        self.drawn: dict[str, list[Tensor]] = {name: [] for name in CALLS}

    def draw(self, name: str, x: Tensor) -> None:
        t, eps = torch.randint(2**40, (len(x),)), torch.randn_like(x)
        self.drawn[name].append(torch.cat([t[:, None].double(), eps.double()], 1))
        if name == self.greedy:
            torch.randn(1000)

    def generate(self, batch: Batch) -> Tensor:
        self.draw("generate", batch.x_lq)
        out: Tensor = self.student(batch.x_lq)
        return out

    def generator_loss(self, batch: Batch, z_hat: Tensor) -> Terms:
        self.draw("generator_loss", z_hat)
        return {"fit": z_hat.square().mean()}

    def critic_loss(self, batch: Batch, z_fake: Tensor) -> Terms:
        self.draw("critic_loss", z_fake)
        return {"judge": self.critic(z_fake).square().mean()}


def drawn(numbers: range = range(3), micro: int = 0, seed: int = 0, **how: Any) -> dict[str, Tensor]:
    """What each call drew in these steps, [steps, samples, 2]: t and noise of each sample."""
    method: Any = Drawing(**how)
    settings = TrainConfig(batch=SIZE, micro=micro, seed=seed, precision="fp32", init="teacher")
    run = Run("test", CompactConfig(), TADSRConfig("resshift"), train=settings)
    steps = Steps(method, run, players(method, run), Accelerator(cpu=True))
    parts = torch.arange(SIZE * 1.0)[:, None].split(micro or SIZE)
    batches: Any = [Batch(x, x, x, None) for x in parts]  # type: ignore[arg-type]
    for step in numbers:
        steps(step, batches)
    return {name: torch.stack(pairs) for name, pairs in method.drawn.items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in CALLS)


def test_every_call_of_every_step_has_numbers_of_its_own():
    one, other = (torch.cat([*drawn(range(20), seed=seed).values()]).flatten(0, 1) for seed in (0, 1))
    assert len(one) == 20 * len(CALLS) * SIZE
    for column in torch.cat([one, other]).T:
        assert len(column.unique()) == 2 * len(one)


@pytest.mark.parametrize("greedy", CALLS)
def test_no_call_changes_the_numbers_of_another(greedy):
    assert same(drawn(greedy=greedy), drawn())


def test_numbers_are_those_of_the_step():
    """Whatever came before it, as in a run that goes on, and whoever is first."""
    assert same(drawn(range(2, 3)), {name: numbers[2:] for name, numbers in drawn().items()})
    assert same(drawn(critic_first=True), drawn())


def test_parts_of_a_batch_have_the_numbers_of_the_whole():
    """Of two parts the second has every second sample, and is computed first."""
    parts = {name: numbers.unflatten(0, (3, 2)) for name, numbers in drawn(micro=2).items()}
    assert same({name: of.flip(1).transpose(1, 2).flatten(1, 2) for name, of in parts.items()}, drawn())
