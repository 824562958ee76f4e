"""The comparison: its rows, and the arithmetic and layout of its report; nothing is trained."""

import math
import sys
from dataclasses import fields
from itertools import pairwise

import comparison
import equaltime
import pytest
import tables
from photos import bicubic
from rows import ABLATIONS, ROWS

from unistep.methods import TSDSRConfig
from unistep.models.checkpoint import resolve
from unistep.recipes.config import override
from unistep.recipes.recipes import recipe
from unistep.tensors import read_header

TABLE = {**ROWS, **{f"ablation {name}": row for name, row in ABLATIONS.items()}}


@pytest.mark.parametrize("name", TABLE)
def test_rows_are_accepted_by_their_recipes(name):
    recipe_name, settings = TABLE[name]
    run = override(recipe(recipe_name), [*equaltime.COMMON, *settings])
    assert run.name == recipe_name


def test_the_released_row_is_the_released_trainer():
    own, released = TSDSRConfig(), TSDSRConfig.released()
    run = override(recipe("compact-tsdsr"), list(ABLATIONS["tsdsr-released"][1]))
    changed = {f.name for f in fields(own) if getattr(own, f.name) != getattr(released, f.name)}
    changed -= {"t_max"}  # the range of t belongs to the base
    assert {name: getattr(run.method, name) for name in changed} == {
        name: getattr(released, name) for name in changed
    }


def test_a_run_starts_from_its_teacher_and_has_its_shape(tmp_path):
    teacher = resolve(None)
    (job,) = equaltime.plan(ROWS, False, [3], teacher, tmp_path, tmp_path, 60.0, ["train.batch=2"],
                       ["compact-tadsr"])  # fmt: skip
    command = job.command(job.folder, 7)
    assert job.folder == tmp_path / "compact-tadsr-seed3"
    run = override(recipe(command[4]), [b for a, b in pairwise(command) if a == "--set"])
    assert (run.train.steps, run.train.seed, run.train.batch) == (7, 3, 2)
    assert run.train.init == str(teacher)
    assert run.base.widths == tuple(read_header(teacher)["run"]["base"]["widths"])


def test_a_budget_pays_for_the_steps():
    """For them alone: the start and the validation at the end come on top."""
    assert equaltime.affordable({"cpu_seconds_per_step": 2.0}, 21.0) == 10
    assert equaltime.affordable({"cpu_seconds_per_step": 2.0}, 1.0) == 1


def test_a_process_is_charged_with_its_children(tmp_path):
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    start = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    code = f"{start}; print('last'); sys.exit(3)"
    spent = equaltime.spend([sys.executable, "-c", code], tmp_path / "log")
    assert spent.code == 3 and spent.cpu_seconds >= 0.3 and 1 < spent.peak_mib < 2000
    assert equaltime.last_line(tmp_path / "log") == "last"


def test_costs_of_interrupted_runs_add_up(tmp_path, monkeypatch):
    job = equaltime.Job("row", False, 0, "recipe", (), tmp_path, tmp_path / "row-seed0", 100.0)
    job.folder.mkdir()
    equaltime.write_json(job.calibration, {"cpu_seconds_per_step": 1.0})
    spent = iter([equaltime.Spent(1, 30.0, 500.0), equaltime.Spent(0, 70.0, 400.0)])
    monkeypatch.setattr(equaltime, "spend", lambda command, log: (log.write_text("why"), next(spent))[1])
    assert equaltime.train(job) == "row-seed0: failed (1): why"
    assert equaltime.train(job) is None
    assert equaltime.train(job) is None  # finished: not run again
    cost = equaltime.read_json(job.folder / "cost.json")
    assert cost == {"steps": 100, "cpu_seconds": 100.0, "peak_mib": 500.0, "processes": 2, "finished": True}


def test_one_failing_row_does_not_stop_the_others(tmp_path, monkeypatch):
    jobs = [
        equaltime.Job(name, False, 0, "r", (), tmp_path, tmp_path / name, 10.0) for name in ("a", "b", "c")
    ]
    monkeypatch.setattr(equaltime, "calibrate", lambda job: equaltime.write_json(job.calibration, {}))
    monkeypatch.setattr(equaltime, "train", lambda job: "b: failed" if job.row == "b" else None)
    said: list[str] = []
    assert equaltime.train_all(jobs, 2, said.append) == ["b: failed"]
    assert [line for line in said if "trained" in line] == ["a: trained", "c: trained"]


def test_spread_is_the_standard_deviation_over_runs():
    assert tables.spread([1.0, 2.0, 3.0]) == pytest.approx(1.0)
    assert math.isnan(tables.spread([1.0]))


def line(row, psnr, lpips, **more):
    return comparison.Line(row, 1, {"psnr_y": psnr, "lpips_squeeze": lpips, "swd": [math.nan]}, **more)


def test_the_table_marks_the_best_and_leaves_out_what_is_not_ranked():
    table = [
        line("one", [20.0, 22.0], [0.3, 0.3]),
        line("two", [20.5], [0.1], marks="†", unranked=frozenset({"lpips_squeeze"})),
        line("three", [19.0], [0.4]),
    ]
    head, _, *body = comparison.markdown(
        table, dict.fromkeys(("psnr_y", "lpips_squeeze", "swd"))
    ).splitlines()
    assert head == "| row | PSNR-Y ↑ | LPIPS-squeeze* ↓ |"  # no column without a value
    assert body == [
        "| one | **21.000 ± 1.414** | **0.3000 ± 0.0000** |",
        "| two† | 20.500 | (0.1000) |",
        "| three | 19.000 | 0.4000 |",
    ]


def test_a_loss_on_squeezenet_is_seen_in_the_history():
    def header(features, **method):
        return {"history": [{"run": {"train": {"features": features}, "method": method}}]}

    assert comparison.on_squeezenet(header("squeezenet", weight_lpips=1.0))
    assert comparison.on_squeezenet(header("squeezenet", spatial="ea-dists"))
    assert not comparison.on_squeezenet(header("squeezenet", spatial="mse"))
    assert not comparison.on_squeezenet(header("squeezenet", score="hsd"))
    assert not comparison.on_squeezenet(header("teacher", weight_lpips=1.0))


def test_a_weak_teacher_has_a_footnote():
    gate = {"passes": False, "steps": 8, "gradient_energy": 0.5, "swd": 0.9, "swd_slot": 0.8}
    found = [comparison.Entry("methods", "row", "row-seed0", None, lambda: bicubic, {"teacher": gate})]
    assert "below its gate" in comparison.footnotes(found)
    assert (
        comparison.lines(found, {"row-seed0": {"set": [{"grid": 1.0}]}}, "set", {"grid": None})[0].marks
        == "†"
    )
    assert "gate" not in comparison.footnotes([])
