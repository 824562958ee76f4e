"""Which questions a rater is asked, in which order, and which picture stands where.

A trial is a question put to a rater; the second time it is the question's name with REPEATED behind it.
"""

from collections.abc import Mapping, Sequence
from random import Random

from .studyfolder import Study

REPEATED = "~2"


def item_of(trial: str) -> str:
    return trial.removesuffix(REPEATED)


def deal(study: Study, votes: Mapping[str, int], dealt: Mapping[str, int], random: Random) -> list[str]:
    """Trials of a new rater, in a drawn order.

    Where she is not asked everything, those questions go first that have the fewest votes, then those that
    were dealt least. Repeated ones are of her first half and come again in the second.
    """
    ids = [item.id for item in study.items]
    random.shuffle(ids)
    ids.sort(key=lambda id: (votes.get(id, 0), dealt.get(id, 0)))  # stable: drawn among equals
    trials = ids[: study.per_rater]
    random.shuffle(trials)
    half = len(trials) // 2
    for id in random.sample(trials[:half], min(study.repeats, half)):
        trials.insert(random.randint(half + 1, len(trials)), id + REPEATED)
    return trials


def sides(study: Study, rater: str, trial: str, pictures: Sequence[str]) -> tuple[str, ...]:
    """The pictures of a trial from left to right: drawn for each rater and each time."""
    shown = sorted(pictures)
    Random(f"{study.seed} {rater} {trial}").shuffle(shown)
    return tuple(shown)
