"""A base is a folder and a line: the toy base of examples/newbase is like those of the package."""

from pathlib import Path

import numpy as np
import pixel
import pytest
import torch
from PIL import Image

from unistep import Upscaler
from unistep.bases import BASES
from unistep.bases.face import Source
from unistep.data.pairs import DataConfig
from unistep.errors import ConfigError
from unistep.methods import DFOSDConfig, TADSRConfig, TSDSRConfig
from unistep.recipes.config import Run, TrainConfig, override
from unistep.tensors import read_header, read_tensors
from unistep.training import smoke
from unistep.training.loop import fit
from unistep.training.plan import plan

FACE = BASES.pop("pixel")
"""What importing it registered; other tests count the bases."""
METHODS = {
    "tsdsr": TSDSRConfig(process="ddpm", guidance=1.0),  # with a perceptual loss on its own features
    "dfosd": DFOSDConfig(process="ddpm", t_student=999),
}
DATA = DataConfig(patch=64, holdout=0.0, workers=0)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(BASES, "pixel", FACE)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for i in range(2):
        image = np.random.default_rng(i).integers(0, 256, (80, 80, 3), np.uint8)
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder


def run(name: str, folder: Path, **settings) -> Run:
    tiny = BASES["pixel"].tiny(pixel.PixelConfig(), folder)
    train = TrainConfig(
        steps=2, batch=2, warmup=0, precision="fp32", early=(), init=tiny.init or "", plain="self", **settings
    )
    return Run(f"pixel-{name}", tiny.config, METHODS[name], DATA, train)


@pytest.mark.parametrize("name", METHODS)
def test_methods_train_on_it(name, photographs, tmp_path):
    own = run(name, tmp_path)
    weights = fit(own, photographs, tmp_path / "run", lambda _: None)
    header = read_header(weights)
    assert Run.from_dict(header["run"]).base == own.base and header["run"]["base"]["kind"] == "pixel"
    before, after = read_tensors(Path(own.train.init)), read_tensors(weights)
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[key], after[key].float()) for key in before)
    picture = Image.fromarray(np.zeros((5, 7, 3), np.uint8))
    assert Upscaler.from_pretrained(weights)(picture, scale=4).size == (28, 20)


@pytest.mark.parametrize("name", METHODS)
def test_it_is_planned_and_smoked(name, tmp_path):
    planned = plan(run(name, tmp_path), "cpu")
    assert f"{name} on pixel" in str(planned) and planned.static > 0
    first, last = smoke.losses(run(name, tmp_path))
    assert first.keys() == last.keys() and last["student/grad_norm"] > 0


def test_what_it_lacks_is_said(tmp_path):
    own = run("tsdsr", tmp_path)
    with pytest.raises(ConfigError, match="takes no text"):
        smoke.losses(override(own, ["data.prompts=true"]))
    with pytest.raises(ConfigError, match=r"expected method\.process to be ddpm on the base pixel"):
        smoke.losses(Run("x", own.base, TADSRConfig("resshift"), DATA, own.train))
    with pytest.raises(ConfigError, match="whose weights are used as they are"):
        face = BASES["pixel"]
        source = Source(own.train.init, Path(own.train.init))
        base = face.open(own.base, {"train.init": source}, torch.device("cpu"))
        base.export({}, "tsdsr", torch.float16)
