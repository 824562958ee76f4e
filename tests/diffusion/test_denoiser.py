"""Guidance and multi-step sampling, on networks that can be read."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from unistep.diffusion.denoiser import Cond, filled
from unistep.diffusion.process import ddpm, flow, residual_shift
from unistep.diffusion.sampler import guide, sample, times


def test_guidance_is_affine():
    z0, null = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(guide(z0, null, 1.0), z0)
    torch.testing.assert_close(guide(z0, null, 0.0), null)
    torch.testing.assert_close(guide(z0, null, 7.5), null + 7.5 * (z0 - null))


def test_guidance_on_z0_is_guidance_on_the_prediction():
    """In v, eps or z_0 alike: the papers guide the network's own output."""
    z0, null, z_t = torch.randn(3, 2, 3, 4, 4)
    for process in (flow(), ddpm(predicts="eps"), ddpm(predicts="v")):
        t = torch.tensor([300, 700])
        v, v_null = (process.raw(z, z_t, t, z_t) for z in (z0, null))
        guided = process.clean(v_null + 7.5 * (v - v_null), z_t, t, z_t)
        torch.testing.assert_close(guide(z0, null, 7.5), guided, atol=1e-3, rtol=1e-3)


@given(st.integers(1, 15), st.sampled_from([residual_shift(), flow(1000), ddpm()]))
def test_times_go_down_from_the_far_end(steps, process):
    ts = times(process, steps)
    assert len(ts) == steps and ts[0] == len(process) - 1 and ts[-1] >= 0
    assert ts == sorted(set(ts), reverse=True)
    even = [len(process) - 1 - i * len(process) / steps for i in range(steps)]
    assert all(abs(t - wanted) <= 0.5 for t, wanted in zip(ts, even, strict=True))
    if steps == len(process):
        assert ts == list(range(steps))[::-1]


def gaussian(process, mean: float, sd: float):
    """The exact denoiser of z_0 ~ N(mean, sd^2)."""

    def denoise(z_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        a, b, s = process.at(t)
        return mean + a * sd**2 / ((a * sd) ** 2 + s**2) * (z_t - a * mean - b * cond.y)

    return denoise


@pytest.mark.parametrize("name", ["resshift", "flow", "ddpm"])
def test_samples_have_the_distribution_of_the_data(name):
    process = {"resshift": lambda: residual_shift(200), "flow": lambda: flow(200), "ddpm": ddpm}[name]()
    cond = Cond(torch.zeros(1), torch.full((4, 1, 64, 64), 0.3))
    torch.manual_seed(0)
    t = filled(len(process) - 1, cond.y)
    z_t = process.perturb(torch.full_like(cond.y, 0.5), torch.randn_like(cond.y), t, cond.y)
    few, many = (sample(gaussian(process, 0.5, 0.2), process, z_t, times(process, n), cond) for n in (1, 100))
    assert many.mean().item() == pytest.approx(0.5, abs=0.02)
    assert many.std().item() == pytest.approx(0.2, abs=0.03) and few.std() < 0.05


def test_one_step_is_the_denoiser():
    process, cond = residual_shift(), Cond(torch.zeros(1), torch.randn(2, 3, 4, 4))
    z_t = torch.randn(2, 3, 4, 4)
    z = sample(lambda z, t, c: z * 0.5 + t.view(-1, 1, 1, 1), process, z_t, [14], cond)
    torch.testing.assert_close(z, z_t * 0.5 + 14)
