"""What cannot be used is named, counted and left out; or it stops the run."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from ..errors import UnistepError

Report = Callable[[str], None]
T = TypeVar("T")
R = TypeVar("R")


def ignore(line: str) -> None:
    """Reports to nobody."""


def each(
    items: Iterable[T], use: Callable[[T], R], what: str, strict: bool, report: Report, needed: bool = True
) -> Iterator[R]:
    """`use` of each item. Where it raises UnistepError, the item is reported and left out.

    At the end their number is reported; if no item is left that is `needed`, the first error is raised.
    `strict`: the first error is raised at once. what: what the items are, in the plural.
    """
    bad: list[UnistepError] = []
    good = 0
    for item in items:
        try:
            result = use(item)
        except UnistepError as error:
            if strict:
                raise
            report(f"skipped: {error}")
            bad.append(error)
            continue
        good += 1
        yield result
    if bad:
        report(f"{len(bad)} of {len(bad) + good} {what} skipped")
        if needed and not good:
            raise bad[0]
