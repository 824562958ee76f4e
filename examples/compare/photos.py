"""How good are the results: sets of photographs, ways to enlarge them, and the measures of what comes out.

Files are read by Pillow and measured in 8 bits, as tables of papers are: nothing is tiled, nothing is fixed.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from unistep.data.degrade import degrade
from unistep.data.pairs import DataConfig, Photographs
from unistep.errors import ImageError
from unistep.evaluation.metrics import METRICS, Score
from unistep.models.checkpoint import load_student

Method = Callable[[Tensor], Tensor]
"""[1,3,h,w] -> [1,3,4h,4w], both in [0,1]."""
Centre = tuple[float, float]
"""Where to look, as shares of height and width."""
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
GAP, TITLE = 4, 20
"""Of a sheet, in pixels: between its panels, and for the names above."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    name: str
    lq: Tensor
    """[1,3,h,w] in [0,1]"""
    hr: Tensor | None
    """The truth, where it is known."""


def to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float() / 255


def to_image(x: Tensor) -> Image.Image:
    return Image.fromarray((x[0].permute(1, 2, 0) * 255).round().byte().numpy())


def read(path: Path) -> Tensor:
    with Image.open(path) as image:
        return to_tensor(image)


def files(source: Path, limit: int | None = None) -> list[Path]:
    """The images of a folder, sorted, or those that a text file lists, a path (relative to it) per line."""
    if source.is_file():
        found = [source.parent / line for line in source.read_text(encoding="utf-8").split("\n") if line]
    else:
        found = sorted(p for p in source.iterdir() if p.suffix.lower() in SUFFIXES)
    if not found:
        raise ImageError(f"{source} holds no image: name a folder of photographs, or a list of them.")
    return found[:limit]


def held_out(folder: Path, limit: int | None = None) -> list[Path]:
    """One crop of each photograph that the default training keeps out of a training folder."""
    photographs = Photographs(folder, DataConfig().holdout)
    first = {photographs.photograph[file]: file for file in reversed(photographs.held_out)}
    found = sorted(file for file in first.values() if isinstance(file, Path))
    if not found:
        raise ImageError(f"{folder} keeps no image file out of training: name a folder of photographs.")
    return found[:limit]


def degraded(paths: Sequence[Path], preset: str, seed: int) -> Iterator[Sample]:
    """Clean photographs, degraded: the place in the list is the index that seeds each."""
    for index, path in enumerate(paths):
        x = read(path)
        x = x[..., : x.shape[2] // 4 * 4, : x.shape[3] // 4 * 4]
        lq, hr = degrade(x, preset, seed=seed, indices=[index])
        yield Sample(path.stem, lq, hr)


def pairs(folder: Path, limit: int | None = None) -> Iterator[Sample]:
    """Real pairs: `lr/` and `hr/` with the same names, 4 times apart."""
    for path in files(folder / "lr", limit):
        yield Sample(path.stem, read(path), read(folder / "hr" / path.name))


def alone(folder: Path, limit: int | None = None) -> Iterator[Sample]:
    """Low-quality photographs without a reference."""
    for path in files(folder, limit):
        yield Sample(path.stem, read(path), None)


def bicubic(x: Tensor) -> Tensor:
    """Pillow's bicubic (a = -0.5), the usual baseline."""
    image = to_image(x)
    return to_tensor(image.resize((image.width * 4, image.height * 4), Image.Resampling.BICUBIC))


def student(path: Path) -> Method:
    """A model of the compact family, or a restorer of others: the picture as a whole."""
    layout: Any = {"memory_format": torch.channels_last}
    net = load_student(path).eval().requires_grad_(False).to(**layout)
    return lambda x: (net((x * 2 - 1).contiguous(memory_format=torch.channels_last)) + 1) / 2


def rounded(method: Method, x: Tensor) -> Tensor:
    """A method's result in 8 bits, as a file has it."""
    return (method(x).clamp(0, 1) * 255).round() / 255


def scores(niqe: Path | None = None, lpips: Sequence[Path] | None = None) -> dict[str, Score]:
    """The measures that need no file, and those whose files are given."""
    given = {"niqe": niqe and [niqe], "lpips_squeeze": lpips}
    return {
        name: metric.open(*(given.get(name) or ()))
        for name, metric in METRICS.items()
        if metric.self_contained or given.get(name)
    }


def measure(measures: dict[str, Score], result: Tensor, reference: Tensor | None) -> dict[str, float]:
    """nan where a measure needs a reference that is not there, or a larger image."""
    out = {}
    for name, score in measures.items():
        arguments = (result, reference) if METRICS[name].needs_reference else (result,)
        try:
            out[name] = math.nan if arguments[-1] is None else float(score(*arguments))
        except ImageError as error:
            log.warning("%s: %s", name, error)
            out[name] = math.nan
    return out


def sheet(panels: dict[str, Tensor], crop: int, centre: Centre = (0.5, 0.5)) -> Image.Image:
    """Panels side by side at 1:1 under their names, each the same crop of at most `crop` pixels; 0: whole.

    centre: where the crop lies, as far as it can.
    """
    height, width = next(iter(panels.values())).shape[2:]
    h, w = (min(height, crop), min(width, crop)) if crop else (height, width)
    # On the lattice of low-resolution pixels, so that all panels begin with a whole one.
    top, left = (
        round(min(max(share * whole - side / 2, 0), whole - side)) // 4 * 4
        for share, whole, side in zip(centre, (height, width), (h, w), strict=True)
    )
    page = Image.new("RGB", ((w + GAP) * len(panels) - GAP, h + TITLE), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for i, (name, x) in enumerate(panels.items()):
        page.paste(to_image(x[..., top : top + h, left : left + w]), (i * (w + GAP), TITLE))
        draw.text((i * (w + GAP) + w / 2, TITLE / 2), name, "black", font=font, anchor="mm")
    return page


def page(
    samples: Sequence[Sample], centres: Mapping[str, Centre], methods: Mapping[str, Method], crop: int
) -> Image.Image:
    """A sheet per sample: the same crop at 1:1 of the input, of each method's result and of the truth."""
    rows = []
    for sample in samples:
        panels = {"input": F.interpolate(sample.lq, scale_factor=4, mode="nearest")}
        panels |= {name: method(sample.lq).clamp(0, 1) for name, method in methods.items()}
        if sample.hr is not None:
            panels["ground truth"] = sample.hr
        rows.append(sheet(panels, crop, centres.get(sample.name, (0.5, 0.5))))
    page = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), "white")
    for i, row in enumerate(rows):
        page.paste(row, (0, sum(above.height for above in rows[:i])))
    return page
