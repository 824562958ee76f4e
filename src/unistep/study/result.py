"""What a study found, as result.json has it: preferences with intervals, by category, in pairs; raters."""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from .. import __version__
from ..errors import DataError
from ..evaluation.statistics import LEVEL, RESAMPLES, SEED
from .agreement import alpha, observed
from .dealing import REPEATED, item_of
from .preference import Ballot, Share, against, preference, wilson
from .studyfolder import TIE, Key, Study
from .votes import Vote, Votes

FORMAT = 1
RULES = {
    "preference": "mean over votes: 1 for the method that is chosen, 0 for the others, 1/k for each of k "
    "shown where a rater sees no difference; repeated questions count the first time only",
    "interval": f"{LEVEL:.0%}: percentile bootstrap over raters and images, both drawn with replacement, "
    f"{RESAMPLES} resamples, seed {SEED}, because votes of one rater and votes on one image are alike; "
    "widened at either end to Wilson's interval of as many independent votes, because a bootstrap of equal "
    "votes has no width",
    "agreement": "share of the pairs of raters with the same answer to a question; Krippendorff's alpha, "
    "nominal, chance within the questions between the same methods",
}
"""As captions say them."""


def results(study: Study, key: Key, votes: Votes) -> dict[str, Any]:
    """Everything that can be said of the votes; the same votes give the same. Raises DataError for none."""
    first = [vote for vote in votes.counted if not vote.trial.endswith(REPEATED)]
    if not first:
        raise DataError(
            f"expected votes in {votes.path}, found none: collect them by unistep study serve or study add"
        )
    images = {item.id: item.image for item in study.items}
    ballots = [ballot(study, key, images, vote) for vote in first]
    asked = set(key.pictures[name] for item in study.items for name in item.pictures)
    methods = [name for name in key.methods if name in asked]
    categories = list(dict.fromkeys(image.category for image in study.images.values()))
    names = Counter(rater.name for rater in votes.raters.values() if rater.name)
    return {
        "format": FORMAT,
        "study": study.sha256,
        "title": study.title,
        "question": study.question,
        "criteria": list(study.criteria),
        "ask": study.ask,
        "chance": 1 / len(study.items[0].pictures),
        "counts": {
            "raters": len({vote.rater for vote in first}), "joined": len(votes.raters), "votes": len(first),
            "ties": sum(vote.choice == TIE for vote in first),
            "images": len({one.image for one in ballots}), "images_of_study": len(study.images),
            "questions": len({vote.trial for vote in first}), "questions_of_study": len(study.items),
        },
        "order": {"methods": methods, "categories": categories},
        "preference": [_share(preference(ballots, name), method=name) for name in methods],
        "by_category": [
            _share(preference([one for one in ballots if one.category == category], name),
                   method=name, category=category)
            for category in categories for name in methods
        ],
        "by_image": [
            _share(preference(group, name), method=name, image=image)
            for image, group in _by_image(ballots) for name in methods
        ],
        "pairwise": [
            _pair(ballots, a, b) for a, b in itertools.combinations(methods, 2)
            if any({a, b} <= set(one.methods) for one in ballots)
        ],
        "raters": _raters(study, ballots, first, votes),
        "damaged_lines": votes.damaged,
        "notes": [*study.notes, *(f"{n} raters are named {name}" for name, n in names.items() if n > 1)],
        "rules": RULES,
        "version": __version__,
    }  # fmt: skip


def ballot(study: Study, key: Key, images: Mapping[str, str], vote: Vote) -> Ballot:
    """A vote with its methods; images: of each question."""
    image = images[item_of(vote.trial)]
    chosen = None if vote.choice in (TIE, None) else key.pictures[vote.choice]
    shown = tuple(key.pictures[name] for name in vote.shown)
    return Ballot(vote.rater, image, study.images[image].category, shown, chosen)


def _share(share: Share, **what: str) -> dict[str, Any]:
    return {**what, "votes": share.votes, "mean": share.mean, "low": share.low, "high": share.high}


def _pair(ballots: Sequence[Ballot], a: str, b: str) -> dict[str, Any]:
    both = [one for one in ballots if {a, b} <= set(one.methods)]
    wins = Counter(one.choice for one in both)
    return _share(against(ballots, a, b), a=a, b=b) | {
        "wins_a": wins[a], "wins_b": wins[b], "ties": wins[None], "alpha": alpha([_answers(both)])
    }  # fmt: skip


def _raters(study: Study, ballots: Sequence[Ballot], first: Sequence[Vote], votes: Votes) -> dict[str, Any]:
    """What the votes say of those who cast them, nobody by name."""
    groups: dict[frozenset[str], list[Ballot]] = {}
    for one in ballots:
        groups.setdefault(frozenset(one.methods), []).append(one)
    chosen = {(vote.rater, vote.trial): vote.choice for vote in votes.counted}
    twice = [
        chosen[rater, item_of(trial)] == choice
        for (rater, trial), choice in chosen.items()
        if trial.endswith(REPEATED) and (rater, item_of(trial)) in chosen
    ]
    decided = [vote for vote in first if vote.choice != TIE]
    left = sum(vote.choice == vote.shown[0] for vote in decided)
    seconds = [vote.seconds for vote in first if vote.seconds is not None]
    each = Counter(vote.rater for vote in first).values()
    return {
        "votes_each": {"least": min(each), "median": float(median(each)), "most": max(each)},
        "agreement": observed([unit for group in groups.values() for unit in _answers(group)]),
        "alpha": alpha([_answers(group) for group in groups.values()]),
        "repeated": {"questions": len(twice), "same": sum(twice)},
        "first_place": {
            "chosen": left, "of": len(decided), "chance": 1 / len(study.items[0].pictures),
            "interval": list(wilson(left, len(decided))) if decided else None,
        },
        "median_seconds": round(median(seconds), 1) if seconds else None,
        "changes_of_mind": votes.changes,
    }  # fmt: skip


def _answers(ballots: Iterable[Ballot]) -> list[list[str | None]]:
    """Those to each question, of methods that are the same in all."""
    units: dict[tuple[str, frozenset[str]], list[str | None]] = {}
    for one in ballots:
        units.setdefault((one.image, frozenset(one.methods)), []).append(one.choice)
    return list(units.values())


def _by_image(ballots: Sequence[Ballot]) -> list[tuple[str, list[Ballot]]]:
    groups: dict[str, list[Ballot]] = {}
    for one in ballots:
        groups.setdefault(one.image, []).append(one)
    return sorted(groups.items())
