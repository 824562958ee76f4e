"""The one training loop, and `unistep train`.

`train` is a generator that knows no method but `Method`: it yields each step's losses, and the caller logs,
saves and validates. Every random number is a function of (seed, step), so a run that is resumed equals
one that was not.
"""

import contextlib
import functools
import itertools
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..atomic import atomic_write, remove_leftovers
from ..bases import face_of
from ..data.pairs import Pairs, Photographs
from ..data.skipping import ignore
from ..diffusion.denoiser import Batch, Method
from ..errors import ConfigError, TrainingError
from ..losses.perceptual import Form
from ..recipes.config import Run, override
from ..recipes.recipes import recipe
from ..tensors import save_weights
from . import distributed, plan
from .batches import check, forwards, make_batches
from .export import STUDENT, export
from .opening import build, find, lessons, open_run
from .players import Player, players, whole
from .progress import Log, Validation, progress_line
from .runfolder import SETTINGS, STATE, WEIGHTS, best_score, compare, load_state, locked, portable, save_state
from .steps import Steps, precision

if TYPE_CHECKING:
    from accelerate import Accelerator


def train(
    method: Method, data: Iterator[Batch], run: Run, table: Mapping[str, Player], accelerator: "Accelerator",
    start: int = 0,
) -> Iterator[tuple[int, dict[str, float]]]:  # fmt: skip
    """Yields (step, losses) after each step from `start`, the first being start + 1.

    `data` gives this process's batches, one for each forward pass. Raises what `Steps` does.
    """
    steps = Steps(method, run, table, accelerator)
    for step in range(start, run.train.steps):
        batches = list(itertools.islice(data, steps.forwards))
        if len(batches) < steps.forwards:
            return
        yield step + 1, steps(step, batches)


FEW_TEXTS = 256
"""As many are embedded at the start of a run on several processes."""
Report = Callable[[str], None]
Tick = Callable[[float, str], None]
"""Called now and then with the share that is done and a line that says more."""


def fit(run: Run, data: Path, out: Path, report: Report, tick: Tick | None = None) -> Path:
    """Trains `run` on the photographs of `data` into `out`, resuming what is there. Returns the best weights.

    Writes run.json, losses.csv, tensorboard/, sheets/, state.safetensors and weights.safetensors (the moving
    average with the best held-out score). A run may go on for more steps than it was made for, and with
    another data set unless it is strict: both are said. SIGTERM and Ctrl-C end the run after its step, with
    its state saved. Raises TrainingError if `out` holds another run or a damaged file, if a run writes to it
    now, or if another process of this run is gone; DataError, ConfigError.
    """
    accelerator = distributed.start()
    with distributed.ended_cleanly(accelerator):
        if accelerator.is_main_process:
            return _fit(run, data, out, report, tick, accelerator)
        return _fit(run, data, out, ignore, None, accelerator)


def _fit(
    run: Run, data: Path, out: Path, report: Report, tick: Tick | None, accelerator: "Accelerator"
) -> Path:
    t, writes, world = run.train, accelerator.is_main_process, accelerator.num_processes
    sources = find(run)
    micro = t.batch // (world * forwards(t, world))
    if accelerator.device.type == "cuda" and (note := plan.check(run, sources, accelerator.device, micro)):
        report(note)
    photographs = Photographs(data, run.data.holdout, run.data.strict, report)
    texts = photographs.texts() if run.data.prompts and not photographs.prepared else []
    if world > 1 and len(texts) > FEW_TEXTS:
        raise ConfigError(
            f"expected a folder of unistep prepare for {world} processes and {len(texts)} texts, which one "
            "process would embed while the others wait, found photographs: unistep prepare, then train on it"
        )
    torch.manual_seed(t.seed)
    compare(out, run)
    with accelerator.main_process_first():  # embeddings of texts are made by one, read by all
        opened = open_run(run, accelerator.device, photographs, sources)
    method = build(run, opened.base, accelerator.device)
    stand_in = distributed.shard(method, accelerator) if t.sharding == "full" else None
    table = players(method, run)
    table["student"].stand_in = stand_in
    files = opened.digests
    pairs = Pairs(photographs.train, run.data, t.seed)
    batches = make_batches(opened, pairs, accelerator.device, accelerator.process_index, world)
    pairs.preload(report)
    validate = Validation(photographs, run, out, report) if writes else None
    with contextlib.ExitStack() as stack:
        if writes:
            stack.enter_context(locked(out))
        data_now = photographs.record(run.data.prompts) if writes else {}
        past = load_state(out, table, files, run, data_now, report)
        start = past.step
        distributed.agree(f"step {start}, {files}", accelerator)
        pairs.start, pairs.length = start * t.batch, (t.steps - start) * t.batch
        distances = [part.name for part in vars(method).values() if isinstance(part, Form)]
        report(
            f"{len(photographs.train)} training images, {len(photographs.held_out)} held out; "
            + ("" if photographs.held_out else "scores are of training images; ")
            + "".join(f"{name}; " for name in distances)
            + (f"{world} processes; " if world > 1 else "")
            + f"{accelerator.device}, {precision(t.precision)}; step {start} of {t.steps}"
        )
        record = None
        if validate is not None:
            header = {
                "run": portable(run),
                **({"perceptual": ", ".join(distances)} if distances else {}),
                **lessons(method, opened, validate, bool(photographs.held_out), report),
                "data": past.data,
                **({"changes": past.changes} if past.changes else {}),
                "torch": torch.__version__,
                "device": str(accelerator.device),
                "history": opened.history,
            }
            record = Record(run, out, start, validate, header, report, tick)
            stack.enter_context(contextlib.closing(record))

        def look(step: int, judge: bool) -> None:
            """All processes give their parts of the weights, one looks at what they make."""
            weights = weights_of(table["student"])
            with table["student"].averaged() as student:
                if record is not None:
                    restore = functools.partial(opened.base.restore, student)
                    record.judge(step, restore, weights) if judge else record.validate.sheet(step, restore)

        asked = stack.enter_context(distributed.asked_to_stop(accelerator))
        if start == 0 and 0 in t.early:
            look(0, judge=False)
        for step, losses in train(method, batches, run, table, accelerator, start):
            last = step == t.steps
            if record is not None:
                record.losses(step, losses)
            judge = step % t.validate_every == 0 or last
            if judge or step in t.early:
                look(step, judge)
            stop = asked()
            if step % t.save_every == 0 or last or stop:
                save_state(out / STATE, table, step, run, files, past, writes)
            if stop and not last:
                stopped = f"{out}: stopped after step {step}, as asked: the same command goes on from there"
                if stop == signal.SIGINT:
                    report(stopped)
                    raise KeyboardInterrupt
                raise TrainingError(stopped)
    return out / WEIGHTS


class Record:
    """What one process writes of a run: its settings, its losses, its best weights."""

    def __init__(
        self, run: Run, out: Path, start: int, validate: Validation, header: dict[str, Any], report: Report,
        tick: Tick | None,
    ):  # fmt: skip
        self.run, self.out, self.start, self.validate, self.header = run, out, start, validate, header
        self.report, self.tick = report, tick
        self.best = best_score(out / WEIGHTS)
        for folder in (out, out / "sheets"):
            remove_leftovers(folder)
        with atomic_write(out / SETTINGS) as stream:
            stream.write(run.to_json().encode())
        self.log = Log(out, start)
        self.started = time.monotonic()

    def close(self) -> None:
        self.log.close()

    def losses(self, step: int, losses: dict[str, float]) -> None:
        self.log.losses(step, losses)
        steps = self.run.train.steps
        if step % 20 == 0 or step == steps:
            rate = (time.monotonic() - self.started) / (step - self.start)
            line = progress_line(step, steps, rate, losses)
            self.tick(step / steps, line) if self.tick else self.report(line)

    def judge(self, step: int, restore: Callable[[Tensor], Tensor], weights: Mapping[str, Tensor]) -> None:
        """Scores the student on held-out crops, and keeps its averaged `weights` if they are to be kept."""
        scores = self.validate(step, restore)
        self.log.losses(step, {f"held_out/{name}": value for name, value in scores.items()})
        self.report(f"step {step}: " + ", ".join(f"{name} {value:.3f}" for name, value in scores.items()))
        file = self.out / WEIGHTS
        if self.run.train.keep != "last" and not scores["score"] >= self.best and file.exists():
            return
        self.best = scores["score"]
        samples = step * self.run.train.batch
        own = {key: self.header[key] for key in ("run", "restorer") if key in self.header}
        made = [*self.header["history"], {**own, "steps": step, "samples": samples}]
        totals = {key: sum(part[key] for part in made) for key in ("steps", "samples")}
        header = {**self.header, "history": made, **totals, "scores": scores}
        # A whole model is used as it is; what large bases train is small, and rounded once it is folded.
        dtype = torch.float16 if face_of(self.run.base).whole else torch.float32
        save_weights(file, weights, header, dtype)


def weights_of(student: Player) -> dict[str, Tensor]:
    """The averaged weights under the denoiser's own names."""
    return {name.removeprefix("denoiser."): whole(mean) for name, mean in student.ema.items()}


def main(name: str, data: Path, out: Path, settings: list[str], dry_run: bool = False,
         report: Report = print, tick: Tick | None = None) -> Path | None:  # fmt: skip
    """`unistep train`: resolves the recipe, prints it, trains. Returns the weights, None for a dry run."""
    if not distributed.first():
        report, tick = ignore, None
    run = override(recipe(name), settings)
    report(run.to_json())
    if dry_run:
        photographs = Photographs(data, run.data.holdout, run.data.strict, report)
        opened = open_run(run, torch.device("cpu"), photographs)
        build(run, opened.base, torch.device("cpu"))
        pairs = Pairs(photographs.train, run.data, run.train.seed)
        check(opened, pairs)
        pairs.preload(report)
        report(
            f"{len(photographs.train)} training images, {len(photographs.held_out)} held out; "
            "nothing was trained"
        )
        return None
    try:
        weights = fit(run, data, out, report, tick)
    except OSError as error:
        raise TrainingError(
            f"{out}: cannot be written ({error}): make room, and the same command goes on from the last "
            "checkpoint"
        ) from error
    distributed.leave()
    report(f"weights: {weights}")
    if distributed.first() and not face_of(run.base).whole:
        export(out, out / STUDENT, report=report)
    return weights
