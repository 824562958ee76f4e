"""The VQ autoencoders: recorded numbers, sizes, and what encode, decode and the codebook promise."""

import pytest
import torch
import torch.nn.functional as F
from resshift_golden import config, numbers, weights

from unistep.autoencoder import vq as module
from unistep.autoencoder.vq import VQ, AttnBlock, Downsample, Quantize, VQConfig
from unistep.errors import ConfigError, ModelError

FACES = VQConfig(64, (1, 2, 4, 8), (1, 2, 3, 4), 8, 8, 4096)
TINY_FACES = VQConfig(32, (1, 2, 4, 8), (1, 2, 3, 4), 8, 8, 16)


@pytest.fixture(scope="module")
def recorded() -> VQ:
    state = weights("resshift")["vq"]
    vq = VQ(VQConfig.infer(state)).eval().requires_grad_(False)
    vq.load_state_dict(state)
    return vq


def test_recorded_numbers(recorded: VQ) -> None:
    want = numbers("resshift")
    z = recorded.encode(want["vq/image"])
    assert (z - want["vq/z"]).abs().max() < 1e-4 * want["vq/z"].abs().max()
    assert torch.equal(recorded.quantize.indices(want["vq/z"]).flatten(), want["vq/indices"])
    assert (recorded.decode(want["vq/z"]) - want["vq/decode"]).abs().max() < 1e-4


@pytest.mark.parametrize("case", ["resshift", "sinsr"])
def test_shape_is_inferred(case: str) -> None:
    recorded, own = config(case)["vq"], VQConfig.infer(weights(case)["vq"])
    dd = recorded["ddconfig"]
    assert (own.ch, list(own.ch_mult)) == (dd["ch"], dd["ch_mult"])
    assert own.num_res_blocks == (dd["num_res_blocks"],) * 3
    assert (own.n_embed, own.embed_dim, own.z_channels) == (recorded["n_embed"], recorded["embed_dim"], 3)


@pytest.mark.parametrize("shape", [VQConfig(), FACES, TINY_FACES], ids=["f4", "f8", "tiny"])
def test_infer_is_the_inverse_of_building(shape: VQConfig) -> None:
    with torch.device("meta"):
        assert VQConfig.infer(VQ(shape).state_dict()) == shape


def test_real_sizes() -> None:
    """The f4 counts are those of the papers: 55.32 M in all."""
    with torch.device("meta"):
        f4, f8 = VQ(), VQ(FACES)
        parts = [sum(p.numel() for p in m.parameters()) for m in (f4, f4.encoder, f4.decoder)]
        assert parts == [55_322_782, 22_337_411, 32_960_771]
    assert (VQConfig().factor, FACES.factor) == (4, 8)
    assert f8.decoder.get_submodule("up.3.block.4.conv1") and f8.encoder.get_submodule("down.3.block.3.conv1")


def test_faces_layout_runs() -> None:
    torch.manual_seed(0)
    vq = VQ(TINY_FACES).requires_grad_(False)
    z = vq.encode(torch.rand(2, 3, 24, 16) * 2 - 1)
    assert z.shape == (2, 8, 3, 2)
    assert vq.decode(z).shape == (2, 3, 24, 16)


def test_encode_keeps_what_lies_between_the_codes_and_decode_does_not(recorded: VQ) -> None:
    z = numbers("resshift")["vq/z"][..., :8, :8]
    q = recorded.quantize(z)
    assert (q - z).abs().max() > 0.1
    assert torch.equal(recorded.decode(z), recorded.decode(q))
    codes = recorded.quantize.embedding.weight
    assert (
        torch.cdist(
            recorded.encode(numbers("resshift")["vq/image"]).movedim(1, 3).reshape(-1, 3), codes
        ).min()
        > 0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_nearest_code_is_taken(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """In half precision too: with distances so coarse, more than one code would be the nearest."""
    torch.manual_seed(0)
    quantize = Quantize(500, 3).to(dtype).requires_grad_(False)
    z = torch.randn(2, 3, 9, 7).to(dtype)
    codes, rows = quantize.embedding.weight.double(), z.movedim(1, 3).reshape(-1, 3).double()
    nearest = torch.cdist(rows, codes, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
    for rows_at_once in (4096, 10):
        monkeypatch.setattr(module, "ROWS", rows_at_once)
        assert torch.equal(quantize.indices(z).flatten(), nearest)
    assert torch.equal(quantize(z).movedim(1, 3).reshape(-1, 3), quantize.embedding.weight[nearest])


def test_the_gradient_passes_the_codebook(recorded: VQ) -> None:
    z = numbers("resshift")["vq/z"][..., :4, :4].clone().requires_grad_()
    grad = torch.autograd.grad((recorded.quantize(z) * 3).sum(), z)[0]
    assert torch.equal(grad, torch.full_like(z, 3))
    assert torch.autograd.grad(recorded.decode(z).sum(), z)[0].abs().max() > 0


def test_downsampling_pads_the_right_and_bottom() -> None:
    down = Downsample(32)
    x = torch.randn(1, 32, 6, 4)
    padded = torch.zeros(1, 32, 7, 5)
    padded[..., :6, :4] = x
    assert torch.allclose(down(x), F.conv2d(padded, down.conv.weight, down.conv.bias, stride=2), atol=1e-6)


def test_attention_is_softmax_over_all_positions() -> None:
    torch.manual_seed(0)
    block = AttnBlock(32)
    x = torch.randn(2, 32, 5, 3)
    q, k, v = (part(block.norm(x)).flatten(2) for part in (block.q, block.k, block.v))
    h = v @ (q.transpose(1, 2) @ k * 32**-0.5).softmax(-1).transpose(1, 2)
    assert torch.allclose(block(x), x + block.proj_out(h.view_as(x)), atol=1e-5)


def test_other_tensors_are_refused() -> None:
    with pytest.raises(ModelError, match="expected the state dict of a VQ autoencoder, found 1 tensors"):
        VQConfig.infer({"x": torch.zeros(1)})
    with pytest.raises(ConfigError, match="expected the sizes of a VQ autoencoder, found"):
        VQConfig(ch=10**6)
