"""One table of coefficients against diffusers' schedulers and the papers' own equations."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from unistep.diffusion.process import Process, ddpm, flow, residual_shift

FACTORIES = {
    "eps": lambda: ddpm(predicts="eps"),
    "v": lambda: ddpm(predicts="v"),
    "flow": flow,
    "resshift": residual_shift,
}
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SQRT_ETA_15 = (
    0.02, 0.117165, 0.176305, 0.233629, 0.291574, 0.351009, 0.412356, 0.475858, 0.541672, 0.60991, 0.680658,
    0.753985, 0.829951, 0.908606, 0.99,
)  # fmt: skip


def latents(seed: int = 0, batch: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """z_0, eps, y"""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(3, batch, 4, 5, 6, generator=generator))


def at(process: Process, *t: int) -> Tensor:
    return torch.tensor([i % len(process) for i in t])


def raw(process: Process, z0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """What a perfect network of that kind would answer."""
    a, _, s = process.at(t)
    return {"eps": eps, "v": a * eps - s * z0, "flow": eps - z0, "z0": z0}[process.predicts]


@pytest.mark.parametrize("name", FACTORIES)
def test_a_perfect_answer_is_the_clean_latent(name):
    process, (z0, eps, y) = FACTORIES[name](), latents()
    t = at(process, 2, len(process) // 2, len(process) - 2)
    z_t = process.perturb(z0, eps, t, y)
    torch.testing.assert_close(process.clean(raw(process, z0, eps, t), z_t, t, y), z0, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", FACTORIES)
def test_raw_is_what_a_perfect_network_answers(name):
    process, (z0, eps, y) = FACTORIES[name](), latents()
    t = at(process, 2, len(process) // 2, len(process) - 2)
    z_t = process.perturb(z0, eps, t, y)
    torch.testing.assert_close(process.raw(z0, z_t, t, y), raw(process, z0, eps, t), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("predicts", ["eps", "v"])
@pytest.mark.parametrize("t", [999, 500, 37, 1])
def test_ddpm_is_diffusers_ddim(predicts, t):
    kind = {"eps": "epsilon", "v": "v_prediction"}[predicts]
    theirs = DDIMScheduler(**SD, clip_sample=False, set_alpha_to_one=True, prediction_type=kind)
    theirs.set_timesteps(1000)
    process, (z0, eps, y), (_, out, _) = ddpm(predicts=predicts), latents(), latents(1)
    now = torch.full((3,), t)
    z_t = process.perturb(z0, eps, now, y)
    torch.testing.assert_close(z_t, theirs.add_noise(z0, eps, now))
    step = theirs.step(out, t, z_t)
    z_hat = process.clean(out, z_t, now, y)
    torch.testing.assert_close(z_hat, step.pred_original_sample, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        process.step(z_hat, z_t, now, now - 1, y), step.prev_sample, atol=1e-4, rtol=1e-4
    )


def test_ddpm_velocity_is_diffusers():
    theirs, process, (z0, eps, _) = DDPMScheduler(**SD), ddpm(predicts="v"), latents()
    t = at(process, 0, 400, 999)
    torch.testing.assert_close(raw(process, z0, eps, t), theirs.get_velocity(z0, eps, t))


@pytest.mark.parametrize("t", [999, 500, 37, 1])
def test_posterior_is_diffusers_ddpm(t):
    """The mean: their step without its noise. The variance: theirs."""
    theirs = DDPMScheduler(**SD, clip_sample=False, prediction_type="sample", variance_type="fixed_small")
    process, (z0, eps, y) = ddpm(), latents()
    now = torch.full((3,), t)
    z_t = process.perturb(z0, eps, now, y)
    mean, variance = process.posterior(z0, z_t, now, y)
    generator = torch.Generator().manual_seed(4)
    noise = torch.randn(z_t.shape, generator=torch.Generator().manual_seed(4))
    sample = theirs.step(z0, t, z_t, generator=generator).prev_sample
    torch.testing.assert_close(mean + variance.sqrt() * noise, sample, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(variance[0].squeeze(), theirs._get_variance(t), rtol=1e-4, atol=1e-9)


def test_flow_is_diffusers():
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    process, (z0, eps, y) = flow(shift=3.0), latents()
    torch.testing.assert_close(process.s.flip(0).float(), theirs.sigmas[:1000].float(), atol=1e-6, rtol=1e-6)
    theirs.set_timesteps(sigmas=[1.0, 0.5, 0.25])  # before the shift: t = 999, 499, 249
    z_t = eps
    _, v, _ = latents(1)
    for t, r in ((999, 499), (499, 249), (249, -1)):
        now, then = torch.full((3,), t), torch.full((3,), r)
        euler = theirs.step(v, theirs.timesteps[theirs.step_index or 0], z_t).prev_sample
        ours = process.step(process.clean(v, z_t, now, y), z_t, now, then, y)
        torch.testing.assert_close(ours, euler, atol=1e-5, rtol=1e-5)
        z_t = euler
    scaled = theirs.scale_noise(z0, theirs.timesteps[1:2].expand(3), eps)
    torch.testing.assert_close(process.perturb(z0, eps, torch.full((3,), 499), y), scaled)


def test_resshift_schedule_is_the_published_one():
    sqrt_eta = residual_shift().b.sqrt()
    torch.testing.assert_close(sqrt_eta, torch.tensor(SQRT_ETA_15, dtype=torch.float64), atol=5e-7, rtol=0)
    four = residual_shift(steps=4, min_noise_level=0.2).b.sqrt()
    expected = torch.tensor([0.1, 0.520096, 0.761382, 0.99], dtype=torch.float64)
    torch.testing.assert_close(four, expected, atol=5e-7, rtol=0)


@pytest.mark.parametrize("t", [14, 7, 1, 0])
def test_resshift_is_tad_sr_equations_1_to_3(t):
    kappa, eta = 2.0, [*SQRT_ETA_15, 0.0]  # eta[-1] = 0: the clean end
    eta = [value**2 for value in eta]
    process, (z0, eps, y), (_, z_hat, _) = residual_shift(kappa=kappa), latents(), latents(1)
    now = torch.full((3,), t)
    z_t = z0 + eta[t] * (y - z0) + kappa * eta[t] ** 0.5 * eps  # Eq. 1
    tight = {"atol": 3e-5, "rtol": 1e-4}  # the table above has six digits
    torch.testing.assert_close(process.perturb(z0, eps, now, y), z_t, **tight)
    alpha = eta[t] - eta[t - 1]
    mean, variance = process.posterior(z_hat, z_t, now, y)  # Eq. 2
    torch.testing.assert_close(mean, eta[t - 1] / eta[t] * z_t + alpha / eta[t] * z_hat, **tight)
    expected = torch.full((3, 1, 1, 1), kappa**2 * eta[t - 1] / eta[t] * alpha)
    torch.testing.assert_close(variance, expected, **tight)
    m = (eta[t - 1] / eta[t]) ** 0.5  # Eq. 3
    j = eta[t - 1] - (eta[t - 1] * eta[t]) ** 0.5
    k = 1 - j - m
    torch.testing.assert_close(
        process.step(z_hat, z_t, now, now - 1, y), k * z_hat + m * z_t + j * y, **tight
    )


@given(name=st.sampled_from(sorted(FACTORIES)), t=st.integers(0, 999), seed=st.integers(0, 99))
def test_a_step_to_the_clean_end_is_the_estimate(name, t, seed):
    process, (z0, eps, y) = FACTORIES[name](), latents(seed)
    now = at(process, t, t, t)
    z_t = process.perturb(z0, eps, now, y)
    z_hat = z0 + 0.1 * eps
    torch.testing.assert_close(process.step(z_hat, z_t, now, torch.full((3,), -1), y), z_hat)
    mean, variance = process.posterior(z_hat, z_t, torch.zeros_like(now), y)
    torch.testing.assert_close(mean, z_hat)
    assert not variance.any()


@given(name=st.sampled_from(sorted(FACTORIES)), t=st.integers(0, 999), seed=st.integers(0, 99))
def test_noise_undoes_perturb(name, t, seed):
    process, (z0, eps, y) = FACTORIES[name](), latents(seed)
    now = at(process, t, t + 1, t + 2)
    back = process.noise(z0, process.perturb(z0, eps, now, y), now, y)
    torch.testing.assert_close(back, eps, atol=3e-4, rtol=1e-3)


@pytest.mark.parametrize("name", FACTORIES)
def test_noise_increases_and_the_signal_falls(name):
    process = FACTORIES[name]()
    assert (process.s.diff() > 0).all() and (process.a.diff() < 0).all()
    assert {process.a.dtype, process.b.dtype, process.s.dtype} == {torch.float64}


def test_wrong_kinds_are_refused():
    table = torch.ones(3)
    with pytest.raises(ValueError, match='found "x0"'):
        Process(table, table, table, "x0")
    with pytest.raises(ValueError, match='found "mul"'):
        Process(table, table, table, "eps", markov="mul")
