"""VQ autoencoders (VQGAN, Esser et al. 2021, arXiv 2012.09841): f4, and f8 for faces.

Module names are those of the released state dicts. `encode` does not quantise, `decode` does: the denoiser
works on what lies between the codes.
"""

import dataclasses
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError, ModelError

ROWS = 4096
"""Latent vectors that are compared with the codebook at once: bounds the matrix of distances."""


@dataclass(frozen=True)
class VQConfig:
    """The shape of an autoencoder; the defaults are VQ-f4's."""

    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 4)
    num_res_blocks: tuple[int, ...] = (2, 2, 2)
    """Residual blocks of each level of the encoder; the decoder has one more in each."""
    z_channels: int = 3
    embed_dim: int = 3
    n_embed: int = 8192
    in_channels: int = 3
    out_ch: int = 3

    def __post_init__(self) -> None:
        # A header gives lists. The limits also keep a forged one from taking all memory.
        object.__setattr__(self, "ch_mult", tuple(self.ch_mult))
        object.__setattr__(self, "num_res_blocks", tuple(self.num_res_blocks))
        good = (
            self.ch in range(32, 513, 32)
            and 1 <= len(self.ch_mult) == len(self.num_res_blocks) <= 6
            and all(1 <= m <= 16 for m in self.ch_mult)
            and all(1 <= n <= 8 for n in self.num_res_blocks)
            and all(1 <= n <= 64 for n in (self.z_channels, self.embed_dim, self.in_channels, self.out_ch))
            and 1 <= self.n_embed <= 2**17
        )
        if not good:
            raise ConfigError(f"expected the sizes of a VQ autoencoder, found {dataclasses.asdict(self)}")

    @property
    def factor(self) -> int:
        """Pixels per latent side."""
        return int(2 ** (len(self.ch_mult) - 1))

    @classmethod
    def infer(cls, state: Mapping[str, Tensor]) -> "VQConfig":
        """The shape that a state dict has. Raises ModelError if it is not one of a VQ autoencoder."""
        try:
            levels = _count(state, "encoder.down.{}.block.0.conv1.weight")
            ch = state["encoder.conv_in.weight"].shape[0]
            widths = [state[f"encoder.down.{i}.block.0.conv1.weight"].shape[0] for i in range(levels)]
            n_embed, embed_dim = state["quantize.embedding.weight"].shape
            return cls(
                ch=ch,
                ch_mult=tuple(width // ch for width in widths),
                num_res_blocks=tuple(
                    _count(state, f"encoder.down.{i}.block.{{}}.conv1.weight") for i in range(levels)
                ),
                z_channels=state["encoder.conv_out.weight"].shape[0],
                embed_dim=embed_dim,
                n_embed=n_embed,
                in_channels=state["encoder.conv_in.weight"].shape[1],
                out_ch=state["decoder.conv_out.weight"].shape[0],
            )
        except (KeyError, ValueError, ConfigError) as error:
            raise ModelError(
                f"expected the state dict of a VQ autoencoder, found {len(state)} tensors ({error})"
            ) from error


def _count(state: Mapping[str, Tensor], name: str) -> int:
    n = 0
    while name.format(n) in state:
        n += 1
    return n


def norm(channels: int) -> nn.GroupNorm:
    """GroupNorm of these autoencoders."""
    return nn.GroupNorm(32, channels, eps=1e-6)


class ResnetBlock(nn.Module):
    """Two 3x3 convolutions, each after GroupNorm and SiLU; a 1x1 one on the way past where widths differ."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.norm1 = norm(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2 = norm(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        if c_in != c_out:
            self.nin_shortcut = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        out: Tensor = (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + h
        return out


class AttnBlock(nn.Module):
    """Attention of one head over all positions; 1x1 convolutions project."""

    def __init__(self, c: int):
        super().__init__()
        self.norm = norm(c)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(c, c, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (part(h).flatten(2).transpose(1, 2).unsqueeze(1) for part in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q, k, v).squeeze(1).transpose(1, 2).reshape(x.shape)
        out: Tensor = x + self.proj_out(h)
        return out


class Downsample(nn.Sequential):
    """Halves: a 3x3 convolution of stride 2 that is padded at the right and bottom only."""

    def __init__(self, c: int):
        super().__init__(OrderedDict(pad=nn.ZeroPad2d((0, 1, 0, 1)), conv=nn.Conv2d(c, c, 3, stride=2)))


class Upsample(nn.Sequential):
    """Doubles: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, c: int):
        super().__init__(OrderedDict(grow=nn.Upsample(scale_factor=2.0), conv=nn.Conv2d(c, c, 3, padding=1)))


class Level(nn.Module):
    """The residual blocks of one resolution, then the way to the next: `downsample`, `upsample` or none."""

    def __init__(self, c_in: int, c_out: int, blocks: int, **way: nn.Module):
        super().__init__()
        self.block = nn.ModuleList(ResnetBlock(c_in if j == 0 else c_out, c_out) for j in range(blocks))
        for name, module in way.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        for name in ("downsample", "upsample"):
            if name in self._modules:
                x = getattr(self, name)(x)
        return x


class Mid(nn.Sequential):
    """Attention between two residual blocks, at the coarsest resolution."""

    def __init__(self, c: int):
        parts = {"block_1": ResnetBlock(c, c), "attn_1": AttnBlock(c), "block_2": ResnetBlock(c, c)}
        super().__init__(OrderedDict(parts))


class Encoder(nn.Module):
    """[B, 3, H, W], sides multiples of the factor -> [B, z_channels, H / factor, W / factor]."""

    def __init__(self, config: VQConfig):
        super().__init__()
        widths = [config.ch * m for m in config.ch_mult]
        self.conv_in = nn.Conv2d(config.in_channels, config.ch, 3, padding=1)
        self.down = nn.ModuleList()
        for i, (c_in, c) in enumerate(zip([config.ch, *widths], widths, strict=False)):
            way = {"downsample": Downsample(c)} if i < len(widths) - 1 else {}
            self.down.append(Level(c_in, c, config.num_res_blocks[i], **way))
        self.mid = Mid(widths[-1])
        self.norm_out = norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        out: Tensor = self.conv_out(F.silu(self.norm_out(self.mid(h))))
        return out


class Decoder(nn.Module):
    """[B, z_channels, h, w] -> [B, 3, factor h, factor w]; `up` counts from the finest, runs backwards."""

    def __init__(self, config: VQConfig):
        super().__init__()
        widths = [config.ch * m for m in config.ch_mult]
        self.conv_in = nn.Conv2d(config.z_channels, widths[-1], 3, padding=1)
        self.mid = Mid(widths[-1])
        self.up = nn.ModuleList()
        for i, (c_in, c) in enumerate(zip([*widths[1:], widths[-1]], widths, strict=True)):
            way = {"upsample": Upsample(c)} if i > 0 else {}
            self.up.append(Level(c_in, c, config.num_res_blocks[i] + 1, **way))
        self.norm_out = norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], config.out_ch, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for i in reversed(range(len(self.up))):
            h = self.up[i](h)
        out: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return out


class Quantize(nn.Module):
    """Every latent vector becomes the nearest one of the codebook, by squared distance."""

    def __init__(self, n_embed: int, embed_dim: int):
        super().__init__()
        # Embedding's own start is normal, which on the meta device imports half of torch for seconds
        codes = torch.empty(n_embed, embed_dim).uniform_(-1, 1)
        self.embedding = nn.Embedding(n_embed, embed_dim, _weight=codes)

    def indices(self, z: Tensor) -> Tensor:
        """z [B, C, h, w] -> [B, h, w] int64. Distances are float32: half precision confuses neighbours."""
        codes = self.embedding.weight.float()
        norms = (codes**2).sum(1)
        rows = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1]).float()
        # |z - e|^2 less |z|^2, which is the same for all codes
        parts = torch.split(rows, ROWS)
        nearest = [torch.addmm(norms, part, codes.T, alpha=-2).argmin(1) for part in parts]
        return torch.cat(nearest).view(len(z), *z.shape[2:])

    def forward(self, z: Tensor) -> Tensor:
        """z [B, C, h, w] -> the same shape; gradients pass straight through (van den Oord et al. 2017)."""
        q: Tensor = self.embedding(self.indices(z.detach())).permute(0, 3, 1, 2).to(z.dtype)
        return z + (q - z).detach() if z.requires_grad else q


class VQ(nn.Module):
    """Encoder, codebook and decoder; images are about [-1, 1], latents have no scale of their own."""

    def __init__(self, config: VQConfig | None = None):
        super().__init__()
        self.config = config or VQConfig()
        self.encoder, self.decoder = Encoder(self.config), Decoder(self.config)
        self.quantize = Quantize(self.config.n_embed, self.config.embed_dim)
        self.quant_conv = nn.Conv2d(self.config.z_channels, self.config.embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(self.config.embed_dim, self.config.z_channels, 1)

    def encode(self, x: Tensor) -> Tensor:
        """x [B, 3, H, W], sides multiples of the factor -> z [B, embed_dim, h, w], not quantised."""
        z: Tensor = self.quant_conv(self.encoder(x))
        return z

    def decode(self, z: Tensor) -> Tensor:
        """z [B, embed_dim, h, w], which is quantised first -> [B, 3, H, W], not clipped."""
        x: Tensor = self.decoder(self.post_quant_conv(self.quantize(z)))
        return x
