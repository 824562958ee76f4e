"""The feature networks of perceptual distances, in torchvision's layout, and the LPIPS form over them.

Only the layers up to the last tap are built; files may hold more (a classifier is not read). Weights of other
projects are not part of Unistep: the caller names the files.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ModelError

Pairs = Sequence[tuple[Tensor, Tensor]]
"""Feature maps [B, C, H, W] of an image and of its target, one pair per tap."""


class Fire(nn.Module):
    """SqueezeNet's block (arXiv 1602.07360): few channels, then half 1x1 and half 3x3."""

    def __init__(self, c_in: int, c_squeeze: int, c_out: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(c_in, c_squeeze, 1)
        self.expand1x1 = nn.Conv2d(c_squeeze, c_out // 2, 1)
        self.expand3x3 = nn.Conv2d(c_squeeze, c_out // 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x), self.expand3x3(x)], 1).relu()


class L2Pool(nn.Module):
    """DISTS's pooling (arXiv 2004.07728): the root of the squares, blurred by a 3x3 Hanning window."""

    def forward(self, x: Tensor) -> Tensor:
        k = torch.tensor([0.25, 0.5, 0.25], dtype=x.dtype, device=x.device)
        kernel = torch.outer(k, k).expand(x.shape[1], 1, 3, 3)
        # the constant gives zero a gradient
        return (F.conv2d(x.square(), kernel, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()


def vgg16(pool: Callable[[], nn.Module] = lambda: nn.MaxPool2d(2)) -> nn.Sequential:
    """VGG16 up to relu5_3."""
    layers: list[nn.Module] = []
    c_in = 3
    for stage, widths in enumerate(((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)):
        layers += [pool()] if stage else []
        for width in widths:
            layers += [nn.Conv2d(c_in, width, 3, padding=1), nn.ReLU()]
            c_in = width
    return nn.Sequential(*layers)


def alexnet() -> nn.Sequential:
    """AlexNet (torchvision's, of arXiv 1404.5997) up to relu5."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
    )  # fmt: skip


def squeezenet() -> nn.Sequential:
    """SqueezeNet 1.1 up to its last Fire."""
    pool = nn.MaxPool2d(3, 2, ceil_mode=True)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, 2), nn.ReLU(), pool, Fire(64, 16, 128), Fire(128, 16, 128),
        pool, Fire(128, 32, 256), Fire(256, 32, 256),
        pool, Fire(256, 48, 384), Fire(384, 48, 384), Fire(384, 64, 512), Fire(512, 64, 512),
    )  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """One architecture: where LPIPS taps it, how wide the taps are, and torchvision's own file."""

    label: str
    build: Callable[[], nn.Sequential]
    taps: tuple[int, ...]
    widths: tuple[int, ...]
    file: str
    """Name without suffix; it ends with the first digits of the SHA-256 of torchvision's .pth."""


NETWORKS = {
    "vgg16": Layout("VGG16", vgg16, (3, 8, 15, 22, 29), (64, 128, 256, 512, 512), "vgg16-397923af"),
    "alexnet": Layout(
        "AlexNet", alexnet, (1, 4, 7, 9, 11), (64, 192, 384, 256, 256), "alexnet-owt-7be5be79"
    ),
    "squeezenet": Layout(
        "SqueezeNet", squeezenet, (1, 4, 7, 9, 10, 11, 12), (64, 128, 256, 384, 384, 512, 512),
        "squeezenet1_1-b8a52dc0",
    ),
}  # fmt: skip
LEAST = 32
"""Pixels on the shorter side of an image from which every network here has all its maps."""


class FeatureNet(nn.Module):
    """Images [B, 3, H, W] in [0, 1], at least LEAST pixels a side -> the maps at the taps; frozen.

    kind: a name in NETWORKS. l2: VGG16 with L2 pooling in place of max pooling, as DISTS has it.
    """

    def __init__(self, kind: str, l2: bool = False) -> None:
        super().__init__()
        self.layout = NETWORKS[kind]
        self.features = vgg16(L2Pool) if l2 else self.layout.build()
        # ImageNet's; LPIPS's own input scaling is the same one, written for [-1, 1]
        mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.eval().requires_grad_(False)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take the `features.` tensors of a file in torchvision's layout. Raises ModelError for others."""
        wanted = self.state_dict()
        for name, tensor in wanted.items():
            found = tensors.get(name)
            if found is None or found.shape != tensor.shape:
                raise ModelError(
                    f"expected {self.layout.label} in torchvision's layout with {name} "
                    f"{list(tensor.shape)}, found {'none' if found is None else list(found.shape)}"
                )
        self.load_state_dict({name: tensors[name] for name in wanted})

    def forward(self, x: Tensor) -> list[Tensor]:
        x = (x - self.get_buffer("mean")) / self.get_buffer("std")
        maps = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.layout.taps:
                maps.append(x)
        return maps


def heads_of(tensors: dict[str, Tensor], kind: str) -> list[Tensor]:
    """LPIPS's linear heads, `linN.model.1.weight` [1, C, 1, 1]. Raises ModelError for another network's."""
    widths = NETWORKS[kind].widths
    heads = [tensors.get(f"lin{i}.model.1.weight") for i in range(len(widths))]
    shapes = [None if head is None else tuple(head.shape) for head in heads]
    if shapes != [(1, width, 1, 1) for width in widths]:
        raise ModelError(
            f"expected the LPIPS heads of {NETWORKS[kind].label}: linN.model.1.weight with "
            f"{', '.join(map(str, widths))} channels, found others"
        )
    return [head.float() for head in heads if head is not None]


def lpips(pairs: Pairs, heads: Sequence[Tensor] | None = None) -> Tensor:
    """LPIPS (arXiv 1801.03924, Eq. 1) -> [B]: squared distance of maps of unit length over the channels.

    heads: per tap, the weights [1, C, 1, 1] of the squares; without, each channel weighs 1 / C.
    """

    def unit(x: Tensor) -> Tensor:
        # root of a sum plus a constant: a zero vector has a gradient
        return x / (x.square().sum(1, keepdim=True) + 1e-20).sqrt()

    total = pairs[0][0].new_zeros(len(pairs[0][0]))
    for i, (a, b) in enumerate(pairs):
        error = (unit(a) - unit(b)).square()
        weighted = error.mean(1) if heads is None else (heads[i] * error).sum(1)
        total = total + weighted.mean((1, 2))
    return total
