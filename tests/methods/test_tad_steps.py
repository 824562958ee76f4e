"""Whole training steps of TAD-SR through a real ResShift network, against the authors' step written out.

`test_tadsr` holds the method to recorded numbers; here the networks, the base and the optimisers take part.
"""

import copy
import functools
import math

import pytest
import torch
import torch.nn.functional as F
from resshift_golden import student, weights
from test_tadsr import stirred
from torch import Tensor, nn

from unistep.bases.resshift.base import ResShiftBase
from unistep.bases.resshift.network import ResShiftConfig
from unistep.bases.resshift.student import build
from unistep.bases.resshift.swin import SwinUNet
from unistep.diffusion.denoiser import Batch
from unistep.methods import tadsr
from unistep.methods.tadsr import TADSR, TADSRConfig

T, KAPPA, LR = 15, 2.0, 5e-5
SQRT_ETA = [0.02 * (0.99 / 0.02) ** ((i / (T - 1)) ** 0.3) for i in range(T)]
TAPS = ("input_blocks.2", "input_blocks.4", "input_blocks.5", "middle_block")


@functools.cache
def base(checkpointing: bool = False) -> ResShiftBase:
    parts = weights("sinsr")
    file = build(parts["unet"], parts["vq"], variant="tadsr", dtype=torch.float32, folded=False)
    return ResShiftBase(*file, ResShiftConfig(checkpointing=checkpointing))


def opened(score: str, checkpointing: bool = False) -> TADSR:
    config = TADSRConfig.released("resshift", c_dim=8, embed_dim=32, score=score)
    torch.manual_seed(0)
    method = TADSR.build(config, base(checkpointing), unused)
    method.student.net.load_state_dict(student())
    assert method.critic is not None
    stirred(method.critic)
    return method


def unused(form: str) -> object:
    raise AssertionError(form)


def draws() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    shape = (2, 3, 16, 16)
    return {
        "lq": torch.rand(shape, generator=generator) * 2 - 1,
        "hq": torch.rand(2, 3, 64, 64, generator=generator) * 2 - 1,
        "prior": torch.randn(shape, generator=generator),
        "dis": torch.rand(shape, generator=generator),
        "score": torch.rand(shape, generator=generator),
        "t_dis": torch.tensor([2, 11]),
        "t_score": torch.tensor([0, 2]),
    }


def ours(
    monkeypatch: pytest.MonkeyPatch, method: TADSR, d: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A step as the loop makes it: losses, and what the two networks are after it."""
    eps, times = [d["prior"], d["dis"], d["score"]], [d["t_dis"], d["t_score"]]
    monkeypatch.setattr(tadsr, "draw_eps", lambda kind, like: eps.pop(0))
    monkeypatch.setattr(tadsr, "draw_t", lambda below, like: times.pop(0))
    batch = Batch(d["lq"], d["hq"], base().encode(d["hq"]), base().cond(d["lq"]))
    optimisers = [torch.optim.AdamW(net.parameters(), LR, weight_decay=0) for net in players(method)]
    z_hat = method.generate(batch)
    found = {f"critic/{k}": v for k, v in method.critic_loss(batch, z_hat.detach()).items()}
    found["critic/gan"].backward()
    optimisers[1].step()
    terms = method.generator_loss(batch, z_hat)
    sum(terms.values()).backward(inputs=[*method.student.parameters()])
    optimisers[0].step()
    return found | terms, state(method)


def players(method: TADSR) -> tuple[nn.Module, nn.Module]:
    assert isinstance(method.student, nn.Module) and method.critic is not None
    return method.student, method.critic


def state(method: TADSR) -> dict[str, Tensor]:
    """Weights, gradients and buffers (the critic's spectral norms) of both."""
    found: dict[str, Tensor] = {}
    for who, net in zip(("student", "critic"), players(method), strict=True):
        found |= {f"{who}.{name}": p.detach().clone() for name, p in net.state_dict().items()}
        found |= {f"{who}.{name}.grad": p.grad for name, p in net.named_parameters() if p.grad is not None}
    return found


def theirs(method: TADSR, d: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The authors' training_step with its losses for the two networks, as released, line by line."""
    f, critic = players(method)
    own: SwinUNet = f.net
    teacher: SwinUNet = copy.deepcopy(base().net)
    vq = base().codec.vq
    z_y, z_gt = vq.encode(F.interpolate(d["lq"], scale_factor=4, mode="bicubic")), vq.encode(d["hq"])

    def eta(t: Tensor) -> Tensor:
        return torch.tensor([SQRT_ETA[i] ** 2 for i in t]).view(-1, 1, 1, 1)

    def scale_input(x: Tensor, t: Tensor) -> Tensor:
        return x / torch.sqrt(eta(t) * KAPPA**2 + 1)

    def q_sample(x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        return eta(t) * (z_y - x) + x + eta(t).sqrt() * KAPPA * noise

    def eps_from(x_t: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        return (x_t - (x0 + eta(t) * (z_y - x0))) / (eta(t).sqrt() * KAPPA)

    def call(net: SwinUNet, x: Tensor, t: Tensor) -> Tensor:
        return net(scale_input(x, t), d["lq"], t)

    def features(x: Tensor, t: Tensor, noise: Tensor) -> list[Tensor]:
        seen: list[Tensor] = []
        hooks = [teacher.get_submodule(name).register_forward_hook(lambda _, __, out: seen.append(out))
                 for name in TAPS]  # fmt: skip
        call(teacher, q_sample(x, t, noise), t)
        for hook in hooks:
            hook.remove()
        return seen

    def logits(maps: list[Tensor]) -> Tensor:
        return torch.cat([one.flatten(1) for one in critic(maps, d["t_dis"])], dim=1)

    last = torch.full((2,), T - 1)
    z_t = z_y + KAPPA * 0.99 * d["prior"]
    x_s = call(own, z_t, last)

    optimiser = torch.optim.AdamW(critic.parameters(), LR, weight_decay=0)
    with torch.no_grad():
        real = features(z_gt, d["t_dis"], d["dis"])
    fake = features(x_s, d["t_dis"], d["dis"])
    loss_real = F.relu(1 - logits(real)).mean()
    loss_d = loss_real + F.relu(1 + logits([one.detach() for one in fake])).mean()
    loss_d.backward()
    optimiser.step()

    with torch.no_grad():
        x = z_t
        for i in reversed(range(T)):
            x0 = call(teacher, x, torch.full((2,), i))
            if i == 0:
                x = x0
                break
            now, before = SQRT_ETA[i] ** 2, SQRT_ETA[i - 1] ** 2
            m, j = math.sqrt(before / now), before - math.sqrt(before * now)
            x = (1 - j - m) * x0 + m * x + j * z_y
        t, noise = d["t_score"], d["score"]
        x_stu = q_sample(x_s.detach(), t, noise)
        eps_stu = eps_from(x_stu, call(teacher, scale_input(x_stu, t), t), t)
        x_tch = q_sample(x, t, noise)
        eps_tch = eps_from(x_tch, call(teacher, scale_input(x_tch, t), t), t)
        grad_z = eps_stu - (eps_tch if method.config.score == "hsd" else noise)
    losses = {"critic/gan": loss_d, "distill": ((x_s - x) ** 2).mean(), "gan": 0.02 * -logits(fake).mean()}
    total = losses["distill"] + (grad_z * x_s).mean() + losses["gan"]
    optimiser = torch.optim.AdamW(f.parameters(), LR, weight_decay=0)
    total.backward(inputs=[*f.parameters()])
    optimiser.step()
    return losses, state(method)


def apart(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return ((found - wanted).detach().abs().max() / wanted.abs().max().clamp_min(1e-12)).item()


@pytest.mark.parametrize("score", ["hsd", "sds"])
def test_a_step_is_the_authors_step(monkeypatch, score):
    before = state(opened(score))
    losses, after = ours(monkeypatch, opened(score), draws())
    wanted_losses, wanted = theirs(opened(score), draws())
    for name, value in wanted_losses.items():
        assert apart(losses[name], value) < 1e-4, name
    assert after.keys() == wanted.keys()
    for who in ("student", "critic"):
        names = [name for name in wanted if name.startswith(who) and f"{name}.grad" in wanted]
        # Some gradients are 0 but for rounding: of what comes before a norm of single channels.
        largest = max(wanted[f"{name}.grad"].abs().max().item() for name in names)
        for name in (f"{name}.grad" for name in names):
            error = (after[name] - wanted[name]).abs().max().item()
            assert error < 1e-4 * wanted[name].abs().max().item() + 1e-6 * largest, name
        # The first step of AdamW is lr times the gradient's sign, of those 0s either one's.
        off, step = (
            torch.cat(
                [(a[n] - b[n]).flatten() for n in names if wanted[f"{n}.grad"].abs().max() > 1e-5 * largest]
            )
            for a, b in ((after, wanted), (wanted, before))
        )
        assert off.norm() < 0.01 * step.norm() and step.abs().max() < 1.01 * LR, who
    for name in ("weight_u", "weight_v"):  # spectral norms: one power iteration for each forward
        same = [apart(after[key], value) for key, value in wanted.items() if key.endswith(name)]
        assert len(same) == 12 and max(same) < 1e-4, name


def test_checkpointing_changes_no_gradient(monkeypatch):
    """Student and frozen features are computed again in the backward pass; the student's is asked there."""
    _, wanted = ours(monkeypatch, opened("hsd"), draws())
    method, calls = opened("hsd", checkpointing=True), []
    method.student.net.middle_block.register_forward_pre_hook(lambda *_: calls.append(1))
    _, found = ours(monkeypatch, method, draws())
    assert len(calls) == 2
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name
