"""FID and its like in `unistep eval`: of whole sets, from features that are kept, in equal bytes."""

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_distributions import random_weights
from test_eval import FILES, read, run, smooth

from unistep.evaluation import sets
from unistep.evaluation.distributions import SetScore, frechet_distance, kernel_distances
from unistep.evaluation.features import RECORD, Features
from unistep.evaluation.inception import Inception
from unistep.evaluation.judged import Bicubic
from unistep.evaluation.measuring import batch
from unistep.evaluation.metrics import METRICS
from unistep.tensors import sha256

SETS = [word for name in ("fid", "fid_g", "fid_f", "kid") for word in ("--metric", name)]
CHEAP = """
import torch
from unistep.evaluation.distributions import SetScore
from unistep.evaluation.inception import Inception
SetScore.features = lambda self, images: images.flatten(1).repeat(1, 9)[:, :2048].contiguous()
Inception.open = classmethod(lambda cls, path: torch.nn.Identity())
"""
"""Features that are quick: the first pixels."""


def pixels(images):
    return images.flatten(1).repeat(1, 9)[:, :2048]


@pytest.fixture
def cheap(monkeypatch):
    """As CHEAP; the list counts what features are computed of."""
    seen = []

    def features(self, images):
        seen.append(images)
        return pixels(images)

    monkeypatch.setattr(SetScore, "features", features)
    monkeypatch.setattr(Inception, "open", classmethod(lambda cls, path: torch.nn.Identity()))
    return seen


@pytest.fixture
def folder(tmp_path):
    """Pairs, a reference set in folders of folders, and a file in the place of Inception's."""
    for i in range(3):
        smooth(tmp_path / "lq" / f"{i}.png", 24, 16, i)
        smooth(tmp_path / "gt" / f"{i}.png", 96, 64, i)
    for i in range(4):
        smooth(tmp_path / "ffhq" / f"{i % 2}" / f"{i}.png", 40, 40, 10 + i)
    save_file({"x": torch.zeros(1)}, tmp_path / "net.safetensors")
    return tmp_path


def arguments(folder, out, *more):
    return ["--model", "bicubic", "--results", f"theirs={folder / 'gt'}", "--pairs", f"mine={folder / 'lq'}",
            folder / "gt", "--file", f"inception={folder / 'net.safetensors'}", "--out", folder / out,
            *more]  # fmt: skip


def score(out, metric, who="bicubic"):
    (one,) = (s for s in read(out)["scores"] if (s["metric"], s["judged"]) == (metric, who))
    return one


def larger(folder):
    on = sets.of_pairs("s", folder / "lq", folder / "gt")
    enlarge = Bicubic().open()
    return [batch(enlarge(on, sample, on.load(sample)[0])) for sample in on.samples]


def truths(folder):
    return [batch(sets.read(folder / "gt" / f"{i}.png")) for i in range(3)]


def test_a_distance_of_sets_is_that_of_their_images(folder):
    """With the network itself, of random weights."""
    save_file(random_weights(), folder / "net.safetensors")
    assert run(*arguments(folder, "out", "--metric", "fid")) == 0
    wanted = METRICS["fid"].open(folder / "net.safetensors")(larger(folder), truths(folder)).item()
    assert score(folder / "out", "fid")["mean"] == pytest.approx(wanted, abs=1e-5) and wanted > 0.01
    assert score(folder / "out", "fid", "theirs")["mean"] == pytest.approx(0, abs=1e-5)


def test_all_four_from_one_pass_over_the_images(folder, cheap, capsys):
    more = ["--reference-set", folder / "ffhq", "--metric", "psnr_y", *SETS]
    assert run(*arguments(folder, "out", *more)) == 0
    assert len(cheap) == 4 + 2 * 3 + 3  # the reference set, the results of two, the truths
    ours, theirs = (torch.cat([pixels(x) for x in of(folder)]) for of in (larger, truths))
    faces = torch.cat([pixels(batch(sets.read(path))) for path in sorted((folder / "ffhq").rglob("*.png"))])
    wanted = {
        "fid": frechet_distance(ours, theirs), "fid_g": frechet_distance(ours, theirs),
        "fid_f": frechet_distance(ours, faces), "kid": kernel_distances(ours, theirs).mean(),
    }  # fmt: skip
    for name, value in wanted.items():
        one = score(folder / "out", name)
        assert one["mean"] == pytest.approx(value.item(), abs=1e-5), name
        assert one["images"] == 3 and one["low"] is one["high"] is None and not one["why"]
    found = read(folder / "out")
    assert {test["metric"] for test in found["tests"]} == {"psnr_y"}
    known = found["metrics"]["fid_f"]["reference_set"]
    assert (known["name"], known["images"], len(known["sha256"])) == ("ffhq", 4, 64)
    text = (folder / "out" / "table.md").read_text()
    for part in (
        f"Reference set of FID-F*: ffhq, 4 images, sha256 {known['sha256'][:12]}.",
        "FID*: 3 images are fewer than 1,000: it compares with FID* of sets of this size alone; no interval:",
        "| **0.0000** |",
    ):
        assert part in text
    assert "FID-F*" in (folder / "out" / "table.tex").read_text()
    lines = [*csv.DictReader((folder / "out" / "images.csv").read_text().splitlines())]
    assert [*lines[0]] == ["set", "image", "judged", "psnr_y"] and len(lines) == 6
    assert "expected sets of at least" not in capsys.readouterr().err  # the caption says it


def test_what_is_kept_is_not_computed_again(folder, cheap):
    more = ["--reference-set", folder / "ffhq", *SETS]
    assert run(*arguments(folder, "out", *more)) == 0
    before = [(folder / "out" / name).read_bytes() for name in FILES]
    cheap.clear()
    assert run(*arguments(folder, "out", *more)) == 0 and not cheap
    assert [(folder / "out" / name).read_bytes() for name in FILES] == before
    (folder / "ffhq" / "0" / "0.png").rename(folder / "ffhq" / "renamed.png")
    assert run(*arguments(folder, "out", *more)) == 0 and not cheap
    assert (folder / "out" / "results.json").read_bytes() == before[0]
    smooth(folder / "ffhq" / "1" / "1.png", 40, 40, 99)
    smooth(folder / "gt" / "0.png", 96, 64, 99)
    assert run(*arguments(folder, "out", *more)) == 0 and len(cheap) == 1 + 2 + 1
    assert (folder / "out" / "results.json").read_bytes() != before[0]


KILLED = """
import os, signal, sys
from unistep.evaluation.features import Features
add, seen = Features.add, []
def killing(self, key, values):
    add(self, key, values)
    seen.append(key)
    if len(seen) == 6:
        self.file.write(b"half of a record")
        self.file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
Features.add = killing
from unistep.command.cli import main
main(sys.argv[1:])
"""


def test_a_killed_run_goes_on_to_the_same_bytes(folder, cheap):
    more = ["--reference-set", folder / "ffhq", "--metric", "psnr_y", *SETS]
    command = [*map(str, arguments(folder, "killed", *more)), "-d", "cpu"]
    killed = subprocess.run(
        [sys.executable, "-c", CHEAP + KILLED, "eval", *command],
        capture_output=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(sets.__file__).parents[2])},
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert (folder / "killed" / "features.bin").stat().st_size == 6 * RECORD + len("half of a record")
    assert run(*arguments(folder, "killed", *more)) == 0 and len(cheap) == 13 - 6
    assert run(*arguments(folder, "whole", *more)) == 0
    for name in FILES:
        assert (folder / "killed" / name).read_bytes() == (folder / "whole" / name).read_bytes(), name


def test_features_are_kept_or_were_never_there(tmp_path):
    keys, values = [c * 64 for c in "abc"], torch.randn(3, 2048, generator=torch.Generator().manual_seed(0))
    kept = Features(tmp_path / "f")
    for key, row in zip(keys, values, strict=True):
        kept.add(key, row)
    kept.close()
    with (tmp_path / "f").open("r+b") as file:
        file.seek(RECORD + 99)
        file.write(b"x")  # damages the second
    again = Features(tmp_path / "f")
    assert [key in again for key in keys] == [True, False, True]
    again.add(keys[1], values[1])
    torch.testing.assert_close(again.stacked(keys[::-1]), values.flip(0), rtol=0, atol=0)
    again.close()


def test_why_there_is_none(folder, cheap):
    smooth(folder / "one" / "0.png", 24, 16, 0)  # of one picture alone there is no distribution
    smooth(folder / "its" / "0.png", 96, 64, 0)
    file = ["--file", f"inception={folder / 'net.safetensors'}"]
    out = folder / "out"
    assert run("--model", "bicubic", "--lq", folder / "lq", "--pairs", folder / "one", folder / "its", *file,
               *SETS, "--out", out) == 0  # fmt: skip
    why = {(s["set"], s["metric"]): s["why"] for s in read(out)["scores"]}
    assert why["lq", "fid"] == why["lq", "fid_g"] == why["lq", "kid"] == "needs a truth, this set has none"
    assert why["lq", "fid_f"] == "needs a reference set: give --reference-set FOLDER"
    assert why["one", "fid"].startswith("expected sets of at least 2 images, found 1 and 1")
    assert (
        "| — [1] |" in (out / "table.md").read_text()
        and "of sets of this size" not in (out / "table.md").read_text()
    )
    assert run("--model", "bicubic", "--lq", folder / "lq", *SETS, "--out", out) == 0
    assert all("give inception=FILE" in s["why"] for s in read(out)["scores"])


def test_a_reference_set_is_whole_or_said_not_to_be(folder, cheap, capsys):
    (folder / "ffhq" / "bad.png").write_bytes(b"nothing")
    command = arguments(folder, "out", "--reference-set", folder / "ffhq", "--metric", "fid_f")
    assert run(*command) == 1
    err = capsys.readouterr().err
    assert (
        "reference set ffhq" in err
        and "ffhq/bad.png" in err
        and not (folder / "out" / "results.json").exists()
    )
    assert run(*command, "--unmatched", "skip") == 0
    assert read(folder / "out")["metrics"]["fid_f"]["reference_set"]["images"] == 4
    assert "4 images, sha256" in (text := (folder / "out" / "table.md").read_text())
    assert "left out: ffhq/bad.png" in text
    assert run(*arguments(folder, "out", "--reference-set", folder / "none", "--metric", "fid_f")) == 1
    assert run(*arguments(folder, "out", "--reference-set", folder / "ffhq", "--metric", "fid")) == 2
    assert "expected --metric fid_f for --reference-set" in capsys.readouterr().err


def test_what_is_measured_without_being_named(folder, cheap):
    assert run(*arguments(folder, "out")) == 0
    assert {"fid", "kid"} <= (named := {*read(folder / "out")["metrics"]}) and not {"fid_g", "fid_f"} & named
    assert run(*arguments(folder, "out", "--reference-set", folder / "ffhq")) == 0
    assert "fid_f" in read(folder / "out")["metrics"]
    assert read(folder / "out")["metrics"]["fid"]["files"]["inception"] == sha256(folder / "net.safetensors")
