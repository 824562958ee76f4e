"""ResShift's denoiser: a UNet of residual blocks and Swin layers (arXiv 2307.12348; Swin: arXiv 2103.14030).

Module names are those of the released state dicts. The released weights need what differs from Swin:

- the mask of shifted windows covers only the last row of windows and splits it by column (`last_row_mask`);
- the norms are GroupNorm over the whole map, not LayerNorm of each position;
- nothing goes past a Swin layer: it replaces its input;
- windows are not shifted where the map had one window at the size the network was built for;
- time is an integer 0..T-1, its code has the cosines first.

So a map's statistics enter everywhere: tiles are not exact, and a network is built for one `image_size`.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...autoencoder.vq import Upsample
from ...errors import ConfigError, ModelError
from .swin_blocks import Block, Downsample, ResBlock, SwinBlock, SwinLayer, norm

PERIOD = 10_000
"""The longest period of the code of time."""
LQ_WIDTH = 16
"""Channels of the first stage that brings a larger low-quality image to the latent's size."""
BUFFERS = ("relative_position_index", "attn_mask")
"""Ends of names in released state dicts that follow from the shape: left out here."""


@dataclass(frozen=True)
class SwinConfig:
    """The shape of a network; the defaults are those of the x4 models."""

    model_channels: int = 160
    channel_mult: tuple[int, ...] = (1, 2, 2, 4)
    num_res_blocks: tuple[int, ...] = (2, 2, 2, 2)
    """Residual blocks of each level of the encoder; the decoder has one more in each."""
    channels: int = 3
    """Of the latent: of the input without the image, and of the output."""
    image_size: int = 64
    """Side of the latents that the network was built for: says where windows are shifted, and their size."""
    lq_size: int = 64
    """Side of the low-quality image that goes with it: `image_size` times a power of two."""
    window_size: int = 8
    swin_embed_dim: int = 192
    swin_depth: int = 2
    heads: int = 6
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        # A header gives lists. The limits also keep a forged one from taking all memory.
        object.__setattr__(self, "channel_mult", tuple(self.channel_mult))
        object.__setattr__(self, "num_res_blocks", tuple(self.num_res_blocks))
        good = (
            self.model_channels in range(32, 1025, 32)
            and 1 <= len(self.channel_mult) == len(self.num_res_blocks) <= 6
            and all(1 <= m <= 16 for m in self.channel_mult)
            and all(1 <= n <= 8 for n in self.num_res_blocks)
            and 1 <= self.channels <= 64
            and self.image_size in range(2 ** (len(self.channel_mult) - 1), 4097)
            and self.lq_size in [self.image_size << k for k in range(6)]
            and 1 <= self.window_size <= 64
            and self.swin_embed_dim in range(32, 2049, 32)
            and 1 <= self.swin_depth <= 16
            and 1 <= self.heads <= 64
            and self.swin_embed_dim % self.heads == 0
            and 1 <= self.mlp_ratio <= 16
        )
        if not good:
            raise ConfigError(f"expected the sizes of a Swin-UNet, found {dataclasses.asdict(self)}")

    def side(self, level: int) -> int:
        """Of the map at a level, at the size the network was built for."""
        return self.image_size >> level

    def window(self, level: int) -> int:
        """Side of the windows at a level: one window where the map is no larger."""
        return min(self.window_size, self.side(level))

    def shift(self, level: int) -> int:
        """By how much every second Swin block moves its windows; fixed when the network is built."""
        return self.window_size // 2 if self.side(level) > self.window_size else 0

    @property
    def lq_stages(self) -> int:
        """Stages that halve the low-quality image."""
        return (self.lq_size // self.image_size).bit_length() - 1

    @property
    def multiple(self) -> int:
        """Sides of the latent must be multiples of it, so that windows cover the map of every level."""
        return math.lcm(*(self.window(level) << level for level in range(len(self.channel_mult))))

    @classmethod
    def infer(cls, state: Mapping[str, Tensor], image_size: int | None = None) -> "SwinConfig":
        """The shape of a state dict, without prefixes of wrappers, with or without `BUFFERS`.

        image_size: None: told by the masks of shifted windows, or by there being none; without `BUFFERS` by
        the coarsest windows if they are smaller than the finest, otherwise 64.

        Raises ModelError if it is not one of a Swin-UNet, or if its masks are those of another size.
        """
        try:
            blocks = _levels(state)
            widths = [state[f"input_blocks.{ns[0]}.0.out_layers.3.weight"].shape[0] for ns in blocks]
            swin = [f"input_blocks.{ns[0]}.1" for ns in blocks]
            tables = [state[f"{name}.blocks.0.attn.relative_position_bias_table"].shape for name in swin]
            windows = [(math.isqrt(rows) + 1) // 2 for rows, _ in tables]
            if image_size is None:
                image_size = _image_size(state, f"{swin[0]}.blocks", windows)
            width, entering = state["input_blocks.0.0.weight"].shape[:2]
            channels = state["out.2.weight"].shape[0]
            stages = {3: 0, **{LQ_WIDTH << k: k for k in range(1, 6)}}[entering - channels]
            depth = 0
            while f"{swin[0]}.blocks.{depth}.norm1.weight" in state:
                depth += 1
            embed = state[f"{swin[0]}.patch_embed.proj.weight"].shape[0]
            config = cls(
                model_channels=width,
                channel_mult=tuple(w // width for w in widths),
                num_res_blocks=tuple(len(ns) for ns in blocks),
                channels=channels,
                image_size=image_size,
                lq_size=image_size << stages,
                window_size=windows[0],
                swin_embed_dim=embed,
                swin_depth=depth,
                heads=tables[0][1],
                mlp_ratio=state[f"{swin[0]}.blocks.0.mlp.fc1.weight"].shape[0] // embed,
            )
        except (KeyError, IndexError, ValueError, ConfigError) as error:
            raise ModelError(
                f"expected the state dict of ResShift's Swin-UNet, found {len(state)} tensors ({error!r})"
            ) from error
        _check_buffers(state, config)
        return config


def _image_size(state: Mapping[str, Tensor], finest: str, windows: list[int]) -> int:
    """What `infer` says of it. finest: the name of the first Swin blocks; windows: their sides by level."""
    mask, buffers = state.get(f"{finest}.1.attn_mask"), f"{finest}.1.attn.relative_position_index" in state
    if mask is not None:
        return math.isqrt(mask.shape[0]) * windows[0]
    if windows[-1] < windows[0]:
        return windows[-1] << (len(windows) - 1)
    return windows[0] if buffers else 64


def _check_buffers(state: Mapping[str, Tensor], config: SwinConfig) -> None:
    """Raises ModelError unless those of `BUFFERS` that a state dict has are of this shape's network."""
    found = {name: list(tensor.shape) for name, tensor in state.items() if name.endswith(BUFFERS)}
    if not found:
        return
    with torch.device("meta"):
        net = SwinUNet(config)
    wanted = {name: list(tensor.shape) for name, tensor in complete(net).items()}
    for name, shape in found.items():
        if shape != wanted.get(name):
            raise ModelError(
                f"expected a network for latents of side {config.image_size}, in which {name} is "
                f"{wanted.get(name, 'absent')}, found {shape}; the file is damaged or mixed"
            )


def _levels(state: Mapping[str, Tensor]) -> list[list[int]]:
    """Numbers of the residual blocks in each level of the encoder of a state dict."""
    levels: list[list[int]] = [[]]
    n = 1
    while True:
        if f"input_blocks.{n}.0.out_layers.3.weight" in state:
            levels[-1].append(n)
        elif f"input_blocks.{n}.0.op.weight" in state:
            levels.append([])
        else:
            return levels
        n += 1


def unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A released state dict without prefixes of wrappers."""
    own = {}
    for name, tensor in state.items():
        while name.startswith(("module.", "_orig_mod.")):
            name = name.split(".", 1)[1]
        own[name] = tensor
    return own


def official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A released state dict without prefixes of wrappers and without what follows from the shape."""
    return {name: tensor for name, tensor in unwrapped(state).items() if not name.endswith(BUFFERS)}


def time_code(t: Tensor, width: int) -> Tensor:
    """t [B], whole numbers -> [B, width]: cosines, then sines, of periods from 2 pi to 10000 times that."""
    half = width // 2
    rate = torch.exp(-math.log(PERIOD) / half * torch.arange(half, device=t.device, dtype=torch.float32))
    angle = t.float()[:, None] * rate
    return torch.cat([angle.cos(), angle.sin()], dim=1)


class SwinUNet(nn.Module):
    """(x, image, t) -> what stands for z_0; without time once it is folded (`fold`)."""

    checkpointing = False
    """Blocks are computed again in the backward pass instead of kept."""

    def __init__(self, config: SwinConfig | None = None, folded: bool = False):
        super().__init__()
        self.config = config = config or SwinConfig()
        base = config.model_channels
        code = None if folded else 4 * base
        if code is not None:
            self.time_embed = nn.Sequential(nn.Linear(base, code), nn.SiLU(), nn.Linear(code, code))
        self.feature_extractor, shown = self._feature_extractor(config.lq_stages)
        widths = [base * m for m in config.channel_mult]
        c, last = base, len(widths) - 1
        self.input_blocks = nn.ModuleList([Block(nn.Conv2d(config.channels + shown, c, 3, padding=1))])
        skips = [c]
        for level, width in enumerate(widths):
            for n in range(config.num_res_blocks[level]):
                swin = [self._swin(width, level)] if n == 0 else []
                self.input_blocks.append(Block(ResBlock(c, width, code), *swin))
                skips.append(c := width)
            if level < last:
                self.input_blocks.append(Block(Downsample(c, c)))
                skips.append(c)
        self.middle_block = Block(ResBlock(c, c, code), self._swin(c, last), ResBlock(c, c, code))
        self.output_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for n in range(config.num_res_blocks[level] + 1):
                layers: list[nn.Module] = [ResBlock(c + skips.pop(), c := width, code)]
                if n == 0:
                    layers.append(self._swin(c, level))
                if level > 0 and n == config.num_res_blocks[level]:
                    layers.append(Upsample(c))
                self.output_blocks.append(Block(*layers))
        self.out = nn.Sequential(norm(c), nn.SiLU(), nn.Conv2d(c, config.channels, 3, padding=1))

    def _swin(self, c: int, level: int) -> SwinLayer:
        """A Swin layer; every second block is shifted."""
        config = self.config
        width, shift = config.swin_embed_dim, config.shift(level)
        return SwinLayer(c, width, [
            SwinBlock(width, config.heads, config.window(level), shift * (k % 2), config.mlp_ratio)
            for k in range(config.swin_depth)
        ])  # fmt: skip

    @staticmethod
    def _feature_extractor(stages: int) -> tuple[nn.Sequential, int]:
        """What brings the image to the latent's size, and the channels that it gives."""
        layers: list[nn.Module] = []
        c, width = 3, LQ_WIDTH
        for _ in range(stages):
            layers += [nn.Conv2d(c, width, 3, padding=1), nn.SiLU(), Downsample(width, 2 * width)]
            c = width = 2 * width
        return nn.Sequential(*layers), c

    def encode(self, x: Tensor, image: Tensor, code: Tensor | None) -> list[Tensor]:
        """Outputs of all input blocks and, last, of the middle block."""
        h = torch.cat([x, self.feature_extractor(image)], dim=1)
        hs = []
        for block in self.input_blocks:
            hs.append(h := self._run(block, h, code))
        return [*hs, self._run(self.middle_block, h, code)]

    def _run(self, block: nn.Module, h: Tensor, code: Tensor | None) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            out: Tensor = checkpoint(block, h, code, use_reentrant=False, preserve_rng_state=False)
        else:
            out = block(h, code)
        return out

    def code(self, t: Tensor) -> Tensor:
        """t [B], whole numbers from 0 -> [B, 4 model_channels], in the dtype of the weights."""
        out: Tensor = self.time_embed(time_code(t, self.config.model_channels).to(self.dtype))
        return out

    @property
    def taps(self) -> dict[int, int]:
        """Index in what `encode` gives -> channels: every downsampling, the last input block, the middle."""
        widths = [self.config.model_channels * m for m in self.config.channel_mult]
        ways = [n for n, block in enumerate(self.input_blocks) if isinstance(block[0], Downsample)]  # type: ignore[index]
        last = len(self.input_blocks) - 1
        return dict(zip([*ways, last, last + 1], [*widths, widths[-1]], strict=True))

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        dtype: torch.dtype = self.input_blocks[0][0].weight.dtype  # type: ignore[index]
        return dtype

    def forward(self, x: Tensor, image: Tensor, t: Tensor | None = None) -> Tensor:
        """x [B, C, h, w], sides multiples of `config.multiple`; scaled, unless that is folded in.

        image [B, 3, H, W] in [-1, 1], H / h = lq_size / image_size; t [B], None if folded.
        """
        code = None if t is None else self.code(t)
        *skips, h = self.encode(x, image, code)
        for block in self.output_blocks:
            h = self._run(block, torch.cat([h, skips.pop()], dim=1), code)
        out: Tensor = self.out(h)
        return out


def complete(net: SwinUNet) -> dict[str, Tensor]:
    """What `official` leaves out: the authors' loaders ask for it, although their networks do not use it."""
    found, level = {}, 0
    for name, block in net.named_modules():
        if isinstance(block, SwinBlock):
            attn, rows = block.attn, net.config.side(level) // block.attn.window
            found[f"{name}.attn.relative_position_index"] = attn.get_buffer("index")
            if attn.shift:
                masks = torch.zeros(rows, rows, attn.window**2, attn.window**2)
                masks[-1] = attn.get_buffer("mask")
                found[f"{name}.attn_mask"] = masks.flatten(0, 1)
        level += isinstance(block, Downsample) and name.startswith("input_blocks")
        level -= isinstance(block, Upsample)
    return found


@torch.no_grad()
def fold(state: Mapping[str, Tensor], config: SwinConfig, t: int, gain: float) -> dict[str, Tensor]:
    """The tensors of the network at the one time t, whose input is to be multiplied by `gain`; float32.

    Scale and shift of each residual block go into the norm before them, `gain` into the first convolution:
    nothing is left over from `time_embed` and `emb_layers`.
    """
    s = {name: tensor.float() for name, tensor in state.items()}
    code = time_code(torch.tensor([t]), config.model_channels)
    for layer in ("time_embed.0", "time_embed.2"):
        code = F.linear(code, s.pop(f"{layer}.weight"), s.pop(f"{layer}.bias"))
        code = F.silu(code)  # the second one is the first layer of every emb_layers
    for name in [name for name in s if name.endswith("emb_layers.1.weight")]:
        block = name.removesuffix("emb_layers.1.weight")
        scale, shift = F.linear(code, s.pop(name), s.pop(f"{block}emb_layers.1.bias"))[0].chunk(2)
        weight, bias = f"{block}out_layers.0.weight", f"{block}out_layers.0.bias"
        s[weight], s[bias] = s[weight] * (1 + scale), s[bias] * (1 + scale) + shift
    first = s["input_blocks.0.0.weight"].clone()
    first[:, : config.channels] *= gain
    s["input_blocks.0.0.weight"] = first
    return s
