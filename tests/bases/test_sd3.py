"""Stable Diffusion 3: TSD-SR's student against the recorded run, diffusers and PEFT."""

import copy
import json
import re
import shutil

import goldens
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from unistep.bases.latentbase import shared
from unistep.bases.sd3 import network as sd3_network
from unistep.bases.sd3 import student as sd3_student
from unistep.bases.sd3.base import SD3Base
from unistep.bases.sd3.mmdit import FoldedMMDiT, MMDiTConfig, fold, positions
from unistep.bases.sd3.network import SD3Config
from unistep.diffusion.denoiser import filled
from unistep.diffusion.process import flow
from unistep.diffusion.sampler import sample, times
from unistep.errors import ConfigError, ModelError
from unistep.students.blend import blended
from unistep.students.latent import LatentConfig

GOLDEN = goldens.GOLDEN
CASE = GOLDEN / "tsd_infer"
PICTURES = ("a", "b_odd", "c_big", "d_mult")
SIZES = ((8, 8), (2, 6), (14, 22), (48, 4))
REAL = {
    "attention_head_dim": 64, "caption_projection_dim": 1536, "in_channels": 16, "joint_attention_dim": 4096,
    "num_attention_heads": 24, "num_layers": 24, "out_channels": 16, "patch_size": 2,
    "pooled_projection_dim": 2048, "pos_embed_max_size": 192, "sample_size": 128,
}  # fmt: skip
"""What the published configuration of SD3-medium's transformer says."""
SMALL = {**REAL, "attention_head_dim": 8, "caption_projection_dim": 32, "joint_attention_dim": 20,
         "num_attention_heads": 4, "num_layers": 3, "pooled_projection_dim": 12, "pos_embed_max_size": 24,
         "sample_size": 32}  # fmt: skip

diffusers = pytest.importorskip("diffusers")


def files(case):
    """(base, LoRA files, prompt embeddings, pooled) of a recorded case."""
    loras = {part: load_file(case / "lora" / f"{part}.safetensors") for part in ("transformer", "vae")}
    embeddings = [
        load_file(case / "embeddings" / f"{name}.safetensors")[name]
        for name in ("prompt_embeds", "pool_embeds")
    ]
    return case / "sd3", loras, *embeddings


@pytest.fixture(scope="module")
def recorded():
    return load_file(CASE / "tensors.safetensors")


@pytest.fixture(scope="module")
def built():
    return sd3_student.build(*files(CASE), dtype=torch.float32)


@pytest.fixture(scope="module")
def student(built):
    header, tensors = built
    return sd3_student.student(json.loads(json.dumps(header)), tensors)


@pytest.fixture(scope="module")
def transformer():
    """diffusers' own, small, trained in no way, with modulations that matter."""
    torch.manual_seed(0)
    net = diffusers.SD3Transformer2DModel(**SMALL).eval().requires_grad_(False)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return net


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def apart(a, b):
    """The largest difference, relative to the largest value."""
    return ((a - b).abs().max() / b.abs().max()).item()


def folded(transformer, prompt, pooled):
    config = MMDiTConfig.of(transformer.config, prompt.shape[1])
    net = FoldedMMDiT(config)
    net.load_state_dict(fold(transformer.state_dict(), config, prompt, pooled))
    return net.eval().requires_grad_(False)


# ---- TSD-SR's own run


@pytest.mark.parametrize("name", PICTURES)
def test_as_the_authors_code(student, recorded, name):
    """Encoder, transformer and decoder, each from its recorded input."""
    net, codec = student
    pixels, z, v, z_hat, image = (
        recorded[f"notile_wavelet/{name}/{stage}"]
        for stage in ("pixel_values", "model_input", "model_pred", "latent_stu", "image")
    )
    with torch.no_grad():
        torch.testing.assert_close(codec.encode(pixels), z, atol=1e-4, rtol=0)
        ours = net(z)
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, z_hat, atol=1e-4, rtol=0)
        torch.testing.assert_close(z - ours, v, atol=1e-4, rtol=0)
        torch.testing.assert_close(codec.decode(z_hat)[0].clamp(-1, 1), image, atol=1e-4, rtol=0)


RUNS = [*((f"tile_wavelet/{name}", f"notile_wavelet/{name}") for name in PICTURES),
        *((f"oddlatent_{size}_tile/x",) * 2 for size in ("18x22", "22x18"))]  # fmt: skip


@pytest.mark.parametrize(("run", "start"), RUNS)
def test_tiles_as_the_authors_code(student, recorded, run, start):
    """Every tile is placed as a picture of its own."""
    z = recorded[f"{start}/model_input"]
    with torch.no_grad():
        z_hat = blended(lambda piece, _: student[0](piece), z, None, 8, 2, asymmetric=True)
    torch.testing.assert_close(z_hat, recorded[f"{run}/latent_stu"], atol=1e-4, rtol=0)


def test_the_second_recorded_base():
    """One block alone, weights in half precision, 32 groups; from the picture to the picture."""
    case = GOLDEN / "tsd_vaetile"
    net, codec = sd3_student.student(*sd3_student.build(*files(case), dtype=torch.float32))
    tensors = load_file(case / "tensors.safetensors")
    rgb = torch.from_numpy(np.array(Image.open(case / "inputs" / "a.png"))).permute(2, 0, 1)[None] / 255
    x = (F.interpolate(rgb, scale_factor=4, mode="bicubic") * 2 - 1).clamp(-1, 1)
    with torch.no_grad():
        z = codec.encode(x)
        torch.testing.assert_close(z, tensors["plain/model_input"], atol=1e-4, rtol=0)
        z_hat = blended(lambda piece, _: net(piece), z, None, 16, 4, asymmetric=True)
        torch.testing.assert_close(z_hat, tensors["plain/latent_stu"], atol=1e-4, rtol=0)
        y = codec.decode(z_hat)[0].clamp(-1, 1)
    theirs = np.array(Image.open(case / "outputs" / "plain" / "a.png")).astype(int)
    ours = ((y + 1) / 2 * 255).byte().permute(1, 2, 0).numpy().astype(int)
    assert np.abs(ours - theirs).max() <= 1


def test_header(built):
    header, tensors = built
    assert {header[key] for key in ("base", "method")} == {"sd3", "tsdsr"} and header["folded"] is True
    assert LatentConfig(**header["latent"]) == LatentConfig(
        resample="torch", tile=64, overlap=8, shortest=512, colour="wavelet"
    )
    assert header["codec"]["shift"] is False  # shift_factor is 0.0609 in the base, and not used
    assert header["codec"]["shift_factor"] == 0.0609
    assert {name.split(".")[0] for name in tensors} == {"denoiser", "codec"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(student, recorded, dtype):
    header, tensors = sd3_student.build(*files(CASE), dtype=dtype)
    assert {tensor.dtype for tensor in tensors.values()} == {dtype}
    net, _ = sd3_student.student(header, tensors)
    z = recorded["notile_wavelet/a/model_input"]
    with torch.no_grad():
        z_hat = net(z)
    assert z_hat.dtype == torch.float32
    assert (
        apart(z_hat, recorded["notile_wavelet/a/latent_stu"])
        < {torch.float16: 5e-3, torch.bfloat16: 4e-2}[dtype]
    )


# ---- folding


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_folded_is_unfolded(transformer, layers, size):
    config = {**SMALL, "num_layers": layers}
    net = diffusers.SD3Transformer2DModel(**config).eval().requires_grad_(False)
    state = transformer.state_dict()
    last = f"transformer_blocks.{layers - 1}."
    taken = {name: state[name.replace(last, "transformer_blocks.2.")] for name in net.state_dict()}
    net.load_state_dict(taken)
    prompt, pooled = noise(1, 5, 20, seed=1), noise(1, 12, seed=2)
    z = noise(2, 16, *size, seed=3)
    time = torch.full((2,), 1000.0)
    v = net(z, prompt.expand(2, -1, -1), pooled.expand(2, -1), time, return_dict=False)[0]
    assert apart(z - folded(net, prompt, pooled)(z), v) < 1e-5
    assert apart(v, z) > 0.1  # the network says something


def test_prompt_and_time_are_folded_in(transformer):
    z, prompt, pooled = noise(1, 16, 8, 8), noise(1, 5, 20, seed=1), noise(1, 12, seed=2)
    plain = folded(transformer, prompt, pooled)(z)
    assert apart(folded(transformer, prompt.flip(2), pooled)(z), plain) > 1e-3
    assert apart(folded(transformer, prompt, pooled.flip(1))(z), plain) > 1e-3
    config = MMDiTConfig.of(transformer.config, 5)
    other = FoldedMMDiT(config)
    other.load_state_dict(fold(transformer.state_dict(), config, prompt, pooled, t=500.0))
    v = transformer(z, prompt, pooled, torch.tensor([500.0]), return_dict=False)[0]
    assert apart(other(z), z - v) < 1e-5 < apart(plain, z - v)


def test_positions_are_the_centre_of_the_base_s_table(transformer):
    table, config = transformer.pos_embed, MMDiTConfig.of(transformer.config, 5)
    for height, width in ((24, 24), (1, 24), (7, 10), (13, 3)):
        theirs = table.cropped_pos_embed(2 * height, 2 * width)[0]
        torch.testing.assert_close(positions(height, width, config), theirs, atol=2e-6, rtol=0)


def test_positions_go_on_beyond_the_table(transformer):
    config = MMDiTConfig.of(transformer.config, 5)
    inner, outer = positions(24, 20, config), positions(40, 30, config)
    crop = outer.view(40, 30, 32)[8:32, 5:25].flatten(0, 1)
    assert torch.equal(crop, inner)
    assert folded(transformer, noise(1, 5, 20), noise(1, 12))(noise(1, 16, 60, 52)).isfinite().all()


def test_odd_latents_are_refused(student):
    with pytest.raises(ConfigError, match="multiples of 2, found 9 x 8"):
        student[0](noise(1, 16, 9, 8))
    assert student[0].multiple == 2


class Count(TorchDispatchMode):
    """Operators that do something, of those that are dispatched; attention is one."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.total += not func.is_view and name not in ("_unsafe_view", "empty")
        self.total -= 4 * (name == "_safe_softmax")  # on the meta device attention is five
        return func(*args, **(kwargs or {}))


def test_counted_at_the_size_of_sd3_medium():
    """683,461,632 parameters of time and pooled text, 689,754,624 with the prompt's projection."""
    tokens, width = 333, 1536
    with torch.device("meta"):
        whole = diffusers.SD3Transformer2DModel(**REAL)
        config = MMDiTConfig.of(REAL, tokens)
        net = FoldedMMDiT(config).requires_grad_(False)
    sizes = {name: p.numel() for name, p in whole.named_parameters()}
    gone = ("norm1.linear", "norm1_context.linear", "norm_out.linear", "time_text_embed")
    constant = {name: n for name, n in sizes.items() if any(part in name for part in gone)}
    assert sum(constant.values()) == 683_461_632
    prompt = {name: n for name, n in sizes.items() if name.startswith("context_embedder")}
    assert sum(constant.values()) + sum(prompt.values()) == 689_754_624
    # Beyond: the prompt's queries, keys and values in the first block, its queries in the last.
    more = [f"transformer_blocks.0.attn.add_{x}_proj." for x in "qkv"] + [
        "transformer_blocks.23.attn.add_q_proj."
    ]
    extra = {name: n for name, n in sizes.items() if name.startswith(tuple(more))}
    assert sum(extra.values()) == 4 * (width * width + width)
    kept = sum(n for name, n in sizes.items() if name not in constant | prompt | extra)
    layers = [m for m in net.modules() if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))]
    assert sum(p.numel() for layer in layers for p in layer.parameters()) == kept
    # Left behind: 439,296 modulations, less two in the first block; the prompt, and its constants there.
    numbers = sum(t.numel() for t in net.state_dict().values()) - kept
    assert numbers == 439_296 - 2 * width + tokens * width + tokens * 3 * width
    given = [
        torch.empty(shape, device="meta") for shape in ((1, 16, 64, 64), (1, tokens, 4096), (1, 2048), (1,))
    ]
    with torch.no_grad(), Count() as theirs:
        whole(*given)
    with torch.no_grad(), Count() as ours:
        out = net(given[0])
    assert out.shape == (1, 16, 64, 64)
    assert theirs.total == 1146 and ours.total <= 525


# ---- files


def test_a_student_s_file_lists_missing_and_surplus_tensors(built):
    header, tensors = built
    tensors = dict(tensors)
    tensors["denoiser.blocks.0.extra"] = tensors.pop("denoiser.proj_out.bias")
    with pytest.raises(
        ModelError, match=r"1 missing: denoiser\.proj_out\.bias; 1 surplus: denoiser\.blocks\.0\.ex"
    ):
        sd3_student.student(header, tensors)
    for bad in ({**header, "denoiser": {"layers": 2, "depth": 3}}, {"base": "sd3"}):
        with pytest.raises(ModelError, match="header of a student of SD3"):
            sd3_student.student(bad, tensors)
    with pytest.raises(ModelError, match="tokens of an SD3 transformer from 1 to 4096"):
        sd3_student.student({**header, "denoiser": {**header["denoiser"], "tokens": 10**9}}, tensors)


@pytest.fixture
def base(tmp_path):
    """A copy that may be broken."""
    shutil.copytree(CASE / "sd3", tmp_path / "sd3")
    return tmp_path / "sd3"


def rewrite(base, **changes):
    path = base / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


OTHER_BASES = {
    "qk_norm": "rms_norm", "dual_attention_layers": [0], "caption_projection_dim": 48, "out_channels": 8,
    "num_layers": "many",
}  # fmt: skip


@pytest.mark.parametrize("key", OTHER_BASES)
def test_other_transformers_are_refused(base, key):
    rewrite(base, **{key: OTHER_BASES[key]})
    found = re.escape(f"{OTHER_BASES[key]}")
    with pytest.raises(ModelError, match=f"{key.removeprefix('num_')} of .*transformer .*found {found}"):
        sd3_network.open_transformer(base)


def test_wrong_files(base, tmp_path):
    _, loras, prompt, pooled = files(CASE)
    with pytest.raises(ModelError, match=r"found \[1, 7, 31\]"):
        sd3_student.build(base, loras, prompt[..., 1:], pooled)
    with pytest.raises(ModelError, match=r"pooled ones \[1, 24\]"):
        sd3_student.build(base, loras, prompt, pooled[:, 1:])
    with pytest.raises(ModelError, match=r"transformer\.safetensors: expected .*surplus"):
        sd3_student.build(base, {**loras, "transformer": loras["vae"]}, prompt, pooled)
    mixed = {**loras["vae"], "transformer.encoder.conv_in.lora_A.weight": torch.ones(5, 3, 3, 3)}
    with pytest.raises(ModelError, match="one rank"):
        sd3_student.build(base, {**loras, "vae": mixed}, prompt, pooled)
    with pytest.raises(ModelError, match="folder of a diffusers model"):
        sd3_student.build(tmp_path / "none", loras, prompt, pooled)
    scheduler = base / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps({"_class_name": "DDIMScheduler"}))
    with pytest.raises(ModelError, match="to be FlowMatchEulerDiscreteScheduler"):
        sd3_network.open_schedule(base)
    shutil.rmtree(scheduler.parent)
    assert sd3_network.open_schedule(base) == (1000, 3.0)
    weights = base / "transformer" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    state["pos_embed.pos_embed"] += 0.1
    save_file(state, weights)
    with pytest.raises(ModelError, match="sines and cosines, found trained ones"):
        sd3_student.build(base, loras, prompt, pooled)
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ModelError, match=r"found diffusion_pytorch_model\.bin.*pickles are not read"):
        sd3_student.build(base, loras, prompt, pooled)


# ---- many steps


def test_unfolded_in_one_step_is_folded(student, recorded):
    header, tensors = sd3_student.build(*files(CASE), dtype=torch.float32, folded=False)
    sampler, codec = sd3_student.teacher(json.loads(json.dumps(header)), tensors, 1)
    z = recorded["notile_wavelet/a/model_input"]
    with torch.no_grad():
        once = sampler(z, sampler.times[0], z, None)
        assert apart(once, student[0](z)) < 1e-5
    assert header["folded"] is False and sampler.multiple == 2 and not codec.config["shift"]
    assert sd3_student.teacher(header, tensors)[0].times == times(flow(), sd3_student.STEPS)
    with pytest.raises(ModelError, match="header of an unfolded SD3"):
        sd3_student.teacher({"denoiser": {}}, tensors)


# ---- the text


def test_composed_as_the_authors_have_it():
    clip = noise(1, 77, 3), noise(1, 77, 5, seed=1)
    out = sd3_network.compose([*clip], noise(1, 256, 12, seed=2))
    assert out.shape == (1, 333, 12)
    assert torch.equal(out[:, :77, :3], clip[0]) and torch.equal(out[:, :77, 3:8], clip[1])
    assert not out[:, :77, 8:].any() and torch.equal(out[:, 77:], noise(1, 256, 12, seed=2))


WORDS = ["!", "a</w>", "cat</w>", "ca", "c", "a", "t", "t</w>", "<|startoftext|>", "<|endoftext|>"]


@pytest.fixture
def texts(base):
    """Three tiny encoders beside the base, in the published layout."""
    transformers = pytest.importorskip("transformers")
    from transformers import (
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        T5Config,
        T5EncoderModel,
        T5Tokenizer,
    )

    torch.manual_seed(0)
    assert transformers
    for suffix, width in (("", 6), ("_2", 10)):
        folder = base / f"tokenizer{suffix}"
        folder.mkdir()
        (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(WORDS)}))
        (folder / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n")
        special = {"bos_token": WORDS[8], "eos_token": WORDS[9], "unk_token": WORDS[9], "pad_token": "!"}
        config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        CLIPTextModelWithProjection(CLIPTextConfig(
            vocab_size=10, hidden_size=width, intermediate_size=8, num_hidden_layers=3, num_attention_heads=2,
            projection_dim=width + 2, bos_token_id=8, eos_token_id=9, pad_token_id=0,
        )).eval().save_pretrained(base / f"text_encoder{suffix}")  # fmt: skip
    words = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("▁a", -1.0), ("▁cat", -1.0)]
    T5Tokenizer(vocab=words, extra_ids=0).save_pretrained(base / "tokenizer_3")
    T5EncoderModel(T5Config(
        vocab_size=6, d_model=32, d_kv=8, d_ff=16, num_layers=2, num_heads=2, dropout_rate=0.0
    )).eval().save_pretrained(base / "text_encoder_3")  # fmt: skip
    return base


@torch.no_grad()
def test_prompts_are_encoded_by_the_base_s_three_encoders(texts):
    from transformers import CLIPTextModelWithProjection, T5EncoderModel

    prompt, pooled = sd3_network.encode_prompt(texts, "a cat")
    assert prompt.shape == (1, 77 + 256, 32) and pooled.shape == (1, 8 + 12)
    clip_ids = torch.tensor([[8, 1, 2, 9, *[0] * 73]])
    at, out = 0, []
    for suffix in ("", "_2"):
        encoder = CLIPTextModelWithProjection.from_pretrained(texts / f"text_encoder{suffix}").eval()
        theirs = encoder(clip_ids, output_hidden_states=True)
        hidden = theirs.hidden_states[2]  # the one before the last, of three layers
        assert torch.equal(prompt[:, :77, at : at + hidden.shape[2]], hidden)
        at += hidden.shape[2]
        out.append(theirs.text_embeds)
    assert at == 16 and not prompt[:, :77, at:].any() and torch.equal(pooled, torch.cat(out, dim=1))
    t5 = T5EncoderModel.from_pretrained(texts / "text_encoder_3").eval()
    assert torch.equal(prompt[:, 77:], t5(torch.tensor([[4, 5, 1, *[0] * 253]]))[0])
    assert sd3_network.encode_prompt(texts, "a cat " * 300)[0].shape == prompt.shape
    # without the third, zeros; without the second, a sentence
    shutil.rmtree(texts / "text_encoder_3")
    short, _ = sd3_network.encode_prompt(texts, "a cat")
    assert (
        torch.equal(short[:, :77], prompt[:, :77]) and short.shape == prompt.shape and not short[:, 77:].any()
    )
    (texts / "text_encoder_2" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="the safetensors of text_encoder_2"):
        sd3_network.encode_prompt(texts, "a cat")


# ---- the base, opened for training


def embedded(text):
    """The recorded embeddings, and others for any text but the empty one."""
    prompt, pooled = files(CASE)[2:]
    pooled = pooled.view(1, -1)
    return (prompt.roll(len(text), 1), -pooled) if text else (prompt, pooled)


def open_base(**settings):
    config = SD3Config(**{"rank": 4, "rank_score": 4, "rank_encoder": 0, "negative": "bad", **settings})
    return SD3Base(CASE / "sd3", config, embedded)


@pytest.fixture(scope="module")
def opened():
    return open_base()


def lora_of(net):
    return {name: p for name, p in net.named_parameters() if p.requires_grad}


def trained(net, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, p in lora_of(net).items():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.05, generator=generator)
    return net


def test_roles_share_the_base_and_train_their_own_lora(opened):
    players = {role: opened.denoiser(role, "flow") for role in ("student", "score", "teacher")}
    assert not lora_of(players["teacher"])
    tensors, suffix = files(CASE)[1]["transformer"], ".default.weight"
    prefix = "denoiser.transformer."
    modules = {name.removeprefix(prefix).removesuffix(suffix) for name in lora_of(players["student"])}
    assert modules == {name.removeprefix("transformer.").removesuffix(".weight") for name in tensors}
    assert len(lora_of(players["score"])) == 2 * 2 * 7  # A and B, blocks, layers of attention
    owned = {role: {id(p) for p in lora_of(net).values()} for role, net in players.items()}
    assert not owned["student"] & owned["score"]
    shared = {id(p) for p in opened.net.parameters()}
    assert all(id(p) in shared or p.requires_grad for net in players.values() for p in net.parameters())


def test_interleaved_roles_get_the_gradients_of_separate_copies(opened):
    student, score = (
        trained(opened.denoiser(role, "flow"), seed) for seed, role in enumerate(("student", "score"))
    )
    alone = copy.deepcopy(student)
    cond = opened.cond(noise(1, 3, 16, 24).clamp(-1, 1))
    t = filled(999, cond.y)
    z_hat = student(cond.y, t, cond)
    (score(z_hat.detach(), filled(500, z_hat), cond).square().mean() + z_hat.square().mean()).backward()
    alone(cond.y, t, cond).square().mean().backward()
    for (name, p), (_, q) in zip(lora_of(student).items(), lora_of(alone).items(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, atol=1e-7, rtol=1e-4)
    assert all(p.grad is None for p in opened.net.parameters())


def test_the_student_in_training_is_the_folded_one(opened, student, recorded):
    """The authors' LoRA, not merged, in the role of the student; the timestep of index t is 1000 sigma(t)."""
    net = opened.denoiser("student", "flow").denoiser
    for name, tensor in files(CASE)[1]["transformer"].items():
        net.get_parameter(name.replace(".weight", ".default.weight")).data.copy_(tensor)
    z = recorded["notile_wavelet/a/model_input"]
    cond = opened.cond(noise(1, 3, 16, 16))
    with torch.no_grad():
        assert apart(net(z, filled(999, z), cond), student[0](z)) < 1e-5
        t = torch.tensor([499])
        sigma = 3 * 0.5 / (1 + 2 * 0.5)
        v = net.transformer(z, cond.prompt, cond.pooled, torch.tensor([1000 * sigma]), return_dict=False)[0]
        torch.testing.assert_close(net(z, t, cond), z - sigma * v)


def test_protocol(opened):
    assert opened.guided and opened.sigma_data == 1.0
    x = noise(2, 3, 16, 24).clamp(-1, 1)
    cond = opened.cond(x)
    assert cond.image is x and cond.y.shape == (2, 16, 8, 12)
    large = F.interpolate(x, scale_factor=4, mode="bicubic").clamp(-1, 1)
    assert torch.equal(cond.y, opened.encode(large)) and opened.decode(cond.y).shape == large.shape
    shifted = open_base(shift=True)
    torch.testing.assert_close(shifted.encode(large), cond.y - 0.0609 * 1.5305)
    null = opened.null(cond)
    assert null.y is cond.y and torch.equal(null.pooled, -cond.pooled)
    teacher = opened.denoiser("teacher", "flow")
    with torch.no_grad():
        z0, without = (teacher(cond.y, filled(999, cond.y), c) for c in (cond, null))
        assert z0.shape == cond.y.shape and apart(without, z0) > 1e-4
        steps = sample(teacher, opened.process("flow"), cond.y, [999, 500], cond)
        assert steps.isfinite().all()
    opened.check_student("flow", 999)
    with pytest.raises(ConfigError, match="t_student to be 999 on the base sd3, found 500"):
        opened.check_student("flow", 500)
    with pytest.raises(ConfigError, match="to be flow on the base sd3, found “ddpm”"):
        opened.denoiser("teacher", "ddpm")
    with pytest.raises(ConfigError, match="expected the condition to hold a prompt"):
        teacher(cond.y, filled(999, cond.y), type(cond)(cond.image, cond.y))
    result = opened.restore(teacher, (x + 1) / 2)
    torch.testing.assert_close(result, (opened.decode(z0) + 1) / 2)


def test_features(opened):
    cond = opened.cond(noise(1, 3, 16, 24).clamp(-1, 1))
    critic = trained(opened.features("critic", "flow"), 0)
    z = cond.y.clone().requires_grad_()
    maps = critic(z, filled(500, z), cond)
    assert tuple(m.shape[1] for m in maps) == critic.widths == (32, 32)
    assert all(m.shape[2:] == (4, 6) and m.dtype == torch.float32 for m in maps)
    sum(m.square().mean() for m in maps).backward()
    assert z.grad.abs().sum() > 0 and all("lora_" in name for name in lora_of(critic))
    assert not lora_of(opened.features("teacher", "flow"))
    # the last map is what the whole network puts out, but for its last norm and layer
    whole = shared(opened.net)
    seen = []
    whole.norm_out.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    teacher = opened.features("teacher", "flow")
    with torch.no_grad():
        sigma = 1000 * opened.process("flow").s[500].float().view(1)
        whole(cond.y, cond.prompt, cond.pooled, sigma)
        last = teacher(cond.y, filled(500, cond.y), cond)[-1]
    torch.testing.assert_close(last.flatten(2).transpose(1, 2), seen[0])
