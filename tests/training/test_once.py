"""On the way from `unistep train` to the first step nothing is looked for, read or hashed twice."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tinies
from PIL import Image

from unistep.bases import diffusersfolder
from unistep.bases import face as face_module
from unistep.bases.face import Source
from unistep.models import checkpoint, hub
from unistep.recipes.config import override
from unistep.recipes.recipes import recipe
from unistep.training import loop, opening

pytest.importorskip("diffusers")
QUICK = [
    "data.patch=64", "data.holdout=0", "data.workers=0", "train.batch=2", "train.micro=0", "train.steps=1",
    "train.precision=fp32", "train.early=[]",
]  # fmt: skip


class Enough(Exception):
    """The first step begins."""


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for i in range(2):
        image = np.random.default_rng(i).integers(0, 256, (80, 80, 3), np.uint8)
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def asked(monkeypatch) -> Counter[tuple[str, str]]:
    """(question, name or file) -> how often it was asked until the first step."""
    counts: Counter[tuple[str, str]] = Counter()

    def counted(owner, name, *also):
        real = getattr(owner, name)

        def call(*given, **more):
            counts[name, str(given[0] if given else more)] += 1
            return real(*given, **more)

        for place in (owner, *also):
            monkeypatch.setattr(place, name, call)

    counted(checkpoint, "resolve", opening)
    counted(hub, "component_folder", opening)
    counted(opening, "find", loop)
    counted(opening, "check_run")
    counted(opening, "open_run", loop)
    counted(diffusersfolder, "fingerprint", face_module)
    counted(face_module, "sha256")
    counted(face_module, "read_header")
    monkeypatch.setattr(loop, "train", lambda *given: (_ for _ in ()).throw(Enough))
    return counts


def walk(name: str, photographs: Path, out: Path, *settings: str) -> None:
    run = override(recipe(name), [*QUICK, *settings])
    with pytest.raises(Enough):
        loop.fit(run, photographs, out, lambda _: None)


def test_a_student_of_the_embedded_teacher(asked, photographs, tmp_path):
    walk("compact-tadsr", photographs, tmp_path / "run", "train.plain=compact-teacher")
    assert asked["resolve", "compact-teacher"] == 1, "one model, whatever settings name it"
    assert max(asked.values()) == 1, asked


def test_a_student_of_a_stable_diffusion(asked, photographs, tmp_path, monkeypatch):
    monkeypatch.setenv("UNISTEP_HOME", str(tmp_path / "home"))
    base, critic = (tinies.write(kind, tmp_path / kind) for kind in ("sd21", "sdxl"))
    walk(
        "dfosd-sd21-sdxl", photographs, tmp_path / "run", f"train.init={base}", f"base.critic={critic}",
        "method.spatial=mse", "base.dtype=fp32",
    )  # fmt: skip
    assert asked["component_folder", str(base)] == asked["component_folder", str(critic)] == 1
    assert max(asked.values()) == 1, asked


def test_a_source_is_read_when_it_is_asked_for_and_once(tmp_path, monkeypatch):
    file = tinies.write("resshift", tmp_path)
    source = Source(str(file), file)
    first, header = source.sha256, source.header
    file.unlink()
    assert source.sha256 == first and source.header is header and header["student"]["base"] == "resshift"
