"""When two paths are one file."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path


def exact(path: Path) -> str:
    """The same for two spellings of one path, as the system takes them."""
    return os.path.normcase(os.path.abspath(path))


def folded(path: Path) -> str:
    """The same for all paths that some disk takes for one: in whatever case, however accents are composed."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", os.path.abspath(path)).casefold())


def same(one: Path, other: Path) -> bool:
    """Whether both lead to one name on the disk; two hard links do not."""
    ends = [Path(os.path.realpath(path)) for path in (one, other)]
    if ends[0] == ends[1]:
        return True
    return folded(ends[0]) == folded(ends[1]) and all(map(os.path.exists, ends)) and os.path.samefile(*ends)
