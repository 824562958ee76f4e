"""One step of training: of all players, on the whole batch, however it is cut.

The batch is cut into parts: one for each forward pass of each process. What depends on the cut is only the
order in which floating-point numbers are added up: random numbers are those of the whole batch, a player
moves when all its gradients are there, and what networks remember beside their weights is what the first part
told them.
"""

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..diffusion.denoiser import Batch, Method, Terms
from ..errors import TrainingError
from ..recipes.config import Run
from .batches import forwards
from .distributed import Draws, as_first, mean, together
from .players import Player

if TYPE_CHECKING:
    from accelerate import Accelerator

GENERATE, GENERATOR_LOSS, CRITIC_LOSS = range(3)
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SKIPS = 20
"""Steps in a row without a gradient in fp16's range; its scale comes down by as many powers of two."""


def precision(wish: str) -> str:
    """accelerate's name of the precision; auto is bf16 where the hardware computes in it, else fp32."""
    if wish != "auto":
        return "no" if wish == "fp32" else wish
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "no"


class Steps:
    """A method's steps with its players; called with the number of a step (from 0) and its batches.

    Raises ConfigError where the batch does not divide.
    """

    def __init__(self, method: Method, run: Run, table: Mapping[str, Player], accelerator: "Accelerator"):
        self.t, self.table, self.accelerator = run.train, table, accelerator
        self.forwards = forwards(self.t, accelerator.num_processes)
        # A method may keep what it drew from one call to the next: so each forward pass has one of its own.
        self.methods = [method, *(copy.copy(method) for _ in range(self.forwards - 1))]
        self.nets = {name: together(player.net, accelerator) for name, player in table.items()}
        self.dtype = DTYPES[precision(self.t.precision)]

    def __call__(self, step: int, batches: Sequence[Batch]) -> dict[str, float]:
        """This process's batches, one for each forward pass -> losses, as means over all of the whole batch.

        Raises TrainingError, before any weight is touched, for a loss or a gradient that is not finite: it
        names the step, the term and the batch. With fp16 such a gradient is left out, up to SKIPS in a row.
        """
        self.step, self.batches = step, batches
        self.ahead: dict[int, Tensor] = {}
        self.fakes: dict[int, Tensor] = {}
        judged = "critic" in self.table
        losses: dict[str, float] = {}
        if judged and self.methods[0].critic_first:
            self.look_ahead()
            losses |= self.update("critic", self.critic_loss)
        losses |= self.update("student", self.generator_loss)
        self.table["student"].average(min(self.t.ema, (step + 1) / (step + 10)))
        if judged and not self.methods[0].critic_first:
            losses |= self.update("critic", self.critic_loss)
        return losses

    def generate(self, m: int) -> Tensor:
        with self.drawing(GENERATE, m):
            z_hat: Tensor = self.nets["student"](self.methods[m].generate, self.batches[m])
        self.fakes[m] = z_hat.detach()
        return z_hat

    def look_ahead(self) -> None:
        """z_hat for a critic that comes first. The graphs of several passes are not kept, but made again."""
        with torch.set_grad_enabled(self.forwards == 1):
            made = {m: self.generate(m) for m in range(self.forwards)}
        self.ahead = made if self.forwards == 1 else {}

    def generator_loss(self, m: int) -> Terms:
        z_hat = self.ahead.pop(m) if m in self.ahead else self.generate(m)
        with self.drawing(GENERATOR_LOSS, m):
            return self.methods[m].generator_loss(self.batches[m], z_hat)

    def critic_loss(self, m: int) -> Terms:
        with self.drawing(CRITIC_LOSS, m):
            terms: Terms = self.nets["critic"](self.methods[m].critic_loss, self.batches[m], self.fakes[m])
            return terms

    @contextlib.contextmanager
    def drawing(self, call: int, m: int) -> Iterator[None]:
        """Precision and random numbers of one call on the m-th forward pass."""
        torch.manual_seed((self.t.seed * 1_000_003 + self.step) * 3 + call)
        world = self.accelerator.num_processes
        part, parts = m * world + self.accelerator.process_index, self.forwards * world
        with (
            Draws(part, parts) if parts > 1 else contextlib.nullcontext(),
            torch.autocast(self.accelerator.device.type, self.dtype, enabled=self.dtype != torch.float32),
        ):
            yield

    def update(self, name: str, terms_of: Callable[[int], Terms]) -> dict[str, float]:
        """One step of a player's optimiser, by the gradients of all forward passes of all processes."""
        player, n = self.table[name], self.forwards
        touched = self.table.values() if name == "student" else [player]  # whom its loss passes through
        remembered = [b for p in touched for b in p.buffers.values()]
        before = [b.clone() for b in remembered] if n > 1 else []
        player.optimiser.zero_grad(set_to_none=True)
        losses: dict[str, Tensor] = {}
        with contextlib.ExitStack() as others:
            for other in touched:
                if other is not player:
                    others.enter_context(other.frozen())
            for m in reversed(range(n)):
                for b, value in zip(remembered, before, strict=False):
                    b.copy_(value)
                with self.nets[name].no_sync() if m else contextlib.nullcontext():
                    terms = terms_of(m)
                    loss = sum(terms.values(), start=torch.zeros((), device=self.accelerator.device))
                    player.scaler.scale(loss / n).backward()  # type: ignore[no-untyped-call]
                for term, value in terms.items():
                    losses[term] = losses.get(term, torch.zeros_like(value)) + value.detach() / n
        as_first(remembered, self.accelerator)
        found = self.checked(name, mean(losses, self.accelerator))
        found |= self.checked(name, player.step(self.step))
        if player.skipped > SKIPS:
            raise TrainingError(
                f"step {self.step + 1}: expected gradients in the range of fp16, found none of the {name} "
                f"in {player.skipped} steps; the last good checkpoint is kept: set train.precision=bf16 or "
                "lower train.lr"
            )
        return found

    def checked(self, name: str, losses: Mapping[str, float]) -> dict[str, float]:
        """The losses with their player's name. Raises TrainingError unless all are finite."""
        for term, value in losses.items():
            if not math.isfinite(value):
                first = self.step * self.t.batch
                raise TrainingError(
                    f"step {self.step + 1}: expected a finite loss, found {name}/{term} = {value} on the "
                    f"batch of samples {first} to {first + self.t.batch - 1} (seed {self.t.seed}); the last "
                    "good checkpoint is kept: lower train.lr or look at these images"
                )
        return {f"{name}/{term}": value for term, value in losses.items()}
