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

from ..bases import CompactConfig, ResShiftConfig, SD3Config, SD21Config, tiny
from ..bases.settings import AdaptedConfig
from ..data.pairs import Pairs, Photographs
from ..errors import ConfigError, TrainingError
from ..image import Picture, write_image
from ..losses.featurenets import FeatureNet
from ..recipes.config import Run
from ..recipes.recipes import recipe
from . import distributed
from .batches import make_batches
from .opening import EQUAL, build, open_base
from .players import players
from .steps import Steps

STEPS, BATCH, PATCH, COUNT = 3, 2, 64, 6
SPREAD, FLOOR = 0.02, 1e-5
"""Half the width of a band: a share of the recorded value, wide enough for other processors and versions of
torch, and narrow enough that a wrong factor, sign or time shows; and what is left where a loss is about 0."""
RATES = {"compact": 3e-4, "resshift": 3e-5, "adapted": 2e-3}
"""Learning rates: of whole networks, and of LoRAs, which start at nothing."""
Losses = dict[str, float]
"""Name of a loss or of a gradient's norm -> its value."""
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
    base, _ = open_base(run, cpu, photographs)
    method = build(run, base, cpu)
    pairs = Pairs(photographs.train, run.data, run.train.seed, length=STEPS * BATCH)
    step = Steps(method, run, players(method, run), distributed.start())
    batches = make_batches(base, pairs, run, cpu)
    for n in range(STEPS):
        yield step(n, [next(batches) for _ in range(step.forwards)])


def miniature(run: Run, folder: Path) -> tuple[Run, Path]:
    """The run on a tiny model and on pictures made in code, both in `folder`; and the pictures' folder."""
    base, train = run.base, run.train
    kind = tiny_kind(run)
    rate = RATES["adapted" if kind.startswith("sd") else kind.partition("-")[0]]
    if kind != "compact":
        train = dataclasses.replace(train, init=str(tiny.write(kind, folder / kind)))
    if isinstance(base, AdaptedConfig):
        base = dataclasses.replace(base, dtype="fp32")
    if isinstance(base, SD21Config) and base.critic:
        base = dataclasses.replace(base, critic=str(tiny.write("sdxl", folder / "sdxl")))
    if train.features != "teacher":
        train = dataclasses.replace(
            train, features=FEATURES, features_file=str(classifier(folder)), features_heads=EQUAL
        )
    train = dataclasses.replace(
        train, steps=STEPS, batch=BATCH, micro=1 if train.micro else 0, lr=rate, lr_critic=rate, lr_min=1.0,
        warmup=0, precision="fp32", early=(),
    )  # fmt: skip
    patch = 2 * PATCH if kind == "resshift-faces" else PATCH  # with 8 pixels per latent
    data = dataclasses.replace(run.data, patch=patch, holdout=0.0, workers=0, degrade_on="cpu")
    return dataclasses.replace(run, base=base, train=train, data=data), photographs(
        folder / "pictures", patch + 32
    )


def tiny_kind(run: Run) -> str:
    """Which model of `bases.tiny` stands for the run's base; "compact" needs none."""
    if isinstance(run.base, CompactConfig):
        return "compact"
    if isinstance(run.base, ResShiftConfig):
        return "resshift-faces" if run.base.variant == "resshift-faces" else "resshift"
    return "sd3" if isinstance(run.base, SD3Config) else "sd21"


def photographs(folder: Path, side: int) -> Path:
    """Pictures and, beside each, what it shows."""
    folder.mkdir()
    for i, x in enumerate(tiny.pictures(COUNT, side, seed=1)):
        write_image(folder / f"{i}.png", Picture((x.permute(1, 2, 0) / 2 + 0.5).contiguous().numpy()))
        (folder / f"{i}.txt").write_text("a cloud of edges " + "abcdef"[i])
    return folder


def classifier(folder: Path) -> Path:
    """A feature network with drawn weights."""
    net, generator = FeatureNet(FEATURES), torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(p.shape, generator=generator) * (2 * len(p) / p.numel()) ** 0.5
        if p.ndim > 1
        else 0 * p
        for name, p in net.state_dict().items()
    }
    save_file(tensors, folder / f"{FEATURES}.safetensors", {"sha256": ""})
    return folder / f"{FEATURES}.safetensors"


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


BANDS: dict[str, tuple[Losses, Losses]] = {
    "compact-teacher": (
        {
            "student/slot": 0.513732, "student/edge": 0.187884, "student/grad_norm": 0.0222215,
        },
        {
            "student/slot": 0.604566, "student/edge": 0.192477, "student/grad_norm": 0.0216018,
        },
    ),
    "compact-plain": (
        {
            "student/mse": 0.756242, "student/grad_norm": 2.90662,
        },
        {
            "student/mse": 0.812751, "student/grad_norm": 0.713659,
        },
    ),
    "compact-sharp": (
        {
            "student/mse": 1.27241, "student/grid": 0.0881072, "student/grad_norm": 4.36081,
        },
        {
            "student/mse": 4.82421, "student/grid": 0.107104, "student/grad_norm": 3.44363,
        },
    ),
    "compact-tsdsr": (
        {
            "student/tsd": 0.000577411, "student/lpips": 0.0102795, "student/mse": 0.0171873,
            "student/grad_norm": 0.0330793, "critic/score": 0.0678172, "critic/grad_norm": 0.193712,
        },
        {
            "student/tsd": 3.0187e-05, "student/lpips": 0.00810457, "student/mse": 0.0187856,
            "student/grad_norm": 0.0265183, "critic/score": 0.0871395, "critic/grad_norm": 0.267892,
        },
    ),
    "compact-dfosd": (
        {
            "student/mse": 0.756242, "student/ea_dists": 0.400073, "student/nad": 0.257348,
            "student/grid": 0.201935, "student/grad_norm": 3.23762, "critic/nad": 1.38835,
            "critic/grad_norm": 0.199209,
        },
        {
            "student/mse": 0.815349, "student/ea_dists": 0.37186, "student/nad": 0.255396,
            "student/grid": 0.148202, "student/grad_norm": 1.11857, "critic/nad": 1.3737,
            "critic/grad_norm": 0.333053,
        },
    ),
    "compact-tadsr": (
        {
            "critic/gan": 1.99952, "critic/grad_norm": 15.3995, "student/distill": 0.279546,
            "student/hsd": 0.206652, "student/gan": -0.0156346, "student/grad_norm": 0.302946,
        },
        {
            "critic/gan": 1.59535, "critic/grad_norm": 21.5913, "student/distill": 0.236208,
            "student/hsd": 0.300245, "student/gan": 0.0253047, "student/grad_norm": 0.22556,
        },
    ),
    "tsdsr-sd3": (
        {
            "student/tsd": 0.00307417, "student/lpips": 0.0193816, "student/mse": 1.17114,
            "student/grad_norm": 8.06775, "critic/score": 2.91978, "critic/grad_norm": 0.063097,
        },
        {
            "student/tsd": 0.00180039, "student/lpips": 0.0217647, "student/mse": 1.47532,
            "student/grad_norm": 7.55882, "critic/score": 1.65441, "critic/grad_norm": 0.0265741,
        },
    ),
    "tsdsr-sd21": (
        {
            "student/tsd": 0.136464, "student/lpips": 0.0229426, "student/mse": 129.606,
            "student/grad_norm": 888.208, "critic/score": 1.37986, "critic/grad_norm": 0.52076,
        },
        {
            "student/tsd": 0.00913953, "student/lpips": 0.0196589, "student/mse": 117.572,
            "student/grad_norm": 405.153, "critic/score": 1.55613, "critic/grad_norm": 0.444232,
        },
    ),
    "tsdsr-sd2": (
        {
            "student/tsd": 0.136464, "student/lpips": 0.0229426, "student/mse": 129.606,
            "student/grad_norm": 888.208, "critic/score": 1.37986, "critic/grad_norm": 0.52076,
        },
        {
            "student/tsd": 0.00913953, "student/lpips": 0.0196589, "student/mse": 117.572,
            "student/grad_norm": 405.153, "critic/score": 1.55613, "critic/grad_norm": 0.444232,
        },
    ),
    "dfosd-sd21": (
        {
            "student/mse": 0.27789, "student/ea_dists": 0.293202, "student/nad": 0.0753674,
            "student/grad_norm": 0.40162, "critic/nad": 1.39104, "critic/grad_norm": 0.125045,
        },
        {
            "student/mse": 0.199903, "student/ea_dists": 0.292471, "student/nad": 0.0675633,
            "student/grad_norm": 0.256387, "critic/nad": 1.39766, "critic/grad_norm": 0.259032,
        },
    ),
    "dfosd-sd21-sdxl": (
        {
            "student/mse": 0.27789, "student/ea_dists": 0.293202, "student/nad": 0.0684791,
            "student/grad_norm": 0.401998, "critic/nad": 1.39017, "critic/grad_norm": 0.203602,
        },
        {
            "student/mse": 0.20007, "student/ea_dists": 0.293188, "student/nad": 0.0712968,
            "student/grad_norm": 0.243044, "critic/nad": 1.38932, "critic/grad_norm": 0.266782,
        },
    ),
    "tadsr-resshift": (
        {
            "critic/gan": 2.00471, "critic/grad_norm": 0.85837, "student/distill": 0.481912,
            "student/hsd": 1.76049, "student/gan": -1.70068e-05, "student/grad_norm": 30.6335,
        },
        {
            "critic/gan": 2.00058, "critic/grad_norm": 0.258713, "student/distill": 0.40457,
            "student/hsd": 28.8809, "student/gan": -0.000194094, "student/grad_norm": 81.7835,
        },
    ),
    "tadsr-resshift-face": (
        {
            "critic/gan": 2.00471, "critic/grad_norm": 0.810359, "student/distill": 0.893075,
            "student/hsd": 0.00772416, "student/gan": -0.000143799, "student/grad_norm": 48.0044,
        },
        {
            "critic/gan": 2.00073, "critic/grad_norm": 0.344564, "student/distill": 0.7707,
            "student/hsd": 0.411344, "student/gan": -0.00170562, "student/grad_norm": 61.0741,
        },
    ),
    "osediff-sd21": (
        {
            "student/mse": 0.346929, "student/lpips": 0.0465174, "student/vsd": 0.00406777,
            "student/grad_norm": 23.0511, "critic/score": 1.3695, "critic/grad_norm": 3.52946,
        },
        {
            "student/mse": 0.28699, "student/lpips": 0.0395437, "student/vsd": 0.0322133,
            "student/grad_norm": 103.044, "critic/score": 1.40589, "critic/grad_norm": 9.5907,
        },
    ),
    "sinsr-resshift": (
        {
            "student/distill": 0.481912, "student/inverse": 4.77283, "student/gt": 0.61068,
            "student/grad_norm": 21.7959,
        },
        {
            "student/distill": 0.40286, "student/inverse": 4.55372, "student/gt": 0.460331,
            "student/grad_norm": 20.4886,
        },
    ),
}  # fmt: skip
"""Recipe -> what its first and its last step gave when they were recorded, on a CPU with torch 2.13."""
