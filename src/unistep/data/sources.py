"""Where photographs lie: as files in folders, in tar archives (WebDataset), as crops in shards.

A tar is read where it lies, through an index of offsets: nothing is extracted, so no name in it leads
anywhere.
"""

import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from ..errors import DataError, ImageError
from ..image import MAX_PIXELS, probe, read_image
from .shards import Crop
from .skipping import R, Report, each

SUFFIXES = (".png", ".webp", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".avif")
ARCHIVE = ".tar"
LARGEST, LONGEST = 16 * MAX_PIXELS, 1 << 16
"""Bytes of a picture in an archive, and of a text: what is larger is neither."""
ROLE = re.compile(r"(?<![^\W_])(?:(hr|gt|hq)|lr|lq)(?![^\W\d_])", re.IGNORECASE)
"""A word of a name that says which half of a pair it is: the ground truth, or else the degraded one."""


@dataclass(frozen=True)
class Member:
    """A picture in a tar archive, and its text if it has one: where their bytes begin, and how many."""

    archive: Path
    name: str
    at: tuple[int, int]
    text: tuple[int, int] | None

    def __str__(self) -> str:
        return f"{self.archive}: {self.name}"

    def read(self, at: tuple[int, int], limit: int) -> bytes:
        if at[1] > limit:
            raise DataError(f"{self}: expected at most {limit} bytes, found {at[1]}: remove it")
        try:
            with self.archive.open("rb") as file:
                file.seek(at[0])
                return file.read(at[1])
        except OSError as error:
            raise DataError(f"{self}: cannot be read ({error.strerror}): remove the archive") from error


Photo = Path | Member | Crop
"""A file, a picture in an archive, or a crop in a shard."""


def listed(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files in `folder` and below that end so, sorted; hidden ones are left out."""
    return sorted(
        p
        for p in folder.rglob("*")
        if p.suffix.lower() in suffixes and not p.name.startswith(".") and p.is_file()
    )


def image_files(folder: Path, suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
    """The image files in `folder` and below, sorted. Raises DataError if there are none."""
    if not folder.is_dir():
        raise DataError(
            f"{folder}: expected a folder of images, found {'a file' if folder.exists() else 'nothing'}"
        )
    files = listed(folder, suffixes)
    if not files:
        raise DataError(f"{folder}: expected images ({', '.join(suffixes)}), found none")
    return files


def members(archive: Path) -> list[Member]:
    """The pictures of a tar archive, each with KEY.txt as its text. Raises DataError for a damaged archive.

    Only plain, uncompressed members count. An archive that ends early is damaged, although tarfile would read
    its beginning: which samples a run sees must not depend on where a copy broke off.
    """
    try:
        with tarfile.open(archive, "r:") as tar:
            found = {
                str(PurePosixPath(m.name)): (m.offset_data, m.size)
                for m in tar
                if m.isreg() and not m.issparse()
            }
            end = tar.offset
        with archive.open("rb") as file:
            file.seek(end)
            whole = not file.read(tarfile.BLOCKSIZE).strip(b"\0") and end <= archive.stat().st_size
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise DataError(f"{archive}: expected a tar archive, found something else ({error})") from error
    if not whole:
        raise DataError(f"{archive}: expected a whole tar archive, found one that breaks off at byte {end}")
    return [
        Member(archive, name, at, found.get(str(PurePosixPath(name).with_suffix(".txt"))))
        for name, at in sorted(found.items())
        if PurePosixPath(name).suffix.lower() in SUFFIXES and not PurePosixPath(name).name.startswith(".")
    ]


def refuse_pairs(folder: Path, names: Iterable[str]) -> None:
    """Raises DataError if the pictures of `folder` called `names` are training pairs, beside each other.

    So they are if some picture is there twice, under names that differ in which half they say it is:
    hr/a.png and lr/a.png, test_HR and test_LR, DIV2K_HR/0001.png and DIV2K_LR_bicubic/X4/0001x4.png, or
    a_HR.png and a_LR4.png in one folder.
    """
    halves: tuple[dict[tuple[str, str], str], dict[tuple[str, str], str]] = ({}, {})
    for name in names:
        stem = str(PurePosixPath(name).with_suffix(""))
        for role in ROLE.finditer(stem):
            rest, half = stem[role.end() :], name
            picture = rest.lstrip("0123456789")
            if "/" in rest:  # the name of a folder says it
                more, _, within = rest.partition("/")
                picture = re.sub(r"(?<![^/])x\d/|x\d$", "", within, flags=re.IGNORECASE)  # X4/0001x4
                half = stem[: role.end()] + more
            halves[not role[1]].setdefault((stem[: role.start()].lower(), picture), half)
    truth, degraded = halves
    key = next((key for key in truth if key in degraded), None)
    if key is not None:
        whole = folder / truth[key]
        raise DataError(
            f"{folder}: expected photographs, found pairs ({truth[key]} beside {degraded[key]}), whose "
            "degraded halves would be taken for ground truth: give the ground truth alone"
            + (f" ({whole})" if whole.is_dir() else "")
        )


def content(photo: Path | Member) -> bytes:
    """The bytes of a picture as it is stored. Raises DataError."""
    if isinstance(photo, Member):
        return photo.read(photo.at, LARGEST)
    try:
        return photo.read_bytes()
    except OSError as error:
        raise DataError(f"{photo}: cannot be read ({error.strerror}): remove it") from error


def load_rgb(photo: Photo) -> Tensor:
    """[3, H, W] uint8, sRGB. Raises ImageError or DataError naming what cannot be read."""
    if isinstance(photo, Crop):
        return photo.read("x_hq")
    rgb = torch.from_numpy(_by(read_image, photo).rgb).permute(2, 0, 1)
    return (rgb.clamp(0, 1) * 255).round().to(torch.uint8).contiguous()


def size_of(photo: Path | Member) -> tuple[int, int]:
    """(width, height), from the picture's header. Raises as `load_rgb` does."""
    return _by(probe, photo)


def _by(read: Callable[[Path | bytes], R], photo: Path | Member) -> R:
    """What `read` makes of the picture; a member of an archive is named in its errors too."""
    if isinstance(photo, Path):
        return read(photo)
    try:
        return read(content(photo))
    except ImageError as error:
        raise ImageError(f"{photo}: {str(error).partition(': ')[2]}") from error


def text_of(photo: Photo) -> str | None:
    """What the picture shows, in the words of the text file beside it: NAME.txt; None if there is none.

    Raises DataError for a text that is not UTF-8 or longer than LONGEST bytes.
    """
    if isinstance(photo, Crop):
        return photo.text
    if isinstance(photo, Member):
        data = None if photo.text is None else photo.read(photo.text, LONGEST)
    else:
        file = photo.with_suffix(".txt")
        data = content(file)[: LONGEST + 1] if file.is_file() else None
    if data is None:
        return None
    try:
        if len(data) > LONGEST:
            raise ValueError(f"more than {LONGEST} bytes")
        return " ".join(data.decode("utf-8-sig").split())
    except ValueError as error:
        raise DataError(
            f"{photo}: expected its text to be UTF-8 of at most {LONGEST} bytes, found another ({error})"
        ) from error


def usable(
    photos: Iterable[Photo], least: int, strict: bool, report: Report, *, prompts: bool = False, use: str = ""
) -> Iterator[tuple[Photo, Tensor]]:
    """Each picture that can be read and has `least` pixels on each side, with its [3, H, W] uint8.

    The others are left out as `each` says. prompts: a text that cannot be read counts too. use: what the
    pixels are for.
    """

    def opened(photo: Photo) -> tuple[Photo, Tensor]:
        image = load_rgb(photo)
        large_enough(photo, image.shape[2], image.shape[1], least, use)
        if prompts:
            text_of(photo)
        return photo, image

    return each(photos, opened, "images", strict, report)


def large_enough(photo: Photo, width: int, height: int, least: int, use: str = "") -> None:
    """Raises DataError for a picture with less than `least` pixels on a side."""
    if min(width, height) < least:
        raise DataError(
            f"{photo}: expected at least {least} pixels on each side{use}, found {width}x{height}: remove it "
            "or lower data.patch"
        )
