"""Inception-v3 (arXiv 1512.00567) as FID knows it: images -> the 2,048 features of its last pooling.

The network of 2015-12-05 that FID was defined with differs from torchvision's: average pooling leaves out the
padding, and the last block pools by maximum. Tensor names are those of torchvision and pytorch-fid.

Images come to 299x299 in one of three ways, and FID depends on which (arXiv 2104.11222):

    clean        Pillow's bicubic with antialiasing, per channel in float; clean-fid, and pyiqa's `fid`
    bilinear     bilinear without antialiasing, half-pixel centres; pytorch-fid
    tensorflow   bilinear without antialiasing, position times scale, as TensorFlow 1; torch-fidelity
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ..errors import ConfigError, ModelError
from ..tensors import load_exactly, read_tensors
from .planes import check

Resize = Literal["clean", "bilinear", "tensorflow"]
Kernel = tuple[int, int]
Layer = tuple[str, int, Kernel]
"""Name, channels out, kernel."""
SIDE, FEATURES = 299, 2048
_1, _3, _5, _1x7, _7x1, _1x3, _3x1 = (1, 1), (3, 3), (5, 5), (1, 7), (7, 1), (1, 3), (3, 1)


class Convolution(nn.Module):
    """Without bias, then batch normalisation and ReLU."""

    def __init__(self, c_in: int, c_out: int, kernel: Kernel, stride: int = 1, same: bool = True) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2) if same else (0, 0)
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(c_out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Branches side by side, each a chain of convolutions, and a pooled one at the end.

    Names of layers follow the branch's ("branch3x3" + "_1"); two last ones "_2a", "_2b" fork. Without
    `pooled` (channels of the pooled branch) the block halves the sides: the last convolutions have stride 2
    and no padding, and what is pooled is not convolved.
    """

    def __init__(self, c_in: int, branches: tuple[tuple[Layer, ...], ...], pooled: int, last: bool) -> None:
        super().__init__()
        self.chains = [[name for name, _, _ in branch] for branch in branches]
        self.halves, self.last, self.width = not pooled, last, pooled or c_in
        for branch in branches:
            c = c_in
            for i, (name, c_out, kernel) in enumerate(branch):
                strided = self.halves and i == len(branch) - 1
                self.add_module(name, Convolution(c, c_out, kernel, 1 + strided, not strided))
                if name[-1] == "b" or i == len(branch) - 1:
                    self.width += c_out * (1 + (name[-1] == "b"))
                c = c if name[-1] == "a" else c_out
        if pooled:
            self.branch_pool = Convolution(c_in, pooled, _1)

    def forward(self, x: Tensor) -> Tensor:
        out = []
        for chain in self.chains:
            y = x
            forked = chain[-1][-1] == "b"
            for name in chain[:-2] if forked else chain:
                y = self.get_submodule(name)(y)
            out += [self.get_submodule(name)(y) for name in chain[-2:]] if forked else [y]
        if self.halves:
            return torch.cat([*out, F.max_pool2d(x, 3, 2)], 1)
        pooled = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return torch.cat([*out, self.branch_pool(F.max_pool2d(x, 3, 1, 1) if self.last else pooled)], 1)


def _chain(branch: str, *layers: tuple[int, Kernel]) -> tuple[Layer, ...]:
    return tuple((f"{branch}_{i}", c, kernel) for i, (c, kernel) in enumerate(layers, 1))


def _a() -> tuple[tuple[Layer, ...], ...]:
    return (
        (("branch1x1", 64, _1),),
        _chain("branch5x5", (48, _1), (64, _5)),
        _chain("branch3x3dbl", (64, _1), (96, _3), (96, _3)),
    )


def _c(c: int) -> tuple[tuple[Layer, ...], ...]:
    return (
        (("branch1x1", 192, _1),),
        _chain("branch7x7", (c, _1), (c, _1x7), (192, _7x1)),
        _chain("branch7x7dbl", (c, _1), (c, _7x1), (c, _1x7), (c, _7x1), (192, _1x7)),
    )


def _e() -> tuple[tuple[Layer, ...], ...]:
    return (
        (("branch1x1", 320, _1),),
        (("branch3x3_1", 384, _1), ("branch3x3_2a", 384, _1x3), ("branch3x3_2b", 384, _3x1)),
        (*_chain("branch3x3dbl", (448, _1), (384, _3)),
         ("branch3x3dbl_3a", 384, _1x3), ("branch3x3dbl_3b", 384, _3x1)),
    )  # fmt: skip


B = ((("branch3x3", 384, _3),), _chain("branch3x3dbl", (64, _1), (96, _3), (96, _3)))
D = (_chain("branch3x3", (192, _1), (320, _3)),
     _chain("branch7x7x3", (192, _1), (192, _1x7), (192, _7x1), (192, _3)))  # fmt: skip
STEM = (("Conv2d_1a_3x3", 3, 32, _3), ("Conv2d_2a_3x3", 32, 32, _3), ("Conv2d_2b_3x3", 32, 64, _3),
        ("Conv2d_3b_1x1", 64, 80, _1), ("Conv2d_4a_3x3", 80, 192, _3))  # fmt: skip
BLOCKS = (
    ("5b", _a(), 32), ("5c", _a(), 64), ("5d", _a(), 64),
    ("6a", B, 0), ("6b", _c(128), 192), ("6c", _c(160), 192), ("6d", _c(160), 192), ("6e", _c(192), 192),
    ("7a", D, 0), ("7b", _e(), 192), ("7c", _e(), 192),
)  # fmt: skip


class Inception(nn.Module):
    """Up to the last average pooling; frozen. Without weights of its own: `open` reads them."""

    def __init__(self) -> None:
        super().__init__()
        for name, c_in, c_out, kernel in STEM:
            strided, same = name == "Conv2d_1a_3x3", name == "Conv2d_2b_3x3"
            self.add_module(name, Convolution(c_in, c_out, kernel, 1 + strided, same))
        c = 192
        for name, branches, pooled in BLOCKS:
            block = Mixed(c, branches, pooled, last=name == "7c")
            self.add_module(f"Mixed_{name}", block)
            c = block.width
        self.eval().requires_grad_(False)

    @classmethod
    def open(cls, path: str | Path) -> "Inception":
        """The network with the weights of a .safetensors file; a classifier in it is not read.

        Raises ModelError for a file that cannot be read or has other tensors.
        """
        with torch.device("meta"):
            network = cls()
        tensors = read_tensors(Path(path))
        own = {name: x for name, x in tensors.items() if not name.startswith(("fc.", "AuxLogits."))}
        for name in network.state_dict():  # older files do not count batches
            if name.endswith("num_batches_tracked"):
                own.setdefault(name, torch.zeros((), dtype=torch.int64))
        try:
            load_exactly(network, own, "Inception-v3")
        except ModelError as error:
            raise ModelError(f"{path}: {error}: name another file") from error
        return network.float().eval().requires_grad_(False)

    def forward(self, images: Tensor, resize: Resize = "clean") -> Tensor:
        """[B,3,H,W] in [0,1], rounded to 8 bits -> [B,2048] float32."""
        check(images)
        x: Tensor = resized((images.clamp(0, 1) * 255).round(), resize)
        for layer in self._layers():
            x = layer(x)
        return x.mean((2, 3))

    def _layers(self) -> Iterator[nn.Module]:
        for name, module in self.named_children():
            yield module
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                yield nn.MaxPool2d(3, 2)


def resized(pixels: Tensor, resize: Resize) -> Tensor:
    """[B,3,H,W] from 0 to 255 -> [B,3,299,299] float32, about -1 to 1. Raises ConfigError."""
    if resize == "clean":
        x = torch.stack([torch.stack([_pillow(channel) for channel in one]) for one in pixels.cpu().float()])
        return ((x - 128) / 128).to(pixels.device)
    if resize == "bilinear":
        small = F.interpolate(pixels.float() / 255, (SIDE, SIDE), mode="bilinear", align_corners=False)
        return 2 * small - 1
    if resize == "tensorflow":
        return (_from_the_corner(_from_the_corner(pixels.float(), 2), 3) - 128) / 128
    raise ConfigError(f"expected resize to be {', '.join(get_args(Resize))}, found “{resize}”")


def _pillow(channel: Tensor) -> Tensor:
    image = Image.fromarray(channel.numpy()).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).clamp(0, 255)


def _from_the_corner(x: Tensor, axis: int) -> Tensor:
    """Linear along one axis, to SIDE samples at i * n / SIDE."""
    n = x.shape[axis]
    at = torch.arange(SIDE, device=x.device) * (n / SIDE)
    low = at.long()
    share = (at - low).view((-1, 1) if axis == 2 else (1, -1))
    below, above = x.index_select(axis, low), x.index_select(axis, (low + 1).clamp_max(n - 1))
    return below + (above - below) * share
