"""`unistep bench`: what it measures of a small network, and how it says so."""

import json
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from unistep.command.cli import main
from unistep.counting.operators import Peaks
from unistep.errors import ConfigError
from unistep.evaluation import bench as module
from unistep.evaluation.bench import bench, measured_peaks, timed
from unistep.upscaling.upscaler import Upscaler

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")
CPU = torch.device("cpu")


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Sequential(nn.Conv2d(3, 48, 3, padding=1), nn.PixelShuffle(4))

    def forward(self, x):
        return self.up(x)


def test_what_is_counted():
    result = bench(Upscaler(Small(), "cpu"), size=16, repeat=3, peaks=Peaks(1e9, 1e9))
    assert (result.device, result.dtype, result.size, result.runs) == ("cpu", "float32", 16, 3)
    assert result.parameters == 48 * 27 + 48 and result.weight_bytes == 4 * result.parameters
    assert result.gmacs == pytest.approx(16 * 16 * 48 * 27 / 1e9)
    assert result.operators == 2  # the convolution and the copy of the shuffle
    values = 16 * 16 * 48
    assert result.peak_bytes >= result.weight_bytes + 4 * 2 * values
    assert result.bound_fused == pytest.approx(2e9 * result.gmacs / 1e9)
    assert result.bound_eager > result.bound_fused
    assert result.efficiency == pytest.approx(result.bound_fused / result.seconds)


def test_time_is_the_median_and_waiting_costs_no_cpu():
    naps = iter([0.0, 0.5, 0.02])
    wall, cpu = timed(lambda: time.sleep(next(naps)), 3, CPU)
    assert 0.02 <= wall < 0.4 and cpu < wall


def test_the_peaks_of_this_machine():
    peaks = measured_peaks(CPU)
    assert 1e8 < peaks.flops < 1e15 and 1e8 < peaks.bandwidth < 1e14


@pytest.mark.parametrize("wrong", [{"size": 0}, {"repeat": 0}])
def test_nothing_to_measure(wrong):
    with pytest.raises(ConfigError, match="1 upward"):
        bench(Upscaler(Small(), "cpu"), **wrong)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(Upscaler, "from_pretrained", lambda name, device, dtype: Upscaler(Small(), device))
    monkeypatch.setattr(module, "WARM_UP", 1)


def test_the_table(small, capsys):
    assert main(["bench", "--size", "16", "--repeat", "2", "--device", "cpu", "--peaks", "0.5", "20"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line[2:22].strip(): line[22:].split(maxsplit=1) for line in lines[1:]}
    assert rows["seconds"][1] == "measured, median of 2"
    assert rows["GMAC"][1].startswith("counted")
    assert rows["peak arithmetic"] == ["0.500", "TFLOP/s  given: product of matrices"]
    assert rows["efficiency"][0].endswith("%")


def test_json(small, capsys):
    assert main(["bench", "--size", "16", "--repeat", "2", "--device", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["peaks_given"] is False and found["runs"] == 2
    assert found["efficiency"] == pytest.approx(found["bound_fused"] / found["seconds"])


def test_wrong_peaks(small, capsys):
    assert main(["bench", "--peaks", "0", "20", "--device", "cpu"]) == 2
    assert "--peaks to be two numbers above 0" in capsys.readouterr().err


def test_the_packaged_model_without_a_compiler(capsys):
    assert main(["bench", "--size", "16", "--repeat", "1", "--device", "cpu", "--peaks", "1", "20"]) == 0
    assert "the packaged model, cpu, float32" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["tsdsr", "sd21", "tadsr"])
def test_both_orders_of_operations_agree(name, monkeypatch):
    """Tiny networks; the smallest with a compiler that only traces too: what a GPU runs, but for its
    kernels and graphs."""
    pytest.importorskip("diffusers")
    pytest.importorskip("peft")
    monkeypatch.syspath_prepend(BENCHMARKS)
    import pipelines

    traced = []

    def compile(model, mode):
        traced.append(mode)
        return torch._dynamo.optimize("eager")(model)

    monkeypatch.setattr(torch, "compile", compile)
    torch.manual_seed(0)
    place = pipelines.Place(CPU, torch.float32, pipelines.SIZES["tiny"])
    rows = pipelines.compare(name, place, 1, Peaks(1e12, 1e11), compiled=name == "tadsr")
    assert [row.way for row in rows] == ["theirs", "ours", "ours, compiled"][: 2 + len(traced)]
    assert traced == ["default"] * (name == "tadsr")
    assert all(row.apart < pipelines.AGREE for row in rows) and rows[1].apart > 0
    assert all(0 < row.efficiency < 1 and row.seconds > 0 for row in rows)
    assert rows[1].line(name, rows[0]).count("|") == 9
