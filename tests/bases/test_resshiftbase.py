"""ResShift as a base for training: roles, pictures, export, layout, and the sizes that a plan counts."""

import functools
import itertools
import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from resshift_golden import config, weights
from torch import Tensor

from unistep.autoencoder.vq import VQ, VQConfig
from unistep.bases import BASES
from unistep.bases.resshift.base import ResShiftBase
from unistep.bases.resshift.network import ResShiftConfig, SwinDenoiser
from unistep.bases.resshift.student import build, student
from unistep.bases.resshift.swin import SwinConfig, SwinUNet
from unistep.diffusion.denoiser import filled
from unistep.diffusion.process import residual_shift
from unistep.errors import ConfigError, ModelError


@functools.cache
def file(variant: str = "sinsr") -> tuple[dict[str, Any], dict[str, Tensor]]:
    """As it is read: the header has been JSON."""
    parts = weights("sinsr")
    header, tensors = build(parts["unet"], parts["vq"], variant=variant, dtype=torch.float32, folded=False)
    return json.loads(json.dumps(header)), tensors


@pytest.fixture(scope="module")
def base() -> ResShiftBase:
    return ResShiftBase(*file())


def test_base_gives_copies(base: ResShiftBase) -> None:
    one, two = base.denoiser("student", "resshift"), base.denoiser("teacher", "resshift")
    assert all(p.requires_grad for p in one.parameters())
    assert not any(p.requires_grad for p in two.parameters())
    assert not {p.data_ptr() for p in one.parameters()} & {p.data_ptr() for p in two.parameters()}
    assert len(base.process("resshift")) == 15 and torch.equal(base.process("resshift").s, residual_shift().s)
    image = torch.rand(1, 3, 16, 16) * 2 - 1
    cond = base.cond(image)
    assert torch.equal(cond.y, base.encode(F.interpolate(image, scale_factor=4, mode="bicubic")))
    assert cond.image is image or torch.equal(cond.image, image)
    assert base.null(cond) is None and not base.guided
    t, z = torch.tensor([9]), torch.randn_like(cond.y)
    assert torch.equal(one(z, t, cond), two(z, t, cond))


def test_features_are_the_encoders_maps(base: ResShiftBase) -> None:
    features = base.features("critic", "resshift")
    assert features.widths == (32, 32, 32, 32)  # two downsamplings, the last input block, the middle
    cond = base.cond(torch.rand(2, 3, 16, 32) * 2 - 1)
    z, t = torch.randn_like(cond.y), torch.tensor([3, 11])
    maps = features(z, t, cond)
    assert [tuple(m.shape) for m in maps] == [(2, 32, 8, 16), (2, 32, 4, 8), (2, 32, 4, 8), (2, 32, 4, 8)]
    denoiser = base.denoiser("teacher", "resshift")
    seen: list[Tensor] = []
    for part in ("input_blocks.2", "input_blocks.4", "input_blocks.5", "middle_block"):
        denoiser.net.get_submodule(part).register_forward_hook(lambda _, __, out: seen.append(out))
    denoiser(z, t, cond)
    assert all(torch.equal(a, b) for a, b in zip(maps, seen, strict=True))
    assert not any("output_blocks" in name or name.startswith("net.out") for name in features.state_dict())


def test_real_features_are_tadsrs() -> None:
    with torch.device("meta"):
        assert SwinUNet().taps == {3: 160, 6: 320, 9: 320, 11: 640, 12: 640}


def test_base_restores_any_size_from_its_last_index(base: ResShiftBase) -> None:
    student = base.denoiser("student", "resshift")
    x = base.restore(student, torch.rand(1, 3, 13, 20))
    assert x.shape == (1, 3, 52, 80) and x.min() >= 0 and x.max() <= 1
    base.check_student("resshift", 14)
    with pytest.raises(ConfigError, match=r"to be 14, .* found 3: set method\.t_student=14"):
        base.check_student("resshift", 3)
    with pytest.raises(ConfigError, match=r"expected method\.process to be resshift"):
        base.process("flow")


def test_base_trains_through_its_decoder(base: ResShiftBase) -> None:
    denoiser = base.denoiser("student", "resshift")
    cond = base.cond(torch.rand(1, 3, 16, 16) * 2 - 1)
    z = denoiser(torch.randn_like(cond.y), torch.tensor([14]), cond)
    base.decode(z).square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in denoiser.parameters())
    assert all(p.grad is None for p in base.codec.parameters())


def test_the_teachers_tensors_are_the_bases_own(base: ResShiftBase) -> None:
    """A step costs one frozen network; every network that is trained has tensors of its own."""
    frozen = {p.data_ptr() for p in base.net.parameters()}
    for net in (base.denoiser("teacher", "resshift"), base.features("teacher", "resshift")):
        assert {p.data_ptr() for p in net.parameters()} <= frozen
        assert not any(p.requires_grad for p in net.parameters())
    trained = [base.denoiser(role, "resshift") for role in ("student", "score")]
    trained += [base.features("critic", "resshift")]
    own = [{p.data_ptr() for p in net.parameters()} for net in trained]
    assert all(p.requires_grad for net in trained for p in net.parameters())
    assert not any(a & b for a, b in itertools.combinations([frozen, *own], 2))
    assert hasattr(base.net, "out"), "a critic without its decoder half leaves the base whole"


def stirred(base: ResShiftBase) -> SwinDenoiser:
    """A student that has been trained."""
    denoiser = base.denoiser("student", "resshift")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in denoiser.parameters():
            p += 0.01 * torch.randn(p.shape, generator=generator)
    return denoiser


@pytest.mark.parametrize("method", ["tadsr", "dfosd"])
def test_the_export_gives_the_students_output(base: ResShiftBase, method: str) -> None:
    trained = stirred(base)
    header, tensors = base.export(dict(trained.named_parameters()), method, torch.float32)
    assert (header["base"], header["method"], header["folded"]) == ("resshift", method, True)
    denoiser, codec = student(json.loads(json.dumps(header)), tensors)
    image = torch.rand(1, 3, 16, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    cond = base.cond(image)
    z_T = cond.y + header["latent"]["noise"] * torch.randn(cond.y.shape)
    z = trained(z_T, filled(14, z_T), cond).detach()
    assert (denoiser(z_T, image) - z).abs().max() < 1e-5 * z.abs().max()
    assert torch.equal(codec.decode(z), base.decode(z))
    half = base.export(dict(trained.named_parameters()), method, torch.float16)[1]
    assert {p.dtype for p in half.values()} == {torch.float16}
    weights = {name: p for name, p in trained.named_parameters() if "middle_block" not in name}
    with pytest.raises(ModelError, match=r"the tensors of ResShift's Swin-UNet, found .* missing"):
        base.export(weights, method, torch.float32)


def test_the_authors_layout_is_complete(base: ResShiftBase) -> None:
    """Each name and shape of their state dict, buffers and all, so that their strict loaders take it."""
    trained = stirred(base)
    layout = base.layout(dict(trained.named_parameters()))
    assert list(layout) == ["model.safetensors"]
    state = layout["model.safetensors"]
    assert {name: list(p.shape) for name, p in state.items()} == config("sinsr")["keys"]
    assert torch.equal(state["out.2.bias"], trained.net.out[2].bias)
    header, _ = build(state, weights("sinsr")["vq"], variant="sinsr")  # as it is read again
    assert header["denoiser"] == file()[0]["denoiser"] | {
        name: tuple(header["denoiser"][name]) for name in ("channel_mult", "num_res_blocks")
    }
    mask = state["input_blocks.1.1.blocks.1.attn_mask"]
    assert not mask[:2].any() and mask[2:].eq(-100).float().mean() == 0.5  # the last row of windows alone
    index = state["middle_block.1.blocks.0.attn.relative_position_index"]
    assert index.diagonal().unique().numel() == 1 and index.min() == 0


def test_another_variant_is_refused() -> None:
    given = file("resshift-15")
    assert ResShiftBase(*given, ResShiftConfig(variant="resshift-15")).scale == 4
    with pytest.raises(ConfigError, match=r"a file of resshift-faces, found one of resshift-15: take"):
        ResShiftBase(*given, ResShiftConfig(variant="resshift-faces"))


@pytest.mark.parametrize(
    ("variant", "side", "latent", "scale"),
    [("", 64, (3, 64, 64), 4), ("resshift-faces", 512, (8, 64, 64), 1)],
)
def test_a_plan_has_the_published_sizes_and_no_data(variant, side, latent, scale) -> None:
    """118.59 M and 55.32 M: TAD-SR's Tab. I, of ResShift and SinSR."""
    base = BASES["resshift"].shapes(ResShiftConfig(variant=variant, checkpointing=True))
    counts = [sum(p.numel() for p in net.parameters()) / 1e6 for net in (base.net, base.codec)]
    assert counts[0] == pytest.approx(118.59 if not variant else 118.93, abs=0.01)
    assert counts[1] == pytest.approx(55.32 if not variant else 77.01, abs=0.01)
    assert base.scale == scale and all(p.is_meta for p in base.net.parameters())
    cond = base.cond(torch.empty(2, 3, side, side, device="meta"))
    denoiser, features = base.denoiser("student", "resshift"), base.features("teacher", "resshift")
    z = denoiser(cond.y, filled(3, cond.y), cond)
    assert z.shape == (2, *latent) and base.decode(z).shape == (2, 3, scale * side, scale * side)
    assert len(features(z, filled(3, z), cond)) == 5
    with pytest.raises(ConfigError, match="expected the variant to be one of"):
        BASES["resshift"].shapes(ResShiftConfig(variant="resshift-3"))


def test_checkpointing_keeps_no_block_and_changes_nothing() -> None:
    """Each block is entered twice: in the forward pass, and again in the backward pass."""
    found = []
    for checkpointing in (False, True):
        base = ResShiftBase(*file(), ResShiftConfig(checkpointing=checkpointing))
        denoiser, entered = base.denoiser("student", "resshift"), []
        blocks = [*denoiser.net.input_blocks, denoiser.net.middle_block, *denoiser.net.output_blocks]
        for block in blocks:
            block.register_forward_pre_hook(lambda *_, entered=entered: entered.append(1))
        cond = base.cond(torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1)
        z = denoiser(cond.y, filled(9, cond.y), cond)
        z.square().mean().backward()
        assert len(entered) == (1 + checkpointing) * len(blocks)
        with torch.no_grad():
            denoiser(cond.y, filled(9, cond.y), cond)
        assert len(entered) == (2 + checkpointing) * len(blocks)
        found.append([z, *(p.grad for p in denoiser.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_faces_are_restored_at_their_own_size() -> None:
    torch.manual_seed(0)
    sizes = SwinConfig(
        model_channels=32, channel_mult=(1, 1), num_res_blocks=(1, 1), channels=8, image_size=8, lq_size=64,
        window_size=8, swin_embed_dim=32, heads=2, mlp_ratio=2,
    )  # fmt: skip
    vq = VQ(VQConfig(32, (1, 1, 1, 1), (1, 2, 3, 4), 8, 8, 16)).state_dict()
    unet = SwinUNet(sizes).state_dict()
    base = ResShiftBase(*build(unet, vq, variant="resshift-faces", dtype=torch.float32, folded=False))
    x = base.restore(base.denoiser("student", "resshift"), torch.rand(1, 3, 60, 70))
    assert base.scale == 1 and x.shape == (1, 3, 60, 70)
    header, _ = base.export(
        dict(base.denoiser("student", "resshift").named_parameters()), "tadsr", torch.float32
    )
    assert header["latent"]["scale"] == 1 and header["denoiser"]["lq_size"] == 64
