"""Autoencoders as lists of steps, each one pass over the stored activation of the layer before.

Value 0 is the input of a network, value i + 1 the result of step i. `layersync` carries the steps out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from .codecs import Codec, KLCodec, TinyBlock, TinyDecoder, VQCodec
from .vq import VQ

Act = Callable[..., Tensor]
Shape = tuple[int, int, int]
"""Channels, height, width."""


@dataclass(frozen=True)
class Conv:
    """act(norm(source)) -> nearest x2 if `up` -> convolution -> + residual -> after."""

    source: int
    weight: Tensor
    """[O, I, k, k]"""
    bias: Tensor | None
    norm: nn.GroupNorm | None = None
    act: Act | None = None
    stride: int = 1
    pad: tuple[int, int] = (0, 0)
    """Zeros before and after, the same on both axes."""
    up: bool = False
    residual: int | None = None
    shortcut: tuple[Tensor, Tensor | None] | None = None
    """Weight and bias of a 1x1 convolution of the residual."""
    after: Act | None = None

    def shape(self, source: Shape) -> Shape:
        grow, extra = 1 + self.up, sum(self.pad) - self.weight.shape[2]
        height, width = ((grow * n + extra) // self.stride + 1 for n in source[1:])
        return self.weight.shape[0], height, width

    def macs(self, source: Shape) -> int:
        """Multiplications with additions, as the network is defined."""
        c, height, width = self.shape(source)
        per_value = self.weight[0].numel() + (self.shortcut[0].shape[1] if self.shortcut else 0)
        return c * height * width * per_value


@dataclass(frozen=True)
class Attend:
    """Attention of one head over all positions -> linear -> + residual."""

    source: int
    """Queries, keys and values, side by side in the channels."""
    weight: Tensor
    """[C, C]"""
    bias: Tensor | None
    residual: int

    def shape(self, source: Shape) -> Shape:
        return self.weight.shape[0], *source[1:]

    def attention_macs(self, source: Shape) -> int:
        return 2 * len(self.weight) * (source[1] * source[2]) ** 2

    def macs(self, source: Shape) -> int:
        return self.attention_macs(source) + self.weight.numel() * source[1] * source[2]


Step = Conv | Attend


@dataclass(frozen=True)
class Network:
    """One direction of a codec."""

    head: Callable[[Tensor], Tensor]
    """What becomes of the input before the steps, value by value: on whole tensors of few channels."""
    steps: Sequence[Step]
    tail: Callable[[Tensor, Tensor | None], Tensor]
    """The result from the last step's and the noise."""
    width: int
    """Channels at the full resolution."""

    def shapes(self, source: Shape) -> list[Shape]:
        """Of all values."""
        shapes = [source]
        for step in self.steps:
            shapes.append(step.shape(shapes[step.source]))
        return shapes

    def last_uses(self) -> dict[int, int]:
        """Value -> the last step that reads it."""
        return {
            value: i
            for i, step in enumerate(self.steps)
            for value in (step.source, step.residual)
            if value is not None
        }


def lower(codec: Codec, direction: str) -> Network:
    """The steps of codec.encode or codec.decode ("encode", "decode"), on the codec's own weights.

    Raises ConfigError for networks with other layers than Stable Diffusion's autoencoder has.
    """
    if direction not in ("encode", "decode"):
        raise ConfigError(f'expected the direction "encode" or "decode", found {direction!r}')
    build = _Builder()
    if isinstance(codec, KLCodec):
        return _kl(build, codec, direction)
    if isinstance(codec, VQCodec):
        return _vq(build, codec.vq, direction)
    if isinstance(codec, TinyDecoder):
        return _tiny(build, codec, direction)
    raise ConfigError(f"expected a KL, VQ or tiny autoencoder, found {type(codec).__name__}")


class _Builder:
    """Appends steps; `now` is the value that the next one reads."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.now = 0

    def conv(self, module: nn.Module, **more: Any) -> None:
        if not isinstance(module, nn.Conv2d) or module.dilation != (1, 1) or module.groups != 1:
            raise ConfigError(f"expected a plain convolution in the autoencoder, found {module}")
        p = int(module.padding[0])
        more.setdefault("pad", (p, p))
        self._add(Conv(self.now, module.weight, module.bias, stride=module.stride[0], **more))

    def _add(self, step: Step) -> None:
        self.steps.append(step)
        self.now = len(self.steps)

    def normed(self, norm: nn.Module, conv: nn.Module, **more: Any) -> None:
        if not isinstance(norm, nn.GroupNorm):
            raise ConfigError(f"expected a GroupNorm in the autoencoder, found {norm}")
        self.conv(conv, norm=norm, act=F.silu, **more)

    def residual_block(self, block: Any, shortcut: nn.Conv2d | None) -> None:
        x = self.now
        self.normed(block.norm1, block.conv1)
        way = None if shortcut is None else (shortcut.weight, shortcut.bias)
        self.normed(block.norm2, block.conv2, residual=x, shortcut=way)

    def attention(self, norm: nn.GroupNorm, qkv: Sequence[Any], out: Any) -> None:
        """The projections are linear layers or 1x1 convolutions."""
        x = self.now
        weight = torch.cat([part.weight.flatten(1) for part in qkv])[:, :, None, None]
        bias = None if qkv[0].bias is None else torch.cat([part.bias for part in qkv])
        self._add(Conv(x, weight, bias, norm=norm))
        self._add(Attend(self.now, out.weight.flatten(1), out.bias, residual=x))


def _kl(build: _Builder, codec: KLCodec, direction: str) -> Network:
    vae = codec.vae
    encodes = direction == "encode"
    net = vae.encoder if encodes else vae.decoder
    if not encodes and vae.post_quant_conv is not None:
        build.conv(vae.post_quant_conv)
    build.conv(net.conv_in)
    if encodes:
        for block in net.down_blocks:
            _kl_level(build, block)
            for part in block.downsamplers or ():
                build.conv(part.conv, pad=(0, 1))
    _kl_level(build, net.mid_block)
    if not encodes:
        for block in net.up_blocks:
            _kl_level(build, block)
            for part in block.upsamplers or ():
                build.conv(part.conv, up=True)
    build.normed(net.conv_norm_out, net.conv_out)
    width = net.conv_in.out_channels if encodes else net.conv_out.in_channels
    if not encodes:
        return Network(codec.raw, build.steps, lambda x, noise: x, width)
    if vae.quant_conv is not None:
        build.conv(vae.quant_conv)
    return Network(lambda x: x, build.steps, codec.latent, width)


def _kl_level(build: _Builder, level: Any) -> None:
    """The residual blocks of one resolution, with attention after the first of the middle."""
    attentions = list(getattr(level, "attentions", ()))
    for i, block in enumerate(level.resnets):
        if not isinstance(block.nonlinearity, nn.SiLU) or block.output_scale_factor != 1:
            raise ConfigError("expected residual blocks with SiLU in the autoencoder, found others")
        build.residual_block(block, block.conv_shortcut)
        attention = attentions[i] if i < len(attentions) else None
        if attention is not None:
            if attention.heads != 1 or not attention.residual_connection:
                raise ConfigError("expected attention of one head in the autoencoder, found another")
            parts = (attention.to_q, attention.to_k, attention.to_v)
            build.attention(attention.group_norm, parts, attention.to_out[0])


def _vq(build: _Builder, vq: VQ, direction: str) -> Network:
    encodes = direction == "encode"
    net: Any = vq.encoder if encodes else vq.decoder
    if not encodes:
        build.conv(vq.post_quant_conv)
    build.conv(net.conv_in)
    if encodes:
        for level in net.down:
            _vq_blocks(build, level.block)
            if hasattr(level, "downsample"):
                build.conv(level.downsample.conv, pad=(0, 1))
    _vq_blocks(build, [net.mid.block_1])
    attention = net.mid.attn_1
    build.attention(attention.norm, (attention.q, attention.k, attention.v), attention.proj_out)
    _vq_blocks(build, [net.mid.block_2])
    if not encodes:
        for level in reversed(net.up):
            _vq_blocks(build, level.block)
            if hasattr(level, "upsample"):
                build.conv(level.upsample.conv, up=True)
    build.normed(net.norm_out, net.conv_out)
    if encodes:
        build.conv(vq.quant_conv)
        return Network(lambda x: x, build.steps, lambda z, noise: z, vq.config.ch)

    def quantise(z: Tensor) -> Tensor:
        codes: Tensor = vq.quantize(z.to(vq.quantize.embedding.weight.device))
        return codes.to(z.device)

    return Network(quantise, build.steps, lambda x, noise: x, vq.config.ch)


def _vq_blocks(build: _Builder, blocks: Any) -> None:
    for block in blocks:
        build.residual_block(block, getattr(block, "nin_shortcut", None))


def _tiny(build: _Builder, codec: TinyDecoder, direction: str) -> Network:
    net = getattr(codec, "encoder" if direction == "encode" else "decoder", None)
    if net is None:
        raise ConfigError("expected a codec that encodes, found a tiny decoder; use the base's own encoder")
    layers = list(net)
    for i, layer in enumerate(layers):
        if isinstance(layer, TinyBlock):
            x = build.now
            first, _, second, _, third = layer.conv
            build.conv(first, after=F.relu)
            build.conv(second, after=F.relu)
            build.conv(third, residual=x, after=F.relu)
        elif isinstance(layer, nn.Conv2d):
            bounded = i + 1 < len(layers) and isinstance(layers[i + 1], nn.ReLU)
            up = i > 0 and isinstance(layers[i - 1], nn.Upsample)
            build.conv(layer, up=up, after=F.relu if bounded else None)
    if direction == "encode":
        return Network(lambda x: (x + 1) / 2, build.steps, lambda z, noise: z + codec.shift, codec.width)
    return Network(lambda z: layers[0](z - codec.shift), build.steps, lambda x, noise: 2 * x - 1, codec.width)
