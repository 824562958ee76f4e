"""`unistep eval`: equal bytes, also after a kill; means over whole sets; tables; results compared."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_judged import tiny_resshift, tiny_sd3, tiny_sd21
from test_sets import picture

from unistep.atomic import held
from unistep.command.cli import main
from unistep.errors import MemoryLimit
from unistep.evaluation import sets, tables
from unistep.evaluation.journal import Journal, key_of
from unistep.evaluation.judged import Bicubic
from unistep.evaluation.measuring import measures
from unistep.evaluation.run import Evaluation, measure, results
from unistep.upscaling.upscaler import Upscaler

METRICS = ["--metric", "psnr_y", "--metric", "ssim_y", "--metric", "grid"]
FILES = ("results.json", "images.csv", "table.md", "table.tex")


def smooth(path, width, height, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def photos(tmp_path):
    for i in range(6):
        smooth(tmp_path / "photos" / f"p{i}.png", 80, 72, i)
    return tmp_path / "photos"


@pytest.fixture
def pairs(tmp_path):
    for i in range(3):
        smooth(tmp_path / "lq" / f"{i}.png", 24, 16, i)
        smooth(tmp_path / "gt" / f"{i}.png", 96, 64, i)
    return tmp_path


def run(*arguments):
    return main(["eval", *map(str, arguments), "-d", "cpu"])


def read(out):
    return json.loads((out / "results.json").read_text())


def test_the_same_command_twice_gives_the_same_bytes(photos, tmp_path, capsys):
    for out in ("one", "two"):
        code = run("--model", "bicubic", "--model", "ours=compact-plain", "--hr", photos, "--degradation",
                   "light", "--degradation", "bicubic", "--out", tmp_path / out, *METRICS)  # fmt: skip
        assert code == 0
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    found = read(tmp_path / "one")
    assert found["order"]["sets"] == ["photos-light", "photos-bicubic"]
    assert found["sets"]["photos-light"]["degradation"] == {"preset": "light", "seed": 0}
    assert [*found["judged"]] == ["bicubic", "ours"] and str(tmp_path) not in json.dumps(found)
    lines = [*csv.DictReader((tmp_path / "one" / "images.csv").read_text().splitlines())]
    assert len(lines) == 2 * 2 * 6
    for score in found["scores"]:
        own = [float(line[score["metric"]]) for line in lines
               if (line["set"], line["judged"]) == (score["set"], score["judged"])]  # fmt: skip
        assert score["mean"] == pytest.approx(np.mean(own), abs=2e-6) and score["images"] == 6
        assert score["low"] <= score["mean"] <= score["high"] and not score["why"]
    assert {test["metric"] for test in found["tests"]} == {"psnr_y", "ssim_y"}  # grid has no direction
    assert (tmp_path / "one" / "table.md").read_text() in capsys.readouterr().out


KILLED = """
import os, signal, sys
from unistep.evaluation.journal import Journal
add, seen = Journal.add, []
def killing(self, key, values):
    add(self, key, values)
    seen.append(key)
    if len(seen) == 4:
        self.file.write(b'{"key": "half of a li')
        self.file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
Journal.add = killing
from unistep.command.cli import main
main(sys.argv[1:])
"""


def kill_after_four(*command):
    """The command in a process of its own, which is killed in the middle of its fifth line."""
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *map(str, command)], capture_output=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(sets.__file__).parents[2])},
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()


def test_a_killed_run_goes_on_to_the_same_bytes(photos, tmp_path, monkeypatch):
    command = ["eval", "--model", "bicubic", "--model", "compact-plain", "--hr", str(photos), "--degradation",
               "light", *METRICS, "-d", "cpu", "--out"]  # fmt: skip
    kill_after_four(*command, tmp_path / "killed")
    assert not (tmp_path / "killed" / "results.json").exists()
    assert main([*command, str(tmp_path / "whole")]) == 0
    before = (tmp_path / "killed" / "journal.jsonl").read_bytes()
    measured = []
    add = Journal.add

    def counted(self, key, values):
        measured.append(key)
        add(self, key, values)

    monkeypatch.setattr(Journal, "add", counted)
    assert main([*command, str(tmp_path / "killed")]) == 0
    assert len(measured) == 2 * 6 - 4 and before.count(b"\n") == 4
    for name in FILES:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_journal_is_never_taken_for_another_run(tmp_path, photos):
    out = tmp_path / "out"
    command = ["--model", "bicubic", "--hr", photos, "--degradation", "light", "--metric", "psnr_y"]
    command += ["--out", out]
    assert run(*command) == 0
    first = read(out)
    for more in (["--degrade-seed", 1], ["--border", 4]):
        assert run(*command, *more) == 0
        assert read(out)["scores"][0]["mean"] != first["scores"][0]["mean"], more
    assert run(*command) == 0 and read(out) == first
    smooth(photos / "p0.png", 80, 72, 99)
    assert run(*command) == 0
    assert read(out)["scores"][0]["mean"] != first["scores"][0]["mean"]


def test_two_runs_never_write_to_one_folder(pairs, capsys):
    command = ["--model", "bicubic", "--lq", f"mine={pairs / 'lq'}", "--out", pairs / "out", *METRICS]
    with held(pairs / "out"):
        assert run(*command) == 1
    err = capsys.readouterr().err
    assert "out to be free, found another evaluation writing to it: wait" in err and err.count("\n") == 1
    assert [path.name for path in (pairs / "out").iterdir()] == ["run.lock"]
    assert run(*command) == 0


def test_damaged_lines_are_measured_again(tmp_path):
    key = key_of("a")
    with Journal(tmp_path / "j" / "journal.jsonl") as journal:
        journal.add(key, {"x": 1.5})
    with (tmp_path / "j" / "journal.jsonl").open("ab") as file:
        file.write(b'nonsense\n[1]\n{"key": "' + key.encode() + b'", "values": {"x": 2')
    with Journal(tmp_path / "j" / "journal.jsonl") as journal:
        assert journal.get(key) == {"x": 1.5}
        journal.add(key, {"y": "why"})
    with Journal(tmp_path / "j" / "journal.jsonl") as journal:
        assert journal.get(key) == {"x": 1.5, "y": "why"}


def test_no_mean_over_a_smaller_set(pairs):
    smooth(pairs / "lq" / "0.png", 24, 8, 0)
    smooth(pairs / "gt" / "0.png", 96, 32, 0)
    out = pairs / "out"
    assert run("--model", "bicubic", "--pairs", f"mine={pairs / 'lq'}", pairs / "gt", "--out", out,
               "--metric", "niqe", *METRICS) == 0  # fmt: skip
    scores = {score["metric"]: score for score in read(out)["scores"]}
    assert scores["psnr_y"]["mean"] is not None
    assert scores["grid"]["mean"] is None and scores["grid"]["why"].startswith(
        "1 of 3 images have no value: This"
    )
    assert "give niqe=FILE" in scores["niqe"]["why"]
    text = (out / "table.md").read_text()
    assert (
        "| — [1] |" in text
        and "grid: 1 of 3 images have no value" in text
        and "NIQE: expected the pristine model" in text
    )
    lines = [*csv.DictReader((out / "images.csv").read_text().splitlines())]
    assert [line["grid"] == "" for line in lines] == [True, False, False]


def test_a_metric_with_a_truth_says_why_it_is_not_there(pairs):
    out = pairs / "out"
    assert run("--model", "bicubic", "--lq", f"alone={pairs / 'lq'}", "--out", out, *METRICS) == 0
    scores = {score["metric"]: score for score in read(out)["scores"]}
    assert scores["psnr_y"]["why"] == "needs a truth, this set has none" and scores["grid"]["mean"] > 0
    assert not read(out)["tests"]


def test_a_model_that_fails_is_named_with_its_image(pairs, capsys, monkeypatch):
    def failing(self, image, *_, **__):
        if image.rgb.mean() == failing.last:
            raise MemoryLimit("not enough memory even for the smallest tile")
        return before(self, image, *_, **__)

    before, failing.last = Upscaler.__call__, (sets.read(pairs / "lq" / "1.png") / np.float32(255)).mean()
    monkeypatch.setattr(Upscaler, "__call__", failing)
    command = ["--model", "compact-plain", "--lq", f"mine={pairs / 'lq'}", "--out", pairs / "out", *METRICS]
    assert run(*command) == 1
    assert "compact-plain on mine/1: not enough memory" in capsys.readouterr().err
    assert (pairs / "out" / "journal.jsonl").read_bytes().count(b"\n") == 1  # what was measured is kept
    monkeypatch.setattr(Upscaler, "__call__", before)
    assert run(*command) == 0


@pytest.mark.parametrize("make", [tiny_sd3, tiny_sd21, tiny_resshift])
def test_students_of_large_models(make, pairs):
    out, model = pairs / "out", make(pairs)
    command = ["--model", "bicubic", "--model", f"tiny={model}", "--pairs", f"mine={pairs / 'lq'}",
               pairs / "gt", *METRICS, "--limit", 3 if make is tiny_resshift else 1, "--out"]  # fmt: skip
    assert run(*command, out) == 0
    if make is tiny_resshift:  # the quickest
        kill_after_four("eval", *command, pairs / "again", "-d", "cpu")
        assert (pairs / "again" / "journal.jsonl").read_bytes().count(b"\n") == 4
    assert run(*command, pairs / "again") == 0
    assert (out / "results.json").read_bytes() == (pairs / "again" / "results.json").read_bytes()
    found = read(out)
    assert found["judged"]["tiny"]["file"] == model.name
    means = {score["judged"]: score["mean"] for score in found["scores"] if score["metric"] == "psnr_y"}
    assert 0 < means["tiny"] != means["bicubic"]


def test_results_of_others_and_what_is_left_out(pairs, capsys):
    for i in range(3):
        smooth(pairs / "theirs" / f"{i}_out.png", 96, 64, i)
    command = ["--results", f"theirs={pairs / 'theirs'}", "--model", "bicubic", "--pairs",
               f"mine={pairs / 'lq'}", pairs / "gt", "--out", pairs / "out", *METRICS]  # fmt: skip
    assert run(*command) == 0
    scores = {(score["judged"], score["metric"]): score["mean"] for score in read(pairs / "out")["scores"]}
    assert scores["theirs", "psnr_y"] == pytest.approx(80) and scores["theirs", "ssim_y"] == 1  # the truth
    text = (pairs / "out" / "table.md").read_text()
    assert (
        "| **80.000** [80.000, 80.000] |" in text
        and "<u>" in text
        and "pictures of the folder theirs" in text
    )
    smooth(pairs / "theirs" / "0_out.png", 96, 64, 5)  # another picture under the same name
    assert run(*command) == 0 and read(pairs / "out")["scores"][0]["judged"] == "bicubic"
    assert 20 < read(pairs / "out")["scores"][1]["mean"] < 79
    (pairs / "theirs" / "1_out.png").unlink()
    picture(pairs / "lq" / "more.png", 24, 16)
    capsys.readouterr()
    assert run(*command) == 1
    assert "lq/more.png (no file with this name on the other side)" in capsys.readouterr().err
    assert run(*command, "--unmatched", "skip") == 0
    found = read(pairs / "out")
    assert found["sets"]["mine"]["images"] == 2 and {score["images"] for score in found["scores"]} == {2}
    text = (pairs / "out" / "table.md").read_text()
    assert "lq/more.png" in text and "no usable result of theirs: 1" in text and "mine: 2 images, x4" in text


def test_a_set_that_is_not_its_name_is_said(pairs):
    assert (
        run("--model", "bicubic", "--set", f"RealSR={pairs}", "--limit", 2, "--out", pairs / "out", *METRICS)
        == 0
    )
    text = (pairs / "out" / "table.md").read_text()
    assert "RealSR has 100 images, this folder 3" in text and "only the first 2 of 3" in text
    assert (
        "3 of 3 here are not" in text
        and "S-Lab" in text
        and "3 of 3" in (pairs / "out" / "table.tex").read_text()
    )


def test_the_caption_has_the_protocol(pairs):
    who, on = [Bicubic("a_b")], [sets.of_pairs("s", pairs / "lq", pairs / "gt")]
    evaluation = Evaluation(who, on, measures(["psnr_y"], {}, 2), "cpu")
    with Journal(pairs / "out" / "j") as journal:
        measure(evaluation, journal)
        found = results(evaluation, journal)
    text = " ".join(tables.caption(found, "s"))
    for part in (
        "3 images, x4",
        "BT.601 luma",
        "Border of 2 pixels",
        "percentile bootstrap",
        "torch",
        "a_b: Pillow",
    ):
        assert part in text
    assert r"a\_b" in tables.latex(found) and r"\uparrow" in tables.latex(found)
    assert tables.escaped("50% of a_b & {x}\\") == r"50\% of a\_b \& \{x\}\textbackslash{}"


@pytest.mark.parametrize(
    "wrong,code,said",
    [
        (["--out", "o"], 2, "--model or --results"),
        (["--model", "bicubic"], 2, "--out FOLDER"),
        (["--model", "bicubic", "--out", "o"], 2, "give --set, --pairs, --lq or --hr"),
        (["--model", "bicubic", "--out", "o", "--lq", "lq", "--metric", "psmr_y"], 2, "did you mean psnr_y?"),
        (["--model", "bicubic", "--out", "o", "--lq", "lq", "--border", "-1"], 2, "--border"),
        (["--model", "bicubic", "--out", "o", "--lq", "lq", "--file", "niqe=gone.npz"], 1, "gone.npz"),
        (["--model", "bicubic", "--out", "o", "--lq", "lq", "--file", "niqe"], 2, "KEY=PATH"),
        (
            ["--model", "bicubic", "--out", "o", "--lq", "lq", "--file", "nique=x"],
            2,
            "a key out of squeezenet",
        ),
        (["--model", "bicubic", "--out", "o", "--lq", "lq", "--lq", "lq"], 2, "found lq twice"),
        (["--model", "bicubic", "--out", "o", "--lq", "gone"], 1, "found none at gone"),
        (["--model", "bicubic", "--out", "o", "--set", "RealSR"], 2, "--set NAME=FOLDER"),
        (["--model", "bicubic", "--out", "o", "--set", "Set5=lq"], 2, "“Set5”"),
        (["--model", "bicubic", "--out", "o", "--set", "realset8=lq"], 2, "did you mean RealSet80?"),
        (["--model", "gone", "--out", "o", "--lq", "lq"], 1, "“gone”"),
        (["--model", "bicubic", "--out", "o", "--hr", "lq", "--degradation", "x"], 2, "x"),
        (["--fail-if", "psnr_y<0"], 2, "--compare"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(pairs, monkeypatch, capsys, wrong, code, said):
    monkeypatch.chdir(pairs)
    assert main(["eval", *wrong]) == code
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1 and not (pairs / "o" / "results.json").exists()


@pytest.fixture
def two(pairs):
    """Results of bicubic, and of pictures that are black, under one name."""
    command = ["--pairs", f"mine={pairs / 'lq'}", pairs / "gt", *METRICS]
    assert run("--model", "m=bicubic", *command, "--out", pairs / "a") == 0
    for i in range(3):
        (pairs / "black").mkdir(exist_ok=True)
        Image.new("RGB", (96, 64)).save(pairs / "black" / f"{i}.png")
    assert run("--results", f"m={pairs / 'black'}", *command, "--out", pairs / "b") == 0
    return pairs / "a" / "results.json", pairs / "b" / "results.json"


def test_two_results_are_compared(two, capsys):
    means = [json.loads(file.read_text())["scores"][0]["mean"] for file in two]
    change = means[1] - means[0]
    assert change < -0.5

    def compare(*conditions, files=two):
        capsys.readouterr()
        code = main(
            ["eval", "--compare", *map(str, files), *(x for c in conditions for x in ("--fail-if", c))]
        )
        return code, *capsys.readouterr()

    code, out, err = compare()
    assert code == 0 and f"{change:+.6f}" in out and not err
    assert compare(f"psnr_y<{change - 0.01}")[0] == 0
    code, _, err = compare("psnr_y<-0.1", "ssim_y>+2")
    assert code == 1 and err.startswith("unistep: fails: mine, m: psnr_y ") and err.count("\n") == 1
    assert compare("psnr_y>+0.1", files=two[::-1])[0] == 1
    assert compare("psnr_y>0", files=(two[0], two[0]))[0] == 0
    assert compare("psnr_y!0")[0] == 2 and compare("lpips_squeeze>0")[0] == 2
    assert "psnr_y" in compare("swd>0")[2]


def test_results_of_other_images_are_not_compared(two, pairs, capsys):
    smooth(pairs / "gt" / "0.png", 96, 64, 7)
    command = ["--pairs", f"mine={pairs / 'lq'}", pairs / "gt", "--out", pairs / "c"]
    assert run("--model", "m=bicubic", *command, *METRICS) == 0
    assert main(["eval", "--compare", str(two[0]), str(pairs / "c" / "results.json")]) == 2
    assert "the same 3 images of mine" in capsys.readouterr().err
    (pairs / "no.json").write_text("{}")
    assert main(["eval", "--compare", str(two[0]), str(pairs / "no.json")]) == 2


def test_a_value_that_is_gone_fails(two, capsys):
    found = json.loads(two[1].read_text())
    for score in found["scores"]:
        score |= {"mean": None, "why": "its files are not here"} if score["metric"] == "psnr_y" else {}
    two[1].write_text(json.dumps(found))
    assert main(["eval", "--compare", *map(str, two), "--fail-if", "psnr_y<-100"]) == 1
    assert "has no value any more (its files are not here)" in capsys.readouterr().err


def test_the_help_names_what_there_is(capsys):
    assert main(["eval", "--help"]) == 0
    text = capsys.readouterr().out
    for word in ("--model", "--results", "--set", "--pairs", "--lq", "--hr", "--metric", "--file", "--out",
                 "--compare", "--fail-if", "--unmatched"):  # fmt: skip
        assert word in text
    assert max(map(len, text.splitlines())) <= 120
