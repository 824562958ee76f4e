"""Several processes and several forward passes: the same run. Two processes talk through gloo."""

import contextlib
import csv
import json
import math
import multiprocessing
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from filelock import FileLock
from loop import TINY
from safetensors.torch import load_file, save_file
from test_loop import TINY as SMALL
from test_loop import data, distance, left, quiet  # noqa: F401 (data is a fixture)
from torch import Tensor, nn

from unistep.bases.compact.base import CompactBase
from unistep.bases.compact.network import CompactDenoiser
from unistep.diffusion.denoiser import Batch
from unistep.errors import ConfigError, TrainingError
from unistep.methods import DFOSDConfig, TADSRConfig, Teacher, TeacherConfig, TSDSRConfig
from unistep.recipes.config import MethodConfig, Run, TrainConfig, override
from unistep.recipes.recipes import recipe
from unistep.training import distributed, progress
from unistep.training.batches import Share, forwards
from unistep.training.distributed import Draws, together
from unistep.training.loop import fit, train
from unistep.training.opening import build
from unistep.training.players import players
from unistep.training.runfolder import STATE, WEIGHTS
from unistep.training.steps import Steps

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(os.name == "nt", reason="needs forkserver and SIGKILL"),
]
BATCH, STEPS = 4, 2
METHODS: dict[str, MethodConfig] = {
    "teacher": TeacherConfig(slot_share=0.5, weight_edge=0.5),  # two of the four images
    "tsdsr": TSDSRConfig(weight_lpips=0, guidance=1.0, dasm_steps=1),
    "dfosd": DFOSDConfig(spatial="mse"),
    "tadsr": TADSRConfig("resshift", teacher_steps=2),
}
ADAPTIVE = DFOSDConfig(spatial="mse", discriminator="diffusion-gan", ada_every=STEPS + 1)


KINDS: dict[str, dict[str, Any]] = {
    "ddp": {}, "ddp-parts": {"micro": 1}, "fsdp": {"sharding": "full"},
    "fsdp-parts": {"micro": 1, "sharding": "full"},
}  # fmt: skip
RUNS = [
    *((name, "ddp") for name in METHODS), ("tsdsr", "ddp-parts"), ("tadsr", "ddp-parts"),
    ("teacher", "fsdp"), ("tadsr", "fsdp"), ("tsdsr", "fsdp-parts"),
]  # fmt: skip


# One method's steps, on this process's part of one batch


def steps_of(
    config: MethodConfig, accelerator: Accelerator, micro: int = 0, sharding: str = "none"
) -> dict[str, Tensor]:
    """What players hold after STEPS steps, and the losses of each."""
    torch.manual_seed(0)
    denoiser = CompactDenoiser(TINY)
    with torch.no_grad():
        for p in denoiser.parameters():
            p.add_(0.05 * torch.randn_like(p))  # a new network answers almost nothing
    base = CompactBase(denoiser)
    x_lq, x_hq = torch.rand(BATCH, 3, 8, 8) * 2 - 1, torch.rand(BATCH, 3, 32, 32) * 2 - 1
    settings = TrainConfig(
        steps=STEPS, batch=BATCH, micro=micro, warmup=0, precision="fp32", init="teacher", sharding=sharding
    )
    run = Run("test", method=config, base=TINY, train=settings)
    method = build(run, base, torch.device("cpu"))
    if sharding == "full":
        distributed.shard(method, accelerator)
    table = players(method, run)
    for player in table.values():  # Adam makes a step of any gradient, were it the rounding error of none
        player.optimiser = torch.optim.SGD(player.params.values())
        player.lr = 1e-3
    world, n = accelerator.num_processes, forwards(settings, accelerator.num_processes)
    shares = [slice(m * world + accelerator.process_index, None, n * world) for m in range(n)]
    batches = [
        Batch(x_lq[s], x_hq[s], base.encode(x_hq[s]), base.cond(x_lq[s]), base.null(base.cond(x_lq[s])))
        for _ in range(STEPS)
        for s in shares
    ]
    found: dict[str, Tensor] = {}
    for step, losses in train(method, iter(batches), run, table, accelerator):
        found |= {
            f"{step}.{name}": torch.tensor(value, dtype=torch.float64) for name, value in losses.items()
        }
    assert len(found) >= 2 * STEPS
    for name, player in table.items():
        found |= {f"{name}.{key}": t.clone().contiguous() for key, t in player.state().items()}
    return found


def same(found: dict[str, Tensor], expected: dict[str, Tensor], rtol: float = 2e-5) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=rtol, atol=2e-7, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.fixture(scope="session")
def whole() -> dict[str, dict[str, Tensor]]:
    """Each method in one process, with one forward pass of the whole batch."""
    return {name: steps_of(config, Accelerator(cpu=True)) for name, config in METHODS.items()}


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    yield
    AcceleratorState._reset_state()
    PartialState._reset_state()


@pytest.mark.parametrize("name", METHODS)
def test_parts_that_are_added_up_are_the_whole(name, whole):
    """Also for TAD-SR, which keeps its noise and its times from one call to the next."""
    same(steps_of(METHODS[name], Accelerator(cpu=True), micro=2), whole[name])


def test_a_batch_must_divide():
    assert forwards(TrainConfig(batch=12, micro=2), 2) == 3 and forwards(TrainConfig(batch=12), 2) == 1
    for settings, world in (
        (TrainConfig(batch=12, micro=5), 1),
        (TrainConfig(batch=3), 2),
        (TrainConfig(batch=1), 2),
    ):
        with pytest.raises(ConfigError, match=r"expected train\.batch to be a multiple of"):
            forwards(settings, world)


def test_every_sample_is_seen_once_and_in_its_step():
    t, world = TrainConfig(batch=12, micro=2), 2
    shares = [Share(t, 36, rank, world) for rank in range(world)]
    assert [len(share) for share in shares] == [18, 18]
    for step in range(3):
        seen = [i for share in shares for i in list(share)[6 * step : 6 * step + 6]]
        assert sorted(seen) == list(range(12 * step, 12 * step + 12))
    assert list(Share(replace(t, micro=0), 36, 0, 1)) == list(range(36))  # as ever, in one process
    # The first of each part are the first of the batch: half of each part is half of the batch.
    firsts = {share[k] for share in shares for k in (0, 2, 4)}
    assert firsts == set(range(6))


DRAWS: dict[str, Callable[[int], Tensor]] = {
    "randn_like": lambda n: torch.randn_like(torch.zeros(n, 2, 3)),
    "rand_like": lambda n: torch.rand_like(torch.zeros(n, 4, 2, 2).to(memory_format=torch.channels_last)),
    "randn": lambda n: torch.randn(n, 5),
    "randn of a tuple": lambda n: torch.randn((n, 5), dtype=torch.float64),
    "rand by name": lambda n: torch.rand(size=(n,), device="cpu"),
    "randint": lambda n: torch.randint(3, 1000, (n,), device="cpu"),
    "randint below": lambda n: torch.randint(1000, (n, 2)),
    "two of each sample": lambda n: torch.randn(2 * n).view(2, n).T,
}


@pytest.mark.parametrize("name", DRAWS)
def test_draws_are_those_of_the_whole_batch(name):
    torch.manual_seed(3)
    expected = DRAWS[name](6)
    for part in range(3):
        torch.manual_seed(3)
        with Draws(part, 3):
            found = DRAWS[name](2)
        assert torch.equal(found, expected[part::3]) and found.dtype == expected.dtype


def test_numbers_without_a_batch_are_the_same_everywhere():
    torch.manual_seed(3)
    expected = torch.randint(-25, 25, ())
    for part in range(3):
        torch.manual_seed(3)
        with Draws(part, 3):
            assert torch.equal(torch.randint(-25, 25, ()), expected)


# Two processes


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def process(rank: int, port: int, function: Callable[..., None], args: tuple[object, ...]) -> None:
    """One of two processes, as `accelerate launch` starts them."""
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2",
        LOCAL_WORLD_SIZE="2", CUDA_VISIBLE_DEVICES="",
    )  # fmt: skip
    torch.set_num_threads(1)
    progress.swd = distance
    function(rank, *args)


def two(function: Callable[..., None], *args: object, seconds: float = 400) -> list[int | None]:
    """Runs function(rank, *args) in two processes and returns their exit codes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["torch._dynamo", "torch.distributed.fsdp", "torch.utils.tensorboard", "unistep.training.loop"]
    )
    port = free_port()
    both = [context.Process(target=process, args=(rank, port, function, args)) for rank in range(2)]
    for one in both:
        one.start()
    end = time.monotonic() + seconds
    for one in both:
        one.join(max(0.0, end - time.monotonic()))
    hung = [one for one in both if one.is_alive()]
    for one in hung:
        one.kill()
    assert not hung, "a process waits for ever"
    return [one.exitcode for one in both]


def settings(*more: str) -> Run:
    return override(recipe("compact-teacher"), [*SMALL, "train.batch=4", *more])


def stopping_at(last: int, how: Callable[[], None]) -> contextlib.AbstractContextManager[object]:
    """Calls `how` within step `last`, after its losses were found."""
    step = Steps.__call__

    def call(self: Steps, number: int, batches: object) -> dict[str, float]:
        losses = step(self, number, batches)
        if number + 1 == last:
            how()
        return losses

    patch = pytest.MonkeyPatch()
    patch.setattr(Steps, "__call__", call)
    return contextlib.closing(type("Undo", (), {"close": staticmethod(patch.undo)}))


def said(call: Callable[[], object]) -> str:
    try:
        call()
    except TrainingError as error:
        return str(error)
    return "nothing"


def killed(rank: int, photographs: Path, folder: Path) -> None:
    """Process 1 dies in step 3, hard; the other says what it sees."""
    with stopping_at(3, lambda: os.kill(os.getpid(), signal.SIGKILL) if rank else None):
        (folder / "said").write_text(said(lambda: fit(settings(), photographs, folder / "killed", quiet)))


def everything(rank: int, photographs: Path, folder: Path) -> None:
    """All that needs two processes, in one pair of them."""
    for name, scenario in SCENARIOS.items():
        try:
            scenario(rank, photographs, folder)
        except Exception:
            (folder / f"failed.{rank}").write_text(f"{name}: {traceback.format_exc()}")
            raise
    distributed.leave()


def methods(rank: int, photographs: Path, folder: Path) -> None:
    for name, kind in RUNS:
        save_file(
            steps_of(METHODS[name], distributed.start(), **KINDS[kind]), folder / f"{name}.{kind}.{rank}"
        )
    save_file(steps_of(ADAPTIVE, distributed.start()), folder / f"adaptive.{rank}")


def unbroken(rank: int, photographs: Path, folder: Path) -> None:
    fit(settings(), photographs, folder / "unbroken", quiet)


def resumed(rank: int, photographs: Path, folder: Path) -> None:
    """What a killed run, and one on a single process, left."""
    fit(settings(), photographs, folder / "killed", quiet)
    fit(settings(), photographs, folder / "other", quiet)


def terminated(rank: int, photographs: Path, folder: Path) -> None:
    """SIGTERM comes to process 1 alone; both stop, with split weights."""
    run = settings("train.sharding=full")
    with stopping_at(3, lambda: os.kill(os.getpid(), signal.SIGTERM) if rank else None):
        text = said(lambda: fit(run, photographs, folder / "stopped", quiet))
    (folder / f"stopped.{rank}").write_text(text)
    torch.manual_seed(99)
    fit(run, photographs, folder / "stopped", quiet)
    fit(run, photographs, folder / "full", quiet)


def not_finite(rank: int, photographs: Path, folder: Path) -> None:
    """A loss of process 1 alone."""
    loss = Teacher.generator_loss

    def failing(self: Teacher, batch: Batch, z_hat: Tensor) -> dict[str, Tensor]:
        terms = loss(self, batch, z_hat)
        return {**terms, "slot": terms["slot"] * math.nan} if rank else terms

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Teacher, "generator_loss", failing)
        text = said(lambda: fit(settings(), photographs, folder / "nan", quiet))
    (folder / f"nan.{rank}").write_text(text)


class Role(nn.Module):
    """A frozen base that roles share, and an adapter of its own."""

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base, self.adapter = base, nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.adapter(x)


def shared(rank: int, photographs: Path, folder: Path) -> None:
    torch.manual_seed(rank)
    base = nn.Linear(3, 3).requires_grad_(False)
    roles = [Role(base) for _ in range(3)]
    nets = [together(role, distributed.start()) for role in roles]
    assert all(role.base is base and role.base.weight.data_ptr() == base.weight.data_ptr() for role in roles)
    for net, role in zip(nets, roles, strict=True):
        net(role, torch.full((1, 3), rank + 1.0)).sum().backward()
    assert base.weight.grad is None
    grads = [role.adapter.weight.grad for role in roles]
    assert all(torch.equal(grad, torch.full((3, 3), 1.5)) for grad in grads)  # the mean of 1 and 2
    save_file(
        {"base": base.weight, **{f"{i}": r.adapter.weight for i, r in enumerate(roles)}},
        folder / f"shared.{rank}",
    )


def disagree(rank: int, photographs: Path, folder: Path) -> None:
    distributed.agree("step 1", distributed.start())
    text = said(lambda: distributed.agree(f"step {rank}", distributed.start()))
    (folder / f"agree.{rank}").write_text(text)


SCENARIOS = {
    one.__name__: one for one in (methods, unbroken, resumed, terminated, not_finite, shared, disagree)
}


@pytest.fixture(scope="session")
def pair(data, tmp_path_factory) -> Path:  # noqa: F811
    """The folder of a killed pair, then of a pair that did everything; pytest's workers share it."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return made(data, tmp_path_factory.mktemp("pair"))
    folder = tmp_path_factory.getbasetemp().parent / "pair"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            made(data, folder)
            (folder / "done").touch()
    assert (folder / "done").exists(), "it failed in another process of pytest"
    return folder


def made(photographs: Path, folder: Path) -> Path:
    codes = two(killed, photographs, folder)
    (folder / "codes").write_text(json.dumps(codes))
    (folder / "state").write_bytes((folder / "killed" / STATE).read_bytes())
    with stopping_at(2, lambda: os.kill(os.getpid(), signal.SIGTERM)):
        assert "stopped after step 2" in said(lambda: fit(settings(), photographs, folder / "other", quiet))
    AcceleratorState._reset_state()
    PartialState._reset_state()
    codes = two(everything, photographs, folder)
    failed = [file.read_text() for file in folder.glob("failed.*")]
    assert codes == [0, 0] and not failed, "\n".join(failed)
    return folder


@pytest.mark.parametrize(("name", "kind"), RUNS)
def test_two_processes_are_one(name, kind, pair, whole):
    """All that players hold, and every loss: with copies of the weights and with split ones."""
    for rank in range(2):
        same(load_file(pair / f"{name}.{kind}.{rank}"), whole[name])


def test_what_networks_remember_is_the_same_everywhere(pair):
    """What a discriminator said, which its range of noise follows: the first process's counts."""
    one, other = (load_file(pair / f"adaptive.{rank}") for rank in range(2))
    assert one["critic.net.calls"] == STEPS and one["critic.net.signs"] != 0
    assert torch.equal(one["critic.net.signs"], other["critic.net.signs"])


def curves(out: Path) -> dict[tuple[str, str], float]:
    with (out / "losses.csv").open(newline="") as file:
        return {(row["step"], row["name"]): float(row["value"]) for row in csv.DictReader(file)}


def equal(one: Path, other: Path, *files: str) -> None:
    for file in files:
        mine, theirs = load_file(one / file), load_file(other / file)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_run_is_the_same_on_two_processes(pair, data, tmp_path):  # noqa: F811
    fit(settings(), data, tmp_path / "one", quiet)
    assert set(left(tmp_path / "one")) == set(left(pair / "unbroken"))
    ours, theirs = curves(pair / "unbroken"), curves(tmp_path / "one")
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert ours[key] == pytest.approx(value, rel=1e-3, abs=1e-4), key
    assert ours["1", "student/slot"] == pytest.approx(theirs["1", "student/slot"], rel=1e-5)


def test_a_killed_process_ends_the_run_and_it_resumes_equal(pair):
    assert json.loads((pair / "codes").read_text()) == [0, -signal.SIGKILL]
    assert "found one gone" in (pair / "said").read_text()
    state = pair / "state"
    assert load_file(state)["student.optim.step." + next(iter(_params(state)))] == 2
    equal(pair / "killed", pair / "unbroken", STATE, WEIGHTS)
    assert curves(pair / "killed") == curves(pair / "unbroken")


def _params(state: Path) -> list[str]:
    return [n.removeprefix("student.net.") for n in load_file(state) if n.startswith("student.net.")]


def test_a_run_goes_on_with_another_number_of_processes(pair):
    ours, theirs = load_file(pair / "other" / WEIGHTS), load_file(pair / "unbroken" / WEIGHTS)
    assert max((ours[name].float() - theirs[name].float()).abs().max() for name in theirs) < 1e-4
    for key, value in curves(pair / "unbroken").items():
        assert curves(pair / "other")[key] == pytest.approx(value, rel=1e-3, abs=1e-4), key


def test_a_signal_to_one_process_stops_both(pair):
    for rank in range(2):
        assert "stopped after step 3, as asked" in (pair / f"stopped.{rank}").read_text()
    equal(pair / "stopped", pair / "full", STATE, WEIGHTS)


def test_split_weights_give_the_same_run(pair):
    ours, theirs = curves(pair / "full"), curves(pair / "unbroken")
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert ours[key] == pytest.approx(value, rel=1e-3, abs=1e-4), key
    mine, other = load_file(pair / "full" / STATE), load_file(pair / "unbroken" / STATE)
    assert {name: t.shape for name, t in mine.items()} == {name: t.shape for name, t in other.items()}
    assert set(left(pair / "full")) == set(left(pair / "unbroken"))


def test_a_loss_that_is_not_finite_stops_all(pair):
    for rank in range(2):
        assert (
            "step 1: expected a finite loss, found student/slot = nan" in (pair / f"nan.{rank}").read_text()
        )


def test_a_frozen_base_stays_shared(pair):
    one, other = (load_file(pair / f"shared.{rank}") for rank in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)  # the first process's, everywhere


def test_processes_must_begin_alike(pair):
    for rank in range(2):
        assert "go on from the same step with the same files" in (pair / f"agree.{rank}").read_text()
