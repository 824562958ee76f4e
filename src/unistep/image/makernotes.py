"""Notes of camera makers: which of them can move.

Most hold offsets that count from the header of the EXIF block, and turn to garbage when they are moved; no
field says so, nor how to mend them. Those that count from their own beginning, or hold no offsets, are known
by how they begin. Source: the layouts of maker notes as exiftool knows them.
"""

from __future__ import annotations

import re

MAKER_NOTE = 0x927C
SELF_CONTAINED = re.compile(
    rb"Apple iOS\0|FUJIFILM|GENERALE|HDRP[\x02\x03]|MOT\0|Nikon\0\x02|OLYMPUS\0|OM SYSTEM\0|PENTAX \0"
    rb"|RICOH\0(II|MM)|LEICA(0|\0[\x01\x04-\x07\x10\x1a]\0)|SEMC MS\0|S1\0{6}\x0c"
)
TEXT = re.compile(rb"[\t\n\r -~]*\0*")


def can_move(note: bytes) -> bool:
    """Whether notes stay true at another offset: those known to be self-contained, and plain text."""
    return bool(SELF_CONTAINED.match(note) or TEXT.fullmatch(note))
