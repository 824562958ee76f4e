"""The papers' recipes, number by number, and which method trains a student of which base."""

import dataclasses
from typing import Any

import pytest

from unistep.bases import BASES
from unistep.bases.resshift.network import ResShiftConfig
from unistep.bases.sd3.network import SD3Config
from unistep.bases.sd21.network import SD21Config
from unistep.methods import METHODS
from unistep.models.catalogue import KNOWN
from unistep.recipes.config import kind
from unistep.recipes.recipes import RECIPES, recipe

TSDSR: dict[str, Any] = {
    "base": {"rank": 64, "rank_encoder": 64, "rank_score": 64, "alpha": 0.0, "scale": 4,
             "learned_prompt": False},
    "method": {
        "t_min": 50, "t_max": 950, "t_student": 999, "dasm_steps": 4, "dasm_stride": 50, "dasm_weight": 0.3,
        "guidance": 7.5, "lambda_vsd": 0.7, "gamma": 1.0, "weight_lpips": 1.0, "weight_mse": 1.0,
        "released_no_grad": False, "released_first_t": False, "released_skip_last": False,
        "released_score": False,
    },
    "data": {"patch": 512, "usm_sharpen": True, "prompts": True, "rotations": False},
    "train": {
        "lr": 5e-6, "lr_critic": 1e-6, "batch": 16, "steps": 200_000, "warmup": 3_000, "lr_min": 0.0,
        "betas": (0.9, 0.999), "weight_decay": 1e-4, "clip": 1.0, "ema": 0.0, "features": "alexnet",
    },
}  # fmt: skip
DFOSD: dict[str, Any] = {
    "base": {"rank": 16, "rank_score": 16, "rank_encoder": 0, "alpha": 0.0, "learned_prompt": True,
             "t_student": 200},
    "method": {"process": "ddpm", "spatial": "ea-dists", "discriminator": "nad", "taps": "mid",
               "t_nad_min": 0, "t_nad_max": 999, "t_student": 200},
    "data": {"patch": 512, "usm_sharpen": False, "prompts": False},
    "train": {"lr": 5e-5, "lr_critic": 5e-5, "batch": 16, "steps": 100_000, "features": "vgg16",
              "init": "sd21-base"},
}  # fmt: skip
TADSR: dict[str, Any] = {
    "base": {"variant": "resshift-15"},
    "method": {"weight_distill": 1.0, "lambda_hsd": 1.0, "lambda_adv": 0.02, "teacher_steps": 15, "t_hsd": 3,
               "t_dis": 15, "score": "hsd", "noise": "normal", "scaled_twice": False, "c_dim": 64,
               "embed_dim": 160, "weighting": "heads", "time_aware": True},
    "data": {"patch": 256, "degradations": {"realesrgan": 1.0}},
    "train": {"lr": 5e-5, "lr_critic": 5e-5, "batch": 64, "steps": 30_000, "warmup": 5_000, "lr_min": 1.0,
              "weight_decay": 0.0, "clip": 0.0, "ema": 0.999, "precision": "fp32", "schedule_critic": False,
              "init": ""},
}  # fmt: skip
TABLE: dict[str, dict[str, Any]] = {
    "tsdsr-sd3": {**TSDSR, "kinds": ("sd3", "tsdsr", "flow", "sd3-medium")},
    "tsdsr-sd21": {**TSDSR, "kinds": ("sd21", "tsdsr", "ddpm", "sd21-base")},
    "tsdsr-sd2": {**TSDSR, "kinds": ("sd21", "tsdsr", "ddpm", "sd2-base")},
    "dfosd-sd21": {**DFOSD, "kinds": ("sd21", "dfosd", "ddpm", "sd21-base")},
    "dfosd-sd21-sdxl": {
        **DFOSD, "base": {**DFOSD["base"], "critic": "sdxl-base"},
        "kinds": ("sd21", "dfosd", "ddpm", "sd21-base"),
    },
    "tadsr-resshift": {**TADSR, "kinds": ("resshift", "tadsr", "resshift", "")},
    "tadsr-resshift-face": {
        "kinds": ("resshift", "tadsr", "resshift", ""),
        "base": {"variant": "resshift-faces"},
        "method": {**TADSR["method"], "lambda_hsd": 0.1, "lambda_adv": 0.2, "teacher_steps": 4, "t_dis": 4},
        "data": {"patch": 512, "degradations": {"faces": 1.0}, "rotations": False},
        "train": {**TADSR["train"], "batch": 56, "micro": 7},
    },
    "osediff-sd21": {
        "kinds": ("sd21", "osediff", "ddpm", "sd21-base"),
        "base": {"rank": 4, "alpha": 8.0, "rank_encoder": 4, "rank_score": 4, "train_conv_in": True,
                 "t_student": 999, "learned_prompt": False},
        "method": {"t_student": 999, "t_min": 20, "t_max": 979, "guidance": 7.5, "weight_mse": 1.0,
                   "lambda_1": 2.0, "lambda_2": 1.0},
        "data": {"patch": 512, "usm_sharpen": False, "prompts": True, "degradations": {"realesrgan": 1.0}},
        "train": {"lr": 5e-5, "lr_critic": 5e-5, "batch": 16, "micro": 4, "steps": 100_000, "warmup": 0,
                  "lr_min": 1.0, "weight_decay": 1e-2, "clip": 1.0, "ema": 0.0, "features": "vgg16"},
    },
    "sinsr-resshift": {
        "kinds": ("resshift", "sinsr", "resshift", ""),
        "base": {"variant": "resshift-15"},
        "method": {"weight_distill": 1.0, "weight_inverse": 1.0, "weight_gt": 1.0, "teacher_steps": 15,
                   "released_scale": True},
        "data": {"patch": 256, "degradations": {"realesrgan": 1.0}},
        "train": {"lr": 5e-5, "batch": 64, "warmup": 5_000, "lr_min": 1.0, "weight_decay": 0.0, "clip": 0.0,
                  "ema": 0.999, "precision": "fp32"},
    },
}  # fmt: skip
"""What the papers and the authors' code say; what neither does is left out, but for DFOSD's own T_L."""


@pytest.mark.parametrize("name", TABLE)
def test_a_recipe_has_the_papers_numbers(name):
    run, wanted = recipe(name), TABLE[name]
    assert (kind(run.base), kind(run.method), run.method.process, run.train.init) == wanted["kinds"]
    for section in ("base", "method", "data", "train"):
        found = dataclasses.asdict(getattr(run, section))
        assert {key: found[key] for key in wanted[section]} == wanted[section], section


def test_every_recipe_is_in_the_table_or_on_the_compact_base():
    assert {name for name in RECIPES if not name.startswith("compact-")} == set(TABLE)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_goes_together(name):
    run = recipe(name)
    assert run.name == name
    assert kind(run.method) not in BASES[kind(run.base)].obstacles
    assert run.train.batch % (run.train.micro or run.train.batch) == 0
    assert run.train.validate_every <= run.train.steps
    times = {section.t_student for section in (run.base, run.method) if hasattr(section, "t_student")}
    if isinstance(run.base, SD21Config):
        assert len(times) == 1, "base and method ask the student at different times"
    if isinstance(run.base, SD3Config | SD21Config):
        assert run.train.init in KNOWN
    if isinstance(run.base, ResShiftConfig):
        assert run.data.scale == (1 if run.base.variant == "resshift-faces" else 4)


def test_papers_differ_from_what_was_released_where_that_is_a_defect():
    """The released TSD-SR trainer trains with no TSD term at all, TAD-SR's with uniform noise."""
    assert recipe("tsdsr-sd3").method != type(recipe("tsdsr-sd3").method).released()
    assert recipe("tadsr-resshift").method.noise == "normal"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("base", BASES)
def test_a_pair_runs_or_says_why_not(method, base):
    reason = BASES[base].obstacles.get(method)
    if base == "compact":
        assert reason is None
    if reason is not None:
        assert reason[0].islower() and not reason.endswith(".") and "base" in reason


def test_pairs_that_cannot_run():
    found = {(method, base) for method in METHODS for base in BASES if method in BASES[base].obstacles}
    assert found == {
        ("teacher", "sd3"), ("teacher", "sd21"), ("teacher", "resshift"), ("tsdsr", "resshift"),
        ("tadsr", "sd3"), ("tadsr", "sd21"), ("sinsr", "sd3"), ("sinsr", "sd21"),
    }  # fmt: skip
    assert "low-quality image" in BASES["sd3"].obstacles["tadsr"]
    assert "predicts z_0" in BASES["resshift"].obstacles["tsdsr"]
