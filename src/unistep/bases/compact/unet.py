"""The compact network: one residual UNet of dense 3x3 convolutions at the low resolution.

No normalisation and no attention: nothing depends on the whole image, so tiles are exact and a fixed time
folds away. Shapes: B batch; h, w low-resolution pixels, multiples of 4; 48 = 3 x 4 x 4 pixel-unshuffled
channels.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Res(nn.Module):
    """x + g * conv(SiLU(FiLM_t(conv(x))))."""

    def __init__(self, channels: int, code: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.film = nn.Linear(code, 2 * channels)
        self.g = nn.Parameter(torch.full((channels, 1, 1), 0.2))
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        scale, shift = self.film(code)[:, :, None, None].chunk(2, dim=1)
        change: Tensor = self.conv2(F.silu(self.conv1(x) * (1 + scale) + shift))
        return x + self.g * change

    def fold(self, code: Tensor) -> "FoldedRes":
        """The same block at the one time whose code [1, C] is given: FiLM moves into conv1, g into conv2."""
        scale, shift = self.film(code)[0].chunk(2)
        folded = FoldedRes(len(self.g))
        with torch.no_grad():
            _assign(
                folded.conv1,
                self.conv1.weight * (1 + scale)[:, None, None, None],
                _bias(self.conv1) * (1 + scale) + shift,
            )
            _assign(folded.conv2, self.conv2.weight * self.g[:, None], _bias(self.conv2) * self.g[:, 0, 0])
        return folded


class FoldedRes(nn.Module):
    """x + conv(SiLU(conv(x)))."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, code: Tensor | None = None) -> Tensor:
        train = torch.is_grad_enabled()
        change: Tensor = self.conv2(F.silu(self.conv1(x), inplace=not train))
        # In place: fresh memory for each result costs more than the sum itself on large tiles.
        return x + change if train else change.add_(x)


class TimeCode(nn.Module):
    """64 sines and cosines of s / (s + 1), bounded up to s = inf (code 1), through two layers."""

    def __init__(self, code: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, code), nn.SiLU(), nn.Linear(code, code), nn.SiLU())
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, math.log(256), 32)), persistent=False)

    def forward(self, s: Tensor) -> Tensor:
        """s [B] in (0, inf] -> [B, code]."""
        phase = (1 / (1 + 1 / s))[:, None] * self.get_buffer("frequencies")
        code: Tensor = self.layers(torch.cat([phase.sin(), phase.cos()], dim=1))
        return code


class UNet(nn.Module):
    """[B, in_channels, h, w] -> [B, 48, h, w]; three levels of `blocks` blocks, `widths` channels."""

    def __init__(
        self,
        widths: Sequence[int] = (64, 96, 128),
        blocks: Sequence[int] = (2, 2, 3),
        in_channels: int = 51,
        code: int = 128,
        folded: bool = False,
    ):
        super().__init__()

        def level(index: int) -> nn.ModuleList:
            c = widths[index]
            return nn.ModuleList([FoldedRes(c) if folded else Res(c, code) for _ in range(blocks[index])])

        c0, c1, c2 = widths
        self.time = nn.Identity() if folded else TimeCode(code)
        self.inp = nn.Conv2d(in_channels, c0, 3, padding=1)
        self.enc0, self.enc1, self.mid = level(0), level(1), level(2)
        self.down0, self.down1 = nn.Conv2d(c0, c1, 2, stride=2), nn.Conv2d(c1, c2, 2, stride=2)
        self.up1, self.up0 = nn.Conv2d(c2, 4 * c1, 1), nn.Conv2d(c1, 4 * c0, 1)
        self.dec1, self.dec0 = level(1), level(0)
        self.out = nn.Conv2d(c0, 48, 3, padding=1)
        nn.init.normal_(self.out.weight, std=1e-3)
        nn.init.zeros_(_bias(self.out))

    def encode(self, x: Tensor, code: Tensor | None) -> list[Tensor]:
        """Features after the first, second and middle level: strides 4, 8 and 16 of the high resolution."""
        x = self.inp(x)
        for block in self.enc0:
            x = block(x, code)
        taps = [x]
        x = self.down0(x)
        for block in self.enc1:
            x = block(x, code)
        taps.append(x)
        x = self.down1(x)
        for block in self.mid:
            x = block(x, code)
        return [*taps, x]

    def forward(self, x: Tensor, s: Tensor | None = None) -> Tensor:
        """x [B, in_channels, h, w], s [B] the noise-to-signal ratio (None on a folded network)."""
        code = None if s is None else self.time(s)
        skip0, skip1, x = self.encode(x, code)
        x = F.pixel_shuffle(self.up1(x), 2) + skip1
        del skip1
        for block in self.dec1:
            x = block(x, code)
        x = F.pixel_shuffle(self.up0(x), 2) + skip0
        del skip0  # what is no longer needed would be held to the end
        for block in self.dec0:
            x = block(x, code)
        out: Tensor = self.out(x)
        return out


def fold(net: UNet, s: float, keep_inputs: slice, gain: float) -> UNet:
    """`net` at one time s, reading only `keep_inputs` of its input channels (the rest is 0), times `gain`."""
    widths, blocks = (
        [len(net.inp.weight), len(net.down0.weight), len(net.down1.weight)],
        [len(net.enc0), len(net.enc1), len(net.mid)],
    )
    kept = net.inp.weight[:, keep_inputs]
    folded = UNet(widths, blocks, in_channels=kept.shape[1], folded=True).to(kept.device)
    with torch.no_grad():
        code = net.time(torch.tensor([s], device=kept.device))
        for name in ("enc0", "enc1", "mid", "dec1", "dec0"):
            setattr(folded, name, nn.ModuleList([block.fold(code) for block in getattr(net, name)]))
        for name in ("down0", "down1", "up1", "up0"):
            getattr(folded, name).load_state_dict(getattr(net, name).state_dict())
        _assign(folded.inp, kept, _bias(net.inp))
        _assign(folded.out, net.out.weight * gain, _bias(net.out) * gain)
    return folded


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


def _assign(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    conv.weight.copy_(weight)
    _bias(conv).copy_(bias)
