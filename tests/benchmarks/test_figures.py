"""Figures for a GPU: the plan next to what a step makes, and scripts of which one may fail."""

import os
import subprocess
import sys
from pathlib import Path

import plan as script
import pytest

from unistep.bases.sd3 import sizes as sd3
from unistep.training.plan import GB

FIGURES = Path(script.__file__).with_name("figures.sh")


def call(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["plan.py", *options])
    return script.main()


def test_the_plan_next_to_what_a_step_makes(monkeypatch, capsys):
    assert call(monkeypatch, "--device", "cpu", "--only", "compact-teacher", "--steps", "1")
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| compact-teacher"))
    name, samples, held, moves, found, share = (cell.strip() for cell in row.strip("|").split("|"))
    assert (name, samples) == ("compact-teacher", "2 x 64") and float(moves) > 0
    assert float(found) == pytest.approx(float(share) * (float(held) + float(moves)), abs=1e-4)


def test_a_training_that_takes_more_is_a_failure(monkeypatch, capsys):
    monkeypatch.setattr(script, "measured", lambda run, pictures, planned, steps: GB)
    assert not call(monkeypatch, "--device", "cpu", "--only", "compact-teacher")
    assert "FAIL: compact-teacher: from 0.8 to 1.1 of the plan" in capsys.readouterr().out


def test_large_sizes_go_as_they_came():
    before = dict(sd3.TINY)
    with script.sized(True):
        assert sd3.TINY["num_layers"] == 24
    assert before == sd3.TINY


def test_one_that_fails_does_not_stop_the_others(tmp_path):
    """The script itself, its benchmarks replaced by short ones in a tree of their own."""
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    for name in ("figures.sh", "bare.sh"):
        (folder / name).write_bytes(FIGURES.with_name(name).read_bytes())
    bodies = {
        "plan": "print('planned')",
        "smallmemory": "raise SystemExit('no extra')",
        "roles": "import sys; print(sys.argv[1:])",
        "pipelines": "import os; os.kill(os.getpid(), 9)",
    }
    for name, body in bodies.items():
        (folder / f"{name}.py").write_text(body)
    done = subprocess.run(
        ["bash", folder / "figures.sh", tmp_path / "out", "--cpu", "--quick"], capture_output=True, text=True,
        env={**os.environ, "PYTHON": sys.executable},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    lines = (tmp_path / "out" / "summary.txt").read_text().splitlines()
    assert lines[0].startswith("plan: ok") and lines[2].startswith("roles: ok")
    assert lines[1].startswith("smallmemory: failed (1): no extra") and lines[3].startswith("pipelines: ")
    assert "ok" not in lines[3] and len(lines) == 4
    assert (tmp_path / "out" / "roles.txt").read_text().startswith("['--device', 'cpu'")
