"""What a plan found: bytes that are held, bytes that come and go, and the table that says what fits."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from ..recipes.config import Run, kind

GB = 1e9
CARDS = (24, 40, 80)
"""GB of the cards that a plan answers for."""
CONTEXT, SHARE = 0.8 * GB, 0.1
"""What fragments, workspaces and the GPU's context take beside what is counted: bytes, and a share of it."""


@dataclass(frozen=True)
class Row:
    """Bytes that one part of the run holds from the first step to the last."""

    part: str
    frozen: int = 0
    """Weights that are not trained, and buffers, in the dtype in which they are stored."""
    trained: int = 0
    gradients: int = 0
    moments: int = 0
    """Adam's two."""
    average: int = 0
    """The moving average of the student's weights."""

    @property
    def total(self) -> int:
        return self.frozen + self.trained + self.gradients + self.moments + self.average


@dataclass(frozen=True)
class Need:
    """Bytes of what comes and goes in one phase of a step: `fixed + each * micro` at the peak.

    Fixed are copies of trained weights in the precision of the run.
    """

    phase: str
    fixed: int
    each: int
    kept: int
    """Per sample: what waits for the backward pass."""
    beside: bool = False
    """Whether it takes its bytes while the others do, and not before or after them."""

    def peak(self, micro: int) -> int:
        return self.fixed + self.each * micro


def highest(needs: Iterable[Need], micro: int) -> int:
    """Bytes of the phases of a step at the worst moment."""
    needs = list(needs)
    beside = sum(need.peak(micro) for need in needs if need.beside)
    return beside + max(need.peak(micro) for need in needs if not need.beside)


@dataclass(frozen=True)
class Plan:
    """What a run needs on one device."""

    run: Run
    precision: str
    micro: int
    """Samples of one forward pass."""
    rows: tuple[Row, ...]
    needs: dict[bool, tuple[Need, ...]]
    """By whether blocks are computed again in the backward pass."""
    flops: dict[str, int]
    """Per sample of a step, by part; with the run's own setting of checkpointing."""
    notes: tuple[str, ...] = ()
    """What could not be counted."""

    @property
    def checkpointing(self) -> bool:
        return bool(getattr(self.run.base, "checkpointing", False))

    @property
    def static(self) -> int:
        return sum(row.total for row in self.rows)

    def peak(self, micro: int, checkpointing: bool) -> int:
        """Bytes on the device at the worst moment of a step, allowances included."""
        return with_allowances(self.static + highest(self.needs[checkpointing], micro))

    def largest(self, memory: float, checkpointing: bool) -> int:
        """The largest micro-batch that fits into `memory` bytes; 0: not even one sample does."""
        micro = 0
        while micro < 1024 and self.peak(micro + 1, checkpointing) <= memory:
            micro += 1
        return micro

    def __str__(self) -> str:
        base, patch = kind(self.run.base), self.run.data.patch
        lines = [
            f"{self.run.name}: {kind(self.run.method)} on {base}, {patch} pixels, {self.precision}, "
            f"{self.micro} samples at once, checkpointing {'on' if self.checkpointing else 'off'}",
            "",
            f"{'held all the time':34}{'frozen':>9}{'trained':>9}{'gradient':>9}{'Adam':>9}{'average':>9}"
            f"{'GB':>9}",
        ]
        for row in (*self.rows, total(self.rows)):
            values = (row.frozen, row.trained, row.gradients, row.moments, row.average, row.total)
            lines.append(f"{row.part:34}" + "".join(f"{value / GB:9.3f}" for value in values))
        for checkpointing, needs in self.needs.items():
            about = "with checkpointing" if checkpointing else "without checkpointing"
            lines += ["", f"{'comes and goes, ' + about:34}{'kept':>9}{'at peak':>9}   per sample, GB"]
            lines += [f"{n.phase:34}{n.kept / GB:9.3f}{n.each / GB:9.3f}" for n in needs]
        lines += ["", f"{'work of a step, per sample':34}{'TFLOP':>9}"]
        work = {**self.flops, "in all": sum(self.flops.values())}
        lines += [f"{part:34}{value / 1e12:9.3f}" for part, value in work.items()]
        head = "".join(f"{f'{card} GB':>9}" for card in CARDS)
        lines += ["", f"{'largest micro-batch on a card of':34}{head}"]
        for checkpointing in self.needs:
            fits = "".join(f"{self.largest(card * GB, checkpointing) or '-':>9}" for card in CARDS)
            lines.append(f"{'with checkpointing' if checkpointing else 'without checkpointing':34}{fits}")
        lines += [
            "",
            f"GB are 10^9 bytes. All is counted, but for {SHARE:.0%} and {CONTEXT / GB:.1f} GB on top for "
            "fragments, workspaces",
            "and the GPU's context (an estimate). Attention is taken to store no scores.",
            *self.notes,
        ]
        return "\n".join(lines)


def with_allowances(counted: int) -> int:
    """Bytes, with what cannot be counted."""
    return int(counted * (1 + SHARE) + CONTEXT)


def total(rows: tuple[Row, ...]) -> Row:
    names = [field.name for field in dataclasses.fields(Row) if field.name != "part"]
    return Row("in all", *(sum(getattr(row, name) for row in rows) for name in names))
