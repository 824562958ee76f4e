"""What `compare.py` trains: the rows of its table, and their runs, each in a process of its own."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from methods import cpu_seconds

from unistep.atomic import atomic_write
from unistep.data.pairs import Pairs, Photographs, batches
from unistep.errors import UnistepError
from unistep.models.checkpoint import read_header
from unistep.recipes.config import Run, override
from unistep.recipes.recipes import recipe

Row = tuple[str, tuple[str, ...]]
"""A recipe, and what the row changes in it."""

ROWS: dict[str, Row] = {
    "compact-tsdsr": ("compact-tsdsr", ()),
    "compact-dfosd": ("compact-dfosd", ()),
    "compact-tadsr": ("compact-tadsr", ()),
}
"""The methods as their recipes have them, on the whole budget."""

ABLATIONS: dict[str, Row] = {
    "tsdsr": ("compact-tsdsr", ()),
    "tsdsr-without-tsm": ("compact-tsdsr", ("method.lambda_vsd=1",)),
    "tsdsr-without-dasm": ("compact-tsdsr", ("method.dasm_steps=0",)),
    "tsdsr-n2": ("compact-tsdsr", ("method.dasm_steps=2",)),
    "tsdsr-n8": ("compact-tsdsr", ("method.dasm_steps=8",)),
    "tsdsr-s25": ("compact-tsdsr", ("method.dasm_stride=25",)),
    "tsdsr-s100": ("compact-tsdsr", ("method.dasm_stride=100",)),
    "tsdsr-naive-vsd": ("compact-tsdsr", ("method.lambda_vsd=1", "method.dasm_steps=0")),
    "tsdsr-mse": ("compact-tsdsr", ("method.weight_mse=1", "method.gamma=0")),
    "tsdsr-released": (
        "compact-tsdsr",
        (
            "method.dasm_steps=1",
            "method.weight_mse=1",
            "method.released_skip_last=true",
            "method.released_first_t=true",
            "method.released_no_grad=true",
            "method.released_score=true",
        ),
    ),
    "dfosd": ("compact-dfosd", ()),
    "dfosd-nad-from-large": ("compact-dfosd", ("train.critic_init=LARGE",)),
    "dfosd-no-gan": ("compact-dfosd", ("method.discriminator=none",)),
    "dfosd-vanilla-gan": ("compact-dfosd", ("method.discriminator=vanilla",)),
    "dfosd-diffusion-gan": ("compact-dfosd", ("method.discriminator=diffusion-gan",)),
    "dfosd-mse": ("compact-dfosd", ("method.spatial=mse",)),
    "dfosd-t-lpips": ("compact-dfosd", ("method.spatial=lpips",)),
    "dfosd-t-ea-lpips": ("compact-dfosd", ("method.spatial=ea-lpips",)),
    "dfosd-t-dists": ("compact-dfosd", ("method.spatial=dists",)),
    "dfosd-adv-0.1": ("compact-dfosd", ("method.lambda_adv=0.1",)),
    "dfosd-adv-1": ("compact-dfosd", ("method.lambda_adv=1",)),
    "dfosd-perceptual-0.1": ("compact-dfosd", ("method.lambda_perceptual=0.1",)),
    "dfosd-perceptual-1": ("compact-dfosd", ("method.lambda_perceptual=1",)),
    "tadsr": ("compact-tadsr", ()),
    "tadsr-sds-gan": ("compact-tadsr", ("method.score=sds", "method.time_aware=false")),
    "tadsr-sds-tgan": ("compact-tadsr", ("method.score=sds",)),
    "tadsr-hsd-gan": ("compact-tadsr", ("method.time_aware=false",)),
}
"""One change each, on a smaller network and budget: TSD-SR Tab. 4, Fig. 4, Tab. 7; DFOSD
Tab. 5, Tab. 6, and a sweep of lambda_1 and lambda_2; TAD-SR Tab. V."""

COMMON = (
    "data.workers=0",
    # The photographs that training keeps out are those that the table measures: nothing is chosen by them.
    "train.keep=last",
    "train.validate_every=1000000",
    "train.save_every=100",
)
ROUNDS = 3
"""Steps of a calibration."""
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
    table: dict[str, Row], ablation: bool, seeds: Iterable[int], teacher: Path, data: Path, out: Path,
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
        run = override(recipe(job.recipe), [*job.settings, "train.steps=1000000"])
        with torch.inference_mode(False), torch.enable_grad():
            seconds = cpu_seconds(run, ROUNDS) + data_seconds(run, job.data)
    except UnistepError as error:
        return f"{job.row}: {error}"
    write_json(job.calibration, {"cpu_seconds_per_step": seconds})
    return None


def data_seconds(run: Run, data: Path) -> float:
    """CPU seconds of making one batch from images in memory."""
    pairs = Pairs(Photographs(data, run.data.holdout).train[:16], run.data, 0)
    pairs.preload()
    loader = batches(pairs, run.train.batch, 0)
    next(loader)
    start = time.process_time()
    for _ in range(ROUNDS):
        next(loader)
    return (time.process_time() - start) / ROUNDS


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
