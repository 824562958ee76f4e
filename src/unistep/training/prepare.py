"""`unistep prepare`: photographs cut into crops, with their latents and prompts, once for all epochs.

For a method that learns from a restorer the crops become whole pairs, with its results, instead (`targets`).
What each shard is to hold is decided before the first is made, by names, sizes and bytes of the photographs.
So a prepare that was killed goes on with the next shard, and ends in the same bytes.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..atomic import remove_leftovers
from ..bases import face_of
from ..bases.face import Sources, wordless
from ..data.filters import usm_sharpen
from ..data.pairs import Photographs
from ..data.shards import INDEX, PROMPTS, Crop, Made, digest, read_index, save_index, save_shard, shard_header
from ..data.skipping import Report, each
from ..data.sources import Photo, content, large_enough, load_rgb, size_of, text_of
from ..diffusion.denoiser import Base
from ..errors import ConfigError, DataError
from ..models.authors import read_any
from ..recipes.config import Run, kind, method_of, override
from ..recipes.recipes import recipe
from .opening import find, open_prompts, open_run
from .targets import check_scale, make_pairs, shares

ENCODED = 4
"""Crops that the encoder sees at once; always the same, since sums are rounded by it."""
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
Tick = Callable[[float, str], None]


@dataclass(frozen=True)
class Cut:
    """A crop to be made."""

    photo: Photo
    name: str
    """PHOTOGRAPH'S NAME@TOP,LEFT, and #k for the k-th of the pairs that are made of it."""
    sha256: str
    """Of the photograph's file."""
    top: int
    left: int


def grid(width: int, height: int, patch: int) -> list[tuple[int, int]]:
    """(top, left) of as many crops as fit beside each other, spread evenly from border to border."""

    def along(side: int) -> list[int]:
        count, rest = side // patch, side - patch
        return [rest // 2] if count == 1 else [i * rest // (count - 1) for i in range(count)]

    return [(top, left) for top in along(height) for left in along(width)]


def plan(photographs: Photographs, run: Run, most: int | None, report: Report) -> list[Cut]:
    """Every crop of every photograph; or of each the `most` that a hash of their names puts first.

    Each stands data.draws times in the list where it is to become pairs.
    Photographs that cannot be used are left out as `each` says.
    """
    patch, draws = run.data.patch, range(run.data.draws) if method_of(run).restores else None

    def cuts(photo: Photo) -> list[Cut]:
        assert not isinstance(photo, Crop)
        width, height = size_of(photo)
        large_enough(photo, width, height, patch)
        if run.data.prompts:
            text_of(photo)
        sha256, name = hashlib.sha256(content(photo)).hexdigest(), photographs.names[photo]
        own = [
            Cut(photo, f"{name}@{top},{left}", sha256, top, left) for top, left in grid(width, height, patch)
        ]
        kept = sorted(own, key=lambda cut: hashlib.sha256(cut.name.encode()).digest())[:most]
        own = [cut for cut in own if cut in kept]
        return own if draws is None else [replace(cut, name=f"{cut.name}#{k}") for cut in own for k in draws]

    every = each(photographs.names, cuts, "images", run.data.strict, report)
    return [cut for own in every for cut in own]


def prepare(
    run: Run, data: Path, out: Path, most: int | None = None, report: Report = print, tick: Tick | None = None
) -> Path:
    """Writes crops with latents, or pairs, and embeddings of the photographs of `data` for `run` into `out`.

    What is there and whole is kept. Returns the index. Raises DataError if `out` holds a data set that was
    made otherwise, ConfigError, ModelError.
    """
    texts = face_of(run.base).text is not None
    if run.data.prompts and not texts:
        raise wordless(kind(run.base))
    photographs = Photographs(data, 0.0, run.data.strict, report)
    if photographs.prepared:
        raise DataError(f"{data}: expected photographs, found a data set that is prepared: train with it")
    size, sources = run.data.shard, find(run)
    made = determined(run, sources)
    listed = _before(out, made)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # Targets are made in full precision: "auto" would mean another one on another machine.
    exact = replace(run, train=replace(run.train, precision="fp32"))
    opened = open_run(exact, device, photographs, sources)
    if made.pairs:
        check_scale(run, opened.base.scale)
    cuts = plan(photographs, run, most, report)
    shards = [cuts[i : i + size] for i in range(0, len(cuts), size)]
    out.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out)
    entries = []
    for i, part in enumerate(shards):
        path = out / f"shard-{i:05d}.safetensors"
        contents = _contents(made, part)
        if not _whole(path, contents, listed.get(path.name)):
            (out / INDEX).unlink(missing_ok=True)  # it would name bytes that are about to go
            x_hq, rows = _cropped(part, run, f"images of {path.name}", report)
            if opened.restore is None:
                tensors = _with_latents(opened.base, x_hq, run)
            else:
                tensors = make_pairs(x_hq, [i * size + row for row in rows], run, opened.restore, device)
            save_shard(path, tensors, {"contents": contents, "rows": rows})
        entries.append(_entry(path, photographs, part, run))
        line = f"{i + 1}/{len(shards)} shards"
        tick((i + 1) / len(shards), line) if tick else report(line)
    if texts:
        told = {text for entry in entries for text in entry["texts"] if text is not None}
        prompts = open_prompts(run, sources, device)
        prompts.copy([run.base.prompt, run.base.negative, *sorted(told)], out / PROMPTS)
    source = {"sha256": _contents(made, cuts), "images": len({cut.photo for cut in cuts})}
    save_index(out, made, entries, {"data": source})
    count = sum(entry["count"] for entry in entries)
    left_out = f", {len(cuts) - count} left out" if count < len(cuts) else ""
    what = "pairs" if made.pairs else "crops"
    report(f"{count} {what} in {len(shards)} shards in {out}{left_out}")
    return out / INDEX


def determined(run: Run, sources: Sources) -> Made:
    """What the rows depend on, beside the photographs. Raises ConfigError for draws of no pairs."""
    d, init = run.data, sources.get("train.init")
    if method_of(run).restores:
        sha256 = sources["train.restorer"].sha256
        return Made("", "", d.patch, d.usm_sharpen, "", sha256, shares(run), run.train.seed, d.draws)
    if d.draws != 1:
        raise ConfigError(
            f"expected data.draws to be 1 for {run.name}, whose crops are degraded anew each time they come, "
            f"found {d.draws}: leave it out"
        )
    return Made(kind(run.base), init.sha256 if init else "", d.patch, d.usm_sharpen, d.latents)


def _before(out: Path, made: Made) -> dict[str, str]:
    """Shard -> SHA-256, by the index that is there. Raises DataError for that of another data set."""
    if not (out / INDEX).exists():
        return {}
    before, shards = read_index(out)
    if before != made:
        raise DataError(
            f"{out}: expected a data set of {made.to_dict()}, found one of {before.to_dict()}: "
            "name another --out"
        )
    return {shard["file"]: shard["sha256"] for shard in shards}


def _contents(made: Made, part: Sequence[Cut]) -> str:
    """A hash of all that determines a shard."""
    rows = [(cut.name, cut.sha256) for cut in part]
    return hashlib.sha256(json.dumps([made.to_dict(), rows]).encode()).hexdigest()


def _whole(path: Path, contents: str, sha256: str | None) -> bool:
    """Whether a shard is there, has these contents and, if an index names it, its bytes."""
    try:
        return shard_header(path).get("contents") == contents and sha256 in (None, digest(path))
    except DataError:
        return False


def _cropped(part: Sequence[Cut], run: Run, what: str, report: Report) -> tuple[Tensor, list[int]]:
    """The crops of a shard, and which of `part` they are: not those of photographs that do not decode."""

    patch = run.data.patch

    def cropped(rows: list[int]) -> list[tuple[int, Tensor]]:
        image = load_rgb(part[rows[0]].photo)
        places = [(row, part[row].top, part[row].left) for row in rows]
        return [(row, image[:, top : top + patch, left : left + patch]) for row, top, left in places]

    photos = [list(rows) for _, rows in groupby(range(len(part)), lambda row: part[row].photo)]
    every = each(photos, cropped, what, run.data.strict, report, needed=False)
    made = [row for own in every for row in own]
    x_hq = torch.stack([x for _, x in made]) if made else torch.zeros(0, 3, patch, patch, dtype=torch.uint8)
    return x_hq, [row for row, _ in made]


def _with_latents(base: Base, x_hq: Tensor, run: Run) -> dict[str, Tensor]:
    """The tensors of a shard of latents."""
    z_hq = torch.cat([z.cpu() for z in _encoded(base, x_hq, run)]) if len(x_hq) else torch.zeros(0)
    return {"x_hq": x_hq, "z_hq": z_hq.to(DTYPES[run.data.latents])}


@torch.no_grad()
def _encoded(base: Base, x_hq: Tensor, run: Run) -> Iterator[Tensor]:
    """Latents as training makes them: of the ground truth, sharpened if the run says so."""
    device = getattr(base, "device", "cpu")
    for x in torch.split(x_hq, ENCODED):
        image = x.to(device).float() / 255
        yield base.encode((usm_sharpen(image) if run.data.usm_sharpen else image) * 2 - 1).float()


def _entry(path: Path, photographs: Photographs, part: Sequence[Cut], run: Run) -> dict[str, Any]:
    """A shard in the index."""
    cuts = [part[row] for row in shard_header(path)["rows"]]
    return {
        "file": path.name,
        "sha256": digest(path),
        "count": len(cuts),
        "names": [cut.name for cut in cuts],
        "photographs": [photographs.photograph[cut.photo] for cut in cuts],
        "texts": [text_of(cut.photo) if run.data.prompts else None for cut in cuts],
    }


def main(
    name: str,
    data: Path,
    out: Path,
    settings: list[str],
    most: int | None = None,
    given: tuple[Path | None, Path | None] = (None, None),
    report: Report = print,
    tick: Tick | None = None,
) -> Path:
    """`unistep prepare`. given: folders of TSD-SR's embeddings of base.prompt and of base.negative."""
    run = override(recipe(name), settings)
    if most is not None and most < 1:
        raise ConfigError(f"expected --crops to be 1 or more, found {most}")
    for text, folder in zip(("prompt", "negative"), given, strict=True):
        if folder is not None:
            embedding = face_of(run.base).embedding(folder, read_any)
            open_prompts(run, find(run), torch.device("cpu")).take(getattr(run.base, text), embedding)
    try:
        return prepare(run, data, out, most, report, tick)
    except OSError as error:
        raise DataError(
            f"{out}: cannot be written ({error}): make room, and the same command goes on from the last shard"
        ) from error
