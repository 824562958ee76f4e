"""ResShift's Swin-UNet: recorded numbers, names, sizes, folding, and the quirks that its weights need."""

import copy
import dataclasses
import functools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from resshift_golden import CASES, config, numbers, unet_file, weights
from torch import Tensor

from unistep.bases.resshift.swin import (
    BUFFERS,
    SwinConfig,
    SwinUNet,
    complete,
    fold,
    official,
    time_code,
    unwrapped,
)
from unistep.bases.resshift.swin_blocks import (
    SwinBlock,
    SwinLayer,
    WindowAttention,
    last_row_mask,
    norm,
    relative_index,
)
from unistep.errors import ConfigError, ModelError

TINY = SwinConfig(
    model_channels=32, channel_mult=(1, 2), num_res_blocks=(1, 2), image_size=8, lq_size=8,
    window_size=4, swin_embed_dim=32, heads=2, mlp_ratio=2,
)  # fmt: skip
FACES = SwinConfig(channels=8, lq_size=512)
TINY_FACES = dataclasses.replace(TINY, channels=8, lq_size=64)


def seeded(net: SwinUNet) -> SwinUNet:
    """With weights of which each matters."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in net.named_parameters():
            spread = torch.randn(p.shape, generator=generator)
            if p.dim() > 1:
                p.copy_(spread / math.sqrt(max(p[0].numel(), 1)) if "table" not in name else spread)
            else:
                p.add_(0.3 * spread)
    return net.eval().requires_grad_(False)


@functools.cache
def recorded(case: str) -> SwinUNet:
    state = official(unet_file(case))
    net = SwinUNet(SwinConfig.infer(state))
    net.load_state_dict(state)
    return net.eval().requires_grad_(False)


def count(*modules: torch.nn.Module) -> list[int]:
    return [sum(p.numel() for p in module.parameters()) for module in modules]


@pytest.mark.parametrize("case", CASES)
def test_recorded_numbers(case: str) -> None:
    net, want = recorded(case), numbers(case)
    out = net(want["unet/x"], want["unet/lq"], want["unet/t"])
    assert (out - want["unet/out"]).abs().max() < 1e-4
    t = torch.tensor([config(case)["second_size_t"]])
    out = net(want["unet/out_second_size_x"], want["unet/out_second_size_lq"], t)
    assert (out - want["unet/out_second_size"]).abs().max() < 1e-4


@pytest.mark.parametrize("case", CASES)
def test_names_and_shapes_are_the_authors(case: str) -> None:
    """Ours are theirs, less what follows from the shape."""
    theirs = {name: shape for name, shape in config(case)["keys"].items() if not name.endswith(BUFFERS)}
    assert {name: list(p.shape) for name, p in recorded(case).state_dict().items()} == theirs


@pytest.mark.parametrize("case", CASES)
def test_shape_is_inferred(case: str) -> None:
    """With the buffers or without, from any wrapper and dtype."""
    theirs = config(case)["unet"]
    own = SwinConfig.infer(official(unet_file(case)))
    for name in ("model_channels", "image_size", "window_size", "swin_embed_dim", "swin_depth", "mlp_ratio"):
        assert getattr(own, name) == theirs[name]
    assert list(own.channel_mult) == theirs["channel_mult"]
    assert list(own.num_res_blocks) == theirs["num_res_blocks"]
    assert own.swin_embed_dim // own.heads == theirs["num_head_channels"]
    assert (own.lq_size, own.channels) == (16, 3)
    assert SwinConfig.infer(weights(case)["unet"]) == own
    assert SwinConfig.infer(unet_file(case)) == own
    for prefix in ("module.", "_orig_mod.", "module._orig_mod."):
        state = official(unet_file(case, prefix, torch.float16))
        assert SwinConfig.infer(state) == own
        assert SwinConfig.infer(unwrapped(unet_file(case, prefix))) == own
        assert state.keys() == weights(case)["unet"].keys()


def test_a_half_precision_file_with_prefixes_gives_nearly_the_same() -> None:
    net, want = copy.deepcopy(recorded("resshift")), numbers("resshift")
    net.load_state_dict(official(unet_file("resshift", "module.", torch.float16)))
    out = net(want["unet/x"], want["unet/lq"], want["unet/t"])
    assert 1e-6 < (out - want["unet/out"]).abs().max() < 2e-2


@pytest.mark.parametrize("shape", [SwinConfig(), FACES, TINY_FACES], ids=["x4", "faces", "tiny"])
def test_infer_is_the_inverse_of_building(shape: SwinConfig) -> None:
    with torch.device("meta"):
        assert SwinConfig.infer(SwinUNet(shape).state_dict(), shape.image_size) == shape


@pytest.mark.parametrize("side", [8, 16, 32, 64])
@pytest.mark.parametrize("levels", [1, 2, 4])
def test_the_masks_tell_the_size(side: int, levels: int) -> None:
    """Where all windows are of one size nothing else does."""
    shape = dataclasses.replace(
        TINY, channel_mult=(1,) * levels, num_res_blocks=(1,) * levels, window_size=8, image_size=side,
        lq_size=side,
    )  # fmt: skip
    with torch.device("meta"):
        net = SwinUNet(shape)
    assert SwinConfig.infer(net.state_dict() | complete(net)) == shape


def test_files_that_contradict_themselves_are_refused() -> None:
    states = {}
    for side in (8, 16):
        net = SwinUNet(dataclasses.replace(TINY, image_size=side, lq_size=side))
        states[side] = net.state_dict() | complete(net)
    state = states[8]
    first, *_, last = [name for name in state if name.endswith("attn_mask")]
    assert state[first].shape == state[last].shape == (4, 16, 16) and first != last
    middle, four = "middle_block.1.blocks.1.attn_mask", r"is \[4, 16, 16\], found"
    for wrong, pattern in (
        ({first: states[16][first]}, r"of side 16, in which \S+ is .*, found .*mixed$"),
        ({last: torch.zeros(9, 16, 16)}, rf"of side 8, in which {last} {four} \[9, 16, 16\]; "),
        ({first: torch.zeros(5, 16, 16)}, rf"of side 8, in which {first} {four} \[5, 16, 16\]; "),
        ({middle: torch.zeros(4, 16, 16)}, f"of side 8, in which {middle} is absent, found"),
    ):
        with pytest.raises(ModelError, match=f"^expected a network for latents {pattern}"):
            SwinConfig.infer({**state, **wrong})
    with pytest.raises(
        ModelError, match=r"of side 16, in which \S+ is \[16, 16, 16\], found \[4, 16, 16\]; "
    ):
        SwinConfig.infer(state, image_size=16)
    with pytest.raises(ModelError, match="expected the state dict"):
        SwinConfig.infer({**state, first: torch.zeros(())})


def test_real_sizes() -> None:
    """118.594 M parameters, of which folding removes 11,384,640: the papers' count, and performance.md's."""
    with torch.device("meta"):
        net, folded, faces = SwinUNet(), SwinUNet(folded=True), SwinUNet(FACES)
    whole, rest, of_faces = count(net, folded, faces)
    assert (whole, whole - rest, of_faces) == (118_593_583, 11_384_640, 118_931_604)
    assert (
        sum(p.numel() for name, p in net.named_parameters() if name.endswith("emb_layers.1.bias")) == 16_960
    )
    assert SwinConfig().multiple == FACES.multiple == 64


@pytest.mark.parametrize("shape", [SwinConfig(), FACES], ids=["x4", "faces"])
@torch.no_grad()
def test_real_layouts_run(shape: SwinConfig) -> None:
    """All levels at their real sizes, narrower."""
    net = SwinUNet(dataclasses.replace(shape, model_channels=32, swin_embed_dim=96), folded=True)
    z, image = torch.randn(1, shape.channels, 64, 64), torch.randn(1, 3, shape.lq_size, shape.lq_size)
    out = net(z, image)
    assert out.shape == z.shape and bool(torch.isfinite(out).all())


@settings(max_examples=5)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 2))
def test_any_number_of_windows(rows: int, columns: int, batch: int) -> None:
    net = seeded(SwinUNet(TINY))
    side = TINY.multiple
    z = torch.randn(batch, 3, rows * side, columns * side)
    image = torch.randn_like(z)
    out = net(z, image, torch.arange(batch))
    assert out.shape == z.shape and bool(torch.isfinite(out).all())
    alone = net(z[-1:], image[-1:], torch.tensor([batch - 1]))
    assert (out[-1:] - alone).abs().max() < 1e-5 * alone.abs().max()  # pictures of a batch do not mix


def test_larger_low_quality_images() -> None:
    """Stages of convolution, SiLU, strided convolution; then no activation."""
    net = seeded(SwinUNet(TINY_FACES))
    z, image = torch.randn(1, 8, 8, 16), torch.rand(1, 3, 64, 128) * 2 - 1
    assert net(z, image, torch.tensor([3])).shape == z.shape
    state, h = net.state_dict(), image
    assert [n for n in state if n.startswith("feature_extractor")][:4] == [
        "feature_extractor.0.weight", "feature_extractor.0.bias",
        "feature_extractor.2.op.weight", "feature_extractor.2.op.bias",
    ]  # fmt: skip
    for n in range(3):
        h = F.silu(F.conv2d(h, state[f"feature_extractor.{3 * n}.weight"],
                            state[f"feature_extractor.{3 * n}.bias"], padding=1))  # fmt: skip
        h = F.conv2d(h, state[f"feature_extractor.{3 * n + 2}.op.weight"],
                     state[f"feature_extractor.{3 * n + 2}.op.bias"], stride=2, padding=1)  # fmt: skip
    assert h.shape == (1, 128, 8, 16)
    assert (net.feature_extractor(image) - h).abs().max() < 1e-5


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("t", [0, 7, 14])
def test_folding_is_exact(case: str, t: int) -> None:
    net, want = recorded(case), numbers(case)
    folded = SwinUNet(net.config, folded=True).requires_grad_(False)
    folded.load_state_dict(fold(net.state_dict(), net.config, t, 0.4))
    x, image = want["unet/x"], want["unet/lq"]
    whole = net(0.4 * x, image, torch.full((len(x),), t))
    assert (folded(x, image) - whole).abs().max() < 1e-5 * whole.abs().max()


def labels_by_hand(h: int, w: int, window: int, shift: int) -> Tensor:
    """[windows, N]: the labels of the released code, whose map has its rows where it means columns.

    It labels a [1, 1, H, W] map as if that were [1, H, W, 1], and cuts it into windows transposed.
    """
    labels, bands = torch.zeros(1, 1, h, w), (slice(-window), slice(-window, -shift), slice(-shift, None))
    for number, (rows, columns) in enumerate([(r, c) for r in bands for c in bands]):
        labels[:, rows, columns, :] = number
    windows = labels.view(h // window, window, w // window, window).permute(0, 2, 3, 1)
    return windows.reshape(-1, window * window)


def attention_by_hand(layer: WindowAttention, x: Tensor, mask: Tensor) -> Tensor:
    """Window by window; mask [windows, N, N]."""
    m, s, out = layer.window, layer.shift, torch.zeros_like(x)
    x = x.roll((-s, -s), (2, 3))
    bias = layer.relative_position_bias_table[relative_index(m)].permute(2, 0, 1)
    number = 0
    for i in range(0, x.shape[2], m):
        for j in range(0, x.shape[3], m):
            tokens = x[..., i : i + m, j : j + m].flatten(2).transpose(1, 2)
            q, k, v = (
                p.unflatten(2, (layer.heads, -1)).transpose(1, 2) for p in layer.qkv(tokens).chunk(3, 2)
            )
            weight = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5 + bias + mask[number]).softmax(-1)
            done = layer.proj((weight @ v).transpose(1, 2).flatten(2))
            out[..., i : i + m, j : j + m] = done.transpose(1, 2).unflatten(2, (m, m))
            number += 1
    return out.roll((s, s), (2, 3))


def window_attention(window: int, shift: int) -> WindowAttention:
    torch.manual_seed(0)
    layer = WindowAttention(32, 2, window, shift).requires_grad_(False)
    layer.relative_position_bias_table.normal_()
    return layer


@pytest.mark.parametrize(("h", "w"), [(8, 8), (24, 8), (8, 24), (24, 40), (16, 24)])
def test_mask_quirk(h: int, w: int) -> None:
    """Only the last row of windows is masked, by column; a correct mask gives other numbers."""
    layer, x = window_attention(8, 4), torch.randn(2, 32, h, w)
    labels = labels_by_hand(h, w, 8, 4)
    mask = torch.where(labels[:, :, None] == labels[:, None, :], 0.0, -100.0)
    columns = w // 8
    assert not mask[:-columns].any()
    assert all(torch.equal(one, last_row_mask(8, 4)) for one in mask[-columns:])
    out = layer(x)
    assert (out - attention_by_hand(layer, x, mask)).abs().max() < 1e-5

    proper = torch.zeros(h, w)
    bands = (slice(-8), slice(-8, -4), slice(-4, None))
    for number, (rows, cols) in enumerate([(r, c) for r in bands for c in bands]):
        proper[rows, cols] = number
    labels = proper.view(h // 8, 8, columns, 8).transpose(1, 2).reshape(-1, 64)
    mask = torch.where(labels[:, :, None] == labels[:, None, :], 0.0, -100.0)
    assert (out - attention_by_hand(layer, x, mask)).abs().max() > 1e-2


@pytest.mark.parametrize("window", [3, 4])
def test_windows_that_are_not_shifted_are_not_masked(window: int) -> None:
    layer, x = window_attention(window, 0), torch.randn(2, 32, 3 * window, 2 * window)
    none = torch.zeros(6, window**2, window**2)
    assert (layer(x) - attention_by_hand(layer, x, none)).abs().max() < 1e-5


def test_relative_positions() -> None:
    index = relative_index(3)
    assert index.shape == (9, 9) and index.unique().tolist() == list(range(25))
    assert index[0, 0] == 12 and index[8, 0] == 24 and index[0, 8] == 0  # (dy + 2) 5 + dx + 2
    assert index[1, 0] == 13 and index[3, 0] == 17


def test_shifts_are_fixed_when_the_network_is_built() -> None:
    """No shift where the map fits into one window then, whatever comes later; windows shrink with the map."""

    def shifts(name: str, net: SwinUNet) -> list[tuple[int, int]]:
        layer = net.get_submodule(name)
        assert isinstance(layer, SwinLayer)
        return [(block.attn.shift, block.attn.window) for block in layer.blocks]  # type: ignore[union-attr, misc]

    small = recorded("resshift")
    with torch.device("meta"):
        net = SwinUNet()
    assert shifts("input_blocks.1.1", net) == shifts("output_blocks.9.1", net) == [(0, 8), (4, 8)]
    assert shifts("input_blocks.7.1", net) == [(0, 8), (4, 8)]
    assert shifts("input_blocks.10.1", net) == shifts("middle_block.1", net) == [(0, 8), (0, 8)]
    assert shifts("input_blocks.1.1", small) == [(0, 8), (4, 8)]
    assert shifts("input_blocks.4.1", small) == [(0, 8), (0, 8)]
    assert shifts("input_blocks.6.1", small) == [(0, 4), (0, 4)]


def test_swin_norms_are_of_the_whole_map() -> None:
    torch.manual_seed(0)
    block = SwinBlock(32, 2, 4, 2, 2).requires_grad_(False)
    x = 3 + 2 * torch.randn(1, 32, 8, 8)
    for parameter in (block.norm1.weight, block.norm2.bias):
        parameter.normal_()

    def normed(x: Tensor, layer: torch.nn.GroupNorm) -> Tensor:
        mean, var = x.mean((1, 2, 3), keepdim=True), x.var((1, 2, 3), keepdim=True, unbiased=False)
        if x.shape[1] == 32:  # 32 groups of one channel
            mean, var = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True, unbiased=False)
        return (x - mean) / (var + 1e-5).sqrt() * layer.weight[:, None, None] + layer.bias[:, None, None]

    h = x + block.attn(normed(x, block.norm1))
    h = h + block.mlp(normed(h, block.norm2))
    assert (block(x) - h).abs().max() < 1e-5


def test_nothing_goes_past_a_swin_layer() -> None:
    layer = SwinLayer(64, 32, [SwinBlock(32, 2, 4, 0, 2)])
    torch.nn.init.zeros_(layer.patch_unembed.proj.weight)
    torch.nn.init.ones_(layer.patch_unembed.proj.bias)
    assert torch.equal(layer(torch.randn(1, 64, 4, 8)), torch.ones(1, 64, 4, 8))


def test_time_code_has_cosines_first() -> None:
    code = time_code(torch.tensor([0, 3]), 160)
    assert torch.equal(code[0], torch.cat([torch.ones(80), torch.zeros(80)]))
    for k in (0, 1, 79):
        angle = 3 * 10_000 ** (-k / 80)
        assert code[1, k].item() == pytest.approx(math.cos(angle), abs=1e-6)
        assert code[1, 80 + k].item() == pytest.approx(math.sin(angle), abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_norms_take_their_statistics_in_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = (60 + 5 * torch.randn(1, 64, 32, 32)).to(dtype)
    exact = norm(64)(x.float())
    error = (norm(64).to(dtype)(x).float() - exact).abs()
    assert bool((error <= torch.finfo(dtype).eps * (1 + exact.abs())).all())


def test_norms_have_an_eps_of_1e_5() -> None:
    assert norm(32).eps == 1e-5
    x = torch.full((1, 32, 4, 4), 1e-3) * torch.tensor([1.0, -1.0]).repeat(2)
    assert norm(32)(x)[0, 0, 0, 0].item() == pytest.approx(1e-3 / math.sqrt(1e-6 + 1e-5), rel=1e-4)


def test_half_precision_stays_near() -> None:
    net = seeded(SwinUNet(TINY))
    z, image, t = torch.randn(1, 3, 16, 8), torch.randn(1, 3, 16, 8), torch.tensor([5])
    want = net(z, image, t)
    net = net.to(torch.bfloat16)
    out = net(z.bfloat16(), image.bfloat16(), t)
    assert out.dtype == torch.bfloat16
    assert (out.float() - want).abs().max() < 0.1 * want.abs().max()


def test_other_tensors_are_refused() -> None:
    with pytest.raises(ModelError, match="expected the state dict of ResShift's Swin-UNet, found 1 tensors"):
        SwinConfig.infer({"x": torch.zeros(1)})
    state = weights("sinsr")["unet"]
    state["input_blocks.0.0.weight"] = torch.zeros(32, 40, 3, 3)  # channels of no known image encoder
    with pytest.raises(ModelError, match="expected the state dict of ResShift's Swin-UNet"):
        SwinConfig.infer(state)
    with pytest.raises(ConfigError, match="expected the sizes of a Swin-UNet, found"):
        SwinConfig(model_channels=10**6)
    with pytest.raises(ConfigError, match="expected the sizes of a Swin-UNet, found"):
        SwinConfig(lq_size=100)
