"""Stable Diffusion 2.1: OSEDiff's and PiSA-SR's students against the recorded run, diffusers and PEFT."""

import copy
import dataclasses
import json
import shutil

import goldens
import pytest
import torch
from safetensors.torch import load_file, save_file

from unistep.bases.diffusersfolder import read_component
from unistep.bases.sd21 import authors as sd21_authors
from unistep.bases.sd21 import network as sd21_network
from unistep.bases.sd21 import student as sd21_student
from unistep.bases.sd21.base import SD21Base
from unistep.bases.sd21.network import SD21Config
from unistep.bases.sd21.sdunet import FoldedUNet, UNetConfig, fold
from unistep.diffusion.denoiser import filled
from unistep.diffusion.process import ddpm
from unistep.errors import ConfigError, ModelError
from unistep.students.latent import LatentConfig
from unistep.tensors import part

GOLDEN = goldens.GOLDEN / "osediff"
SD21 = GOLDEN / "sd21"
SIZES = ((8, 12), (9, 13), (7, 16), (1, 5))
REAL = {
    "in_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
}
"""What the published configuration of SD2.1's UNet says about its shape."""

pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def recorded():
    return load_file(GOLDEN / "tensors.safetensors")


@pytest.fixture(scope="module")
def osediff():
    """tensors and values, as the converter flattens osediff.pkl"""
    values = json.loads((GOLDEN / "config.json").read_text())["osediff.pkl"]
    return load_file(GOLDEN / "osediff.safetensors"), values


@pytest.fixture(scope="module")
def student(osediff, recorded):
    header, tensors = sd21_authors.build_osediff(
        SD21, *osediff, recorded["prompt_embeds"], dtype=torch.float32
    )
    return sd21_student.student(json.loads(json.dumps(header)), tensors)


@pytest.fixture(scope="module")
def unet():
    """diffusers' own, trained in no way"""
    return sd21_network.open_unet(SD21)[1]


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def apart(a, b):
    """The largest difference, relative to the largest value."""
    return ((a - b).abs().max() / b.abs().max()).item()


# ---- OSEDiff's own run


def test_osediff_equals_the_recorded_run_step_by_step(student, recorded):
    net, codec = student
    z = codec.encode(recorded["infer/notile_adain/a/lq"])
    assert (z - recorded["infer/a/latent"]).abs().max() < 1e-4
    assert (net.predict(recorded["infer/a/latent"]) - recorded["infer/a/model_pred"]).abs().max() < 1e-4
    assert (net(recorded["infer/a/latent"]) - recorded["infer/a/x_denoised"]).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["a", "b_small"])
def test_osediff_equals_the_recorded_run_end_to_end(student, recorded, name):
    net, codec = student
    out = codec.decode(net(codec.encode(recorded[f"infer/notile_adain/{name}/lq"]))).clamp(-1, 1)
    assert (out - recorded[f"infer/notile_adain/{name}/out"]).abs().max() < 1e-4


def test_the_schedule_is_the_recorded_one(recorded):
    process = sd21_network.open_process(SD21)
    assert (process.a**2 - recorded["alphas_cumprod"]).abs().max() < 1e-6
    assert process.a[999] ** 2 == pytest.approx(0.00466010, abs=1e-8)
    assert sd21_network.affine(process, 999) == pytest.approx(
        (1 / 0.0682649, -0.9976672 / 0.0682649), rel=1e-5
    )


def test_the_prompt_counts(osediff, recorded):
    _, one = sd21_authors.build_osediff(SD21, *osediff, recorded["prompt_embeds"], dtype=torch.float32)
    _, other = sd21_authors.build_osediff(SD21, *osediff, recorded["neg_prompt_embeds"], dtype=torch.float32)
    differ = {name for name in one if not torch.equal(one[name], other[name])}
    assert differ and all(name.endswith((".attn2.k", ".attn2.v")) for name in differ)
    assert len(differ) == 2 * 10  # 3 blocks down, 6 up, 1 in the middle


def test_the_header_holds_all_that_rebuilds_the_student(osediff, recorded):
    header, tensors = sd21_authors.build_osediff(SD21, *osediff, recorded["prompt_embeds"])
    assert (header["base"], header["method"], header["folded"]) == ("sd21", "osediff", True)
    latent = LatentConfig(**header["latent"])
    assert (latent.resample, latent.tile, latent.overlap, latent.colour) == ("pillow", 96, 32, "adain")
    assert {p.dtype for p in tensors.values()} == {torch.float16}
    assert not any("time_emb" in name or "lora" in name for name in tensors)
    net, codec = sd21_student.student(json.loads(json.dumps(header)), tensors)
    z = codec.encode(recorded["infer/notile_adain/a/lq"].half())
    assert net(z).dtype == torch.float32
    assert (net.predict(z) - recorded["infer/a/model_pred"]).abs().max() < 0.02


# ---- folding


@pytest.mark.parametrize(("tokens", "t"), [(6, 999), (77, 1), (1, 273)])
@torch.no_grad()
def test_the_folded_unet_equals_diffusers(unet, tokens, t):
    config, state = read_component(SD21, "unet")
    prompt = noise(1, tokens, 20)
    shape = UNetConfig.of(config, tokens, skip=0.0, gain=1.0)
    net = FoldedUNet(shape)
    net.load_state_dict(fold(state, shape, t, prompt))
    for size in SIZES:
        z = noise(2, 4, *size, seed=sum(size))
        whole = unet(z, t, prompt.expand(2, -1, -1)).sample
        assert apart(net(z), whole) < 1e-5
    assert apart(net.to(memory_format=torch.channels_last)(z), whole) < 1e-5


@pytest.mark.parametrize(("tokens", "gone", "left"), [(77, 53_434_560, 1_921_920), (1, 78_252_800, 0)])
def test_what_folding_removes_at_the_real_size(tokens, gone, left):
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        whole = UNet2DConditionModel.from_config(REAL)
        net = FoldedUNet(UNetConfig.of(REAL, tokens, 1.0, -1.0))
    count = sum(p.numel() for p in whole.parameters())
    assert count == 865_910_724
    assert count - sum(p.numel() for p in net.parameters()) == gone
    assert sum(b.numel() for b in net.buffers()) == left


@pytest.mark.parametrize("predicts", ["eps", "v"])
def test_skip_and_gain_are_what_the_output_means(predicts):
    process = ddpm(predicts=predicts)
    skip, gain = sd21_network.affine(process, 500)
    z, out = noise(1, 4, 3, 3), noise(1, 4, 3, 3, seed=1)
    expected = process.clean(out, z, torch.tensor([500]), z)
    assert apart(skip * z + gain * out, expected) < 1e-6


def test_a_base_that_predicts_v(tmp_path, osediff, recorded):
    folder = edited(tmp_path, "scheduler/scheduler_config.json", prediction_type="v_prediction")
    header, tensors = sd21_authors.build_osediff(
        folder, *osediff, recorded["prompt_embeds"], dtype=torch.float32
    )
    net, _ = sd21_student.student(header, tensors)
    z = recorded["infer/a/latent"]
    expected = 0.0682649 * z - 0.9976672 * recorded["infer/a/model_pred"]
    assert (net(z) - expected).abs().max() < 1e-4


# ---- PiSA-SR: no recorded run; a file in its format


@pytest.fixture(scope="module")
def pisasr(osediff):
    """Two LoRAs, of rank 4 and 2, on the layers that OSEDiff's has."""
    tensors, values = {}, {}
    weights = read_component(SD21, "unet")[1]
    for kind, rank in (("pix", 4), ("sem", 2)):
        values[f"lora_rank_unet_{kind}"] = rank
        for place in ("encoder", "decoder", "others"):
            names = values[f"unet_lora_{place}_modules_{kind}"] = osediff[1][f"unet_lora_{place}_modules"]
            for name in names:
                out, *inputs = weights[f"{name}.weight"].shape
                key = f"state_dict_unet/{name}.lora_{{}}.default_{place}_{kind}.weight"
                tensors[key.format("A")] = 0.05 * noise(rank, *inputs, seed=len(tensors))
                tensors[key.format("B")] = 0.05 * noise(
                    out, rank, *[1] * (len(inputs) - 1), seed=len(tensors)
                )
    return tensors, values


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")  # several adapters are meant
@pytest.mark.parametrize(("pix", "sem"), [(1.0, 1.0), (0.5, 1.5)])
@torch.no_grad()
def test_pisasr_equals_peft_with_both_adapters(pisasr, unet, pix, sem):
    import peft
    from peft.tuners.tuners_utils import BaseTunerLayer

    prompt, whole = noise(1, 6, 20), copy.deepcopy(unet)
    for kind in ("pix", "sem"):
        for place in ("encoder", "decoder", "others"):
            config = peft.LoraConfig(  # lora_alpha is left out, as in the authors' code
                r=pisasr[1][f"lora_rank_unet_{kind}"],
                target_modules=pisasr[1][f"unet_lora_{place}_modules_{kind}"],
            )
            peft.inject_adapter_in_model(config, whole, adapter_name=f"default_{place}_{kind}")
    own = part(pisasr[0], "state_dict_unet/")
    _, surplus = whole.load_state_dict(own, strict=False)
    assert not surplus
    for module in whole.modules():
        if isinstance(module, BaseTunerLayer):
            module.set_adapter(list(module.scaling))
            for name in module.scaling:
                module.scaling[name] *= pix if name.endswith("pix") else sem
    lambdas = {"lambda_pix": pix, "lambda_sem": sem}
    header, tensors = sd21_authors.build_pisasr(SD21, *pisasr, prompt, dtype=torch.float32, **lambdas)
    net, _ = sd21_student.student(header, tensors)
    z = noise(2, 4, 9, 12)
    expected = z - whole(z, 1, prompt.expand(2, -1, -1)).sample
    assert apart(net(z), expected) < 1e-5
    assert apart(expected, z - unet(z, 1, prompt.expand(2, -1, -1)).sample) > 1e-2


def test_pisasr_runs_with_the_vae_of_the_base(pisasr):
    header, tensors = sd21_authors.build_pisasr(SD21, *pisasr, noise(1, 77, 20), dtype=torch.float32)
    assert (header["method"], header["latent"]["tile"]) == ("pisasr", 96)
    net, codec = sd21_student.student(header, tensors)
    vae = read_component(SD21, "vae")[1]
    assert all(torch.equal(codec.vae.state_dict()[name], p) for name, p in vae.items())
    assert codec.decode(net(codec.encode(noise(1, 3, 72, 56)))).shape == (1, 3, 72, 56)


# ---- files that are not what they should be


def edited(tmp_path, file, **changes):
    """A copy of the base with other values in one of its JSON files."""
    folder = shutil.copytree(SD21, tmp_path / "sd21")
    config = json.loads((folder / file).read_text()) | changes
    (folder / file).write_text(json.dumps(config))
    return folder


def weights(folder):
    return folder / "unet" / "diffusion_pytorch_model.safetensors"


def shards(folder):
    """Puts the UNet's weights into two files and an index, and returns the index."""
    tensors = load_file(weights(folder))
    weights(folder).unlink()
    where = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(sorted(tensors))}
    for file in set(where.values()):
        save_file({name: tensors[name] for name in where if where[name] == file}, folder / "unet" / file)
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return index


def test_sharded_and_half_precision_components_are_read(tmp_path):
    folder = shutil.copytree(SD21, tmp_path / "sd21")
    config, whole = read_component(folder, "unet")
    shards(folder)
    assert read_component(folder, "unet")[0] == config
    again = read_component(folder, "unet")[1]
    assert again.keys() == whole.keys() and all(torch.equal(again[name], whole[name]) for name in whole)
    vae = folder / "vae" / "diffusion_pytorch_model.safetensors"
    vae.rename(vae.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert "quant_conv.weight" in read_component(folder, "vae")[1]


def remove_folder(folder):
    shutil.rmtree(folder)


def remove_config(folder):
    (folder / "unet" / "config.json").unlink()


def damage_config(folder):
    (folder / "unet" / "config.json").write_text("{")


def listed_config(folder):
    (folder / "unet" / "config.json").write_text("[]")


def rename(folder):
    weights(folder).rename(folder / "unet" / "model_v2.safetensors")


def pickled(folder):
    weights(folder).rename(folder / "unet" / "diffusion_pytorch_model.bin")


def cut(folder):
    weights(folder).write_bytes(weights(folder).read_bytes()[:100_000])


def lose_shard(folder):
    shards(folder)
    (folder / "unet" / "part-1.safetensors").unlink()


def lead_outside(folder):
    index = shards(folder)
    shutil.copy(folder / "unet" / "part-0.safetensors", folder / "part-0.safetensors")
    index.write_text(index.read_text().replace("part-0", "../part-0"))


def list_another(folder):
    index = shards(folder)
    index.write_text(index.read_text().replace("conv_in.weight", "conv_im.weight"))


def damage_index(folder):
    shards(folder).write_text('{"weight_map": 3}')


def lose_tensor(folder):
    tensors = load_file(weights(folder))
    tensors["mid_block.extra"] = tensors.pop("conv_in.weight")
    save_file(tensors, weights(folder))


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (remove_folder, "to be the folder of a diffusers model, found none"),
        (remove_config, r"config\.json of a diffusers model, found none"),
        (damage_config, "to be JSON, found a damaged file"),
        (listed_config, "to hold a JSON object, found list"),
        (rename, r"found model_v2\.safetensors"),
        (pickled, r"found diffusion_pytorch_model\.bin.*pickles are not read"),
        (cut, "expected a .safetensors file, found something else or a damaged one"),
        (lose_shard, r"the shard part-1\.safetensors .* found none"),
        (lead_outside, r"the shard \.\./part-0\.safetensors .* found none"),
        (list_another, "found 2 that differ .conv_im.weight, conv_in.weight"),
        (damage_index, "to list the shard of each tensor, found none"),
        (lose_tensor, "1 missing: conv_in.weight; 1 surplus: mid_block.extra"),
    ],
)
def test_a_folder_that_is_no_model(tmp_path, damage, found):
    folder = shutil.copytree(SD21, tmp_path / "sd21")
    damage(folder)
    with pytest.raises(ModelError, match=found):
        sd21_network.open_unet(folder)


@pytest.mark.parametrize(
    ("file", "changes", "found"),
    [
        ("unet/config.json", {"use_linear_projection": False}, "found use_linear_projection False"),
        ("unet/config.json", {"transformer_layers_per_block": 2}, "found transformer_layers_per_block 2"),
        ("unet/config.json", {"out_channels": 8}, "found out_channels 8"),
        ("unet/config.json", {"mid_block_type": None}, "found mid_block_type None"),
        ("unet/config.json", {"up_block_types": ["UpBlock2D"]}, "found blocks"),
        ("unet/config.json", {"block_out_channels": 32}, "found another"),
        ("unet/config.json", {"norm_num_groups": 7}, "the shape of a UNet of Stable Diffusion 2"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "linear"}, "found linear and epsilon"),
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "found scaled_linear and sample"),
        ("scheduler/scheduler_config.json", {"beta_start": None}, "to have its numbers"),
    ],
)
def test_a_base_that_is_another_model(tmp_path, osediff, recorded, file, changes, found):
    folder = edited(tmp_path, file, **changes)
    with pytest.raises(ModelError, match=found):
        sd21_authors.build_osediff(folder, *osediff, recorded["prompt_embeds"])


def test_the_old_names_of_the_vaes_attention(tmp_path):
    folder = shutil.copytree(SD21, tmp_path / "sd21")
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    whole = load_file(file)
    old = dict(whole)
    for ours, theirs in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        old = {name.replace(f".{ours}.", f".{theirs}."): p for name, p in old.items()}
    assert len(old.keys() - whole.keys()) == 16
    save_file(old, file)
    read = sd21_network.open_vae(folder).vae.state_dict()
    assert read.keys() == whole.keys() and all(torch.equal(read[name], whole[name]) for name in whole)


def changed(tensors, name, value):
    return {**{key: p for key, p in tensors.items() if key != name}, **({} if value is None else value)}


LAYER = "state_dict_unet/mid_block.resnets.0.conv1.lora_A.default_others.weight"


def test_an_osediff_file_that_is_another(osediff, recorded):
    tensors, values = osediff
    prompt = recorded["prompt_embeds"]

    def refused(found, tensors=tensors, values=values, prompt=prompt):
        with pytest.raises(ModelError, match=found):
            sd21_authors.build_osediff(SD21, tensors, values, prompt)

    merged = {"unet/conv_in.weight": torch.zeros(1), "vae/quant_conv.weight": torch.zeros(1)}
    refused("found unet, vae; download OSEDiff's .AdcSR", tensors=merged, values={})
    refused("found no rank_vae", values={k: v for k, v in values.items() if k != "rank_vae"})
    refused("to have rank 8, found 4", values={**values, "rank_unet": 8})
    refused(f"found 1 missing .{LAYER.partition('/')[2]}", tensors=changed(tensors, LAYER, None))
    refused("1 surplus .other", tensors={**tensors, "state_dict_unet/other.lora_A.weight": torch.zeros(4, 4)})
    refused("to fit its weight", tensors=changed(tensors, LAYER, {LAYER: torch.zeros(4, 48, 3, 3)}))
    conv_in = "state_dict_unet/conv_in.base_layer.bias"
    refused(r"found conv_in\.base_layer\.weight; download", tensors=changed(tensors, conv_in, None))
    wider = {conv_in: torch.zeros(48)}
    refused(r"conv_in.bias \[48\] for \[32\]", tensors=changed(tensors, conv_in, wider))
    refused(r"to be \[1, tokens, 20\], found \[1, 77, 1024\]", prompt=torch.zeros(1, 77, 1024))


def test_a_pisasr_file_that_is_another(pisasr, osediff):
    tensors, values = pisasr
    with pytest.raises(ModelError, match="found no lora_rank_unet_pix"):
        sd21_authors.build_pisasr(SD21, *osediff, noise(1, 6, 20))
    extra = {"state_dict_unet/conv_in.base_layer.weight": torch.zeros(1)}
    with pytest.raises(ModelError, match=r"pix and sem alone, found conv_in\.base_layer"):
        sd21_authors.build_pisasr(SD21, {**tensors, **extra}, values, noise(1, 6, 20))


def test_a_students_file_that_is_another(osediff, recorded):
    header, tensors = sd21_authors.build_osediff(SD21, *osediff, recorded["prompt_embeds"])
    renamed = dict(tensors)
    renamed["denoiser.extra"] = renamed.pop("denoiser.conv_in.bias")
    with pytest.raises(ModelError, match=r"1 missing: denoiser\.conv_in\.bias; 1 surplus: denoiser\.extra"):
        sd21_student.student(header, renamed)
    for change in (
        {"widths": [32, 0, 32, 32]},
        {"layers": 10**9},
        {"heads": [2, 4]},
        {"depth": 3},
        {"gain": "1"},
    ):
        with pytest.raises(ModelError):
            sd21_student.student({**header, "denoiser": {**header["denoiser"], **change}}, tensors)
    with pytest.raises(ModelError, match="another"):
        sd21_student.student({"denoiser": header["denoiser"]}, tensors)


# ---- prompts


def test_a_prompt_is_encoded_by_the_folders_own_encoder(tmp_path):
    pytest.importorskip("transformers")
    from transformers.models.clip.configuration_clip import CLIPTextConfig
    from transformers.models.clip.modeling_clip import CLIPTextModel

    torch.manual_seed(0)
    words = ["!", "a</w>", "c", "a", "t</w>", "ca", "cat</w>", "<|startoftext|>", "<|endoftext|>"]
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (tmp_path / "tokenizer" / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n")
    (tmp_path / "tokenizer" / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "CLIPTokenizer",
                "model_max_length": 77,
                "pad_token": "!",
                "bos_token": "<|startoftext|>",
                "eos_token": "<|endoftext|>",
                "unk_token": "<|endoftext|>",
            }
        )
    )
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            bos_token_id=7,
            eos_token_id=8,
            pad_token_id=0,
        )
    ).eval()
    encoder.save_pretrained(tmp_path / "text_encoder")
    with torch.no_grad():
        expected = encoder(torch.tensor([[7, 1, 6, 8, *[0] * 73]]))[0]
        empty = encoder(torch.tensor([[7, 8, *[0] * 75]]))[0]
    assert torch.equal(sd21_network.encode_prompt(tmp_path, "a Cat"), expected)
    assert torch.equal(sd21_network.encode_prompt(tmp_path, ""), empty)
    assert sd21_network.encode_prompt(tmp_path, "a " * 200).shape == (1, 77, 16)
    file = tmp_path / "text_encoder" / "model.safetensors"
    file.rename(file.with_name("pytorch_model.bin"))
    with pytest.raises(ModelError, match="the safetensors of text_encoder"):
        sd21_network.encode_prompt(tmp_path, "a")
    (tmp_path / "tokenizer" / "vocab.json").write_text("{}")
    with pytest.raises(ModelError, match="to hold tokenizer and"):
        sd21_network.encode_prompt(tmp_path, "a")
    with pytest.raises(ModelError, match=r"text_encoder.config\.json"):
        sd21_network.encode_prompt(SD21, "a")


# ---- the base, opened for training


@pytest.fixture(scope="module")
def base(recorded):
    embeddings = {"": recorded["prompt_embeds"], "bad": recorded["neg_prompt_embeds"]}
    config = SD21Config(rank=4, rank_score=4, rank_encoder=0, negative="bad", learned_prompt=True)
    return SD21Base(SD21, config, lambda text: (embeddings[text], None))


def lora_of(net):
    return {name: p for name, p in net.named_parameters() if p.requires_grad}


def test_roles_share_the_base_and_train_their_own_lora(base):
    torch.manual_seed(0)
    players = {role: base.denoiser(role, "ddpm") for role in ("student", "score", "teacher")}
    assert not lora_of(players["teacher"])
    assert [name for name in lora_of(players["student"]) if "lora_" not in name] == ["prompt"]
    assert len(lora_of(players["score"])) == 2 * 164
    owned = {role: {id(p) for p in lora_of(net).values()} for role, net in players.items()}
    assert not owned["student"] & owned["score"]
    shared = {id(p) for p in base.net.parameters()}
    assert all(id(p) in shared or p.requires_grad for net in players.values() for p in net.parameters())


def test_interleaved_roles_get_the_gradients_of_separate_copies(base):
    torch.manual_seed(0)
    student, score = (base.denoiser(role, "ddpm") for role in ("student", "score"))
    for net in (student, score):
        for name, p in lora_of(net).items():
            if "lora_B" in name:
                torch.nn.init.normal_(p, std=0.05)
    alone = copy.deepcopy(student)
    cond = base.cond(noise(1, 3, 16, 24).clamp(-1, 1))
    t = filled(999, cond.y)
    z_hat = student(cond.y, t, cond)
    (score(z_hat.detach(), filled(500, z_hat), cond).square().mean() + z_hat.square().mean()).backward()
    alone(cond.y, t, cond).square().mean().backward()
    theirs = lora_of(alone)
    for name, p in lora_of(student).items():
        assert p.grad is not None and apart(p.grad, theirs[name].grad) < 1e-5, name
    assert all(p.grad is not None for p in lora_of(score).values())
    assert all(p.grad is None for p in base.net.parameters())


@torch.no_grad()
def test_a_new_student_is_the_teacher_and_both_speak_z0(base, recorded):
    cond = base.cond(noise(2, 3, 16, 24).clamp(-1, 1))
    t = torch.tensor([999, 400])
    student, teacher = (base.denoiser(role, "ddpm")(cond.y, t, cond) for role in ("student", "teacher"))
    assert torch.allclose(student, teacher, atol=1e-5)
    eps = base.net(cond.y, t, recorded["prompt_embeds"].expand(2, -1, -1)).sample
    abar = recorded["alphas_cumprod"][t].view(-1, 1, 1, 1)
    assert apart(teacher, (cond.y - (1 - abar).sqrt() * eps) / abar.sqrt()) < 1e-5
    null = base.null(cond)
    assert null is not None and base.guided
    assert apart(base.denoiser("teacher", "ddpm")(cond.y, t, null), teacher) > 1e-6


def test_features_are_the_way_down_and_the_middle(base):
    torch.manual_seed(0)
    critic = base.features("critic", "ddpm")
    cond = base.cond(noise(2, 3, 32, 48).clamp(-1, 1))
    maps = critic(cond.y, filled(300, cond.y), cond)
    assert [tuple(m.shape) for m in maps] == [
        (2, 32, 8, 12), (2, 32, 4, 6), (2, 32, 2, 3), (2, 32, 2, 3), (2, 32, 2, 3),
    ]  # fmt: skip
    assert critic.widths == (32,) * 5
    seen = {}
    base.net.mid_block.register_forward_hook(lambda module, args, out: seen.update(mid=out))
    base.net(cond.y, filled(300, cond.y), base.prompt.expand(2, -1, -1))
    assert apart(maps[-1].detach(), seen["mid"]) < 1e-5
    maps[-1].square().mean().backward()
    assert all(p.grad is not None for p in lora_of(critic).values())
    assert not lora_of(base.features("teacher", "ddpm"))


def test_the_base_restores_pictures(base):
    x = torch.rand(1, 3, 16, 20, generator=torch.Generator().manual_seed(0))
    out = base.restore(base.denoiser("student", "ddpm"), x)
    assert out.shape == (1, 3, 64, 80) and out.dtype == torch.float32


def test_what_the_base_cannot_do(base):
    for call in (base.denoiser, base.features):
        with pytest.raises(ConfigError, match="to be ddpm on the base sd21, found “flow”"):
            call("student", "flow")
    base.check_student("ddpm", 999)
    with pytest.raises(ConfigError, match="to be 999"):
        base.check_student("ddpm", 500)
    cond = base.cond(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ConfigError, match="a prompt's embedding"):
        base.denoiser("teacher", "ddpm")(cond.y, filled(9, cond.y), dataclasses.replace(cond, prompt=None))
