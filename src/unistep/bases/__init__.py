"""A new base: make its folder, add one line here."""

from typing import Any

from .compact import CompactFace
from .face import Face
from .resshift import ResShiftFace
from .sd3 import SD3Face
from .sd21 import SD21Face

BASES: dict[str, Face] = {
    "compact": CompactFace(),
    "sd3": SD3Face(),
    "sd21": SD21Face(),
    "resshift": ResShiftFace(),
}


def face_of(config: Any) -> Face:
    """The face of the base that a Config is of."""
    return next(one for one in BASES.values() if one.Config is type(config))


__all__ = ["BASES", "Face", "face_of"]
