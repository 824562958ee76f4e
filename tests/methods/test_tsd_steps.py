"""Whole training steps of TSD-SR through the real networks, held to the authors' trainer.

Their trainer ran for one step on a tiny SD3: with and without DASM, with and without a teacher's LoRA; as
released, where the TSD term has no gradient, and with that one line as they meant it ("INTENDED_...").
"""

import functools

import goldens
import pytest
import torch
from safetensors.torch import load_file

from unistep.bases.sd3.base import SD3Base
from unistep.bases.sd3.network import SD3Config
from unistep.diffusion.denoiser import Batch
from unistep.methods.tsdsr import TSDSR, TSDSRConfig

pytest.importorskip("diffusers")

GOLDEN = goldens.GOLDEN
CASE, INFER = GOLDEN / "tsd_train", GOLDEN / "tsd_infer"
RUNS = ("dasm_tealora", "dasm_notea", "nodasm_tealora", "nodasm_notea")
FORMS = ("", "INTENDED_")


@functools.cache
def recorded():
    return load_file(CASE / "tensors.safetensors") | load_file(CASE / "steps.safetensors")


def prompts(text):
    """The recorded embeddings: of the default prompt, of none, and of what each picture shows."""
    known = recorded()
    if text in ("default", "null"):
        return known[f"{text}/prompt"], known[f"{text}/pool"].view(1, -1)
    return known["prompt_embeds"][int(text)][None], known["pooled_prompt_embeds"][int(text)][None]


def picture(name):
    """[2, 3, 64, 48] in [-1, 1] of the bytes that are kept."""
    return (recorded()[name].float() / 255 - 0.5) / 0.5


def lpips(x, target):
    """What stood for LPIPS in the recorded runs: the mean difference in [0, 1]."""
    return ((x / 2 + 0.5).clamp(0, 1) - (target / 2 + 0.5)).abs().mean()


def built(run, form="", **changes):
    """(method, batch) of a recorded run."""
    config = SD3Config(
        prompt="default", negative="null", rank=4, rank_encoder=3, rank_score=3, scale=1,
        lora_student=str(INFER / "lora"), lora_score=str(CASE / "transformer_reg.safetensors"),
        lora_teacher=str(CASE / "teacher.safetensors") if run.endswith("_tealora") else "", **changes,
    )  # fmt: skip
    base = SD3Base(INFER / "sd3", config, prompts)
    settings = TSDSRConfig.released(
        dasm_steps=4 if run.startswith("dasm") else 1, dasm_random_bias=run == "dasm_tealora",
        released_no_grad=not form,
    )  # fmt: skip
    method = TSDSR.build(settings, base, lambda name: lpips)
    cond = base.cond(picture("lr_values"))
    batch = Batch(cond.image, picture("hr_values"), recorded()["latent_hr"], cond, base.null(cond),
                  base.told(cond, ["0", "1"]))  # fmt: skip
    return method, batch


def step(method, batch, run, monkeypatch):
    """(z_hat, losses of the student, of the score network) with the recorded draws; gradients are left.

    The authors' indices count from the noisy end.
    """
    known = {key.removeprefix(f"{run}/"): value for key, value in recorded().items() if key.startswith(run)}
    z_hat = method.generate(batch)
    z_hat.retain_grad()
    with monkeypatch.context() as drawn:
        drawn.setattr(method, "draw", lambda z: (999 - known["indices"], known["noise"]))
        drawn.setattr(torch, "randint", lambda *_: known["random_bias"])
        losses = method.generator_loss(batch, z_hat)
        sum(losses.values()).backward()
        drawn.setattr(method, "draw", lambda z: (999 - known["lora/indices"], known["lora/noise"]))
        drawn.setattr(torch, "randn", lambda *_, **__: known["lora/u"])
        score = method.critic_loss(batch, z_hat.detach())
        score["score"].backward()
    return z_hat, losses, score


def trained(net):
    return {name: p for name, p in net.named_parameters() if p.requires_grad}


def gradients(method):
    """Under the names of the recorded ones."""
    denoiser = method.student.denoiser.transformer
    parts = {"student": denoiser, "vae": method.student.codec.vae, "reg": method.critic.transformer}
    return {
        f"grad_{part}/{name.replace('.default.', '.')}": p.grad
        for part, net in parts.items()
        for name, p in trained(net).items()
    }


def near(ours, theirs):
    """To 1e-4 of the largest value; recorded zeros are zeros."""
    return (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


def norm_after_clipping(params):
    """As the trainer clips, at 1: of all that one optimiser moves together."""
    torch.nn.utils.clip_grad_norm_(params, 1.0)
    return torch.stack([p.grad.norm() for p in params]).norm()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("run", RUNS)
def test_a_step_is_the_authors(run, form, monkeypatch):
    known, (method, batch) = recorded(), built(run, form)
    assert near(method.student.codec.encode(batch.cond.image), known["model_input"])
    z_hat, losses, score = step(method, batch, run, monkeypatch)
    assert near(z_hat, known["dasm_tealora/latent_stu"])
    expected = {
        "tsd": known[f"{run}/tsd_loss"],
        "mse": known["dasm_tealora/mse_loss"],
        "lpips": known["dasm_tealora/lpips_stub_loss"],
    }
    assert losses.keys() == expected.keys() and losses["tsd"].requires_grad == bool(form)
    assert all(near(losses[name], expected[name]) for name in losses)
    assert near(sum(losses.values()), known[f"{run}/loss_g"])
    assert near(score["score"], known[f"{run}/lora/loss"])
    # the gradient of z_hat: what the TSD term adds to the released one is the direction over its size
    released = known["dasm_tealora/grad_latent_stu"]
    assert near(z_hat.grad, known[f"{form}{run}/grad_latent_stu"] if form else released)
    assert not form or near((z_hat.grad - released) * z_hat.numel(), known[f"{run}/grad_tsd"])
    # those of the LoRAs; without the TSD term the student's are the same in all runs
    own = f"{form}{run}" if form else "dasm_tealora"
    same = "dasm_notea" if run == "nodasm_notea" else run  # the score network is told nothing of DASM
    starts = (f"{own}/grad_student/", f"{own}/grad_vae/", f"{same}/grad_reg/")
    theirs = {key.split("/", 1)[1]: value for key, value in known.items() if key.startswith(starts)}
    ours = gradients(method)
    assert len(theirs) == (48 + 62 if own == "INTENDED_dasm_tealora" else 16) + 28
    assert not [name for name in theirs if not near(ours[name], theirs[name])]
    for net, name in ((method.student, f"{form}{run}/clipped_norm_student"),
                      (method.critic, f"{run}/clipped_norm_reg")):  # fmt: skip
        assert near(norm_after_clipping([*trained(net).values()]), known[name])
