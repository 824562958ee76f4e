"""What a picture costs a model by arithmetic: its parts counted on the meta device, for any size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...bases.textnets import TextNet
from ...counting.meter import Quick
from ...counting.operators import Counts, count, parameters
from ...counting.peak import Fused, Live
from ...diffusion.sampler import Sampler
from ...students.blend import starts
from ...students.latent import LatentStudent

TEXT, ENCODER, NETWORK, DECODER = "text encoder", "VAE encoder", "network", "decoder"
PARTS = (TEXT, ENCODER, NETWORK, DECODER)
"""In the order in which a picture passes them. A model that is one network has that part alone."""


@dataclass(frozen=True)
class Part:
    name: str
    parameters: int
    calls: int
    """For one picture: steps of a sampler times tiles."""
    counts: Counts
    """Of one call."""
    peak: int
    """Bytes of a call's tensors that are alive at one time, its weights and inputs not among them."""

    @property
    def macs(self) -> int:
        return self.calls * self.counts.macs()

    @property
    def attention(self) -> int:
        """Of `macs`, the products of two activations."""
        return self.calls * self.counts.macs("attention")

    @property
    def operators(self) -> int:
        return self.calls * self.counts.operators


def parts(outline: nn.Module, low: tuple[int, int], dtype: torch.dtype, tiled: bool = False) -> list[Part]:
    """Those of a model on the meta device for a low-quality picture of (width, height) pixels.

    Args:
        dtype: in which it computes; the casts of an autocast are not counted.
        tiled: a student of a large base has its denoiser called in tiles, as large as they may be; otherwise,
            and its autoencoder in any case, once for the whole picture.
    """
    if isinstance(outline, LatentStudent):
        return _latent(outline, low, dtype, tiled)
    x = _empty((1, 3, low[1], low[0]), dtype)
    return [_part(NETWORK, outline.to(dtype), outline.to(dtype), [x])]


def text_part(nets: Sequence[TextNet]) -> Part | None:
    """All text encoders of a base, for one text; None if there are none."""
    if not nets:
        return None
    total, numbers, peak = Counts(), 0, 0
    for one in nets:
        with torch.device("meta"):
            net = one.build()
            found = _part(TEXT, net, one.call(net), [])
        total, numbers, peak = total + found.counts, numbers + found.parameters, max(peak, found.peak)
    return Part(TEXT, numbers, 1, total, peak)


def network_size(student: LatentStudent, low: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of what a student's encoder is given for a picture of `low`, with its padding."""
    size = low[0] * student.scale, low[1] * student.scale
    width, height = student.native(size, low)
    multiple = student.multiple
    return -(-width // multiple) * multiple, -(-height // multiple) * multiple


def _latent(student: LatentStudent, low: tuple[int, int], dtype: torch.dtype, tiled: bool) -> list[Part]:
    net, codec, config = student.denoiser, student.codec, student.config
    for module in (net, codec, student.decoder):
        module.to(dtype)
    width, height = network_size(student, low)
    w, h = width // codec.factor, height // codec.factor
    x, z_dtype = _empty((1, 3, height, width), dtype), torch.float32
    tiles = 1
    if tiled and w * h > config.tile**2:  # as `blended` cuts
        side = min(config.tile // net.multiple * net.multiple, h, w)
        overlap = min(config.overlap, side // 2)
        tiles = len(starts(h, side, overlap)) * len(starts(w, side, overlap))
        w = h = side
    z = _empty((1, codec.channels, h, w), z_dtype)
    image = None
    if config.scale is not None:
        ratio = codec.factor // config.scale
        image = _empty((1, 3, h * ratio, w * ratio), z_dtype)
    steps = len(net.times) if isinstance(net, Sampler) else 1
    given: list[Any] = [z, 0, z, image] if isinstance(net, Sampler) else [z, image]
    latent = _empty((1, codec.channels, height // codec.factor, width // codec.factor), dtype)
    return [
        _part(ENCODER, codec, codec.encode, [x], half="encoder"),
        _part(NETWORK, net, net, given, tiles * steps),
        _part(DECODER, student.decoder, student.decoder.decode, [latent], half="decoder"),
    ]


def _part(
    name: str,
    module: nn.Module,
    call: Callable[..., object],
    given: list[Any],
    calls: int = 1,
    half: str = "",
) -> Part:
    live = Live()
    with torch.no_grad(), Fused(), Quick(), live:  # type: ignore[no-untyped-call]
        counts = count(call, *given)
    numbers = parameters(module)
    if half:  # of an autoencoder: what the other half has alone is not its
        other = {"encoder": "decoder", "decoder": "encoder"}[half]
        numbers -= sum(p.numel() for key, p in module.named_parameters() if _belongs(key, other))
    return Part(name, numbers, calls, counts, live.peak)


def _belongs(key: str, half: str) -> bool:
    """Whether a parameter of an autoencoder is its encoder's, or its decoder's."""
    words = key.split(".")
    own = {"encoder": {"encoder", "quant_conv"}, "decoder": {"decoder", "post_quant_conv", "quantize"}}[half]
    return not own.isdisjoint(words)


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    x = torch.empty(shape, dtype=dtype, device="meta")
    return x.contiguous(memory_format=torch.channels_last)
