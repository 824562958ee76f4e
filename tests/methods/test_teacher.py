"""Pre-training: its terms are its equations, and each moves the network."""

import math

import pytest
import torch
from torch import Tensor, nn

from unistep.bases.compact.base import CompactBase
from unistep.bases.compact.network import SIGMA_DATA, CompactConfig, CompactDenoiser, Residual, decode, encode
from unistep.diffusion.denoiser import Batch
from unistep.errors import ConfigError
from unistep.losses.terms import edge_loss, grid_loss
from unistep.methods.teacher import Teacher, TeacherConfig, sample_s


def batch(n: int = 10, side: int = 16) -> tuple[CompactDenoiser, Batch]:
    torch.manual_seed(0)
    denoiser = CompactDenoiser(CompactConfig((8, 8, 8), (1, 1, 1)))
    x_lq, x_hq = torch.rand(n, 3, side // 4, side // 4) * 2 - 1, torch.rand(n, 3, side, side) * 2 - 1
    return denoiser, Batch(x_lq, x_hq, encode(x_hq), denoiser.cond(x_lq))


def blurred(x: Tensor, target: Tensor) -> Tensor:
    """A stand-in for a perceptual distance."""
    return nn.functional.avg_pool2d(x - target, 4).abs().mean()


def test_every_term_moves_the_student():
    denoiser, one = batch()
    teacher = Teacher(
        TeacherConfig(weight_edge=0.5, weight_lpips=0.5, weight_grid=2.0),
        Residual(denoiser), SIGMA_DATA, decode, blurred,
    )  # fmt: skip
    z_hat = teacher.generate(one)
    terms = teacher.generator_loss(one, z_hat)
    assert set(terms) == {"denoise", "slot", "edge", "lpips", "grid"} and z_hat.shape == (7, 48, 4, 4)
    parameters = dict(teacher.student.named_parameters())
    for name, term in terms.items():
        gradients = torch.autograd.grad(term, list(parameters.values()), retain_graph=True, allow_unused=True)
        moved = {key for key, g in zip(parameters, gradients, strict=True) if g is not None and g.any()}
        assert len(moved) > 0.9 * len(parameters) - len([k for k in parameters if "time" in k]), name
    assert teacher.critic is None and teacher.critic_loss(one, z_hat) == {}


def test_terms_are_the_equations():
    denoiser, one = batch()
    config = TeacherConfig(
        weight_denoise=2.0, weight_slot=3.0, weight_edge=0.5, weight_lpips=0.25, weight_grid=1.5
    )
    teacher = Teacher(config, Residual(denoiser), SIGMA_DATA, decode, blurred)
    torch.manual_seed(5)
    with torch.no_grad():
        z_hat = teacher.generate(one)
        terms = teacher.generator_loss(one, z_hat)
        torch.manual_seed(5)
        n = 3  # of 10: slot_share is 0.7
        s = sample_s(config, n, torch.device("cpu"))
        r0 = one.z_hq - one.cond.y
        w = r0[:n] + s.view(-1, 1, 1, 1) * torch.randn(n, 48, 4, 4)
        r = denoiser.residual(w, one.cond.image[:n], s)
        c_out = s * SIGMA_DATA / (s**2 + SIGMA_DATA**2).sqrt()
        denoise = ((r - r0[:n]).square().mean((1, 2, 3)) / c_out**2).mean()
        slot = denoiser.slot(denoiser.cond(one.x_lq[n:]))
    assert terms["denoise"].item() == pytest.approx(2 * denoise.item(), rel=1e-5)
    torch.testing.assert_close(z_hat, slot)
    assert terms["slot"].item() == pytest.approx(
        3 * (slot - one.z_hq[n:]).abs().mean().item() / SIGMA_DATA, rel=1e-5
    )
    assert terms["edge"].item() == pytest.approx(
        0.5 * edge_loss(decode(slot), one.x_hq[n:]).item() / SIGMA_DATA, rel=1e-5
    )
    assert terms["lpips"].item() == pytest.approx(0.25 * blurred(decode(slot), one.x_hq[n:]).item(), rel=1e-5)
    assert terms["grid"].item() == pytest.approx(
        1.5 * grid_loss(decode(slot), one.x_hq[n:]).item() / SIGMA_DATA, rel=1e-5
    )


@pytest.mark.parametrize("share,names", [(0.0, {"denoise"}), (1.0, {"slot"})])
def test_shares_of_the_batch(share, names):
    denoiser, one = batch(4)
    teacher = Teacher(TeacherConfig(slot_share=share), Residual(denoiser), SIGMA_DATA, decode)
    terms = teacher.generator_loss(one, teacher.generate(one))
    assert set(terms) == names


@pytest.mark.parametrize("share,first", [(0.0, 4), (0.2, 3), (0.4, 2), (0.7, 1), (0.9, 0), (1.0, 0)])
def test_a_share_is_the_nearest_number_of_images(share, first):
    denoiser, one = batch(4)
    teacher = Teacher(TeacherConfig(slot_share=share), Residual(denoiser), SIGMA_DATA, decode)
    assert teacher.split(one) == first and len(teacher.generate(one)) == 4 - first


def test_noise_levels():
    torch.manual_seed(0)
    s = sample_s(TeacherConfig(), 20_000, torch.device("cpu"))
    assert s.min() == pytest.approx(0.005) and s.max() == 5
    assert s.log().median().item() == pytest.approx(math.log(0.12), abs=0.03)
    assert s.log().std().item() == pytest.approx(1.2, abs=0.05)


def test_build_opens_what_the_config_needs():
    denoiser, one = batch(4)
    opened = []

    def perceptual(form):
        opened.append(form)
        return blurred

    base = CompactBase(denoiser)
    assert Teacher.build(TeacherConfig(), base, perceptual).perceptual is None and not opened
    teacher = Teacher.build(TeacherConfig(weight_lpips=1.0), base, perceptual)
    assert opened == ["lpips"] and set(teacher.generator_loss(one, teacher.generate(one))) == {
        "denoise", "slot", "lpips",
    }  # fmt: skip
    assert all(p.requires_grad for p in teacher.student.parameters())


@pytest.mark.parametrize("bad", [{"slot_share": 1.5}, {"s_min": 0.0}, {"s_min": 6.0}, {"s_mean": 0.0}])
def test_bad_settings(bad):
    with pytest.raises(ConfigError, match=r"expected .*method"):
        TeacherConfig(**bad)
