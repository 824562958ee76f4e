"""SDXL as the trunk of DFOSD's discriminator: against diffusers, and by its settings."""

import dataclasses
import json
import shutil

import pytest
import tinies
import torch
from safetensors.torch import load_file

from unistep.bases import BASES, tiny
from unistep.bases.sd21 import network as sd21
from unistep.bases.sd21 import sdxl
from unistep.bases.sd21.base import SD21Base
from unistep.bases.sd21.network import SD21Config
from unistep.diffusion.denoiser import Batch, Cond, filled
from unistep.errors import ConfigError, ModelError
from unistep.methods.dfosd import DFOSD, DFOSDConfig

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytest.importorskip("peft")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {kind: tinies.write(kind, root / kind) for kind in ("sd21", "sdxl")}


@pytest.fixture(scope="module")
def config(folders):
    return SD21Config(critic=str(folders["sdxl"]), rank=4, rank_encoder=0, rank_score=4)


@pytest.fixture(scope="module")
def base(folders, config):
    prompt = sd21.encode_prompt(folders["sd21"], "")
    return SD21Base(folders["sd21"], config, lambda text: (prompt, None))


def trunk(base, config, **changes):
    return sdxl.open_features(dataclasses.replace(config, **changes), base.decode)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def theirs(folder, z_t, t, words, ids):
    """Outputs of the down blocks and of the middle, from diffusers' own forward pass."""
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder, subfolder="unet").eval()
    maps = []
    for block in unet.down_blocks:
        block.register_forward_hook(lambda _, given, out: maps.append(out[0]))
    unet.mid_block.register_forward_hook(lambda _, given, out: maps.append(out))
    prompt, pooled = (one.expand(len(z_t), *one.shape[1:]) for one in words)
    told = {"text_embeds": pooled, "time_ids": torch.tensor([ids] * len(z_t), dtype=torch.float32)}
    with torch.no_grad():
        unet(z_t, t, prompt, added_cond_kwargs=told)
    return maps


@pytest.mark.parametrize("size", [0, 1024])
def test_features_are_those_of_diffusers(folders, base, config, size):
    features = trunk(base, config, critic_size=size)
    z_t, t = noise(2, 4, 8, 12), torch.tensor([3, 700])
    h, w = (size, size) if size else (64, 96)
    words = sdxl.encode_prompt(folders["sdxl"], "")
    wanted = theirs(folders["sdxl"], z_t, t, words, [h, w, 0, 0, h, w])
    found = features(z_t, t, Cond(z_t, z_t))
    assert features.widths == tuple(m.shape[1] for m in found) == (16, 32, 32, 32)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_texts_are_encoded_as_the_pipeline_does(folders):
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    prompt, pooled = sdxl.encode_prompt(folders["sdxl"], "a cat")
    ids = json.loads((folders["sdxl"] / "tokenizer" / "vocab.json").read_text())
    words = ["<|startoftext|>", "a</w>", "c", "a", "t</w>", "<|endoftext|>"]
    tokens = torch.tensor([[ids[word] for word in words] + [0] * 71])
    with torch.no_grad():
        one, two = (
            kind.from_pretrained(folders["sdxl"], subfolder=part)(tokens, output_hidden_states=True)
            for kind, part in (
                (CLIPTextModel, "text_encoder"),
                (CLIPTextModelWithProjection, "text_encoder_2"),
            )
        )
    assert torch.equal(prompt, torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=2))
    assert torch.equal(pooled, two.text_embeds)


def test_what_it_is_told_counts(folders, base, config):
    z_t, t = noise(1, 4, 8, 8), torch.tensor([500])
    said = {
        name: trunk(base, config, **changes)(z_t, t, Cond(z_t, z_t))[-1]
        for name, changes in {"own": {}, "zeros": {"critic_text": "zeros"}, "size": {"critic_size": 1024},
                              "same": {"critic_size": 64}}.items()
    }  # fmt: skip
    assert torch.equal(said["own"], said["same"])
    assert not torch.equal(said["own"], said["zeros"]) and not torch.equal(said["own"], said["size"])
    # what the student's condition says does not
    other = Cond(z_t + 1, z_t + 1, prompt=noise(1, 77, 16), pooled=noise(1, 5))
    assert torch.equal(said["own"], trunk(base, config)(z_t, t, other)[-1])


def test_latents_as_they_are_and_encoded_again(folders, base, config):
    z = noise(2, 4, 8, 8)
    assert trunk(base, config).latent(z) is z
    again = trunk(base, config, critic_latents="re-encoded")
    vae = diffusers.AutoencoderKL.from_pretrained(folders["sdxl"], subfolder="vae")
    with torch.no_grad():
        wanted = vae.encode(base.decode(z)).latent_dist.mean * vae.config.scaling_factor
        torch.testing.assert_close(again.latent(z), wanted)
    assert vae.config.scaling_factor == 0.13025


@pytest.mark.parametrize("latents", ["as-is", "re-encoded"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_student_learns_through_it(folders, base, config, latents, checkpointing):
    features = trunk(base, config, critic_latents=latents, checkpointing=checkpointing)
    plain = trunk(base, config, critic_latents=latents)
    plain.load_state_dict(features.state_dict())
    gradients = []
    for one in (features, plain):
        z = noise(2, 4, 8, 8).requires_grad_()
        t = torch.tensor([10, 400])
        z_t = one.process.perturb(one.latent(z), noise(2, 4, 8, 8, seed=1), t, z)
        sum(m.square().mean() for m in one(z_t, t, Cond(z, z))).backward()
        gradients.append(z.grad)
    assert gradients[0].abs().amax(dim=(1, 2, 3)).min() > 1e-6
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-5)


def test_only_a_lora_is_trained_and_starts_at_nothing(folders, base, config):
    features = trunk(base, config, critic_latents="re-encoded")
    trained = {name: p for name, p in features.named_parameters() if p.requires_grad}
    assert trained and all(".lora_" in name and p.dtype == torch.float32 for name, p in trained.items())
    layers = {name.partition(".lora_")[0] for name in trained}
    named = {name for name, module in features.unet.named_modules() if hasattr(module, "base_layer")}
    assert {f"unet.{name}" for name in named} == layers
    assert not any("embed" in name for name in layers)
    first, feed_forward = "down_blocks.0.downsamplers.0.conv", "transformer_blocks.0.ff.net.2"
    for part in ("conv_in", "mid_block.resnets.0.conv1", "mid_block.attentions.0.proj_in", first,
                 f"down_blocks.1.attentions.0.{feed_forward}"):  # fmt: skip
        assert f"unet.{part}" in layers
    frozen = load_file(folders["sdxl"] / "unet" / "diffusion_pytorch_model.safetensors")
    assert not any(name.startswith("up_blocks") for name, _ in features.unet.named_parameters())
    for name, p in features.unet.named_parameters():
        if ".lora_" not in name:
            assert torch.equal(p, frozen[name.replace(".base_layer", "")])
    assert all(p.abs().max() == 0 for name, p in trained.items() if ".lora_B." in name)


def test_weights_are_stored_in_the_dtype_that_is_asked_for(base, config):
    features = trunk(base, config, dtype="bf16", critic_latents="re-encoded")
    for name, p in features.named_parameters():
        frozen = name.startswith("unet.") and ".lora_" not in name
        assert p.dtype == (torch.bfloat16 if frozen else torch.float32), name
    z_t = noise(1, 4, 8, 8)
    exact = trunk(base, config)(z_t, filled(9, z_t), Cond(z_t, z_t))
    for one, other in zip(features(z_t, filled(9, z_t), Cond(z_t, z_t)), exact, strict=True):
        assert one.dtype == torch.float32 and (one - other).abs().max() < 0.1 * other.abs().max()


def test_dfosd_trains_on_it(base, config):
    torch.manual_seed(0)
    method = DFOSD.build(DFOSDConfig(spatial="mse"), base, lambda form: pytest.fail(form))
    assert isinstance(method.critic.trunk, sdxl.SDXLFeatures)
    assert method.critic.trunk.process.predicts == "eps" and len(method.critic.trunk.process) == 1000
    x_hq = tiny.pictures(2, 64)
    x_lq = torch.nn.functional.avg_pool2d(x_hq, 4)
    batch = Batch(x_lq, x_hq, base.encode(x_hq), base.cond(x_lq))
    z_hat = method.generate(batch)
    method.generator_loss(batch, z_hat)["nad"].backward()
    method.critic.zero_grad()
    student = [p for p in method.student.parameters() if p.requires_grad and p.grad is not None]
    assert any(p.grad.abs().max() > 0 for p in student)
    before = [p.grad.clone() for p in student]
    method.critic_loss(batch, z_hat.detach())["nad"].backward()
    # A is behind a B of zeros, and has no gradient yet
    own = {
        name: p for name, p in method.critic.named_parameters() if p.requires_grad and "lora_A" not in name
    }
    assert own and all(p.grad is not None and p.grad.abs().max() > 0 for p in own.values())
    assert all(torch.equal(p.grad, old) for p, old in zip(student, before, strict=True))


def test_the_method_judges_what_latent_gives(base, config, monkeypatch):
    method = DFOSD.build(DFOSDConfig(spatial="mse"), base, lambda form: pytest.fail(form))
    z, t, eps = noise(1, 4, 8, 8), torch.tensor([5]), noise(1, 4, 8, 8, seed=1)
    cond = Cond(z, z)
    judged = method.critic(z, t, eps, cond)
    monkeypatch.setattr(method.critic.trunk, "latent", lambda z: z + 1)
    for one, other in zip(method.critic(z - 1, t, eps, cond), judged, strict=True):
        torch.testing.assert_close(one, other)


def test_the_real_size_without_files():
    with torch.device("meta"):
        whole = diffusers.UNet2DConditionModel.from_config(sdxl.UNET)
    assert sum(p.numel() for p in whole.parameters()) == 2_567_463_684
    base = BASES["sd21"].shapes(SD21Config(critic="SDXL", critic_latents="re-encoded", rank_encoder=0))
    features = base.features("critic", "ddpm")
    assert features.widths == (320, 640, 1280, 1280) and {p.device.type for p in features.parameters()} == {
        "meta"
    }
    frozen = sum(p.numel() for name, p in features.unet.named_parameters() if not p.requires_grad)
    later = [
        p
        for name, p in whole.named_parameters()
        if name.startswith(("up_blocks", "conv_norm_out", "conv_out"))
    ]
    assert frozen == 2_567_463_684 - sum(p.numel() for p in later)
    z_t = torch.empty(1, 4, 64, 64, device="meta")
    maps = features(features.latent(z_t), torch.empty(1, dtype=torch.int64, device="meta"), Cond(z_t, z_t))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (320, 32, 32),
        (640, 16, 16),
        (1280, 16, 16),
        (1280, 16, 16),
    ]


def test_bad_input_gets_a_sentence(folders, base, config, tmp_path):
    with pytest.raises(ModelError, match=r"to be SDXL, .* set base\.critic to SDXL's folder"):
        trunk(base, config, critic=str(folders["sd21"]))
    bare = shutil.copytree(folders["sdxl"], tmp_path / "bare")
    shutil.rmtree(bare / "text_encoder_2")
    with pytest.raises(ModelError, match="text_encoder_2"):
        trunk(base, config, critic=str(bare))
    assert trunk(base, config, critic=str(bare), critic_text="zeros").pooled.shape == (1, 16)
    with pytest.raises(ModelError, match="to be the folder of a diffusers model"):
        trunk(base, config, critic=str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match=r"base\.critic_text to be one of empty, zeros"):
        SD21Config(critic_text="none")
    with pytest.raises(ConfigError, match=r"base\.critic_size to be 0 or more"):
        SD21Config(critic_size=-1)
