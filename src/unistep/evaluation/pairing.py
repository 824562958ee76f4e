"""Which files of two folders belong together: by name, never by their place in a listing.

Two files are one pair if their names without the suffix are equal. Of those that have no partner then, an
ending that only says which half of a pair a file is is left out (`0801x4` and `0801`, `Canon_001_LR4` and
`Canon_001_HR`, `cat_out` and `cat`), once, and they are compared again. A name that two files of one folder
have is nobody's.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import DataError
from ..upscaling.scanning import KINDS, RAW, scan

Rule = Literal["stop", "skip"]
ENDING = re.compile(r"(?:[_-]?x[1-8]|[_-](?:lr[1-8]?|lq|hr|hq|gt|sr|out))$", re.IGNORECASE)
PICTURES = {"HEIC", RAW, "JPEG XL", "JPEG 2000", "a picture of this kind", "a picture in layers"}
"""Kinds of files that are pictures and are not read: they count as unreadable, and other files do not."""
LISTED = 20
"""Files that a sentence names; of the others it says how many there are."""


@dataclass(frozen=True)
class Problem:
    """A file that cannot be measured, and why; `name` is its sample's, where it has one."""

    file: Path
    why: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.file.parent.name}/{self.file.name} ({self.why})"


@dataclass(frozen=True)
class Matched:
    pairs: tuple[tuple[Path, Path], ...]
    """In the order of the first folder."""
    left: tuple[Path, ...]
    """Of the first folder, without a partner."""
    right: tuple[Path, ...]


def stem(path: Path) -> str:
    """The name without its suffix; accents composed, so that two disks' spellings are one."""
    return unicodedata.normalize("NFC", path.stem)


def bare(name: str) -> str:
    """The name without an ending that says which half of a pair it is; never empty."""
    return ENDING.sub("", name) or name


def pictures(folder: Path, recursive: bool = False) -> tuple[list[Path], list[Problem]]:
    """The picture files of a folder by name, and those that are pictures of a kind that is not read.

    Hidden files, notes and, unless `recursive`, folders inside are passed over. Raises DataError if there is
    no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise DataError(f"expected a folder of pictures, found none at {folder}: name one that exists")
    found, bad = [], []
    for path, why in scan(folder, recursive, None):
        if why is None:
            found.append(path)
        elif isinstance(why, OSError) or KINDS.get(path.suffix.lower()) in PICTURES:
            bad.append(Problem(path, str(why), stem(path)))
    if not found and not bad:
        raise DataError(f"expected pictures in {folder}, found none: name the folder that holds them")
    return found, bad


def unique(files: Sequence[Path]) -> tuple[list[Path], list[Problem]]:
    """The files whose name no other file has, and the others."""
    count: dict[str, int] = {}
    for file in files:
        count[stem(file)] = count.get(stem(file), 0) + 1
    twice = [
        Problem(file, "another file has this name", stem(file)) for file in files if count[stem(file)] > 1
    ]
    return [file for file in files if count[stem(file)] == 1], twice


def match(first: Sequence[Path], second: Sequence[Path]) -> Matched:
    """Pairs of files, a name of each; the names within `first` and within `second` are distinct."""
    partner = _by(stem, first, second)
    left = [file for file in first if file not in partner]
    taken = set(partner.values())
    partner |= _by(lambda file: bare(stem(file)), left, [file for file in second if file not in taken])
    taken = set(partner.values())
    return Matched(
        tuple((file, partner[file]) for file in first if file in partner),
        tuple(file for file in first if file not in partner),
        tuple(file for file in second if file not in taken),
    )


def _by(key: Callable[[Path], str], first: Sequence[Path], second: Sequence[Path]) -> dict[Path, Path]:
    """Partners under keys that one file of each side has."""
    sides: list[dict[str, list[Path]]] = [{}, {}]
    for side, files in zip(sides, (first, second), strict=True):
        for file in files:
            side.setdefault(key(file), []).append(file)
    both = [(files, sides[1].get(name, [])) for name, files in sides[0].items()]
    return {a[0]: b[0] for a, b in both if len(a) == len(b) == 1}


def settle(what: str, problems: Sequence[Problem], rule: Rule) -> None:
    """The rule that decides whether a run stops: any problem stops it, unless `rule` is "skip".

    Raises DataError, one sentence that lists the files.
    """
    if problems and rule == "stop":
        raise DataError(
            f"expected every file of {what} to have its partner, to be readable and of the right size, found "
            f"{len(problems)} that are not: {listed(problems)}; put them right, or measure without them by "
            "--unmatched skip"
        )


def listed(problems: Sequence[Problem]) -> str:
    more = f" and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
    return ", ".join(map(str, problems[:LISTED])) + more
