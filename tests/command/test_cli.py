"""The command as a person or a program meets it; the model is a fake that repeats pixels."""

import hashlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from unistep.bases.compact.network import CompactConfig, CompactDenoiser
from unistep.command.cli import main
from unistep.models import checkpoint
from unistep.models.checkpoint import DEFAULT
from unistep.recipes.config import Run as Recipe
from unistep.students.onestep import Options
from unistep.tensors import read_header, read_tensors, save_weights
from unistep.upscaling import folders

FAKE = '''
"""Stands in for unistep.upscaling.upscaler."""
from dataclasses import replace
from unistep.errors import ModelError
from unistep.pixels.resize import target_size

class Upscaler:
    loads, calls, asked = [], [], []

    @classmethod
    def from_pretrained(cls, name=None, *, device="auto", dtype="auto", fidelity=None, options=None):
        cls.asked.append((dtype, options))
        if name == "missing":
            raise ModelError("there is no model named missing")
        cls.loads.append((name, device))
        return cls()

    def __call__(
        self, picture, scale=4, *, progress=None, tile="auto", colour=None, seed=0, vae_tiles="auto", **sizing
    ):
        self.calls.append({"tile": tile, "colour": colour, "seed": seed})
        height, width = picture.rgb.shape[:2]
        given = {{"width": "to_width", "height": "to_height"}.get(k, k): v for k, v in sizing.items()}
        w, h = target_size(width, height, **(given or {"scale": scale}))
        rows, columns = [i * height // h for i in range(h)], [i * width // w for i in range(w)]
        progress(1, 2)
        return replace(picture, rgb=picture.rgb[rows][:, columns])
'''

KEYS = ["event", "input", "output", "status", "seconds", "input_size", "output_size", "message"]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = types.ModuleType("unistep.upscaling.upscaler")
    exec(FAKE, module.__dict__)
    monkeypatch.setitem(sys.modules, "unistep.upscaling.upscaler", module)
    return module.__dict__["Upscaler"]


@pytest.fixture
def run(fake: Any, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def draw(path: Path, size: tuple[int, int] = (6, 4)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 30, 60)).save(path)
    return path


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        return image.size


def test_one_photograph(tmp_path: Path, run: Run, fake: Any) -> None:
    photo = draw(tmp_path / "photo.jpg")
    code, out, err = run("upscale", photo)
    assert (code, out) == (0, "")
    assert re.search(r"photo\.jpg -> .*photo_x4\.jpg  6x4 -> 24x16", err)
    assert "1 done in" in err
    assert size(tmp_path / "photo_x4.jpg") == (24, 16)
    code, _, err = run("upscale", photo)
    assert code == 0
    assert "the output exists already" in err
    assert "0 done, 1 skipped in" in err
    assert len(fake.loads) == 1, "a finished run must not load the model"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["-s", "2.5"], (15, 10)),
        (["--scale=2"], (12, 8)),
        (["--width", "12"], (12, 8)),
        (["--height", "12"], (18, 12)),
        (["--fit", "12x12"], (12, 8)),
        (["--megapixels", "0.0006"], (30, 20)),
        (["--width", "12", "--height", "12"], (12, 8)),
        (["--width", "12", "--height", "12", "--box", "fill"], (12, 12)),
        (["--height", "11", "--width", "13", "--box", "stretch"], (13, 11)),
    ],
)
def test_sizes(tmp_path: Path, run: Run, options: list[str], expected: tuple[int, int]) -> None:
    photo, out = draw(tmp_path / "a.png"), tmp_path / "out.png"
    assert run("upscale", photo, "-o", out, *options)[0] == 0
    assert size(out) == expected


def test_options_reach_the_model_in_either_spelling(tmp_path: Path, run: Run, fake: Any) -> None:
    photo = draw(tmp_path / "a.png")
    options = ["-m", "some", "-d", "cpu", "-t", "64", "--color", "adain", "--seed", "7"]
    options += ["--dtype", "float16", "--steps", "4", "--weights", "int8", "--decoder", "tiny"]
    assert run("upscale", photo, *options, "--existing", "overwrite")[0] == 0
    assert fake.loads == [("some", "cpu")]
    assert fake.asked == [("float16", Options(4, "tiny", "int8", offload=False, compile=False))]
    assert fake.calls == [{"tile": 64, "colour": "adain", "seed": 7}]
    assert run("upscale", photo, "--dry_run", "--suffix", "_y")[0] == 0
    assert not (tmp_path / "a_y.png").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "INPUT"),
        (["a.png", "--scal", "2"], "Did you mean --scale"),
        (["a.png", "--scale", "two"], "two"),
        (["a.png", "--scale", "2", "--width", "9"], "--scale and --width exclude each other"),
        (["a.png", "--fit", "9"], "WIDTHxHEIGHT"),
        (["a.png", "--tile", "-1"], "--tile takes"),
        (["a.png", "--width", "9", "--height", "9", "--fit", "9x9"], "exclude each other"),
        (["a.png", "--width", "9", "--box", "fill"], "--box fill needs --width and --height"),
        (["a.png", "-f", "gif"], "--format takes one of jpeg, png"),
        (["a.png", "-o", "a.mp4"], "nor named like a picture"),
        (["a.png", "-n", "2"], "no level of noise"),
        (["a.png", "-m", "models", "-n", "some"], "-m and -n both name the model"),
        (["a.png", "-g", "0,1"], "-g takes the number of one GPU"),
        (["a.png", "-d", "cpu", "-g", "0"], "--device cpu and -g 0 disagree"),
        (["a.png", "--dtype", "float16", "--fp32"], "--dtype float16 and --fp32 disagree"),
        (["a.png", "--quality", "0"], "--quality"),
        (["a.png", "--existing", "keep"], "skip"),
        (["a.png", "-o", "a.png"], "over itself"),
        (["a.png", "b.png", "-o", "c.png"], "more than one input"),
        (["a.png", "-Z"], "-Z"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png"):
        draw(tmp_path / name)
    code, out, err = run("upscale", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("unistep: ")
    assert words in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_one_bad_file_never_stops_a_folder(tmp_path: Path, run: Run) -> None:
    draw(tmp_path / "a.png")
    draw(tmp_path / "c.png")
    (tmp_path / "b.png").write_text("not a picture")
    code, _, err = run("upscale", tmp_path, "-o", tmp_path / "out")
    assert code == 1
    assert "2 done, 1 failed in" in err
    assert err.splitlines()[-1].startswith(f"unistep: {tmp_path / 'b.png'}: ")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]
    code, _, err = run("upscale", tmp_path / "b.png")
    assert code == 1
    assert err.count("b.png") == 1, "a single failure is said once"
    assert "Traceback" not in err


def test_names_with_dashes_spaces_unicode_and_control_characters(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["-s.png", "two words.png", "naïve 写真 📷.png", "esc\x1b[31m\n.png"]
    for name in names:
        draw(tmp_path / name)
    code, _, err = run("upscale", "-o", "out", "--", *names)
    assert code == 0
    assert "\x1b[31m" not in err, "a name must not steer the terminal"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(names)


def test_json_lines(tmp_path: Path, run: Run) -> None:
    photo = draw(tmp_path / "a.png")
    strange = draw(Path(os.fsdecode(bytes(tmp_path) + b"/\xff.png")))
    (tmp_path / "b.png").write_text("not a picture")
    code, out, err = run("upscale", photo, tmp_path / "b.png", strange, "--jsonl")
    events = [json.loads(line) for line in out.splitlines()]
    assert [e["event"] for e in events] == ["start", "file", "file", "file", "end"]
    assert events[0] == {"event": "start", "files": 3, "output_pixels": 2 * 24 * 16}
    assert all(list(e) == KEYS for e in events[1:4])
    done, failed, other = events[1:4]
    assert done | {"seconds": 0} == {
        "event": "file",
        "input": str(photo),
        "output": str(tmp_path / "a_x4.png"),
        "status": "done",
        "seconds": 0,
        "input_size": [6, 4],
        "output_size": [24, 16],
        "message": "",
    }
    assert (failed["status"], failed["input_size"], failed["output_size"]) == ("failed", None, None)
    assert failed["message"]
    assert os.fsencode(other["input"]) == os.fsencode(strange)
    end = {"event": "end", "done": 2, "skipped": 0, "failed": 1, "passed": 0, "exit_code": 1}
    assert {k: v for k, v in events[-1].items() if k != "seconds"} == end
    assert code == 1
    assert err.startswith(f"unistep: {tmp_path / 'b.png'}: ")
    assert err.count("\n") == 1


def test_a_dry_run_says_and_does_nothing(tmp_path: Path, run: Run, fake: Any) -> None:
    photo = draw(tmp_path / "a.png")
    code, out, _ = run("upscale", photo, "--dry-run", "-s", "2")
    assert (code, out) == (0, f"{photo} -> {tmp_path / 'a_x2.png'}  6x4 -> 12x8\n")
    code, out, err = run("upscale", photo, tmp_path / "gone.png", "--dry-run", "--jsonl")
    plans = [json.loads(line) for line in out.splitlines()]
    assert [(p["event"], p["status"], p["output_size"]) for p in plans] == [
        ("plan", "todo", [24, 16]),
        ("plan", "failed", None),
    ]
    assert [list(p) for p in plans] == [KEYS, KEYS]
    assert code == 1
    assert err == f"unistep: {tmp_path / 'gone.png'}: no such file or directory\n"
    assert (fake.loads, [p.name for p in tmp_path.iterdir()]) == ([], ["a.png"])


def test_what_is_passed_over_is_counted_and_named(tmp_path: Path, run: Run) -> None:
    draw(tmp_path / "in" / "a.png")
    for name in ("1.heic", "2.heic", "3.heic", "4.heic", "x.nef", "notes.txt"):
        (tmp_path / "in" / name).write_bytes(b"II*\0" if name == "x.nef" else b"\0\0\0\x1cftypheic")
    arguments, folder = ("upscale", tmp_path / "in", "-o", tmp_path / "out"), tmp_path / "in"
    heic = f"passed over 4 (HEIC is not read): {', '.join(f'{folder / n}.heic' for n in '123')} and 1 more"
    lines = [heic, f"passed over 1 (camera raw is not read): {folder / 'x.nef'}"]
    code, _, err = run(*arguments, "--dry-run")
    assert (code, err.splitlines()) == (0, lines)
    code, _, err = run(*arguments)
    assert (code, err.splitlines()[2:]) == (0, lines)
    assert "[1/1]" in err and "1 done, 5 passed over in" in err
    for more, event in (([], "file"), (["--dry-run"], "plan")):
        code, out, err = run(*arguments, "--jsonl", *more)
        events = [json.loads(line) for line in out.splitlines()]
        passed = [(Path(e["input"]).name, e["message"]) for e in events if e["event"] == "passed"]
        assert passed == [(f"{n}.heic", "HEIC is not read") for n in range(1, 5)] + [
            ("x.nef", "camera raw is not read")
        ]
        assert all(list(e) == KEYS for e in events if e["event"] == "passed")
        assert ([e["event"] for e in events].count(event), code, err) == (1, 0, "")
    (folder / "a.png").unlink()
    code, _, err = run(*arguments)
    assert code == 1
    assert "no pictures that are read in this folder: HEIC is not read (4), camera raw is not read (1)" in err


def test_stale_results_are_counted_and_done_again_when_asked(tmp_path: Path, run: Run) -> None:
    photo, line = (
        draw(tmp_path / "a.png"),
        "1 of the results that exist are stale: --existing update does them",
    )
    arguments = ("upscale", photo, "-o", tmp_path / "out", "-s")
    assert run(*arguments, 2)[0] == 0
    assert line not in run(*arguments, 2)[2]
    for more in ([], ["--dry-run"]):
        code, _, err = run(*arguments, 3, *more)
        assert (code, line in err) == (0, True)
    assert size(tmp_path / "out" / "a.png") == (12, 8)
    code, _, err = run(*arguments, 3, "--existing", "update")
    assert (code, size(tmp_path / "out" / "a.png")) == (0, (18, 12))
    assert "(done again: it has 12x8 pixels instead of 18x12)" in err


@pytest.mark.parametrize(
    ("options", "loaded", "dtype", "tile"),
    [
        (["-n", "some", "-g", "0", "-t", "0"], ("some", "cuda:0"), "auto", "auto"),
        (["--model-name", "some", "-g", "-1", "--fp32"], ("some", "cpu"), "float32", "auto"),
        (["-g", "auto", "-d", "cpu", "--tile=0"], (None, "cpu"), "auto", "auto"),
        (["-g1", "-t", "32", "--fp32", "--dtype", "float32"], (None, "cuda:1"), "float32", 32),
    ],
)
def test_what_users_of_other_tools_type(
    tmp_path: Path, run: Run, fake: Any, options: list[str], loaded: tuple[str, str], dtype: str, tile: object
) -> None:
    one, two, out = draw(tmp_path / "a.png"), draw(tmp_path / "b.png"), tmp_path / "out"
    code, _, err = run("upscale", "-i", one, "-o", out, "-i", two, "-s", 2, *options)
    assert code == 0, err
    assert (fake.loads, fake.asked[0][0], fake.calls[0]["tile"]) == ([loaded], dtype, tile)
    assert sorted(p.name for p in out.iterdir()) == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("typed", "suffix"),
    [("jpg", ".jpg"), ("JPEG", ".jpg"), (".tif", ".tif"), ("PNG", ".png"), ("Webp", ".webp")],
)
def test_formats_as_people_write_them(tmp_path: Path, run: Run, typed: str, suffix: str) -> None:
    assert run("upscale", draw(tmp_path / "a.bmp"), "-o", tmp_path / "out", "-f", typed)[0] == 0
    assert [p.name for p in (tmp_path / "out").iterdir()] == [f"a{suffix}"]


def test_results_in_a_box_are_named_by_how_much_the_picture_grows(tmp_path: Path, run: Run) -> None:
    photo = draw(tmp_path / "a.png")
    for box, name in (("fill", "a_x6.png"), ("stretch", "a_x4.png"), ("fit", "a_x2.png")):
        sides = {"fill": (12, 24), "stretch": (24, 8), "fit": (12, 24)}[box]
        assert run("upscale", photo, "--width", sides[0], "--height", sides[1], "--box", box)[0] == 0
        assert size(tmp_path / name) == ((12, 8) if box == "fit" else sides)


@pytest.mark.parametrize("crash", [False, True])
def test_what_libraries_print_belongs_to_its_file(
    tmp_path: Path, fake: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], crash: bool
) -> None:
    def noisy(function: Callable[..., Any], text: bytes) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            os.write(2, text)
            if crash:
                raise ZeroDivisionError("a defect")
            return function(*arguments, **options)

        return call

    monkeypatch.setattr("faulthandler.is_enabled", lambda: False)  # pytest turns it on
    monkeypatch.setattr(folders, "probe", noisy(folders.probe, b"once, by the plan\n"))
    monkeypatch.setattr(folders, "read_image", noisy(folders.read_image, b"libtiff: odd\n"))
    monkeypatch.setenv("UNISTEP_DEBUG", "1")
    assert main(["upscale", str(draw(tmp_path / "a.png"))]) == int(crash)
    err = capfd.readouterr().err
    assert ("24x16" in err and "(a library says: libtiff: odd)" in err) is not crash
    assert "once, by the plan" not in err
    assert ("Traceback" in err and "a defect" in err) is crash, "tracebacks are not caught"


def test_a_missing_model_is_one_line(tmp_path: Path, run: Run) -> None:
    code, _, err = run("upscale", draw(tmp_path / "a.png"), "-m", "missing")
    assert (code, err) == (1, "unistep: there is no model named missing\n")


def test_debug_shows_the_traceback(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNISTEP_DEBUG", "1")
    (tmp_path / "b.png").write_text("not a picture")
    assert "Traceback" in run("upscale", tmp_path / "b.png")[2]
    assert "Traceback" in run("upscale", draw(tmp_path / "a.png"), "-m", "missing")[2]


def test_ctrl_c_ends_with_130(tmp_path: Path, run: Run, fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.png", "b.png", "c.png"):
        draw(tmp_path / name)
    inner = fake.__call__

    def interrupted(self: Any, *arguments: Any, **options: Any) -> Any:
        if len(fake.calls) == 1:
            raise KeyboardInterrupt
        return inner(self, *arguments, **options)

    monkeypatch.setattr(fake, "__call__", interrupted)
    code, _, err = run("upscale", tmp_path, "-o", tmp_path / "out")
    assert code == 130
    assert err.splitlines()[-1] == "unistep: interrupted after 1 of 3; the same command does the rest"
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.png"]


# The command with the fake model; the write of picture number `stop` (from 0) says so and waits for ever.
CHILD = f"""
import os, signal, sys, time, types
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
stop, marker, *arguments = sys.argv[1:]
module = types.ModuleType("unistep.upscaling.upscaler")
exec({FAKE!r}, module.__dict__)
sys.modules["unistep.upscaling.upscaler"] = module
rename, count = os.replace, 0
def replace(source, target):
    global count
    if count == int(stop):
        open(marker, "w").close()
        time.sleep(600)
    count += 1
    rename(source, target)
os.replace = replace
from unistep.command.cli import main
sys.exit(main(arguments))
"""


@pytest.mark.parametrize(("sent", "expected"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_the_same_command_finishes_what_a_signal_stopped(
    tmp_path: Path, run: Run, sent: signal.Signals, expected: int
) -> None:
    names = [f"{i}.png" for i in range(4)]
    for name in names:
        draw(tmp_path / "in" / name)
    marker, out = tmp_path / "marker", tmp_path / "out"
    command = ["upscale", str(tmp_path / "in"), "-o", str(out)]
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, "2", str(marker), *command], stderr=subprocess.PIPE, text=True
    ) as child:
        while not marker.exists():
            assert child.poll() is None, child.stderr.read() if child.stderr else ""
            time.sleep(0.02)
        child.send_signal(sent)
        _, err = child.communicate()
    assert child.returncode == expected, err
    visible = sorted(p.name for p in out.iterdir() if not p.name.startswith("."))
    assert visible == names[:2]
    parts = [p.name for p in out.iterdir() if p.name.startswith(".")]
    assert len(parts) == (1 if sent == signal.SIGKILL else 0), "Ctrl-C tidies up; nothing can after SIGKILL"
    before = [(out / name).stat().st_mtime_ns for name in visible]
    assert run(*command)[0] == 0
    assert sorted(p.name for p in out.iterdir()) == names
    assert all(size(out / name) == (24, 16) for name in names)
    assert [(out / name).stat().st_mtime_ns for name in visible] == before, "finished work is kept"


def on_a_terminal(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout, and what a terminal on stderr receives, of the command with the fake model."""
    command = [sys.executable, "-c", CHILD, "-1", "none", "upscale", *arguments]
    ours, theirs = pty.openpty()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.close(theirs)
    text = b""
    try:
        while chunk := os.read(ours, 4096):
            text += chunk
    except OSError:  # how Linux says that the other side is closed
        pass
    os.close(ours)
    out, _ = child.communicate()
    return child.returncode, out, text.decode()


def test_a_terminal_gets_a_bar_with_the_time_left(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        draw(tmp_path / name)
    code, out, said = on_a_terminal(str(tmp_path))
    assert (code, out) == (0, "")
    assert re.search(r"\[#+-+\]  25%  0/2  ETA \d", said), said
    assert re.search(r"\[#+-+\]  50%  1/2  ETA \d", said), said
    assert said.endswith(" s\r\n"), said
    code, out, said = on_a_terminal(str(tmp_path), "-s", "3", "--jsonl")
    assert (code, out.count("\n"), said) == (0, 6, ""), "programs get no bar"


def test_a_reader_that_leaves_ends_the_run_quietly(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    ours, theirs = os.pipe()
    os.close(ours)
    command = [sys.executable, "-m", "unistep.command.cli", "upscale", str(tmp_path), "--dry-run", "--jsonl"]
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, text=True)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny untrained model in a folder that stands for the package's own."""
    path = tmp_path / "weights" / f"{DEFAULT}.safetensors"
    path.parent.mkdir()
    torch.manual_seed(0)
    settings = Recipe(name="toy", base=CompactConfig(widths=(8, 8, 8), blocks=(1, 1, 1)))
    header = {"run": json.loads(settings.to_json()), "steps": 12, "scores": {"gain": 0.123456}}
    save_weights(path, CompactDenoiser(settings.base).state_dict(), header, torch.float16)
    monkeypatch.setattr(
        checkpoint, "embedded", lambda: {p.stem: p for p in path.parent.glob("*.safetensors")}
    )
    return path


def test_the_real_model_end_to_end(tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = draw(tmp_path / "a.png", (9, 7))
    for options, expected in (
        ([], (36, 28)),
        (["--width", "20"], (20, 16)),
        (["-s", "5", "-t", "8"], (45, 35)),
    ):
        out = tmp_path / "out.png"
        command = ["upscale", str(photo), "-o", str(out), "--existing", "overwrite", *options]
        assert main(command) == 0, capsys.readouterr().err
        assert size(out) == expected
    path = tmp_path / "other.safetensors"
    path.write_bytes(weights.read_bytes())
    assert main(["upscale", str(photo), "-m", str(path)]) == 0


def test_info_says_what_the_header_says(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info"]) == 0
    lines = dict(
        line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if " " in line.strip()
    )
    assert lines["file:"] == str(weights)
    assert (lines["run.name:"], lines["steps:"], lines["scores.gain:"]) == ("toy", "12", "0.1235")
    assert lines["sha256:"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert lines["parameters:"].endswith("(float16)")
    text = tmp_path / "text.safetensors"
    text.write_text("This is not a model.")
    for unknown in ("nobody", str(text)):
        assert main(["info", unknown]) == 1
        out, err = capsys.readouterr()
        assert (out, err.count("\n"), err.startswith("unistep: ")) == ("", 1, True)


def test_a_header_cannot_steer_the_terminal(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors, header = read_tensors(weights), read_header(weights)
    path = tmp_path / "hostile.safetensors"
    save_weights(path, tensors, header | {"\x1b[2Jkey": "\x1b[2Jvalue"}, torch.float16)
    assert main(["info", str(path)]) == 0
    header["run"]["base"]["\x1b[2Jsetting"] = 1
    save_weights(path, tensors, header, torch.float16)
    assert main(["upscale", str(draw(tmp_path / "a.png", (9, 7))), "-m", str(path)]) == 1
    out, err = capsys.readouterr()
    assert all(word in out + err for word in ("key", "value", "setting")) and "\x1b" not in out + err


def test_models_are_listed_and_verified(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert main(["models", "list"]) == 0
    assert re.fullmatch(rf"{DEFAULT} +0\.\d MB  {digest}  \(default\)\n", capsys.readouterr().out)
    assert main(["models", "verify"]) == 0
    assert "no checksum" in capsys.readouterr().out
    sums = weights.parent / "SHA256SUMS"
    sums.write_text(f"{digest}  {DEFAULT}.safetensors\n")
    assert main(["models", "verify"]) == 0
    assert "checksum right" in capsys.readouterr().out
    sums.write_text(f"{digest}  {DEFAULT}.safetensors\n{digest}  gone.safetensors\n")
    assert main(["models", "verify"]) == 1
    assert capsys.readouterr().err.startswith("unistep: gone.safetensors: ")
    sums.write_text(f"{digest[::-1]}  {DEFAULT}.safetensors\n")
    assert main(["models", "verify"]) == 1
    assert "is not that in SHA256SUMS" in capsys.readouterr().err
    sums.unlink()
    state = read_tensors(weights)
    name = next(iter(state))
    broken = {**state, name: torch.full_like(state[name], torch.nan)}
    save_weights(weights, broken, read_header(weights), torch.float16)
    assert main(["models", "verify"]) == 1
    assert "finite" in capsys.readouterr().err
    weights.unlink()
    assert main(["models", "verify"]) == main(["models", "list"]) == 1


def test_the_doctor_names_what_is_missing(
    weights: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: types.SimpleNamespace(free=1 << 40))
    monkeypatch.setattr("unistep.pixels.tiling.free_memory", lambda device: 1 << 40)
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    code = main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert [line[:4] for line in lines] == ["ok  "] * 8, lines
    assert code == 0
    weights.unlink()
    monkeypatch.setattr("shutil.disk_usage", lambda path: types.SimpleNamespace(free=0))
    assert main(["doctor"]) == 1
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warn")]
    assert [line.split()[1] for line in warnings] == ["disk", "model"]


def test_help_is_light_and_names_what_there_is() -> None:
    code = (
        "import sys; from unistep.command.cli import main\n"
        "for line in ('--help', 'upscale -h', 'train -h', '-V', ''): assert main(line.split()) == 0\n"
        "heavy = {'torch', 'numpy', 'PIL', 'imagecodecs', 'safetensors'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for word in ("upscale", "degrade", "train", "doctor", "models", "info", "--fit WxH", "Exit codes: 0"):
        assert word in done.stdout


def test_degrade_and_train_hand_over(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    pairs = types.ModuleType("unistep.data.write")
    pairs.__dict__["write_pairs"] = lambda *a, report, **k: calls.append((a, k)) or k["seed"]
    trainer = types.ModuleType("unistep.training.loop")
    trainer.__dict__["main"] = lambda *a, report, tick, **k: calls.append((a, k))
    monkeypatch.setitem(sys.modules, "unistep.data.write", pairs)
    monkeypatch.setitem(sys.modules, "unistep.training.loop", trainer)
    assert run("degrade", "in", "out", "--preset", "light", "--seed", "3")[0] == 1, "three files failed"
    assert run("degrade", "in", "out")[0] == 0
    options = ["--data", "d", "--out", "o", "--set", "a.b=1", "--set", "c=x=y", "--dry_run"]
    assert run("train", "r", *options)[0] == 0
    assert calls == [
        ((Path("in"), Path("out")), {"preset": "light", "seed": 3}),
        ((Path("in"), Path("out")), {"preset": "realesrgan", "seed": 0}),
        (("r", Path("d"), Path("o"), ["a.b=1", "c=x=y"]), {"dry_run": True}),
    ]
    assert run("degrade", "in", "out", "--preset", "hard")[0] == 2
    assert run("train", "r")[0] == 2


def test_a_defect_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("two\nlines")

    pairs = types.ModuleType("unistep.data.write")
    pairs.__dict__["write_pairs"] = fail
    monkeypatch.setitem(sys.modules, "unistep.data.write", pairs)
    code, _, err = run("degrade", "in", "out")
    assert code == 1
    assert err.startswith("unistep: ZeroDivisionError: two lines")
    assert err.count("\n") == 1
