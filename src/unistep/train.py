"""The one training loop, and `unistep train`.

`train` is a generator that knows no method but `Method`: it yields each step's losses, and the caller logs,
saves and validates. Every random number is a function of (seed, step), so a run that is resumed equals
one that was not.
"""

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import checkpoint
from .atomic import atomic_write, remove_leftovers
from .bases.compact import SIGMA_DATA, CompactDenoiser, decode, encode
from .config import Run, override
from .data.pairs import Pairs, Photographs, batches
from .denoiser import Batch, Method
from .errors import ConfigError, TrainingError
from .methods import Teacher
from .metrics import LpipsSqueeze
from .progress import Log, Validation, progress_line
from .recipes import recipe

try:
    from accelerate import Accelerator
except ImportError as error:
    raise ConfigError("training needs more packages: pip install 'unistep[train]'") from error

STATE = "state.safetensors"
WEIGHTS = "weights.safetensors"


class Player:
    """One trained network: its optimiser and, for the student, the moving average of its weights."""

    def __init__(self, net: nn.Module, lr: float, run: Run, ema: bool):
        self.net, self.lr = net, lr
        self.params = {name: p for name, p in net.named_parameters() if p.requires_grad}
        self.optimiser = torch.optim.AdamW(
            self.params.values(), lr=lr, betas=run.train.betas, weight_decay=run.train.weight_decay
        )
        self.ema = {name: p.detach().clone() for name, p in self.params.items()} if ema else {}

    @torch.no_grad()
    def average(self, decay: float) -> None:
        for name, mean in self.ema.items():
            mean.lerp_(self.params[name].detach(), 1 - decay)

    def state(self) -> dict[str, Tensor]:
        """Weights, average and the optimiser's moments under flat names."""
        tensors = {f"net.{name}": p.detach() for name, p in self.params.items()}
        tensors |= {f"ema.{name}": mean for name, mean in self.ema.items()}
        for name, p in self.params.items():
            tensors |= {
                f"optim.{key}.{name}": value for key, value in self.optimiser.state.get(p, {}).items()
            }
        return tensors

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
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


def players(method: Method, run: Run) -> dict[str, Player]:
    """The student and, if the method has one, the critic."""
    table = {"student": Player(method.student, run.train.lr, run, ema=True)}
    if method.critic is not None:
        table["critic"] = Player(method.critic, run.train.lr_critic, run, ema=False)
    return table


def learning_rate(run: Run, step: int) -> float:
    """Share of the full rate at `step` (from 0): linear warm-up, then a cosine down to lr_min."""
    t = run.train
    if step < t.warmup:
        return (step + 1) / t.warmup
    progress = (step - t.warmup) / max(1, t.steps - t.warmup)
    return t.lr_min + (1 - t.lr_min) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


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
        with accelerator.autocast():
            terms, z_fake = method.generator_loss(batch)
        losses = update("student", terms, step)
        table["student"].average(min(run.train.ema, (step + 1) / (step + 10)))
        if "critic" in table:
            with accelerator.autocast():
                terms = method.critic_loss(batch, z_fake.detach())
            losses |= update("critic", terms, step)
        yield step + 1, losses


def precision(wish: str) -> str:
    """accelerate's name of the precision: bf16 where the hardware computes in it, else fp32."""
    if wish != "auto":
        return {"fp32": "no", "bf16": "bf16"}[wish]
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "no"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "no"


def make_batches(denoiser: CompactDenoiser, pairs: Pairs, run: Run, device: torch.device) -> Iterator[Batch]:
    """Batches on `device`, from the position of `pairs`."""
    for x_lq, x_hq in batches(pairs, run.train.batch, run.data.workers):
        x_lq, x_hq = x_lq.to(device), x_hq.to(device)
        yield Batch(x_lq, x_hq, encode(x_hq), denoiser.cond(x_lq))


def save_state(path: Path, table: Mapping[str, Player], step: int, run: Run) -> None:
    """Everything that a resumed run needs, atomically."""
    tensors = {f"{name}.{key}": t for name, player in table.items() for key, t in player.state().items()}
    checkpoint.save_weights(path, tensors, {"step": step, "run": dataclasses.asdict(run)}, torch.float32)


def load_state(path: Path, table: Mapping[str, Player]) -> int:
    """Restores the players and returns the step they were saved at."""
    header, tensors = checkpoint.read_header(path), checkpoint.read_tensors(path)
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
    denoiser = CompactDenoiser(run.base)
    parent: dict[str, Any] = {}
    if run.train.init:
        source, parent = checkpoint.load_denoiser(run.train.init)
        if source.config != run.base:
            raise ConfigError(
                f"expected train.init to hold a network of {run.base}, found {source.config}: "
                "set base.widths and base.blocks"
            )
        denoiser.load_state_dict(source.state_dict())
    denoiser = placed(denoiser, accelerator.device)
    method = make_method(run, denoiser, accelerator.device)
    table = players(method, run)

    out.mkdir(parents=True, exist_ok=True)
    claim(out, run)
    for folder in (out, out / "sheets"):
        remove_leftovers(folder)
    start = load_state(out / STATE, table) if (out / STATE).exists() else 0
    pairs = Pairs(
        photographs.train,
        run.data,
        run.train.seed,
        start * run.train.batch,
        (run.train.steps - start) * run.train.batch,
    )
    report(
        f"{len(photographs.train)} training images, {len(photographs.held_out)} held out; "
        f"{accelerator.device}, {accelerator.mixed_precision}; step {start} of {run.train.steps}"
    )
    pairs.preload()
    validate = Validation(photographs, run, out, accelerator.device)
    header = {
        "run": portable(run),
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
    started = time.monotonic()
    with contextlib.closing(Log(out, start)) as log:
        for step, losses in train(method, make_batches(denoiser, pairs, run, accelerator.device), run, table,
                                  accelerator, start):  # fmt: skip
            log.losses(step, losses)
            last = step == run.train.steps
            if step % 20 == 0 or last:
                rate = (time.monotonic() - started) / (step - start)
                line = progress_line(step, run.train.steps, rate, losses)
                tick(step / run.train.steps, line) if tick else report(line)
            if step % run.train.validate_every == 0 or last:
                scores = validate(step, averaged(denoiser, table["student"]))
                log.losses(step, {f"held_out/{name}": value for name, value in scores.items()})
                report(f"step {step}: " + ", ".join(f"{name} {value:.3f}" for name, value in scores.items()))
                if scores["score"] >= best or not (out / WEIGHTS).exists():
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
                save_state(out / STATE, table, step, run)
    return out / WEIGHTS


def make_method(run: Run, denoiser: CompactDenoiser, device: torch.device) -> Method:
    """The run's method on its players."""
    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None
    if run.method.weight_lpips:
        if not (run.train.squeezenet and run.train.lpips_heads):
            raise ConfigError(
                "method.weight_lpips needs train.squeezenet and train.lpips_heads: the files of "
                "SqueezeNet 1.1 and of the LPIPS heads"
            )
        lpips = LpipsSqueeze(run.train.squeezenet, run.train.lpips_heads).to(device)

        def perceptual(x: Tensor, target: Tensor) -> Tensor:
            # Strided features hand back a gradient with their own grid; a new offset each time leaves none in
            # step with the network's 4-pixel cells.
            down, right = torch.randint(4, (2,)).tolist()
            pair = [(image[..., down:, right:] + 1) / 2 for image in (x, target)]
            distance: Tensor = lpips(*pair)
            return distance.mean()

    return Teacher(run.method, Residual(denoiser), SIGMA_DATA, decode, perceptual)


class Residual(nn.Module):
    """The denoiser's `residual` as a module's forward: all that a wrapper for many processes lets through."""

    def __init__(self, denoiser: CompactDenoiser):
        super().__init__()
        self.denoiser = denoiser

    def forward(self, w: Tensor, image: Tensor, s: Tensor) -> Tensor:
        return self.denoiser.residual(w, image, s)


def placed(denoiser: CompactDenoiser, device: torch.device) -> CompactDenoiser:
    """On its device, channels last: the layout in which convolutions are quickest."""
    denoiser.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return denoiser


def averaged(denoiser: CompactDenoiser, student: Player) -> CompactDenoiser:
    """A copy of the denoiser with the moving average of its weights."""
    copy = placed(CompactDenoiser(denoiser.config), next(denoiser.parameters()).device)
    copy.load_state_dict(weights_of(student))
    return copy.eval()


def weights_of(student: Player) -> dict[str, Tensor]:
    """The averaged weights under the denoiser's own names."""
    return {name.removeprefix("denoiser."): mean for name, mean in student.ema.items()}


def claim(out: Path, run: Run) -> None:
    """Writes run.json, or checks that `out` holds the same run. Raises TrainingError naming what differs."""
    file = out / "run.json"
    if not file.exists():
        with atomic_write(file) as stream:
            stream.write(run.to_json().encode())
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
    public = dataclasses.asdict(run)
    for name in ("init", "squeezenet", "lpips_heads"):
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
