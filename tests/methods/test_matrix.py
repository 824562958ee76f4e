"""Methods x bases: what the page says runs, runs; what cannot says why before anything is opened."""

from pathlib import Path

import matrix
import pytest
import tinies
import torch

from unistep.bases import BASES
from unistep.bases.compact.network import CompactConfig
from unistep.bases.resshift.network import ResShiftConfig
from unistep.bases.sd3.network import SD3Config
from unistep.bases.sd21.network import SD21Config
from unistep.data.pairs import DataConfig
from unistep.errors import ConfigError
from unistep.methods import METHODS, DFOSDConfig, OSEDiffConfig, RegressionConfig, SinSRConfig, TADSRConfig
from unistep.recipes.config import Run, TrainConfig, override
from unistep.recipes.recipes import recipe
from unistep.training import smoke
from unistep.training.opening import open_run

ROOT = Path(__file__).parents[2]

pytest.importorskip("diffusers")

NARROW = {"rank": 2, "rank_encoder": 0, "rank_score": 2}
PLAIN = {"spatial": "mse", "lambda_adv": 0.1}
COMPACT = TrainConfig(init="compact-teacher")
OTHERS = {
    ("dfosd", "sd3"): (DFOSDConfig(process="flow", **PLAIN), SD3Config(**NARROW), TrainConfig()),
    ("osediff", "sd3"): (OSEDiffConfig(process="flow", lambda_1=0.0), SD3Config(**NARROW), TrainConfig()),
    ("dfosd", "resshift"): (
        DFOSDConfig(process="resshift", t_student=14, t_nad_max=14, **PLAIN), ResShiftConfig("resshift-15"),
        TrainConfig(),
    ),
    ("osediff", "resshift"): (
        OSEDiffConfig(process="resshift", t_student=14, t_min=0, t_max=14, guidance=1.0, lambda_1=0.0),
        ResShiftConfig("resshift-15"), TrainConfig(),
    ),
    ("osediff", "compact"): (
        OSEDiffConfig(process="ddpm", t_max=650, guidance=1.0, lambda_1=0.0), CompactConfig(), COMPACT,
    ),
    ("regression", "sd3"): (RegressionConfig("flow"), SD3Config(**NARROW), TrainConfig()),
    ("regression", "sd21"): (RegressionConfig("ddpm"), SD21Config(**NARROW), TrainConfig()),
    ("regression", "resshift"): (
        RegressionConfig("resshift", t_student=14), ResShiftConfig("resshift-15"), TrainConfig(),
    ),
    ("sinsr", "compact"): (SinSRConfig(process="resshift"), CompactConfig(), COMPACT),
}  # fmt: skip
"""Pairs that run without a recipe of their own: each needs no setting but these."""


def test_the_page_shows_the_table():
    page = (ROOT / "docs" / "train.md").read_text()
    begin, end = matrix.MARKS
    text = page.partition(begin)[2].partition(end)[0]
    assert text.strip() == matrix.table().strip()


def test_every_pair_runs_or_says_why():
    recipes = matrix.covered()
    for method in METHODS:
        for base in BASES:
            ways = [(method, base) in recipes, (method, base) in OTHERS, method in BASES[base].obstacles]
            assert sum(ways) == 1, (method, base)


@pytest.mark.parametrize("pair", OTHERS, ids="-".join)
def test_a_pair_without_a_recipe_trains(pair):
    method, base, train = OTHERS[pair]
    run = Run("-".join(pair), base, method, DataConfig(degradations={"light": 1.0}), train)
    first, last = smoke.losses(run)
    assert first.keys() == last.keys() and any(first[term] != last[term] for term in first)
    assert all(abs(value) < 1e4 for value in last.values())
    assert last["student/grad_norm"] > 0


@pytest.mark.parametrize("base", [SD3Config(), SD21Config()])
def test_a_pair_that_cannot_run_says_why(base):
    run = Run("x", base, TADSRConfig("resshift"), train=TrainConfig(init="nowhere"))
    with pytest.raises(ConfigError, match="its teacher must see the low-quality image"):
        open_run(run, torch.device("cpu"))


@pytest.mark.parametrize(
    "name,kind,found",
    [
        ("tsdsr-sd3", "sd21", "without transformer/: take the base of tsdsr-sd3"),
        ("tsdsr-sd21", "sd3", "without unet/: take the base of tsdsr-sd21"),
        ("tsdsr-sd21", "sdxl", "Stable Diffusion XL"),
    ],
)
def test_a_wrong_base_is_refused_before_its_texts_are_read(tmp_path, name, kind, found):
    run = override(recipe(name), [f"train.init={tinies.write(kind, tmp_path / kind)}"])
    with pytest.raises(ConfigError, match=f"expected train.init to be the folder of .*{found}"):
        open_run(run, torch.device("cpu"))
