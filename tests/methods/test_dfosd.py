"""DFOSD: its terms are the paper's equations, each moves one player, and the ablations are settings."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from loop import updates
from torch import Tensor, nn

from unistep.bases.compact.base import CompactBase
from unistep.bases.compact.network import CompactConfig, CompactDenoiser, encode
from unistep.diffusion.denoiser import Batch, Cond, Denoiser, Features
from unistep.diffusion.process import ddpm
from unistep.errors import ConfigError
from unistep.losses.terms import edge_loss, grid_loss
from unistep.methods.dfosd import (
    DFOSD,
    DISCRIMINATORS,
    SPATIAL,
    AdaptiveDiscriminator,
    DFOSDConfig,
    NoiseAwareDiscriminator,
    adversarial_loss,
    diffuse,
    discriminator_loss,
    edge_aware,
    one_step,
    sobel,
)

ALL = DFOSDConfig(weight_edge=0.5, weight_grid=2.0)


def blurred(x: Tensor, target: Tensor) -> Tensor:
    """A stand-in for a perceptual distance."""
    return F.avg_pool2d(x - target, 4).square().mean()


@pytest.fixture
def base() -> CompactBase:
    torch.manual_seed(0)
    denoiser = CompactDenoiser(CompactConfig((8, 8, 8), (1, 1, 1)))
    nn.init.normal_(denoiser.net.out.weight, std=0.1)  # it starts near 0, where every output is alike
    return CompactBase(denoiser)


@pytest.fixture
def batch(base: CompactBase) -> Batch:
    x_lq, x_hq = torch.rand(4, 3, 8, 8) * 2 - 1, torch.rand(4, 3, 32, 32) * 2 - 1
    return Batch(x_lq, x_hq, encode(x_hq), base.cond(x_lq))


def build(base: CompactBase, config: DFOSDConfig = ALL) -> DFOSD:
    return DFOSD.build(config, base, lambda form: blurred)


def abar(t: Tensor) -> Tensor:
    """Stable Diffusion's, [B, 1, 1, 1]."""
    beta = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - beta, 0)[t].float().view(-1, 1, 1, 1)


class Eps(Denoiser):
    """eps_theta as a formula of z_t and t; the border turns it into z_0."""

    def __init__(self):
        super().__init__()
        self.process = ddpm()

    def eps(self, z_t: Tensor, t: Tensor) -> Tensor:
        return torch.sin(3 * z_t) + t.view(-1, 1, 1, 1) / 1000

    def forward(self, z_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return self.process.clean(self.eps(z_t, t), z_t, t, cond.y)


class Seen(Features):
    """Its only map is z_t itself; what it was given stays in `seen`."""

    def __init__(self, channels: int = 2):
        super().__init__()
        self.process, self.widths = ddpm(), (channels,)

    def forward(self, z_t: Tensor, t: Tensor, cond: Cond) -> list[Tensor]:
        self.seen = z_t, t, cond
        return [z_t]


@pytest.mark.parametrize("t_student", [0, 249, 999])
def test_eq_1_one_step(t_student, base, batch):
    z_l, net = torch.randn(3, 2, 4, 4), Eps()
    t = torch.full((3,), t_student)
    eps = net.eps(z_l, t)
    z_hat = one_step(net, z_l, t_student, Cond(z_l, z_l))
    torch.testing.assert_close(
        z_hat, (z_l - (1 - abar(t)).sqrt() * eps) / abar(t).sqrt(), rtol=2e-5, atol=2e-5
    )

    # The compact network, through the eps that its answer stands for.
    dfosd = build(base, replace(ALL, t_student=t_student))
    t, y, process = torch.full((4,), t_student), batch.cond.y, dfosd.student.process
    with torch.no_grad():
        z_hat = dfosd.generate(batch)
        torch.testing.assert_close(z_hat, dfosd.student(y, t, batch.cond))
    eps = process.raw(z_hat, y, t, y)
    torch.testing.assert_close((y - (1 - abar(t)).sqrt() * eps) / abar(t).sqrt(), z_hat, rtol=1e-4, atol=1e-4)


def test_the_far_end_is_the_slot(base, batch):
    dfosd = build(base)
    with torch.no_grad():
        torch.testing.assert_close(dfosd.generate(batch), base.pretrained.slot(batch.cond))


def test_eq_2_and_3_adversarial():
    fake, real = (
        [torch.randn(3, 1, 4, 4), torch.randn(3, 1, 2, 2)],
        [torch.randn(3, 1, 4, 4), torch.randn(3, 1, 2, 2)],
    )
    d_fake, d_real = [torch.sigmoid(m) for m in fake], [torch.sigmoid(m) for m in real]
    generator = sum(-d.log().mean() for d in d_fake) / 2
    critic = sum(-(1 - d).log().mean() - r.log().mean() for d, r in zip(d_fake, d_real, strict=True)) / 2
    torch.testing.assert_close(adversarial_loss(fake), generator)
    torch.testing.assert_close(discriminator_loss(fake, real), critic)
    # Undecided votes cost log 2 each; a sure and right critic pays nothing, and no logit is too large.
    none, sure = [torch.zeros(1, 1, 2, 2)], [torch.full((1, 1, 2, 2), 1e4)]
    assert adversarial_loss(none).item() == pytest.approx(math.log(2))
    assert discriminator_loss(none, none).item() == pytest.approx(2 * math.log(2))
    assert discriminator_loss([-sure[0]], sure).item() == 0
    assert discriminator_loss(sure, [-sure[0]]).item() == pytest.approx(2e4)


def test_eq_4_diffusion():
    z, eps, t = torch.randn(5, 2, 4, 4), torch.randn(5, 2, 4, 4), torch.tensor([0, 1, 250, 700, 999])
    expected = abar(t).sqrt() * z + (1 - abar(t)).sqrt() * eps
    torch.testing.assert_close(diffuse(ddpm(), z, t, eps, torch.randn_like(z)), expected)
    critic = NoiseAwareDiscriminator(Seen(), DFOSDConfig())
    cond = Cond(torch.randn(5, 3, 4, 4), torch.randn(5, 2, 4, 4))
    critic(z, t, eps, cond)
    seen, seen_t, seen_cond = critic.trunk.seen
    torch.testing.assert_close(seen, expected)
    assert torch.equal(seen_t, t) and seen_cond is cond


def test_eq_5_edge_aware():
    x, target = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    expected = blurred(x, target) + blurred(sobel(x), sobel(target))
    torch.testing.assert_close(edge_aware(blurred, x, target), expected)
    assert expected > 1.01 * blurred(x, target)


def test_eq_6_and_7_sobel():
    x = torch.rand(2, 3, 7, 9) * 2 - 1
    g_x = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    g_y = torch.tensor([[-1.0, -2, -1], [0, 0, 0], [1, 2, 1]])
    for channel in range(3):
        plane = F.pad((x[:, channel : channel + 1] + 1) / 2, (1, 1, 1, 1), mode="replicate")
        along_x, along_y = (F.conv2d(plane, g.view(1, 1, 3, 3)) for g in (g_x, g_y))
        s = (along_x**2 + along_y**2).sqrt() / 20**0.5 * 2 - 1
        torch.testing.assert_close(sobel(x)[:, channel : channel + 1], s, rtol=0, atol=1e-3)
        torch.testing.assert_close(sobel(x, 0.0)[:, channel : channel + 1], s)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(sobel(x), sobel(x.float()))
    assert sobel(x.bfloat16()).dtype == torch.float32


def test_sobel_of_known_images():
    step = torch.full((1, 3, 6, 6), -1.0)
    step[..., 3:] = 1
    edge = 2 * 4 / math.sqrt(20) - 1  # the kernel's positive half sums to 4
    for image, turn in ((step, lambda s: s), (step.mT, lambda s: s.mT)):
        s = turn(sobel(image))
        torch.testing.assert_close(s[..., 2:4], torch.full((1, 3, 6, 2), edge))
        torch.testing.assert_close(s[..., [0, 1, 4, 5]], torch.full((1, 3, 6, 4), -1.0), rtol=0, atol=1e-3)
    steepest = torch.tensor([[-1.0, -1, 1], [-1, 0, 1], [-1, 1, 1]]).view(1, 1, 3, 3)
    assert sobel(steepest)[0, 0, 1, 1].item() == pytest.approx(1, abs=1e-6)
    flat = torch.zeros(1, 3, 5, 5, requires_grad=True)
    sobel(flat).sum().backward()
    assert flat.grad.isfinite().all()


@pytest.mark.parametrize(
    "spatial,name,form,edges",
    [
        ("mse", None, None, False),
        ("lpips", "lpips", "lpips", False),
        ("ea-lpips", "ea_lpips", "lpips", True),
        ("dists", "dists", "dists", False),
        ("ea-dists", "ea_dists", "dists", True),
    ],
)
def test_eq_8_and_table_5(spatial, name, form, edges, base, batch):
    opened = []
    config = DFOSDConfig(spatial=spatial, weight_mse=2.0, lambda_perceptual=0.25, discriminator="none")
    dfosd = DFOSD.build(config, base, lambda form: (opened.append(form), blurred)[1])
    assert opened == [form] * (form is not None)
    with torch.no_grad():
        z_hat = dfosd.generate(batch)
        terms = dfosd.generator_loss(batch, z_hat)
    x_hat, x_hq = F.pixel_shuffle(z_hat, 4), batch.x_hq
    expected = {"mse": 2 * (x_hat - x_hq).square().mean()}
    if name:
        distance = blurred(x_hat, x_hq) + (blurred(sobel(x_hat), sobel(x_hq)) if edges else 0)
        expected[name] = 0.25 * distance
    assert set(terms) == set(expected)
    for key, value in expected.items():
        torch.testing.assert_close(terms[key], value)


def test_whole_generator_loss(base, batch):
    """Section 3.4: L_spatial + lambda_1 L_G, and our two terms."""
    dfosd = build(base, replace(ALL, lambda_adv=0.3))
    with torch.no_grad():
        z_hat = dfosd.generate(batch)
        torch.manual_seed(7)
        terms = dfosd.generator_loss(batch, z_hat)
        torch.manual_seed(7)
        t = torch.randint(0, 1000, (4,))
        eps = torch.randn_like(z_hat)
        z_t = abar(t).sqrt() * z_hat + (1 - abar(t)).sqrt() * eps
        maps = dfosd.critic.trunk(z_t, t, batch.cond)
        d = [torch.sigmoid(head(m)) for head, m in zip(dfosd.critic.heads, maps, strict=True)]
    assert list(terms) == ["mse", "ea_dists", "nad", "edge", "grid"]
    torch.testing.assert_close(terms["nad"], 0.3 * sum(-votes.log().mean() for votes in d) / 3)
    x_hat = base.decode(z_hat)
    torch.testing.assert_close(terms["edge"], 0.5 * edge_loss(x_hat, batch.x_hq))
    torch.testing.assert_close(terms["grid"], 2 * grid_loss(x_hat, batch.x_hq))


def test_weight_0_leaves_a_term_out(base, batch):
    config = DFOSDConfig(weight_mse=0.0, lambda_perceptual=0.0, lambda_adv=0.0, weight_edge=1.0)
    dfosd = DFOSD.build(config, base, lambda form: pytest.fail("opened for nothing"))
    assert set(dfosd.generator_loss(batch, dfosd.generate(batch))) == {"edge"}


def test_no_discriminator_where_lambda_adv_is_0(base, batch):
    dfosd = build(base, replace(ALL, lambda_adv=0.0))
    assert dfosd.critic is None and dfosd.critic_loss(batch, batch.z_hq) == {}
    assert "nad" not in dfosd.generator_loss(batch, dfosd.generate(batch))


NONE = {
    "weight_mse": 0.0,
    "lambda_perceptual": 0.0,
    "lambda_adv": 0.0,
    "weight_edge": 0.0,
    "weight_grid": 0.0,
}
TERMS = {
    "mse": {"weight_mse": 1.0},
    **{name.replace("-", "_"): {"spatial": name, "lambda_perceptual": 1.0} for name in SPATIAL[1:]},
    **{name.replace("-", "_"): {"discriminator": name, "lambda_adv": 1.0} for name in DISCRIMINATORS},
    "edge": {"weight_edge": 1.0},
    "grid": {"weight_grid": 1.0},
}
"""Each term of the student -> what leaves it alone."""


@pytest.mark.parametrize("term", TERMS)
def test_each_term_moves_the_student_alone(term):
    """A step of the real loop, perceptual distances over the teacher's frozen features."""
    found, losses = updates(DFOSDConfig(**{**NONE, **TERMS[term]}))
    adversary = "discriminator" in TERMS[term]
    assert found == [("student", {"student"}), ("critic", {"critic"})][: 2 if adversary else 1]
    names = {f"student/{term}", "student/grad_norm"}
    assert set(losses) == names | ({f"critic/{term}", "critic/grad_norm"} if adversary else set())


@pytest.mark.parametrize("discriminator", ["vanilla", "diffusion-gan", "nad"])
def test_critic_loss_moves_trunk_and_heads_alone(discriminator, base, batch):
    dfosd = build(base, replace(ALL, discriminator=discriminator))
    ((name, loss),) = dfosd.critic_loss(batch, dfosd.generate(batch).detach()).items()
    assert name == discriminator.replace("-", "_")
    loss.backward()
    assert all(p.grad is None for p in dfosd.student.parameters())
    still = {key for key, p in dfosd.critic.named_parameters() if p.grad is None or not p.grad.any()}
    assert {key for key in still if "time" not in key and "film" not in key} == set()


def test_critic_loss_is_eq_3_on_pairs(base, batch):
    dfosd = build(base)
    given = []
    dfosd.critic.register_forward_pre_hook(lambda _, args: given.append(args))
    z_fake = torch.randn_like(batch.z_hq)
    with torch.no_grad():
        loss = dfosd.critic_loss(batch, z_fake)["nad"]
        (fake, t, eps, cond), (real, t_real, eps_real, cond_real) = given
        assert torch.equal(fake, z_fake) and torch.equal(real, batch.z_hq)
        assert t is t_real and eps is eps_real and cond is cond_real is batch.cond
        d_fake, d_real = ([torch.sigmoid(m) for m in dfosd.critic(z, t, eps, cond)] for z in (fake, real))
    expected = sum(-(1 - f).log().mean() - r.log().mean() for f, r in zip(d_fake, d_real, strict=True)) / 3
    torch.testing.assert_close(loss, expected)


def test_twenty_steps_leave_the_features_alone():
    """Each update changes one player; the teacher's features and the pretrained network keep every bit."""
    found, _ = updates(replace(ALL, discriminator="diffusion-gan", ada_every=2), steps=20)
    assert found == 20 * [("student", {"student"}), ("critic", {"critic"})]


def test_the_student_learns_to_fool_the_critic(base, batch):
    config = DFOSDConfig(weight_mse=0.0, lambda_perceptual=0.0, lambda_adv=1.0, t_nad_max=50)
    dfosd = build(base, config)
    student = torch.optim.Adam(dfosd.student.parameters(), 3e-3)
    critic = torch.optim.Adam(dfosd.critic.parameters(), 3e-3)

    def descend(optimiser, terms):
        optimiser.zero_grad()
        loss = sum(terms.values())
        loss.backward(inputs=optimiser.param_groups[0]["params"])
        optimiser.step()
        return loss.item()

    z_fake = dfosd.generate(batch).detach()
    judged = [descend(critic, dfosd.critic_loss(batch, z_fake)) for _ in range(25)]
    assert sum(judged[-5:]) < 0.7 * sum(judged[:5])
    fooled = [descend(student, dfosd.generator_loss(batch, dfosd.generate(batch))) for _ in range(12)]
    assert sum(fooled[-5:]) < 0.7 * sum(fooled[:5])


def test_no_discriminator(base, batch):
    dfosd = build(base, replace(ALL, discriminator="none"))
    assert dfosd.critic is None and dfosd.critic_loss(batch, dfosd.generate(batch).detach()) == {}
    assert set(dfosd.generator_loss(batch, dfosd.generate(batch))) == {"mse", "ea_dists", "edge", "grid"}


@pytest.mark.parametrize("taps,sides", [("all", (8, 4, 2)), ("mid", (2,))])
def test_regions_vote(taps, sides, base, batch):
    critic = build(base, replace(ALL, taps=taps, head_width=5)).critic
    t, eps = critic.draw(batch.z_hq)
    votes = critic(batch.z_hq, t, eps, batch.cond)
    assert [v.shape for v in votes] == [(4, 1, side, side) for side in sides]
    assert all(v.dtype == torch.float32 and v.std() > 0 for v in votes)
    shapes = [[tuple(p.shape) for p in head.parameters() if p.dim() > 1] for head in critic.heads]
    assert shapes == [[(5, 8, 1, 1), (1, 5, 1, 1)]] * len(sides)
    z_t = diffuse(critic.trunk.process, batch.z_hq, t, eps, batch.cond.y)
    coarsest = critic.trunk(z_t, t, batch.cond)[-1]
    torch.testing.assert_close(votes[-1], critic.heads[-1](coarsest))


def judge(base: CompactBase, batch: Batch, config: DFOSDConfig, calls: int) -> list[Tensor]:
    """The finest votes of repeated calls."""
    critic = build(base, config).critic
    with torch.no_grad():
        return [critic(batch.z_hq, *critic.draw(batch.z_hq), batch.cond)[0] for _ in range(calls)]


def test_vanilla_sees_no_noise(base, batch):
    one, two = judge(base, batch, replace(ALL, discriminator="vanilla"), 2)
    assert torch.equal(one, two)
    critic = build(base, replace(ALL, discriminator="vanilla")).critic
    t, eps = critic.draw(batch.z_hq)
    assert not t.any() and not eps.any()


def test_nad_sees_new_noise_each_time(base, batch):
    one, two = judge(base, batch, ALL, 2)
    assert not torch.equal(one, two)
    critic = build(base, replace(ALL, t_nad_min=5, t_nad_max=9)).critic
    t, eps = critic.draw(torch.zeros(2000, 1, 2, 2))
    assert set(t.tolist()) == {5, 6, 7, 8, 9}
    assert eps.shape == (2000, 1, 2, 2) and eps.std().item() == pytest.approx(1, abs=0.03)


def test_diffusion_gan_adapts_its_range(base, batch):
    config = replace(ALL, discriminator="diffusion-gan", t_nad_min=3, t_nad_max=20, ada_every=2, ada_step=5)
    critic = build(base, config).critic
    assert isinstance(critic, AdaptiveDiscriminator)
    high, low = [torch.ones(2, 1, 2, 2)] * 2, [-torch.ones(2, 1, 2, 2)] * 2
    # Signs of (3, 1, ...): a share of 0.8 above 0.5 is r_d = 0.6, the target itself.
    even = [torch.tensor([1.0, 1, 1, 1, -1]).view(1, 1, 1, 5) * 0.01]
    tops = []
    for logits in [high] * 8 + [even] * 2 + [low] * 4 + [high, low] + [high] * 2 + [low] * 12:
        critic.adapt(logits)
        tops.append(int(critic.t_top))
    assert tops[:8] == [3, 8, 8, 13, 13, 18, 18, 20]  # every second update, never above t_nad_max
    assert tops[8:10] == [20, 20]
    assert tops[10:14] == [20, 15, 15, 10]
    assert tops[14:18] == [10, 5, 5, 10]  # r_d is the mean of the updates since the last move
    assert tops[-1] == 3
    critic.t_top.fill_(6)
    assert set(critic.draw(torch.zeros(500, 1, 1, 1))[0].tolist()) == {3, 4, 5, 6}


def test_the_range_is_saved_and_follows_the_real_latents(base, batch):
    config = replace(ALL, discriminator="diffusion-gan")
    dfosd, other = build(base, config), build(base, config)

    def bias(value: float) -> None:
        for head in dfosd.critic.heads:
            nn.init.constant_(head[2].bias, value)

    for value, tops in ((100.0, [0, 0, 0, 4, 4]), (-100.0, [4, 4, 0, 0])):
        bias(value)
        for top in tops:
            dfosd.critic_loss(batch, torch.zeros_like(batch.z_hq))
            assert dfosd.critic.t_top == top
    assert dfosd.critic.calls == 1
    other.critic.load_state_dict(dfosd.critic.state_dict())
    for name in ("t_top", "signs", "calls"):
        assert name in dfosd.critic.state_dict()
        assert torch.equal(getattr(other.critic, name), getattr(dfosd.critic, name))


def test_the_range_knows_the_real_from_the_generated(base, batch, monkeypatch):
    """A discriminator that is right about both has overfitted: the range grows."""
    dfosd = build(base, replace(ALL, discriminator="diffusion-gan"))
    monkeypatch.setattr(dfosd.critic, "forward", lambda z, *_: [z.mean((1, 2, 3), keepdim=True)])
    real = replace(batch, z_hq=torch.ones_like(batch.z_hq))
    for _ in range(ALL.ada_every):
        dfosd.critic_loss(real, -real.z_hq)
    assert dfosd.critic.t_top == ALL.ada_step


def test_condition_of_the_discriminator(base, batch):
    other = Cond(torch.randn_like(batch.cond.image), batch.cond.y)
    for conditioned in (True, False):
        critic = build(base, replace(ALL, condition_discriminator=conditioned)).critic
        t, eps = torch.full((4,), 20), torch.randn_like(batch.z_hq)
        one, two = critic(batch.z_hq, t, eps, batch.cond)[0], critic(batch.z_hq, t, eps, other)[0]
        assert torch.equal(one, two) is not conditioned
        shifted = critic(batch.z_hq, t, eps, Cond(other.image, batch.cond.y + 1))[0]
        assert not torch.equal(two, shifted)


@pytest.mark.parametrize("conditioned", [True, False])
def test_the_discriminator_is_told_what_pictures_show(conditioned, base, batch):
    """Their own prompts, in both losses; only the image may be left out."""
    seen: list[Cond] = []
    dfosd = build(base, replace(ALL, condition_discriminator=conditioned))
    dfosd.critic.trunk.register_forward_pre_hook(lambda _, given: seen.append(given[2]))
    prompts = torch.ones(4, 1, 1), torch.zeros(1, 1, 1)
    cond_hq, cond = (replace(batch.cond, prompt=prompt) for prompt in prompts)
    told = replace(batch, cond=cond, cond_hq=cond_hq)
    z_hat = dfosd.generate(told)
    dfosd.generator_loss(told, z_hat)
    dfosd.critic_loss(told, z_hat.detach())
    assert len(seen) == 3 and all(one.prompt is cond_hq.prompt for one in seen)
    assert all(bool(one.image.any()) is conditioned for one in seen)


@pytest.mark.parametrize("discriminator", ["none", "nad"])
def test_build_asks_for_its_players(discriminator, base):
    asked = []

    class Spy:
        decode = base.decode

        def denoiser(self, role, view):
            asked.append(("denoiser", role, view))
            return base.denoiser(role, view)

        def features(self, role, view):
            asked.append(("features", role, view))
            return base.features(role, view)

    config = replace(ALL, discriminator=discriminator, process="flow")
    dfosd = build(Spy(), config)
    expected = [("denoiser", "student", "flow"), ("features", "critic", "flow")]
    assert asked == expected[: 1 if discriminator == "none" else 2]
    assert all(p.requires_grad for p in dfosd.student.parameters()) and dfosd.critic_first is False


@pytest.mark.parametrize(
    "bad",
    [
        {"spatial": "ssim"}, {"discriminator": "hinge"}, {"taps": "3"},
        {"weight_mse": -1.0}, {"lambda_adv": -0.1}, {"lambda_perceptual": math.nan}, {"weight_edge": -1.0},
        {"weight_grid": math.inf}, {"head_width": 0}, {"ada_every": 0}, {"ada_step": 0}, {"ada_target": 1.0},
        {"t_nad_min": -1}, {"t_nad_min": 1000},
        {"weight_mse": 0.0, "spatial": "mse", "discriminator": "none"},
    ],
)  # fmt: skip
def test_bad_settings(bad):
    with pytest.raises(ConfigError, match=rf"^expected (?=.*method\.{next(iter(bad))}).*found"):
        DFOSDConfig(**bad)


@pytest.mark.parametrize(
    "bad", [{"t_student": 1000}, {"t_student": -1}, {"t_nad_max": 1000}, {"process": "resshift"}]
)
def test_times_outside_the_process(bad, base):
    name = "t_student" if "process" in bad else next(iter(bad))
    last = 14 if "process" in bad else 999
    with pytest.raises(ConfigError, match=rf"method\.{name} to be from 0 to {last}, the last index"):
        build(base, DFOSDConfig(**bad))
    if name == "t_nad_max":
        build(base, DFOSDConfig(**bad, discriminator="none"))  # not used there


def test_other_processes(base, batch):
    for config in (
        replace(ALL, process="flow"),
        replace(ALL, process="resshift", t_student=14, t_nad_max=14),
    ):
        dfosd = build(base, config)
        terms = dfosd.generator_loss(batch, dfosd.generate(batch))
        assert all(term.isfinite() for term in terms.values())
