"""What a training takes along to a machine without a network: photographs, restorers, wheels in one folder.

photographs/*.webp, manifest.csv    crops of photographs, evenly chosen by the hashes of their names
restorer/NAME, restorer2/NAME       one-step models whose results are targets, in fp16
wheels/*.whl                        what that machine lacks
"""

import csv
import hashlib
import io
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

from unistep.data.pairs import Photographs
from unistep.data.sources import Photo, load_rgb
from unistep.models.checkpoint import resolve
from unistep.recipes.recipes import recipe
from unistep.tensors import read

LIMIT = 60e6
"""Bytes of a pack; the tree that it travels in needs a few more."""
RECIPE = "compact-distilled"
QUALITY, SIDE = 90, 640
"""Of a WebP, and pixels of the longest crop; a training's own crops are cut out of it."""
THIN = ("imagecodecs",)
"""Packages whose compiled codecs stay here: 26 MB that read formats a pack does not hold."""
MANIFEST = "manifest.csv"
PHOTOGRAPHS, RESTORERS, WHEELS = "photographs", ("restorer", "restorer2"), "wheels"


@dataclass(frozen=True)
class Pack:
    """What lies in a folder that `pack` made."""

    photographs: Path
    restorers: tuple[Path, ...]

    @classmethod
    def open(cls, folder: Path) -> "Pack":
        """Exits with one sentence for another folder."""
        found = [next((folder / name).glob("*.safetensors"), None) for name in RESTORERS]
        if not (folder / PHOTOGRAPHS / MANIFEST).is_file() or found[0] is None:  # it is written last
            raise SystemExit(f"{folder}: expected a pack, found none: make it with gpu.py pack")
        return cls(folder / PHOTOGRAPHS, tuple(file for file in found if file is not None))


def size(folder: Path) -> int:
    """Bytes of all files in it."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def pack(
    data: Path, restorers: Iterable[str], out: Path, wheels: Path | None = None, most: float = 40e6,
    limit: float = LIMIT,
) -> int:  # fmt: skip
    """Makes the folder `out`, and returns how many photographs are in it.

    data: a folder of photographs, of which those that the recipe holds out stay here. most: bytes of
    photographs, and no more than what the rest leaves of `limit`. Exits with one sentence where it leaves too
    little; what was made is then removed.
    """
    if out.exists():
        raise SystemExit(f"expected {out} to be new, found it there: name another --out")
    try:
        for place, name in zip(RESTORERS, restorers, strict=False):
            narrowed(resolve(name), out / place)
        for wheel in sorted(wheels.glob("*.whl")) if wheels else []:
            (out / WHEELS).mkdir(parents=True, exist_ok=True)
            thinned(wheel, out / WHEELS / wheel.name)
        room = limit - size(out)
        kept = 0 if room <= 0 else photographs(data, out / PHOTOGRAPHS, min(most, room))
        if not kept:
            raise SystemExit(
                f"expected room for photographs within {limit / 1e6:.1f} MB, found {size(out) / 1e6:.1f} MB "
                f"of restorers and wheels and {most / 1e6:.1f} MB allowed to photographs: leave something "
                "out, or raise --most"
            )
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    return kept


def narrowed(file: Path, folder: Path) -> None:
    """The network in `file`, in fp16 and otherwise as it was."""
    tensors, about = read(file)
    folder.mkdir(parents=True)
    half = {name: t.half() if t.dtype == torch.float32 else t for name, t in tensors.items()}
    save_file(half, folder / file.name, about)


def thinned(wheel: Path, out: Path) -> None:
    """A copy of the wheel, without compiled modules if the package is one of THIN."""
    if not wheel.name.startswith(THIN):
        shutil.copyfile(wheel, out)
        return

    def stays(name: str) -> bool:
        return ".libs/" not in name and not name.endswith((".so", ".pyd"))

    with zipfile.ZipFile(wheel) as whole, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as thin:
        for name in filter(stays, whole.namelist()):
            content = whole.read(name)
            if name.endswith(".dist-info/RECORD"):
                rows = content.decode().splitlines(keepends=True)
                content = "".join(row for row in rows if stays(row.partition(",")[0])).encode()
            thin.writestr(name, content)


def photographs(data: Path, out: Path, most: float) -> int:
    """Fills `out` with at most `most` bytes of crops. Returns their number."""
    config = recipe(RECIPE).data
    found = Photographs(data, config.holdout)
    names = sorted((hashlib.sha256(found.names[photo].encode()).hexdigest(), photo) for photo in found.train)
    out.mkdir(parents=True)
    rows, left = [], most
    for name, image in encoded(names, config.patch):
        whose = hashlib.sha256(found.photograph[name[1]].encode()).hexdigest()
        row = (f"{name[0][:16]}.webp", "pack", whose)
        if (left := left - len(image) - len(",".join(row)) - 2) < 0:
            break
        (out / row[0]).write_bytes(image)
        rows.append(row)
    with (out / MANIFEST).open("w", newline="") as file:  # crops of one photograph stay together
        csv.writer(file).writerows([("file", "repo", "path"), *rows])
    return len(rows)


def encoded(names: Iterable[tuple[str, Photo]], least: int) -> Iterator[tuple[tuple[str, Photo], bytes]]:
    """Each photograph of `least` pixels on each side, or what SIDE x SIDE show of it, as WebP."""
    for name in names:
        image = load_rgb(name[1])
        if min(image.shape[1:]) < least:
            continue
        height, width = (min(SIDE, side) for side in image.shape[1:])
        place = int(name[0], 16)
        top = place % (image.shape[1] - height + 1)
        left = place // 2**32 % (image.shape[2] - width + 1)
        crop = image[:, top : top + height, left : left + width].permute(1, 2, 0).contiguous().numpy()
        stream = io.BytesIO()
        Image.fromarray(crop).save(stream, "WEBP", quality=QUALITY)
        yield name, stream.getvalue()
