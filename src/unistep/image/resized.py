"""How what metadata says in pixels follows a picture that is turned upright and resized."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

MOST = (1 << 32) - 1


@dataclass(frozen=True)
class Change:
    """turn: the orientation 1..8 of the stored picture. width, height: its size once upright. x, y: how many
    new pixels there are to each of these.
    """

    turn: int
    width: int
    height: int
    x: Fraction
    y: Fraction

    @property
    def nothing(self) -> bool:
        return self.turn == 1 and self.x == self.y == 1

    def point(self, x: int, y: int) -> tuple[int, int]:
        """Where the centre of a stored pixel lies in the new picture."""
        half = Fraction(1, 2)
        across, down = x + half, y + half
        if self.turn >= 5:
            across, down = down, across
        if self.turn in (2, 3, 6, 7):
            across = self.width - across
        if self.turn in (3, 4, 7, 8):
            down = self.height - down
        return int(across * self.x // 1), int(down * self.y // 1)


def change(old: tuple[int, int], new: tuple[int, int], turn: int) -> Change | None:
    """The change from a stored picture of (width, height) to an upright one; None where the old size is not
    known or of another shape, so that it was none of this picture.
    """
    width, height = old[::-1] if turn >= 5 else old
    if min(width, height) < 1 or abs(new[0] * height - new[1] * width) > width + height:
        return None
    return Change(turn, width, height, Fraction(new[0], width), Fraction(new[1], height))


def ratio(value: Fraction) -> tuple[int, int] | None:
    """The numerator and denominator, each of at most 32 bits, that come closest to a fraction."""
    if not 0 < value <= MOST:
        return None
    near = value.limit_denominator(max(1, min(1_000_000, int(MOST / value))))
    return (near.numerator, near.denominator) if 0 < near <= MOST else None
