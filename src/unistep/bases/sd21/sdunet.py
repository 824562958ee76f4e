"""Stable Diffusion 2's UNet at one timestep with one prompt: all that depends on these two alone is folded.

What is gone (SD2.1: 53,434,560 of 865,910,724 parameters): the time embedding and its 22 projections, whose
constants join the bias of the convolution before them; keys and values of the prompt, which become constants.
A prompt of one token takes its 16 cross-attentions with it: a softmax over one key is 1, so each of them adds
one constant vector, which joins the bias before it (78,252,800 parameters).

Names of tensors are those of diffusers' UNet2DConditionModel.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import ModelError
from ...students.onestep import OneStep

FIXED: dict[str, Any] = {
    "act_fn": "silu", "addition_embed_type": None, "center_input_sample": False,
    "class_embed_type": None, "conv_in_kernel": 3, "conv_out_kernel": 3, "downsample_padding": 1,
    "dual_cross_attention": False, "encoder_hid_dim": None, "flip_sin_to_cos": True, "freq_shift": 0,
    "mid_block_scale_factor": 1, "mid_block_type": "UNetMidBlock2DCrossAttn", "norm_eps": 1e-5,
    "only_cross_attention": False, "num_class_embeds": None, "resnet_out_scale_factor": 1,
    "resnet_skip_time_act": False, "resnet_time_scale_shift": "default", "time_cond_proj_dim": None,
    "time_embedding_act_fn": None, "time_embedding_dim": None, "time_embedding_type": "positional",
    "timestep_post_act": None, "transformer_layers_per_block": 1, "use_linear_projection": True,
}  # fmt: skip
"""Entries of diffusers' configuration that make a UNet one of Stable Diffusion 2."""


@dataclass(frozen=True)
class UNetConfig:
    """The shape of a folded UNet."""

    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    """Channels of each level, finest first."""
    heads: tuple[int, ...] = (5, 10, 20, 20)
    """Attention heads of each level."""
    attends: tuple[bool, ...] = (True, True, True, False)
    """Which levels have attention; the middle block always has."""
    layers: int = 2
    """Residual blocks per level on the way down; one more on the way up."""
    groups: int = 32
    """Groups of every GroupNorm."""
    channels: int = 4
    """Channels of the latent."""
    tokens: int = 77
    """Length of the folded prompt; 1: no cross-attention is left."""
    skip: float = 1.0
    """z_hat = skip z + gain out: what the network's raw output means at its timestep."""
    gain: float = -1.0

    def __post_init__(self) -> None:
        def whole(value: object) -> bool:
            return type(value) is int and 1 <= value <= 65536

        lists = (self.widths, self.heads, self.attends)
        if (
            not all(map(whole, (*self.widths, *self.heads, self.groups, self.channels, self.tokens)))
            or {len(values) for values in lists} - {len(self.widths)}
            or not 1 <= len(self.widths) <= 8
            or type(self.layers) is not int
            or not 1 <= self.layers <= 16
            or not all(math.isfinite(value) for value in (self.skip, self.gain))
            or any(width % self.groups for width in self.widths)
            or any(width % heads for width, heads in zip(self.widths, self.heads, strict=True))
        ):
            raise ModelError(f"expected the shape of a UNet of Stable Diffusion 2, found {self}")

    @classmethod
    def of(cls, config: Mapping[str, Any], tokens: int, skip: float, gain: float) -> "UNetConfig":
        """From diffusers' configuration. Raises ModelError for a UNet that is not Stable Diffusion 2's."""
        whole = {"use_linear_projection": False, "out_channels": 4, **config}
        fixed = FIXED | {"out_channels": config.get("in_channels", 4)}
        other = [f"{key} {whole[key]}" for key, value in fixed.items() if whole.get(key, value) != value]
        kinds = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
        down, up = list(config.get("down_block_types", ())), list(config.get("up_block_types", ()))
        if not {*down} <= kinds.keys() or up != [kind.replace("Down", "Up") for kind in reversed(down)]:
            other.append(f"blocks {', '.join(map(str, down + up))}")
        if other:
            raise ModelError(
                f"expected the configuration of a UNet of Stable Diffusion 2, found {'; '.join(other)}"
            )
        heads = config.get("attention_head_dim", 8)
        return cls(
            widths=tuple(config["block_out_channels"]),
            heads=(heads,) * len(down) if isinstance(heads, int) else tuple(heads),
            attends=tuple(kinds[kind] for kind in down),
            layers=config.get("layers_per_block", 2),
            groups=config.get("norm_num_groups", 32),
            channels=config.get("in_channels", 4),
            tokens=tokens,
            skip=skip,
            gain=gain,
        )


def heads_apart(x: Tensor, heads: int) -> Tensor:
    """[B, L, heads d] -> [B, heads, L, d]."""
    return x.reshape(len(x), -1, heads, x.shape[-1] // heads).transpose(1, 2)


class Attention(nn.Module):
    """Attention of the pixels to each other, or to the constant keys and values of a prompt."""

    def __init__(self, width: int, heads: int, tokens: int = 0):
        super().__init__()
        self.heads, self.tokens = heads, tokens
        self.to_q = nn.Linear(width, width, bias=False)
        if tokens:
            self.k, self.v = (nn.Buffer(torch.empty(1, heads, tokens, width // heads)) for _ in range(2))
        else:
            self.to_k, self.to_v = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        q = heads_apart(self.to_q(x), self.heads)
        if self.tokens:
            k, v = (tensor.expand(len(x), -1, -1, -1) for tensor in (self.k, self.v))
        else:
            k, v = (heads_apart(to(x), self.heads) for to in (self.to_k, self.to_v))
        out: Tensor = self.to_out[0](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out


class GEGLU(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        gated: Tensor = value * F.gelu(gate)
        return gated


class FeedForward(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.net = nn.Sequential(GEGLU(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out


class TransformerBlock(nn.Module):
    def __init__(self, width: int, heads: int, tokens: int):
        super().__init__()
        self.norm1, self.attn1 = nn.LayerNorm(width), Attention(width, heads)
        self.crosses = tokens > 1
        if self.crosses:
            self.norm2, self.attn2 = nn.LayerNorm(width), Attention(width, heads, tokens)
        self.norm3, self.ff = nn.LayerNorm(width), FeedForward(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        if self.crosses:
            x = x + self.attn2(self.norm2(x))
        x = x + self.ff(self.norm3(x))
        return x


class Transformer(nn.Module):
    def __init__(self, width: int, heads: int, tokens: int, groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.proj_in, self.proj_out = nn.Linear(width, width), nn.Linear(width, width)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(width, heads, tokens)])

    def forward(self, x: Tensor) -> Tensor:
        h = self.proj_in(self.norm(x).permute(0, 2, 3, 1).flatten(1, 2))
        h = self.proj_out(self.transformer_blocks[0](h))
        out: Tensor = x + h.reshape(len(x), *x.shape[-2:], -1).permute(0, 3, 1, 2)
        return out


class ResBlock(nn.Module):
    def __init__(self, inputs: int, width: int, groups: int):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, inputs), nn.Conv2d(inputs, width, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(groups, width), nn.Conv2d(width, width, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inputs, width, 1) if inputs != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        out: Tensor = self.conv_shortcut(x) + h
        return out


class Resample(nn.Module):
    """The convolution of a change of size, under the name that diffusers gives it."""

    def __init__(self, width: int, stride: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class Level(nn.Module):
    """Residual blocks, with an attention after each where the level has them."""

    def __init__(self, inputs: list[int], level: int, config: UNetConfig):
        super().__init__()
        width, heads = config.widths[level], config.heads[level]
        self.resnets = nn.ModuleList(ResBlock(n, width, config.groups) for n in inputs)
        self.attentions = nn.ModuleList(
            Transformer(width, heads, config.tokens, config.groups) for _ in inputs if config.attends[level]
        )

    def at(self, i: int, x: Tensor) -> Tensor:
        x = self.resnets[i](x)
        return self.attentions[i](x) if self.attentions else x


class Down(Level):
    def __init__(self, inputs: list[int], level: int, config: UNetConfig):
        super().__init__(inputs, level, config)
        halved = level < len(config.widths) - 1
        self.downsamplers = nn.ModuleList([Resample(config.widths[level], 2)] if halved else [])

    def forward(self, x: Tensor) -> list[Tensor]:
        """All that the way up will meet again, the result last."""
        maps: list[Tensor] = []
        for i in range(len(self.resnets)):
            maps.append(x := self.at(i, x))
        return maps + [resample(x) for resample in self.downsamplers]


class Up(Level):
    def __init__(self, inputs: list[int], level: int, config: UNetConfig):
        super().__init__(inputs, level, config)
        self.upsamplers = nn.ModuleList([Resample(config.widths[level], 1)] if level else [])

    def forward(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        """Takes what it meets from the end of `skips`."""
        for i in range(len(self.resnets)):
            x = self.at(i, torch.cat([x, skips.pop()], dim=1))
        for resample in self.upsamplers:
            # To the size of what it will meet: an odd side has been rounded up on the way down.
            x = resample(F.interpolate(x, size=skips[-1].shape[-2:], mode="nearest"))
        return x


class Middle(nn.Module):
    def __init__(self, width: int, heads: int, config: UNetConfig):
        super().__init__()
        self.resnets = nn.ModuleList(ResBlock(width, width, config.groups) for _ in range(2))
        self.attentions = nn.ModuleList([Transformer(width, heads, config.tokens, config.groups)])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.resnets[1](self.attentions[0](self.resnets[0](x)))
        return out


class FoldedUNet(OneStep):
    """z -> z_hat in one call; latents of any size, odd ones too."""

    def __init__(self, config: UNetConfig | None = None):
        super().__init__()
        self.config = config = config or UNetConfig()
        widths, last = config.widths, len(config.widths) - 1
        self.conv_in = nn.Conv2d(config.channels, widths[0], 3, padding=1)
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        skips = [widths[0]]
        for level, width in enumerate(widths):
            inputs = [skips[-1], *[width] * (config.layers - 1)]
            self.down_blocks.append(Down(inputs, level, config))
            skips += [width] * (config.layers + (level < last))
        self.mid_block = Middle(widths[-1], config.heads[-1], config)
        before = widths[-1]
        for level in range(last, -1, -1):
            width = widths[level]
            inputs = [n + skips.pop() for n in (before, *[width] * config.layers)]
            self.up_blocks.append(Up(inputs, level, config))
            before = width
        self.conv_norm_out = nn.GroupNorm(config.groups, widths[0])
        self.conv_out = nn.Conv2d(widths[0], config.channels, 3, padding=1)

    def predict(self, z: Tensor) -> Tensor:
        """The network's raw output [B, C, h, w], in its own dtype."""
        skips = [self.conv_in(z.to(self.conv_in.weight.dtype))]
        for down in self.down_blocks:
            skips += down(skips[-1])
        x = self.mid_block(skips[-1])
        for up in self.up_blocks:
            x = up(x, skips)
        out: Tensor = self.conv_out(F.silu(self.conv_norm_out(x)))
        return out

    def forward(self, z: Tensor, image: Tensor | None = None) -> Tensor:
        return self.config.skip * z.float() + self.config.gain * self.predict(z).float()


def fold(state: Mapping[str, Tensor], config: UNetConfig, t: float, prompt: Tensor) -> dict[str, Tensor]:
    """The tensors of `FoldedUNet(config)` from those of a whole UNet2DConditionModel of that shape.

    t: the timestep as the network was trained to see it. prompt [1, tokens, D]: the text encoder's output.
    What is folded becomes float32; the other tensors are returned as they are.
    """
    kept = dict(state)

    def take(name: str, x: Tensor) -> Tensor:
        """x through a linear layer, which is then gone."""
        bias = kept.pop(f"{name}.bias", None)
        return F.linear(x, kept.pop(f"{name}.weight").float(), None if bias is None else bias.float())

    half = state["time_embedding.linear_1.weight"].shape[1] // 2
    phase = t * torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
    embedding = torch.cat([phase.cos(), phase.sin()])
    for name in ("time_embedding.linear_1", "time_embedding.linear_2"):
        embedding = F.silu(take(name, embedding))
    with torch.device("meta"):
        net = FoldedUNet(config)
    for name, module in net.named_modules():
        if isinstance(module, ResBlock):
            bias = kept[f"{name}.conv1.bias"]
            kept[f"{name}.conv1.bias"] = bias.float() + take(f"{name}.time_emb_proj", embedding)
        elif isinstance(module, TransformerBlock):
            heads, attn2 = module.attn1.heads, f"{name}.attn2"
            k, v = (take(f"{attn2}.to_{letter}", prompt.float()) for letter in "kv")
            if module.crosses:
                kept[f"{attn2}.k"], kept[f"{attn2}.v"] = (heads_apart(x, heads).contiguous() for x in (k, v))
            else:
                bias = kept[f"{name}.attn1.to_out.0.bias"]
                kept[f"{name}.attn1.to_out.0.bias"] = bias.float() + take(f"{attn2}.to_out.0", v[0, 0])
                for gone in ("attn2.to_q.weight", "norm2.weight", "norm2.bias"):
                    del kept[f"{name}.{gone}"]
    return kept
