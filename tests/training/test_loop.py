"""The loop: exact resume, losses that train what they should, runs that stop cleanly whatever stops them."""

import contextlib
import csv
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from PIL import Image
from torch import Tensor, nn

from unistep import tensors as tensors_module
from unistep.data.pairs import Photographs
from unistep.diffusion.denoiser import Batch, Terms
from unistep.errors import ConfigError, DataError, TrainingError, UnistepError
from unistep.methods.teacher import Teacher
from unistep.models.checkpoint import load_student
from unistep.recipes.config import Run, override
from unistep.recipes.recipes import recipe
from unistep.tensors import read_header, read_tensors
from unistep.training import loop as module
from unistep.training import progress
from unistep.training.loop import STATE, WEIGHTS, fit, main, precision, train
from unistep.training.players import learning_rate, players
from unistep.training.progress import Log, Validation, progress_line, save_sheet

TINY = [
    "method.slot_share=0.5",
    "base.widths=[8,8,8]", "base.blocks=[1,1,1]", "data.patch=32", "data.workers=0", "data.holdout=0",
    "train.batch=2", "train.steps=4", "train.warmup=2", "train.save_every=2", "train.validate_every=2",
    "train.precision=fp32", "train.early=[]",
]  # fmt: skip
SIDE = 64


def run(*settings: str) -> Run:
    return override(recipe("compact-teacher"), [*TINY, *settings])


def quiet(_: str) -> None: ...


def distance(image: Tensor, reference: Tensor) -> Tensor:
    """In place of the sliced Wasserstein distance, which costs a hundred times what a tiny step costs."""
    return (image - reference).abs().mean((1, 2, 3))


@pytest.fixture(autouse=True, scope="session")
def cheap_validation() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "swd", distance)
        yield


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """Three photographs: smooth colours with hard edges."""
    folder = tmp_path_factory.mktemp("photographs")
    for i in range(3):
        coarse = np.random.default_rng(i).integers(0, 256, (9, 9, 3), np.uint8)
        image = np.array(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        image[16 * i + 5 : 16 * i + 20, 10:40] = 255 - image[16 * i + 5 : 16 * i + 20, 10:40]
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """accelerate keeps its precision for the whole process."""
    yield
    AcceleratorState._reset_state()
    PartialState._reset_state()


@pytest.fixture(scope="session")
def unbroken(data, tmp_path_factory) -> Path:
    """The folder of four steps in one go."""
    out = tmp_path_factory.mktemp("runs") / "unbroken"
    fit(run(), data, out, quiet)
    AcceleratorState._reset_state()
    return out


def left(out: Path) -> dict[str, bytes]:
    """Everything that a run leaves, without the time stamps of tensorboard/."""
    files = [p for p in out.rglob("*") if p.is_file() and "tensorboard" not in p.parts]
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in files}


# What a run leaves


def test_files_of_a_run(unbroken):
    assert sorted(left(unbroken)) == [
        "losses.csv", "run.json", "run.lock", "sheets/step-0000002.png", "sheets/step-0000004.png",
        STATE, WEIGHTS,
    ]  # fmt: skip
    assert list((unbroken / "tensorboard").glob("events.*"))
    header = read_header(unbroken / WEIGHTS)
    assert header["run"] == json.loads((unbroken / "run.json").read_text()) == json.loads(run().to_json())
    assert header["steps"] in (2, 4) and header["samples"] == 2 * header["steps"]
    assert header["history"] == [
        {"run": header["run"], "steps": header["steps"], "samples": header["samples"]}
    ]
    assert header["data"]["images"] == 3 and math.isfinite(header["scores"]["score"])
    assert load_student(unbroken / WEIGHTS)(torch.zeros(1, 3, 8, 8)).shape == (1, 3, 32, 32)


def test_losses_are_logged(unbroken):
    with (unbroken / "losses.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = {row["name"] for row in rows if row["step"] == "3"}
    assert names == {"student/denoise", "student/slot", "student/edge", "student/grad_norm"}
    assert {row["step"] for row in rows if row["name"] == "held_out/score"} == {"2", "4"}
    assert all(math.isfinite(float(row["value"])) for row in rows if row["name"].startswith("student/"))


def test_sheets_show_input_output_and_truth(unbroken):
    sheet = np.asarray(Image.open(unbroken / "sheets" / "step-0000004.png"))
    rows = len(Validation.presets) * min(3, Validation.shown)
    assert sheet.shape == (rows * SIDE, 3 * SIDE, 3)
    blocks = sheet[:SIDE, :SIDE].reshape(SIDE // 4, 4, SIDE // 4, 4, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()  # the input, enlarged without smoothing
    truth, output = sheet[:SIDE, 2 * SIDE :].astype(int), sheet[:SIDE, SIDE : 2 * SIDE].astype(int)
    assert truth.std() > 20 and abs(truth - output).mean() < abs(truth - truth.mean()).mean()


def test_early_samples(data, tmp_path, monkeypatch):
    """Sheets without scores; a resumed run makes none of those that are there."""
    out = tmp_path / "run"
    settings = run("train.early=[0,1,2,10]", "train.validate_every=2")
    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        at_step(patch, 1, lambda: os.kill(os.getpid(), signal.SIGINT))
        fit(settings, data, out, quiet)
    first, second = (out / "sheets" / f"step-000000{step}.png" for step in (0, 1))
    before = first.read_bytes()
    assert before != second.read_bytes()
    first.write_bytes(b"kept")
    fit(settings, data, out, quiet)
    assert first.read_bytes() == b"kept"
    names = [file.name for file in sorted((out / "sheets").iterdir())]
    assert names == [f"step-000000{step}.png" for step in (0, 1, 2, 4)]
    shape = np.asarray(Image.open(second)).shape
    assert shape == np.asarray(Image.open(out / "sheets" / "step-0000004.png")).shape
    rows = (out / "losses.csv").read_text()
    assert "\n1,held_out" not in rows and "\n2,held_out" in rows


def test_save_sheet(tmp_path):
    rows = [torch.full((3, 4, 6), value) for value in (0.0, 1.0)]
    save_sheet(tmp_path / "new" / "a.png", rows)
    sheet = np.asarray(Image.open(tmp_path / "new" / "a.png"))
    assert sheet.shape == (8, 6, 3) and not sheet[:4].any() and (sheet[4:] == 255).all()


def test_progress_line():
    line = progress_line(50, 200, 0.5, {"student/slot": 0.25})
    assert line == "50/200  25.0 %  slot 0.2500  2.00 steps/s  ETA 0:01:15"


def test_or_the_last_weights_are_kept(data, tmp_path, monkeypatch):
    scores = iter([0.5, 0.25])
    monkeypatch.setattr(Validation, "__call__", lambda *_: {"score": next(scores)})
    fit(run("train.keep=last"), data, tmp_path / "run", quiet)
    assert read_header(tmp_path / "run" / WEIGHTS)["scores"]["score"] == 0.25


def test_the_best_weights_are_kept(data, tmp_path, monkeypatch):
    scores = iter([0.5, 0.25, math.nan, 0.75])
    monkeypatch.setattr(Validation, "__call__", lambda *_: {"score": next(scores)})
    seen = []
    for steps in range(1, 5):  # a run that goes on after each step
        with monkeypatch.context() as patch, contextlib.suppress(Stop):
            patch.setattr(module, "save_state", stopping_after(steps, module.save_state))
            fit(run("train.validate_every=1", "train.save_every=1"), data, tmp_path / "run", quiet)
        header = read_header(tmp_path / "run" / WEIGHTS)
        seen.append((header["steps"], header["scores"]["score"]))
    assert seen == [(1, 0.5), (1, 0.5), (1, 0.5), (4, 0.75)]


# Resume


def stopping_after(last, save):
    def save_and_stop(path, table, step, *rest):
        save(path, table, step, *rest)
        if step == last:
            raise Stop

    return save_and_stop


class Stop(Exception):
    pass


@pytest.mark.parametrize("workers", [0, 1])
def test_two_plus_two_steps_are_four(unbroken, data, tmp_path, monkeypatch, workers):
    """Bitwise: weights, average, optimiser, losses, sheets. It stops in step 3: logged, but not saved."""
    out = tmp_path / "run"
    losses = Log.losses

    def stopping(self, step, values):
        losses(self, step, values)
        if step == 3:
            raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(Log, "losses", stopping)
        fit(run(f"data.workers={workers}"), data, out, quiet)
    assert b"\n3,student/slot" in (out / "losses.csv").read_bytes()
    assert read_header(out / STATE)["step"] == 2
    torch.manual_seed(99)  # whatever happened in between
    fit(run(f"data.workers={workers}"), data, out, quiet)
    ours, theirs = left(out), left(unbroken)
    assert ours["losses.csv"] == theirs["losses.csv"]
    for file in (STATE, WEIGHTS):
        mine, other = read_tensors(out / file), read_tensors(unbroken / file)
        assert set(mine) == set(other) and all(torch.equal(mine[name], other[name]) for name in mine)
    if not workers:
        assert ours == theirs
    kinds = {".".join(name.split(".")[:3]) for name in read_tensors(out / STATE) if "optim" in name}
    assert kinds == {"student.optim.step", "student.optim.exp_avg", "student.optim.exp_avg_sq"}


def test_a_finished_run_is_left_alone(unbroken, data):
    before = left(unbroken)
    assert fit(run(), data, unbroken, quiet) == unbroken / WEIGHTS
    assert left(unbroken) == before


def test_another_run_is_refused(unbroken, data):
    before = left(unbroken)
    with pytest.raises(TrainingError, match=r"holds another run \(train.lr: 0.001 -> 0.002\)"):
        fit(run("train.lr=0.002"), data, unbroken, quiet)
    with pytest.raises(TrainingError, match="recipe: compact-teacher -> other"):
        fit(replace(run(), name="other"), data, unbroken, quiet)
    assert left(unbroken) == before


CHILD = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from unistep import atomic
from unistep.training import progress
from unistep.training.loop import main
replace, seen = os.replace, []
def killing(source, target):
    if Path(target).name == "state.safetensors":
        seen.append(target)
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGKILL)  # the file is written, but not in its place
    replace(source, target)
atomic.os.replace = killing
progress.swd = lambda a, b: (a - b).abs().mean((1, 2, 3))
main("compact-teacher", Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:], report=lambda text: None)
"""


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_kill_leaves_no_half_file(unbroken, data, tmp_path):
    out = tmp_path / "run"
    killed = subprocess.run([sys.executable, "-c", CHILD, data, out, *TINY], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert read_header(out / STATE)["step"] == 2 and read_tensors(out / STATE)
    assert load_student(out / WEIGHTS)
    assert len(list(out.glob(".unistep-*.part"))) == 1
    fit(run(), data, out, quiet)
    assert left(out) == left(unbroken)


def test_a_full_disk_keeps_the_last_checkpoint(unbroken, data, tmp_path, monkeypatch):
    out, save = tmp_path / "run", tensors_module.save

    def full(tensors, metadata):
        header = json.loads(metadata["unistep"])
        if header.get("step") == 4:
            raise OSError(28, "No space left on device")
        return save(tensors, metadata=metadata)

    with monkeypatch.context() as patch, pytest.raises(TrainingError, match=r"No space left.*make room"):
        patch.setattr(tensors_module, "save", full)
        main("compact-teacher", data, out, TINY, report=quiet)
    assert read_header(out / STATE)["step"] == 2
    fit(run(), data, out, quiet)
    assert left(out) == left(unbroken)


def at_step(monkeypatch, last, act):
    """Calls `act` while step `last` is logged."""
    losses = Log.losses

    def acting(self, step, values):
        losses(self, step, values)
        if step == last and "student/slot" in values:
            act()

    monkeypatch.setattr(Log, "losses", acting)


@pytest.mark.parametrize(
    ("number", "stops"), [(signal.SIGTERM, TrainingError), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_signal_saves_the_step(unbroken, data, tmp_path, monkeypatch, number, stops):
    """Also between two checkpoints; and the handlers are what they were."""
    out, lines, before = tmp_path / "run", [], signal.getsignal(number)
    with monkeypatch.context() as patch, pytest.raises(stops) as caught:
        at_step(patch, 3, lambda: os.kill(os.getpid(), number))
        fit(run(), data, out, lines.append)
    assert "stopped after step 3, as asked: the same command goes on" in f"{caught.value} {lines[-1]}"
    assert read_header(out / STATE)["step"] == 3 and signal.getsignal(number) is before
    fit(run(), data, out, quiet)
    assert left(out) == left(unbroken)


def test_a_second_interrupt_does_not_wait(data, tmp_path, monkeypatch):
    out = tmp_path / "run"
    at_step(monkeypatch, 3, lambda: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)])
    with pytest.raises(KeyboardInterrupt):
        fit(run(), data, out, quiet)
    assert read_header(out / STATE)["step"] == 2


def test_two_runs_in_one_folder(unbroken, data, tmp_path, monkeypatch):
    """The second is refused while the first is at work; afterwards the folder is free."""
    out, refused = tmp_path / "run", []

    def other():
        refused.append(1)
        if len(refused) == 1:  # were it let in, it would call another
            with pytest.raises(TrainingError, match=r"run to be free, found another run writing to it"):
                fit(run(), data, out, quiet)

    with monkeypatch.context() as patch:
        at_step(patch, 2, other)
        fit(run(), data, out, quiet)
    assert refused == [1] and left(out) == left(unbroken)
    fit(run(), data, out, quiet)


def test_a_torn_log_is_mended(tmp_path):
    (tmp_path / "losses.csv").write_text("step,name,value\n1,a,0.5\n2,a,0.25\n3,a,0.1\n\n4,stu")
    log = Log(tmp_path, 2)
    log.losses(3, {"a": 1 / 3})
    log.close()
    assert (tmp_path / "losses.csv").read_text() == "step,name,value\n1,a,0.5\n2,a,0.25\n3,a,0.333333\n"


# Runs that must stop


def test_a_loss_that_is_not_finite_stops(data, tmp_path, monkeypatch):
    out, loss = tmp_path / "run", Teacher.generator_loss
    steps = []

    def failing(self, batch, z_hat):
        terms = loss(self, batch, z_hat)
        steps.append(1)
        return terms | ({"slot": terms["slot"] * float("nan")} if len(steps) == 3 else {})

    monkeypatch.setattr(Teacher, "generator_loss", failing)
    expected = (
        r"step 3: expected a finite loss, found student/slot = nan on the batch of samples 4 to 5 \(seed 0\)"
    )
    with pytest.raises(TrainingError, match=expected):
        fit(run("train.save_every=1"), data, out, quiet)
    assert read_header(out / STATE)["step"] == 2
    assert all(torch.isfinite(t).all() for t in read_tensors(out / STATE).values())
    assert "\n3," not in (out / "losses.csv").read_text()


class Toy:
    """Student: one weight towards 3; critic: one weight towards the student's output."""

    critic_first = False

    def __init__(self, student: nn.Module, critic: nn.Module | None = None):
        self.student, self.critic = student, critic

    def generate(self, batch: Batch) -> Tensor:
        return self.student(torch.ones(1, 1))

    def generator_loss(self, batch: Batch, z_hat: Tensor) -> Terms:
        terms = {"fit": (z_hat - 3).square().sum()}
        if self.critic is not None:
            terms["fool"] = 0.1 * self.critic(z_hat).sum()
        return terms

    def critic_loss(self, batch: Batch, z_fake: Tensor) -> Terms:
        assert not z_fake.requires_grad
        return {"judge": (self.critic(torch.ones(1, 1)) - z_fake).square().sum()}


def toy(critic: bool = False) -> Toy:
    torch.manual_seed(0)
    return Toy(nn.Linear(1, 1), nn.Linear(1, 1) if critic else None)


def steps(method: Toy, settings: Run) -> Iterator[tuple[int, dict[str, float]]]:
    """The loop over batches that a toy does not look at."""
    batches = iter([None] * 100)
    return train(method, batches, settings, players(method, settings), Accelerator(cpu=True))


def test_a_gradient_that_is_not_finite_stops():
    method = toy()
    method.generator_loss = lambda *_: {"root": (method.student.weight * 0).sqrt().sum()}
    before = method.student.weight.clone()
    with pytest.raises(TrainingError, match="step 1: expected a finite loss, found student/grad_norm = nan"):
        next(steps(method, run()))
    assert torch.equal(method.student.weight, before)


def test_photographs_too_small_for_validation(tmp_path):
    Image.new("RGB", (80, 48)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: expected at least 64 pixels on each side for validation"):
        Validation(Photographs(tmp_path, 0.0), run(), tmp_path)


def test_a_perceptual_loss_needs_its_network(data, tmp_path):
    settings = run(
        "method.weight_lpips=1", "train.features=squeezenet", "train.features_file=none.safetensors"
    )
    with pytest.raises(UnistepError, match=r"none\.safetensors"):
        fit(settings, data, tmp_path / "run", quiet)
    assert not (tmp_path / "run").exists()


def test_a_student_needs_its_teacher(data, tmp_path):
    student = override(recipe("compact-dfosd"), [*TINY[1:], "train.init="])
    with pytest.raises(ConfigError, match=r"expected train\.init to name the teacher"):
        fit(student, data, tmp_path / "run", quiet)
    assert not (tmp_path / "run").exists()


# The loop


def test_it_ends_and_trains():
    losses = [losses["student/fit"] for _, losses in steps(toy(), run("train.steps=30", "train.lr=0.2"))]
    assert len(losses) == 30 and losses[-1] < 0.1 * losses[0]


def test_the_average_is_an_average():
    settings, method = run("train.steps=12", "train.lr=0.1", "train.ema=0.5"), toy()
    table = players(method, settings)
    mean = method.student.weight.detach().clone()
    for step, _ in train(method, iter([None] * 12), settings, table, Accelerator(cpu=True)):
        decay = min(0.5, step / (step + 9))  # quick at first: 1/10, 2/11, ...
        mean = decay * mean + (1 - decay) * method.student.weight.detach()
        torch.testing.assert_close(table["student"].ema["weight"], mean)
    assert (mean - method.student.weight).abs() > 1e-4


def test_each_player_gets_its_own_gradient_alone():
    settings, method = run("train.steps=1"), toy(critic=True)
    student, critic = (net.weight.detach().clone() for net in (method.student, method.critic))
    judged = {}

    def watch(batch, z_fake):
        judged["critic before"] = method.critic.weight.detach().clone()
        judged["student after"] = method.student.weight.detach().clone()
        assert method.critic.weight.grad is None
        return Toy.critic_loss(method, batch, z_fake)

    method.critic_loss = watch
    [(step, losses)] = steps(method, settings)
    assert step == 1 and set(losses) == {
        "student/fit", "student/fool", "student/grad_norm", "critic/judge", "critic/grad_norm",
    }  # fmt: skip
    assert torch.equal(
        judged["critic before"], critic
    )  # the student's loss runs through the critic, and spares it
    assert not torch.equal(judged["student after"], student)
    assert torch.equal(judged["student after"], method.student.weight)
    assert not torch.equal(method.critic.weight, critic)


def test_a_critic_that_comes_first():
    """It is updated on the same z_hat, and the student then meets the updated critic."""
    settings, method = run("train.steps=1"), toy(critic=True)
    method.critic_first = True
    student, critic = (net.weight.detach().clone() for net in (method.student, method.critic))
    loss, seen = method.generator_loss, {}

    def watch(batch, z_hat):
        seen["critic"], seen["student"] = (n.weight.detach().clone() for n in (method.critic, method.student))
        seen["z_hat"], seen["grad"] = z_hat, method.critic.weight.grad.clone()
        return loss(batch, z_hat)

    method.generator_loss = watch
    list(steps(method, settings))
    assert not torch.equal(seen["critic"], critic) and torch.equal(seen["student"], student)
    assert torch.equal(seen["critic"], method.critic.weight) and seen["z_hat"].requires_grad
    assert torch.equal(seen["grad"], method.critic.weight.grad)  # the student's loss leaves none there
    assert not torch.equal(method.student.weight, student)


def test_what_a_critic_remembers_is_kept():
    """Buffers, such as the vectors of a spectral norm, are part of the state."""
    settings, method = run(), toy()
    method.critic = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
    state = players(method, settings)["critic"].state()
    assert {name for name in state if name.endswith(("_u", "_v"))}
    other = toy()
    torch.manual_seed(7)
    other.critic = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
    table = players(other, settings)
    table["critic"].load_state(state)
    for name, tensor in method.critic.state_dict().items():
        assert torch.equal(tensor, other.critic.state_dict()[name])


def test_the_average_stands_in_and_gives_way():
    method = toy()
    player = players(method, run())["student"]
    own = method.student.weight.detach().clone()
    player.ema["weight"].add_(1)
    with player.averaged() as net:
        assert net is method.student and torch.equal(net.weight, own + 1)
    assert torch.equal(method.student.weight, own)


def test_learning_rate():
    settings = run("train.steps=110", "train.warmup=10", "train.lr_min=0.1")
    rates = [learning_rate(settings, step) for step in range(111)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10] == 1 and rates[60] == pytest.approx(0.55) and rates[110] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    method, settings = toy(), run("train.steps=8", "train.warmup=4", "train.lr=0.01")
    table = players(method, settings)
    for step, _ in train(method, iter([None] * 8), settings, table, Accelerator(cpu=True)):
        [group] = table["student"].optimiser.param_groups
        assert group["lr"] == pytest.approx(0.01 * learning_rate(settings, step - 1))


def test_a_critic_with_a_rate_of_its_own():
    settings = run("train.steps=110", "train.warmup=10", "train.lr_min=0.1", "train.schedule_critic=false")
    table = players(toy(critic=True), settings)
    for player in table.values():
        player.optimiser.zero_grad()
        for p in player.params.values():
            p.grad = torch.ones_like(p)
    rates = {}
    for name, player in table.items():
        for step in (4, 10, 60, 109):
            player.step(step)
            rates.setdefault(name, []).append(player.optimiser.param_groups[0]["lr"] / player.lr)
    assert rates["critic"] == [1, 1, 1, 1]  # TAD-SR's has neither warm-up nor decay
    assert rates["student"] == pytest.approx([0.5, 1, 0.55, 0.1], abs=1e-3)
    constant = run("train.steps=20", "train.warmup=0", "train.lr_min=1")
    assert {learning_rate(constant, step) for step in range(20)} == {1.0}


def test_gradients_are_not_clipped():
    method, settings = toy(), run("train.clip=0", "train.steps=1")
    [(_, losses)] = steps(method, settings)
    norm = math.hypot(method.student.weight.grad, method.student.bias.grad)
    assert losses["student/grad_norm"] == pytest.approx(norm) and norm > 1


def test_gradients_are_clipped():
    method, settings = toy(), run("train.clip=0.01", "train.steps=1")
    seen = []
    method.student.weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
    [(_, losses)] = steps(method, settings)
    assert losses["student/grad_norm"] > 1  # before clipping
    assert math.hypot(method.student.weight.grad, method.student.bias.grad) == pytest.approx(0.01, rel=1e-3)


def test_precisions(data, tmp_path):
    """bf16 computes, differs, and differs little; weights and optimiser are float32 all the same."""
    norms = {}
    for name in ("fp32", "bf16"):
        out = tmp_path / name
        fit(run(f"train.precision={name}", "train.steps=2"), data, out, quiet)
        with (out / "losses.csv").open(newline="") as file:
            norms[name] = [
                float(r["value"]) for r in csv.DictReader(file) if r["name"] == "student/grad_norm"
            ]
        assert {t.dtype for t in read_tensors(out / STATE).values()} == {torch.float32}
        AcceleratorState._reset_state()
    assert norms["fp32"] != norms["bf16"] and norms["fp32"] == pytest.approx(norms["bf16"], rel=0.05)
    assert precision("auto") in ("no", "bf16")


def test_fp16_leaves_out_what_it_cannot_hold(data, tmp_path):
    """The scale starts too high for the Toy's loss: steps are left out until it fits, and counted."""
    method, settings = toy(), run("train.precision=fp16", "train.steps=30", "train.lr=0.2", "train.warmup=0")
    method.generator_loss = lambda batch, z_hat: {"fit": 100 * (z_hat.float() - 3).square().sum()}
    before = method.student.weight.detach().clone()
    seen = []
    for _, losses in steps(method, settings):
        seen.append(losses["student/skipped"])
        assert ("student/grad_norm" in losses) is not bool(seen[-1])
        assert torch.equal(method.student.weight, before) is (0 not in seen)
    assert seen[0] == 1 and seen[-1] == 0 and 3 < sum(seen) < 20 and sorted(seen, reverse=True) == seen


def test_fp16_stops_where_nothing_fits():
    method, settings = toy(), run("train.precision=fp16", "train.steps=100")
    method.generator_loss = lambda *_: {"root": (method.student.weight.float() * 0).sqrt().sum()}
    before = method.student.weight.clone()
    expected = r"step 21: expected gradients in the range of fp16, found none of the student in 21 steps"
    with pytest.raises(TrainingError, match=expected):
        list(steps(method, settings))
    assert torch.equal(method.student.weight, before)


def test_the_scale_of_fp16_is_kept(data, tmp_path, monkeypatch):
    settings, out = run("train.precision=fp16"), tmp_path / "broken"
    fit(settings, data, tmp_path / "whole", quiet)
    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        at_step(patch, 3, lambda: os.kill(os.getpid(), signal.SIGINT))
        fit(settings, data, out, quiet)
    scale = read_tensors(out / STATE)["student.scaler"]
    assert scale.shape == (3,) and scale[0] >= 1 and scale[1] + scale[2] <= 3
    fit(settings, data, out, quiet)
    assert left(out) == left(tmp_path / "whole")


# The command


def test_a_dry_run_trains_nothing(data, tmp_path):
    lines: list[str] = []
    assert main("compact-teacher", data, tmp_path / "run", TINY, dry_run=True, report=lines.append) is None
    assert json.loads(lines[0]) == json.loads(run().to_json())
    assert lines[1] == "3 training images, 0 held out; nothing was trained"
    assert not (tmp_path / "run").exists()
    with pytest.raises(DataError, match="expected at least 80 pixels on each side, found 64x64"):
        main("compact-teacher", data, tmp_path / "run", [*TINY, "data.patch=80"], dry_run=True, report=quiet)


def test_it_starts_from_other_weights(unbroken, data, tmp_path):
    """`init` takes weights and counts their steps; the header names the file, not where it lay."""
    lines: list[str] = []
    settings = [*TINY, f"train.init={unbroken / WEIGHTS}", "train.steps=2"]
    weights = main("compact-teacher", data, tmp_path / "run", settings, report=lines.append)
    assert (
        json.loads(lines[0])["train"]["init"] == str(unbroken / WEIGHTS)
        and lines[-1] == f"weights: {weights}"
    )
    first, header = read_header(unbroken / WEIGHTS), read_header(weights)
    assert header["history"] == [*first["history"], {"run": header["run"], "steps": 2, "samples": 4}]
    assert header["steps"] == first["steps"] + 2 and header["samples"] == first["samples"] + 4
    assert header["run"]["train"]["init"] == WEIGHTS and str(unbroken.parent) not in json.dumps(header)
    start, end = read_tensors(unbroken / WEIGHTS), read_tensors(weights)
    gap = max((start[name].float() - end[name].float()).abs().max() for name in start)
    assert 0 < gap < 0.01  # two small steps from where the first run ended
    with pytest.raises(ConfigError, match=r"expected train\.init to hold a network"):
        main("compact-teacher", data, tmp_path / "b", [*settings, "base.widths=[8,8,12]"], report=quiet)


def test_mistakes_end_before_anything_is_made(data, tmp_path):
    for name, folder, settings, message in (
        ("compact-teacher", tmp_path / "absent", TINY, "found nothing"),
        ("compact-techer", data, TINY, "did you mean compact-teacher"),
        ("compact-teacher", data, ["train.stesp=1"], "did you mean train.steps"),
    ):
        with pytest.raises((ConfigError, DataError), match=message):
            main(name, folder, tmp_path / "run", settings, report=quiet)
    assert not (tmp_path / "run").exists()
