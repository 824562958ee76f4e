"""How often a method is preferred, and how sure that is.

A vote gives the method that is chosen 1, the others 0, and each of k methods 1/k where the rater sees no
difference. A preference is the mean over the votes on questions that the method was among: 1/k by chance.

Votes of one rater are alike, and so are votes on one image. The interval is therefore that of a bootstrap
which draws raters and images, both with replacement (the pigeonhole bootstrap: Owen 2007, Ann. Appl. Stat.
1(2), 386-411), widened at either end to Wilson's interval (1927) of as many independent votes, which stays
honest where all votes are equal and a bootstrap has no width.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from ..evaluation.statistics import LEVEL, RESAMPLES, SEED

AT_ONCE = 500
"""Resamples that are held in memory together."""
Span = tuple[float, float]


@dataclass(frozen=True)
class Ballot:
    """A vote that counts. methods: as shown, from left to right. choice: a method, or None for a tie."""

    rater: str
    image: str
    category: str
    methods: tuple[str, ...]
    choice: str | None

    def score(self, method: str) -> float:
        if self.choice is None:
            return 1 / len(self.methods)
        return float(self.choice == method)


@dataclass(frozen=True)
class Share:
    """A preference from 0 to 1 with its interval; None of all where there are no votes."""

    votes: int
    mean: float | None
    low: float | None
    high: float | None


def preference(ballots: Iterable[Ballot], method: str) -> Share:
    """How often `method` is preferred where it is among the shown."""
    asked = [ballot for ballot in ballots if method in ballot.methods]
    return _share(asked, [ballot.score(method) for ballot in asked])


def against(ballots: Iterable[Ballot], a: str, b: str) -> Share:
    """How often `a` is preferred to `b` where both are shown; votes for a third method are left out."""
    asked = [
        ballot for ballot in ballots
        if {a, b} <= set(ballot.methods) and (ballot.choice is None or ballot.choice in (a, b))
    ]  # fmt: skip
    return _share(asked, [0.5 if ballot.choice is None else float(ballot.choice == a) for ballot in asked])


def wilson(successes: float, n: int) -> Span:
    """Wilson's score interval of `successes` of n; half votes may be among them."""
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    p = successes / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def crossed(scores: Sequence[float], raters: Sequence[str], images: Sequence[str]) -> Span | None:
    """Percentile bootstrap of the mean of votes, over raters and images; the same votes, the same numbers.

    A resample that has no vote of any drawn rater on any drawn image is left out. None for one rater with one
    image.
    """
    people, rater = np.unique(np.asarray(raters), return_inverse=True)
    things, image = np.unique(np.asarray(images), return_inverse=True)
    if len(people) == len(things) == 1:
        return None
    total = np.zeros((len(people), len(things)))
    count = np.zeros_like(total)
    np.add.at(total, (rater, image), np.asarray(scores, np.float64))
    np.add.at(count, (rater, image), 1.0)
    random = np.random.default_rng(SEED)
    means = []
    for start in range(0, RESAMPLES, AT_ONCE):
        size = min(AT_ONCE, RESAMPLES - start)
        w, v = _drawn(random, len(people), size), _drawn(random, len(things), size)
        votes = ((w @ count) * v).sum(1)
        sums = ((w @ total) * v).sum(1)
        means.append(sums[votes > 0] / votes[votes > 0])
    low, high = np.quantile(np.concatenate(means), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _drawn(random: np.random.Generator, n: int, size: int) -> npt.NDArray[np.float64]:
    """How often each of n is in a resample of n, [size, n]."""
    return random.multinomial(n, np.full(n, 1 / n), size).astype(np.float64)


def _share(ballots: Sequence[Ballot], scores: Sequence[float]) -> Share:
    if not ballots:
        return Share(0, None, None, None)
    mean = sum(scores) / len(scores)
    spans = [wilson(sum(scores), len(scores))]
    drawn = crossed(scores, [ballot.rater for ballot in ballots], [ballot.image for ballot in ballots])
    spans += [] if drawn is None else [drawn]
    return Share(len(scores), mean, min(low for low, _ in spans), max(high for _, high in spans))
