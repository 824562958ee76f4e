"""The compact model at use: read from its file, mixed with a plainer one, folded into one step."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ConfigError, ModelError
from ...pixels.tiling import pad_to_multiple
from .network import SCALE, SIGMA_DATA, CompactConfig, CompactDenoiser, Enlarge, decode
from .unet import UNet, fold


def open_network(path: Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> CompactDenoiser:
    """The network in the file `path` (float32, evaluation mode). Raises ModelError for another file's."""
    try:
        shape = {key: value for key, value in header["run"]["base"].items() if key != "kind"}
        if not shape.keys() <= {"widths", "blocks", "folded"}:
            raise ValueError(f"unknown settings: {', '.join(sorted(shape))}")
        if type(folded := shape.pop("folded", False)) is not bool:
            raise ValueError(f"expected folded to be true or false, found {folded}")
        sizes = {key: whole(value) for key, value in shape.items()}
        denoiser = CompactDenoiser(CompactConfig(**sizes, folded=folded))
        denoiser.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, ConfigError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{path}: expected the weights of a compact model, found others: {reason}"
        ) from error
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise ModelError(f"{path}: expected finite weights, found NaN or infinity: the file is damaged")
    return denoiser.eval()


def whole(value: Any) -> tuple[int, ...]:
    """A list of whole numbers of a header. Raises ValueError for anything else."""
    if not isinstance(value, list) or not all(type(one) is int for one in value):
        raise ValueError(f"expected a list of whole numbers, found {value}")
    return tuple(value)


class CompactStudent(nn.Module):
    """A one-step model, folded: image in, image out; only Conv, SiLU, Add and PixelShuffle are left."""

    scale = SCALE
    overlap = 32
    colour = "wavelet"  # it was trained against sharpened photographs, and shifts colours a little
    """Low-resolution pixels that a tile sees beyond its own on each side: the fewest whose result stays
    within about half an 8-bit level of the untiled one (measured: docs/log.md)."""

    def __init__(self, net: UNet, info: dict[str, Any] | None = None):
        super().__init__()
        self.net, self.enlarge = net, Enlarge()
        self.info = info or {}

    def forward(self, x_lq: Tensor) -> Tensor:
        """[B, 3, h, w] in [-1, 1] -> [B, 3, 4h, 4w] (about [-1, 1], not clipped), any h and w from 1."""
        h, w = x_lq.shape[-2:]
        x = pad_to_multiple(x_lq, 4)
        z = self.net(x) + self.enlarge(x)  # in this order: the enlargement need not wait in memory
        return decode(z)[..., : SCALE * h, : SCALE * w]


def mix(student: CompactDenoiser, plain: CompactDenoiser, fidelity: float) -> CompactDenoiser:
    """A new network, (1 - fidelity) theta_student + fidelity theta_plain; exactly one of them at 0 and at 1.

    Both folded, or neither. Where the student was fine-tuned from `plain`, the networks between them work too
    (network interpolation: ESRGAN, Wang et al. 2018, arXiv 1809.00219, Sec. 3.4).
    """
    theta, mixed = plain.state_dict(), CompactDenoiser(student.config)
    mixed.load_state_dict(
        {name: tensor.lerp(theta[name], fidelity) for name, tensor in student.state_dict().items()}
    )
    return mixed


def folded(denoiser: CompactDenoiser) -> CompactDenoiser:
    """A new network of the one-step slot alone: time folded, noise inputs removed, output scaled to r_0."""
    made = CompactDenoiser(dataclasses.replace(denoiser.config, folded=True))
    if denoiser.config.folded:
        made.load_state_dict(denoiser.state_dict())
    else:
        made.net = fold(denoiser.net, math.inf, slice(48, 51), SIGMA_DATA)
    return made.eval()


def fold_slot(denoiser: CompactDenoiser, info: dict[str, Any] | None = None) -> CompactStudent:
    """The one-step slot of `denoiser` as a student."""
    return CompactStudent(folded(denoiser).net, info).eval().requires_grad_(False)
