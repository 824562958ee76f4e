"""Block by block equals whole: for every codec, size and block; and memory is what was planned."""

import copy
import functools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from taesd import TinyCodec
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from unistep.autoencoder import blockwise, layersync
from unistep.autoencoder import steps as vaesteps
from unistep.autoencoder.codecs import Codec, KLCodec, TinyDecoder, VQCodec
from unistep.autoencoder.vq import VQ, VQConfig
from unistep.counting.peak import Live
from unistep.errors import ConfigError, MemoryLimit

KINDS = ("kl", "vq", "tiny")


@functools.cache
def codec(kind: str) -> Codec:
    torch.manual_seed(0)
    if kind == "tiny":
        made: Codec = TinyCodec(4, shift=0.1)
    elif kind == "vq":
        made = VQCodec(VQ(VQConfig(ch=32, ch_mult=(1, 2), num_res_blocks=(1, 1), n_embed=64)))
    else:
        diffusers = pytest.importorskip("diffusers")
        made = KLCodec(
            diffusers.AutoencoderKL(
                block_out_channels=(8, 16),
                down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2,
                norm_num_groups=4,
                shift_factor=0.06,
            ),
            shift=True,
        )
        for part in made.modules():  # a fresh norm would hide a channel that gets the weight of another
            if isinstance(part, torch.nn.GroupNorm):
                torch.nn.init.normal_(part.weight, 1, 0.3)
                torch.nn.init.normal_(part.bias, 0, 0.3)
    return made.eval()


def apart(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((a - b).abs().max() / b.abs().max())


def picture(height: int, width: int, batch: int = 1) -> Tensor:
    """Its parts differ, so that statistics of a block are not those of the whole."""
    torch.manual_seed(height * 100 + width)
    ramp = torch.linspace(-1, 1, width) * torch.linspace(0.2, 1, height)[:, None]
    return (ramp + 0.3 * torch.randn(batch, 3, height, width)).clamp(-1, 1)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=4)
@given(height=st.integers(2, 9), width=st.integers(2, 9), block=st.integers(3, 40))
def test_blocks_equal_the_whole(kind, height, width, block):
    """In float64: norms of a few nearly equal values blow up what float32 rounds."""
    c = copy.deepcopy(codec(kind)).double()
    x = picture(height * c.factor, width * c.factor).double()
    with torch.no_grad():
        z = c.encode(x)
        y = c.decode(z)
    assert apart(layersync.encode(c, x, block=block), z) < 1e-10
    assert apart(layersync.decode(c, z, block=block), y) < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_equal_the_whole_in_float32(kind):
    c = codec(kind)
    x = picture(6 * c.factor, 9 * c.factor)
    with torch.no_grad():
        z = c.encode(x)
        y = c.decode(z)
    assert apart(layersync.encode(c, x, block=13), z) < 1e-5
    assert apart(layersync.decode(c, z, block=13), y) < 1e-5


def test_a_batch_with_noise():
    c = codec("kl")
    x = picture(10, 14, batch=2)
    noise = torch.randn(2, 4, 5, 7)
    with torch.no_grad():
        assert apart(layersync.encode(c, x, noise, block=8), c.encode(x, noise)) < 1e-5


def test_half_precision():
    c = codec("kl")
    z = torch.randn(1, 4, 8, 9)
    y = layersync.decode(c, z, block=8, dtype=torch.bfloat16)
    assert y.dtype == torch.bfloat16
    with torch.no_grad():
        assert apart(y.float(), c.decode(z)) < 0.05


@pytest.mark.parametrize("kind", ("kl", "tiny"))
@pytest.mark.parametrize("direction", ("encode", "decode"))
def test_the_plan_is_what_happens(kind, direction):
    """Peak of live tensors, and arithmetic: at most 1.15 times the whole."""
    c = codec(kind)
    x = (
        torch.randn(1, 3, 96, 128)
        if direction == "encode"
        else torch.randn(1, 4, 96 // c.factor, 128 // c.factor)
    )
    plan = layersync.plan(c, 96, 128, direction=direction, block=32)
    live = Live()
    for known in [*c.parameters(), x]:
        live.known[known.untyped_storage()._cdata] = 0
    call = getattr(layersync, direction)
    with live, FlopCounterMode(display=False) as tiled:
        call(c, x, block=32, store="host")
    assert tiled.get_total_flops() == 2 * plan.macs
    assert 0.75 < live.peak / (plan.device_bytes + plan.host_bytes) < 1.1
    with FlopCounterMode(display=False) as whole, torch.no_grad():
        getattr(c, direction)(x)
    # fused attention on a CPU is not counted
    assert whole.get_total_flops() == 2 * (plan.whole_macs - plan.attention_macs)
    assert plan.macs <= 1.15 * plan.whole_macs


def test_device_memory_is_flat():
    plans = [layersync.plan(codec("kl"), n, n, direction="decode", block=64) for n in (256, 1024)]
    assert plans[1].device_bytes <= 1.3 * plans[0].device_bytes
    assert plans[1].host_bytes > 15 * plans[0].host_bytes


def test_memory_maps(tmp_path):
    c = codec("kl")
    z = torch.randn(1, 4, 6, 7)
    with torch.no_grad():
        assert apart(layersync.decode(c, z, block=8, store=tmp_path), c.decode(z)) < 1e-5
    assert not list(tmp_path.iterdir())


def test_maps_go_after_an_error(tmp_path):
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        layersync.decode(codec("kl"), torch.randn(1, 4, 6, 7), block=8, store=tmp_path, progress=stop)
    assert not list(tmp_path.iterdir())


def test_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(blockwise.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100}))
    with pytest.raises(MemoryLimit, match="GB of room"):
        layersync.decode(codec("kl"), torch.randn(1, 4, 6, 7), store=tmp_path)
    assert not list(tmp_path.iterdir())
    assert not layersync.spills(101)
    with pytest.raises(MemoryLimit, match="store activations"):
        layersync.decode(codec("kl"), torch.randn(1, 4, 6, 7), store=Path(tmp_path, "none"))


def test_too_little_host_memory_spills(tmp_path, monkeypatch):
    monkeypatch.setattr(layersync, "free_memory", lambda device: 1)
    monkeypatch.setattr(layersync.tempfile, "gettempdir", lambda: str(tmp_path))
    made = []
    monkeypatch.setattr(
        blockwise, "_reserve", lambda file, n, real=blockwise._reserve: made.append(real(file, n))
    )
    layersync.decode(codec("kl"), torch.randn(1, 4, 6, 7))
    assert made


def test_progress_ends():
    seen: list[tuple[int, int]] = []
    z = torch.randn(2, 4, 6, 7)
    layersync.decode(codec("kl"), z, block=8, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] > 0


def test_fast_is_close_and_equal_where_one_tile_holds_all():
    c = codec("kl")
    z = layersync.encode(c, picture(64, 80))
    with torch.no_grad():
        whole = c.decode(z)
    assert apart(layersync.decode(c, z, block=96, mode="fast"), whole) < 1e-5
    assert 1e-5 < apart(layersync.decode(c, z, block=32, mode="fast"), whole) < 0.3
    plan = layersync.plan(c, 64, 80, direction="decode", block=32, mode="fast")
    with FlopCounterMode(display=False) as flops:
        layersync.decode(c, z, block=32, mode="fast")
    assert flops.get_total_flops() == 2 * plan.macs


def test_what_cannot_be():
    c = codec("kl")
    for bad, more in (
        (torch.zeros(1, 3, 5, 4), {}),
        (torch.zeros(1, 4, 4, 4), {}),
        (torch.zeros(1, 3, 4, 4), {"block": 0}),
        (torch.zeros(1, 3, 4, 4), {"mode": "seams"}),
    ):
        with pytest.raises(ConfigError, match="expected"):
            layersync.encode(c, bad, **more)
    with pytest.raises(ConfigError, match="tiny decoder"):
        layersync.encode(TinyDecoder(4), torch.zeros(1, 3, 8, 8))
    with pytest.raises(ConfigError, match="direction"):
        layersync.plan(c, 8, 8, direction="both")


def test_attention_over_blocks_of_keys():
    """Scores of very different size, the largest not in the first block."""
    torch.manual_seed(0)
    net = vaesteps.lower(codec("vq"), "decode")
    blocks = blockwise.Blocks(net, 8, torch.device("cpu"), torch.float32)
    (step,) = (s for s in net.steps if isinstance(s, vaesteps.Attend))
    c = len(step.weight)
    tokens, past = 4 * torch.randn(50, 3 * c), torch.randn(50, c)
    q, k, v = tokens.split(c, dim=1)
    with torch.no_grad():
        y = torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None])[0]
        expected = torch.nn.functional.linear(y, step.weight, step.bias) + past
        found = blocks.attend(step, q, tokens[:, c:].split(7), past)
    assert apart(found, expected) < 1e-5
