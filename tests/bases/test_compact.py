"""The compact base: codec, enlargement, folding, clocks, cost, and how far it sees."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from unistep.bases import BASES
from unistep.bases.compact.base import VIEWS, CompactBase, without_template
from unistep.bases.compact.network import (
    S_SLOT,
    CompactConfig,
    CompactDenoiser,
    Enlarge,
    clocked,
    decode,
    encode,
)
from unistep.bases.compact.student import fold_slot, folded
from unistep.diffusion.process import Process, ddpm, flow, residual_shift
from unistep.errors import ConfigError
from unistep.pixels.tiling import pad_to_multiple


def trained(widths: tuple[int, ...] = (8, 12, 16), blocks: tuple[int, ...] = (2, 2, 3)) -> CompactDenoiser:
    """A denoiser whose every weight matters, as after training (fresh ones hardly answer)."""
    denoiser = CompactDenoiser(CompactConfig(widths, blocks))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in denoiser.named_parameters():
            gain = 0.5 / math.sqrt(p[0].numel()) if p.dim() > 1 else 0.1
            p.copy_(torch.randn(p.shape, generator=generator) * gain * (3 if "film" in name else 1))
            if name.endswith(".g"):
                p.add_(0.5)
    return denoiser.eval()


DENOISER = trained()
STUDENT = fold_slot(DENOISER)


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_codec_is_lossless():
    x = images(2, 3, 12, 20)
    assert encode(x).shape == (2, 48, 3, 5)
    assert torch.equal(decode(encode(x)), x)


@pytest.mark.parametrize("h,w", [(1, 1), (1, 7), (2, 3), (16, 12), (37, 5)])
def test_enlarge_is_bicubic(h, w):
    x = images(2, 3, h, w)
    torch.testing.assert_close(
        decode(Enlarge()(x)), F.interpolate(x, scale_factor=4, mode="bicubic"), atol=2e-6, rtol=0
    )


@torch.no_grad()
def test_folded_is_the_slot():
    x = images(2, 3, 24, 32)
    unfolded = decode(DENOISER.slot(DENOISER.cond(x)))
    assert (unfolded - decode(DENOISER.cond(x).y)).abs().mean() > 0.01  # the network does something here
    torch.testing.assert_close(STUDENT(x), unfolded, atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_slot_ignores_noise_and_is_the_limit_of_large_s():
    cond = DENOISER.cond(images(1, 3, 8, 8))
    eps = torch.randn(cond.y.shape, generator=torch.Generator().manual_seed(1))
    slot = DENOISER.slot(cond) - cond.y
    gaps = []
    for s in (10.0, 100.0, 1000.0, 1e6):
        r = DENOISER.residual(s * eps, cond.image, torch.tensor([s]))
        gaps.append((r - slot).abs().max().item())
    assert gaps == sorted(gaps, reverse=True) and gaps[0] > 1e-3 > 1e-5 > gaps[-1]
    at_infinity = DENOISER.residual(7 * eps, cond.image, torch.tensor([math.inf]))
    torch.testing.assert_close(at_infinity, slot, atol=1e-6, rtol=0)


def process_at(a: float, b: float, s: float) -> Process:
    """A process of one step."""
    return Process(*(torch.tensor([value], dtype=torch.float64) for value in (a, b, s)), "z0")


@torch.no_grad()
@given(st.floats(0.02, 0.98), st.floats(0.1, 3.0))
def test_clocks_are_views_of_one_network(signal, ratio):
    """Processes at the same noise-to-signal ratio, from the same r_0 and eps, are answered alike."""
    cond = DENOISER.cond(images(1, 3, 8, 8))
    generator = torch.Generator().manual_seed(1)
    r0, eps = (
        0.15 * torch.randn(cond.y.shape, generator=generator),
        torch.randn(cond.y.shape, generator=generator),
    )
    z0, t = cond.y + r0, torch.tensor([0])
    direct = cond.y + DENOISER.residual(r0 + ratio * eps, cond.image, torch.tensor([ratio]))
    views = {
        "ResShift": (signal, 1 - signal, ratio * signal),
        "flow": (1 / (1 + ratio), 0, ratio / (1 + ratio)),
        "DDPM": ((1 + ratio**2) ** -0.5, 0, ratio * (1 + ratio**2) ** -0.5),
    }
    for name, coefficients in views.items():
        process = process_at(*coefficients)
        answer = DENOISER.clock(process)(process.perturb(z0, eps, t, cond.y), t, cond)
        torch.testing.assert_close(
            answer, direct, atol=2e-4, rtol=1e-3, msg=lambda text, n=name: f"{n}: {text}"
        )


@torch.no_grad()
@pytest.mark.parametrize("process", [residual_shift(kappa=0.5, min_noise_level=0.0125), flow(50), ddpm(50)])
def test_clocks_run_over_whole_tables(process):
    cond = DENOISER.cond(images(1, 3, 8, 8))
    eps = torch.randn(cond.y.shape, generator=torch.Generator().manual_seed(1))
    clock = DENOISER.clock(process)
    for i in range(len(process)):
        t = torch.tensor([i])
        z0 = clock(process.perturb(cond.y, eps, t, cond.y), t, cond)
        assert torch.isfinite(z0).all() and z0.shape == cond.y.shape
    if process.predicts == "flow":  # pure noise: nothing but the slot is left
        torch.testing.assert_close(z0, DENOISER.slot(cond))


def test_pure_noise_gives_finite_gradients():
    cond = DENOISER.cond(images(1, 3, 8, 8))
    z_t = torch.randn(cond.y.shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
    DENOISER.clock(flow(10))(z_t, torch.tensor([9]), cond).sum().backward()
    assert z_t.grad is not None and not z_t.grad.any()


def test_cost_of_the_default():
    denoiser = CompactDenoiser()
    student = fold_slot(denoiser)
    assert sum(p.numel() for p in denoiser.parameters()) <= 3e6
    assert sum(p.numel() for p in student.parameters()) < sum(p.numel() for p in denoiser.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad(), torch.device("meta"):
        student.to("meta")(torch.empty(1, 3, 128, 128))
    assert 5e9 < counter.get_total_flops() / 2 <= 10e9  # multiply-adds


def test_the_student_is_only_convolutions():
    names = {type(module).__name__ for module in STUDENT.modules()}
    assert names == {"CompactStudent", "UNet", "Identity", "Conv2d", "ModuleList", "FoldedRes", "Enlarge"}
    assert not any(p.requires_grad for p in STUDENT.parameters()) and not STUDENT.training


@torch.no_grad()
@given(st.integers(1, 19), st.integers(1, 19))
def test_any_size(h, w):
    x = images(1, 3, h, w)
    out = STUDENT(x)
    assert out.shape == (1, 3, 4 * h, 4 * w) and torch.isfinite(out).all()


@torch.no_grad()
@settings(max_examples=10)
@given(st.integers(5, 23), st.integers(5, 23))
def test_odd_sizes_are_padded_by_reflection(h, w):
    """An odd image is the corner of the one that continues it by reflection."""
    x = images(1, 3, h, w)
    larger = F.pad(x, (0, -w % 4, 0, -h % 4), mode="reflect")
    assert torch.equal(STUDENT(x), STUDENT(larger)[..., : 4 * h, : 4 * w])
    assert torch.equal(pad_to_multiple(x, 4), larger)


@torch.no_grad()
def test_it_sees_at_most_56_pixels():
    """Exact: beyond the overlap nothing changes, so tiles with that overlap equal the whole image."""
    reach, side = 56, 128
    x = images(1, 3, 8, side).double()
    student = fold_slot(trained(widths=(4, 4, 4))).double()
    whole = student(x)
    changed = x.clone()
    changed[..., 0] += 1  # one column at the border
    far = (student(changed) - whole).abs().amax(dim=(0, 1, 2)).view(side, 4).amax(dim=1)
    assert far[0] > 0.1 and not far[reach:].any()
    assert far[40:reach].any()  # and it does see most of that far
    left, right = student(x[..., : 64 + reach]), student(x[..., 64 - reach :])
    tiled = torch.cat([left[..., : 4 * 64], right[..., 4 * reach :]], dim=-1)
    torch.testing.assert_close(tiled, whole, atol=1e-12, rtol=0)


@torch.no_grad()
def test_a_folded_network_is_the_slot():
    """The same answer, a fifth fewer weights, and once folded it stays as it is."""
    slot, x = folded(DENOISER), images(2, 3, 8, 12)
    assert slot.config == CompactConfig((8, 12, 16), (2, 2, 3), folded=True)
    cond = DENOISER.cond(x)
    torch.testing.assert_close(slot.slot(cond), DENOISER.slot(cond), atol=1e-5, rtol=0)
    assert torch.equal(folded(slot).slot(cond), slot.slot(cond))
    assert torch.equal(fold_slot(slot)(x), decode(slot.slot(cond)))
    assert sum(p.numel() for p in slot.parameters()) < 0.9 * sum(p.numel() for p in DENOISER.parameters())


def test_a_folded_network_is_a_student_alone():
    base = CompactBase(folded(DENOISER))
    student = base.denoiser("student", "ddpm")
    student(images(1, 48, 4, 4), torch.tensor([999]), base.cond(images(1, 3, 4, 4))).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in student.parameters())
    for role in ("teacher", "score", "critic"):
        with pytest.raises(ConfigError, match=f"expected a network of all times as {role}, found a folded"):
            base.denoiser(role, "ddpm")
    with pytest.raises(ConfigError, match="found a folded"):
        base.residual()


def test_shapes_are_checked():
    for config in (
        {"widths": (8, 8)},
        {"widths": (8, 0, 8)},
        {"widths": (10**6, 8, 8)},
        {"blocks": (1, 1, 10**9)},
    ):
        with pytest.raises(ConfigError, match=r"expected base\.(widths|blocks) to be three numbers"):
            CompactConfig(**config)
    face = BASES["compact"]
    opened = face.open(CompactConfig((4, 4, 4), (1, 1, 1)), {}, torch.device("cpu"))
    assert face.Config is CompactConfig and isinstance(opened, CompactBase)


# Opened for training


BASE = CompactBase(DENOISER)


@pytest.mark.parametrize("view", VIEWS)
@torch.no_grad()
def test_the_far_end_of_every_process_is_the_slot(view):
    """Whatever z_t is: beyond S_SLOT it tells nothing, and just below it is read."""
    process, cond = BASE.process(view), BASE.cond(images(1, 3, 8, 8))
    clock, ratio = BASE.denoiser("student", view), process.s / process.a
    assert ratio[-1] > S_SLOT
    near = int((ratio <= S_SLOT).nonzero().max())
    z_t = torch.randn(2, *cond.y.shape, generator=torch.Generator().manual_seed(2))
    far = [clock(z, torch.tensor([near + 1]), cond) for z in z_t]
    assert torch.equal(*far)
    torch.testing.assert_close(far[0], DENOISER.slot(cond), atol=1e-6, rtol=0)
    assert not torch.equal(*(clock(z, torch.tensor([near]), cond) for z in z_t))


def test_without_template():
    """What repeats goes, from the image and from the gradient; colour and content stay."""
    x, grey = images(2, 3, 64, 96), images(2, 3, 1, 1, seed=3)
    tile = images(2, 3, 16, 16, seed=1).repeat(1, 1, 4, 6)
    tile = tile - tile.mean(dim=(2, 3), keepdim=True)
    clean = decode(without_template(encode(x)))
    torch.testing.assert_close(
        decode(without_template(encode(x + tile + grey))), clean + grey, atol=2e-6, rtol=0
    )
    assert (clean - x).abs().mean() < 0.25 * x.abs().mean()

    patch = torch.zeros(
        2, 3, 128, 128
    )  # 4-pixel cells in one corner alone, which no template of the whole shows
    patch[..., :64, :64] = (tile[..., :4, :4] - tile[..., :4, :4].mean(dim=(2, 3), keepdim=True)).repeat(
        1, 1, 16, 16
    )
    rest = decode(without_template(encode(patch)))[..., 16:48, 16:48]
    assert rest.abs().mean() < 0.2 * patch[..., 16:48, 16:48].abs().mean()

    z = encode(x).requires_grad_()
    without_template(z).mul(encode(images(2, 3, 64, 96, seed=4) + tile)).sum().backward()
    assert (
        F.pixel_unshuffle(decode(z.grad), 16).mean(dim=(2, 3)).view(2, 3, 256).std(dim=2).max()
        < 0.1 * tile.std()
    )


@pytest.mark.parametrize("view", VIEWS)
@torch.no_grad()
def test_features_are_the_first_half_of_the_network(view):
    """Equal to what the whole network computes on the way, at three noise levels at once."""
    process, cond = BASE.process(view), BASE.cond(images(3, 3, 8, 16))
    t = torch.tensor([0, len(process) // 2, len(process) - 1])
    z_t = process.perturb(cond.y, torch.randn(cond.y.shape), t, cond.y)
    seen = []
    clock, taps = BASE.denoiser("teacher", view), BASE.features("teacher", view)
    hooks = [
        level[-1].register_forward_hook(lambda module, args, out: seen.append(out))
        for level in (clock.denoiser.net.enc0, clock.denoiser.net.enc1, clock.denoiser.net.mid)
    ]
    w, s = clocked(process, z_t, t, cond.y)
    clock.denoiser.residual(without_template(w), cond.image, s)
    maps = taps(z_t, t, cond)
    for hook in hooks:
        hook.remove()
    assert [m.shape[1] for m in maps] == list(taps.widths)
    assert [m.shape[-2:] for m in maps] == [(8, 16), (4, 8), (2, 4)]
    for ours, theirs in zip(maps, seen, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_every_role_is_a_copy_of_its_own():
    """Only the teacher is frozen; no tensor is shared."""
    nets = [BASE.denoiser(role, "flow") for role in ("student", "teacher", "score")]
    nets += [BASE.features(role, "ddpm") for role in ("teacher", "critic")] + [BASE.residual()]
    frozen = [all(not p.requires_grad for p in net.parameters()) for net in nets]
    trained = [all(p.requires_grad for p in net.parameters()) for net in nets]
    assert frozen == [False, True, False, True, False, False] and trained == [not f for f in frozen]
    pointers = [p.data_ptr() for net in [DENOISER, *nets] for p in net.parameters()]
    assert len(set(pointers)) == len(pointers)
    assert torch.equal(nets[0].denoiser.net.inp.weight, DENOISER.net.inp.weight)


def test_critics_may_start_from_another_network():
    other = trained((12, 16, 20), (1, 1, 1))
    base = CompactBase(DENOISER, critic=other)
    assert base.features("critic", "ddpm").widths == (12, 16, 20)
    assert base.features("teacher", "ddpm").widths == DENOISER.config.widths
    assert torch.equal(base.features("critic", "ddpm").denoiser.net.inp.weight, other.net.inp.weight)


def test_restore_is_what_is_shipped():
    x = images(1, 3, 8, 8)
    with torch.no_grad():
        picture = BASE.restore(BASE.denoiser("student", "flow"), (x + 1) / 2)
        torch.testing.assert_close(picture, (STUDENT(x) + 1) / 2, atol=1e-5, rtol=0)


def test_a_view_it_lacks():
    with pytest.raises(ConfigError, match=r"expected method\.process to be one of flow, ddpm, resshift"):
        BASE.process("edm")
