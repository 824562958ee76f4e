"""Answers that raters elsewhere saved as files are put with the others; the same file twice counts once."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError
from .dealing import item_of
from .studyfolder import Study
from .votes import TOKEN, Vote, Votes

FORMAT = 1


def add(file: Path, study: Study, votes: Votes) -> int:
    """Adds a file of the page of `study export` to `votes`, open for writing; gives how many votes were new.

    Raises DataError for a file that is damaged or of another study; nothing of it is taken then.
    """
    try:
        found = json.loads(file.read_bytes())
        if found["format"] != FORMAT:
            raise ValueError(f"format {found['format']}, not {FORMAT}")
        if found["study"] != study.sha256:
            raise ValueError(
                f"answers of another study ({str(found['study'])[:12]}, not {study.sha256[:12]})"
            )
        raters = [_rater(one) for one in found["raters"]]
        items = study.by_id
        for _, _, trials, given in raters:
            if any(item_of(trial) not in items for trial in trials):
                raise ValueError("other questions than those of this study")
            if any(vote.trial not in trials for vote in given):
                raise ValueError("answers to questions that were not asked")
            for vote in given:
                votes.check(vote)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, DataError) as error:
        raise DataError(
            f"expected answers that this study's page saved at {file}, found {error}: ask for the file again"
        ) from error
    new = 0
    for id, name, trials, given in raters:
        votes.enter(id, name, trials)
        new += sum(votes.cast(vote) for vote in given)
    return new


def _rater(one: Mapping[str, Any]) -> tuple[str, str, list[str], list[Vote]]:
    id = one["rater"]
    trials = [str(trial) for trial in one["trials"]]
    given = [
        Vote(id, str(vote["trial"]), vote["choice"], tuple(map(str, vote["shown"])), vote["id"],
             None if vote["seconds"] is None else round(float(vote["seconds"]), 2))
        for vote in one["votes"]
    ]  # fmt: skip
    if not all(TOKEN.fullmatch(name) for name in (id, *(vote.id for vote in given))):
        raise ValueError("a rater or a vote without a proper id")
    return id, str(one["name"]), trials, given
