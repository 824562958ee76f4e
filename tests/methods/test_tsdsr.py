"""TSD-SR: each equation against its transcription, and the authors' arithmetic against recorded numbers."""

import math
from dataclasses import replace

import goldens
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from loop import updates
from safetensors.torch import load_file
from torch import Tensor, nn

from unistep.bases.compact.base import CompactBase, half_flow
from unistep.bases.compact.network import CompactConfig, CompactDenoiser
from unistep.diffusion.denoiser import Batch, Cond, Denoiser
from unistep.diffusion.process import Process, ddpm, flow
from unistep.errors import ConfigError
from unistep.losses.terms import push
from unistep.methods.tsdsr import (
    TSDSR,
    TSDSRConfig,
    dasm,
    dasm_times,
    directions,
    predict,
    reconstruction,
    score_loss,
    score_loss_released,
    tsd,
    tsm,
    vsd,
    weight,
)

GOLDEN = load_file(goldens.GOLDEN / "tsd_train" / "tensors.safetensors")
RUNS = ("dasm_tealora", "dasm_notea", "nodasm_tealora", "nodasm_notea")
REPLAYED = ("dasm_tealora", "nodasm_tealora", "nodasm_notea")
"""Runs whose every prediction is recorded."""
FLOW = flow(1000, 3.0)
SHAPE = (3, 4, 2, 2)
PAPER = TSDSRConfig(guidance=1)
PROCESSES = {"flow": FLOW, "half": half_flow(), "eps": ddpm(), "v": ddpm(predicts="v")}


class Toy(Denoiser):
    """An element-wise denoiser: the same bits in a batch of any size. `out` scales its answer."""

    def __init__(self, seed: int, process: Process = FLOW):
        super().__init__()
        self.process, self.calls = process, 0
        self.p = nn.Parameter(torch.rand(4, generator=torch.Generator().manual_seed(seed)))

    def forward(self, z_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        self.calls += 1
        p, time = self.p, t.view(-1, 1, 1, 1) / 1000
        return p[0] * z_t + p[1] * cond.y + p[2] * torch.sin(3 * z_t + p[3] * time)


class Point(Denoiser):
    """The perfect denoiser of a distribution that is one point (per sample)."""

    def __init__(self, point: Tensor, process: Process):
        super().__init__()
        self.process, self.point = process, point

    def forward(self, z_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return self.point.repeat(len(z_t) // len(self.point), 1, 1, 1)


class Replay(Denoiser):
    """Gives recorded velocities, in order, and checks what it is asked."""

    def __init__(self, calls: list[tuple[Tensor, Tensor, Tensor]]):
        super().__init__()
        self.process, self.left = FLOW, calls

    def forward(self, z_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        (expected, sigma, velocity), *self.left = self.left
        close(z_t, expected)
        torch.testing.assert_close(self.process.at(t)[2], sigma)
        return z_t - sigma * velocity


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Equal to within a share of the largest value."""
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def cond(y: Tensor) -> Cond:
    return Cond(image=y[:, :3], y=y)


Z_HAT, Z, EPS, Y = (randn(*SHAPE, seed=seed) for seed in range(4))
T = torch.tensor([300, 610, 950])
COND, NULL = cond(Y), cond(torch.zeros_like(Y))


def golden(run: str, name: str) -> Tensor:
    return GOLDEN[f"{run}/{name}"]


def released(run: str) -> TSDSRConfig:
    """The recorded predictions are guided already."""
    return TSDSRConfig.released(guidance=1, dasm_steps=1 if "nodasm" in run else 4)


def golden_steps(run: str) -> tuple[Replay, Replay]:
    steps = [f"step{i + 1}/" for i in range(released(run).dasm_steps)]
    teacher, score = [], []
    for step in steps:
        z_hat_t, z_t, sigma, psi_hat, psi, phi_hat = (
            golden(run, step + name)
            for name in ("noisy_input", "noisy_hr", "sigma_cur", "pred_tea", "pred_tea_hr", "pred_reg")
        )
        teacher.append((torch.cat([z_hat_t, z_t]), torch.cat([sigma, sigma]), torch.cat([psi_hat, psi])))
        score.append((z_hat_t, sigma, phi_hat))
    return Replay(teacher), Replay(score)


@pytest.mark.parametrize("run", RUNS)
def test_golden_times(run):
    config, indices = released(run), golden(run, "indices")
    times = dasm_times(
        999 - indices[:1], config.dasm_steps, config.dasm_stride, int(golden(run, "random_bias"))
    )
    assert torch.equal(999 - times.flatten(), golden(run, "dasm_indices"))


@pytest.mark.parametrize("run", REPLAYED)
def test_golden_directions(run):
    """Every input that the networks see and every direction, through the authors' own mix-up of times."""
    z_hat, z, eps = golden(run, "latent_stu"), GOLDEN["latent_hr"], golden(run, "noise")
    t, bias = 999 - golden(run, "indices"), int(golden(run, "random_bias"))
    teacher, score = golden_steps(run)
    found = directions(teacher, score, z_hat, z, eps, t, cond(z), None, released(run), bias)
    assert not teacher.left and not score.left
    close(found[0], golden(run, "grad_vsd"))
    close(found[1], golden(run, "grad_tsm"))
    close(tsd(*found, 0.7), golden(run, "grad_tsd"))


@pytest.mark.parametrize("run", RUNS)
def test_golden_push(run):
    """The gradient that the authors meant is the one they have plus grad_tsd / numel; the value is theirs."""
    z_hat = golden(run, "latent_stu").requires_grad_()
    direction = tsd(golden(run, "grad_vsd"), golden(run, "grad_tsm"), 0.7)
    close(direction, golden(run, "grad_tsd"))
    loss = push(z_hat, direction)
    torch.testing.assert_close(loss.detach(), golden(run, "tsd_loss"), rtol=1e-4, atol=0)
    (grad,) = torch.autograd.grad(loss, z_hat)
    close(grad, golden(f"INTENDED_{run}", "grad_latent_stu") - golden(run, "grad_latent_stu"))


@pytest.mark.parametrize("run", REPLAYED)
def test_golden_score_loss(run):
    z_hat, eps, t = golden(run, "latent_stu"), golden(run, "lora/noise"), 999 - golden(run, "lora/indices")
    z_t, sigma = golden(run, "lora/noisy_student"), FLOW.at(t)[2]
    score = Replay([(z_t, sigma, (z_t - golden(run, "lora/pred_x0")) / sigma)])
    loss = score_loss_released(score, z_hat, eps, t, golden(run, "lora/u"), cond(z_hat))
    torch.testing.assert_close(loss, golden(run, "lora/loss"), rtol=1e-4, atol=0)


def algorithm_1(teacher, score, t: Tensor, N: int, s: int, lam: float, share: float) -> Tensor:
    """Lines 8 to 19 of Algorithm 1 with Eq. 5 as printed, for one flow network in its velocity."""

    def sigma(t: Tensor) -> Tensor:
        return FLOW.s[t].float().view(-1, 1, 1, 1)

    def velocity(net: Denoiser, z_t: Tensor, t: Tensor) -> Tensor:
        return (z_t - net(z_t, t, COND)) / sigma(t)

    def l_tsd(z_hat_t: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
        psi_hat, psi = velocity(teacher, z_hat_t, t), velocity(teacher, z_t, t)
        return sigma(t) ** 2 * (psi_hat - psi + lam * (psi - velocity(score, z_hat_t, t)))

    z_hat_t = sigma(t) * EPS + (1 - sigma(t)) * Z_HAT
    z_t = sigma(t) * EPS + (1 - sigma(t)) * Z
    total = l_tsd(z_hat_t, z_t, t)
    for i in range(1, N + 1):
        cur, pre = t - i * s, t - i * s + s
        step = sigma(cur) - sigma(pre)
        z_hat_t = z_hat_t + step * velocity(score, z_hat_t, pre)
        z_t = z_t + step * velocity(teacher, z_t, pre)
        total = total + share * l_tsd(z_hat_t, z_t, cur)
    return total


@pytest.mark.parametrize("N,s", [(0, 50), (1, 50), (2, 50), (4, 50), (8, 25), (4, 25), (3, 100)])
@pytest.mark.parametrize("lam", [0.7, 1.0, 0.0])
def test_algorithm_1(N, s, lam):
    """Each sample with its own t, N + 1 evaluations; every row of Tab. 4 and Tab. 7 is a setting of these."""
    teacher, score = Toy(0), Toy(1)
    c = replace(PAPER, dasm_steps=N, dasm_stride=s, lambda_vsd=lam)
    found = tsd(*directions(teacher, score, Z_HAT, Z, EPS, T, COND, None, c), lam)
    assert teacher.calls == score.calls == N + 1
    assert not found.requires_grad
    close(found, algorithm_1(teacher, score, T, N, s, lam, c.dasm_weight).detach())


@pytest.mark.parametrize("name", PROCESSES)
@given(
    t=st.integers(50, 950), steps=st.sampled_from([0, 1, 2, 4, 8]), stride=st.integers(1, 100),
    share=st.floats(0, 1),
)  # fmt: skip
def test_points(name, t, steps, stride, share):
    """Where the teacher knows z alone and the score network z_hat alone, both chains stay a x + s eps:
    every direction is then a sum of positive multiples of z_hat - z.
    """
    process = PROCESSES[name]
    time = torch.full((3,), t)
    c = replace(PAPER, dasm_steps=steps, dasm_stride=stride, dasm_weight=share)
    teacher, score = Point(Z, process), Point(Z_HAT, process)
    found = directions(teacher, score, Z_HAT, Z, EPS, time, COND, None, c)
    expected_vsd, expected_tsm = torch.zeros(SHAPE), torch.zeros(SHAPE)
    for i, at in enumerate(dasm_times(time, steps, stride)):
        a, _, s = process.at(at)
        w = s**2 * (share if i else 1)
        # how a prediction reacts to z_0, and to z_t
        by_z0, by_zt = {"eps": (a / s, 1 / s), "v": (1 / s, a / s), "flow": (1 / s, 1 / s)}[process.predicts]
        expected_vsd += w * by_z0 * (Z_HAT - Z)
        expected_tsm += w * by_zt * a * (Z_HAT - Z)
    close(found[0], expected_vsd, 1e-3)
    close(found[1], expected_tsm, 1e-3)


@given(
    index=st.integers(0, 974), steps=st.sampled_from([1, 2, 4, 8]), stride=st.integers(25, 100),
    bias=st.integers(-25, 24),
)  # fmt: skip
def test_times_are_the_authors_grid(index, steps, stride, bias):
    right = min(index + stride * steps + bias, 999)
    grid = torch.linspace(index, right, steps + 1).long()
    assert torch.equal(999 - dasm_times(torch.tensor([999 - index]), steps, stride, bias)[:, 0], grid)


def test_times_of_each_sample():
    times = dasm_times(T, 4, 50)
    assert times.tolist() == [[t - 50 * i for t in T.tolist()] for i in range(5)]


def test_chain_stops_at_the_clean_end():
    """The paper's own t = 50 with N s = 200."""
    assert dasm_times(torch.tensor([50]), 4, 50).flatten().tolist() == [50, 38, 25, 13, 0]
    t = torch.tensor([50, 0, 120])
    found = directions(Toy(0), Toy(1), Z_HAT, Z, EPS, t, COND, None, PAPER)
    assert all(direction.isfinite().all() and direction.any() for direction in found)


def test_equations_3_to_5():
    psi_hat, psi, phi_hat = Z_HAT, Z, EPS
    w = weight(FLOW, T)
    torch.testing.assert_close(w.flatten(), FLOW.s[T].float() ** 2)
    for lam in (0.0, 0.7, 1.0):
        printed = w * (psi_hat - psi + lam * (psi - phi_hat))
        torch.testing.assert_close(tsd(vsd(psi_hat, phi_hat, w), tsm(psi_hat, psi, w), lam), printed)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_equation_6(process):
    """One move of each chain: the student's by the score network, the target's by the teacher."""
    teacher, score = Toy(0, process), Toy(1, process)
    times = torch.stack([T, T - 50])
    seen = list(dasm(teacher, score, Z_HAT, Z, times, COND, None, 1.0))
    z_hat_next, z_next = (
        process.step(net(z, T, COND), z, T, T - 50, Y) for net, z in ((score, Z_HAT), (teacher, Z))
    )
    for found, (net, z) in zip(
        seen[1], ((teacher, z_hat_next), (teacher, z_next), (score, z_hat_next)), strict=True
    ):
        torch.testing.assert_close(found, process.raw(net(z, T - 50, COND), z, T - 50, Y).detach())


def test_equation_7():
    found = reconstruction(Z_HAT, Z, decode=lambda z: 2 * z, lpips=F.l1_loss)
    assert torch.equal(found, F.l1_loss(2 * Z_HAT, Z))


@pytest.mark.parametrize("name", PROCESSES)
def test_equation_9(name):
    """eps' is the noise for DDPM, its mix for v, and the velocity eps - z_hat for the flow."""
    process = PROCESSES[name]
    score = Toy(1, process)
    a, _, s = process.at(T)
    z_t = a * Z_HAT + s * EPS
    target = {"eps": EPS, "v": a * EPS - s * Z_HAT, "flow": (z_t - Z_HAT) / s}[process.predicts]
    if name == "flow":
        torch.testing.assert_close(target, EPS - Z_HAT)
    prediction = process.raw(score(z_t, T, COND), z_t, T, Y)
    torch.testing.assert_close(
        score_loss(score, Z_HAT, EPS, T, COND), (prediction - target).square().mean(), rtol=1e-4, atol=0
    )
    assert score_loss(Point(Z_HAT, process), Z_HAT, EPS, T, COND) < 1e-8


@pytest.mark.parametrize("guidance", [1.0, 7.5])
@pytest.mark.parametrize(
    "config", [TSDSRConfig(), TSDSRConfig.released(dasm_steps=4)], ids=["paper", "released"]
)
def test_nothing_to_do_at_the_optimum(config, guidance):
    null = None if guidance == 1 else NULL
    config = replace(config, guidance=guidance)
    for direction in directions(Toy(0), Toy(0), Z, Z, EPS, T, COND, null, config):
        assert not direction.any()


def guided(net: Denoiser, scale: float) -> Denoiser:
    """`net` with guidance written out in its velocity."""

    class Guided(Denoiser):
        process = net.process

        def forward(self, z_t: Tensor, t: Tensor, c: Cond) -> Tensor:
            y = torch.zeros_like(c.y)
            full, null = (FLOW.raw(net(z_t, t, cond(v)), z_t, t, y) for v in (c.y, y))
            return FLOW.clean(null + scale * (full - null), z_t, t, y)

    return Guided()


def test_guidance_is_applied_to_both_networks():
    teacher, score = Toy(0), Toy(1)
    found = directions(teacher, score, Z_HAT, Z, EPS, T, COND, NULL, TSDSRConfig())
    assert teacher.calls == score.calls == 5
    expected = directions(guided(teacher, 7.5), guided(score, 7.5), Z_HAT, Z, EPS, T, COND, None, PAPER)
    close(found[0], expected[0])
    close(found[1], expected[1])


@given(scale=st.floats(0, 10))
def test_guidance_is_linear(scale):
    net = Toy(0)
    plain, null = predict(net, Z, T, COND, None, 1.0), predict(net, Z, T, NULL, None, 1.0)
    torch.testing.assert_close(predict(net, Z, T, COND, NULL, scale), null + scale * (plain - null))
    torch.testing.assert_close(predict(net, Z, T, COND, NULL, 1.0), plain)


def build(**settings) -> tuple[TSDSR, Batch]:
    """On a tiny compact base whose weights all matter; teacher and score network differ."""
    torch.manual_seed(0)
    net = CompactDenoiser(CompactConfig((8, 8, 8), (1, 1, 1)))
    shake(net)
    base = CompactBase(net)
    method = TSDSR.build(TSDSRConfig(**{"guidance": 1.0, **settings}), base, lambda name: F.l1_loss)
    if method.critic is not None:
        shake(method.critic, 0.1)
    x_lq, x_hq = torch.rand(2, 3, 8, 8) * 2 - 1, torch.rand(2, 3, 32, 32) * 2 - 1
    return method, Batch(x_lq, x_hq, base.encode(x_hq), base.cond(x_lq))


@torch.no_grad()
def shake(net: nn.Module, share: float = 1.0) -> None:
    for p in net.parameters():
        p.add_(torch.randn_like(p) * share * (0.5 / math.sqrt(p[0].numel()) if p.dim() > 1 else 0.1))


def players(method: TSDSR) -> dict[str, nn.Module]:
    return {"student": method.student, "teacher": method.teacher, "score": method.critic}


def moved(method: TSDSR, loss: Tensor) -> set[str]:
    """The players that a loss has a gradient for."""
    for net in players(method).values():
        net.zero_grad(set_to_none=True)
    loss.backward()
    return {
        name
        for name, net in players(method).items()
        if any(p.grad is not None and p.grad.any() for p in net.parameters())
    }


@pytest.mark.parametrize("term", ["tsd", "lpips", "mse"])
def test_student_terms_move_the_student_alone(term):
    method, batch = build(weight_mse=1.0)
    terms = method.generator_loss(batch, method.generate(batch))
    assert terms.keys() == {"tsd", "lpips", "mse"}
    assert moved(method, terms[term]) == {"student"}


@pytest.mark.parametrize("released_score", [False, True])
def test_score_loss_moves_the_score_network_alone(released_score):
    method, batch = build(released_score=released_score)
    terms = method.critic_loss(batch, method.generate(batch).detach())
    assert terms.keys() == {"score"}
    assert moved(method, terms["score"]) == {"score"}
    t, eps, z = torch.tensor([200, 700]), torch.randn_like(batch.z_hq), batch.z_hq
    method.draw = lambda z: (t, eps)
    torch.manual_seed(1)
    found = method.critic_loss(batch, z)["score"]
    torch.manual_seed(1)
    expected = (
        score_loss_released(method.critic, z, eps, t, torch.randn(2), batch.cond)
        if released_score
        else score_loss(method.critic, z, eps, t, batch.cond)
    )
    assert torch.equal(found, expected)


def test_tsd_term_is_gamma_times_the_push():
    method, batch = build(gamma=0.5, weight_lpips=0.0)
    t, eps = torch.tensor([200, 700]), torch.randn_like(batch.z_hq)
    method.draw = lambda z: (t, eps)
    z_hat = method.generate(batch).detach().requires_grad_()
    found = directions(
        method.teacher, method.critic, z_hat, batch.z_hq, eps, t, batch.cond, None, method.config
    )
    terms = method.generator_loss(batch, z_hat)
    assert terms.keys() == {"tsd"}
    (grad,) = torch.autograd.grad(terms["tsd"], z_hat)
    close(grad, 0.5 * (0.7 * found[0] + 0.3 * found[1]) / z_hat.numel())


def test_weights_scale_their_terms():
    method, batch = build(weight_lpips=2.0, weight_mse=3.0)
    z_hat = method.generate(batch)
    terms = method.generator_loss(batch, z_hat)
    torch.testing.assert_close(terms["lpips"], 2 * F.l1_loss(method.decode(z_hat), batch.x_hq))
    torch.testing.assert_close(terms["mse"], 3 * F.mse_loss(z_hat, batch.z_hq))


def test_released_tsd_term_has_no_gradient():
    """What the authors log as their TSD loss is a constant; only that switch makes it one."""
    values = {}
    for switch in (False, True):
        method, batch = build(released_no_grad=switch)
        torch.manual_seed(1)
        values[switch] = method.generator_loss(batch, method.generate(batch))["tsd"]
    assert values[False].requires_grad and not values[True].requires_grad
    assert values[True].item() == values[False].item() > 0


def test_generate_starts_at_the_far_end():
    method, batch = build()
    t = torch.full((2,), 999)
    assert torch.equal(method.generate(batch), method.student(batch.cond.y, t, batch.cond))
    method.student = Toy(0)  # unlike the compact slot, it looks at its input
    assert torch.equal(method.generate(batch), method.student(batch.cond.y, t, batch.cond))
    other, _ = build(t_student=100)
    first, _ = build()
    assert not torch.equal(first.generate(batch), other.generate(batch))


def test_times_are_drawn_from_the_whole_range():
    method, _ = build(t_min=50, t_max=53)
    t, eps = method.draw(torch.zeros(200, 1, 4, 4))
    assert set(t.tolist()) == {50, 51, 52, 53}
    assert abs(eps.mean()) < 0.1 and abs(eps.std() - 1) < 0.1


def test_random_bias_moves_the_end_of_the_chain(monkeypatch):
    found = []
    zero = torch.zeros(()), torch.zeros(())
    monkeypatch.setattr("unistep.methods.tsdsr.directions", lambda *a: found.append(a[-1]) or zero)
    for on in (False, True):
        found.clear()
        method, batch = build(dasm_random_bias=on, weight_lpips=0.0)
        for _ in range(200):
            method.generator_loss(batch, batch.z_hq)
        assert (min(found), max(found)) == ((-25, 24) if on else (0, 0))


ONE = {"gamma": 0.0, "weight_lpips": 0.0, "weight_mse": 0.0, "guidance": 1.0, "dasm_steps": 1}
"""Settings with which one weight more leaves one term."""


@pytest.mark.parametrize("term,weight", [("tsd", "gamma"), ("lpips", "weight_lpips"), ("mse", "weight_mse")])
def test_each_term_moves_the_student_alone(term, weight):
    """A step of the real loop with this term alone; gamma alone brings the score network, and its update."""
    found, losses = updates(TSDSRConfig(**{**ONE, weight: 1.0}))
    score = term == "tsd"
    assert found == [("student", {"student"}), ("critic", {"critic"})][: 2 if score else 1]
    names = {f"student/{term}", "student/grad_norm"}
    assert set(losses) == names | ({"critic/score", "critic/grad_norm"} if score else set())


def test_twenty_steps_leave_the_teacher_alone():
    """And the network whose features `lpips` compares."""
    config = TSDSRConfig(guidance=1.0, dasm_steps=1, weight_mse=1.0)
    found, _ = updates(config, steps=20)
    assert found == 20 * [("student", {"student"}), ("critic", {"critic"})]


def test_no_score_network_where_gamma_is_0():
    method, batch = build(gamma=0.0, weight_mse=1.0)
    assert method.critic is None and method.critic_loss(batch, batch.z_hq) == {}
    assert set(method.generator_loss(batch, method.generate(batch))) == {"lpips", "mse"}


def test_tsd_alone_leads_the_student_to_the_target():
    """Toys whose networks are exact: descent along the direction closes the gap to z."""
    z_hat, eps, t = Z_HAT.clone(), EPS, torch.tensor([400, 500, 600])
    for _ in range(60):
        found = directions(Point(Z, FLOW), Point(z_hat, FLOW), z_hat, Z, eps, t, COND, None, PAPER)
        z_hat = z_hat - 0.2 * tsd(*found, 0.7)
    assert (z_hat - Z).abs().max() < 0.05 * (Z_HAT - Z).abs().max()


@pytest.mark.parametrize(
    "settings,name",
    [
        ({"gamma": -1.0}, "gamma"),
        ({"gamma": math.nan}, "gamma"),
        ({"guidance": -1.0}, "guidance"),
        ({"dasm_weight": -0.3}, "dasm_weight"),
        ({"weight_lpips": -1.0}, "weight_lpips"),
        ({"weight_mse": -1.0}, "weight_mse"),
        ({"dasm_steps": -1}, "dasm_steps"),
        ({"dasm_stride": 0}, "dasm_stride"),
        ({"lambda_vsd": 1.1}, "lambda_vsd"),
        ({"t_min": -1}, "t_min"),
        ({"t_min": 951}, "t_min"),
        ({"dasm_steps": 0, "released_skip_last": True}, "dasm_steps"),
        ({"dasm_steps": 1, "dasm_stride": 24, "dasm_random_bias": True}, "dasm_random_bias"),
        ({"gamma": 0.0, "weight_lpips": 0.0}, "weight_mse"),
        ({"released_no_grad": True, "weight_lpips": 0.0}, "released_no_grad"),
    ],
)
def test_bad_settings(settings, name):
    with pytest.raises(ConfigError, match=rf"expected .*method\.{name}\b"):
        TSDSRConfig(**settings)


@pytest.mark.parametrize(
    "settings,name",
    [
        ({"t_student": 1000}, "t_student"),
        ({"t_student": -1}, "t_student"),
        ({"t_max": 1000}, "t_max"),
        ({"dasm_steps": 20, "dasm_stride": 50}, "dasm_steps"),
        ({"process": "resshift", "t_student": 14, "t_min": 1, "t_max": 14, "dasm_steps": 0}, "process"),
        ({"process": "else"}, "process"),
    ],
)
def test_settings_that_the_base_has_not(settings, name):
    with pytest.raises(ConfigError, match=rf"expected method\.{name}\b.*found"):
        build(**settings)


def test_guidance_needs_a_null_condition(monkeypatch):
    with pytest.raises(ConfigError, match=r"expected method\.guidance to be 1"):
        build(guidance=7.5)
    monkeypatch.setattr(CompactBase, "guided", True)
    method, batch = build(guidance=7.5)
    with pytest.raises(ConfigError, match=r"expected method\.guidance to be 1"):
        method.generator_loss(batch, batch.z_hq)
    guided_batch = replace(batch, null=Cond(torch.zeros_like(batch.x_lq), torch.zeros_like(batch.cond.y)))
    assert method.generator_loss(guided_batch, batch.z_hq)["tsd"].isfinite()


def test_lpips_is_opened_only_if_used():
    def perceptual(name: str):
        raise AssertionError(name)

    base = CompactBase(CompactDenoiser(CompactConfig((8, 8, 8), (1, 1, 1))))
    assert TSDSR.build(TSDSRConfig(weight_lpips=0.0, guidance=1.0), base, perceptual).lpips is None


def test_released_settings():
    """`released` keeps what the caller changes."""
    c = TSDSRConfig.released(dasm_steps=4, released_no_grad=False)
    assert c.released_first_t and c.released_skip_last and c.released_score and c.weight_mse == 1
    assert (c.dasm_steps, c.t_max, c.released_no_grad) == (4, 949, False)
