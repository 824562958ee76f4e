"""Files that earlier versions wrote open as they did: `tests/golden/written` is of version 0.1.0."""

import json
import shutil
from pathlib import Path

import pytest
import tinies
import torch
from goldens import GOLDEN

from unistep.bases.tiny import pictures
from unistep.image import Picture, write_image
from unistep.models.checkpoint import load_student
from unistep.recipes.config import Run, override
from unistep.recipes.recipes import RECIPES, recipe
from unistep.tensors import read_header, read_tensors
from unistep.training.export import export, read_run
from unistep.training.loop import fit

WRITTEN = GOLDEN / "written"
RECORDED = json.loads((WRITTEN / "recipes.json").read_text())


@pytest.mark.parametrize("name", RECORDED)
def test_a_header_of_every_recipe(name):
    """The run comes back, and is what the recipe is today: its folder can be resumed."""
    run = Run.from_dict(RECORDED[name])
    assert run == recipe(name) and json.loads(run.to_json()) == RECORDED[name]
    assert name in RECIPES


def test_weights_and_a_training_folder(tmp_path, monkeypatch):
    """The folder of a run that was stopped after the first of two steps goes on to what it became."""
    for name in ("compact.safetensors", "run"):
        copy = shutil.copytree if (WRITTEN / name).is_dir() else shutil.copy
        copy(WRITTEN / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for i, x in enumerate(pictures(6, 96, seed=1)):
        write_image(Path("photos") / f"{i}.png", Picture((x.permute(1, 2, 0) / 2 + 0.5).contiguous().numpy()))
    assert load_student(Path("compact.safetensors"))(torch.zeros(1, 3, 5, 7)).shape == (1, 3, 20, 28)
    run, header = read_run(Path("run"))
    assert header["steps"] == 2 and run.name == "compact-tadsr"  # one, and one of its teacher
    weights = fit(run, Path("photos"), Path("run"), lambda _: None)
    wanted, found = read_tensors(WRITTEN / "finished.safetensors"), read_tensors(weights)
    assert wanted.keys() == found.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, atol=2e-3, rtol=1e-2)
    now, then = read_header(weights), read_header(WRITTEN / "finished.safetensors")
    assert now.keys() == then.keys() and now["run"] == then["run"] and now["samples"] == then["samples"]


@pytest.mark.parametrize("kind,name", [("sd21", "osediff-sd21"), ("resshift", "sinsr-resshift")])
def test_students_have_the_names_and_shapes_that_they_had(kind, name, tmp_path, monkeypatch):
    """Of a large base: the same header and the same tensors, so that either version opens the other's."""
    pytest.importorskip("diffusers")
    pytest.importorskip("peft")
    monkeypatch.setenv("UNISTEP_HOME", str(tmp_path / "home"))
    recorded = json.loads((WRITTEN / "students.json").read_text())
    (tmp_path / "photos").mkdir()
    for i, x in enumerate(pictures(6, 96, seed=1)):
        picture = Picture((x.permute(1, 2, 0) / 2 + 0.5).contiguous().numpy())
        write_image(tmp_path / "photos" / f"{i}.png", picture)
    settings = [
        "data.patch=64", "data.holdout=0.34", "data.workers=0", "train.batch=2", "train.micro=0",
        "train.precision=fp32", "train.save_every=1", "train.validate_every=1", "train.early=[]",
        "train.warmup=0", "train.steps=1", f"train.init={tinies.write(kind, tmp_path / kind)}",
    ]  # fmt: skip
    if kind == "sd21":
        settings += ["method.lambda_1=0", "data.prompts=false"]
    fit(override(recipe(name), settings), tmp_path / "photos", tmp_path / "run", lambda _: None)
    file = export(tmp_path / "run", tmp_path / "student.safetensors", report=lambda _: None)
    header, tensors = read_header(file), read_tensors(file)
    assert header["student"] == recorded[kind]["student"]
    assert sorted(header) == recorded[kind]["keys"]
    types = {torch.float16: "F16", torch.float32: "F32", torch.int64: "I64"}
    found = {key: [types[t.dtype], list(t.shape)] for key, t in tensors.items()}
    assert found == recorded[kind]["tensors"]
    if kind == "sd21":
        trained = tmp_path / "run" / "weights.safetensors"
        assert sorted(read_header(trained)) == recorded["sd21-run"]["keys"]
        assert sorted(read_tensors(trained)) == recorded["sd21-run"]["tensors"]
        table = json.loads((WRITTEN / "run-sd21.json").read_text())
        assert json.loads(Run.from_dict(table).to_json()) == table
