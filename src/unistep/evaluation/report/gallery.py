"""Crops of the kept pictures for a page, worst cases first, within a budget of bytes.

A loss is how much worse than the best of the others a model is on an image by a metric. Images are taken in
turn: of every model and metric the worst, then of every one the second worst.
"""

import base64
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ...errors import DataError, UnistepError
from ...image.stored import Codes
from ..keeping import LOW, TRUTH, Pictures
from ..sets import read
from .crops import Crop, choose
from .reading import Findings

Losses = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Card:
    """A crop as the page has it; `views` are data URIs of the input, the truth ("" if none), all results."""

    on: str
    image: int
    """Its place in the set."""
    crop: Crop
    views: tuple[str, ...]

    @property
    def said(self) -> dict[str, Any]:
        crop = self.crop
        return {"image": self.image, "kind": crop.kind, "x": crop.x, "y": crop.y, "width": crop.width,
                "height": crop.height, "views": self.views}  # fmt: skip

    @property
    def bytes(self) -> int:
        return 200 + sum(map(len, self.views))


def losses(findings: Findings, on: str, metric: str) -> Losses | None:
    """[judged, images], nan where a value is missing; None for a metric that somebody has no value of.

    Alone, a model's loss is how far it is below its own best.
    """
    columns = [findings.values.get((on, who, metric)) for who in findings.results["order"]["judged"]]
    if any(column is None for column in columns):
        return None
    badness: Losses = np.array(columns)
    better = findings.results["metrics"][metric]["better"]
    badness = {"higher": -badness, "lower": badness, "near 1": np.abs(badness - 1)}[better]
    if np.isnan(badness).all(1).any():
        return None
    if len(badness) == 1:
        others = np.full_like(badness, np.nanmin(badness))
    else:
        others = np.array([np.delete(badness, row, 0).min(0) for row in range(len(badness))])
    lost: Losses = badness - others
    return lost


def worst(findings: Findings, on: str) -> list[int]:
    """Every image of a set once, the worst cases first."""
    judged, queues = findings.results["order"]["judged"], []
    models = [i for i, who in enumerate(judged) if findings.results["judged"][who]["kind"] != "bicubic"]
    for metric in findings.results["order"]["metrics"]:
        lost = losses(findings, on, metric)
        if lost is not None:
            for row in lost[models or [0]]:
                order = np.argsort(-np.nan_to_num(row, nan=-np.inf), kind="stable")
                queues.append([int(i) for i in order])
    queues.append(list(range(len(findings.images[on]))))
    return list(dict.fromkeys(itertools.chain.from_iterable(zip(*queues, strict=True))))


def cards(findings: Findings, count: int, size: int, budget: int) -> tuple[list[Card], bool]:
    """Up to `count` crops of each set that need no more than `budget` bytes together.

    Sets take turns, each with its worst images first. Gives whether the budget left something out, too.
    Raises DataError for a picture that is gone or damaged.
    """
    assert findings.pictures is not None
    found: list[Card] = []
    used = 0
    streams = [_crops(findings, findings.pictures, on, count, size) for on in findings.pictured]
    for card in itertools.chain.from_iterable(itertools.zip_longest(*streams)):
        if card is not None:
            used += card.bytes
            if used > budget:
                return found, True
            found.append(card)
    return found, False


def _crops(findings: Findings, kept: Pictures, on: str, count: int, size: int) -> Iterator[Card]:
    results, said, done = findings.results, findings.results["sets"][on], 0
    scale = said["scale"]
    for image in worst(findings, on):
        if done >= count:
            return
        name = findings.images[on][image]
        low = _read(kept, on, LOW, name)
        truth = _read(kept, on, TRUTH, name) if said["reference"] else None
        judged = [_read(kept, on, who, name) for who in results["order"]["judged"]]
        if any(codes.shape[:2] != judged[0].shape[:2] for codes in judged):
            raise DataError(f"expected kept pictures of one size for {on}/{name}, found others")
        beside = _enlarged(low, scale) if truth is None else truth
        for crop in choose(judged, beside, size, scale)[: count - done]:
            large = [None if truth is None else crop.of(truth), *map(crop.of, judged)]
            views = (_uri(crop.of(low, scale)), *("" if part is None else _uri(part) for part in large))
            yield Card(on, image, crop, views)
            done += 1


def _read(kept: Pictures, on: str, who: str, name: str) -> Codes:
    path = kept.path(on, who, name)
    try:
        return read(path)
    except (UnistepError, OSError) as error:
        raise DataError(
            f"expected the kept picture {path}, found: {error}: remove it and run the same unistep eval "
            "command with --keep-pictures"
        ) from error


def _enlarged(low: Codes, scale: int) -> Codes:
    size = (low.shape[1] * scale, low.shape[0] * scale)
    return np.asarray(Image.fromarray(low).resize(size, Image.Resampling.BICUBIC))


def _uri(codes: Codes) -> str:
    """A lossless WebP; the same pixels give the same text."""
    data = BytesIO()
    Image.fromarray(np.ascontiguousarray(codes)).save(data, "WEBP", lossless=True, quality=60, method=4)
    return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode()


def focus(findings: Findings) -> tuple[int, int] | None:
    """(judged, metric) that a page begins with: the first model, the first metric with values of images."""
    order = findings.results["order"]
    kinds = [findings.results["judged"][who]["kind"] for who in order["judged"]]
    who = next((i for i, kind in enumerate(kinds) if kind != "bicubic"), 0)
    for i, metric in enumerate(order["metrics"]):
        if any(losses(findings, on, metric) is not None for on in findings.images):
            return who, i
    return None
