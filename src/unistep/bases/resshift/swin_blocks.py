"""The layers of ResShift's Swin-UNet; see `swin` for what differs from Swin."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SPLIT = -100.0
"""Added to the attention between the two halves of a masked window."""


def norm(channels: int) -> nn.GroupNorm:
    """GroupNorm in float32: torch's kernels take the statistics so whatever the dtype."""
    return nn.GroupNorm(32, channels, eps=1e-5)


def relative_index(window: int) -> Tensor:
    """[N, N] int64, N = window^2: the row of the bias table for each pair of positions in a window."""
    place = torch.arange(window, device="cpu")  # not where torch.device("meta") puts things
    y, x = (p.flatten() for p in torch.meshgrid(place, place, indexing="ij"))
    dy, dx = y[:, None] - y, x[:, None] - x
    return (dy + window - 1) * (2 * window - 1) + dx + window - 1


def last_row_mask(window: int, shift: int) -> Tensor:
    """[N, N]: what is added to the attention in every window of the last row, and nowhere else.

    It parts columns, although it is rows that the shift brought together there: the released networks were
    trained with a mask whose labels are transposed.
    """
    column = torch.arange(window, device="cpu").repeat(window) < window - shift
    return torch.where(column[:, None] == column, 0.0, SPLIT)


def attention(qkv: Tensor, bias: Tensor) -> Tensor:
    """qkv [3, windows, heads, N, d], bias [heads, N, N] -> [windows, heads, N, d]."""
    q, k, v = qkv.unbind()
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


class WindowAttention(nn.Module):
    """Attention within windows, moved up and left by `shift`, with a learned bias for relative positions."""

    def __init__(self, width: int, heads: int, window: int, shift: int):
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.register_buffer("index", relative_index(window), persistent=False)
        self.register_buffer("mask", last_row_mask(window, shift) if shift else None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W], sides multiples of the window -> the same shape."""
        b, c, h, w = x.shape
        m, s = self.window, self.shift
        if s:
            x = x.roll((-s, -s), (2, 3))
        # Rows of windows come before the batch: so the last row, which alone is masked, is one slice.
        tokens = x.view(b, c, h // m, m, w // m, m).permute(2, 0, 4, 3, 5, 1).reshape(-1, m * m, c)
        qkv = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.get_buffer("index")].permute(2, 0, 1)
        last = b * (w // m) if s else 0
        parts = [attention(qkv[:, : len(tokens) - last], bias)]
        if s:
            parts.append(attention(qkv[:, -last:], bias + self.get_buffer("mask")))
        out = torch.cat(parts) if s else parts[0]
        out = self.proj(out.transpose(1, 2).flatten(2)).view(h // m, b, w // m, m, m, c)
        x = out.permute(1, 0, 3, 2, 4, 5).reshape(b, h, w, c).permute(0, 3, 1, 2)
        return x.roll((s, s), (2, 3)) if s else x


class Mlp(nn.Module):
    """Two layers at each position."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Conv2d(width, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class SwinBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, window: int, shift: int, mlp_ratio: int):
        super().__init__()
        self.norm1 = norm(width)
        self.attn = WindowAttention(width, heads, window, shift)
        self.norm2 = norm(width)
        self.mlp = Mlp(width, mlp_ratio * width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Projection(nn.Module):
    """A 1x1 convolution under the name of Swin's patch embedding."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.proj = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(x)
        return out


class SwinLayer(nn.Module):
    """1x1 convolution, Swin blocks, 1x1 convolution; nothing goes past them."""

    def __init__(self, c: int, width: int, blocks: list[SwinBlock]):
        super().__init__()
        self.patch_embed = Projection(c, width)
        self.blocks = nn.Sequential(*blocks)
        self.patch_unembed = Projection(width, c)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.patch_unembed(self.blocks(self.patch_embed(x)))
        return out


class ResBlock(nn.Module):
    """Two 3x3 convolutions; time scales and shifts what the second norm gives, unless that is folded in."""

    def __init__(self, c_in: int, c_out: int, code: int | None):
        super().__init__()
        self.in_layers = nn.Sequential(norm(c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1))
        if code is not None:
            self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(code, 2 * c_out))
        # Identity stands where training has its dropout: names count it
        self.out_layers = nn.Sequential(
            norm(c_out), nn.SiLU(), nn.Identity(), nn.Conv2d(c_out, c_out, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor, code: Tensor | None) -> Tensor:
        h = self.in_layers(x)
        if code is None:
            h = self.out_layers(h)
        else:
            scale, shift = self.emb_layers(code)[:, :, None, None].chunk(2, dim=1)
            h = self.out_layers[3](F.silu(self.out_layers[0](h) * (1 + scale) + shift))
        out: Tensor = self.skip_connection(x) + h
        return out


class Downsample(nn.Module):
    """Halves: a 3x3 convolution of stride 2."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.op = nn.Conv2d(c_in, c_out, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.op(x)
        return out


class Block(nn.Sequential):
    """Layers in a row, of which residual blocks also see the code of time."""

    def forward(self, x: Tensor, code: Tensor | None) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x, code) if isinstance(layer, ResBlock) else layer(x)
        return x
