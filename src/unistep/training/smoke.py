"""`unistep train RECIPE --smoke`: does this installation compute what the recipe should?

A recipe's method, losses and base run for a few steps in float32, on a tiny model of the base's architecture
(`bases.tiny`) and on pictures made in code, and every loss is compared with what it was when it was recorded.
Sizes and rates are not the recipe's: a loss must be seen to move within `STEPS` steps.
"""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from ..bases import face_of
from ..bases.tiny import pictures
from ..data.pairs import Pairs, Photographs
from ..errors import ConfigError, TrainingError
from ..image import Picture, write_image
from ..losses.featurenets import FeatureNet
from ..recipes.config import Run, method_of
from ..recipes.recipes import recipe
from ..recipes.recorded import BANDS, Losses
from ..students.restorers import SRVGGNetCompact
from . import distributed
from .batches import make_batches
from .opening import EQUAL, build, open_run
from .players import players
from .steps import Steps

STEPS, BATCH, COUNT = 3, 2, 6
SPREAD, FLOOR = 0.02, 1e-5
"""Half the width of a band: a share of the recorded value, wide enough for other processors and versions of
torch, and narrow enough that a wrong factor, sign or time shows; and what is left where a loss is about 0."""
FEATURES = "squeezenet"
"""Takes the place of larger classifiers; its weights are drawn, as those of the tiny models."""


def main(name: str, report: Callable[[str], None] = print) -> None:
    """Runs the smoke version of a recipe and says "smoke: ok".

    Raises TrainingError that names the loss, its band and its value, where one is outside.
    """
    run = recipe(name)
    if name not in BANDS:
        raise ConfigError(f"expected a recipe with recorded losses ({', '.join(BANDS)}), found {name}")
    for when, wanted, found in zip(("first", "last"), BANDS[name], losses(run), strict=True):
        if wanted.keys() != found.keys():
            raise TrainingError(
                f"smoke: expected the losses {', '.join(wanted)} in the {when} step of {name}, found "
                f"{', '.join(found)}: this version of unistep computes another loss"
            )
        for term, value in found.items():
            low, high = band(wanted[term])
            if not low <= value <= high:
                raise TrainingError(
                    f"smoke: expected {term} in the {when} step of {name} to be from {low:.6g} to "
                    f"{high:.6g}, found {value:.6g}: do not train with this installation"
                )
            report(f"{when} step: {term} {value:.6g} (from {low:.6g} to {high:.6g})")
    report("smoke: ok")


def band(value: float) -> tuple[float, float]:
    """What is taken for a recorded value."""
    half = SPREAD * abs(value) + FLOOR
    return value - half, value + half


def losses(run: Run) -> tuple[Losses, Losses]:
    """The losses of the first and of the last of STEPS steps of a run's smoke version."""
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder, own_home(Path(folder) / "home"), torch.random.fork_rng([]):
        torch.set_num_threads(1)
        try:
            seen = list(steps(*miniature(run, Path(folder))))
        finally:
            torch.set_num_threads(threads)
    return seen[0], seen[-1]


def steps(run: Run, data: Path) -> Iterator[Losses]:
    """Trains on the CPU, without an average, validation or files."""
    cpu = torch.device("cpu")
    photographs = Photographs(data, run.data.holdout)
    torch.manual_seed(run.train.seed)
    opened = open_run(run, cpu, photographs)
    method = build(run, opened.base, cpu)
    pairs = Pairs(photographs.train, run.data, run.train.seed, length=STEPS * BATCH)
    step = Steps(method, run, players(method, run), distributed.start())
    batches = make_batches(opened, pairs, cpu)
    for n in range(STEPS):
        yield step(n, [next(batches) for _ in range(step.forwards)])


def miniature(run: Run, folder: Path) -> tuple[Run, Path]:
    """The run on a tiny model and on pictures made in code, both in `folder`; and the pictures' folder."""
    train = run.train
    tiny = face_of(run.base).tiny(run.base, folder / "base")
    if tiny.init is not None:
        train = dataclasses.replace(train, init=tiny.init)
    if train.features != "teacher":
        train = dataclasses.replace(
            train, features=FEATURES, features_file=str(classifier(folder)), features_heads=EQUAL
        )
    if method_of(run).restores:
        train = dataclasses.replace(train, restorer=str(restorer(folder)))
    train = dataclasses.replace(
        train, steps=STEPS, batch=BATCH, micro=1 if train.micro else 0, lr=tiny.rate, lr_critic=tiny.rate,
        lr_min=1.0, warmup=0, precision="fp32", early=(),
    )  # fmt: skip
    data = dataclasses.replace(run.data, patch=tiny.patch, holdout=0.0, workers=0, degrade_on="cpu")
    small = dataclasses.replace(run, base=tiny.config, train=train, data=data)
    return small, photographs(folder / "pictures", tiny.patch + 32)


def photographs(folder: Path, side: int) -> Path:
    """Pictures and, beside each, what it shows."""
    folder.mkdir()
    for i, x in enumerate(pictures(COUNT, side, seed=1)):
        write_image(folder / f"{i}.png", Picture((x.permute(1, 2, 0) / 2 + 0.5).contiguous().numpy()))
        (folder / f"{i}.txt").write_text("a cloud of edges " + "abcdef"[i])
    return folder


def classifier(folder: Path) -> Path:
    """A feature network with drawn weights."""
    return drawn(FeatureNet(FEATURES), folder / f"{FEATURES}.safetensors", {"sha256": ""})


def restorer(folder: Path) -> Path:
    """A network of Real-ESRGAN's small kind, narrow and with drawn weights."""
    return drawn(SRVGGNetCompact(4, 1, 4), folder / "restorer.safetensors")


def drawn(net: nn.Module, file: Path, metadata: dict[str, str] | None = None) -> Path:
    """Writes a network with random weights that keep the scale of what goes through them."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(p.shape, generator=generator) * (2 * len(p) / p.numel()) ** 0.5
        if p.ndim > 1
        else 0 * p
        for name, p in net.state_dict().items()
    }
    save_file(tensors, file, metadata)
    return file


@contextlib.contextmanager
def own_home(folder: Path) -> Iterator[None]:
    """Keeps embeddings of the tiny models out of the user's cache."""
    before = os.environ.get("UNISTEP_HOME")
    os.environ["UNISTEP_HOME"] = str(folder)
    try:
        yield
    finally:
        del os.environ["UNISTEP_HOME"]
        if before is not None:
            os.environ["UNISTEP_HOME"] = before
