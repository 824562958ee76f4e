"""Carries out the steps of an autoencoder, each over all blocks of a picture, on stored activations.

Activations are stored as [H, W, C]: a row of a block is then one run of memory, or of a file.
"""

import contextlib
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise, product
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..counting.peak import Live
from ..errors import MemoryLimit
from .steps import Attend, Conv, Network, Shape, Step

Affine = tuple[Tensor, Tensor]
"""(scale, shift) [C, 1, 1]: a norm whose statistics are known."""
Moments = list[tuple[int, Tensor, Tensor]]
"""(count, mean [C], biased variance [C]) of every block of a value."""
Cell = tuple[int, int, int, int]
"""Top, bottom, left, right."""


class Store:
    """Gives memory for activations: "host", "device", or a folder whose file system holds memory maps.

    A mapped file has no name any more where the system allows it, so that not even a kill leaves it behind;
    elsewhere it goes when the store is closed.
    """

    def __init__(self, where: str | os.PathLike[str], device: torch.device) -> None:
        self.device = device if where == "device" else torch.device("cpu")
        self.folder: Path | None = None
        if where not in ("host", "device"):
            try:
                self.folder = Path(tempfile.mkdtemp(prefix="unistep-", dir=where))
            except OSError as error:
                raise MemoryLimit(f"expected to store activations in {where}, found: {error}") from error
        self.count = 0

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *error: object) -> None:
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def new(self, shape: Shape, dtype: torch.dtype) -> Tensor:
        """[H, W, C] of undefined values for shape = (C, H, W)."""
        c, height, width = shape
        if self.folder is None:
            return torch.empty(height, width, c, dtype=dtype, device=self.device)
        needed = math.prod(shape) * dtype.itemsize
        file, self.count = self.folder / str(self.count), self.count + 1
        try:
            _reserve(file, needed)
        except OSError as error:
            raise MemoryLimit(
                f"expected {needed / 1e9:.2f} GB of room in {self.folder.parent} for one activation, found: "
                f"{error}; free some, or choose another folder for temporary files"
            ) from error
        flat = torch.from_file(str(file), shared=True, size=math.prod(shape), dtype=dtype)
        with contextlib.suppress(OSError):  # Windows keeps it while it is mapped
            file.unlink()
        return flat.view(height, width, c)


def _reserve(file: Path, size: int) -> None:
    """A file of that many bytes. A sparse one would end the process when the disk is full."""
    if shutil.disk_usage(file.parent).free < size:
        raise OSError("no space left")
    with open(file, "wb") as opened:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(opened.fileno(), 0, size)
        opened.truncate(size)


def schedule(net: Network, shapes: list[Shape]) -> Iterator[tuple[int, Step, bool, list[int]]]:
    """(index, step, whether the result takes the residual's place, values that are then read no more)."""
    last = net.last_uses()
    for i, step in enumerate(net.steps):
        gone = [value for value, at in last.items() if at == i]
        r = step.residual  # a block reads of it what it writes, so that its place can be taken
        in_place = r is not None and r in gone and r != 0 and shapes[i + 1][0] <= shapes[r][0]
        yield i, step, in_place, gone


class Blocks:
    """How one network is computed: blocks of a size, on a device, in a dtype."""

    def __init__(self, net: Network, block: int, device: torch.device, dtype: torch.dtype) -> None:
        self.net, self.device, self.dtype = net, device, dtype
        self.sums = torch.promote_types(dtype, torch.float32)
        """In what norms, moments and scores are computed, however small the dtype."""
        self.values = block * block * net.width
        """Numbers in a block of any step, about."""

    def run(
        self,
        source: Tensor,
        store: Store,
        report: Callable[[int, int], None],
        known: list[Affine | None] | None = None,
    ) -> tuple[Tensor, list[Affine | None]]:
        """source [1, C, H, W] -> the last step's result, of `dtype` where source is, and every step's norm.

        known: norms to use instead of those of the source's own statistics.
        """
        net, shapes = self.net, self.net.shapes(tuple(source.shape[1:]))  # type: ignore[arg-type]
        values = {0: source[0].permute(1, 2, 0)}
        moments: dict[int, Moments] = {}
        normed = set() if known else {s.source for s in net.steps if isinstance(s, Conv) and s.norm}
        affines: list[Affine | None] = []
        total = sum(step.macs(shapes[step.source]) for step in net.steps)
        done = 0.0
        for i, step, in_place, gone in schedule(net, shapes):
            c, height, width = shapes[i + 1]
            if i + 1 == len(net.steps):
                out = torch.empty(height, width, c, dtype=self.dtype, device=source.device)
            elif in_place:
                out = values[step.residual or 0][:, :, :c]
            else:
                out = store.new(shapes[i + 1], self.dtype)
            found: Moments | None = [] if i + 1 in normed else None
            portion = step.macs(shapes[step.source]) / (height * width)
            norm = step.norm if isinstance(step, Conv) else None
            affine = None
            if norm is not None:
                affine = known[i] if known else self.affine(norm, moments[step.source])
            affines.append(affine)
            read = values[step.source], None if step.residual is None else values[step.residual]
            for pixels in self.passes(step, *read, out, affine, found):
                done += portion * pixels
                report(min(total, int(done)), total)
            values[i + 1] = out
            if found is not None:
                moments[i + 1] = found
            for value in gone:
                values.pop(value)
                moments.pop(value, None)
            del read, out
        report(total, total)
        return values.popitem()[1].permute(2, 0, 1)[None], affines

    def passes(
        self,
        step: Step,
        source: Tensor,
        residual: Tensor | None,
        out: Tensor,
        affine: Affine | None,
        moments: Moments | None,
    ) -> Iterator[int]:
        """One step over all blocks, from stored values to a stored one; yields the pixels of each."""
        if isinstance(step, Attend):
            assert residual is not None
            yield from self.attention(step, source, residual, out, moments)
            return
        weights = self.weights(step)
        for cell in self.cells(step, source.shape[:2], out.shape[:2]):
            y0, y1, x0, x1 = cell
            window, pads = self.window(step, cell, source.shape[:2])
            past = None if residual is None else self.load(residual[y0:y1, x0:x1])
            for (dy, dx), y in self.convolve(step, weights, self.load(source[window]), pads, past, affine):
                grow = 1 + step.up
                place = out[grow * y0 + dy : grow * y1 : grow, grow * x0 + dx : grow * x1 : grow]
                place.copy_(y[0].permute(1, 2, 0))
                if moments is not None:
                    moments.append(moments_of(y))
                yield y.shape[2] * y.shape[3]

    def load(self, stored: Tensor) -> Tensor:
        """[h, w, C] -> [1, C, h, w] on the device."""
        return stored.permute(2, 0, 1)[None].to(self.device, self.dtype)

    def cells(self, step: Conv, source: tuple[int, ...], out: tuple[int, ...]) -> list[Cell]:
        """Blocks of the result; with `up`, of the source."""
        values = max(step.weight.shape[1] * step.stride**2, len(step.weight) * (4 if step.up else 1))
        side = max(1, math.isqrt(self.values // values))
        rows, columns = (edges(n, side) for n in (source if step.up else out))
        return [(*row, *column) for row, column in product(pairwise(rows), pairwise(columns))]

    def window(
        self, step: Conv, cell: Cell, size: tuple[int, ...]
    ) -> tuple[tuple[slice, slice], tuple[int, int, int, int]]:
        """What a block reads, and the zeros (left, right, top, bottom) where that ends at the border."""
        slices, pads = [], []
        k = step.weight.shape[2]
        for (start, stop), n in zip((cell[:2], cell[2:]), size, strict=True):
            first = start * step.stride - step.pad[0]
            last = (stop - 1) * step.stride - step.pad[0] + k
            slices.append(slice(max(0, first), min(n, last)))
            pads.append((max(0, -first), max(0, last - n)))
        return (slices[0], slices[1]), (*pads[1], *pads[0])

    def weights(self, step: Conv) -> list[tuple[tuple[int, int], Tensor]]:
        """The kernel, or the four kernels of doubling and convolving, with the place of what they compute.

        A 3x3 kernel on doubled pixels sees only 2x2 different ones: 4 kernels of 2x2 on the small activation
        are 4/9 of the work.
        """
        if not step.up:
            return [((0, 0), step.weight.to(self.device, self.dtype))]
        w = step.weight.to(self.device, self.sums)

        def halves(w: Tensor, dim: int) -> tuple[Tensor, Tensor]:
            a, b, c = w.unbind(dim)
            return torch.stack([a, b + c], dim), torch.stack([a + b, c], dim)

        kernels = [half for rows in halves(w, 2) for half in halves(rows, 3)]
        return [
            (place, kernel.to(self.dtype))
            for place, kernel in zip(product((0, 1), (0, 1)), kernels, strict=True)
        ]

    def convolve(
        self,
        step: Conv,
        weights: list[tuple[tuple[int, int], Tensor]],
        h: Tensor,
        pads: tuple[int, int, int, int],
        residual: Tensor | None,
        affine: Affine | None,
    ) -> Iterator[tuple[tuple[int, int], Tensor]]:
        """One block: its source with neighbours [1, I, h, w] -> (place, [1, O, h', w'])."""
        if affine is not None:
            scale, shift = affine
            h = torch.addcmul(shift, h, scale)
            if step.act is not None:
                h = step.act(h, inplace=True)
            h = h.to(self.dtype)
        if any(pads):
            h = F.pad(h, pads)
        bias = None if step.bias is None else step.bias.to(self.device, self.dtype)
        for (dy, dx), weight in weights:
            y = F.conv2d(h, weight, bias, step.stride)
            if step.up:  # computed for one more row and column than each kernel has
                y = y[:, :, dy : dy + h.shape[2] - 2, dx : dx + h.shape[3] - 2]
            if residual is not None:
                if step.shortcut is not None:
                    kernel, bias = (
                        None if t is None else t.to(self.device, self.dtype) for t in step.shortcut
                    )
                    assert kernel is not None
                    residual = F.conv2d(residual, kernel, bias)
                y += residual
            if step.after is not None:
                y = step.after(y, inplace=True)
            yield (dy, dx), y

    def attention(
        self, step: Attend, source: Tensor, residual: Tensor, out: Tensor, moments: Moments | None
    ) -> Iterator[int]:
        """Blocks of queries over blocks of keys; scores and their sums are of dtype `sums`."""
        c = len(step.weight)
        tokens, past, place = (t.flatten(0, 1) for t in (source, residual, out))
        rows, keys = self.rows(step, len(tokens))
        for start in range(0, len(tokens), rows):
            mine = slice(start, start + rows)
            parts = (tokens[i : i + keys, c:].to(self.device) for i in range(0, len(tokens), keys))
            q = tokens[mine, :c].to(self.device, self.sums)
            y = self.attend(step, q, parts, past[mine].to(self.device, self.dtype))
            place[mine] = y.to(place.device)
            if moments is not None:
                moments.append(moments_of(y.T[None, :, :, None]))
            yield len(y)

    def rows(self, step: Attend, tokens: int) -> tuple[int, int]:
        """Queries and keys of a block: as many values as any block, so have the scores."""
        rows = min(tokens, max(1, self.values // len(step.weight)))
        return rows, min(tokens, max(1, self.values // rows))

    def attend(self, step: Attend, q: Tensor, parts: Iterable[Tensor], residual: Tensor) -> Tensor:
        """q [n, C] of dtype `sums`, parts of keys and values [m, 2C], residual [n, C] -> [n, C]."""
        c = q.shape[1]
        q = q / math.sqrt(c)
        most = q.new_full((len(q), 1), -math.inf)
        mass, total = torch.zeros_like(most), torch.zeros_like(q)
        for part in parts:
            scores = q @ part[:, :c].to(self.sums).T
            new = torch.maximum(most, scores.amax(1, keepdim=True))
            scores.sub_(new).exp_()
            fade = (most - new).exp_()
            mass.mul_(fade).add_(scores.sum(1, keepdim=True))
            total.mul_(fade).add_(scores.to(self.dtype) @ part[:, c:].to(self.dtype))
            most = new
        bias = None if step.bias is None else step.bias.to(self.device, self.dtype)
        y = F.linear(total.div_(mass).to(self.dtype), step.weight.to(self.device, self.dtype), bias)
        return y.add_(residual)

    def step_bytes(self, step: Step, source: Shape, out: Shape) -> int:
        """Bytes that one step holds on the device at its peak: its largest block, run without data."""

        def empty(*shape: int, dtype: torch.dtype = self.dtype) -> Tensor:
            return torch.empty(shape, dtype=dtype, device="meta")

        with Live() as live:
            if isinstance(step, Attend):
                c, tokens = len(step.weight), source[1] * source[2]
                rows, keys = self.rows(step, tokens)
                parts = (empty(keys, 2 * c) for _ in range(min(2, math.ceil(tokens / keys))))
                y = self.attend(step, empty(rows, c, dtype=self.sums), parts, empty(rows, c))
                moments_of(y.T[None, :, :, None])
                return int(live.peak)
            cells = self.cells(step, source[1:], out[1:])
            windows = [(cell, *self.window(step, cell, source[1:])) for cell in cells]
            sizes = [[s.stop - s.start for s in slices] for _, slices, _ in windows]
            at = max(range(len(cells)), key=lambda i: (sizes[i][0] * sizes[i][1], any(windows[i][2])))
            (y0, y1, x0, x1), _, pads = windows[at]
            past = None
            if step.residual is not None:
                past = empty(1, step.shortcut[0].shape[1] if step.shortcut else out[0], y1 - y0, x1 - x0)
            affine = (empty(source[0], 1, 1, dtype=self.sums),) * 2 if step.norm else None
            weights = self.weights(step)
            for _, y in self.convolve(step, weights, empty(1, source[0], *sizes[at]), pads, past, affine):
                moments_of(y)
        return int(live.peak)

    def macs(self, step: Step, source: Shape, out: Shape) -> int:
        """Multiplications with additions that a step takes in blocks."""
        if isinstance(step, Attend) or not step.up:
            return step.macs(source)
        cells = self.cells(step, source[1:], out[1:])
        return 16 * step.weight[:, :, 0, 0].numel() * sum((b - a + 1) * (d - c + 1) for a, b, c, d in cells)

    def affine(self, norm: nn.GroupNorm, moments: Moments) -> Affine:
        """The norm as (scale, shift), from the moments of all blocks (Chan et al. 1983, in float64)."""
        groups = norm.num_groups
        count = torch.tensor([n for n, _, _ in moments], dtype=torch.float64)[:, None, None]
        mean, variance = (
            torch.stack(parts).cpu().double().view(len(moments), groups, -1)
            for parts in ([m for _, m, _ in moments], [v for _, _, v in moments])
        )
        size = count.sum() * mean.shape[2]
        centre = (count * mean).sum((0, 2), keepdim=True) / size
        spread = (count * (variance + (mean - centre) ** 2)).sum((0, 2), keepdim=True) / size
        scale = (spread + norm.eps).rsqrt().expand(1, groups, mean.shape[2]).flatten()
        centre = centre.expand(1, groups, mean.shape[2]).flatten()
        if norm.affine:
            scale = scale * norm.weight.cpu().double()
        shift = -centre * scale + (norm.bias.cpu().double() if norm.affine else 0)
        scale, shift = (t.to(self.device, self.sums)[:, None, None] for t in (scale, shift))
        return scale, shift


def moments_of(y: Tensor) -> tuple[int, Tensor, Tensor]:
    """(values per channel, mean, biased variance) of y [1, C, h, w]."""
    y = y.to(torch.promote_types(y.dtype, torch.float32))
    variance, mean = torch.var_mean(y, dim=(0, 2, 3), correction=0)
    return y.shape[2] * y.shape[3], mean, variance


def edges(length: int, side: int) -> list[int]:
    """0 .. length in the fewest parts of at most `side`, as equal as can be."""
    parts = math.ceil(length / side)
    return [round(i * length / parts) for i in range(parts + 1)]
