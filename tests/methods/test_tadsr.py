"""TAD-SR against recorded numbers of the authors' code, Algorithm 1 written out, and what moves whom."""

import dataclasses
import math
from collections.abc import Callable

import goldens
import pytest
import torch
import torch.nn.functional as F
from loop import updates
from safetensors.torch import load_file
from torch import Tensor, nn

from unistep.bases.compact.base import CompactBase
from unistep.bases.compact.network import CompactConfig, CompactDenoiser
from unistep.diffusion.denoiser import Batch, Cond, Denoiser, Features
from unistep.diffusion.process import Process, residual_shift
from unistep.errors import ConfigError
from unistep.methods import tadsr
from unistep.methods.tadsr import (
    TADSR,
    TADSRConfig,
    TimeAwareDiscriminator,
    adversarial_critic,
    adversarial_generator,
    hsd,
    omega_2,
    sinusoid,
)
from unistep.recipes.config import Run

GOLDEN = goldens.GOLDEN / "tad_train"
T = 15


def close(found: Tensor, recorded: Tensor, relative: float = 1e-4) -> None:
    """To `relative` of the largest recorded value."""
    torch.testing.assert_close(found, recorded, rtol=0, atol=relative * float(recorded.abs().max()))


# ---------------------------------------------------------------- the authors' code, recorded


class Replay(nn.Module):
    """Answers each call with what was recorded, after it has seen the recorded input."""

    def __init__(self, process: Process, calls: list[tuple[Tensor, Tensor, object]]):
        super().__init__()
        self.process, self.calls = process, calls

    def forward(self, z_t: Tensor, t: Tensor, cond: Cond) -> object:
        expected, time, answer = self.calls.pop(0)
        assert torch.equal(t, time)
        close(z_t, expected)
        return answer


class ReplayCritic(nn.Module):
    def __init__(self, answers: list[list[Tensor]], t: Tensor):
        super().__init__()
        self.answers, self.t = answers, t

    def forward(self, maps: list[Tensor], t: Tensor) -> list[Tensor]:
        assert torch.equal(t, self.t)
        return self.answers.pop(0)


@pytest.fixture(scope="module")
def recorded() -> dict[str, Tensor]:
    return load_file(GOLDEN / "tensors.safetensors")


def sds_answer(recorded: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """t, z_t and the teacher's z_0 of the SDS run, which kept the direction alone: grad_z = eps_phi - eps."""
    t, eps = (recorded[f"sds_uniform/sds/{name}"] for name in ("t_sds", "noise_sds"))
    process, y = residual_shift(), recorded["main/z_y"]
    z_t = process.perturb(recorded["main/student_x0"], eps, t, y)
    _, b, s = process.at(t)
    return t, z_t, (z_t - b * y - s * (recorded["sds_uniform/sds/grad_z"] + eps)) / (1 - b)


def replay(monkeypatch: pytest.MonkeyPatch, recorded: dict[str, Tensor], score: str) -> tuple[TADSR, Batch]:
    """The method in the released mode on stubs of the recorded run, and the run's batch."""
    r = {key.removeprefix("main/"): value for key, value in recorded.items()}
    process, y, z_stu, z_tch = residual_shift(), r["z_y"], r["student_x0"], r["z_start_teacher"]
    last = torch.full((2,), T - 1)
    eps_T = process.noise(z_tch, r["z_t"], last, y)  # a teacher that always answers z_tch walks along it

    def path(t: int) -> tuple[Tensor, Tensor, Tensor]:
        time = torch.full((2,), t)
        return process.perturb(z_tch, eps_T, time, y), time, z_tch

    def scaled(z_t: Tensor, t: Tensor) -> Tensor:
        eta = process.b[t].float().view(-1, 1, 1, 1)
        return z_t / (4 * eta + 1).sqrt()

    if score == "hsd":
        times, noises, t = ["normal", 14, "uniform", 3, "uniform"], r["hsd/noise_hsd"], r["hsd/t_hsd"]
        calls = [path(i) for i in reversed(range(T))]
        for who in ("stu", "tch"):
            calls.append((scaled(r[f"hsd/x_{who}_hsd"], t), t, r[f"hsd/{who}_predict_x0"]))
    else:
        times, noises = ["normal", 14, "uniform", T, "uniform"], r["sds_uniform/sds/noise_sds"]
        t, z_t, predicted = sds_answer(recorded)
        calls = [path(i) for i in reversed(range(T))] + [(scaled(z_t, t), t, predicted)]

    draws = {"eps": [r["noise"], r["D/noise_dis"], noises], "t": [r["D/t_dis"], t]}
    asked: list[object] = []

    def draw(which: str) -> Callable[[object, Tensor], Tensor]:
        def answer(kind: object, like: Tensor) -> Tensor:
            asked.append(kind)
            assert asked == times[: len(asked)]
            return draws[which].pop(0)

        return answer

    monkeypatch.setattr(tadsr, "draw_eps", draw("eps"))
    monkeypatch.setattr(tadsr, "draw_t", draw("t"))
    t_dis = r["D/t_dis"]
    seen = [(r["D/noisy_gt_dis"], t_dis, []), (r["D/noisy_stu_dis"], t_dis, [])]
    logits = [[r[f"D/pred_{who}_{k}"] for k in range(5)] for who in ("real", "fake")]
    config = TADSRConfig.released("resshift", c_dim=8, score=score, t_hsd=3 if score == "hsd" else T)
    method = TADSR(
        config, Replay(process, [(r["z_t"], last, z_stu)]), Replay(process, calls),
        Replay(process, [*seen, seen[1]]), ReplayCritic([*logits, [r["gan/pred_fake_for_G"]]], t_dis),
    )  # fmt: skip
    return method, Batch(y, y, r["D/z_start_gt"], Cond(y, y))


@pytest.mark.parametrize("score", ["hsd", "sds"])
def test_a_step_is_the_recorded_step(monkeypatch, recorded, score):
    method, batch = replay(monkeypatch, recorded, score)
    run = {"hsd": "main", "sds": "sds_uniform"}[score]
    z_hat = method.generate(batch).clone().requires_grad_()
    critic = method.critic_loss(batch, z_hat.detach())
    terms = method.generator_loss(batch, z_hat)
    assert list(terms) == ["distill", score, "gan"]
    for player in (method.student, method.teacher, method.features):
        assert not player.calls  # each recorded call was made
    close(critic["gan"], recorded["main/D/GAN_loss_D"].mean())
    close(terms["gan"], recorded["main/G/loss_GAN_loss"].mean())
    close(terms["distill"], recorded["main/G/loss_mse"].mean())
    (of_distill,) = torch.autograd.grad(terms["distill"], z_hat)
    (of_score,) = torch.autograd.grad(terms[score], z_hat)
    close(of_distill, recorded["main/G/grad_student_x0_of_mse"])
    close(of_score, recorded[f"{run}/G/grad_student_x0_of_mse_{score}"])
    close(of_score * z_hat.numel(), recorded[f"{run}/{score}/grad_z"])
    # The released loss is mean(direction * z); only its gradient means something.
    value = (of_score * z_hat.numel() * z_hat).mean(dim=(1, 2, 3))
    close(value, recorded[f"{run}/G/loss_mse_{score}"])
    # The recorded total is that of the sum over the two images, not of the mean.
    total = 2 * (of_distill + of_score + recorded["main/G/grad_student_x0_of_GAN_loss"])
    close(total, recorded[f"{run}/G/grad_student_x0_total"])


def test_recorded_noise_of_the_teacher(recorded):
    """Eq. (14), and that Eq. (8) is the difference of the two noises."""
    r = {key.removeprefix("main/hsd/"): value for key, value in recorded.items()}
    y, t, process = recorded["main/z_y"], r["t_hsd"], residual_shift()
    for who in ("stu", "tch"):
        found = process.noise(r[f"{who}_predict_x0"], r[f"x_{who}_hsd"], t, y)
        close(found, r[f"{who}_predict_noise"])
    close(r["stu_predict_noise"] - r["tch_predict_noise"], r["grad_z"])
    # The sign of SDS: with the other one the teacher's answer would be twice as large.
    assert abs(float(sds_answer(recorded)[2].std() / r["stu_predict_x0"].std()) - 1) < 0.02


OURS = {
    "modulate.{}.norm": "out_layers.{}.0", "modulate.{}.time": "emb_layers.{}.1",
    "modulate.{}.out": "out_layers.{}.3", "heads.{}.0": "heads.{}.main.0.0",
    "heads.{}.1": "heads.{}.main.0.1", "heads.{}.3.0": "heads.{}.main.1.fn.0",
    "heads.{}.3.1": "heads.{}.main.1.fn.1", "heads.{}.4": "heads.{}.cls",
}  # fmt: skip
"""Our modules -> the names in the authors' file."""


def test_discriminator_answers_as_recorded(recorded):
    """The first forward of the recorded step, and the spectral norms after its second."""
    theirs = load_file(GOLDEN / "discriminator.safetensors")
    critic = TimeAwareDiscriminator((32, 64, 64), c_dim=8, embed_dim=32)
    names = {ours.format(k): own.format(k) for ours, own in OURS.items() for k in range(3)}
    state = {}
    for name in critic.state_dict():
        module, leaf = name.rsplit(".", 1)
        state[name] = theirs.pop(f"{names[module]}.{leaf}").float()
    assert not theirs
    critic.load_state_dict(state)
    maps = [recorded[f"main/D/real_fea_{k}"] for k in range(3)]
    for k, logits in enumerate(critic(maps, recorded["main/D/t_dis"])):
        close(logits.flatten(1), recorded[f"main/D/pred_real_{k}"])
    critic(maps, recorded["main/D/t_dis"])  # for the fake; power iterations do not look at the input
    state, prefix = critic.state_dict(), "main/D/after_step_buffer/"
    back = {own: ours for ours, own in names.items()}
    for key in (key for key in recorded if key.startswith(prefix)):
        module, leaf = key.removeprefix(prefix).rsplit(".", 1)
        close(state[f"{back[module]}.{leaf}"], recorded[key])


# ---------------------------------------------------------------- Algorithm 1, written out


class Toy(Denoiser):
    """z_0 from z_t, y and t by two convolutions."""

    def __init__(self, process: Process, seed: int, channels: int = 3):
        super().__init__()
        torch.manual_seed(seed)
        self.process = process
        self.net = nn.Sequential(
            nn.Conv2d(2 * channels + 1, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, channels, 3, padding=1)
        )

    def forward(self, z_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        time = (t / T).view(-1, 1, 1, 1).expand_as(z_t[:, :1])
        return self.net(torch.cat([z_t, cond.y, time], dim=1))


class ToyFeatures(Features):
    widths = (6, 8)

    def __init__(self, process: Process):
        super().__init__()
        self.process = process
        self.a, self.b = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 8, 3, 2, 1)
        self.requires_grad_(False)

    def forward(self, z_t: Tensor, t: Tensor, cond: Cond) -> list[Tensor]:
        a = self.a(z_t + cond.y + t.view(-1, 1, 1, 1) / T).tanh()
        return [a, self.b(a).tanh()]


def stirred(critic: TimeAwareDiscriminator, seed: int = 5) -> TimeAwareDiscriminator:
    """With convolutions that no longer are zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in critic.modulate:
            for p in part.out.parameters():
                p.copy_(0.2 * torch.randn(p.shape, generator=generator))
    return critic


def toys(config: TADSRConfig, size: int = 8, batch: int = 2) -> tuple[TADSR, Batch]:
    process = residual_shift()
    student, teacher = Toy(process, 1), Toy(process, 2).requires_grad_(False)
    features = ToyFeatures(process)
    critic = stirred(TimeAwareDiscriminator(features.widths, config.c_dim, 8, config.time_aware))
    generator = torch.Generator().manual_seed(3)
    y, z_hq = torch.randn(2, batch, 3, size, size, generator=generator)
    return TADSR(config, student, teacher, features, critic), Batch(y, z_hq, z_hq, Cond(y, y))


@pytest.mark.parametrize("score", ["hsd", "sds"])
def test_a_step_is_algorithm_1(score):
    config = TADSRConfig("resshift", score=score, lambda_hsd=0.3, lambda_adv=0.7, weight_distill=0.9)
    method, batch = toys(config)
    y, x, cond, kappa = batch.cond.y, batch.z_hq, batch.cond, 2.0
    eta = method.process.b
    teacher, features, critic = method.teacher, method.features, method.critic
    power = {name: b.clone() for name, b in critic.named_buffers()}

    torch.manual_seed(11)
    z_hat = method.generate(batch)
    critic_terms = method.critic_loss(batch, z_hat.detach())
    terms = method.generator_loss(batch, z_hat)
    (of_score,) = torch.autograd.grad(terms[score], z_hat, retain_graph=True)

    for name, b in critic.named_buffers():
        b.copy_(power[name])

    def e(t: Tensor) -> Tensor:
        return eta[t].float().view(-1, 1, 1, 1)

    def q(z0: Tensor, eps: Tensor, t: Tensor) -> Tensor:  # Eq. (1)
        return z0 + e(t) * (y - z0) + kappa * e(t).sqrt() * eps

    torch.manual_seed(11)
    eps, last = torch.randn_like(y), torch.full((2,), T - 1)
    z_T = y + kappa * e(last).sqrt() * eps
    z_stu = method.student(z_T, last, cond)
    z = z_T
    for i in reversed(range(T)):  # Eq. (3)
        t = torch.full((2,), i)
        z0 = teacher(z, t, cond)
        eta_t, eta_r = float(eta[i]), float(eta[i - 1]) if i else 0.0
        m = math.sqrt(eta_r / eta_t)
        j = eta_r - math.sqrt(eta_r * eta_t)
        z = (1 - j - m) * z0 + m * z + j * y
    z_tch = z

    t, eps = torch.randint(T, (2,)), torch.randn_like(y)
    real = critic(features(q(x, eps, t), t, cond), t)
    fake = critic(features(q(z_stu, eps, t), t, cond), t)
    L_D = sum(F.relu(1 + d).mean() for d in fake) + sum(F.relu(1 - d).mean() for d in real)
    fake = critic(features(q(z_stu, eps, t), t, cond), t)
    L_G = -sum(d.mean() for d in fake)
    t_, eps_ = torch.randint(T // 5, (2,)), torch.randn_like(y)

    def eps_phi(z_t: Tensor) -> Tensor:  # Eq. (14), with kappa out of the root
        z0 = teacher(z_t, t_, cond)
        return (z_t - (z0 + e(t_) * (y - z0))) / (kappa * e(t_).sqrt())

    with torch.no_grad():
        wanted = eps_phi(q(z_stu, eps_, t_)) - (eps_phi(q(z_tch, eps_, t_)) if score == "hsd" else eps_)

    torch.testing.assert_close(z_hat, z_stu)
    torch.testing.assert_close(critic_terms["gan"], L_D / 2)
    torch.testing.assert_close(terms["gan"], 0.7 * L_G / 2)
    torch.testing.assert_close(terms["distill"], 0.9 * (z_stu - z_tch).square().mean())
    torch.testing.assert_close(of_score, 0.3 * wanted / z_stu.numel(), rtol=1e-3, atol=1e-6)


def test_eq_8_is_eq_7():
    method, batch = toys(TADSRConfig("resshift"))
    process, y = method.process, batch.cond.y
    z_stu, z_tch, eps = torch.randn(3, *y.shape, generator=torch.Generator().manual_seed(1))
    for t in (torch.tensor([0, 2]), torch.tensor([7, 14])):
        noises = []
        for z in (z_stu, z_tch):
            z_t = process.perturb(z, eps, t, y)
            noises.append(process.noise(method.teacher(z_t, t, batch.cond), z_t, t, y))
        found = hsd(method.teacher, process, z_stu, z_tch, t, eps, batch.cond)
        torch.testing.assert_close(found, noises[0] - noises[1], rtol=1e-3, atol=1e-4)
        eta = process.b[t]
        torch.testing.assert_close(omega_2(process, t).flatten(), ((1 - eta) / (2 * eta.sqrt())).float())


def test_no_direction_where_the_student_is_the_teacher():
    method, batch = toys(TADSRConfig("resshift"))
    z = torch.randn_like(batch.z_hq)
    t = torch.tensor([0, 2])
    direction = hsd(method.teacher, method.process, z, z.clone(), t, torch.randn_like(z), batch.cond)
    assert torch.equal(direction, torch.zeros_like(z))


@pytest.mark.parametrize(
    "config,wanted",
    [
        (TADSRConfig("resshift"), (3, 15)),
        (TADSRConfig.released("resshift"), (3, 14)),
        (TADSRConfig("resshift", t_hsd=15, t_dis=4), (15, 4)),
    ],
)
def test_where_the_times_come_from(config, wanted):
    method, batch = toys(config, batch=128)
    seen: dict[str, list[Tensor]] = {"teacher": [], "features": []}
    for name, calls in seen.items():
        getattr(method, name).register_forward_hook(lambda _, given, __, calls=calls: calls.append(given[1]))
    z_hat = method.generate(batch)
    method.critic_loss(batch, z_hat.detach())
    method.generator_loss(batch, z_hat)
    for t in seen["teacher"][-2:]:
        assert sorted(set(t.tolist())) == list(range(wanted[0]))
    assert torch.equal(*seen["teacher"][-2:])
    for t in seen["features"]:
        assert sorted(set(t.tolist())) == list(range(wanted[1]))
        assert torch.equal(t, seen["features"][0])  # real, fake, and the student: the same t


def test_noise():
    like = torch.empty(4, 3, 32, 32)
    normal, uniform = tadsr.draw_eps("normal", like), tadsr.draw_eps("uniform", like)
    assert abs(float(normal.mean())) < 0.05 and abs(float(normal.std()) - 1) < 0.05
    assert uniform.min() >= 0 and uniform.max() < 1 and abs(float(uniform.mean()) - 0.5) < 0.02


def test_fewer_teacher_steps():
    method, batch = toys(TADSRConfig("resshift", teacher_steps=4))
    calls: list[int] = []
    method.teacher.register_forward_hook(lambda _, given, __: calls.append(int(given[1][0])))
    z_hat = method.generate(batch)
    method.critic_loss(batch, z_hat.detach())
    method.generator_loss(batch, z_hat)
    assert len(calls) == 4 + 2 and calls[0] == T - 1 and calls[:4] == sorted(calls[:4], reverse=True)


# ---------------------------------------------------------------- the discriminator


def test_the_discriminator_knows_the_time():
    maps = [torch.randn(1, 6, 4, 4), torch.randn(1, 8, 2, 2)]
    early, late = torch.tensor([1]), torch.tensor([12])
    for aware in (True, False):
        critic = stirred(TimeAwareDiscriminator((6, 8), 1, 8, aware)).eval()
        for a, b in zip(critic(maps, early), critic(maps, late), strict=True):
            assert torch.equal(a, b) is not aware
        assert any(".time." in name for name in critic.state_dict()) is aware


def test_modulation_is_eq_10():
    part = tadsr.Modulate(12, 8, time_aware=True)
    x, embedding = torch.randn(2, 12, 4, 4), sinusoid(torch.tensor([0, 5]), 8)
    nn.init.dirac_(part.out.weight)
    gamma, beta = part.time(F.silu(embedding)).view(2, 2, 12, 1, 1).unbind(1)
    groups = x.view(2, 12, 16)
    norm = (groups - groups.mean(-1, keepdim=True)) / (
        groups.var(-1, unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    torch.testing.assert_close(part(x, embedding), F.silu(norm.view_as(x) * (1 + gamma) + beta))


@pytest.mark.parametrize("widths", [(8, 8, 8), (64, 96, 128), (7, 9, 11)])
def test_the_discriminator_takes_any_width(widths):
    critic = TimeAwareDiscriminator(widths, 4, 16)
    sizes = (8, 4, 2)
    maps = [torch.randn(2, c, n, n) for c, n in zip(widths, sizes, strict=True)]
    assert [tuple(d.shape) for d in critic(maps, torch.tensor([0, 14]))] == [(2, 4, n * n) for n in sizes]
    with torch.autocast("cpu", torch.bfloat16):
        assert all(d.dtype == torch.float32 for d in critic(maps, torch.tensor([0, 14])))


def test_groups():
    assert [tadsr.groups(n, 32) for n in (8, 64, 96, 160, 7, 33)] == [8, 32, 32, 32, 7, 11]
    assert [tadsr.groups(n, 4) for n in (8, 6, 7)] == [4, 3, 1]


def test_how_heads_are_averaged():
    real, fake = [torch.randn(2, 1, 9), torch.randn(2, 1, 4)], [torch.randn(2, 1, 9), torch.randn(2, 1, 4)]
    a, b = fake
    torch.testing.assert_close(adversarial_generator(fake, "heads"), -(a.mean() + b.mean()) / 2)
    torch.testing.assert_close(
        adversarial_generator(fake, "tokens"), -(a.sum() + b.sum()) / (a.numel() + b.numel())
    )
    wanted = sum(F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in zip(real, fake, strict=True)) / 2
    torch.testing.assert_close(adversarial_critic(real, fake, "heads"), wanted)
    assert adversarial_critic([torch.full((1,), 2.0)], [torch.full((1,), -2.0)], "heads") == 0


def test_the_critic_learns_to_tell_real_from_fake():
    method, batch = toys(TADSRConfig("resshift"))
    torch.manual_seed(0)
    z_fake = method.generate(batch).detach()
    optimiser = torch.optim.Adam(method.critic.parameters(), 3e-3)
    for _ in range(25):
        optimiser.zero_grad()
        method.critic_loss(batch, z_fake)["gan"].backward()
        optimiser.step()
    with torch.no_grad():
        real = method.critic(method.maps(batch.z_hq, batch.cond), method.t)
        fake = method.critic(method.maps(z_fake, batch.cond), method.t)
    assert all(r.mean() > f.mean() + 0.1 for r, f in zip(real, fake, strict=True))


# ---------------------------------------------------------------- who moves whom


def compact(config: TADSRConfig) -> tuple[TADSR, Batch]:
    """The method on a tiny compact base whose output is not nearly zero."""
    torch.manual_seed(0)
    denoiser = CompactDenoiser(CompactConfig((8, 8, 8), (1, 1, 1)))
    with torch.no_grad():
        for p in denoiser.parameters():
            p.add_(0.05 * torch.randn_like(p))
    base = CompactBase(denoiser)

    def perceptual(name: str) -> None:
        raise AssertionError("TAD-SR has no perceptual loss")

    x_lq, x_hq = torch.rand(2, 3, 16, 16) * 2 - 1, torch.rand(2, 3, 64, 64) * 2 - 1
    method = TADSR.build(config, base, perceptual)
    return method, Batch(x_lq, x_hq, base.encode(x_hq), base.cond(x_lq))


def only(term: str) -> TADSRConfig:
    chosen = {"distill": "weight_distill", "hsd": "lambda_hsd", "sds": "lambda_hsd", "gan": "lambda_adv"}[
        term
    ]
    off = dict.fromkeys(("weight_distill", "lambda_hsd", "lambda_adv"), 0.0)
    score = "sds" if term == "sds" else "hsd"
    return TADSRConfig("resshift", **{**off, chosen: 1.0}, score=score, teacher_steps=3, embed_dim=16)


def steps(method: TADSR, batch: Batch, n: int) -> None:
    """n updates of the student."""
    student = torch.optim.Adam(method.student.parameters(), 1e-3)
    for _ in range(n):
        z_hat = method.generate(batch)
        student.zero_grad()
        sum(method.generator_loss(batch, z_hat).values()).backward(inputs=list(method.student.parameters()))
        student.step()


@pytest.mark.parametrize("term", ["distill", "hsd", "sds", "gan"])
def test_each_term_moves_the_student_alone(term):
    """A step of the real loop with this term alone; `gan` brings the critic, which is updated first."""
    found, losses = updates(only(term))
    assert found == [("critic", {"critic"}), ("student", {"student"})][0 if term == "gan" else 1 :]
    names = {f"student/{term}", "student/grad_norm"}
    assert set(losses) == names | ({"critic/gan", "critic/grad_norm"} if term == "gan" else set())


def test_the_critics_term_moves_the_heads_alone():
    method, batch = compact(only("gan"))
    terms = method.critic_loss(batch, method.generate(batch))  # not even detached
    assert list(terms) == ["gan"]
    terms["gan"].backward()
    assert all(p.grad is None for p in method.student.parameters())
    assert all(p.grad is None for net in (method.teacher, method.features) for p in net.parameters())
    assert all(float(part.out.weight.grad.abs().max()) > 0 for part in method.critic.modulate)
    assert not {id(p) for p in method.critic.parameters()} & {id(p) for p in method.features.parameters()}


def test_a_new_critic_moves_no_student_before_its_first_step():
    method, batch = compact(only("gan"))

    def push() -> float:
        z_hat = method.generate(batch).detach().requires_grad_()
        terms = method.critic_loss(batch, z_hat.detach())
        (grad,) = torch.autograd.grad(method.generator_loss(batch, z_hat)["gan"], z_hat)
        terms["gan"].backward()
        return float(grad.abs().max())

    assert push() == 0
    with torch.no_grad():
        for p in method.critic.parameters():
            p.sub_(1e-3 * p.grad.sign())
    assert push() > 0


def test_the_teacher_and_its_features_stay_bit_identical():
    method, _ = compact(TADSRConfig("resshift", embed_dim=16))
    assert not any(p.requires_grad for net in (method.teacher, method.features) for p in net.parameters())
    found, _ = updates(TADSRConfig("resshift", teacher_steps=3, lambda_adv=1.0, embed_dim=16), steps=20)
    assert found == 20 * [("critic", {"critic"}), ("student", {"student"})]


def test_distillation_brings_the_student_to_the_teachers_answer():
    method, batch = compact(dataclasses.replace(only("distill"), teacher_steps=1))
    first = method.generator_loss(batch, method.generate(batch))["distill"].item()
    assert first == 0  # a copy of a one-step teacher has nothing to learn
    method, batch = toys(dataclasses.replace(only("distill"), embed_dim=8))
    errors = []
    for n in (0, 60):
        steps(method, batch, n)
        errors.append(method.generator_loss(batch, method.generate(batch))["distill"].item())
    assert errors[1] < 0.7 * errors[0]


def test_no_critic_without_its_term():
    method, batch = compact(TADSRConfig("resshift", lambda_adv=0, teacher_steps=2))
    assert method.critic is None and method.features is None
    assert method.critic_loss(batch, method.generate(batch)) == {}
    assert list(method.generator_loss(batch, method.generate(batch))) == ["distill", "hsd"]


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    "setting,value",
    [("weight_distill", -1.0), ("lambda_hsd", -0.1), ("lambda_adv", -0.1), ("teacher_steps", 0), ("t_hsd", 0),
     ("t_dis", 0), ("c_dim", 0), ("embed_dim", 7), ("score", "dmd"), ("noise", "laplace"),
     ("weighting", "sum")],
)  # fmt: skip
def test_a_bad_setting_is_one_sentence(setting, value):
    with pytest.raises(ConfigError, match=rf"^expected method\.{setting} to be .*, found .*{value}.?$"):
        TADSRConfig("resshift", **{setting: value})


def test_weights_that_are_all_0_move_nobody():
    with pytest.raises(ConfigError, match=r"^expected a loss that moves the student, found none; set method"):
        TADSRConfig("resshift", weight_distill=0, lambda_hsd=0, lambda_adv=0)


@pytest.mark.parametrize("setting", ["teacher_steps", "t_hsd", "t_dis"])
def test_more_steps_than_the_process_has(setting):
    with pytest.raises(ConfigError, match=rf"^expected method\.{setting} to be at most 15, .* found 16;"):
        compact(TADSRConfig("resshift", **{setting: 16}))


def test_crops_that_are_too_small_for_the_heads():
    critic = TimeAwareDiscriminator((8,), embed_dim=8)
    assert critic([torch.zeros(1, 8, 2, 2)], torch.tensor([0]))[0].shape == (1, 1, 4)
    with pytest.raises(ConfigError, match=r"maps of 4 positions or more .* found one of 2: make data\.patch"):
        critic([torch.zeros(1, 8, 1, 2)], torch.tensor([0]))


def test_a_view_that_the_base_lacks():
    with pytest.raises(ConfigError, match=r"method\.process"):
        compact(TADSRConfig(process="edm"))


def test_released_settings():
    config = TADSRConfig.released("resshift", lambda_hsd=0.1)
    assert (config.noise, config.scaled_twice, config.t_dis, config.c_dim) == ("uniform", True, 14, 64)
    assert (config.weighting, config.lambda_hsd) == ("tokens", 0.1)
    assert Run("x", method=config).to_dict()["method"]["kind"] == "tadsr"
