"""Codecs against diffusers' modules, and their configurations."""

import pytest
import torch
from taesd import TinyCodec
from torch import Tensor, nn

from unistep.autoencoder.codecs import KLCodec, TinyDecoder, VQCodec
from unistep.autoencoder.vq import VQ, VQConfig
from unistep.errors import ConfigError, ModelError
from unistep.tensors import load_exactly


def vae(**more: object) -> nn.Module:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        scaling_factor=1.5,
        shift_factor=0.06,
        **more,
    ).eval()


@pytest.mark.parametrize("quant", (True, False))
@pytest.mark.parametrize("shift", (True, False))
@torch.no_grad()
def test_kl_is_diffusers(quant, shift):
    net = vae(use_quant_conv=quant, use_post_quant_conv=quant)
    codec = KLCodec(net, shift)
    assert (codec.factor, codec.channels) == (2, 4)
    x, noise = torch.randn(2, 3, 12, 16), torch.randn(2, 4, 6, 8)
    posterior = net.encode(x).latent_dist
    offset = 0.06 if shift else 0
    raw = posterior.mean + posterior.std * noise
    torch.testing.assert_close(codec.encode(x), (posterior.mean - offset) * 1.5)
    torch.testing.assert_close(codec.encode(x, noise), (raw - offset) * 1.5)
    torch.testing.assert_close(
        codec.decode((raw - offset) * 1.5), net.decode(raw).sample, rtol=1e-4, atol=1e-5
    )


@torch.no_grad()
def test_kl_from_its_config():
    codec = KLCodec(vae(), shift=True)
    empty = KLCodec.from_config(codec.config)
    assert empty.config == codec.config
    assert all(p.is_meta for p in empty.parameters())
    load_exactly(empty, codec.state_dict(), "a VAE")
    assert next(iter(empty.state_dict())).startswith("vae.")
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(empty.encode(x), codec.encode(x))
    with pytest.raises(ConfigError, match="AutoencoderKL"):
        KLCodec.from_config({"down_block_types": ["None"]})


@torch.no_grad()
def test_vq_quantises_on_the_way_back_alone():
    torch.manual_seed(0)
    codec = VQCodec(VQ(VQConfig(ch=32, ch_mult=(1, 2), num_res_blocks=(1, 1), n_embed=16)).eval())
    x = torch.randn(1, 3, 8, 8)
    z = codec.encode(x, torch.randn(1, 3, 4, 4))
    assert torch.equal(z, codec.vq.encode(x))
    near = z + 1e-6 * torch.randn_like(z)
    assert torch.equal(codec.decode(near), codec.decode(z))
    empty = VQCodec.from_config(codec.config)
    load_exactly(empty, codec.state_dict(), "a VQ")
    assert torch.equal(empty.decode(z), codec.decode(z))
    with pytest.raises(ConfigError, match="VQ"):
        VQCodec.from_config({"depth": 3})


def diffusers_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    out = {}
    for name, tensor in tensors.items():
        part, index, rest = name.split(".", 2)
        out[f"{part}.layers.{int(index) - (part == 'decoder')}.{rest}"] = tensor
    return out


@torch.no_grad()
def test_tiny_is_diffusers():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    theirs = diffusers.AutoencoderTiny(latent_channels=16).eval()
    codec = TinyCodec.from_tensors(theirs.state_dict())
    assert diffusers_names(codec.state_dict()).keys() == theirs.state_dict().keys()
    x = torch.rand(1, 3, 16, 24) * 2 - 1
    z = codec.encode(x)
    torch.testing.assert_close(z, theirs.encode(x).latents)
    torch.testing.assert_close(codec.decode(5 * z), theirs.decode(5 * z).sample)
    # a latent without the base's shift is larger by it
    moved = TinyCodec.from_tensors(codec.state_dict(), shift=0.1)
    torch.testing.assert_close(moved.encode(x), z + 0.1)
    torch.testing.assert_close(moved.decode(z + 0.1), codec.decode(z), rtol=1e-4, atol=1e-5)


def test_a_tiny_decoder_from_its_own_file():
    own = {name.removeprefix("decoder."): t for name, t in TinyDecoder(4).state_dict().items()}
    codec = TinyDecoder.from_tensors(own)
    assert codec.config == {"channels": 4, "shift": 0.0}
    with pytest.raises(ConfigError, match="own encoder"):
        codec.encode(torch.zeros(1, 3, 8, 8))
    del own["1.bias"]
    with pytest.raises(ModelError, match=r"1 missing: decoder\.1\.bias; 1 surplus: decoder\.99"):
        TinyDecoder.from_tensors(own | {"99.weight": torch.zeros(1)})
    with pytest.raises(ModelError, match="TAESD"):
        TinyDecoder.from_tensors({"conv.weight": torch.zeros(1)})
    with pytest.raises(ConfigError, match="channels"):
        TinyDecoder.from_config({"channels": 0})
    with pytest.raises(ConfigError, match="channels"):
        TinyDecoder.from_config({"depth": 0})
