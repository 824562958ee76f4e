"""Overrides of every type, and a Run that survives its own JSON."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unistep.errors import ConfigError
from unistep.recipes.config import Run, TrainConfig, keys, override
from unistep.recipes.recipes import RECIPES, recipe
from unistep.training.opening import check_features

RUN = Run("test")


@pytest.mark.parametrize(
    "assignment,section,key,value",
    [
        ("train.steps=7", "train", "steps", 7),
        ("train.lr=3e-4", "train", "lr", 3e-4),
        ("train.lr=1", "train", "lr", 1.0),
        ("train.init=a=b.safetensors", "train", "init", "a=b.safetensors"),
        (" train.save-every = 9 ", "train", "save_every", 9),
        ("data.usm_sharpen=true", "data", "usm_sharpen", True),
        ("data.usm_sharpen=0", "data", "usm_sharpen", False),
        ("train.betas=[0.5, 0.75]", "train", "betas", (0.5, 0.75)),
        ("base.widths=[8,16,24]", "base", "widths", (8, 16, 24)),
        ('data.degradations={"light": 1}', "data", "degradations", {"light": 1.0}),
        ("method.slot_share=0.25", "method", "slot_share", 0.25),
    ],
)
def test_overrides(assignment, section, key, value):
    run = override(RUN, [assignment])
    found = getattr(getattr(run, section), key)
    assert found == value and type(found) is type(value)
    changed = dataclasses.replace(getattr(RUN, section), **{key: value})
    assert run == dataclasses.replace(RUN, **{section: changed})  # and nothing else


def test_the_last_override_holds():
    assert override(RUN, ["train.steps=1", "train.steps=2"]).train.steps == 2
    assert override(RUN, []) == RUN


@pytest.mark.parametrize(
    "assignment,message",
    [
        ("train.stesp=3", "unknown setting “train.stesp”; did you mean train.steps?"),
        ("steps=3", "did you mean train.steps?"),
        ("lr=3", "did you mean train.lr?"),
        ("data.batch=3", "did you mean train.batch?"),
        ("zzzzzzzzzzzzzzzzzzzz=3", "expected one of base.widths"),
        ("name=x", "unknown setting “name”"),
        ("train=3", "unknown setting “train”"),
        ("train.steps", "expected --set section.key=value, found “train.steps”"),
        ("train.steps=many", "expected train.steps to be int, found “many”"),
        ("train.steps=1.5", "expected train.steps to be int"),
        ("train.lr=fast", "expected train.lr to be float"),
        ("train.lr=nan", "expected train.lr to be float"),
        ("train.lr=inf", "expected train.lr to be float"),
        ("data.usm_sharpen=maybe", "expected data.usm_sharpen to be bool"),
        ("train.betas=0.5", r"expected train.betas to be tuple\[float, float\]"),
        ("train.betas=[0.5]", "expected train.betas to be"),
        ("train.betas=[0.5, null]", "expected train.betas to be"),
        ("base.widths=[8.5, 8, 8]", "expected base.widths to be"),
        ("base.widths=[true, 8, 8]", "expected base.widths to be"),
        ("base.widths=[8", "expected base.widths to be"),
        ("base.widths=[8, 8]", "three numbers"),
        ("data.degradations=[1]", r"expected data.degradations to be dict\[str, float\]"),
        ('data.degradations={"light": "all"}', "expected data.degradations to be"),
        ('data.degradations={"lite": 1}', "found “lite”"),
        ("data.patch=100", "multiple of 16"),
        ("method.slot_share=1.5", "from 0 to 1"),
        ("method.s_min=9", "s_min <= method.s_max"),
        ("train.steps=0", "expected train.steps to be 1 or more, found 0"),
        ("train.batch=0", "train.batch"),
        ("train.save_every=0", "train.save_every"),
        ("train.validate_every=-1", "train.validate_every"),
        ("train.lr=0", "train.lr to be more than 0"),
        ("train.clip=-1", "train.clip"),
        ("train.ema=1", "train.ema"),
        ("train.betas=[0.9, 1.0]", "train.betas"),
        ("train.precision=fp8", "expected train.precision to be one of auto, fp32, bf16, fp16, found “fp8”"),
        ("train.seed=-1", "train.seed"),
        ("train.features=vgg", "expected train.features to be one of teacher, vgg16, alexnet, squeezenet"),
        ("train.warmup=-1", "expected train.warmup to be 0 or more, found -1"),
        ("train.weight_decay=-0.1", "train.weight_decay"),
        ("train.lr_min=-0.1", "train.lr_min"),
    ],
)
def test_mistakes_are_one_clear_sentence(assignment, message):
    with pytest.raises(ConfigError, match=message) as caught:
        override(RUN, [assignment])
    assert "\n" not in str(caught.value)


def test_keys_are_all_settings():
    names = keys(RUN)
    assert len(names) == len(set(names)) and {
        "base.widths",
        "method.slot_share",
        "data.patch",
        "train.lr",
    } <= set(names)
    for name in names:
        value = getattr(getattr(RUN, name.split(".")[0]), name.split(".")[1])
        text = value if isinstance(value, str) else json.dumps(value)
        assert override(RUN, [f"{name}={text}"]) == RUN


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_json(name):
    run = recipe(name)
    assert run.name == name
    back = Run.from_dict(json.loads(run.to_json()))
    assert back == run
    assert type(back.train.betas) is tuple and type(getattr(back.base, "widths", ())) is tuple


@given(
    steps=st.integers(1, 2**40), lr=st.floats(1e-9, 1e3), init=st.text(), sharpen=st.booleans(),
    share=st.dictionaries(st.sampled_from(["light", "bicubic"]), st.floats(0.1, 1), min_size=1),
)  # fmt: skip
def test_any_run_survives_json(steps, lr, init, sharpen, share):
    run = dataclasses.replace(
        RUN,
        train=TrainConfig(steps=steps, lr=lr, init=init),
        data=dataclasses.replace(RUN.data, usm_sharpen=sharpen, degradations=share),
    )
    assert Run.from_dict(json.loads(run.to_json())) == run


@pytest.mark.parametrize(
    "value",
    [
        [],
        3,
        {"name": "a"},
        {"name": 3},
        {"base": []},
        {"method": 3},
        {"train": []},
        {"train": {"lr": float("nan")}},
    ],
)
def test_foreign_json_is_refused(value):
    table = json.loads(RUN.to_json())
    with pytest.raises(ValueError, match="expected"):
        Run.from_dict({**table, **value} if isinstance(value, dict) and value != {"name": "a"} else value)


def test_unknown_settings_in_json_are_named():
    with pytest.raises(ConfigError, match="unknown settings in TrainConfig: speed"):
        Run.from_dict(json.loads(RUN.to_json()) | {"train": {"speed": 1}})
    known = "teacher, tsdsr, dfosd, tadsr, osediff, sinsr, regression"
    with pytest.raises(ConfigError, match=f"expected method to be one of {known}, found “x”"):
        Run.from_dict(json.loads(RUN.to_json()) | {"method": {"kind": "x"}})


def test_a_header_without_kinds_is_a_teacher_on_the_compact_base():
    table = json.loads(RUN.to_json())
    assert table["base"].pop("kind") == "compact" and table["method"].pop("kind") == "teacher"
    assert Run.from_dict(table) == RUN


def test_unknown_recipes():
    with pytest.raises(ConfigError, match=r"unknown recipe “compact-techer”; did you mean compact-teacher\?"):
        recipe("compact-techer")
    with pytest.raises(ConfigError, match="expected one of compact-teacher"):
        recipe("nonsense")


@pytest.mark.parametrize(
    "setting,said",
    [
        ("base.rank=0", "expected base.rank to be 1 or more, found 0"),
        ("base.rank=100000", "expected base.rank to be at most 1024, found 100000"),
        ("base.rank_encoder=-1", "expected base.rank_encoder to be 0 or more, found -1"),
        ("base.scale=3", "expected base.scale to be 1 or 4, found 3"),
    ],
)
def test_settings_of_large_bases_are_checked(setting, said):
    with pytest.raises(ConfigError, match=said):
        override(recipe("tsdsr-sd3"), [setting])


@pytest.mark.parametrize(
    "settings,said",
    [
        (["train.features=teacher"], "expected train.features to be squeezenet, alexnet or vgg16 on a large"),
        ([], "expected train.features_heads to name the published heads of LPIPS for alexnet"),
    ],
)
def test_lpips_of_large_bases_is_lpips(settings, said):
    run = override(recipe("tsdsr-sd3"), settings)
    with pytest.raises(ConfigError, match=said):
        check_features("lpips", run.train)
    check_features("dists", override(run, ["train.features=vgg16"]).train)
    check_features("lpips", override(run, ["train.features=vgg16", "train.features_heads=equal"]).train)
