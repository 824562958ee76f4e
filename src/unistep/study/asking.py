"""What a page is told of a study, and the page's own files. Nothing here names a method."""

from importlib.resources import files
from typing import Any

from .dealing import item_of
from .studyfolder import Study
from .votes import Rater, Votes


def page_file(name: str) -> bytes:
    return files(__package__).joinpath("page", name).read_bytes()


def asked(study: Study) -> dict[str, Any]:
    """What the page says before anybody joins."""
    images = study.images.values()
    return {
        "study": study.sha256,
        "title": study.title,
        "question": study.question,
        "criteria": list(study.criteria),
        "candidates": max(len(item.pictures) for item in study.items),
        "tie": study.tie,
        "trials": (study.per_rater or len(study.items)) + study.repeats,
        "low": any(image.low for image in images),
        "high": any(image.high for image in images),
    }


def session(study: Study, votes: Votes, rater: Rater) -> dict[str, Any]:
    """A rater's trials with what she chose so far."""
    items, trials = study.by_id, []
    for trial in rater.trials or ():
        image = study.images[items[item_of(trial)].image]
        last = votes.last.get((rater.id, trial))
        trials.append({
            "trial": trial, "pictures": list(votes.shown(rater.id, trial)), "low": image.low,
            "high": image.high, "width": image.width, "height": image.height,
            "choice": None if last is None else last.choice,
        })  # fmt: skip
    return {"rater": rater.id, "name": rater.name, "trials": trials}
