"""A run whose targets a restorer makes: it resumes exactly, tells who taught it, and takes no other file."""

import json
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from PIL import Image
from safetensors.torch import save_file

from unistep.bases.compact.network import CompactConfig, CompactDenoiser
from unistep.errors import TrainingError, UnistepError
from unistep.models.checkpoint import load_student
from unistep.recipes.config import Run, override
from unistep.recipes.recipes import recipe
from unistep.students.restorers import SRVGGNetCompact
from unistep.tensors import read_header, read_tensors, save_weights, sha256
from unistep.training import loop, progress, smoke
from unistep.training.loop import fit
from unistep.training.runfolder import STATE, WEIGHTS

TINY = [
    "base.widths=[8,8,8]", "base.blocks=[1,1,1]", "data.patch=32", "data.workers=0", "data.holdout=0",
    "data.uses=2", "train.batch=2", "train.steps=4", "train.warmup=0", "train.save_every=2",
    "train.validate_every=4", "train.precision=fp32", "train.early=[]", "train.plain=",
]  # fmt: skip


def quiet(_: str) -> None: ...


@pytest.fixture(autouse=True)
def cheap(monkeypatch):
    """Without the distance that costs a hundred times what a tiny step costs."""
    monkeypatch.setattr(progress, "swd", lambda image, reference: (image - reference).abs().mean((1, 2, 3)))
    monkeypatch.setattr("unistep.data.again.WINDOW", 2)
    monkeypatch.setattr("unistep.data.again.STEPS", 1)  # a pair comes again in the next step
    yield
    AcceleratorState._reset_state()
    PartialState._reset_state()


@pytest.fixture
def data(tmp_path) -> Path:
    (tmp_path / "photographs").mkdir()
    for i in range(2):
        generator = torch.Generator().manual_seed(i)
        pixels = torch.randint(256, (64, 64, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(tmp_path / "photographs" / f"{i}.png")
    return tmp_path / "photographs"


@pytest.fixture
def start(tmp_path) -> Path:
    torch.manual_seed(0)
    table = override(recipe("compact-teacher"), TINY[:2]).to_dict()
    state = CompactDenoiser(CompactConfig((8, 8, 8), (1, 1, 1))).state_dict()
    save_weights(tmp_path / "start.safetensors", state, {"run": table, "history": []}, torch.float32)
    return tmp_path / "start.safetensors"


@pytest.fixture
def run(tmp_path, start):
    restorer = smoke.restorer(tmp_path)
    return lambda *more: override(
        recipe("compact-distilled"), [*TINY, f"train.init={start}", f"train.restorer={restorer}", *more]
    )


def left(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in (STATE, WEIGHTS, "losses.csv")}


def test_two_plus_two_steps_are_four(run, data, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fit(run(), data, whole, quiet)
    save = loop.save_state

    def stopping(path, table, step, *rest):
        save(path, table, step, *rest)
        if step == 2:
            raise InterruptedError

    AcceleratorState._reset_state()
    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(loop, "save_state", stopping)
        fit(run(), data, parts, quiet)
    AcceleratorState._reset_state()
    fit(run(), data, parts, quiet)
    assert left(whole) == left(parts)


def test_the_weights_say_who_taught_them(run, data, tmp_path):
    weights = fit(run(), data, tmp_path / "run", quiet)
    header, digest = read_header(weights), sha256(tmp_path / "restorer.safetensors")
    assert header["restorer"] == {"name": "restorer", "sha256": digest}
    assert header["run"]["train"]["restorer"] == "restorer.safetensors"
    assert header["history"][-1]["run"]["method"]["kind"] == "regression"
    assert header["history"][-1]["restorer"] == header["restorer"]  # later stages carry it on
    assert read_header(tmp_path / "run" / STATE)["files"]["train.restorer"] == digest


def test_a_folded_student_is_trained_used_and_no_teacher(run, data, tmp_path, start):
    weights = fit(run("base.folded=true"), data, tmp_path / "run", quiet)
    AcceleratorState._reset_state()
    assert read_header(weights)["run"]["base"]["folded"] is True
    before, after, x = load_student(start), load_student(weights), torch.rand(1, 3, 9, 7)
    moved = (after(x) - before(x)).abs().max()
    assert 0 < moved < 0.5  # it started from the slot of train.init
    fit(run("base.folded=true", f"train.init={weights}"), data, tmp_path / "next", quiet)
    AcceleratorState._reset_state()
    with pytest.raises(UnistepError, match=r"train\.init .* set base\.widths, base\.blocks and base\.folded"):
        fit(run("base.folded=false", f"train.init={weights}"), data, tmp_path / "other", quiet)
    settings = [*TINY[:8], "base.folded=true", f"train.init={start}", "train.plain="]
    with pytest.raises(UnistepError, match="found a folded one"):
        fit(override(recipe("compact-tsdsr"), settings), data, tmp_path / "third", quiet)


def test_a_run_goes_on_only_with_its_restorer(run, data, tmp_path):
    fit(run(), data, tmp_path / "run", quiet)
    AcceleratorState._reset_state()
    before = left(tmp_path / "run")
    other = {name: t + 1 for name, t in read_tensors(tmp_path / "restorer.safetensors").items()}
    save_file(other, tmp_path / "restorer.safetensors")
    with pytest.raises(TrainingError, match=r"train\.restorer named a file with sha256 .*put that file back"):
        fit(run("train.steps=6"), data, tmp_path / "run", quiet)
    assert left(tmp_path / "run") == before


def test_the_restorer_is_the_target(run, data, tmp_path):
    """On bicubic inputs a student of a restorer that only repeats pixels comes to repeat them."""
    net = SRVGGNetCompact(4, 1, 4)
    save_file({name: torch.zeros_like(t) for name, t in net.state_dict().items()}, tmp_path / "r.safetensors")
    settings = (
        f"train.restorer={tmp_path / 'r.safetensors'}", 'data.degradations={"bicubic": 1.0}',
        "method.weight_means=0", "train.steps=60", "train.lr=0.01", "train.validate_every=60",
        "train.save_every=60",
    )  # fmt: skip
    fit(run(*settings), data, tmp_path / "run", quiet)
    rows = [line.split(",") for line in (tmp_path / "run" / "losses.csv").read_text().splitlines()]
    losses = [float(value) for _, name, value in rows if name == "student/restored"]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def scaled(tmp_path: Path) -> str:
    net = SRVGGNetCompact(4, 1, 2)
    save_file(dict(net.state_dict()), tmp_path / "x2.safetensors")
    return f"train.restorer={tmp_path / 'x2.safetensors'}"


def foreign(tmp_path: Path) -> str:
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    return f"train.restorer={tmp_path / 'foreign.safetensors'}"


def grey(tmp_path: Path) -> str:
    net = SRVGGNetCompact(4, 1, 4)
    net.body[0] = torch.nn.Conv2d(1, 4, 3)
    save_file(dict(net.state_dict()), tmp_path / "grey.safetensors")
    return f"train.restorer={tmp_path / 'grey.safetensors'}"


def pickled(tmp_path: Path) -> str:
    torch.save({"params": SRVGGNetCompact(4, 1, 4).state_dict()}, tmp_path / "a.pth")
    return f"train.restorer={tmp_path / 'a.pth'}"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda _: "train.restorer=", r"expected train\.restorer to name a one-step model .*found “”"),
        (lambda _: "train.restorer=absent", r"train\.restorer: expected a model's name .*found “absent”"),
        (scaled, r"enlarges pieces by 4, as the base does, found one of scale 2: name another"),
        (foreign, r"train\.restorer: .*SRVGGNetCompact or RRDBNet of others, found .*: name another$"),
        (grey, r"train\.restorer: .*expected a restorer of 3 colours, found one of 1: name another file$"),
        (pickled, r"train\.restorer: .*pickled weights: unistep models convert makes"),
    ],
)
def test_what_is_no_restorer(wrong, message, run, data, tmp_path):
    """One sentence, before the first step."""
    with pytest.raises(UnistepError, match=message) as caught:
        fit(run(wrong(tmp_path)), data, tmp_path / "run", quiet)
    assert "\n" not in str(caught.value) and not (tmp_path / "run" / "run.json").exists()


def test_other_methods_take_none(start, data, tmp_path):
    settings = [*TINY, f"train.init={start}", f"train.restorer={smoke.restorer(tmp_path)}"]
    with pytest.raises(UnistepError, match=r"expected train\.restorer to be empty for compact-sharp"):
        fit(override(recipe("compact-sharp"), settings), data, tmp_path / "run", quiet)


def test_earlier_recipes_keep_their_tables():
    """A run that neither names a restorer nor uses pairs again looks as it did."""
    table = recipe("compact-sharp").to_dict()
    assert "restorer" not in table["train"] and "uses" not in table["data"]
    distilled = override(recipe("compact-distilled"), ["train.restorer=x"])
    table = json.loads(distilled.to_json())
    assert table["train"]["restorer"] == "x" and table["data"]["uses"] == 4
    assert Run.from_dict(table) == distilled
