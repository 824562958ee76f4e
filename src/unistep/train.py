"""The one training loop, and `unistep train`.

`train` is a generator that knows no method but `Method`: it yields each step's losses, and the caller logs,
saves and validates. Every random number is a function of (seed, step), so a run that is resumed equals
one that was not.
"""

import contextlib
import dataclasses
import functools
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import checkpoint
from .atomic import atomic_write, remove_leftovers
from .bases import CompactBase
from .bases.compact import CompactDenoiser
from .config import Run, kind, override
from .data.pairs import Pairs, Photographs, batches
from .denoiser import Base, Batch, Denoiser, Distance, Method
from .download import sha256
from .errors import ConfigError, ModelError, TrainingError
from .gate import measure
from .methods import METHODS, DFOSDConfig, Teacher, TSDSRConfig
from .perceptual import Form, TeacherFeatures, open_distance
from .players import Player, learning_rate, players
from .progress import Log, Validation, progress_line
from .recipes import recipe

try:
    from accelerate import Accelerator
except ImportError as error:
    raise ConfigError("training needs more packages: pip install 'unistep[train]'") from error

STATE = "state.safetensors"
WEIGHTS = "weights.safetensors"
GATED = 8
"""How many crops the teacher is measured on."""


def train(
    method: Method, data: Iterator[Batch], run: Run, table: Mapping[str, Player], accelerator: Accelerator,
    start: int = 0,
) -> Iterator[tuple[int, dict[str, float]]]:  # fmt: skip
    """Yields (step, losses) after each step from `start`, the first being start + 1.

    Raises TrainingError, before any weight is touched, for a loss or a gradient that is not finite: it names
    the step, the term and the batch.
    """

    def check(losses: Mapping[str, float], step: int) -> None:
        for term, value in losses.items():
            if not math.isfinite(value):
                first = step * run.train.batch
                raise TrainingError(
                    f"step {step + 1}: expected a finite loss, found {term} = {value} on the batch of "
                    f"samples {first} to {first + run.train.batch - 1} (seed {run.train.seed}); the last "
                    "good checkpoint is kept: lower train.lr or look at these images"
                )

    def update(name: str, terms: Mapping[str, Tensor], step: int) -> dict[str, float]:
        player = table[name]
        losses = {f"{name}/{term}": value.item() for term, value in terms.items()}
        check(losses, step)
        for group in player.optimiser.param_groups:
            group["lr"] = player.lr * learning_rate(run, step)
        player.optimiser.zero_grad(set_to_none=True)
        accelerator.backward(sum(terms.values()), inputs=list(player.params.values()))
        norm = {
            f"{name}/grad_norm": float(accelerator.clip_grad_norm_(player.params.values(), run.train.clip))
        }
        check(norm, step)
        player.optimiser.step()
        return losses | norm

    for step, batch in enumerate(data, start=start):
        if step >= run.train.steps:
            return
        torch.manual_seed(run.train.seed * 1_000_003 + step)
        losses: dict[str, float] = {}

        def update_critic(z_fake: Tensor, batch: Batch = batch, step: int = step) -> dict[str, float]:
            if "critic" not in table:
                return {}
            with accelerator.autocast():
                terms = method.critic_loss(batch, z_fake)
            return update("critic", terms, step)

        with accelerator.autocast():
            z_hat = method.generate(batch)
        if method.critic_first:
            losses |= update_critic(z_hat.detach())
        with accelerator.autocast():
            terms = method.generator_loss(batch, z_hat)
        losses |= update("student", terms, step)
        table["student"].average(min(run.train.ema, (step + 1) / (step + 10)))
        if not method.critic_first:
            losses |= update_critic(z_hat.detach())
        yield step + 1, losses


def precision(wish: str) -> str:
    """accelerate's name of the precision: bf16 where the hardware computes in it, else fp32."""
    if wish != "auto":
        return {"fp32": "no", "bf16": "bf16"}[wish]
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "no"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "no"


def make_batches(base: Base, pairs: Pairs, run: Run, device: torch.device) -> Iterator[Batch]:
    """Batches on `device`, from the position of `pairs`."""
    for x_lq, x_hq in batches(pairs, run.train.batch, run.data.workers):
        x_lq, x_hq = x_lq.to(device), x_hq.to(device)
        cond = base.cond(x_lq)
        yield Batch(x_lq, x_hq, base.encode(x_hq), cond, base.null(cond))


def save_state(
    path: Path, table: Mapping[str, Player], step: int, run: Run, files: Mapping[str, str]
) -> None:
    """Everything that a resumed run needs, atomically. `files`: setting -> SHA-256 of its network's file."""
    tensors = {f"{name}.{key}": t for name, player in table.items() for key, t in player.state().items()}
    checkpoint.save_weights(
        path, tensors, {"step": step, "run": run.to_dict(), "files": files}, torch.float32
    )


def load_state(path: Path, table: Mapping[str, Player], files: Mapping[str, str]) -> int:
    """Restores the players and returns the step they were saved at.

    Raises TrainingError if one of the run's `files` holds other bytes than it did then.
    """
    header, tensors = checkpoint.read_header(path), checkpoint.read_tensors(path)
    for setting, digest in files.items():
        before = header.get("files", files).get(setting)
        if digest != before:
            raise TrainingError(
                f"{path.parent} holds another run (train.{setting} named a file with sha256 {before}, now "
                f"{digest}): put that file back, or name another --out"
            )
    for name, player in table.items():
        prefix = f"{name}."
        player.load_state(
            {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
        )
    return int(header["step"])


Report = Callable[[str], None]
Tick = Callable[[float, str], None]
"""Called now and then with the share that is done and a line that says more."""


def fit(run: Run, data: Path, out: Path, report: Report, tick: Tick | None = None) -> Path:
    """Trains `run` on the photographs of `data` into `out`, resuming what is there. Returns the best weights.

    Writes run.json, losses.csv, tensorboard/, sheets/, state.safetensors and weights.safetensors (the moving
    average with the best held-out score). Raises TrainingError if `out` holds another run,
    DataError, ConfigError.
    """
    accelerator = Accelerator(mixed_precision=precision(run.train.precision))
    photographs = Photographs(data, run.data.holdout)
    torch.manual_seed(run.train.seed)
    base, parent = open_base(run, accelerator.device)
    method = build(run, base, accelerator.device)
    table = players(method, run)
    files = {s: sha256(checkpoint.resolve(name)) for s, name in networks(run).items()}
    compare(out, run)
    start = load_state(out / STATE, table, files) if (out / STATE).exists() else 0
    pairs = Pairs(
        photographs.train,
        run.data,
        run.train.seed,
        start * run.train.batch,
        (run.train.steps - start) * run.train.batch,
    )
    distances = [part.name for part in vars(method).values() if isinstance(part, Form)]
    report(
        f"{len(photographs.train)} training images, {len(photographs.held_out)} held out; "
        + "".join(f"{name}; " for name in distances)
        + f"{accelerator.device}, {accelerator.mixed_precision}; step {start} of {run.train.steps}"
    )
    pairs.preload()
    validate = Validation(photographs, run, out)
    header = {
        "run": portable(run),
        **({"perceptual": ", ".join(distances)} if distances else {}),
        **lessons(method, base, run, validate, bool(photographs.held_out), report),
        "data": {
            "sha256": photographs.digest(),
            "images": len(photographs.train),
            "held_out": len(photographs.held_out),
        },
        "torch": torch.__version__,
        "device": str(accelerator.device),
        "history": parent.get("history", []),
    }
    best = best_score(out / WEIGHTS)
    out.mkdir(parents=True, exist_ok=True)
    for folder in (out, out / "sheets"):
        remove_leftovers(folder)
    with atomic_write(out / "run.json") as stream:
        stream.write(run.to_json().encode())
    started = time.monotonic()
    with contextlib.closing(Log(out, start)) as log:
        for step, losses in train(method, make_batches(base, pairs, run, accelerator.device), run, table,
                                  accelerator, start):  # fmt: skip
            log.losses(step, losses)
            last = step == run.train.steps
            if step % 20 == 0 or last:
                rate = (time.monotonic() - started) / (step - start)
                line = progress_line(step, run.train.steps, rate, losses)
                tick(step / run.train.steps, line) if tick else report(line)
            if step % run.train.validate_every == 0 or last:
                with table["student"].averaged() as student:
                    scores = validate(step, functools.partial(base.restore, student))
                log.losses(step, {f"held_out/{name}": value for name, value in scores.items()})
                report(f"step {step}: " + ", ".join(f"{name} {value:.3f}" for name, value in scores.items()))
                if run.train.keep == "last" or scores["score"] >= best or not (out / WEIGHTS).exists():
                    best = scores["score"]
                    made = [
                        *header["history"],
                        {"run": header["run"], "steps": step, "samples": step * run.train.batch},
                    ]
                    totals = {key: sum(part[key] for part in made) for key in ("steps", "samples")}
                    checkpoint.save_weights(
                        out / WEIGHTS,
                        weights_of(table["student"]),
                        {**header, "history": made, **totals, "scores": scores},
                        torch.float16,
                    )
            if step % run.train.save_every == 0 or last:
                save_state(out / STATE, table, step, run, files)
    return out / WEIGHTS


def open_base(run: Run, device: torch.device) -> tuple[Base, dict[str, Any]]:
    """The base of the run on `device`, and the header of the weights that it starts from ({} for none)."""
    t, opened = run.train, {}
    if t.critic_init and kind(run.method) != "dfosd":
        raise ConfigError(
            f"expected train.critic_init to be empty for {run.name}, whose critic starts from no file, found "
            f"“{t.critic_init}”: empty it"
        )
    if not t.init and kind(run.method) != "teacher":
        raise ConfigError(
            f"expected train.init to name the teacher of {run.name} (a model's name or a Unistep file), "
            "found nothing: set train.init"
        )
    for setting, name in networks(run).items():
        try:
            opened[setting] = checkpoint.load_denoiser(name)
        except ModelError as error:
            raise ModelError(f"train.{setting}: {error}") from error
        found = opened[setting][0].config
        if found != run.base and setting != "critic_init":
            raise ConfigError(
                f"expected train.{setting} to hold a network of {run.base}, found {found}: "
                "set base.widths and base.blocks"
            )
    denoiser, header = opened["init"] if t.init else (CompactDenoiser(run.base), {})
    critic = opened["critic_init"][0] if t.critic_init else None
    return CompactBase(denoiser, device, critic), header


def networks(run: Run) -> dict[str, str]:
    """Setting of train -> the model's name or the Unistep file that it names."""
    named = {setting: getattr(run.train, setting) for setting in ("init", "plain", "critic_init")}
    return {s: name for s, name in named.items() if name and (s, name) != ("plain", "self")}


def build(run: Run, base: Base, device: torch.device) -> Method:
    """The run's method on its players."""

    def perceptual(form: str) -> Distance:
        teacher = None
        if run.train.features == "teacher":
            if not run.train.init:
                raise ConfigError(
                    "expected train.features to be squeezenet, alexnet or vgg16 where train.init names no "
                    "teacher, found “teacher”: set one of them"
                )
            teacher = TeacherFeatures(base.features("teacher", "ddpm"), base.encode, base.cond)
        t = run.train
        return open_distance(form, t.features, t.features_file, t.features_heads, teacher, device)

    made: type[Method] = METHODS[kind(run.method)][0]
    method = made.build(run.method, base, perceptual)
    if isinstance(run.method, TSDSRConfig | DFOSDConfig):
        base.check_student(run.method.process, run.method.t_student)
    for player in (method.student, method.critic):
        if player is not None:
            player.to(device)
    return method


def lessons(
    method: Method, base: Base, run: Run, validate: Validation, held_out: bool, report: Report
) -> dict[str, Any]:
    """What a student's header says: its plain reconstruction, and how good its teacher's samples are."""
    if isinstance(method, Teacher):
        return {}
    about: dict[str, Any] = {}
    if run.train.plain != "self":
        file = checkpoint.resolve(run.train.plain or run.train.init)
        about["plain"] = {"name": file.stem, "sha256": sha256(file)}
    teacher = getattr(method, "teacher", None)
    if isinstance(teacher, Denoiser):
        x_lq, x_hq = (x[:GATED] for x in validate.pairs["light"])
        gate = measure(teacher, base, x_lq, x_hq)
        if not held_out:
            gate = dataclasses.replace(gate, crops="training crops")
        report(str(gate))
        about["teacher"] = gate.to_dict()
    return about


def weights_of(student: Player) -> dict[str, Tensor]:
    """The averaged weights under the denoiser's own names."""
    return {name.removeprefix("denoiser."): mean for name, mean in student.ema.items()}


def compare(out: Path, run: Run) -> None:
    """Raises TrainingError, naming what differs, if `out` holds another run."""
    file = out / "run.json"
    if not file.exists():
        return
    old, new = json.loads(file.read_text()), json.loads(run.to_json())
    changed = [
        f"{section}.{key}: {old[section].get(key)} -> {value}"
        for section in new
        if section != "name"
        for key, value in new[section].items()
        if old.get(section, {}).get(key) != value
    ]
    if changed or old["name"] != new["name"]:
        what = "; ".join(changed) or f"recipe: {old['name']} -> {new['name']}"
        raise TrainingError(
            f"{out} holds another run ({what}): resume with the same settings, or name another --out"
        )


def portable(run: Run) -> dict[str, Any]:
    """The run for a weights file's header: files by name alone, where they lie is nobody's business."""
    public = run.to_dict()
    for name in ("init", "plain", "critic_init", "features_file", "features_heads"):
        public["train"][name] = Path(public["train"][name]).name
    return public


def best_score(weights: Path) -> float:
    """The held-out score of the weights that are already there; minus infinity if there are none."""
    return float(checkpoint.read_header(weights)["scores"]["score"]) if weights.exists() else -math.inf


def main(name: str, data: Path, out: Path, settings: list[str], dry_run: bool = False,
         report: Report = print, tick: Tick | None = None) -> Path | None:  # fmt: skip
    """`unistep train`: resolves the recipe, prints it, trains. Returns the weights, None for a dry run."""
    run = override(recipe(name), settings)
    report(run.to_json())
    if dry_run:
        photographs = Photographs(data, run.data.holdout)
        base, _ = open_base(run, torch.device("cpu"))
        build(run, base, torch.device("cpu"))
        Pairs(photographs.train, run.data, run.train.seed).preload()
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
    report(f"weights: {weights}")
    return weights
