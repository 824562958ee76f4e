"""Every recipe of a large base on a tiny model of its architecture: trains, resumes exactly, exports.

Method, losses and base are the recipe's; ranks, picture sizes and numbers of steps are not.
"""

import dataclasses
import functools
import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from unistep.bases.compact.network import CompactConfig
from unistep.bases.resshift.network import ResShiftConfig
from unistep.models import checkpoint
from unistep.recipes import recipes
from unistep.recipes.config import Run
from unistep.tensors import read_header
from unistep.training import loop as train
from unistep.training import opening, smoke
from unistep.training.export import export
from unistep.training.opening import open_run
from unistep.training.runfolder import STATE, WEIGHTS

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytest.importorskip("peft")
pytest.importorskip("accelerate")

LARGE = [name for name, made in recipes.RECIPES.items() if not isinstance(made().base, CompactConfig)]
LAYOUT = {"sd3": {"transformer.safetensors", "vae.safetensors"}, "sd21": {"unet.safetensors"},
          "resshift": {"model.safetensors"}}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def own_home(tmp_path_factory):
    with smoke.own_home(tmp_path_factory.mktemp("home")):
        yield


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    @functools.cache
    def made(name):
        folder = tmp_path_factory.mktemp("run")
        run, _ = smoke.miniature(recipes.recipe(name), folder)
        data = smoke.photographs(folder / "larger", 2 * run.data.patch)  # ResShift's windows cover them
        base, t = run.base, dataclasses.replace(run.train, steps=4, save_every=2, validate_every=4)
        if not isinstance(base, ResShiftConfig):
            few = {key: 4 for key in ("rank", "rank_encoder", "rank_score") if getattr(base, key)}
            base = dataclasses.replace(base, **few)
        return dataclasses.replace(run, base=base, train=t), data

    return made


class Stopped(Exception):
    pass


def fitted(run, data, out, monkeypatch, stop=0):
    """Trains into `out`; with `stop`, until the state of that step is saved, then anew to the end."""
    if stop:
        whole = train.save_state

        def save_and_stop(path, table, step, *rest):
            whole(path, table, step, *rest)
            if step == stop:
                raise Stopped

        with monkeypatch.context() as patch, pytest.raises(Stopped):
            patch.setattr(train, "save_state", save_and_stop)
            train.fit(run, data, out, lambda line: None)
    return train.fit(run, data, out, lambda line: None)


@pytest.mark.parametrize("name", LARGE)
def test_trains_resumes_and_exports(tiny_run, tmp_path, monkeypatch, name):
    run, data = tiny_run(name)
    for setting in ("count", "judged"):  # pictures that are looked at
        monkeypatch.setattr(train.Validation, setting, 1)
    monkeypatch.setattr(opening, "GATED", 1)
    one, two = tmp_path / "one", tmp_path / "two"
    fitted(run, data, one, monkeypatch)
    fitted(run, data, two, monkeypatch, stop=2)

    # resumed exactly: every tensor of the state, bit for bit
    states = [load_file(out / STATE) for out in (one, two)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert any(key.startswith("critic.net.") for key in states[0]) == (name != "sinsr-resshift")

    # trained: the student's parameters are not those that it began with
    base = open_run(run, torch.device("cpu")).base
    view = run.method.process
    weights = load_file(one / WEIGHTS)
    student = base.denoiser("student", view)
    own = {n.removeprefix("denoiser."): p for n, p in student.named_parameters() if p.requires_grad}
    assert own.keys() == weights.keys()
    started = {f"student.net.{n}": p for n, p in student.named_parameters() if p.requires_grad}
    moved = [key for key, p in started.items() if not torch.equal(p, states[0][key])]
    assert len(moved) > 0.4 * len(started)

    # exported: the file alone gives what the student gives
    out = export(one, tmp_path / "student.safetensors", tmp_path / "authors", torch.float32, report=str)
    with torch.no_grad():
        for key, p in own.items():
            p.copy_(weights[key])
    scale, side = base.scale, run.data.patch // base.scale
    x_lq = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    wanted = base.restore(student, x_lq)
    model = checkpoint.load_student(out).place(torch.device("cpu"), torch.float32)
    image = x_lq * 2 - 1
    x = F.interpolate(image, scale_factor=scale, mode="bicubic")
    if isinstance(run.base, ResShiftConfig):
        z = base.cond(image).y
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
        found = ((model(x, image, noise) + 1) / 2).clamp(0, 1)
    else:
        found = (model(x.clamp(-1, 1)) + 1) / 2
    assert (found - wanted).abs().max() < 1e-4 * max(1.0, wanted.abs().max().item())
    assert wanted.std() > 0.01
    header = read_header(out)
    assert header["run"]["name"] == name and header["steps"] == 4

    # the authors' layout is there, and of the trained tensors
    kind = json.loads((one / "run.json").read_text())["base"]["kind"]
    assert LAYOUT[kind] <= {path.name for path in (tmp_path / "authors").iterdir()}


def test_all_recipes_of_large_bases_are_here():
    assert len(LARGE) == 9 and all(isinstance(recipes.recipe(name), Run) for name in LARGE)
