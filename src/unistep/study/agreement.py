"""How far raters agree: the share of pairs of raters with one answer, and Krippendorff's alpha."""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

Units = Sequence[Sequence[Hashable]]
"""The answers of all raters to each question."""


def observed(units: Units) -> float | None:
    """Of all pairs of raters of one question, the share with the same answer. None if there is no pair."""
    counts = [Counter(unit) for unit in units]
    pairs = sum(n.total() * (n.total() - 1) for n in counts)
    same = sum(k * (k - 1) for n in counts for k in n.values())
    return same / pairs if pairs else None


def alpha(groups: Iterable[Units]) -> float | None:
    """Krippendorff's alpha for nominal answers (Computing Krippendorff's Alpha-Reliability, 2011): 1 for full
    agreement, 0 for that of chance.

    groups: questions between the same methods; chance is that of their own answers, so that methods which are
    never compared do not count as disagreement. None where nobody answered twice, or all answers are equal.
    """
    found = chance = 0.0
    for units in groups:
        counts = [Counter(unit) for unit in units if len(unit) > 1]
        found += sum((n.total() ** 2 - sum(k * k for k in n.values())) / (n.total() - 1) for n in counts)
        whole: Counter[Hashable] = sum(counts, Counter())
        if counts:
            chance += (whole.total() ** 2 - sum(k * k for k in whole.values())) / (whole.total() - 1)
    return 1 - found / chance if chance else None
