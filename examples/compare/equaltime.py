"""Training runs that get the same CPU time, each in a process of its own: what a fair comparison trains.

What a step costs is measured first, with its data; the number of steps follows. Runs that were stopped go on,
and are charged for all their parts.
"""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rows import Row

from unistep.atomic import atomic_write
from unistep.data.pairs import Pairs, Photographs
from unistep.errors import UnistepError
from unistep.evaluation.cost.timing import timed
from unistep.recipes.config import Run, override
from unistep.recipes.recipes import recipe
from unistep.tensors import read_header
from unistep.training.batches import make_batches
from unistep.training.opening import build, open_run
from unistep.training.players import players
from unistep.training.steps import Steps

COMMON = (
    "data.workers=0",
    # The photographs that training keeps out are those that the table measures: nothing is chosen by them.
    "train.keep=last",
    "train.validate_every=1000000",
    "train.save_every=100",
)
ROUNDS, FEW = 3, 16
"""Of a calibration: steps, and images."""
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "CUDA_VISIBLE_DEVICES": ""}


@dataclass(frozen=True)
class Job:
    """One training run of a row."""

    row: str
    ablation: bool
    seed: int
    recipe: str
    settings: tuple[str, ...]
    data: Path
    folder: Path
    budget: float
    """CPU seconds of its training steps; the start and the validation at the end come on top."""

    @property
    def weights(self) -> Path:
        return self.folder / "weights.safetensors"

    @property
    def calibration(self) -> Path:
        """Shared by the seeds of a row: they cost the same."""
        return self.folder.parent / "calibration" / f"{self.row}.json"

    def command(self, out: Path, steps: int) -> list[str]:
        settings = (*self.settings, f"train.steps={steps}", f"train.seed={self.seed}")
        sets = [part for setting in settings for part in ("--set", setting)]
        places = ["--data", str(self.data), "--out", str(out)]
        return [sys.executable, "-m", "unistep", "train", self.recipe, *places, *sets]


@dataclass(frozen=True)
class Spent:
    """What a process and the processes that it started cost."""

    code: int
    cpu_seconds: float
    peak_mib: float
    """Resident memory of the largest of them."""


def plan(
    table: Mapping[str, Row], ablation: bool, seeds: Iterable[int], teacher: Path, data: Path, out: Path,
    budget: float, more: Iterable[str] = (), only: Iterable[str] | None = None, large: Path | None = None,
) -> list[Job]:  # fmt: skip
    """The runs of a table's rows: the network has the shape of `teacher`, from which it starts.

    LARGE in a row's settings is `large`, a larger network than the teacher.
    """
    base = read_header(teacher)["run"]["base"]
    shape = [f"base.{name}={json.dumps(base[name])}" for name in ("widths", "blocks")]
    names = [name for name in table if only is None or name in only]
    return [
        Job(
            name, ablation, seed, table[name][0],
            (*COMMON, *shape, f"train.init={teacher.resolve()}", *more,
             *(setting.replace("LARGE", str(large)) for setting in table[name][1])),
            data, out / f"{name}-seed{seed}", budget,
        )
        for name in names
        for seed in seeds
    ]  # fmt: skip


RUNNING: set[int] = set()
"""Process ids of the trainings under way."""


def spend(command: list[str], log: Path) -> Spent:
    """Runs a command to its end; what it says is added to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        process = subprocess.Popen(
            command, env={**os.environ, **ENVIRONMENT}, stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
    RUNNING.add(process.pid)
    _, status, usage = os.wait4(process.pid, 0)
    RUNNING.discard(process.pid)
    process.returncode = os.waitstatus_to_exitcode(status)
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**20  # kilobytes but on macOS
    return Spent(process.returncode, usage.ru_utime + usage.ru_stime, peak)


def read_json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(json.dumps(value, indent=1).encode())


def last_line(log: Path) -> str:
    return (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [""])[-1]


def calibrate(job: Job) -> str | None:
    """CPU seconds of a training step, measured in this process on one thread. Returns what failed."""
    if job.calibration.exists():
        return None
    try:
        with torch.inference_mode(False), torch.enable_grad():
            seconds = step_seconds(override(recipe(job.recipe), list(job.settings)), job.data)
    except UnistepError as error:
        return f"{job.row}: {error}"
    write_json(job.calibration, {"cpu_seconds_per_step": seconds})
    return None


def step_seconds(run: Run, data: Path) -> float:
    """Median CPU seconds of a training step and its data, from images in memory, after a warm-up."""
    from accelerate import Accelerator

    cpu = torch.device("cpu")
    photographs = Photographs(data, run.data.holdout)
    torch.manual_seed(run.train.seed)
    opened = open_run(run, cpu, photographs)
    method = build(run, opened.base, cpu)
    pairs = Pairs(photographs.train[:FEW], run.data, run.train.seed)
    pairs.preload()
    step = Steps(method, run, players(method, run), Accelerator(cpu=True))
    batches = make_batches(opened, pairs, cpu)

    def one() -> None:
        step(0, [next(batches) for _ in range(step.forwards)])

    one()
    return timed(one, ROUNDS, cpu)[1]


def affordable(calibration: dict[str, float], budget: float) -> int:
    """Steps for a budget of CPU seconds."""
    return max(1, math.floor(budget / calibration["cpu_seconds_per_step"]))


def train(job: Job) -> str | None:
    """Trains a run, or goes on with it; cost.json sums what all its processes cost. Returns what failed."""
    file, log = job.folder / "cost.json", job.folder / "train.log"
    cost = read_json(file)
    if cost.get("finished"):
        return None
    steps = cost.get("steps") or affordable(read_json(job.calibration), job.budget)
    spent = spend(job.command(job.folder, steps), log)
    write_json(
        file,
        {
            "steps": steps,
            "cpu_seconds": cost.get("cpu_seconds", 0.0) + spent.cpu_seconds,
            "peak_mib": max(cost.get("peak_mib", 0.0), spent.peak_mib),
            "processes": cost.get("processes", 0) + 1,
            "finished": spent.code == 0,
        },
    )
    return f"{job.folder.name}: failed ({spent.code}): {last_line(log)}" if spent.code else None


def train_all(jobs: list[Job], parallel: int, report: Callable[[str], None]) -> list[str]:
    """Calibrates each row and trains each run, `parallel` at a time. Returns what failed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    jobs = [job for job in jobs if not read_json(job.folder / "cost.json").get("finished")]
    failures: list[str] = []
    pool = ThreadPoolExecutor(parallel)

    def each(work: Callable[[Job], str | None], items: list[Job], done: str) -> None:
        for job, failure in zip(items, pool.map(work, items), strict=True):
            report(failure or f"{job.folder.name}: {done}")
            failures.extend([failure] if failure else [])

    try:
        torch.set_num_threads(1)
        for job in {job.calibration: job for job in jobs}.values():  # one by one: CPU time is the process's
            failure = calibrate(job)
            report(failure or f"{job.row}: calibrated")
            failures.extend([failure] if failure else [])
        each(train, [job for job in jobs if job.calibration.exists()], "trained")
    except KeyboardInterrupt:
        pool.shutdown(wait=False, cancel_futures=True)
        for pid in RUNNING.copy():
            os.kill(pid, signal.SIGTERM)
        raise
    finally:
        pool.shutdown()
    return failures
