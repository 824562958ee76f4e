"""`unistep bench`: what is counted, what is measured in which order, and how it is said."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_judged import tiny_resshift, tiny_sd3, tiny_sd21
from tinies import write
from torch import nn

from unistep.command.cli import main
from unistep.counting.operators import Peaks
from unistep.errors import ConfigError, MemoryLimit
from unistep.evaluation.cost import growth, participants, run, tables, timing
from unistep.evaluation.cost.participants import Ways
from unistep.evaluation.cost.run import Settings, bench
from unistep.evaluation.cost.timing import Times, grown, in_turns, measured_peaks, ratio, timed
from unistep.evaluation.cost.wanted import Wanted, wanted
from unistep.models.checkpoint import load_student
from unistep.students.onestep import Options

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")
CPU = torch.device("cpu")
PEAKS = Peaks(1e9, 1e9)


class Small(nn.Module):
    def __init__(self, kernel=3):
        super().__init__()
        self.up = nn.Sequential(nn.Conv2d(3, 48, kernel, padding=kernel // 2), nn.PixelShuffle(4))
        self.info = {}

    def forward(self, x):
        return self.up(x)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Models by name: wide sees 5 x 5 pixels, others 3 x 3."""

    def resolve(name):
        (tmp_path / name).write_bytes(b"")
        return tmp_path / name

    monkeypatch.setattr(participants, "resolve", resolve)
    monkeypatch.setattr(
        participants, "load_student", lambda path, *more: Small(5 if path.name == "wide" else 3)
    )
    monkeypatch.setattr(run, "WARM_UP", 1)


def settings(**more):
    more = {"size": 16, "repeat": 2, "peaks": PEAKS, "files": False, "ways": Ways(device="cpu")} | more
    return Settings(**more)


def of(found, name):
    return next(model for model in found["models"] if model["name"] == name)


def test_what_is_counted(small):
    model = of(bench(wanted(["small"]), settings(repeat=3)), "small")
    assert (model["device"], model["dtype"], model["size"], model["runs"]) == ("cpu", "float32", 16, 3)
    assert model["parameters"] == 48 * 27 + 48 and model["weight_bytes"] == 4 * model["parameters"]
    assert model["gmacs"] == pytest.approx(16 * 16 * 48 * 27 / 1e9)
    assert model["operators"] == 2  # the convolution and the copy of the shuffle
    values = 16 * 16 * 48
    assert model["peak_bytes"] == model["weight_bytes"] + 4 * 2 * values
    assert model["bound_fused"] == pytest.approx(2 * model["gmacs"])
    assert model["bound_eager"] > model["bound_fused"]
    assert model["efficiency"] == pytest.approx(model["bound_fused"] / model["seconds"])


def test_ratios_are_to_the_baseline(small, monkeypatch):
    monkeypatch.setattr(run, "in_turns", lambda ways, *more: {
        key: Times(*[[2.0, 6.0, 3.0] if key.startswith("wide") else [1.0, 2.0, 1.0]] * 2) for key in ways
    })  # fmt: skip
    found = bench(wanted(["small", "wide"]), settings())
    ratios = of(found, "wide")["ratios"]
    assert found["baseline"] == "small" and ratios["gmacs"] == pytest.approx(25 / 9)
    # within rounds: 2, 3 and 3 times, while the medians are 3 and 1
    assert ratios["seconds"] == {"median": 3.0, "low": 2.5, "high": 3.0}
    assert of(found, "wide")["seconds"] == 3.0
    assert of(found, "small")["ratios"]["seconds"]["median"] == 1.0
    other = of(bench(wanted(["small", "wide"]), settings(baseline="wide")), "small")
    assert other["ratios"]["parameters"] == pytest.approx((48 * 27 + 48) / (48 * 75 + 48))


def test_everyone_takes_turns(small, monkeypatch):
    order = []

    def forward(self, x):
        order.append(self.up[0].kernel_size[0])
        return self.up(x)

    monkeypatch.setattr(Small, "forward", forward)
    bench(wanted(["small", "wide", "more=small"]), settings(repeat=3))
    assert order[-9:] == [3, 5, 3] * 3
    called = []
    in_turns({name: lambda name=name: called.append(name) for name in "ABC"}, 2, CPU)
    assert called == list("ABCABC")


def test_time_is_the_median_and_waiting_costs_no_cpu():
    naps = iter([0.0, 0.5, 0.02])
    wall, cpu = timed(lambda: time.sleep(next(naps)), 3, CPU)
    assert 0.02 <= wall < 0.4 and cpu < wall
    assert ratio([2.0, 8.0], [1.0, 2.0]).median == 3.0


def test_memory_that_a_call_takes():
    if timing._resident("VmHWM") is None:
        pytest.skip("resident memory is known on Linux alone")
    assert 45e6 < grown(lambda: torch.ones(12_500_000), CPU) < 80e6


def test_the_peaks_of_this_machine():
    peaks = measured_peaks(CPU)
    assert 1e8 < peaks.flops < 1e15 and 1e8 < peaks.bandwidth < 1e14


def test_growth_is_counted_at_all_sizes_and_measured_up_to_the_limit(small, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(growth, "timed", lambda call, *more: (call(), (0.5, float(next(clock))))[1])
    found = bench(wanted(["small", "bicubic"]), settings(sizes=(0.01, 0.0025, 4.0), limit=9.0))
    lines = of(found, "small")["growth"]
    assert [line["output"][0] for line in lines] == [48, 96, 2048]
    assert [line["gmacs"] for line in lines] == pytest.approx(
        [(side / 4) ** 2 * 48 * 27 / 1e9 for side in (48, 96, 2048)]
    )
    assert [line["runs"] for line in lines] == [2, 2, 0]
    assert lines[1]["seconds"] == 0.5 and lines[1]["peak_bytes"] > lines[0]["peak_bytes"]
    assert lines[2]["seconds"] is None and "more than the limit of 9 s" in lines[2]["why"]
    assert "expected" in of(found, "bicubic")["growth"][2]["why"]  # by its pixels
    assert "Not measured, 2048 x 2048: small: about" in tables.text(found)


def test_no_room_for_a_picture(small, monkeypatch):
    monkeypatch.setattr(growth, "free_memory", lambda device: 10**6)
    line = of(bench(wanted(["small"]), settings(sizes=(1.0,))), "small")["growth"][0]
    assert line["seconds"] is None and line["why"].startswith("no room: 0.1 GB for the picture")


@pytest.mark.parametrize(
    "make,text",
    [(tiny_sd3, True), (tiny_sd21, False), (tiny_resshift, False)],
    ids=["sd3", "sd21", "resshift"],
)
def test_students_by_their_parts(make, text, tmp_path, monkeypatch):
    def load(*given):
        model = load_student(*given)
        model.config = replace(model.config, shortest=0)  # or the network would work on 512 pixels
        return model

    monkeypatch.setattr(participants, "load_student", load)
    monkeypatch.setattr(run, "WARM_UP", 1)
    said = f"it={make(tmp_path)}"
    if text:
        said += f",text={write('sd3', tmp_path / 'base')}"
    found = bench(wanted([said]), settings(repeat=1, size=16, files=True))
    (model,) = found["models"]
    names = [stage["name"] for stage in model["stages"]]
    assert names == ["text encoder"] * text + ["VAE encoder", "network", "decoder"]
    own = model["stages"][text:]
    assert model["gmacs"] == pytest.approx(sum(stage["gmacs"] for stage in own)) and model["gmacs"] > 0
    assert sum(stage["parameters"] for stage in own) == model["parameters"]
    assert all(stage["seconds"] > 0 for stage in model["stages"])
    assert model["picture"]["output"] == [64, 64] and model["picture"]["seconds"] > 0
    shown = tables.text(found)
    assert ("with text encoder" in shown) == text


@pytest.mark.parametrize(
    "name,parts",
    [
        ("sd21", [340.387840, 34.163664, 812.476164, 49.490199]),
        ("resshift", [22.337423, 107.208943, 32.985359]),
    ],
)
def test_architectures_are_counted_without_weights(name, parts):
    """The parts of what the table of docs/api.md has, counted there at once; and CLIP-H of 77 tokens."""
    pytest.importorskip("diffusers")
    found = bench([Wanted(name, name)], Settings(count=True, ways=Ways(device="cpu")))
    (model,) = found["models"]
    assert [stage["parameters"] / 1e6 for stage in model["stages"]] == pytest.approx(parts)
    gmacs = {stage["name"]: stage["gmacs"] for stage in model["stages"]}
    wanted = {"sd21": (22.56, 558.33, 400.13, 1257.26), "resshift": (896.63, 202.60, 1547.72)}[name]
    assert [*gmacs.values()] == pytest.approx(wanted, abs=0.01)
    assert model["seconds"] is None and model["picture"] is None and found["peaks"] is None


def test_the_packaged_model_is_small():
    found = bench(wanted(["compact-distilled", "SRVGGNetCompact-32", "RRDBNet-23"]), Settings(count=True))
    ours, srvgg, rrdb = found["models"]
    assert ours["parameters"] <= 3e6 and ours["gmacs"] <= 10
    assert (srvgg["parameters"], rrdb["parameters"]) == (1_213_296, 16_697_987)
    assert srvgg["gmacs"] == pytest.approx(19.81, abs=0.01) and rrdb["gmacs"] == pytest.approx(
        293.71, abs=0.01
    )
    assert srvgg["how"] == rrdb["how"] == participants.UNTRAINED


def test_how_a_model_is_said():
    one = Wanted.read("mine=a/b=c,d.safetensors,steps=4,weights=int8,text=base")
    assert one == Wanted("mine", "a/b=c,d.safetensors", Options(4, None, "int8"), None, Path("base"))
    assert Wanted.read("x/y.safetensors,offload").name == "y offload"
    assert Wanted.read("y.safetensors,fidelity=0.5").fidelity == 0.5
    assert [one.name for one in wanted([])] == ["compact-distilled"]


@pytest.mark.parametrize(
    "said,why",
    [
        (["a", "b/a.safetensors"], "found a twice"),
        (["a,steps=x"], "steps to be a number"),
        (["a,steps=1.5"], "steps to be a whole number"),
        (["a,weights=int2"], "weights to be full, int8 or int4"),
        (["a,steps=1,steps=2"], "found it twice"),
        (["a,text="], "found no folder"),
    ],
)
def test_models_that_cannot_be_said(said, why):
    with pytest.raises(ConfigError, match=why):
        wanted(said)


@pytest.mark.parametrize(
    "said,more,why",
    [
        (["bicubic"], {"size": 0}, "1 upward"),
        (["bicubic"], {"repeat": 0}, "1 upward"),
        (["bicubic"], {"threads": 0}, "--threads"),
        (["bicubic"], {"sizes": (0.0,)}, "--sizes from"),
        (["bicubic"], {"sizes": (9999.0,)}, "--sizes from"),
        (["bicubic"], {"limit": 0.0}, "--limit"),
        (["bicubic"], {"baseline": "other"}, "--baseline to be one of bicubic, found other"),
        (["bicubic,steps=2"], {}, "no options with bicubic"),
        (["RRDBNet-23,weights=int8"], {}, "no options with RRDBNet-23"),
        (["compact-plain,text=base"], {}, "leave it out"),
    ],
)
def test_nothing_to_measure(said, more, why):
    with pytest.raises(ConfigError, match=why):
        bench(wanted(said), settings(**more))


def test_no_room_for_the_weights(monkeypatch):
    monkeypatch.setattr(participants, "free_memory", lambda device: 10**6)
    with pytest.raises(MemoryLimit, match=r"weights of compact-plain, 0\.0 GB.*bench fewer"):
        bench(wanted(["compact-plain"]), settings())


ONE = ["bench", "small", "--size", "16", "--repeat", "2", "--device", "cpu", "--peaks", "0.5", "20"]


def test_the_table(small, capsys):
    assert main([*ONE, "--no-files"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.strip().split("  ")[0]: line for line in lines}
    assert "measured, median [quartiles] of 2" in rows["seconds"]
    assert "counted" in rows["GMAC"] and "0.500 TFLOP/s  given" in rows["peak arithmetic"]
    assert "%" in rows["efficiency"]


def test_json_and_markdown(small, capsys):
    assert main([*ONE, "--no-files", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["format"] == 2 and found["peaks"] == "given" and found["models"][0]["runs"] == 2
    assert found["how"]["seconds"] == "measured" and found["how"]["gmacs"] == "counted"
    shown = tables.markdown(found)
    assert "| parameters | 0.001 M | counted |" in shown


def test_a_folder_of_results(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    plain = [
        "bench",
        "bicubic",
        "b=bicubic",
        "--size",
        "8",
        "--repeat",
        "1",
        "-d",
        "cpu",
        "--peaks",
        "1",
        "9",
    ]
    more = ["--sizes", "0.001,0.004", "--out", str(tmp_path / "out"), "--plot", str(tmp_path / "plot.svg")]
    assert main([*plain, *more]) == 0
    found = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert [model["picture"]["seconds"] > 0 for model in found["models"]] == [True, True]
    assert (tmp_path / "out" / "table.md").read_text() == tables.markdown(found)
    assert (tmp_path / "out" / "growth.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "plot.svg").read_text()[:2000]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "bench.json",
        "growth.png",
        "table.md",
    ]
    assert "Growth" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong,why",
    [
        (["--peaks", "0", "20"], "--peaks to be two numbers above 0"),
        (["--json", "--markdown"], "exclude each other"),
        (["--plot", "a.png"], "give --growth or --sizes"),
        (["--plot", "a.gif", "--growth"], "FILE.png or FILE.svg"),
        (["--growth", "--sizes", "1"], "exclude each other"),
        (["--sizes", "1,x"], "numbers with commas"),
    ],
)
def test_wrong_usage(wrong, why, capsys):
    assert main(["bench", "bicubic", "-d", "cpu", *wrong]) == 2
    assert why in capsys.readouterr().err


def test_a_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["bench", "bicubic", "--out", str(tmp_path / "file")]) == 1
    assert "expected --out to be a folder" in capsys.readouterr().err


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
