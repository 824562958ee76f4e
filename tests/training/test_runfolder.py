"""A run's folder: what is damaged in it is said, what has changed around it is said, and it can go on."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from PIL import Image

from unistep.data.pairs import Photographs
from unistep.errors import DataError, TrainingError
from unistep.recipes.config import Run, override
from unistep.recipes.recipes import recipe
from unistep.tensors import read_header, read_tensors, save_weights
from unistep.training import progress
from unistep.training.export import read_run
from unistep.training.loop import fit, main
from unistep.training.runfolder import SETTINGS, STATE, WEIGHTS, longer

TINY = [
    "base.widths=[8,8,8]", "base.blocks=[1,1,1]", "data.patch=32", "data.workers=0", "data.holdout=0",
    "train.batch=2", "train.steps=2", "train.warmup=0", "train.save_every=2", "train.validate_every=2",
    "train.precision=fp32", "train.early=[]",
]  # fmt: skip


def run(*settings: str) -> Run:
    return override(recipe("compact-teacher"), [*TINY, *settings])


def quiet(_: str) -> None: ...


@pytest.fixture(autouse=True, scope="module")
def cheap():
    """Without the distance that costs a hundred times what a tiny step costs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "swd", lambda image, reference: (image - reference).abs().mean((1, 2, 3)))
        yield


@pytest.fixture(autouse=True)
def fresh_accelerate():
    yield
    AcceleratorState._reset_state()
    PartialState._reset_state()


def photograph(file: Path, seed: int) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = torch.randint(256, (64, 64, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(file)
    return file


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for i in range(3):
        photograph(folder / f"{i}.png", i)
    return folder


@pytest.fixture(scope="module")
def two_steps(photographs, tmp_path_factory) -> Path:
    """The folder of a finished run, whose rate does not fall."""
    out = tmp_path_factory.mktemp("runs") / "two"
    fit(run("train.lr_min=1"), photographs, out, quiet)
    AcceleratorState._reset_state()
    return out


@pytest.fixture
def out(two_steps, tmp_path) -> Path:
    """A copy of that."""
    return shutil.copytree(two_steps, tmp_path / "run")


@pytest.fixture
def data(photographs, tmp_path) -> Path:
    return shutil.copytree(photographs, tmp_path / "photographs")


def contents(folder: Path) -> dict[str, bytes]:
    files = [p for p in folder.rglob("*") if p.is_file() and "tensorboard" not in p.parts]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def refused(out: Path, data: Path, settings: Run, *words: str) -> None:
    """In one sentence with these words; the folder is left as it is."""
    before = contents(out)
    with pytest.raises(TrainingError) as caught:
        fit(settings, data, out, quiet)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value) and contents(out) == before


# Damaged files


def shortened(table: dict) -> dict:
    table["train"]["steps"] = "2"
    return table


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda data: b"", "nothing is in it"),
        (lambda data: bytes(len(data)), "nothing is in it"),
        (lambda data: data[: len(data) // 2], "line"),
        (lambda data: b"\xff\xfe\x00" + data, "decode"),
        (lambda data: b"[" * 100_000, "recursion"),
        (lambda data: b"[1, 2]", "expected a run"),
        (lambda data: b"null", "expected a run"),
        (lambda data: b'{"name": "compact-teacher", "train": {}}', "expected a run"),
        (lambda data: json.dumps(json.loads(data) | {"train": []}).encode(), "expected a table"),
        (lambda data: json.dumps(json.loads(data) | {"base": {"kind": []}}).encode(), "unhashable"),
        (lambda data: json.dumps(shortened(json.loads(data))).encode(), "expected int"),
    ],
)
def test_a_damaged_run_json(out, photographs, damage, found):
    file = out / SETTINGS
    file.write_bytes(damage(file.read_bytes()))
    words = [str(file), "expected the settings of a training run", found, "put a copy back, or delete it"]
    refused(out, photographs, run("train.lr_min=1"), *words)
    with pytest.raises(TrainingError, match="expected the settings of a training run"):
        read_run(out)
    file.unlink()  # as it says
    fit(run("train.lr_min=1"), photographs, out, quiet)
    assert json.loads(file.read_text()) == json.loads(run("train.lr_min=1").to_json())


def test_without_run_json_the_state_says_which_run_it_is(out, photographs):
    (out / SETTINGS).unlink()
    refused(out, photographs, run("train.lr_min=1", "train.lr=0.5"), "another run", "train.lr: 0.001 -> 0.5")


def test_settings_that_are_not_in_run_json_are_few(out, photographs):
    table = json.loads((out / SETTINGS).read_text())
    (out / SETTINGS).write_text(json.dumps(table | {"train": {}}))
    refused(out, photographs, run("train.lr_min=1"), "train.batch: nothing -> 2", "more)")


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "weights", "step", "tensors"])
def test_a_damaged_state(out, photographs, damage):
    file = out / STATE
    header, tensors = read_header(file), read_tensors(file)
    if damage == "weights":
        shutil.copy(out / WEIGHTS, file)
    elif damage == "step":
        save_weights(file, tensors, header | {"step": "2"}, torch.float32)
    elif damage == "tensors":
        tensors.pop(next(name for name in tensors if name.startswith("student.ema.")))
        save_weights(file, tensors, header, torch.float32)
    else:
        whole = file.read_bytes()
        file.write_bytes({"empty": b"", "cut": whole[:-9], "text": b"not a state"}[damage])
    refused(
        out,
        photographs,
        run("train.lr_min=1"),
        str(file),
        "expected",
        "found",
        "delete it to begin at step 0",
    )


def test_damaged_weights(out, photographs):
    (out / WEIGHTS).write_bytes(b"")
    refused(out, photographs, run("train.lr_min=1"), WEIGHTS, "found an empty file", "the next validation")
    save_weights(out / WEIGHTS, {"a": torch.zeros(1)}, {"scores": {}}, torch.float32)
    refused(out, photographs, run("train.lr_min=1"), WEIGHTS, "with their score, found others")


def test_a_damaged_log_keeps_what_can_be_read(tmp_path):
    lines = ["step,name,value", "1,a,0.5", '1,"b,0.5', "\xb2,c,1", "2,a,0.25"]
    noise = b"\0" * 200_000 + b"\xff\xfe\n"
    (tmp_path / "losses.csv").write_bytes("\n".join(lines).encode() + b"\n" + noise)
    progress.Log(tmp_path, 2).close()
    kept = (tmp_path / "losses.csv").read_text().splitlines()
    assert kept == ["step,name,value", "1,a,0.5", '1,"b,0.5', "2,a,0.25"]


# Pairs instead of photographs


def test_pairs_are_no_photographs(tmp_path):
    photograph(tmp_path / "pairs" / "hr" / "a.png", 0)
    photograph(tmp_path / "pairs" / "lr" / "a.png", 1)
    with pytest.raises(
        DataError, match=r"found pairs \(hr beside lr\).*give the ground truth alone \(.*hr\)"
    ):
        fit(run(), tmp_path / "pairs", tmp_path / "run", quiet)
    assert not (tmp_path / "run").exists()


# Another data set


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: photograph(folder / "3.png", 3), "4 training images now, 3 then"),
        (lambda folder: (folder / "1.png").unlink(), "2 training images now, 3 then"),
        (
            lambda folder: photograph(folder / "1.png", 8),
            "3 training images as before, but not the same ones",
        ),
        (lambda folder: (folder / "1.png").rename(folder / "9.png"), "3 training images as before, but not"),
    ],
)
def test_a_data_set_that_has_changed(out, data, change, said):
    lines: list[str] = []
    fit(run("train.lr_min=1"), data, out, lines.append)
    assert not any("data set" in line for line in lines)
    change(data)
    strict = run("train.lr_min=1", "data.strict=true")
    refused(out, data, strict, str(out), "has changed since step 2", said, "without --strict")
    before = read_header(out / STATE)["data"]
    fit(run("train.lr_min=1", "train.steps=3"), data, out, lines.append)
    [line] = [line for line in lines if "data set" in line]
    assert f"the data set has changed since step 2 ({said}" in line and "--strict" in line
    state = read_header(out / STATE)
    assert state["data"] != before and state["changes"] == [{"step": 2, "train.steps": 2, "data": before}]
    lines.clear()
    fit(run("train.lr_min=1", "train.steps=3", "data.strict=true"), data, out, lines.append)
    assert not any("data set" in line for line in lines), "it is said once"
    assert read_header(out / STATE)["changes"] == state["changes"]


def test_held_out_photographs_and_texts_count_too(out, data):
    def record() -> dict:
        return Photographs(data, 0.5).record(True)

    (data / "0.txt").write_text("one")
    first, split = record(), Photographs(data, 0.5)
    assert first["held_out"] and record() == first
    told = next(photo for photo in split.train if isinstance(photo, Path))
    told.with_suffix(".txt").write_text("another")
    assert {key for key in first if record()[key] != first[key]} == {"texts_sha256"}
    first = record()
    photograph(next(photo for photo in split.held_out if isinstance(photo, Path)), 7)
    assert {key for key in first if record()[key] != first[key]} == {"held_out_sha256"}


# More steps


def test_a_finished_run_goes_on_as_if_it_had_been_longer(out, photographs, tmp_path):
    """Its rate does not depend on how long it is: the same weights and state, to the bit."""
    lines: list[str] = []
    settings = ["train.lr_min=1", "train.steps=4"]
    main("compact-teacher", photographs, out, [*TINY, *settings], report=lines.append)
    assert f"{out}: goes on to step 4 instead of 2, as if that had been asked for from the start" in lines
    AcceleratorState._reset_state()
    fit(run(*settings), photographs, tmp_path / "four", quiet)
    ours, theirs = (read_tensors(folder / STATE) for folder in (out, tmp_path / "four"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (out / "losses.csv").read_text() == (tmp_path / "four" / "losses.csv").read_text()
    assert json.loads((out / SETTINGS).read_text()) == json.loads(run(*settings).to_json())
    assert read_header(out / STATE)["changes"] == [{"step": 2, "train.steps": 2}]


def test_where_the_rate_depends_on_the_length_it_is_said(photographs, tmp_path):
    out, lines = tmp_path / "run", list[str]()
    fit(run(), photographs, out, quiet)
    AcceleratorState._reset_state()
    fit(run("train.steps=4"), photographs, out, lines.append)
    [line] = [line for line in lines if "instead of 2" in line]
    assert "cosine of 2 steps so far and takes up that of 4" in line and "other weights" in line
    header = read_header(out / STATE)
    assert header["step"] == 4 and header["changes"] == [{"step": 2, "train.steps": 2}]
    settings = run("train.steps=100", "train.warmup=10")
    assert "as if" in longer(settings, 50, 11) and "other weights" in longer(settings, 50, 12)


def test_a_run_is_not_made_shorter(out, photographs):
    words = ["holds a run of 2 steps, found train.steps=1", "not for fewer", "train.steps=2 or more"]
    refused(out, photographs, run("train.lr_min=1", "train.steps=1"), *words)
