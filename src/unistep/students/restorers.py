"""Restorers of others: Real-ESRGAN's two architectures, one pass from a low-quality picture to a larger one.

SRVGGNetCompact (Real-ESRGAN's small models, arXiv 2107.10833) and RRDBNet (ESRGAN, arXiv 1809.00219; BSRGAN,
Real-ESRGAN, LDL). Tensor names and shapes are those of the published files, from which width, depth and scale
are read; RRDBNet's two older sets of names are taken, too. Written anew: no code of theirs.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ModelError
from ..pixels.tiling import pad_to_multiple
from ..tensors import few, load_exactly

EARLIER = {"RRDB_trunk.": "body.", "RDB": "rdb", "trunk_conv.": "conv_body.", "upconv1.": "conv_up1.",
           "upconv2.": "conv_up2.", "HRconv.": "conv_hr."}  # fmt: skip
"""Parts of RRDBNet's names as ESRGAN and BSRGAN have them -> as BasicSR has them."""
FIRST = {"0": "conv_first", "3": "conv_up1", "6": "conv_up2", "8": "conv_hr", "10": "conv_last"}
"""The numbers that ESRGAN's first release of scale 4 has in the place of names."""
SLACK = 1.3
"""Memory beside the tensors of a call: on a CPU, RRDBNet was measured to take 1.03 times as much."""
SCALES = range(1, 9)
"""What SRVGGNetCompact may enlarge by."""


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class PReLU(nn.Module):
    """max(x, 0) + weight * min(x, 0) per channel, in place: the network is then 8 % faster."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        return x.addcmul_(x.clamp(max=0), (self.weight - 1).to(x.dtype).view(1, -1, 1, 1))


class SRVGGNetCompact(nn.Module):
    """[B, 3, h, w] -> [B, 3, s h, s w] in [0, 1]: convolutions at the low resolution, a shuffle at the end.

    What the convolutions give is added to the picture enlarged by repeating its pixels.
    """

    def __init__(self, num_feat: int, num_conv: int, scale: int):
        super().__init__()
        self.scale, self.overlap = scale, num_conv + 2  # as far as a pixel is seen: tiles are exact
        self.sizes = {"width": f"{num_feat} channels", "depth": f"{num_conv + 2} convolutions"}
        self.floats = max(2 * num_feat, 9 * scale**2)  # a PReLU, or the sum at the end
        layers: list[nn.Module] = [conv(3, num_feat), PReLU(num_feat)]
        for _ in range(num_conv):
            layers += [conv(num_feat, num_feat), PReLU(num_feat)]
        self.body = nn.Sequential(*layers, conv(num_feat, 3 * scale**2))

    def forward(self, x: Tensor) -> Tensor:
        detail = F.pixel_shuffle(self.body(x), self.scale)
        return detail + F.interpolate(x, scale_factor=float(self.scale), mode="nearest")


class DenseBlock(nn.Module):
    """Five convolutions, each over the input and all results before it; a fifth of the last is added."""

    def __init__(self, num_feat: int, grow: int):
        super().__init__()
        for i in range(5):
            self.add_module(f"conv{i + 1}", conv(num_feat + i * grow, grow if i < 4 else num_feat))

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.children()
        seen, out = [x], first(x)
        for layer in others:
            seen.append(F.leaky_relu(out, 0.2, inplace=True))
            out = layer(torch.cat(seen, dim=1))
        return torch.add(x, out, alpha=0.2)


class RRDB(nn.Module):
    """Three dense blocks; a fifth of their change is added."""

    def __init__(self, num_feat: int, grow: int):
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (DenseBlock(num_feat, grow) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.rdb3(self.rdb2(self.rdb1(x))), alpha=0.2)


class RRDBNet(nn.Module):
    """[B, 3, h, w] -> [B, 3, s h, s w] in [0, 1]; x2 and x1 fold 2x2 and 4x4 pixels into channels first."""

    overlap = 32
    """Its receptive field is far larger, but what lies beyond counts little."""

    def __init__(self, num_feat: int, num_block: int, grow: int, scale: int):
        super().__init__()
        self.scale, self.folded = scale, 4 // scale
        self.sizes = {"width": f"{num_feat} channels, growing by {grow}", "depth": f"{num_block} blocks"}
        # Of 4 / scale squared pixels: a convolution at the full size, or the end of a dense block.
        self.floats = max(36 * num_feat, 32 * num_feat + 48, 6 * num_feat + 8 * grow) // self.folded**2
        self.conv_first = conv(3 * self.folded**2, num_feat)
        self.body = nn.Sequential(*(RRDB(num_feat, grow) for _ in range(num_block)))
        self.conv_body, self.conv_up1, self.conv_up2, self.conv_hr = (
            conv(num_feat, num_feat) for _ in range(4)
        )
        self.conv_last = conv(num_feat, 3)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        x = self.conv_first(F.pixel_unshuffle(pad_to_multiple(x, self.folded), self.folded))
        x = x + self.conv_body(self.body(x))
        for up in (self.conv_up1, self.conv_up2):
            x = F.leaky_relu(up(F.interpolate(x, scale_factor=2.0, mode="nearest")), 0.2, inplace=True)
        out: Tensor = self.conv_last(F.leaky_relu(self.conv_hr(x), 0.2, inplace=True))
        return out[..., : self.scale * h, : self.scale * w]


class Restorer(nn.Module):
    """One of the two as a student: [B, 3, h, w] in [-1, 1] -> [B, 3, s h, s w], any h and w from 1."""

    def __init__(self, net: SRVGGNetCompact | RRDBNet, info: dict[str, Any]):
        super().__init__()
        self.net, self.info = net, info
        self.scale, self.overlap = net.scale, net.overlap
        self.bytes_per_pixel = int(SLACK * 4 * (net.floats + 6))
        """What a call takes in float32 for each low-resolution pixel, with its input before and after."""

    def forward(self, x_lq: Tensor) -> Tensor:
        x: Tensor = self.net((x_lq + 1) / 2)
        return x * 2 - 1


def open_restorer(path: Path, tensors: Mapping[str, Tensor]) -> Restorer:
    """The network in the file `path`, by its tensors (float32, evaluation mode, channels last, frozen).

    Raises ModelError for another architecture, another number of colours, and damaged values.
    """
    try:
        net = _shaped(tensors)
        named = _renamed(tensors) if isinstance(net, RRDBNet) else tensors
        load_exactly(net, {name: tensor.float() for name, tensor in named.items()}, type(net).__name__)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise ModelError(f"{path}: expected finite weights, found NaN or infinity: the file is damaged")
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    info = {"restorer": type(net).__name__, "scale": net.scale, **net.sizes}
    return Restorer(net, info).eval().requires_grad_(False)


def _renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """RRDBNet's tensors under their later names."""
    # the convolution after the blocks has the number that a next block would have
    blocks = {found[1] for name in tensors if (found := re.match(r"model\.1\.sub\.(\d+)\.RDB", name))}

    def later(name: str) -> str:
        if found := re.fullmatch(r"model\.(\d+)\.(weight|bias)", name):
            return f"{FIRST.get(found[1], found[1])}.{found[2]}"
        name = name.replace(f"model.1.sub.{len(blocks)}.", "conv_body.")
        name = re.sub(r"^model\.1\.sub\.(\d+\.RDB\d\.conv\d)\.0\.", r"body.\1.", name)
        for old, new in EARLIER.items():
            name = name.replace(old, new)
        return name

    return {later(name): tensor for name, tensor in tensors.items()}


def _shaped(tensors: Mapping[str, Tensor]) -> SRVGGNetCompact | RRDBNet:
    """The network whose tensors these are, on the meta device. Raises ModelError."""
    # Blocks are counted, not read off the highest number: a forged name asks for no more than there is.
    names = _renamed(tensors)
    if "conv_first.weight" in names and "conv_last.weight" in names:
        first, last = _kernel(names, "conv_first"), _kernel(names, "conv_last")
        grow = _kernel(names, "body.0.rdb1.conv1")[0]
        _colours(last[0])
        folded = math.isqrt(first[1] // 3)
        if first[1] != 3 * folded**2 or folded not in (1, 2, 4):
            raise ModelError(
                "expected an RRDBNet of 3 colours and scale 4, 2 or 1, which sees 3, 12 or 48 channels, found"
                f" one that sees {first[1]}: name another file"
            )
        blocks = {name.split(".")[1] for name in names if name.startswith("body.")}
        with torch.device("meta"):
            return RRDBNet(first[0], len(blocks), grow, 4 // folded)
    if "body.0.weight" in tensors and "body.1.weight" in tensors:
        convs = sorted((int(name.split(".")[1]) for name, t in tensors.items()
                        if t.ndim == 4 and name.split(".")[1].isdecimal()))  # fmt: skip
        first, last = _kernel(tensors, "body.0"), _kernel(tensors, f"body.{convs[-1]}" if convs else "")
        _colours(first[1])
        scale = math.isqrt(last[0] // 3)
        if last[0] != 3 * scale**2 or scale not in SCALES:
            raise ModelError(
                f"expected an SRVGGNetCompact of scale {SCALES[0]} to {SCALES[-1]}, which gives 3 scale^2 "
                f"channels, found one that gives {last[0]}: name another file"
            )
        with torch.device("meta"):
            return SRVGGNetCompact(first[0], len(convs) - 2, scale)
    raise ModelError(
        "expected weights written by Unistep, or an SRVGGNetCompact or RRDBNet of others, found a safetensors"
        f" file without its header and with other tensors ({few(sorted(tensors), 3) or 'none'}): name another"
    )


def _kernel(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    """The shape of a convolution's weight. Raises ModelError where there is none."""
    weight = tensors.get(f"{name}.weight")
    if weight is None or weight.ndim != 4:
        found = "none" if weight is None else list(weight.shape)
        raise ModelError(f"expected the weight of the convolution {name}, found {found}")
    return tuple(weight.shape)


def _colours(found: int) -> None:
    if found != 3:
        raise ModelError(f"expected a restorer of 3 colours, found one of {found}: name another file")
