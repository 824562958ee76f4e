"""`--plan`: bytes and work of a run, counted without data, held to real runs of tiny models."""

import dataclasses
import functools

import pytest
import tinies
import torch

from unistep.bases import face_of
from unistep.bases.sd3.network import SD3Config
from unistep.bases.sd21.network import SD21Config
from unistep.counting.meter import Meter, OnGPU
from unistep.counting.peak import peak_bytes, without_data
from unistep.data.pairs import DataConfig, Pairs, Photographs
from unistep.errors import ConfigError, TrainingError
from unistep.methods import TSDSRConfig
from unistep.models.checkpoint import load_student
from unistep.recipes import recipes
from unistep.recipes.config import Run, TrainConfig, override
from unistep.students.restorers import SRVGGNetCompact
from unistep.training import plan as planmemory
from unistep.training import smoke
from unistep.training.batches import make_batches
from unistep.training.distributed import start
from unistep.training.opening import build, find, open_run
from unistep.training.plan import GB, META, Need, Plan, Row, Step, plan, static
from unistep.training.players import players
from unistep.training.steps import Steps

pytest.importorskip("diffusers")
pytest.importorskip("peft")

SMALL = {"rank": 4, "rank_encoder": 4, "rank_score": 4}
NAMES = ("tsdsr-sd3", "compact-tadsr", "compact-dfosd")


def step_of(run, dtype):
    return Step(run, planmemory.here(run), dtype)


def shapes_of(run):
    return face_of(run.base).shapes(run.base, planmemory.here(run))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The recipe's smoke version and its pictures."""

    @functools.cache
    def made(name, **changes):
        run = recipes.recipe(name)
        if hasattr(run.base, "rank"):
            few = {key: 4 for key in SMALL if getattr(run.base, key)}
            base = dataclasses.replace(run.base, checkpointing=False, **few)
            run = dataclasses.replace(run, base=base)
        return smoke.miniature(run, tmp_path_factory.mktemp("plan"))

    return made


@pytest.fixture(scope="module")
def step(small):
    """Of TSD-SR on SD3, in bf16."""
    return step_of(small("tsdsr-sd3")[0], torch.bfloat16)


@pytest.fixture(scope="module")
def planned(small):
    run, _ = small("tsdsr-sd3")
    return plan(dataclasses.replace(run, train=dataclasses.replace(run.train, precision="bf16")))


def opened(run, data):
    cpu = torch.device("cpu")
    photographs = Photographs(data, 0.0)
    torch.manual_seed(0)
    opened = open_run(run, cpu, photographs)
    method = build(run, opened.base, cpu)
    pairs = Pairs(photographs.train, run.data, 0, length=8)
    return opened.base, method, make_batches(opened, pairs, cpu)


def counted(base, method, table):
    """Bytes of every storage of weights, buffers, gradients, moments and averages, each once."""
    modules = [m for owner in (base, method) for m in vars(owner).values() if isinstance(m, torch.nn.Module)]
    weights = {id(t): t for m in modules for t in (*m.parameters(), *m.buffers())}
    total = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in weights.values()}
    for player in table.values():
        for p in player.params.values():
            moments = [player.optimiser.state[p][key] for key in ("exp_avg", "exp_avg_sq")]
            total |= {t.data_ptr(): t.nbytes for t in (p.grad, *moments)}
        total |= {t.data_ptr(): t.nbytes for t in player.ema.values()}
    return sum(total.values())


@pytest.mark.parametrize("name", NAMES)
def test_what_is_held_is_what_a_run_holds(small, monkeypatch, tmp_path, name):
    """To the byte: after one step, all storages of the networks and of the optimisers."""
    monkeypatch.setenv("UNISTEP_HOME", str(tmp_path))
    run, data = small(name)
    base, method, batches = opened(run, data)
    table = players(method, run)
    steps = Steps(method, run, table, start())
    steps(0, [next(batches) for _ in range(steps.forwards)])
    for player in table.values():  # a gradient that no loss reached would be missing
        assert all(p.grad is not None for p in player.params.values())
    predicted = sum(row.total for row in step_of(run, None).rows)
    assert predicted == counted(base, method, table)


class Kept:
    """Bytes of the storages that autograd keeps, but for weights."""

    def __init__(self, *modules):
        self.known = {
            p.untyped_storage().data_ptr() for m in modules for p in (*m.parameters(), *m.buffers())
        }
        self.bytes = 0

    def pack(self, t):
        pointer = t.untyped_storage().data_ptr()
        if pointer not in self.known:
            self.known.add(pointer)
            self.bytes += t.untyped_storage().nbytes()
        return t


@pytest.mark.parametrize("name", NAMES)
def test_what_waits_for_the_backward_pass_is_what_autograd_keeps(small, monkeypatch, tmp_path, name):
    """Within 15 %: a CPU's own kernels keep a little more or less than a GPU's."""
    monkeypatch.setenv("UNISTEP_HOME", str(tmp_path))
    run, data = small(name)
    base, method, batches = opened(run, data)
    batch = next(batches)
    needs = {need.phase: need for need in step_of(run, None).walk(len(batch.x_hq)).needs}
    kept = Kept(*(m for o in (base, method) for m in vars(o).values() if isinstance(m, torch.nn.Module)))
    alive = []  # so that no storage takes another's place

    def pack(t):
        alive.append(t)
        return kept.pack(t)

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        z_hat = method.generate(batch)
        if method.critic_first:
            inner = Kept()
            inner.known = set(kept.known)
            with torch.autograd.graph.saved_tensors_hooks(inner.pack, lambda t: t):
                sum(method.critic_loss(batch, z_hat.detach()).values())
        sum(method.generator_loss(batch, z_hat).values())
    assert needs["the student's step"].kept == pytest.approx(kept.bytes, rel=0.15)


@pytest.mark.parametrize("name", ["tsdsr-sd3", "compact-tadsr"])
def test_the_peak_is_that_of_a_real_run(small, monkeypatch, tmp_path, name):
    """The same step on tensors with data, its live bytes counted in the same way, within 10 %."""
    monkeypatch.setenv("UNISTEP_HOME", str(tmp_path))
    run, data = small(name)
    _, method, batches = opened(run, data)
    batch = next(batches)
    predicted = step_of(run, None).walk(len(batch.x_hq)).peak()
    meter = Meter()
    for net in (method.student, method.critic):
        for p in net.parameters():
            p.grad = torch.zeros_like(p) if p.requires_grad else None
    with meter:
        z_hat = method.generate(batch)
        if method.critic_first:
            sum(method.critic_loss(batch, z_hat.detach()).values()).backward(
                inputs=[p for p in method.critic.parameters() if p.requires_grad]
            )
        sum(method.generator_loss(batch, z_hat).values()).backward(
            inputs=[p for p in method.student.parameters() if p.requires_grad]
        )
    assert predicted == pytest.approx(meter.peak, rel=0.1)


def test_every_large_recipe_can_be_planned(small):
    for name in ("osediff-sd21", "dfosd-sd21-sdxl", "sinsr-resshift"):
        one = step_of(small(name)[0], torch.bfloat16)
        assert one.walk(1).peak() > 0 and sum(row.total for row in one.rows) > 0


def test_bytes_grow_with_the_samples(step):
    one, four = step.walk(1), step.walk(4)
    for need, more in zip(one.needs, four.needs, strict=True):
        # what all samples share counts for each: never less than is needed, and little more
        assert more.peak(1) <= need.peak(4) <= 1.1 * more.peak(1)
    for part, flops in one.flops.items():
        assert four.flops[part] == pytest.approx(4 * flops, rel=0.05, abs=1e5)


def test_checkpointing_and_precision_save(small, planned):
    without, with_ = (
        need for needs in planned.needs.values() for need in needs if need.phase == "the student's step"
    )
    assert with_.kept < 0.5 * without.kept and with_.each < without.each
    wide = step_of(small("tsdsr-sd3")[0], None)
    full = {need.phase: need for need in wide.walk(1).needs}
    assert 0.5 < without.kept / full["the student's step"].kept < 0.9
    assert sum(row.total for row in wide.rows) == planned.static


def test_work_is_booked_by_part(step):
    flops, c = step.walk(1).flops, step.run.method
    assert {"student", "teacher", "score network", "encoder", "decoder", "perceptual loss"} <= flops.keys()
    assert isinstance(c, TSDSRConfig)
    # N + 1 evaluations: the teacher sees both images, the score network one, and each with and without text;
    # the score network is fitted once more
    ratio = flops["teacher"] / flops["score network"]
    assert ratio == pytest.approx(4 * (c.dasm_steps + 1) / (2 * (c.dasm_steps + 1) + 1), rel=0.1)
    assert flops["backward, the student's step"] > flops["student"]


def test_a_plan_without_the_model(monkeypatch, tmp_path):
    """train.init names nothing that is here: the published sizes count."""
    monkeypatch.setenv("UNISTEP_HOME", str(tmp_path))
    base = shapes_of(Run("x", SD21Config(), train=TrainConfig(init="sd21-base")))
    assert {p.device.type for p in base.net.parameters()} == {"meta"}
    assert sum(p.numel() for p in base.net.parameters()) == 865_910_724
    sd3 = shapes_of(Run("x", SD3Config(dtype="bf16"), train=TrainConfig(init="sd3-medium")))
    assert sum(p.numel() for p in sd3.net.parameters()) == 2_028_328_000
    tiny_one = tinies.write("sd21", tmp_path / "tiny")
    named = shapes_of(Run("x", SD21Config(), train=TrainConfig(init=str(tiny_one))))
    assert named.net.config.block_out_channels == [16, 32, 32, 32]


def needing(each, static=0):
    run = Run("x", data=DataConfig(patch=64))
    rows = (Row("a", frozen=static),)
    return Plan(run, "fp32", 1, rows, {False: (Need("p", 0, each, each),)}, {"student": 1})


def test_the_largest_micro_batch_is_the_largest_that_fits():
    one = needing(int(GB), static=int(2 * GB))
    for card in (24, 40, 80):
        micro = one.largest(card * GB, False)
        assert one.peak(micro, False) <= card * GB < one.peak(micro + 1, False)
    assert one.largest(2 * GB, False) == 0
    assert one.peak(3, False) == pytest.approx(1.1 * 5 * GB + 0.8 * GB)


def test_the_table_says_what_is_counted(planned):
    text = str(planned)
    for word in ("denoiser, frozen", "student", "score network", "lpips", "24 GB", "80 GB", "an estimate",
                 "with checkpointing", "without checkpointing", "TFLOP"):  # fmt: skip
        assert word in text
    assert max(map(len, text.splitlines())) <= 110


def test_too_large_a_run_is_stopped_before_it_starts(step, monkeypatch):
    monkeypatch.setattr(planmemory, "Step", lambda *given: step)
    assert planmemory.check(step.run, find(step.run), torch.device("cpu")) == ""
    monkeypatch.setattr(planmemory, "free_memory", lambda device: int(0.1 * GB))
    warned = planmemory.check(step.run, find(step.run), torch.device("cpu"))
    assert "expected 0." in warned and "found 0.1" in warned and "train.micro" in warned
    with pytest.raises(TrainingError, match=r"GB of free memory on cuda.*base\.checkpointing=true"):
        planmemory.check(step.run, find(step.run), torch.device("cuda"))


def test_the_command_prints_it(capsys):
    planmemory.main("compact-tadsr", [])
    assert "compact-tadsr: tadsr on compact" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="unknown recipe"):
        planmemory.main("compact-tad", [])


def test_attention_and_rounding_as_on_a_gpu():
    q = torch.empty(1, 2, 16, 8, device=META, requires_grad=True)
    meter = Meter()
    with OnGPU(torch.bfloat16), meter:
        out = torch.nn.functional.scaled_dot_product_attention(q, q, q)
        norm = torch.nn.functional.layer_norm(out, (8,))
    assert out.dtype == torch.bfloat16 and norm.dtype == torch.float32
    assert meter.flops["the rest"] == 2 * 2 * 2 * 16 * 16 * 8
    assert meter.peak < 16 * 16 * 2 * 2 + 5 * q.nbytes  # no matrix of scores


@pytest.fixture(scope="module")
def distilled(small):
    """A run that learns from a restorer, and the restorer on the meta device."""
    run, data = small("compact-distilled")
    return run, data, without_data(load_student(run.train.restorer))


def test_a_restorer_is_held_and_works_on_a_gpu(distilled, monkeypatch, tmp_path):
    """Its weights to the byte; its pass as much as a real one takes, within 10 %."""
    monkeypatch.setenv("UNISTEP_HOME", str(tmp_path))
    run, data, net = distilled
    planned, without = plan(run), plan(override(run, ["train.restorer=gone"]))
    held = {row.part: row for row in planned.rows}["restorer"]
    assert (held.frozen, held.trained) == (sum(p.nbytes for p in net.parameters()), 0)
    assert planned.static == without.static + held.frozen
    assert planned.flops["restorer"] > 0 and "restorer" not in without.flops
    cpu = torch.device("cpu")
    opened = open_run(run, cpu, Photographs(data, 0.0))
    meter, side = Meter(), run.data.patch
    with meter, torch.no_grad():
        x_lq, x_hq = torch.zeros(2, 3, side // 4, side // 4), torch.zeros(2, 3, side, side)
        z_hq, cond = opened.base.encode(x_hq), opened.base.cond(x_lq)
        others = sum(meter.flops.values())
        restored = opened.restore(x_lq)
    assert restored.shape == x_hq.shape and z_hq is not cond  # all are alive
    wide = Step(run, planmemory.here(run), None, planmemory.restorer_here(run))
    needs = {need.phase: need for need in wide.walk(2).needs}
    assert needs["making the batch"].each == pytest.approx(meter.peak, rel=0.1)
    assert wide.walk(1).flops["restorer"] == (sum(meter.flops.values()) - others) / 2


def test_a_restorer_works_in_the_data_workers_on_a_cpu(distilled):
    """In each of them at the same time, beside the steps, and once for all uses of a pair."""
    run, _, net = distilled
    alone, three = (plan(override(run, [f"data.workers={n}"]), "cpu") for n in (0, 3))
    side = run.data.patch // 4
    each = peak_bytes(net, (1, 3, side, side), dtype=torch.float32)
    (needs,) = three.needs.values()
    (beside,) = (need for need in needs if need.beside)
    assert beside.phase == "restorer, in 3 data workers" and beside.peak(2) == 2 * 3 * each
    others = max(need.peak(2) for need in needs if not need.beside)
    assert three.peak(2, False) == planmemory.with_allowances(three.static + others + 6 * each)
    assert three.static == alone.static and "restorer, in 3 data workers" in str(three)
    assert not any(need.beside for needs in alone.needs.values() for need in needs)
    on_gpu = plan(run).flops["restorer"]
    assert run.data.uses == 4
    assert three.flops["restorer"] == alone.flops["restorer"] == on_gpu // 4


def test_a_restorer_that_is_not_here_is_said(distilled, tmp_path):
    run, _, _ = distilled
    absent = override(run, ["train.restorer=gone.safetensors"])
    assert "The restorer is not counted: train.restorer names none that is here." in str(plan(absent))
    assert "not counted" not in str(plan(run))
    file = smoke.drawn(SRVGGNetCompact(4, 1, 2), tmp_path / "x2.safetensors")
    with pytest.raises(ConfigError, match="as the base does, found one of scale 2: name another"):
        plan(override(run, [f"train.restorer={file}"]))


def test_a_shared_tensor_counts_once():
    class Two:
        def __init__(self):
            self.student = self.critic = None
            self.teacher = torch.nn.Linear(2, 2)
            self.again = torch.nn.Sequential(self.teacher)

    assert [row.part for row in static(object.__new__(Two), Two(), {})] == ["teacher"]
