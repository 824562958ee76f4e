"""Tiny models of every architecture: published files, the right sizes, the same from the same seed."""

import functools
import json

import pytest
import tinies
import torch
import torch.nn.functional as F

from unistep.bases import tiny
from unistep.bases.resshift.base import ResShiftBase
from unistep.bases.resshift.network import ResShiftConfig
from unistep.bases.sd3 import network as sd3
from unistep.bases.sd3.network import SD3Denoiser
from unistep.bases.sd21 import network as sd21
from unistep.bases.sd21.network import SD21Denoiser
from unistep.diffusion.denoiser import Cond, filled
from unistep.diffusion.process import flow
from unistep.tensors import read_header, read_tensors

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

STABLE_DIFFUSION = ("sd3", "sd21", "sd21-v", "sdxl")
RESSHIFT = ("resshift", "resshift-faces")
FILES = {
    "sd3": {"transformer", "vae", "scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"},
    "sd21": {"unet", "vae", "scheduler", "text_encoder", "tokenizer"},
    "sdxl": {"unet", "vae", "scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"},
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """kind -> what train.init is to name"""
    return functools.cache(lambda kind: tinies.write(kind, tmp_path_factory.mktemp("tiny") / kind))


def explained(out, right):
    """Share of the variance of `right` that `out` explains."""
    return 1 - ((out - right).square().mean() / right.var()).item()


def opened(kind, init):
    """(denoiser, codec, cond of images) as training opens them."""
    if kind in RESSHIFT:
        header, tensors = read_header(init)["student"], read_tensors(init)
        base = ResShiftBase(header, tensors, ResShiftConfig())
        return (
            base.denoiser("teacher", "resshift"),
            base.codec,
            lambda x: base.cond(F.avg_pool2d(x, base.scale)),
        )
    if kind == "sd3":
        codec, prompt = sd3.open_vae(init), sd3.encode_prompt(init, "")
        denoiser = SD3Denoiser(sd3.open_transformer(init)[1], flow(*sd3.open_schedule(init)))
    else:
        codec, prompt = sd21.open_vae(init), (sd21.encode_prompt(init, ""),)
        denoiser = SD21Denoiser(sd21.open_unet(init)[1], sd21.open_process(init))
    return denoiser, codec, lambda x: Cond(x, codec.encode(x), *prompt)


@pytest.mark.parametrize("kind", ["sd3", "sd21", "sdxl"])
def test_the_files_are_the_published_ones(written, kind):
    folder = written(kind)
    assert {path.name for path in folder.iterdir()} == FILES[kind]
    for part in FILES[kind] - {"scheduler"}:
        names = {path.name for path in (folder / part).iterdir()}
        if part.startswith("tokenizer"):
            assert names == {"vocab.json", "merges.txt", "tokenizer_config.json"}
        else:
            weights = "model" if part.startswith("text") else "diffusion_pytorch_model"
            assert names == {"config.json", f"{weights}.safetensors"}


@pytest.mark.parametrize("kind", ["sd3", "sd21", "sd21-v", *RESSHIFT])
@torch.no_grad()
def test_sizes_are_those_of_real_models(written, kind):
    denoiser, codec, cond = opened(kind, written(kind))
    x = tiny.pictures(tiny.SEEN, tiny.SIDE)
    z = codec.encode(x)
    assert 0.8 < z.std() < 1.25 and z.mean().abs() < 0.2
    assert 0.1 < codec.decode(z).std() < 1 and explained(codec.decode(z), x) > 0.02
    process, told = denoiser.process, cond(x)
    time = filled(len(process) // 2, z)
    z_t = process.perturb(z, torch.randn(z.shape, generator=torch.Generator().manual_seed(0)), time, told.y)
    out, right = (process.raw(one, z_t, time, told.y) for one in (denoiser(z_t, time, told), z))
    assert explained(out, right) > 0.02


def test_it_predicts_what_the_scheduler_says(written):
    kinds = [sd21.open_process(written(kind)).predicts for kind in ("sd21", "sd21-v", "sdxl")]
    assert kinds == ["eps", "v", "eps"]


def test_texts_differ(written):
    for kind, encode in (("sd3", lambda *a: sd3.encode_prompt(*a)[0]), ("sd21", sd21.encode_prompt)):
        one, other = encode(written(kind), "a cat"), encode(written(kind), "a dog")
        assert one.shape == other.shape and not torch.equal(one, other)


def test_sdxl_has_sdxl_s_layout(written):
    config = json.loads((written("sdxl") / "unet" / "config.json").read_text())
    assert config["down_block_types"] == ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"]
    assert config["addition_embed_type"] == "text_time"
    pooled = json.loads((written("sdxl") / "text_encoder_2" / "config.json").read_text())["projection_dim"]
    ids = config["projection_class_embeddings_input_dim"] - pooled
    assert ids == 6 * config["addition_time_embed_dim"]


def test_a_seed_gives_the_same_model(tmp_path):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    folders = [tinies.write("sd21", tmp_path / str(i), seed=seed) for i, seed in enumerate((1, 1, 2))]
    assert torch.equal(torch.get_rng_state(), before)
    for part in ("unet", "vae"):
        file = f"{part}/diffusion_pytorch_model.safetensors"
        one, same, other = ((folder / file).read_bytes() for folder in folders)
        assert one == same != other


def test_pictures_are_those_of_their_seed():
    one = tiny.pictures(2, 48, seed=3)
    assert one.shape == (2, 3, 48, 48) and one.abs().max() <= 1 and 0.2 < one.std() < 0.8
    assert torch.equal(one, tiny.pictures(2, 48, seed=3)) and not torch.equal(
        one, tiny.pictures(2, 48, seed=4)
    )
    assert not torch.equal(one[0], one[1])
