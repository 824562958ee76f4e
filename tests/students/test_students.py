"""The three students through the whole loop, on a tiny base: they train, and resume exactly."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from PIL import Image

from unistep.bases.compact.network import CompactConfig, CompactDenoiser
from unistep.errors import ConfigError, DataError, TrainingError, UnistepError
from unistep.methods import METHODS
from unistep.models.checkpoint import load_student
from unistep.recipes.config import Run, override
from unistep.recipes.recipes import recipe
from unistep.tensors import read_header, read_tensors, save_weights, sha256
from unistep.training import gate, progress
from unistep.training import loop as module
from unistep.training.loop import STATE, WEIGHTS, fit

STUDENTS = ("compact-tsdsr", "compact-dfosd", "compact-tadsr")
TINY = [
    "base.widths=[8,8,8]", "base.blocks=[1,1,1]", "data.patch=64", "data.workers=0", "data.holdout=0",
    "train.batch=2", "train.steps=4", "train.warmup=2", "train.save_every=2", "train.validate_every=2",
    "train.precision=fp32",
]  # fmt: skip


def quiet(_: str) -> None: ...


def distance(image: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """In place of the sliced Wasserstein distance, which costs a hundred times what a tiny step costs."""
    return (image - reference).abs().mean((1, 2, 3))


@pytest.fixture(autouse=True, scope="module")
def cheap_measures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for place in (progress, gate):
            patch.setattr(place, "swd", distance)
        yield


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """accelerate keeps its precision for the whole process."""
    yield
    AcceleratorState._reset_state()
    PartialState._reset_state()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for i in range(2):
        coarse = np.random.default_rng(i).integers(0, 256, (24, 24, 3), np.uint8)
        Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """A tiny network whose answers differ from bicubic."""
    torch.manual_seed(0)
    denoiser = CompactDenoiser(CompactConfig((8, 8, 8), (1, 1, 1)))
    with torch.no_grad():
        denoiser.net.out.weight.mul_(100)
    path = tmp_path_factory.mktemp("teacher") / "tiny-teacher.safetensors"
    table = override(recipe("compact-teacher"), TINY[:2]).to_dict()
    save_weights(path, denoiser.state_dict(), {"run": table, "history": [], "steps": 7}, torch.float16)
    return path


def run(name: str, teacher: Path, *settings: str) -> Run:
    return override(recipe(name), [*TINY, f"train.init={teacher}", "train.plain=", *settings])


def left(out: Path) -> dict[str, bytes]:
    files = [p for p in out.rglob("*") if p.is_file() and "tensorboard" not in p.parts]
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in files}


class Stop(Exception):
    pass


@pytest.mark.parametrize("name", STUDENTS)
def test_two_plus_two_steps_are_four(name, data, teacher, tmp_path, monkeypatch):
    """Bitwise, with what the critic remembers: weights, averages, optimisers, losses, sheets."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    lines: list[str] = []
    fit(run(name, teacher), data, whole, lines.append)
    AcceleratorState._reset_state()
    save = module.save_state

    def stopping(path, table, step, *rest):
        save(path, table, step, *rest)
        if step == 2:
            raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(module, "save_state", stopping)
        fit(run(name, teacher), data, parts, quiet)
    AcceleratorState._reset_state()
    torch.manual_seed(99)  # whatever happened in between
    fit(run(name, teacher), data, parts, quiet)
    assert left(whole) == left(parts)

    players = {key.split(".")[0] for key in read_tensors(whole / STATE)}
    assert players == {"student", "critic"}
    header = read_header(whole / WEIGHTS)
    assert header["plain"] == {"name": "tiny-teacher", "sha256": sha256(teacher)}
    assert header["steps"] == 4 and header["run"]["method"]["kind"] == name.removeprefix("compact-")
    assert ("teacher" in header) == (name != "compact-dfosd")
    assert any(line.startswith("teacher: ") for line in lines) == ("teacher" in header)
    assert all("samples of training crops" in line for line in lines if line.startswith("teacher: "))
    distance = {"compact-tsdsr": "T-LPIPS", "compact-dfosd": "T-DISTS"}.get(name)
    assert header.get("perceptual") == distance and (distance is None or f"; {distance}; " in lines[0])
    assert str(teacher.parent) not in str(header)
    picture = load_student(whole / WEIGHTS)(torch.zeros(1, 3, 8, 8))
    assert picture.shape == (1, 3, 32, 32) and picture.isfinite().all()
    start, end = read_tensors(teacher), read_tensors(whole / WEIGHTS)
    assert set(start) == set(end) and any(not torch.equal(start[key], end[key]) for key in start)


@pytest.mark.parametrize(
    "name,setting,message",
    [
        ("compact-tsdsr", "method.process=resshift", r"method\.process"),
        (
            "compact-tsdsr",
            "method.process=edm",
            r"expected method\.process to be one of flow, ddpm, resshift",
        ),
        ("compact-tsdsr", "method.dasm_stride=300", r"method\.dasm_steps \* method\.dasm_stride"),
        ("compact-tsdsr", "method.guidance=7.5", r"expected method\.guidance to be 1"),
        ("compact-tadsr", "method.teacher_steps=16", r"expected method\.teacher_steps to be at most 15"),
        ("compact-dfosd", "method.taps=deep", r"expected method\.taps to be one of"),
        ("compact-dfosd", "method.t_nad_max=1000", r"expected method\.t_nad_max"),
        ("compact-dfosd", "base.widths=[8,8,16]", r"expected train\.init to hold a network of"),
        ("compact-dfosd", "train.critic_init=none", r"train\.critic_init: expected a model's name"),
        ("compact-dfosd", "train.plain=none", r"train\.plain: expected a model's name"),
        ("compact-dfosd", "train.init=none", r"train\.init: expected a model's name"),
        (
            "compact-tsdsr",
            "train.critic_init=x",
            r"expected train\.critic_init to be empty for compact-tsdsr",
        ),
        (
            "compact-tadsr",
            "train.critic_init=x",
            r"expected train\.critic_init to be empty for compact-tadsr",
        ),
        ("compact-dfosd", "method.t_student=500", r"expected method\.t_student to be from 796 to 999"),
        ("compact-tsdsr", "method.t_student=500", r"expected method\.t_student to be from \d+ to 999"),
    ],
)
def test_parts_that_do_not_fit(name, setting, message, data, teacher, tmp_path):
    """One sentence, before the first step."""
    with pytest.raises(UnistepError, match=message) as caught:
        fit(run(name, teacher, setting), data, tmp_path / "run", quiet)
    assert "found" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "run.json").exists()


def other(folder: Path, *settings: str) -> Path:
    """A network of its own."""
    settings = override(recipe("compact-teacher"), [*TINY[:2], *settings])
    path = folder / "other.safetensors"
    state = CompactDenoiser(settings.base).state_dict()
    save_weights(path, state, {"run": settings.to_dict(), "history": [], "steps": 7}, torch.float16)
    return path


def test_a_plain_model_of_another_shape(data, teacher, tmp_path):
    plain = other(tmp_path, "base.widths=[8,8,16]")
    with pytest.raises(ConfigError, match=r"expected train\.plain to hold a network of"):
        fit(run("compact-dfosd", teacher, f"train.plain={plain}"), data, tmp_path / "run", quiet)


def test_a_plain_model_names_no_other(data, teacher, tmp_path):
    settings = ("train.plain=self", "train.steps=1")
    weights = fit(run("compact-plain", teacher, *settings), data, tmp_path / "run", quiet)
    assert "plain" not in read_header(weights) and recipe("compact-plain").train.plain == "self"
    assert all(recipe(name).train.plain == "compact-plain" for name in STUDENTS)


def test_features_of_a_random_network_are_refused(data, tmp_path):
    settings = override(recipe("compact-teacher"), [*TINY, "method.weight_lpips=1"])
    with pytest.raises(ConfigError, match=r"expected train\.features to be squeezenet, alexnet or vgg16"):
        fit(settings, data, tmp_path / "run", quiet)


@pytest.mark.parametrize("setting", ["init", "plain", "critic_init"])
def test_a_run_goes_on_only_with_its_own_files(setting, data, teacher, tmp_path):
    file = other(tmp_path)
    settings = run("compact-dfosd", teacher, f"train.{setting}={file}", "train.steps=1")
    fit(settings, data, tmp_path / "run", quiet)
    before = left(tmp_path / "run")
    other(tmp_path)  # other weights, of the same name
    AcceleratorState._reset_state()
    with pytest.raises(
        TrainingError, match=rf"holds another run \(train\.{setting} named a file with sha256"
    ):
        fit(settings, data, tmp_path / "run", quiet)
    assert left(tmp_path / "run") == before


def test_a_dry_run_finds_parts_that_do_not_fit(data, teacher, tmp_path):
    settings = [*TINY, f"train.init={teacher}", "train.plain=", "method.guidance=7.5"]
    with pytest.raises(ConfigError, match=r"expected method\.guidance to be 1"):
        module.main("compact-tsdsr", data, tmp_path / "run", settings, dry_run=True, report=quiet)


def test_data_that_does_not_fit(teacher, data, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        fit(run("compact-dfosd", teacher), tmp_path / "empty", tmp_path / "run", quiet)
    with pytest.raises(DataError, match="expected at least 128 pixels on each side, found 96x96"):
        fit(run("compact-dfosd", teacher, "data.patch=128"), data, tmp_path / "run", quiet)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", STUDENTS)
def test_recipes_are_whole_runs(name):
    made = recipe(name)
    assert made.name == name and METHODS[name.removeprefix("compact-")][1] is type(made.method)
    teacher = recipe("compact-teacher")
    assert made.base == teacher.base and made.data.degradations == teacher.data.degradations
    shared = {"init", "steps", "batch", "lr", "lr_critic", "ema", "keep"}
    first = recipe(STUDENTS[0])
    for field in shared:
        assert getattr(made.train, field) == getattr(first.train, field), "one budget for all three"
    assert dataclasses.replace(made.data) == first.data


def test_a_larger_network_as_the_critic(data, teacher, tmp_path):
    """DFOSD Tab. 6, last row: the discriminator starts from another, larger network."""
    torch.manual_seed(1)
    large = tmp_path / "large.safetensors"
    table = override(recipe("compact-teacher"), ["base.widths=[12,16,20]", TINY[1]]).to_dict()
    net = CompactDenoiser(CompactConfig((12, 16, 20), (1, 1, 1)))
    save_weights(large, net.state_dict(), {"run": table, "history": [], "steps": 7}, torch.float16)
    settings = run("compact-dfosd", teacher, f"train.critic_init={large}", "train.steps=2")
    weights = fit(settings, data, tmp_path / "run", quiet)
    state = read_tensors(tmp_path / "run" / STATE)
    assert state["critic.net.trunk.denoiser.net.inp.weight"].shape[0] == 12
    assert read_header(weights)["run"]["train"]["critic_init"] == "large.safetensors"


def test_a_student_without_a_teacher(data, tmp_path):
    with pytest.raises(ConfigError, match=r"expected train\.init to name the teacher"):
        fit(override(recipe("compact-dfosd"), [*TINY, "train.init="]), data, tmp_path / "run", quiet)
