"""What roles that share a base keep in memory, counted at the real size on the meta device."""

import copy

import pytest
import torch
from latent_bases import tensors, trained

from unistep.bases import BASES
from unistep.bases.sd3.network import SD3Config
from unistep.bases.sd21.network import SD21Config
from unistep.methods.dfosd import DFOSDConfig, NoiseAwareDiscriminator

pytest.importorskip("diffusers")


def frozen_bytes(*modules):
    found = {id(p): p.numel() * p.element_size() for p in tensors(*modules) if not p.requires_grad}
    return sum(found.values())


def trained_bytes(*modules):
    """Of the weights, their gradients and Adam's two moments."""
    return 4 * sum(p.numel() * p.element_size() for net in modules for p in trained(net).values())


def test_memory_of_tsdsr_at_the_size_of_sd3_medium():
    """In bfloat16, where the LoRAs, which stay in float32, weigh most."""
    base = BASES["sd3"].shapes(SD3Config(dtype="bf16"))
    student, teacher, score = (base.denoiser(role, "flow") for role in ("student", "teacher", "score"))
    assert sum(p.numel() for p in base.net.parameters()) == 2_028_328_000
    whole = frozen_bytes(student, teacher, score, base.codec)
    assert whole == frozen_bytes(base.net, base.codec) and not trained(teacher)
    assert {p.dtype for net in (student, score) for p in trained(net).values()} == {torch.float32}
    ours = whole + trained_bytes(student, score)
    network = frozen_bytes(base.net)
    assert ours <= 0.65 * (ours + network)  # the authors': the student's, and the teacher's with the score's
    assert ours <= 0.5 * (ours + 2 * network)
    assert frozen_bytes(student.denoiser, copy.deepcopy(teacher)) == 2 * network  # the count is not blind


def test_memory_of_dfosd_at_the_size_of_sd21():
    """The discriminator is a LoRA, and heads, on the UNet that the student has."""
    base = BASES["sd21"].shapes(SD21Config(rank=16, rank_encoder=0, rank_score=16, learned_prompt=True))
    student, trunk = base.denoiser("student", "ddpm"), base.features("critic", "ddpm")
    assert sum(p.numel() for p in base.net.parameters()) == 865_910_724
    assert frozen_bytes(student, trunk, base.codec) == frozen_bytes(base.net, base.codec)
    critic = NoiseAwareDiscriminator(trunk, DFOSDConfig())
    ours = frozen_bytes(base.net, base.codec) + trained_bytes(student, critic)
    alone = ours + frozen_bytes(copy.deepcopy(trunk))
    assert ours < 0.75 * alone
    assert {tuple(trained(student)["prompt"].shape)} == {(1, 77, 1024)}
