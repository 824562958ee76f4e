"""Runs a x4 model over a picture of any size in bounded memory.

The picture is cut into pieces, each piece is computed in a window that is larger by `overlap` on every side,
and the margin is thrown away: a model without global statistics then gives what it would have given for the
whole picture, and nothing has to be blended. Windows are cut from the picture itself, never padded: at its
borders the model sees the same border as it would in the whole picture. They start at multiples of `ALIGN`:
a model that pads its input to such a multiple and works at a quarter of its resolution keeps its grid.

Finished rows leave as bands, top to bottom; who consumes them decides what is kept. All sizes here are
low-resolution pixels, unless a name says otherwise.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, isqrt
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unistep.errors import ConfigError, MemoryLimit, ModelError

Model = Callable[[Tensor], Tensor]
Progress = Callable[[int, int], None]
Cell = tuple[int, int, int, int]  # top, bottom, left, right

ALIGN = 4
OVERLAP = 16  # where the model does not name its own
SMALLEST = 16  # side of the smallest piece that is tried when memory runs out
# A window takes about 2 kB per pixel in float32 (measured, embedded shape); twice that leaves room for more.
# A model that needs yet more says so (`bytes_per_pixel`).
BYTES_PER_PIXEL = 4608
# Larger windows fall out of the caches (15 % more time per pixel at 288, 25 % at 544, measured), smaller ones
# spend more on their margins.
CPU_SIDE = 400
GPU_SIDE = 512
GPU_PIXELS = 1 << 20  # of all windows of one call


def bands(
    model: Model,
    image: np.ndarray,
    *,
    scale: int = 4,
    tile: int | str = "auto",
    overlap: int | None = None,
    batch: int | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
    out: np.ndarray | None = None,
) -> Iterator[np.ndarray]:
    """Yields the upscaled picture from top to bottom, as bands of whole rows.

    Args:
        model: maps [B, 3, h, w] in [-1, 1] to [B, 3, scale*h, scale*w], any h and w.
        image: [H, W, 3] float32, sRGB-encoded; values outside 0..1 are clipped for the model.
        tile: side of a piece, without its overlap, or "auto": from the free memory.
        overlap: margin of a window, rounded up to a multiple of `ALIGN`; None: `model.overlap` or `OVERLAP`.
        batch: windows per call; None: from `tile` and the device.
        dtype: below float32 the model runs under autocast; a window that is not finite runs again without.
        progress: called with (pixels done, pixels in all) of `image` after every call of the model.
        out: [scale*H, scale*W, 3] float32, where the bands are then made instead of in arrays of their own.

    Yields:
        [h, scale*W, 3] float32 in 0..1; the heights add up to scale*H. New arrays, or rows of `out`.

    Raises:
        ModelError: the result is not finite, or its shape is wrong.
        MemoryLimit: memory runs out even for the smallest piece.
        ConfigError: `tile` is neither "auto" nor a positive whole number.
    """
    height, width = image.shape[:2]
    if min(height, width) < ALIGN:  # too small to be reflected: repeat the border instead, and cut the result
        spare = ((0, max(0, ALIGN - height)), (0, max(0, ALIGN - width)), (0, 0))
        image, out = np.pad(image, spare, mode="edge"), None
    margin = _aligned(getattr(model, "overlap", OVERLAP) if overlap is None else overlap)
    device = torch.device(device)
    each = max(BYTES_PER_PIXEL, getattr(model, "bytes_per_pixel", 0))
    side = automatic_tile(device, margin, each) if tile == "auto" else _aligned(checked_tile(tile))
    batch = batch or _automatic_batch(device, side + 2 * margin, each)
    run = _Runner(model, image, scale, margin, side, batch, device, dtype, out)
    total, left = height * width, height * scale
    for band in run.bands(lambda rows, done: progress and progress(min(total, rows * width + done), total)):
        yield band[:left, : width * scale]
        left -= len(band)
        del band  # only one is held at a time


@dataclass
class _Runner:
    """One pass over one picture; `side` and `batch` shrink when memory runs out and stay small."""

    model: Model
    image: np.ndarray
    scale: int
    margin: int
    side: int
    batch: int
    device: torch.device
    dtype: torch.dtype
    out: np.ndarray | None

    def bands(self, report: Callable[[int, int], object]) -> Iterator[np.ndarray]:
        height, width = self.image.shape[:2]
        top, s = 0, self.scale
        while top < height:
            bottom = spans(top, height, self.side, self.margin)[0][1]
            if self.out is None:
                band = np.empty(((bottom - top) * s, width * s, 3), np.float32)
            else:
                band = self.out[top * s : bottom * s]
            cells = [(top, bottom, *span) for span in spans(0, width, self.side, self.margin)]
            done = 0
            while cells:
                group = self._alike(cells)
                pieces = self._attempt(group)
                if pieces is None:
                    cells = self._shrink(cells, len(group))
                    continue
                for (y0, y1, x0, x1), piece in zip(group, pieces, strict=True):
                    band[(y0 - top) * s : (y1 - top) * s, x0 * s : x1 * s] = piece
                    done += (y1 - y0) * (x1 - x0)
                del pieces, piece  # before the next call makes its own
                cells = cells[len(group) :]
                _give_back()
                report(top, done)
            yield band
            del band
            top = bottom

    def _window(self, cell: Cell) -> Cell:
        (y0, y1, x0, x1), m = cell, self.margin
        height, width = self.image.shape[:2]
        return max(0, y0 - m), min(height, y1 + m), max(0, x0 - m), min(width, x1 + m)

    def _alike(self, cells: list[Cell]) -> list[Cell]:
        """The first cells, up to one batch, whose windows have one shape."""
        shapes = [(y1 - y0, x1 - x0) for y0, y1, x0, x1 in map(self._window, cells[: self.batch])]
        count = next((i for i, shape in enumerate(shapes) if shape != shapes[0]), len(shapes))
        return cells[:count]

    def _attempt(self, group: list[Cell]) -> list[np.ndarray] | None:
        """The pieces of one call; None if memory ran out (after the failed call's tensors are gone)."""
        try:
            return self._call(group)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _shrink(self, cells: list[Cell], tried: int) -> list[Cell]:
        """What is left to do, in smaller portions: first fewer windows per call, then half the side."""
        if tried > 1:
            self.batch = tried // 2
            return cells
        y0, y1, x0, x1 = cells[0]
        largest = max(y1 - y0, x1 - x0)
        if largest <= SMALLEST:
            raise MemoryLimit(
                f"not enough memory on {self.device} even for pieces of {SMALLEST} x {SMALLEST} pixels; "
                "free some, or choose another device or a smaller model"
            )
        self.side = max(SMALLEST, _aligned(ceil(min(largest, self.side) / 2)))
        return [
            (*rows, *columns)
            for y0, y1, x0, x1 in cells
            for rows in _pieces(y0, y1, self.side)
            for columns in _pieces(x0, x1, self.side)
        ]

    def _call(self, group: list[Cell]) -> list[np.ndarray]:
        windows = [self._window(cell) for cell in group]
        cut = np.stack([self.image[y0:y1, x0:x1] for y0, y1, x0, x1 in windows])
        # The permuted tensor is "channels last" in memory, which convolutions like.
        x = torch.from_numpy(np.clip(cut, 0, 1) * 2 - 1).permute(0, 3, 1, 2).to(self.device)
        y = self._forward(x, self.dtype)
        s = self.scale
        expected = (len(group), 3, x.shape[2] * s, x.shape[3] * s)
        if tuple(y.shape) != expected:
            raise ModelError(
                f"the model gave {tuple(y.shape)} and not {expected}; use a model that upscales by {s}"
            )
        pieces = []
        for i, ((y0, y1, x0, x1), (top, _, left, _)) in enumerate(zip(group, windows, strict=True)):
            rows = slice((y0 - top) * s, (y1 - top) * s)
            columns = slice((x0 - left) * s, (x1 - left) * s)
            piece = y[i, :, rows, columns]
            if not torch.isfinite(piece).all():
                piece = self._forward(x[i : i + 1], torch.float32)[0, :, rows, columns]
                if not torch.isfinite(piece).all():
                    raise ModelError(
                        f"the model's values at rows {y0}-{y1}, columns {x0}-{x1} are not finite, not even "
                        "in float32: its weights or this machine are damaged"
                    )
            pieces.append((piece * 0.5 + 0.5).clamp(0, 1).permute(1, 2, 0).cpu().numpy())
        return pieces

    def _forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        lower = dtype != torch.float32
        autocast = torch.autocast(self.device.type, dtype) if lower else contextlib.nullcontext()
        with torch.inference_mode(), autocast:
            return self.model(x).float()


def spans(start: int, stop: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """Cuts start..stop into pieces whose windows are at most tile + 2*overlap long, equal but for the last.

    `start` is 0 or an inner edge; `tile` and `overlap` are multiples of `ALIGN`, and so are all inner edges.
    """
    origin = max(0, start - overlap)  # of the first window
    length = stop - origin
    if length <= tile + 2 * overlap:
        return [(start, stop)]
    n = ceil((length - 2 * overlap) / tile)
    step = _aligned(ceil((length - 2 * overlap) / n))
    edges = [start, *(origin + overlap + i * step for i in range(1, n)), stop]
    return list(pairwise(edges))


def automatic_tile(device: torch.device, overlap: int, each: int = BYTES_PER_PIXEL) -> int:
    """The side of a piece for which a window takes at most half of the memory that is free on `device`.

    each: bytes per pixel of a window.
    """
    window = isqrt(free_memory(device) // 2 // each)
    cap = CPU_SIDE if device.type == "cpu" else GPU_SIDE
    return max(SMALLEST, min(cap, (window - 2 * overlap) // ALIGN * ALIGN))


def _automatic_batch(device: torch.device, window: int, each: int) -> int:
    if device.type == "cpu":
        return 1  # one window fills the cores, and the caches
    pixels = min(GPU_PIXELS, free_memory(device) // 2 // each)
    return max(1, pixels // window**2)


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had on `device` (on the host within its control group); 2 GiB if unknown."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    known = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        known.append(1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")))
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        known.append(max(0, limit - used))
    if not known:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            known.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(known, default=2 << 30)


def _give_back() -> None:
    """Returns to the system what tiles of other shapes have left in the heap; only glibc can."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory has run out (torch has a type of its own only for some devices)."""
    said = str(error).lower()
    signs = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(sign in said for sign in signs)


def _aligned(length: int) -> int:
    return ceil(length / ALIGN) * ALIGN


def _pieces(start: int, stop: int, side: int) -> list[tuple[int, int]]:
    return [(at, min(at + side, stop)) for at in range(start, stop, side)]


def checked_tile(tile: int | str) -> int:
    """`tile`, where it is a number of pixels. Raises ConfigError."""
    if isinstance(tile, bool) or not isinstance(tile, int) or tile < 1:
        raise ConfigError(f'tile must be "auto" or a whole number of pixels from 1 upward, found {tile!r}')
    return tile


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Reflects at the right and bottom up to a multiple (repeats the edge where the image is too small)."""
    h, w = x.shape[-2:]
    down, right = -h % multiple, -w % multiple
    if right:
        x = F.pad(x, (0, right, 0, 0), mode="reflect" if right < w else "replicate")
    if down:
        x = F.pad(x, (0, 0, 0, down), mode="reflect" if down < h else "replicate")
    return x
