"""Recorded numbers of ResShift's and SinSR's own code on tiny networks, for several test files."""

import functools
import json
from collections.abc import Iterable
from typing import Any

import goldens
import torch
from safetensors.torch import load_file
from torch import Tensor

from unistep.diffusion.denoiser import Cond, Denoiser, filled
from unistep.diffusion.process import Process

GOLDEN = goldens.GOLDEN
CASES = ("resshift", "sinsr")


@functools.cache
def numbers(case: str) -> dict[str, Tensor]:
    """Inputs and results."""
    return load_file(GOLDEN / case / "tensors.safetensors")


@functools.cache
def config(case: str) -> dict[str, Any]:
    """What the networks are made of, and the names and shapes of the authors' state dict."""
    values: dict[str, Any] = json.loads((GOLDEN / case / "config.json").read_text())
    return values


def weights(case: str) -> dict[str, dict[str, Tensor]]:
    """State dicts "unet" (without what follows from the shape) and "vq", float32; the caller may change them.

    Three bytes store each value, to 8e-6 of it: a float16, and an int8 that counts 1/256 of its last place.
    """
    return {part: {n: p.clone() for n, p in state.items()} for part, state in _weights(case).items()}


@functools.cache
def _weights(case: str) -> dict[str, dict[str, Tensor]]:
    state: dict[str, dict[str, Tensor]] = {"unet": {}, "vq": {}}
    for name, three in load_file(GOLDEN / case / "weights.safetensors").items():
        part, _, name = name.partition(".")
        state[part][name] = float32(three)
    return state


def float32(three: Tensor) -> Tensor:
    """[..., 3] bytes -> [...]"""
    high = three[..., :2].contiguous().view(torch.float16).squeeze(-1).float()
    unit = torch.exp2((torch.frexp(high)[1].clamp_min(-13) - 19).float())
    return high + three[..., 2].contiguous().view(torch.int8) * unit


def student() -> dict[str, Tensor]:
    """The state dict that SinSR's recorded training steps start from; stored as `weights`."""
    return {
        name: float32(three) for name, three in load_file(GOLDEN / "sinsr" / "student.safetensors").items()
    }


def unet_file(case: str, prefix: str = "", dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The state dict of the UNet as the authors save it, buffers and all."""
    unet = weights(case)["unet"]
    return {
        prefix + name: unet[name].to(dtype) if name in unet else torch.zeros(shape)
        for name, shape in config(case)["keys"].items()
    }


@torch.no_grad()
def sample_posterior(
    denoiser: Denoiser, process: Process, z: Tensor, cond: Cond, noises: Iterable[Tensor]
) -> Tensor:
    """ResShift's own sampler: from z_T down to z_0, each z_{t-1} drawn from q(z_{t-1} | z_t, z_0, y).

    noises: standard normal, of z's shape, one for each t = T - 1 .. 1.
    """
    for t, eps in zip(reversed(range(1, len(process))), noises, strict=True):
        z0 = denoiser(z, filled(t, z), cond)
        mean, variance = process.posterior(z0, z, filled(t, z), cond.y)
        z = mean + variance.sqrt() * eps
    out: Tensor = denoiser(z, filled(0, z), cond)
    return out
