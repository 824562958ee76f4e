"""OSEDiff against the authors' recorded training step, and what each of its losses asks of whom."""

import dataclasses
import math
from pathlib import Path

import goldens
import pytest
import torch
import torch.nn.functional as F
from loop import updates
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unistep.bases.sd21.base import SD21Base
from unistep.bases.sd21.network import SD21Config
from unistep.diffusion.denoiser import Batch, Cond, Denoiser
from unistep.diffusion.process import Process, ddpm, flow, residual_shift
from unistep.errors import ConfigError
from unistep.methods.osediff import OSEDiff, OSEDiffConfig, direction, vsd

GOLDEN = goldens.GOLDEN / "osediff"
PLACES = ("encoder", "decoder", "others")
ALPHA = 2.0
"""How often the authors' LoRAs count: alpha 8 at rank 4."""


def apart(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return ((found.detach() - wanted).abs().max() / wanted.abs().max()).item()


# ---------------------------------------------------------------- the authors' trainer, recorded


@pytest.fixture(scope="module")
def recorded() -> dict[str, Tensor]:
    return {**load_file(GOLDEN / "tensors.safetensors"), **load_file(GOLDEN / "train.safetensors")}


def one_adapter(name: str) -> str:
    """Their three adapters cover different layers: one LoRA holds them all."""
    for place in PLACES:
        name = name.replace(f".default_{place}.weight", ".weight")
    return name


def counted_once(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """A LoRA as `base.lora_student` takes it: its scale within it."""
    return {
        prefix + one_adapter(name): (p * ALPHA if ".lora_B." in name else p).contiguous()
        for name, p in state.items()
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """The student's and the score network's LoRA; "released" is the latter with its last adapter alone."""
    folder = tmp_path_factory.mktemp("osediff")
    theirs = load_file(GOLDEN / "osediff.safetensors")
    for component in ("unet", "vae"):
        start = f"state_dict_{component}/"
        own = {name.removeprefix(start): p for name, p in theirs.items() if name.startswith(start)}
        save_file(counted_once(own, f"{component}."), folder / f"{component}.safetensors")
    score = load_file(GOLDEN / "score.safetensors")
    save_file(counted_once(score, "unet."), folder / "score.safetensors")
    active = {name: p if "default_others" in name else torch.zeros_like(p) for name, p in score.items()}
    save_file(counted_once(active, "unet."), folder / "released.safetensors")
    return folder


@pytest.fixture(scope="module")
def bases(recorded, files) -> dict[str, SD21Base]:
    pytest.importorskip("diffusers")
    texts = {"one": "prompt_embeds", "two": "prompt_embeds_second", "bad": "neg_prompt_embeds"}
    config = SD21Config(
        prompt="one", negative="bad", rank=4, alpha=4 * ALPHA, rank_encoder=4, rank_score=4, scale=1,
        train_conv_in=True, lora_student=str(files),
    )  # fmt: skip
    return {
        case: SD21Base(
            GOLDEN / "sd21",
            dataclasses.replace(config, lora_score=str(files / f"{case}.safetensors")),
            lambda text: (recorded[texts[text]], None),
        )
        for case in ("released", "score")
    }


def step(base: SD21Base, recorded: dict[str, Tensor]) -> tuple[OSEDiff, Batch]:
    """The method without LPIPS, as recorded, and its batch: each picture has a prompt of its own."""
    x = recorded["train/x_src"]
    cond = base.told(base.cond(x), ["one", "two"])
    batch = Batch(x, recorded["train/x_tgt"], base.encode(recorded["train/x_tgt"]), cond, base.null(cond))
    return OSEDiff.build(OSEDiffConfig(lambda_1=0), base, unused), batch


def drawing(monkeypatch: pytest.MonkeyPatch, recorded: dict[str, Tensor], what: str) -> list[tuple[int, ...]]:
    """Random draws are the recorded ones; returns the bounds that are asked for."""
    bounds: list[tuple[int, ...]] = []

    def randint(*given: object, **_: object) -> Tensor:
        bounds.append(tuple(n for n in given if isinstance(n, int)))
        return recorded[f"train/{what}/timesteps"]

    monkeypatch.setattr(torch, "randint", randint)
    monkeypatch.setattr(torch, "randn_like", lambda _: recorded[f"train/{what}/noise"])
    return bounds


def grads_of(net: nn.Module) -> dict[str, Tensor]:
    """Gradients by the authors' names, less those of their adapters."""
    names = {
        name.replace("denoiser.unet.", "").replace("codec.vae.", "").replace("unet.", "", 1): p.grad
        for name, p in net.named_parameters()
        if p.grad is not None
    }
    return {name.replace(".default.weight", ".weight"): grad for name, grad in names.items()}


def test_a_students_step_is_the_recorded_step(monkeypatch, bases, recorded):
    """As released: of the score network only the last adapter is active."""
    method, batch = step(bases["released"], recorded)
    z_hat = method.generate(batch)
    assert apart(z_hat, recorded["train/latents_pred"]) < 1e-4
    assert apart(method.decode(z_hat).clamp(-1, 1), recorded["train/x_tgt_pred"]) < 1e-4
    bounds = drawing(monkeypatch, recorded, "vsd")
    terms = method.generator_loss(batch, z_hat)
    assert bounds == [(20, 980)] and set(terms) == {"mse", "vsd"}
    assert apart(terms["mse"], recorded["train/loss_l2"]) < 1e-4
    assert apart(terms["vsd"], recorded["train/vsd/loss"]) < 1e-4
    (grad,) = torch.autograd.grad(terms["vsd"], z_hat, retain_graph=True)
    assert apart(grad, recorded["train/vsd/grad_latents"]) < 1e-4
    sum(terms.values()).backward()
    grads = grads_of(method.student)
    assert len(grads) == 328 + 46 + 2
    compared = 0
    for key in recorded:
        if key.startswith(("train/grad_unet/", "train/grad_vae/")):
            assert apart(grads[one_adapter(key.split("/")[-1])], recorded[key]) < 1e-4, key
            compared += 1
    assert compared == 11
    norm = torch.stack([g.norm() for g in grads.values()]).norm()
    assert apart(norm, recorded["train/grad_norm_gen_lora"]) < 1e-4


@pytest.mark.parametrize(("case", "name"), [("released", ""), ("score", "_ALL_ADAPTERS")])
def test_a_score_networks_step_is_the_recorded_step(monkeypatch, bases, recorded, case, name):
    method, batch = step(bases[case], recorded)
    bounds = drawing(monkeypatch, recorded, "diff")
    assert method.critic is not None
    loss = method.critic_loss(batch, recorded["train/latents_pred"])["score"]
    assert bounds == [(1000,)]
    assert apart(loss, recorded[f"train/diff{name}/loss"]) < 1e-4
    loss.backward()
    grads = grads_of(method.critic)
    wanted = {key: g for key, g in recorded.items() if key.startswith(f"train/diff{name}/grad/")}
    assert len(wanted) == (6 if name else 2)
    for key, g in wanted.items():
        assert apart(grads[one_adapter(key.split("/")[-1])], g) < 1e-4, key
    # Where an adapter of theirs is not active, its layers have no gradient.
    norms = [g.norm() for key, g in grads.items() if name or key.startswith("mid_block")]
    assert apart(torch.stack(norms).norm(), recorded[f"train/diff{name}/grad_norm"]) < 1e-4


def test_the_whole_score_network_directs_as_recorded(monkeypatch, bases, recorded):
    method, batch = step(bases["score"], recorded)
    drawing(monkeypatch, recorded, "vsd")
    z_hat = recorded["train/latents_pred"].clone().requires_grad_()
    loss = method.generator_loss(batch, z_hat)["vsd"]
    (grad,) = torch.autograd.grad(loss, z_hat)
    assert apart(loss, recorded["train/vsd_ALL_ADAPTERS/loss"]) < 1e-4
    assert apart(grad, recorded["train/vsd_ALL_ADAPTERS/grad_latents"]) < 1e-4


# ---------------------------------------------------------------- the score distillation, written out


class Fixed(Denoiser):
    """z_0 = gain z_t + what the prompt says; remembers its conditions."""

    def __init__(self, gain: float, process: Process | None = None):
        super().__init__()
        self.gain, self.process = nn.Parameter(torch.tensor(gain)), process or ddpm()
        self.asked: list[tuple[Tensor, Tensor, Cond]] = []

    def forward(self, z_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        self.asked.append((z_t.detach(), t, cond))
        told = 0 if cond.prompt is None else cond.prompt.mean((1, 2)).view(-1, 1, 1, 1)
        return self.gain * z_t + told


def told(x: Tensor, value: float) -> Cond:
    return Cond(x, x, prompt=torch.full((1, 1, 1), value))


def unused(form: str) -> object:
    raise AssertionError(form)


def toys(process: Process | None = None, **settings: float) -> tuple[OSEDiff, Batch]:
    generator = torch.Generator().manual_seed(3)
    y, z_hq = torch.randn(2, 2, 3, 4, 4, generator=generator)
    nets = [Fixed(gain, process) for gain in (0.5, 0.3, 0.2)]
    nets[1].requires_grad_(False)
    config = OSEDiffConfig(**settings)
    method = OSEDiff(config, nets[0], nets[1], nets[2] if config.lambda_2 else None, lambda z: 3 * z,
                     (lambda x, y: (x - y).abs().mean()) if config.lambda_1 else None)  # fmt: skip
    return method, Batch(y, z_hq, z_hq, told(y, 0.0), told(y, -1.0), cond_hq=told(y, 1.0))


@pytest.mark.parametrize("process", [ddpm(), ddpm(predicts="v"), flow(), residual_shift()])
def test_the_direction_written_out(process):
    """x0 of the score network less x0 of the teacher at guidance 7.5, over each mean distance."""
    method, batch = toys(process, t_max=len(process) - 1, t_min=0, t_student=len(process) - 1)
    z, eps = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([3, len(process) - 1])
    assert method.critic is not None
    found = direction(method.teacher, method.critic, z, eps, t, batch.told, batch.null, 7.5)
    z_t = process.perturb(z, eps, t, batch.cond.y)
    positive, negative = 0.3 * z_t + 1.0, 0.3 * z_t - 1.0
    real = negative + 7.5 * (positive - negative)
    for i in range(2):
        weight = (z[i] - real[i]).abs().mean()
        torch.testing.assert_close(found[i], (0.2 * z_t[i] + 1.0 - real[i]) / weight)
    assert not found.requires_grad


def test_the_direction_does_not_depend_on_what_networks_predict():
    """Networks with the same z_0: whether it stands for noise or for v is not asked."""
    found = []
    for predicts in ("eps", "v"):
        method, batch = toys(ddpm(predicts=predicts))
        torch.manual_seed(0)
        found.append(method.generator_loss(batch, method.generate(batch))["vsd"])
    assert torch.equal(*found)


def test_the_loss_pushes_by_twice_the_direction():
    z, towards = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    z.requires_grad_()
    loss = vsd(z, towards)
    loss.backward()
    assert loss.item() == pytest.approx((towards**2).mean().item(), rel=1e-5)
    torch.testing.assert_close(z.grad, 2 * towards / z.numel())


def test_descent_leads_to_the_teachers_distribution():
    """A student of one value, a score network that knows it, a teacher of values around 2: it goes there."""

    class Around(Fixed):
        def __init__(self, mean: Tensor):
            super().__init__(0.0)
            self.mean = mean

        def forward(self, z_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
            return self.mean.detach().expand_as(z_t)

    value = nn.Parameter(torch.zeros(1))
    _, batch = toys()
    score, teacher = Around(value), Around(torch.tensor([2.0]))
    method = OSEDiff(OSEDiffConfig(weight_mse=0, lambda_1=0, guidance=1), score, teacher, score, lambda z: z)
    for _ in range(60):
        loss = method.generator_loss(batch, value.expand(2, 3, 4, 4))["vsd"]
        (grad,) = torch.autograd.grad(loss, value)
        with torch.no_grad():
            value -= 0.05 * grad
    assert abs(value.item() - 2) < 0.15


# ---------------------------------------------------------------- what is asked of whom


def test_who_is_told_what():
    """The student its own prompt, the other two that of the picture, the teacher also the negative one."""
    method, batch = toys()
    z_hat = method.generate(batch)
    method.generator_loss(batch, z_hat)
    method.critic_loss(batch, z_hat.detach())
    assert method.critic is not None
    ((z, t, cond),) = method.student.asked
    assert cond is batch.cond and torch.equal(z, batch.cond.y) and t.tolist() == [999, 999]
    ((_, _, both),) = method.teacher.asked
    assert both.prompt.flatten().tolist() == [1, 1, -1, -1]
    assert [cond for *_, cond in method.critic.asked] == [batch.told] * 2


def test_a_student_starts_where_it_is_used():
    """From y; on a process that ends in y from there with its noise, as ResShift's students are used."""
    method, batch = toys()
    method.generate(batch)
    assert torch.equal(method.student.asked[0][0], batch.cond.y)
    method, batch = toys(residual_shift(), t_student=14, t_min=0, t_max=14)
    torch.manual_seed(0)
    method.generate(batch)
    torch.manual_seed(0)
    noise = torch.randn_like(batch.cond.y)
    torch.testing.assert_close(method.student.asked[0][0], batch.cond.y + 1.98 * noise)


def test_data_terms_are_of_clipped_pictures():
    method, batch = toys(lambda_2=0)
    z_hat = torch.linspace(-1, 1, 96).view(2, 3, 4, 4)  # decoded: up to 3
    terms = method.generator_loss(batch, z_hat)
    x_hat = (3 * z_hat).clamp(-1, 1)
    assert terms["mse"].item() == pytest.approx(F.mse_loss(x_hat, batch.x_hq).item())
    assert terms["lpips"].item() == pytest.approx(2 * (x_hat - batch.x_hq).abs().mean().item())
    assert method.critic_loss(batch, z_hat) == {}


def test_weights_scale_their_terms():
    found = []
    for settings in (
        {"weight_mse": 1, "lambda_1": 1, "lambda_2": 1},
        {"weight_mse": 2, "lambda_1": 3, "lambda_2": 5},
    ):
        method, batch = toys(**settings)
        torch.manual_seed(0)
        found.append(method.generator_loss(batch, method.generate(batch)))
    ratios = {name: (found[1][name] / found[0][name]).item() for name in found[0]}
    assert ratios == pytest.approx({"mse": 2, "lpips": 3, "vsd": 5})


@pytest.mark.parametrize(
    ("settings", "terms"),
    [
        ({"weight_mse": 0}, {"lpips", "vsd"}),
        ({"lambda_1": 0}, {"mse", "vsd"}),
        ({"lambda_2": 0}, {"mse", "lpips"}),
    ],
)
def test_a_weight_of_0_leaves_a_term_out(settings, terms):
    method, batch = toys(**settings)
    assert set(method.generator_loss(batch, method.generate(batch))) == terms


def test_times_are_drawn_from_their_ranges():
    method, batch = toys(t_min=20, t_max=22)
    assert method.critic is not None
    for _ in range(40):
        method.generator_loss(batch, torch.zeros(2, 3, 4, 4))
    assert set(torch.cat([t for _, t, _ in method.critic.asked]).tolist()) == {20, 21, 22}
    method.critic.asked.clear()
    for _ in range(1000):
        method.critic_loss(batch, torch.zeros(2, 3, 4, 4))
    drawn = torch.cat([t for _, t, _ in method.critic.asked])
    assert drawn.min() < 20 and drawn.max() > 980


def test_each_update_moves_its_own_network():
    found, losses = updates(OSEDiffConfig(guidance=1, lambda_1=0), steps=2)
    assert found == [("student", {"student"}), ("critic", {"critic"})] * 2
    assert "critic/score" in losses and all(map(math.isfinite, losses.values()))


def test_the_distillation_starts_with_the_score_network():
    """A new score network is the teacher: its first direction is 0, also where all agree to the last bit."""
    found, _ = updates(OSEDiffConfig(guidance=1, lambda_1=0, weight_mse=0), steps=3)
    moved = [("critic", {"critic"}), ("student", {"student"})]
    assert found == [("student", set()), *moved, *moved, moved[0]]


def test_no_score_network_where_lambda_2_is_0():
    found, losses = updates(OSEDiffConfig(lambda_1=0, lambda_2=0), steps=1)
    assert found == [("student", {"student"})] and "student/mse" in losses


def test_lpips_is_opened_only_if_used():
    class Base:
        guided = True
        decode = None

        def denoiser(self, role: str, view: str) -> Fixed:
            return Fixed(1.0)

    opened: list[str] = []
    OSEDiff.build(OSEDiffConfig(lambda_1=0), Base(), unused)
    OSEDiff.build(OSEDiffConfig(), Base(), opened.append)
    assert opened == ["lpips"]


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"lambda_1": -1.0}, r"expected method\.lambda_1 to be 0 or more, found -1\.0"),
        ({"lambda_2": float("nan")}, r"expected method\.lambda_2 to be 0 or more, found nan"),
        ({"guidance": -0.5}, r"expected method\.guidance to be 0 or more, found -0\.5"),
        ({"t_min": 30, "t_max": 20}, r"expected 0 <= method\.t_min <= method\.t_max, found 30 and 20"),
        ({"weight_mse": 0, "lambda_1": 0, "lambda_2": 0}, r"found none; set method\.weight_mse"),
    ],
)
def test_a_bad_setting_is_one_sentence(bad, message):
    with pytest.raises(ConfigError, match=message):
        OSEDiffConfig(**bad)


@pytest.mark.parametrize("name", ["t_student", "t_max"])
def test_times_outside_the_process(name):
    with pytest.raises(ConfigError, match=rf"method\.{name} to be from 0 to 999, .* found 1000"):
        toys(**{name: 1000})


def test_guidance_needs_a_negative_prompt():
    method, batch = toys()
    with pytest.raises(ConfigError, match=r"to be 1 on a base without a null condition, found 7\.5"):
        method.generator_loss(dataclasses.replace(batch, null=None), method.generate(batch))
    with pytest.raises(ConfigError, match=r"set method\.guidance=1"):
        updates(OSEDiffConfig(lambda_1=0))
    method, batch = toys(guidance=1)
    method.generator_loss(dataclasses.replace(batch, null=None), method.generate(batch))
    assert len(method.teacher.asked[0][0]) == 2


def test_the_defaults_are_the_released_values():
    c = OSEDiffConfig()
    assert (c.weight_mse, c.lambda_1, c.lambda_2, c.guidance) == (1.0, 2.0, 1.0, 7.5)
    assert (c.t_student, c.t_min, c.t_max) == (999, 20, 979)
