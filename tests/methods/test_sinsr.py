"""SinSR against the authors' recorded training steps, and what each of its losses asks of the student."""

import functools
from collections.abc import Callable

import goldens
import pytest
import torch
from loop import updates
from resshift_golden import student, weights
from safetensors.torch import load_file
from torch import Tensor, nn

from unistep.bases.resshift.base import ResShiftBase
from unistep.bases.resshift.student import build
from unistep.diffusion.denoiser import Batch, Cond, Denoiser
from unistep.diffusion.process import residual_shift
from unistep.errors import ConfigError
from unistep.methods.sinsr import SinSR, SinSRConfig, consistency, deviation, distill, inverse

GOLDEN = goldens.GOLDEN / "sinsr"
T = 15


@functools.cache
def recorded() -> dict[str, Tensor]:
    return load_file(GOLDEN / "distill.safetensors")


@functools.cache
def base() -> ResShiftBase:
    parts = weights("sinsr")
    return ResShiftBase(
        *build(parts["unet"], parts["vq"], variant="sinsr", dtype=torch.float32, folded=False)
    )


def apart(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return ((found.detach() - wanted).abs().max() / wanted.abs().max()).item()


# ---------------------------------------------------------------- the authors' trainer, recorded


@pytest.mark.parametrize(
    ("case", "config", "terms"),
    [
        ("distill", SinSRConfig("resshift", weight_inverse=0, weight_gt=0), {"distill": "mse"}),
        (
            "distill_gt",
            SinSRConfig.released("resshift"),
            {"distill": "mse", "inverse": "mse_xT", "gt": "mse_gt"},
        ),
    ],
)
def test_a_step_is_the_recorded_step(monkeypatch, case, config, terms):
    """Losses, the gradient's norm over all weights and the last convolution's gradient, on its networks."""
    method = SinSR.build(config, base(), unused)
    assert isinstance(method.student, nn.Module)
    method.student.net.load_state_dict(student())
    r = recorded()
    batch = Batch(r["train/lr"], r["train/gt"], base().encode(r["train/gt"]), base().cond(r["train/lr"]))
    monkeypatch.setattr(torch, "randn_like", lambda _: r["train/noise"])
    found = method.generator_loss(batch, method.generate(batch))
    assert set(found) == set(terms)
    for term, name in terms.items():
        assert apart(found[term], r[f"{case}/{name}"].mean()) < 1e-4, term
    assert apart(method.z_tch, r["distill/z_start_teacher"]) < 1e-3  # fifteen steps, one after the other
    total = sum(found.values())
    assert apart(total, r[f"{case}/loss"].mean()) < 1e-4
    total.backward()
    grads = {name: p.grad for name, p in method.student.net.named_parameters()}
    assert all(g is not None for g in grads.values())
    assert apart(grads["out.2.weight"], r[f"{case}/grad_out_conv_weight"]) < 1e-4
    norm = torch.stack([g.norm() for g in grads.values()]).norm()
    assert apart(norm, r[f"{case}/grad_norm_all"]) < 1e-4


def test_the_inverses_scale_is_the_last_indexs():
    """The denoiser of ResShift sees z_0 / sqrt(kappa^2 eta_T + 1) at index 0; with our own scale, eta_0's."""
    seen: list[Tensor] = []
    denoiser = base().denoiser("student", "resshift")
    denoiser.net.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    z = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    cond = Cond(torch.zeros(2, 3, 16, 16), z)
    for config in (SinSRConfig.released("resshift"), SinSRConfig("resshift")):
        SinSR(config, denoiser, denoiser).invert(z, cond)
    eta = base().process("resshift").b.float()
    for x, index in zip(seen, (-1, 0), strict=True):
        torch.testing.assert_close(x, z / (4 * eta[index] + 1).sqrt())
    assert deviation(residual_shift(), torch.tensor([T - 1])).item() == pytest.approx((1 + 4 * 0.9801) ** 0.5)


# ---------------------------------------------------------------- what is asked of whom


class Toy(Denoiser):
    """z_0 = gain z_t + bias; remembers what it was asked, and whether a gradient was wanted."""

    def __init__(self, gain: float, bias: float = 0.0):
        super().__init__()
        self.process = residual_shift()
        self.gain, self.bias = nn.Parameter(torch.tensor(gain)), nn.Parameter(torch.tensor(bias))
        self.asked: list[tuple[Tensor, int, Cond, bool]] = []

    def forward(self, z_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        self.asked.append((z_t.detach(), int(t[0]), cond, torch.is_grad_enabled()))
        return self.gain * z_t + self.bias


def toys(config: SinSRConfig) -> tuple[SinSR, Batch]:
    generator = torch.Generator().manual_seed(3)
    y, z_hq, image = torch.randn(3, 2, 3, 4, 4, generator=generator)
    cond = Cond(image, y)
    method = SinSR(config, Toy(0.5), Toy(0.3, 0.1).requires_grad_(False))
    return method, Batch(image, z_hq, z_hq, cond, cond_hq=Cond(image, y, prompt=torch.ones(1, 1, 1)))


def unused(form: str) -> Callable[[Tensor, Tensor], Tensor]:
    raise AssertionError(form)


def test_who_is_asked_what():
    """The student at the last index, at 0 for the two ways back, the high-quality one without a gradient."""
    method, batch = toys(SinSRConfig("resshift"))
    z_hat = method.generate(batch)
    asked = method.student.asked
    assert [(t, grad) for _, t, _, grad in asked] == [(14, True), (0, True), (0, False), (14, True)]
    assert all(cond is batch.cond for _, _, cond, _ in asked)
    teacher = method.teacher.asked
    assert [t for _, t, _, _ in teacher] == [*reversed(range(T))]
    assert all(cond is batch.told and not grad for _, _, cond, grad in teacher)
    for given, wanted in zip(
        [z for z, *_ in asked], [method.z_T, method.z_tch, batch.z_hq, 0.5 * batch.z_hq], strict=True
    ):
        assert torch.equal(given, wanted)
    assert torch.equal(teacher[0][0], method.z_T) and torch.equal(z_hat, 0.5 * method.z_T)
    noise = (method.z_T - batch.cond.y) / 1.98
    assert 0.7 < noise.std() < 1.3
    terms = method.generator_loss(batch, z_hat)
    assert len(asked) == 4, "only `generate` may call the student"
    pairs = {
        "distill": (z_hat, method.z_tch), "inverse": (0.5 * method.z_tch, method.z_T),
        "gt": (0.25 * batch.z_hq, batch.z_hq),
    }  # fmt: skip
    for name, (a, b) in pairs.items():
        assert terms[name].item() == pytest.approx(((a - b) ** 2).mean().item(), rel=1e-5), name
    assert method.critic_loss(batch, z_hat) == {} and method.critic is None


def test_losses_are_means_of_squares():
    a, b = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for loss in (distill, inverse, consistency):
        assert loss(a, b).item() == pytest.approx(((a - b) ** 2).mean().item(), rel=1e-5)


def test_weights_scale_their_terms():
    torch.manual_seed(0)
    method, batch = toys(SinSRConfig("resshift"))
    one = method.generator_loss(batch, method.generate(batch))
    torch.manual_seed(0)
    method, batch = toys(SinSRConfig("resshift", weight_distill=2, weight_inverse=3, weight_gt=5))
    other = method.generator_loss(batch, method.generate(batch))
    found = {name: (other[name] / one[name]).item() for name in one}
    assert found == pytest.approx({"distill": 2, "inverse": 3, "gt": 5})


@pytest.mark.parametrize(
    ("weights", "terms", "calls"),
    [
        ({"weight_inverse": 0, "weight_gt": 0}, {"distill"}, (1, T)),
        ({"weight_inverse": 0, "weight_distill": 0}, {"gt"}, (3, 0)),
        ({"weight_gt": 0}, {"distill", "inverse"}, (2, T)),
    ],
)
def test_a_weight_of_0_costs_nothing(weights, terms, calls):
    method, batch = toys(SinSRConfig("resshift", **weights))
    assert set(method.generator_loss(batch, method.generate(batch))) == terms
    assert (len(method.student.asked), len(method.teacher.asked)) == calls


def test_the_way_back_of_the_high_quality_latent_is_fixed():
    """d gt / d gain = 2 mean((g^2 z - z) g z): the inner g is a constant."""
    method, batch = toys(SinSRConfig("resshift", weight_distill=0, weight_inverse=0))
    terms = method.generator_loss(batch, method.generate(batch))
    method_gain = method.student.gain
    terms["gt"].backward()
    z = batch.z_hq
    assert method_gain.grad is not None
    assert method_gain.grad.item() == pytest.approx((2 * (0.25 * z - z) * 0.5 * z).mean().item(), rel=1e-5)


def test_autocast_keeps_every_gradient():
    """Casts of weights are kept: one that was made without a gradient must not serve a call with one."""

    class Linear(Toy):
        def __init__(self) -> None:
            super().__init__(1.0)
            self.layer = nn.Conv2d(3, 3, 1)

        def forward(self, z_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
            return self.layer(z_t).float()

    for off in ({"weight_distill": 0, "weight_inverse": 0}, {"weight_inverse": 0, "weight_gt": 0}, {}):
        _, batch = toys(SinSRConfig("resshift"))
        method = SinSR(SinSRConfig("resshift", **off), Linear(), Toy(0.3).requires_grad_(False))
        with torch.autocast("cpu", torch.bfloat16):
            terms = method.generator_loss(batch, method.generate(batch))
        for term in terms.values():
            (grad,) = torch.autograd.grad(term, method.student.layer.weight, retain_graph=True)
            assert grad.abs().max() > 0


@pytest.mark.parametrize("weights", [{}, {"weight_gt": 0}, {"released_scale": True}])
def test_a_step_moves_the_student_alone(weights):
    found, losses = updates(SinSRConfig("resshift", **weights), steps=2)
    assert found == [("student", {"student"})] * 2
    assert set(losses) >= {"student/distill", "student/inverse"}


def test_distillation_brings_the_student_to_the_teacher():
    torch.manual_seed(0)
    method, batch = toys(SinSRConfig("resshift", weight_inverse=0, weight_gt=0))
    optimiser = torch.optim.Adam(method.student.parameters(), lr=0.02)
    losses = []
    for _ in range(200):
        loss = method.generator_loss(batch, method.generate(batch))["distill"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) < 0.2 * sum(losses[:20])


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"weight_gt": -1.0}, r"expected method\.weight_gt to be 0 or more, found -1\.0"),
        ({"weight_inverse": float("nan")}, r"expected method\.weight_inverse to be 0 or more, found nan"),
        ({"teacher_steps": 0}, r"expected method\.teacher_steps to be 1 or more, found 0"),
        ({"weight_distill": 0, "weight_gt": 0}, r"found none; set method\.weight_distill"),
    ],
)
def test_a_bad_setting_is_one_sentence(bad, message):
    with pytest.raises(ConfigError, match=message):
        SinSRConfig("resshift", **bad)


def test_more_steps_than_the_process_has():
    with pytest.raises(ConfigError, match=r"method\.teacher_steps to be at most 15, .* found 16"):
        SinSR.build(SinSRConfig("resshift", teacher_steps=16), base(), unused)
    with pytest.raises(ConfigError, match=r"expected method\.process to be resshift"):
        SinSR.build(SinSRConfig(process="ddpm"), base(), unused)


def test_released_settings():
    """official trainer: all three at weight 1, 15 steps, index 0 with the scale of the last."""
    assert SinSRConfig.released("resshift") == SinSRConfig("resshift", 1.0, 1.0, 1.0, 15, True)
    assert SinSRConfig.released("resshift", weight_gt=0.5).weight_gt == 0.5
    assert not SinSRConfig("resshift").released_scale
