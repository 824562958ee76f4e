"""ResShift, SinSR and TAD-SR: the authors' runs repeated, files and folding."""

import functools
import json
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from resshift_golden import CASES, numbers, sample_posterior, unet_file, weights
from torch import Tensor

from unistep.autoencoder.codecs import VQCodec
from unistep.autoencoder.vq import VQ, VQConfig
from unistep.bases.resshift.network import VARIANTS, SwinDenoiser, net_input, variant_of
from unistep.bases.resshift.student import build, student, teacher
from unistep.bases.resshift.swin import SwinConfig, SwinUNet, complete
from unistep.diffusion.denoiser import Cond, filled
from unistep.diffusion.sampler import Sampler, sample
from unistep.errors import ConfigError, ModelError
from unistep.students.latent import LatentConfig, LatentStudent

File = tuple[dict[str, Any], dict[str, Tensor]]


@functools.cache
def file(case: str, variant: str, folded: bool) -> File:
    """As it is read: the header has been JSON."""
    parts = weights(case)
    header, tensors = build(parts["unet"], parts["vq"], variant=variant, dtype=torch.float32, folded=folded)
    return json.loads(json.dumps(header)), tensors


def low_quality(case: str) -> Tensor:
    """The recorded picture as the authors' sampler pads it: [1, 3, 32, 32] in [-1, 1]."""
    return F.pad(numbers(case)["sampler/lr_01"] * 2 - 1, (0, 5, 0, 12), mode="reflect")


def start(codec: VQCodec, image: Tensor) -> Tensor:
    """y"""
    return codec.encode(F.interpolate(image, scale_factor=4, mode="bicubic"))


def difference(case: str, run: str, codec: VQCodec, z: Tensor) -> Tensor:
    """[1, 3, 80, 108], absolute, of the decoded z from the recorded picture [-1, 1]."""
    want = numbers(case)[f"sampler/{run}/out"]
    return (codec.decode(z)[..., :80, :108].clamp(-1, 1) - want).abs()


def test_one_step_is_sinsr() -> None:
    header, tensors = file("sinsr", "sinsr", True)
    denoiser, codec = student(header, tensors)
    image = low_quality("sinsr")
    noise = header["latent"]["noise"] * numbers("sinsr")["sampler/onestep/noise_00"]
    z = denoiser(start(codec, image) + noise, image)
    assert difference("sinsr", "onestep", codec, z).max() < 1e-4


@pytest.mark.parametrize(
    ("case", "run", "variant"),
    [
        ("resshift", "journal_4", "resshift-4"),
        ("resshift", "realsr_15", "resshift-15"),
        ("sinsr", "realsr_15_ddim", "sinsr"),
    ],
)
def test_many_steps_are_the_authors(case: str, run: str, variant: str) -> None:
    sampler, codec = teacher(*file(case, variant, False))
    process, image, want = sampler.process, low_quality(case), numbers(case)
    cond = Cond(image=image, y=start(codec, image))
    first, *rest = [want[name] for name in sorted(want) if name.startswith(f"sampler/{run}/noise_")]
    t = filled(len(process) - 1, first)
    z = process.perturb(cond.y, first, t, cond.y)
    if run.endswith("ddim"):
        z = sample(sampler.denoiser, process, z, sampler.times, cond)
    else:
        z = sample_posterior(sampler.denoiser, process, z, cond, rest)
    error = difference(case, run, codec, z)
    assert error.max() < (1e-4 if run == "journal_4" else 1e-3)


def shipped(case: str, variant: str) -> LatentStudent:
    """What `upscale --steps` runs."""
    header, tensors = file(case, variant, False)
    model = LatentStudent(*teacher(header, tensors), LatentConfig(**header["latent"]))
    return model.place(torch.device("cpu"), torch.float32)


@pytest.mark.parametrize(
    ("case", "run", "variant"),
    [
        ("resshift", "journal_4", "resshift-4"),
        ("resshift", "realsr_15", "resshift-15"),
        ("sinsr", "realsr_15_ddim", "sinsr"),
    ],
)
def test_whole_pictures_in_many_steps_are_the_authors(
    case: str, run: str, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, want = shipped(case, variant), numbers(case)
    assert isinstance(model.denoiser, Sampler)
    model.denoiser.stochastic = not run.endswith("ddim")
    noises = iter([want[name] for name in sorted(want) if name.startswith(f"sampler/{run}/noise_")])
    monkeypatch.setattr(torch, "randn", lambda *_, **__: next(noises))
    found = model.enlarge(want["sampler/lr_01"][0].permute(1, 2, 0).numpy(), (108, 80))
    assert not [*noises]
    recorded = want[f"sampler/{run}/out"][0].permute(1, 2, 0) / 2 + 0.5
    assert np.abs(found - recorded.numpy()).max() < 5e-5


@pytest.mark.parametrize("seed", [0, 1])
def test_many_steps_of_a_whole_picture_are_the_samplers(seed: int) -> None:
    """Grey amplifies rounding: of weights in another layout comes another picture."""
    image, generator = torch.zeros(1, 3, 32, 32), torch.Generator().manual_seed(seed)
    sampler, codec = teacher(*file("resshift", "resshift-15", False))
    cond = Cond(image=image, y=start(codec, image))
    first, *rest = [torch.randn(cond.y.shape, generator=generator) for _ in sampler.times]
    model = shipped("resshift", "resshift-15")
    z_T = cond.y + model.config.noise * first
    want = codec.decode(sample_posterior(sampler.denoiser, sampler.process, z_T, cond, rest))
    found = model.enlarge(np.full((32, 32, 3), 0.5), (128, 128), seed=seed)
    assert np.abs(found - (want[0].permute(1, 2, 0) / 2 + 0.5).clamp(0, 1).numpy()).max() < 1e-5


@pytest.mark.parametrize(("name", "variant"), [("realsr_15", "resshift-15"), ("journal_4", "resshift-4")])
def test_schedules(name: str, variant: str) -> None:
    want, process = numbers("resshift"), VARIANTS[variant].process()
    for key, own in (("etas", process.b), ("etas", 1 - process.a), ("etas", (process.s / 2) ** 2)):
        assert (own - want[f"schedule/{name}/{key}"]).abs().max() < 1e-12
    one, none = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    for t in range(len(process)):
        time = torch.tensor([t])
        of_z0, variance = process.posterior(one, none, time, none)
        of_zt, _ = process.posterior(none, one, time, none)
        assert of_zt.item() == pytest.approx(
            want[f"schedule/{name}/posterior_mean_coef1"][t].item(), abs=1e-6
        )
        assert of_z0.item() == pytest.approx(
            want[f"schedule/{name}/posterior_mean_coef2"][t].item(), abs=1e-6
        )
        assert variance.item() == pytest.approx(
            want[f"schedule/{name}/posterior_variance"][t].item(), abs=1e-6
        )


@pytest.mark.parametrize("case", CASES)
def test_pieces_of_the_process(case: str) -> None:
    want = {name.removeprefix("diff/"): p for name, p in numbers(case).items() if name.startswith("diff/")}
    sampler, _ = teacher(*file(case, "resshift-15", False))
    process, t, y = sampler.process, want["t"], want["y"]
    z_t = process.perturb(want["x0"], want["noise"], t, y)
    assert (z_t - want["q_sample"]).abs().max() < 1e-5
    cond = Cond(image=want["lq"], y=y)
    assert isinstance(sampler.denoiser, SwinDenoiser)
    z0 = sampler.denoiser(z_t, t, cond)
    if case == "resshift":
        x, _ = net_input(sampler.denoiser.net, process, z_t, t, cond)
        assert (x - want["scale_input"]).abs().max() < 1e-5
        assert (z0 - want["p_mean_variance/pred_xstart"]).abs().max() < 1e-4
        assert (process.posterior(z0, z_t, t, y)[0] - want["p_mean_variance/mean"]).abs().max() < 1e-4
    else:
        assert (process.step(z0, z_t, t, t - 1, y) - want["ddim_sample"]).abs().max() < 1e-4


@pytest.mark.parametrize("variant", ["resshift-15", "resshift-4"])
def test_the_folded_student_is_the_teacher_at_its_last_time(variant: str) -> None:
    denoiser, _ = student(*file("resshift", variant, True))
    sampler, _ = teacher(*file("resshift", variant, False), steps=1)
    assert sampler.times == [len(sampler.process) - 1]
    assert denoiser.multiple == sampler.multiple == 16
    z, image = 2 * torch.randn(1, 3, 16, 48), torch.rand(1, 3, 16, 48)
    want = sampler.denoiser(z, filled(sampler.times[0], z), Cond(image=image, y=z))
    out = denoiser(z, image)
    assert (out - want).abs().max() < 1e-5 * want.abs().max()
    names = " ".join(denoiser.state_dict())
    assert "time_embed" not in names and "emb_layers" not in names


def test_half_precision_and_wrapped_files() -> None:
    """The authors' EMA files: "module." before each name, float16, with buffers."""
    codec = weights("resshift")["vq"]
    unet = unet_file("resshift", "module.", torch.float16)
    header, tensors = build(unet, codec, variant="resshift-4")
    assert {p.dtype for p in tensors.values()} == {torch.float16}
    denoiser, _ = student(header, {name: p.float() for name, p in tensors.items()})
    exact, _ = student(*file("resshift", "resshift-4", True))
    z, image = torch.randn(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
    want = exact(z, image)
    assert (denoiser(z, image) - want).abs().max() < 2e-2 * want.abs().max()
    in_bf16 = denoiser.to(torch.bfloat16)(z, image)
    assert in_bf16.dtype == torch.float32
    assert (in_bf16 - want).abs().max() < 0.2 * want.abs().max()


def test_faces_by_shape() -> None:
    """No recorded numbers: a low-quality image eight times the latent's size, VQ-f8, scale 1."""
    torch.manual_seed(0)
    config = SwinConfig(
        model_channels=32, channel_mult=(1, 1), num_res_blocks=(1, 1), channels=8, image_size=8, lq_size=64,
        window_size=8, swin_embed_dim=32, heads=2, mlp_ratio=2,
    )  # fmt: skip
    vq = VQ(VQConfig(32, (1, 1, 1, 1), (1, 2, 3, 4), 8, 8, 16)).state_dict()
    for variant in ("resshift-faces", "tadsr-faces"):
        header, tensors = build(SwinUNet(config).state_dict(), vq, variant=variant, dtype=torch.float32)
        assert header["latent"]["scale"] == 1
        assert header["latent"]["noise"] == pytest.approx(1.98)
        denoiser, codec = student(header, tensors)
        image = torch.rand(1, 3, 64, 128) * 2 - 1
        z = denoiser(codec.encode(image), image)
        assert codec.decode(z).shape == image.shape
    with pytest.raises(ModelError, match=r"expected for sinsr an autoencoder of 8 channels and 32 pixels"):
        build(SwinUNet(config).state_dict(), vq, variant="sinsr")


def test_a_network_of_another_size_by_its_masks() -> None:
    """Windows of one size on all levels: at the usual 64 they would be shifted where they were not."""
    config = SwinConfig(
        model_channels=32, channel_mult=(1, 1), num_res_blocks=(1, 1), channels=3, image_size=16, lq_size=16,
        window_size=8, swin_embed_dim=32, heads=2, mlp_ratio=2,
    )  # fmt: skip
    net = SwinUNet(config)
    vq = VQ(VQConfig(32, (1, 1, 1), (1, 2, 3), 3, 3, 16)).state_dict()
    unet = {f"module.{name}": p for name, p in (net.state_dict() | complete(net)).items()}
    header, _ = build(unet, vq, variant="sinsr")
    assert SwinConfig(**header["denoiser"]) == config


def test_header_says_how_the_student_is_used() -> None:
    header, tensors = file("sinsr", "tadsr", True)
    assert (header["base"], header["method"], header["folded"]) == ("resshift", "tadsr", True)
    latent = header["latent"]
    assert (latent["scale"], latent["shortest"], latent["colour"]) == (4, 0, "none")
    assert latent["noise"] == pytest.approx(1.98)
    assert {name.split(".")[0] for name in tensors} == {"denoiser", "codec"}


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("resshift_realsrx4_s15_v1.pth", "resshift-15"),
        ("resshift_realsrx4_s15_v2.pth", "resshift-15"),
        ("resshift_realsrx4_s4_v3.pth", "resshift-4"),
        ("resshift_bicsrx4_s4.pth", "resshift-4"),
        ("resshift_faceir_s4.pth", "resshift-faces"),
        ("SinSR_v1.pth", "sinsr"),
        ("SinSR_v2.pth", "sinsr"),
        ("TAD-SR.pth", "tadsr"),
        ("TAD-faceir.pth", "tadsr-faces"),
    ],
)
def test_names_of_released_files(name: str, variant: str) -> None:
    assert variant_of(name) == variant


def test_what_cannot_be_told_is_asked_for() -> None:
    with pytest.raises(
        ConfigError, match=r"expected --variant to be one of resshift-15, .*“mine\.pth” does not"
    ):
        variant_of("mine.pth")
    with pytest.raises(ConfigError, match=r"expected the variant to be one of .* found “best”"):
        build({}, {}, variant="best")


def test_other_files_are_refused_with_what_differs() -> None:
    parts = weights("sinsr")
    del parts["unet"]["out.0.weight"]
    parts["unet"]["surplus.weight"] = torch.zeros(1)
    with pytest.raises(ModelError, match=r"1 missing: out\.0\.weight; 1 surplus: surplus\.weight"):
        build(parts["unet"], parts["vq"], variant="sinsr")
    with pytest.raises(ModelError, match="expected the state dict of a VQ autoencoder"):
        build(weights("sinsr")["unet"], parts["unet"], variant="sinsr")
    header, tensors = file("sinsr", "sinsr", True)
    with pytest.raises(ModelError, match="expected a file that is unfolded, found one that is not"):
        teacher(header, tensors)
    with pytest.raises(ModelError, match="expected the header of a ResShift model, found a damaged one"):
        student({**header, "denoiser": {"size": 3}}, tensors)
    with pytest.raises(
        ModelError, match="expected the tensors of a folded denoiser of ResShift, found 1 missing"
    ):
        student(header, {name: p for name, p in tensors.items() if name != "denoiser.net.out.2.bias"})
    with pytest.raises(ConfigError, match="expected the low-quality image beside the latent, found none"):
        student(header, tensors)[0](torch.zeros(1, 3, 16, 16))
