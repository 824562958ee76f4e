"""Stable Diffusion 3's transformer at one timestep with one prompt: all that depends on these two is folded.

What is gone (SD3-medium: 689,754,624 parameters, 34 %): the embeddings of time and pooled text, the
modulations of every norm, whose constants become its weight and bias, and the projection of the prompt, which
becomes a constant. Beyond these, the first block's queries, keys and values of the prompt are constants too,
and the last block has no queries for it, since nothing reads what they would answer.

Architecture: Esser et al. 2024, arXiv 2403.03206, Fig. 2.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import ConfigError, ModelError
from ...students.onestep import OneStep

T_FAR = 1000.0
"""The timestep of sigma = 1."""


@dataclass(frozen=True)
class MMDiTConfig:
    """The shape of a folded transformer."""

    layers: int = 24
    heads: int = 24
    head: int = 64
    """Channels of each attention head."""
    channels: int = 16
    """Of the latent."""
    patch: int = 2
    """Latents per token side."""
    tokens: int = 333
    """Length of the folded prompt."""
    grid: int = 192
    """Tokens per side of the table of positions; every picture takes its centre."""
    span: int = 64
    """The coordinate at the far side of that table."""

    def __post_init__(self) -> None:
        # The limits also keep a forged header from taking all memory.
        limits = {"layers": 64, "heads": 64, "head": 256, "channels": 64, "patch": 8}
        for name, most in {**limits, "tokens": 4096, "grid": 4096, "span": 4096}.items():
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise ModelError(f"expected {name} of an SD3 transformer from 1 to {most}, found {value}")
        if self.width % 4:
            raise ModelError(f"expected the width of an SD3 transformer in fours, found {self.width}")

    @property
    def width(self) -> int:
        return self.heads * self.head

    @classmethod
    def of(cls, config: Mapping[str, Any], tokens: int) -> "MMDiTConfig":
        """From diffusers' config.json. Raises ModelError for another transformer (SD 3.5, Flux, ...)."""
        try:
            own = cls(
                layers=config["num_layers"], heads=config["num_attention_heads"],
                head=config["attention_head_dim"], channels=config["in_channels"],
                patch=config["patch_size"], tokens=tokens, grid=config["pos_embed_max_size"],
                span=config["sample_size"] // config["patch_size"],
            )  # fmt: skip
        except (KeyError, TypeError, ZeroDivisionError) as error:
            raise ModelError(
                f"expected the configuration of an SD3 transformer, found another ({error!r}); give the "
                "folder of SD3-medium in the diffusers layout"
            ) from error
        wanted = {"out_channels": own.channels, "caption_projection_dim": own.width, "qk_norm": None,
                  "dual_attention_layers": ()}  # fmt: skip
        for name, value in wanted.items():
            found = config.get(name) or None
            if found is not None and found != (value or None):
                raise ModelError(
                    f"expected {name} of the transformer to be {value or 'none'}, as in SD3-medium, found "
                    f"{found}; SD 3.5 and others are not supported: take SD3-medium"
                )
        return own


def positions(height: int, width: int, config: MMDiTConfig, device: torch.device | str = "cpu") -> Tensor:
    """[height width, D]: sines and cosines of the tokens' places, float32.

    The centre of the table of `config.grid`^2 places; a larger picture goes on beyond its edges.
    """
    # The angles need more than float32, which MPS lacks.
    dtype = torch.float32 if torch.device(device).type == "mps" else torch.float64
    quarter = config.width // 4
    omega = 10000 ** -(torch.arange(quarter, device=device, dtype=dtype) / quarter)

    def line(length: int) -> Tensor:
        place = torch.arange(length, device=device, dtype=torch.float32) + (config.grid - length) // 2
        angle = torch.outer((place / (config.grid / config.span)).to(dtype), omega)
        return torch.cat([angle.sin(), angle.cos()], dim=1).float()

    rows, columns = line(height)[:, None], line(width)[None]
    shape = (height, width, -1)
    return torch.cat([columns.expand(shape), rows.expand(shape)], dim=2).flatten(0, 1)


class Stream(nn.Module):
    """One block's layers for one kind of token, picture or prompt, whose modulations are constants."""

    def __init__(self, width: int, reads: int = 3, answers: bool = True):
        """reads: 3 for queries, keys and values, 2 without queries, 0 for none; answers: has an output."""
        super().__init__()
        if reads:
            self.norm1 = nn.LayerNorm(width, eps=1e-6)
            self.to_qkv = nn.Linear(width, reads * width)
        if answers:
            self.to_out = nn.Linear(width, width)
            self.gate1 = nn.Buffer(torch.empty(width))
            self.norm2 = nn.LayerNorm(width, eps=1e-6)
            self.up = nn.Linear(width, 4 * width)
            self.down = nn.Linear(4 * width, width)
            self.gate2 = nn.Buffer(torch.empty(width))

    def qkv(self, x: Tensor) -> Tensor:
        out: Tensor = self.to_qkv(self.norm1(x))
        return out

    def forward(self, x: Tensor, attended: Tensor) -> Tensor:
        x = torch.addcmul(x, self.gate1, self.to_out(attended))
        return torch.addcmul(x, self.gate2, self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh")))


class Block(nn.Module):
    """Joint attention of picture and prompt, then a feed-forward network for each."""

    def __init__(self, config: MMDiTConfig, first: bool, last: bool):
        super().__init__()
        self.heads, self.head, self.last = config.heads, config.head, last
        self.image = Stream(config.width)
        self.context = Stream(config.width, 0 if first else 2 if last else 3, not last)

    def forward(self, x: Tensor, c: Tensor | None, qkv: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """x [B, N, D], c [B, L, D] -> both after this block. qkv [B, L, 3 D]: given instead of computed."""
        own = self.image.qkv(x)
        other = self.context.qkv(cast(Tensor, c)) if qkv is None else qkv
        width, count = x.shape[2], x.shape[1]
        joint = torch.cat([own[..., own.shape[2] - other.shape[2] :], other], dim=1)
        query = own if self.last else joint
        parts = (query[..., :width], *joint[..., -2 * width :].chunk(2, dim=2))
        q, k, v = (p.reshape(*p.shape[:2], self.heads, self.head).transpose(1, 2) for p in parts)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = self.image(x, attended[:, :count])
        return x, None if self.last else self.context(c, attended[:, count:])


class FoldedMMDiT(OneStep):
    """z_hat = z - v(z): TSD-SR's one step, at sigma = 1."""

    def __init__(self, config: MMDiTConfig):
        super().__init__()
        self.config, self.multiple = config, config.patch
        width, last = config.width, config.layers - 1
        self.proj_in = nn.Conv2d(config.channels, width, config.patch, config.patch)
        self.context = nn.Buffer(torch.empty(1, config.tokens, width)) if last else None
        self.qkv = nn.Buffer(torch.empty(1, config.tokens, (3 if last else 2) * width))
        self.blocks = nn.ModuleList(Block(config, i == 0, i == last) for i in range(config.layers))
        self.norm_out = nn.LayerNorm(width, eps=1e-6)
        self.proj_out = nn.Linear(width, config.patch**2 * config.channels)

    def forward(self, z: Tensor, image: Tensor | None = None) -> Tensor:
        batch, channels, height, width = z.shape
        p = self.config.patch
        if height % p or width % p:
            raise ConfigError(
                f"expected a latent with sides in multiples of {p}, found {height} x {width}; pad it"
            )
        rows, columns = height // p, width // p
        x = self.proj_in(z.to(self.proj_in.weight.dtype)).flatten(2).transpose(1, 2)
        x = x + positions(rows, columns, self.config, z.device).to(x.dtype)
        c = None if self.context is None else self.context.expand(batch, -1, -1)
        qkv: Tensor | None = self.qkv.expand(batch, -1, -1)
        for block in self.blocks:
            x, c = block(x, c, qkv)
            qkv = None
        v: Tensor = self.proj_out(self.norm_out(x)).view(batch, rows, columns, p, p, channels)
        v = v.permute(0, 5, 1, 3, 2, 4).reshape(z.shape)
        return z.float() - v.float()


def condition(state: Mapping[str, Tensor], t: float, pooled: Tensor) -> Tensor:
    """[1, D]: what modulates every norm at timestep t with the pooled text [1, P]."""

    def mlp(name: str, x: Tensor) -> Tensor:
        return linear(state, f"{name}.linear_2", F.silu(linear(state, f"{name}.linear_1", x)))

    angle = t * torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float32) / 128)
    time = torch.cat([angle.cos(), angle.sin()])[None]
    return mlp("time_text_embed.timestep_embedder", time) + mlp(
        "time_text_embed.text_embedder", pooled.float()
    )


def linear(state: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    """That layer of `state` on x, in float32."""
    return F.linear(x, state[f"{name}.weight"].float(), state[f"{name}.bias"].float())


def fold(
    state: Mapping[str, Tensor], config: MMDiTConfig, prompt: Tensor, pooled: Tensor, t: float = T_FAR
) -> dict[str, Tensor]:
    """The tensors of FoldedMMDiT from those of diffusers' SD3Transformer2DModel, LoRA merged.

    prompt [1, tokens, D_text], pooled [1, P]. Constants are computed in float32; weights keep their dtype.
    """
    active = F.silu(condition(state, t, pooled))
    out: dict[str, Tensor] = {}

    def constants(name: str, parts: int) -> tuple[Tensor, ...]:
        return linear(state, f"{name}.linear", active)[0].chunk(parts)

    def put(name: str, *sources: str) -> None:
        for kind in ("weight", "bias"):
            out[f"{name}.{kind}"] = torch.cat([state[f"{source}.{kind}"] for source in sources])

    def norm(name: str, scale: Tensor, shift: Tensor) -> None:
        out[f"{name}.weight"], out[f"{name}.bias"] = 1 + scale, shift

    def stream(name: str, source: str, norm1: str, qkv: str, to_out: str, ff: str, last: bool) -> None:
        if last:
            scale, shift = constants(f"{source}.{norm1}", 2)
        else:
            shift, scale, gate1, shift2, scale2, gate2 = constants(f"{source}.{norm1}", 6)
            norm(f"{name}.norm2", scale2, shift2)
            out[f"{name}.gate1"], out[f"{name}.gate2"] = gate1, gate2
            put(f"{name}.to_out", f"{source}.attn.{to_out}")
            put(f"{name}.up", f"{source}.{ff}.net.0.proj")
            put(f"{name}.down", f"{source}.{ff}.net.2")
        norm(f"{name}.norm1", scale, shift)
        put(f"{name}.to_qkv", *(f"{source}.attn.{qkv.format(x)}" for x in ("kv" if last else "qkv")))

    put("proj_in", "pos_embed.proj")
    for i in range(config.layers):
        block, source = f"blocks.{i}", f"transformer_blocks.{i}"
        stream(f"{block}.image", source, "norm1", "to_{}", "to_out.0", "ff", last=False)
        stream(f"{block}.context", source, "norm1_context", "add_{}_proj", "to_add_out", "ff_context",
               last=i == config.layers - 1)  # fmt: skip
    norm("norm_out", *constants("norm_out", 2))
    put("proj_out", "proj_out")
    context = linear(state, "context_embedder", prompt.float())
    weight, bias = (out.pop(f"blocks.0.context.norm1.{kind}") for kind in ("weight", "bias"))
    normed = F.layer_norm(context, (config.width,), weight, bias, 1e-6)
    out["qkv"] = linear(out, "blocks.0.context.to_qkv", normed)
    del out["blocks.0.context.to_qkv.weight"], out["blocks.0.context.to_qkv.bias"]
    return out | ({"context": context} if config.layers > 1 else {})
