"""`unistep eval --keep-pictures`: the results as files, of this run and of no other."""

import shutil

import numpy as np
import pytest
from PIL import Image
from test_eval import run, smooth

from unistep import atomic
from unistep.command.cli import main
from unistep.evaluation.journal import Journal
from unistep.evaluation.judged import Bicubic, Model
from unistep.evaluation.keeping import Pictures
from unistep.image import read_image

METRICS = ["--metric", "psnr_y", "--metric", "grid"]


@pytest.fixture
def command(tmp_path):
    for i in range(3):
        smooth(tmp_path / "lq" / f"{i}.png", 24, 16, i)
        smooth(tmp_path / "gt" / f"{i}.png", 96, 64, i)
    return ["--model", "bicubic", "--model", "ours=compact-plain", "--pairs", f"mine={tmp_path / 'lq'}",
            tmp_path / "gt", *METRICS, "--out", tmp_path / "out"]  # fmt: skip


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def tree(out):
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


def made(monkeypatch):
    """Names of what models and bicubic are asked for from now on."""
    asked = []
    for kind in (Bicubic, Model):

        def opening(self, before=kind.open):
            enlarge = before(self)

            def enlarging(on, sample, low):
                asked.append(f"{self.name} {sample.name}")
                return enlarge(on, sample, low)

            return enlarging

        monkeypatch.setattr(kind, "open", opening)
    return asked


def test_the_files_are_the_results_and_the_numbers_are_the_same(command, tmp_path):
    out, bare = tmp_path / "out", tmp_path / "bare"
    assert run(*command, "--keep-pictures") == 0 and run(*command[:-1], bare) == 0
    assert (out / "results.json").read_bytes() == (bare / "results.json").read_bytes()
    assert not (bare / "pictures").exists()
    folders = ("bicubic", "low", "ours", "truth")
    wanted = [f"{folder}/{i}.png" for folder in folders for i in range(3)]
    assert tree(out / "pictures" / "mine") == wanted
    for i in range(3):
        low = Image.open(tmp_path / "lq" / f"{i}.png")
        large = np.asarray(low.resize((96, 64), Image.Resampling.BICUBIC))
        assert np.array_equal(pixels(out / "pictures" / "mine" / "bicubic" / f"{i}.png"), large)
        assert np.array_equal(pixels(out / "pictures" / "mine" / "low" / f"{i}.png"), np.asarray(low))
        truth = out / "pictures" / "mine" / "truth" / f"{i}.png"
        assert np.array_equal(pixels(truth), pixels(tmp_path / "gt" / f"{i}.png"))
    assert main(["upscale", str(tmp_path / "lq" / "1.png"), "-o", str(tmp_path / "own.png"), "-d", "cpu",
                 "-m", "compact-plain", "-s", "4"]) == 0  # fmt: skip
    assert np.array_equal(pixels(tmp_path / "own.png"), pixels(out / "pictures" / "mine" / "ours" / "1.png"))
    assert read_image(truth).rgb.shape == (64, 96, 3)


def test_they_are_a_folder_of_results(command, tmp_path):
    """What was kept can be judged again, and is what it was."""
    assert run(*command, "--keep-pictures") == 0
    kept = tmp_path / "out" / "pictures" / "mine"
    again = ["--results", f"bicubic={kept / 'bicubic'}", "--results", f"ours={kept / 'ours'}", "--pairs",
             f"mine={kept / 'low'}", kept / "truth", *METRICS, "--out", tmp_path / "again"]  # fmt: skip
    assert run(*again) == 0
    lines = [(tmp_path / out / "images.csv").read_text() for out in ("out", "again")]
    assert lines[0] == lines[1]


def test_what_is_gone_is_made_again_and_nothing_else(command, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert run(*command) == 0  # everything measured, no picture yet
    before = (out / "results.json").read_bytes(), (out / "journal.jsonl").read_bytes()
    asked = made(monkeypatch)
    assert run(*command, "--keep-pictures") == 0 and len(asked) == 6
    whole = tree(out)
    assert run(*command, "--keep-pictures") == 0 and len(asked) == 6
    (out / "pictures" / "mine" / "ours" / "1.png").unlink()
    assert run(*command, "--keep-pictures") == 0 and asked[6:] == ["ours 1"]
    shutil.rmtree(out / "pictures" / "mine" / "truth")
    assert run(*command, "--keep-pictures") == 0 and tree(out) == whole
    assert ((out / "results.json").read_bytes(), (out / "journal.jsonl").read_bytes()) == before


def test_a_run_that_stops_goes_on(command, tmp_path, monkeypatch):
    out, add, seen = tmp_path / "out", Journal.add, []

    def stopping(self, key, values):
        seen.append(key)
        if len(seen) == 4:
            raise KeyboardInterrupt
        add(self, key, values)

    monkeypatch.setattr(Journal, "add", stopping)
    assert run(*command, "--keep-pictures") == 130
    assert not (out / "pictures" / "of.json").exists() and not (out / "results.json").exists()
    assert len(tree(out / "pictures")) == 3 + 3 + 4  # a picture is there before its line is
    asked = made(monkeypatch)
    assert run(*command, "--keep-pictures") == 0
    assert asked == ["ours 0", "ours 1", "ours 2"] and Pictures(out / "pictures").belong_to(
        (out / "results.json").read_bytes()
    )


def test_another_runs_picture_is_never_taken(command, tmp_path):
    out = tmp_path / "out"
    file, kept = out / "pictures" / "mine" / "ours" / "0.png", Pictures(out / "pictures")
    assert run(*command, "--keep-pictures") == 0
    first, results = pixels(file), (out / "results.json").read_bytes()
    other = [x if x != "ours=compact-plain" else "ours=bicubic" for x in command]
    assert run(*other) == 0  # without keeping: what lies there is of the first run
    assert np.array_equal(pixels(file), first) and kept.belong_to(results)
    assert not kept.belong_to((out / "results.json").read_bytes())
    assert run(*other, "--keep-pictures") == 0 and kept.belong_to((out / "results.json").read_bytes())
    assert not np.array_equal(pixels(file), first)
    smooth(tmp_path / "lq" / "0.png", 24, 16, 9)
    assert run(*other, "--keep-pictures") == 0
    assert np.array_equal(
        pixels(out / "pictures" / "mine" / "low" / "0.png"), pixels(tmp_path / "lq" / "0.png")
    )


def test_leftovers_of_a_kill_go(command, tmp_path):
    folder = tmp_path / "out" / "pictures" / "mine" / "ours"
    folder.mkdir(parents=True)
    (folder / f"{atomic.PREFIX}{atomic._host()}-999999999-00{atomic.SUFFIX}").write_bytes(b"half")
    (folder / "0.png").write_bytes(b"no picture")
    assert run(*command, "--keep-pictures") == 0 and tree(folder) == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize("names", [["low=bicubic"], ["Truth=bicubic"], ["a=bicubic", "A=bicubic"]])
def test_names_that_share_a_folder(names, command, capsys):
    arguments = [x for name in names for x in ("--model", name)] + command[4:]
    assert run(*arguments, "--keep-pictures") == 2
    err = capsys.readouterr().err
    assert "expected names of different folders" in err and names[0].split("=")[0] in err
    assert run(*arguments) == 0


def test_a_place_that_cannot_be_written_to(command, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "pictures").write_text("a file")
    assert run(*command, "--keep-pictures") == 1
    assert "expected to write the picture" in capsys.readouterr().err
