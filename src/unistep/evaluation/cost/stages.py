"""The calls that are timed: a network as a whole, and each part of a student of a large base."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...bases.textnets import TextNet
from ...counting.operators import weight_bytes
from ...diffusion.sampler import Sampler
from ...errors import ConfigError
from ...pixels.tiling import free_memory
from ...students.latent import LatentStudent
from ...students.planning import SHARE, Plan
from ...upscaling.upscaler import Upscaler
from .counted import DECODER, ENCODER, NETWORK
from .timing import Run

WHOLE = Plan("whole", 0, 1 << 20, 1, 0, 0)
"""Neither blocks nor tiles."""


def random_picture(height: int, width: int) -> np.ndarray:
    """[height, width, 3] float32 in 0..1, always the same: waves with noise, so that it is hard to store."""
    waves = np.add.outer(np.sin(np.arange(height) / 9), np.cos(np.arange(width) / 7))[..., None]
    noise = np.random.default_rng(0).random((height, width, 3), dtype=np.float32)
    return np.float32(0.4) + np.float32(0.15) * waves.astype(np.float32) + np.float32(0.1) * noise


def network_runs(upscaler: Upscaler, side: int, compile: bool) -> dict[str, Run]:
    """Of the small models: one call, as the upscaler's tiles make it."""
    device, dtype, model = upscaler.device, upscaler.dtype, upscaler.model
    x = torch.from_numpy(random_picture(side, side) * 2 - 1).permute(2, 0, 1)[None].to(device)
    x = x.contiguous(memory_format=torch.channels_last)
    call = _compiled(model, device) if compile else model

    def run() -> object:
        with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return call(x)

    return {"whole": run}


def student_runs(student: LatentStudent, side: int, dtype: torch.dtype, compile: bool) -> dict[str, Run]:
    """The whole without tiles and blocks, and encoder, network (all steps) and decoder."""
    device, codec, net = student.device, student.codec, student.denoiser
    size = side * student.scale, side * student.scale
    x, image = student.inputs(random_picture(side, side), size)
    x = x.to(device, dtype).contiguous(memory_format=torch.channels_last)
    image = None if image is None else image.to(device)

    def nothing(done: int, total: int) -> None:
        pass

    @torch.no_grad()
    def encode() -> Tensor:
        return student.code(codec, "encode", x, WHOLE, nothing)

    @torch.no_grad()
    def denoise(z: Tensor) -> Tensor:
        return student.denoise(z, image, WHOLE, torch.Generator().manual_seed(0), nothing)

    @torch.no_grad()
    def decode(z: Tensor) -> Tensor:
        return student.code(student.decoder, "decode", z, WHOLE, nothing)

    plain = not isinstance(net, Sampler) and not student.options.offload
    if compile and not plain:
        raise ConfigError("expected --compile with one-step students that stay on the device, found another")
    noise = None
    if student.config.noise:
        noise = torch.randn(1, codec.channels, *(s // codec.factor for s in x.shape[2:])).to(device, dtype)
    view = None if image is None else image.to(dtype)
    call: Callable[..., object] = _compiled(student, device) if compile else student

    @torch.no_grad()
    def whole() -> object:
        return call(x, view, noise) if plain else decode(denoise(encode()))

    z = encode()
    z_0 = denoise(z)
    found: dict[str, Run] = {"whole": whole, ENCODER: encode, NETWORK: lambda: denoise(z)}
    return found | {DECODER: lambda: decode(z_0)}


def text_run(nets: Sequence[TextNet], device: torch.device, dtype: torch.dtype) -> Run | None:
    """A text through all encoders, with untrained weights; None if there are none, or no room for them."""
    with torch.device("meta"):
        needed = sum(weight_bytes(one.build().to(dtype)) for one in nets)
    if not nets or needed > SHARE * min(free_memory(device), free_memory(torch.device("cpu"))):
        return None
    calls = []
    for one in nets:
        net = one.build().to(device, dtype)
        calls.append(one.call(net))

    @torch.no_grad()
    def run() -> object:
        return [call() for call in calls]

    return run


def _compiled(model: nn.Module, device: torch.device) -> Any:
    return torch.compile(model, mode="reduce-overhead" if device.type == "cuda" else "default")
