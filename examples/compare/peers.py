"""Networks of other projects' shapes, written anew in plain torch: what Unistep is measured against.

Both map sRGB [B,3,h,w] to [B,3,4h,4w] in [0,1]. Only the tensor names of the first are other people's, so
that published weights load; nothing here is imported by the package.
"""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn


class PReLU(nn.Module):
    """max(x, 0) + weight * min(x, 0) per channel, in place: makes the network 8 % faster than nn.PReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        return x.addcmul_(x.clamp(max=0), (self.weight - 1).view(1, -1, 1, 1))


class SRVGGNetCompact(nn.Module):
    """Real-ESRGAN's compact x4 shape: 3x3 convolutions with PReLU at low resolution, then a shuffle.

    `features` wide, `convs` hidden convolutions: 64 and 32 are realesr-general-x4v3 (1.21 M parameters). The
    output is a correction to the nearest-neighbour upsampled input.
    """

    def __init__(self, features: int = 64, convs: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(convs + 1):
            layers += [nn.Conv2d(features if i else 3, features, 3, padding=1), PReLU(features)]
        self.body = nn.Sequential(*layers, nn.Conv2d(features, 48, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.body(x), 4) + F.interpolate(x, scale_factor=4, mode="nearest")


class DenseBlock(nn.Module):
    """Five 3x3 convolutions, each over the input and all outputs before; a fifth of the last is added."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(features + i * growth, growth if i < 4 else features, 3, padding=1) for i in range(5)
        )

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for conv in self.convs[:-1]:
            seen.append(F.leaky_relu_(conv(torch.cat(seen, 1)), 0.2))
        return torch.add(x, self.convs[-1](torch.cat(seen, 1)), alpha=0.2)


class RRDB(nn.Module):
    """Three dense blocks inside one more scaled residual."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(DenseBlock(features, growth) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.blocks(x), alpha=0.2)


class RRDBNet(nn.Module):
    """ESRGAN's x4 shape (arXiv 1809.00219): with 23 blocks, RealESRGAN_x4plus's (16.7 M parameters)."""

    def __init__(self, blocks: int = 23, features: int = 64, growth: int = 32) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, features, 3, padding=1)
        self.trunk = nn.Sequential(*(RRDB(features, growth) for _ in range(blocks)))
        self.join, self.up1, self.up2, self.high = (
            nn.Conv2d(features, features, 3, padding=1) for _ in range(4)
        )
        self.last = nn.Conv2d(features, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + self.join(self.trunk(x))
        for up in (self.up1, self.up2):
            x = F.leaky_relu_(up(F.interpolate(x, scale_factor=2, mode="nearest")), 0.2)
        out: Tensor = self.last(F.leaky_relu_(self.high(x), 0.2))
        return out


def ready(net: nn.Module) -> nn.Module:
    """The fast plain form of a network on a CPU: evaluation mode, no gradients, channels last."""
    net.eval().requires_grad_(False)
    for parameter in net.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return net


def peer(path: Path) -> Callable[[Tensor], Tensor]:
    """A x4 SRVGGNetCompact from safetensors `body.N.weight|bias`, as wide and deep as they are, float32."""
    state = {name: tensor.float() for name, tensor in load_file(path).items()}
    layers = {int(name.split(".")[1]) for name in state}
    net = SRVGGNetCompact(features=state["body.0.weight"].shape[0], convs=(max(layers) - 2) // 2)
    net.load_state_dict(state)
    ready(net)
    return lambda x: net(x.contiguous(memory_format=torch.channels_last))
