"""What each role of a Stable Diffusion trains, and the files that it is read from and written to."""

import copy
import json

import pytest
import torch
from latent_bases import GOLDEN, KINDS, TEACHER, TEXTS, VIEW, apart, noise, open_base, taught, trained
from safetensors.torch import load_file, save_file

from unistep.bases import BASES, lora
from unistep.bases.latentbase import VAE_TARGETS, shared
from unistep.diffusion.denoiser import filled
from unistep.errors import ConfigError, ModelError

pytest.importorskip("diffusers")


def test_the_encoder_s_layers_are_the_authors():
    for kind, file in (("sd3", GOLDEN / "tsd_infer" / "lora" / "vae.safetensors"), ("sd21", None)):
        encoder = open_base(kind).encoder()
        ours = {name.partition(".lora_")[0] for name in trained(encoder.vae)}
        if file:
            theirs = {name.removeprefix("transformer.").partition(".lora_")[0] for name in load_file(file)}
        else:
            config = json.loads((GOLDEN / "osediff" / "config.json").read_text())["osediff.pkl"]
            theirs = set(config["vae_lora_encoder_modules"])
        assert ours == theirs
        assert encoder.vae.decoder is None and not any(
            "decoder" in name for name, _ in encoder.named_parameters()
        )


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_looks_with_its_own_encoder(kind):
    base = open_base(kind)
    torch.manual_seed(0)
    student, t = base.denoiser("student", VIEW[kind]), base.t_student
    cond = base.cond(noise(2, 3, 16, 16).clamp(-1, 1))
    z_hat = student(cond.y, filled(t, cond.y), cond)
    other = student(torch.zeros_like(cond.y), filled(t, cond.y), cond)
    assert torch.equal(z_hat, other)  # z_t is not looked at
    plain = student.denoiser(cond.y, filled(t, cond.y), cond)
    assert torch.equal(z_hat, plain)  # a new LoRA changes nothing, and the mean of the posterior is taken
    z_hat.square().mean().backward()
    moved = {name for name, p in trained(student).items() if p.grad is not None and p.grad.any()}
    assert {name for name in trained(student) if name.startswith("codec.") and "lora_B" in name} <= moved
    frozen = open_base(kind, rank_encoder=0).denoiser("student", VIEW[kind])
    assert frozen.codec is None and not any("codec" in name for name in trained(frozen))
    assert apart(frozen(cond.y + 1, filled(t, cond.y), cond), plain) > 1e-3


def test_a_new_lora_is_gaussian_and_zero_and_counts_alpha_over_rank_times():
    torch.manual_seed(0)
    student = open_base("sd3", rank=4, alpha=8.0).denoiser("student", "flow")
    a = torch.cat([p.flatten() for name, p in trained(student.denoiser).items() if ".lora_A." in name])
    assert a.std().item() == pytest.approx(1 / 4, rel=0.05)
    assert not any(p.any() for name, p in trained(student).items() if ".lora_B." in name)
    layers = {m.scaling["default"] for m in student.denoiser.modules() if hasattr(m, "scaling")}
    encoder = {m.scaling["default"] for m in student.codec.modules() if hasattr(m, "scaling")}
    assert layers == {2.0} and encoder == {4.0}
    once = open_base("sd3", rank=4).denoiser("student", "flow")
    assert {m.scaling["default"] for m in once.modules() if hasattr(m, "scaling")} == {1.0}


def test_osediff_trains_the_first_convolution_too():
    base = open_base("sd21", rank=4, alpha=8.0, train_conv_in=True, dtype="bf16")
    own = base.net.conv_in
    student, score = (base.denoiser(role, "ddpm") for role in ("student", "score"))
    whole = {name: p for name, p in trained(student).items() if "lora_" not in name}
    assert [*whole] == [f"denoiser.unet.conv_in.base_layer.{part}" for part in ("weight", "bias")]
    weight = whole["denoiser.unet.conv_in.base_layer.weight"]
    assert weight.dtype == torch.float32 and torch.equal(weight, own.weight.float())
    assert weight.data_ptr() != own.weight.data_ptr() and not own.weight.requires_grad
    assert score.unet.conv_in.base_layer.weight is own.weight
    cond = base.cond(noise(1, 3, 16, 16).clamp(-1, 1))
    student(cond.y, filled(999, cond.y), cond).square().mean().backward()
    assert all(p.grad.any() for p in whole.values())


def test_a_frozen_network_of_less_precision():
    full, half = (open_base("sd3", dtype=dtype) for dtype in ("fp32", "bf16"))
    assert {p.dtype for p in half.net.parameters()} == {torch.bfloat16}
    cond = full.cond(noise(1, 3, 16, 16).clamp(-1, 1))
    outs = []
    for base in (full, half):
        torch.manual_seed(0)
        student = taught(base.denoiser("student", "flow"))
        assert {p.dtype for p in trained(student).values()} == {torch.float32}
        assert {p.dtype for p in base.codec.parameters()} == {torch.float32}
        z_0 = student.denoiser(cond.y, filled(500, cond.y), cond)
        assert z_0.dtype == torch.float32
        outs.append(z_0)
    assert apart(outs[1], outs[0]) < 0.05 and not torch.equal(*outs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_learned_prompt_is_the_student_s_alone(kind):
    base = open_base(kind, learned_prompt=True)
    student = base.denoiser("student", VIEW[kind])
    learned = {name: p for name, p in trained(student).items() if name in ("prompt", "pooled")}
    assert len(learned) == (2 if kind == "sd3" else 1) and torch.equal(learned["prompt"], base.prompt)
    assert not any(name in ("prompt", "pooled") for name in trained(base.denoiser("score", VIEW[kind])))
    cond, t = base.cond(noise(2, 3, 16, 16).clamp(-1, 1)), base.t_student
    told = base.told(cond, TEXTS[2:])
    z_hat = student(cond.y, filled(t, cond.y), told)
    assert torch.equal(z_hat, student(cond.y, filled(t, cond.y), cond))
    z_hat.square().mean().backward()
    assert all(p.grad.any() for p in learned.values())


@pytest.mark.parametrize("kind", KINDS)
def test_each_picture_may_have_a_prompt(kind):
    base = open_base(kind)
    cond = base.cond(noise(2, 3, 16, 16).clamp(-1, 1))
    told = base.told(cond, TEXTS[2:])
    assert told.prompt.shape[0] == 2 and told.y is cond.y and told.image is cond.image
    assert (told.pooled is None) == (kind == "sd21")
    teacher, t = base.denoiser("teacher", VIEW[kind]), filled(500, cond.y)
    with torch.no_grad():
        both = teacher(cond.y, t, told)
        for i, text in enumerate(TEXTS[2:]):
            one = base.told(base.cond(cond.image[i : i + 1]), [text])
            assert apart(teacher(cond.y[i : i + 1], t[:1], one), both[i : i + 1]) < 1e-5
        assert apart(teacher(cond.y, t, cond), both) > 1e-4
    null = base.null(cond)
    assert torch.equal(null.prompt, base.told(cond, ["bad"]).prompt) and null.prompt.shape[0] == 1


def test_pictures_that_are_large_already():
    base = open_base("sd3", scale=1)
    x = noise(1, 3, 32, 48).clamp(-1, 1)
    assert torch.equal(base.cond(x).y, base.encode(x))
    assert base.restore(base.denoiser("student", "flow"), (x + 1) / 2).shape == x.shape
    with pytest.raises(ConfigError, match=r"expected base\.scale to be 1 or 4, found 2"):
        open_base("sd3", scale=2)


# ---- files


def weights_of(student):
    """As they are saved: without the first module's name."""
    return {name.removeprefix("denoiser."): p.detach().clone() for name, p in trained(student).items()}


FILES = [
    ("sd3", {"learned_prompt": True, "alpha": 8.0}),
    ("sd3", {"shift": True, "rank_encoder": 0}),
    ("sd21", {"train_conv_in": True, "alpha": 8.0, "learned_prompt": True}),
]


@pytest.mark.parametrize(("kind", "more"), FILES)
def test_a_student_s_files(kind, more, tmp_path):
    """Folded, it answers as in training; from the files in the authors' layout it goes on."""
    base = open_base(kind, **more)
    torch.manual_seed(0)
    student = taught(base.denoiser("student", VIEW[kind]))
    for name, p in trained(student).items():
        if "lora_" not in name:
            p.data.add_(0.1 * noise(*p.shape))
    weights = weights_of(student)
    cond = base.cond(noise(1, 3, 16, 16).clamp(-1, 1))
    with torch.no_grad():
        z_hat = student(cond.y, filled(base.t_student, cond.y), cond)
        header, state = base.export(weights, "dfosd", torch.float32)
        net, codec = BASES[kind].student(json.loads(json.dumps(header)), state)
        x = torch.nn.functional.interpolate(cond.image, scale_factor=4, mode="bicubic").clamp(-1, 1)
        assert apart(net(codec.encode(x)), z_hat) < 1e-5
        assert apart(codec.decode(z_hat), base.decode(z_hat)) < 1e-5
    assert header["method"] == "dfosd" and header["base"] == kind
    files = base.layout(weights)
    part = {"sd3": "transformer", "sd21": "unet"}[kind]
    assert (f"{part}.safetensors" in files) and ("vae.safetensors" in files) == (base.config.rank_encoder > 0)
    assert not any("default" in name for file in files.values() for name in file)
    for name, file in files.items():
        save_file({key: p.contiguous() for key, p in file.items()}, tmp_path / name)
    again = open_base(kind, **more, lora_student=str(tmp_path)).denoiser("student", VIEW[kind])
    assert all(
        apart(p, weights[name]) < 1e-6
        for name, p in weights_of(again).items()
        if name not in ("prompt", "pooled")
    )


def test_the_authors_names_are_kept():
    """Written as it was read: TSD-SR's own files, prefix in both."""
    folder = GOLDEN / "tsd_infer" / "lora"
    base = open_base("sd3", rank=4, rank_encoder=3, lora_student=str(folder))
    files = base.layout(weights_of(base.denoiser("student", "flow")))
    assert files.keys() == {"transformer.safetensors", "vae.safetensors"}
    for name, file in files.items():
        theirs = load_file(folder / name)
        assert file.keys() == theirs.keys() and all(torch.equal(file[key], theirs[key]) for key in theirs)


def test_a_teacher_wears_its_lora():
    """Frozen, beside the weights, as if it were merged."""
    base = open_base("sd3", lora_teacher=str(TEACHER))
    teacher, state = base.denoiser("teacher", "flow"), shared(base.net).state_dict()
    assert not trained(teacher)
    lora.merge(state, lora.strip(load_file(TEACHER), "transformer."))
    merged = copy.deepcopy(base.net)
    merged.load_state_dict(state)
    plain, cond = open_base("sd3").denoiser("teacher", "flow"), base.cond(noise(1, 3, 16, 16).clamp(-1, 1))
    t = filled(400, cond.y)
    with torch.no_grad():
        z_0 = teacher(cond.y, t, cond)
        assert (
            apart(z_0, base.clothed(merged, base.only)(cond.y, t, cond))
            < 1e-5
            < apart(plain(cond.y, t, cond), z_0)
        )
        maps = base.features("teacher", "flow")(cond.y, t, cond)
        assert apart(maps[-1], open_base("sd3").features("teacher", "flow")(cond.y, t, cond)[-1]) > 1e-5
    score = base.denoiser("score", "flow")  # the base and its own LoRA, not the teacher's
    with torch.no_grad():
        assert torch.equal(score(cond.y, t, cond), plain(cond.y, t, cond))


def test_files_that_do_not_fit(tmp_path):
    folder = GOLDEN / "tsd_infer" / "lora"

    def refused(found, role="student", **settings):
        with pytest.raises(ModelError, match=found):
            open_base("sd3", **{"rank": 4, "rank_encoder": 3, **settings}).denoiser(role, "flow")

    refused(r"lora_A.weight of .*transformer.safetensors to be \[5, .*found \[4, ", rank=5,
            lora_student=str(folder))  # fmt: skip
    refused(r"vae.safetensors to be \[2, .*found \[3, ", rank_encoder=2, lora_student=str(folder))
    student = str(folder / "transformer.safetensors")
    refused(r"0 missing and 20 surplus: norm_out", "score", rank_score=4, lora_score=student)
    refused("31 surplus: encoder.conv_in", "teacher", lora_teacher=str(folder / "vae.safetensors"))
    refused("expected a .safetensors file", lora_student=str(tmp_path))
    cut = load_file(TEACHER)
    cut["transformer.transformer_blocks.7.attn.to_k.lora_A.weight"] = torch.ones(4, 32)
    save_file(cut, tmp_path / "other.safetensors")
    refused("1 surplus: transformer_blocks.7", "teacher", lora_teacher=str(tmp_path / "other.safetensors"))


def test_embeddings_of_another_model():
    made, config, folder, *_ = KINDS["sd3"]
    for prompt, pooled in (((1, 7, 31), (1, 24)), ((1, 7, 32), None), ((7, 32), (1, 24))):
        given = torch.zeros(prompt), None if pooled is None else torch.zeros(pooled)
        with pytest.raises(ConfigError, match=r"expected embeddings .*\(32, 24\) on the base sd3, found"):
            made(folder, config(), lambda text, given=given: given)


def test_the_targets_of_an_encoder_leave_the_decoder_out():
    base = open_base("sd21")
    adapted = shared(base.codec.vae)
    lora.adapt(adapted, VAE_TARGETS, 2)
    assert not any(name.startswith(("decoder", "post_quant")) for name in trained(adapted))
