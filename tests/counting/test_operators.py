"""What a call costs, against sums made by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unistep.autoencoder.codecs import KLCodec
from unistep.bases.sd3.mmdit import FoldedMMDiT, MMDiTConfig
from unistep.counting.operators import Counts, Peaks, Work, count, parameters, weight_bytes

KINDS = ("convolution", "linear", "attention")
DEVICES = ("meta", "cpu")


def macs(counts):
    return {kind: counts.macs(kind) for kind in KINDS if counts.macs(kind)}


@pytest.mark.parametrize("device", DEVICES)
def test_a_convolution(device):
    x = torch.empty(2, 6, 8, 10, device=device)
    counts = count(nn.Conv2d(6, 4, 3, stride=2, padding=1, groups=2, device=device), x)
    assert counts.operators == 1
    assert macs(counts) == {"convolution": 2 * 4 * 5 * 4 * (6 // 2) * 9}
    assert counts.bytes == 4 * (2 * 6 * 8 * 10 + 4 * 3 * 9 + 4 + 2 * 4 * 4 * 5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("turned", [True, False])
def test_a_linear_layer_however_torch_does_it(device, bias, turned):
    x = torch.empty(3, 5, 7, device=device)
    x = torch.empty(3, 7, 5, device=device).transpose(1, 2) if turned else x
    counts = count(nn.Linear(7, 11, bias=bias, device=device), x)
    assert macs(counts) == {"linear": 3 * 5 * 7 * 11}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("masked", [True, False])
def test_an_attention_is_one_operator(device, masked):
    q = torch.empty(2, 3, 5, 8, device=device)
    k, v = torch.empty(2, 3, 7, 8, device=device), torch.empty(2, 3, 7, 8, device=device)
    mask = torch.empty(5, 7, device=device) if masked else None
    counts = count(F.scaled_dot_product_attention, q, k, value=v, attn_mask=mask)
    assert counts.operators == 1
    assert macs(counts) == {"attention": 2 * 2 * 3 * 5 * 7 * 8}
    assert counts.bytes == 4 * (2 * (2 * 3 * 5 * 8) + 2 * (2 * 3 * 7 * 8) + 35 * masked)


def test_a_block():
    """GroupNorm, SiLU, convolution, sum; two views, an empty tensor and an attention written out."""

    def block(x):
        h = x + conv(F.silu(norm(x)))
        tokens = h.flatten(2).transpose(1, 2)
        torch.empty_like(tokens)
        return torch.softmax(tokens @ tokens.mT, dim=-1)

    norm, conv = nn.GroupNorm(2, 4, device="meta"), nn.Conv2d(4, 4, 3, padding=1, device="meta")
    counts = count(block, torch.empty(1, 4, 6, 6, device="meta"))
    assert [work.kind for work in counts.work] == ["", "", "convolution", "", "attention", ""]
    assert macs(counts) == {"convolution": 36 * 4 * 4 * 9, "attention": 36 * 36 * 4}
    assert counts.macs() == sum(macs(counts).values())


def test_inference_mode_and_dtype():
    layer, x = nn.Linear(4, 4, dtype=torch.bfloat16), torch.zeros(2, 4, dtype=torch.bfloat16)
    with torch.inference_mode():
        counts = count(layer, x)
    assert macs(counts) == {"linear": 2 * 16}
    assert counts.operators == 1 and counts.bytes == 2 * (16 + 4 + 8 + 8)


def test_the_bounds():
    """At 100 FLOP and 10 bytes a second: 2 s of arithmetic, 3 s of moving, and 4 s of a norm."""
    counts = Counts([Work("linear", 100, 1)]) + Counts([Work("attention", 1, 30), Work("", 0, 40)])
    peaks = Peaks(flops=100, bandwidth=10)
    assert counts.bound(peaks, fused=True) == pytest.approx(2 + 3)
    assert counts.bound(peaks, fused=False) == pytest.approx(2 + 3 + 4)
    assert (counts.operators, counts.bytes) == (3, 71)


def test_weights():
    module = nn.BatchNorm2d(3, dtype=torch.float16, device="meta")
    assert parameters(module) == 6
    assert weight_bytes(module) == 2 * 12 + 8


def test_a_picture_of_tsdsr_takes_few_operators():
    """128 -> 512 at the real size; the authors' arrangement dispatches 2,615 (benchmarks/backbones.py)."""
    pytest.importorskip("diffusers")
    codec = KLCodec.from_config(
        {
            "block_out_channels": [128, 256, 512, 512],
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
            "layers_per_block": 2,
            "latent_channels": 16,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
        }
    )
    with torch.device("meta"):
        denoiser = FoldedMMDiT(MMDiTConfig())
        x = torch.empty(1, 3, 512, 512)
    counts = count(lambda: codec.decode(denoiser(codec.encode(x))))
    assert counts.operators <= 1400
    assert counts.macs() / 1e9 == pytest.approx(2862.7, abs=0.1)
    assert parameters(denoiser) <= 2_028_328_000 - 689_754_624
