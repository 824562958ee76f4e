"""An autoencoder over a picture of any size, block by block, with the result of the whole.

GroupNorm needs the statistics of the whole picture, and those of a layer depend on the layers before it.
So the network is not cut into tiles that each run through all layers: every layer runs over all blocks before
the next one starts. A block reads its true neighbours from the stored activation of the layer before, so that
no convolution is computed twice, and while it is written its moments are taken for the next norm. The device
holds a few blocks; activations lie in host memory or in a memory map. The attention in the middle, which is
global, is streamed over blocks of queries and of keys with a running softmax (Milakov & Gimelshein 2018,
arXiv 1805.02867).
"""

import math
import os
import shutil
import tempfile
from dataclasses import dataclass
from itertools import pairwise, product
from typing import TypedDict, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..counting.peak import without_data
from ..errors import ConfigError
from ..pixels.tiling import Progress, free_memory
from .blockwise import Blocks, Store, edges, schedule
from .codecs import Codec
from .steps import Attend, Shape, lower

SHARE = 0.7
"""Of the free host memory that activations may take before they go to a memory map."""
MARGIN = 8
"""Latents that an independent tile of the fast mode sees beyond its own."""
REDUCED = 512
"""Longest side, in pixels, of the reduced picture that gives the statistics of the fast mode."""
MODES = ("exact", "fast")
Span = tuple[int, int]


@dataclass(frozen=True)
class Plan:
    """What a call will take, from shapes alone."""

    device_bytes: int
    """Blocks and their intermediate results on the device, without the codec's own weights."""
    host_bytes: int
    """Activations, on the host or in a memory map, without the input."""
    macs: int
    """Multiplications with additions of the blocks."""
    whole_macs: int
    """The same of the whole network as it is defined."""
    attention_macs: int
    """The part of `whole_macs` that grows with the square of the number of pixels."""
    largest: int
    """Bytes of the largest activation."""


class How(TypedDict, total=False):
    """How `encode` and `decode` compute; each has a default.

    block: side of a block in pixels (256), at the full resolution; elsewhere a block has as many bytes.
    device: where to compute, default: where the codec is. dtype: in what, default: the codec's.
    store: where activations lie: "host", "device", a folder for memory maps, or None, the default: the
        host's memory, or a memory map in the folder for temporary files if they take more than `SHARE` of
        what is free.
    mode: "exact", the default, or "fast": independent tiles that overlap by `MARGIN` latents, normed with
        the statistics of a reduced picture; close to the result, not equal to it.
    progress: called with (work done, work in all) after every block.
    """

    block: int
    device: torch.device | str | None
    dtype: torch.dtype | None
    store: str | os.PathLike[str] | None
    mode: str
    progress: Progress | None


def encode(codec: Codec, x: Tensor, noise: Tensor | None = None, **how: Unpack[How]) -> Tensor:
    """codec.encode(x, noise) in bounded device memory.

    Args:
        x: [B, 3, H, W] about [-1, 1], sides multiples of the codec's factor, on any device.
        noise: as of `Codec.encode`.

    Returns:
        z [B, C, H / factor, W / factor] in `dtype` where x is.

    Raises:
        ConfigError: a setting that cannot be, or sides that are not multiples.
        MemoryLimit: the folder cannot hold the activations.
    """
    return _call(codec, "encode", x, noise, **how)


def decode(codec: Codec, z: Tensor, **how: Unpack[How]) -> Tensor:
    """codec.decode(z) in bounded device memory: z [B, C, h, w] -> [B, 3, factor h, factor w] (`encode`)."""
    return _call(codec, "decode", z, None, **how)


def plan(
    codec: Codec,
    height: int,
    width: int,
    *,
    direction: str,
    block: int = 256,
    dtype: torch.dtype | None = None,
    mode: str = "exact",
) -> Plan:
    """What `encode` or `decode` ("encode", "decode") of one picture of height x width pixels will take.

    Nothing is computed: the blocks are run without data.
    """
    _check(block, mode)
    dtype = dtype or _weight(codec).dtype
    net = lower(without_data(codec), direction)  # type: ignore[arg-type]
    channels, scale = (3, 1) if direction == "encode" else (codec.channels, codec.factor)
    h, w = height // scale, width // scale
    blocks = Blocks(net, block, torch.device("meta"), dtype)
    exact = _planned(blocks, (channels, height // scale, width // scale))
    if mode == "exact":
        return exact
    h, w = height // codec.factor, width // codec.factor
    unit = codec.factor // scale
    sizes = [(y1 - y0, x1 - x0) for _, ((y0, y1), (x0, x1)) in _tiles(h, w, block // codec.factor)]
    sizes.append(_reduced(h, w, codec.factor))
    plans = {size: _planned(blocks, (channels, size[0] * unit, size[1] * unit)) for size in set(sizes)}
    return Plan(
        device_bytes=max(part.device_bytes + part.host_bytes for part in plans.values()),
        host_bytes=math.prod(net.shapes((channels, h * unit, w * unit))[-1]) * dtype.itemsize,
        macs=sum(plans[size].macs for size in sizes),
        whole_macs=exact.whole_macs,
        attention_macs=exact.attention_macs,
        largest=max(part.largest for part in plans.values()),
    )


def spills(needed: int) -> bool:
    """Whether a memory map in the folder for temporary files can hold `needed` bytes."""
    return needed <= shutil.disk_usage(tempfile.gettempdir()).free


def _check(block: int, mode: str) -> None:
    if isinstance(block, bool) or not isinstance(block, int) or block < 1:
        raise ConfigError(f"expected block to be a whole number of pixels from 1 upward, found {block!r}")
    if mode not in MODES:
        raise ConfigError(f"expected mode to be one of {', '.join(MODES)}, found {mode!r}")


def _weight(codec: nn.Module) -> Tensor:
    return next(p for p in codec.parameters() if p.is_floating_point())


@torch.no_grad()
def _call(
    codec: Codec,
    direction: str,
    x: Tensor,
    noise: Tensor | None,
    *,
    block: int = 256,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    store: str | os.PathLike[str] | None = None,
    mode: str = "exact",
    progress: Progress | None = None,
) -> Tensor:
    _check(block, mode)
    channels, multiple = (3, codec.factor) if direction == "encode" else (codec.channels, 1)
    if x.ndim != 4 or x.shape[1] != channels or not x.numel() or any(n % multiple for n in x.shape[2:]):
        raise ConfigError(
            f"expected a batch of {channels} channels, sides multiples of {multiple}, to {direction}, found "
            f"{list(x.shape)}; pad it"
        )
    weight = _weight(codec)
    net = lower(codec, direction)
    blocks = Blocks(net, block, torch.device(device or weight.device), dtype or weight.dtype)
    out = []
    for i in range(len(x)):

        def report(done: int, total: int, i: int = i) -> None:
            if progress:
                progress(i * total + done, len(x) * total)

        source = net.head(x[i : i + 1])
        if mode == "fast":
            value = _fast(blocks, source, codec.factor, direction == "encode", block, report)
        else:
            with Store(store or _where(blocks, source), blocks.device) as kept:
                value, _ = blocks.run(source, kept, report)
        out.append(net.tail(value, None if noise is None else noise[i : i + 1]))
    return torch.cat(out)


def _fast(blocks: Blocks, source: Tensor, factor: int, encodes: bool, block: int, report: Progress) -> Tensor:
    """Independent tiles, normed with the statistics of the reduced source."""
    unit, grow = (factor, 1) if encodes else (1, factor)
    h, w = (n // unit for n in source.shape[2:])
    small = F.interpolate(source, tuple(n * unit for n in _reduced(h, w, factor)), mode="nearest-exact")
    kept = Store("device", blocks.device)
    _, norms = blocks.run(small, kept, lambda done, total: None)
    out: Tensor | None = None
    tiles = _tiles(h, w, block // factor)
    for done, ((rows, columns), (high, wide)) in enumerate(tiles):
        window = source[:, :, unit * high[0] : unit * high[1], unit * wide[0] : unit * wide[1]]
        value, _ = blocks.run(window, kept, lambda done, total: None, norms)
        if out is None:
            out = value.new_empty(1, value.shape[1], grow * h, grow * w)
        top, left = grow * (rows[0] - high[0]), grow * (columns[0] - wide[0])
        height, width = grow * (rows[1] - rows[0]), grow * (columns[1] - columns[0])
        place = out[:, :, grow * rows[0] :, grow * columns[0] :][:, :, :height, :width]
        place.copy_(value[:, :, top : top + height, left : left + width])
        report(done + 1, len(tiles))
    assert out is not None
    return out


def _tiles(height: int, width: int, side: int) -> list[tuple[tuple[Span, Span], tuple[Span, Span]]]:
    """(rows, columns) in latents of independent tiles, and of the window in which each is computed."""

    def wider(span: Span, length: int) -> Span:
        return max(0, span[0] - MARGIN), min(length, span[1] + MARGIN)

    rows, columns = (list(pairwise(edges(n, max(1, side)))) for n in (height, width))
    return [((y, x), (wider(y, height), wider(x, width))) for y, x in product(rows, columns)]


def _reduced(height: int, width: int, factor: int) -> tuple[int, int]:
    """The size in latents of the picture that gives the statistics of the fast mode."""
    shrink = min(1.0, REDUCED / factor / max(height, width))
    return max(1, round(height * shrink)), max(1, round(width * shrink))


def _where(blocks: Blocks, source: Tensor) -> str:
    """The host's memory, or the folder for temporary files if that would be too little."""
    needed = _host_bytes(blocks, blocks.net.shapes((source.shape[1], source.shape[2], source.shape[3])))
    return "host" if needed <= SHARE * free_memory(torch.device("cpu")) else tempfile.gettempdir()


def _planned(blocks: Blocks, source: Shape) -> Plan:
    """Of an exact call on one source, whose blocks are without data."""
    shapes = blocks.net.shapes(source)
    steps = [(step, shapes[step.source], shapes[i + 1]) for i, step in enumerate(blocks.net.steps)]
    return Plan(
        device_bytes=max(blocks.step_bytes(*step) for step in steps),
        host_bytes=_host_bytes(blocks, shapes),
        macs=sum(blocks.macs(*step) for step in steps),
        whole_macs=sum(step.macs(before) for step, before, _ in steps),
        attention_macs=sum(
            step.attention_macs(before) for step, before, _ in steps if isinstance(step, Attend)
        ),
        largest=max(math.prod(shape) for shape in shapes) * blocks.dtype.itemsize,
    )


def _host_bytes(blocks: Blocks, shapes: list[Shape]) -> int:
    """The most that activations take at one time."""
    held: dict[int, int] = {}
    most = 0
    for i, step, in_place, gone in schedule(blocks.net, shapes):
        size = math.prod(shapes[i + 1]) * blocks.dtype.itemsize
        held[i + 1] = held.pop(step.residual or 0) if in_place else size
        most = max(most, sum(held.values()))
        for value in gone:
            held.pop(value, None)
    return most
