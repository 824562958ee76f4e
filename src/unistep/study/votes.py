"""Votes as they come: a file of lines that only grows, each on the disk before its rater is answered.

A line is one JSON object: a rater who joins, with the trials she was dealt, or a vote; a vote of the same
rater on the same trial replaces the earlier one, and one whose choice is null withdraws it. Both stay in the
file. A line that is damaged is counted, kept and passed over.
"""

import json
import math
import os
import re
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, BinaryIO, Self

from ..errors import ConfigError, DataError
from .dealing import deal, item_of, sides
from .studyfolder import TIE, VOTES, Study

TOKEN = re.compile(r"[A-Za-z0-9_-]{16,64}")
"""What raters and votes are called: nothing that can be guessed."""
MOST_RATERS = 10_000
LONGEST_NAME = 80


@dataclass
class Rater:
    """trials: None where the line that says so was damaged."""

    id: str
    name: str = ""
    trials: list[str] | None = None


@dataclass(frozen=True)
class Vote:
    """choice: the name of a picture, TIE, or None: withdrawn. shown: from left to right. seconds: it took."""

    rater: str
    trial: str
    choice: str | None
    shown: tuple[str, ...]
    id: str
    seconds: float | None = None


class Refused(DataError):
    """A vote that cannot be of this study."""


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass
class Votes:
    """All votes of a study. `collecting` opens the file for more; without it, this only reads.

    Raises DataError for votes of another study, ConfigError where another process is collecting.
    """

    folder: Path
    study: Study
    clock: Callable[[], str] = now
    raters: dict[str, Rater] = field(default_factory=dict, init=False)
    last: dict[tuple[str, str], Vote] = field(default_factory=dict, init=False)
    """By rater and trial, withdrawn ones too."""
    changes: int = field(default=0, init=False)
    """Votes that say something else than the one before them on the same trial."""
    damaged: list[int] = field(default_factory=list, init=False)
    """Numbers of lines, from 1."""

    def __post_init__(self) -> None:
        self._seen: set[str] = set()
        self._chosen: dict[tuple[str, str], str] = {}
        self._file: BinaryIO | None = None
        self._torn = False
        self._items = self.study.by_id
        try:
            held = self.path.read_bytes() if self.path.exists() else b""
        except OSError as error:
            raise DataError(f"expected the votes at {self.path}, found: {error}") from error
        other = 0
        for number, line in enumerate(held.split(b"\n"), 1):
            if line.strip():
                try:
                    entry = json.loads(line)
                    if entry["study"] != self.study.sha256:
                        other += 1
                        continue
                    self._take(entry)
                except (ValueError, KeyError, TypeError, AttributeError, DataError, RecursionError):
                    self.damaged.append(number)
        self._torn = bool(held) and not held.endswith(b"\n")
        if other:
            raise DataError(
                f"expected votes of this study ({self.study.sha256[:12]}) in {self.path}, found {other} "
                "lines of another: the study was changed after they were cast; put study.json back, "
                f"or move {VOTES} away to begin anew"
            )

    @property
    def path(self) -> Path:
        return self.folder / VOTES

    @property
    def counted(self) -> list[Vote]:
        """Those that hold now, in the order of their trials' first votes."""
        return [vote for vote in self.last.values() if vote.choice is not None]

    def __enter__(self) -> Self:
        """Opens the file for more votes."""
        try:
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise DataError(f"expected to write to {self.path}, found: {error}") from error
        if not _locked(self._file):
            self._file.close()
            raise ConfigError(
                f"expected {self.folder} to be free, found another process that collects its votes: end it"
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        self._file.close()
        self._file = None

    def join(self, name: str, random: Random | None = None) -> Rater:
        """A new rater with her trials. Raises Refused where there are too many."""
        if len(self.raters) >= MOST_RATERS:
            raise Refused(f"expected at most {MOST_RATERS} raters, found as many already")
        return self._dealt(secrets.token_urlsafe(16), _plain(name), random or secrets.SystemRandom())

    def enter(self, id: str, name: str, trials: Sequence[str]) -> Rater:
        """A rater whose trials were dealt elsewhere; a known one stays as she is. Raises Refused."""
        if id not in self.raters:
            if not TOKEN.fullmatch(id) or not all(item_of(trial) in self._items for trial in trials):
                raise Refused("expected a rater with questions of this study, found another")
            self._add({"kind": "rater", "rater": id, "name": _plain(name), "trials": list(trials)})
        return self.raters[id]

    def again(self, id: str, random: Random | None = None) -> Rater:
        """A rater who comes back, with her trials. Raises Refused for one who is not known."""
        rater = self.raters.get(id)
        if rater is None:
            raise Refused("expected a rater of this study, found an unknown one: start anew")
        return (
            rater
            if rater.trials is not None
            else self._dealt(id, rater.name, random or secrets.SystemRandom())
        )

    def cast(self, vote: Vote) -> bool:
        """Keeps a vote; it is on the disk when this returns. False where it says nothing new.

        A vote that was cast already, by its id, changes nothing, however late it comes again.
        Raises Refused for a vote that cannot be, DataError where the disk takes no more.
        """
        self._checked(vote)
        before = self.last.get((vote.rater, vote.trial))
        if vote.id in self._seen or (before.choice if before else None) == vote.choice:
            self._seen.add(vote.id)
            return False
        self._add({
            "kind": "vote", "rater": vote.rater, "trial": vote.trial, "choice": vote.choice,
            "shown": list(vote.shown), "id": vote.id, "seconds": vote.seconds,
        })  # fmt: skip
        return True

    def shown(self, rater: str, trial: str) -> tuple[str, ...]:
        return sides(self.study, rater, trial, self._items[item_of(trial)].pictures)

    def _dealt(self, id: str, name: str, random: Random) -> Rater:
        votes = Counter(vote.trial for vote in self.counted)  # repeated ones have names of their own
        dealt = Counter(trial for rater in self.raters.values() for trial in rater.trials or ())
        own = [trial for (rater, trial) in self.last if rater == id]
        trials = deal(self.study, votes, dealt, random)
        trials = [*own, *(trial for trial in trials if trial not in own)]
        self._add({"kind": "rater", "rater": id, "name": name, "trials": trials})
        return self.raters[id]

    def _checked(self, vote: Vote) -> None:
        rater = self.raters.get(vote.rater)
        if rater is None or (rater.trials is not None and vote.trial not in rater.trials):
            raise Refused("expected a vote of a rater on a question that she was asked, found another")
        self.check(vote)

    def check(self, vote: Vote) -> None:
        """Raises Refused for a vote that nobody could cast in this study."""
        item = self._items.get(item_of(vote.trial))
        if item is None:
            raise Refused("expected a question of this study, found another")
        if sorted(vote.shown) != sorted(item.pictures):
            raise Refused(f"expected the {len(item.pictures)} pictures of the question, found others")
        allowed = {None, *item.pictures} | ({TIE} if self.study.tie else set())
        if vote.choice not in allowed:
            raise Refused("expected one of the pictures that were shown to be chosen, found another choice")
        if vote.seconds is not None and not (0 <= vote.seconds < math.inf):
            raise Refused(f"expected seconds of 0 or more, found {vote.seconds}")

    def _add(self, entry: Mapping[str, Any]) -> None:
        assert self._file is not None, "used outside of `with`"
        entry = {"study": self.study.sha256, "at": self.clock(), **entry}
        line = json.dumps(entry).encode() + b"\n"
        try:
            torn, self._torn = self._torn, True
            held = memoryview(b"\n" + line if torn else line)  # half a line before it stays on its own
            while held:
                held = held[self._file.write(held) or 0 :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise DataError(f"expected to write a vote to {self.path}, found: {error}") from error
        self._torn = False
        self._take(entry)

    def _take(self, entry: Mapping[str, Any]) -> None:
        """One line, of the file or a new one."""
        id = entry["rater"]
        if not TOKEN.fullmatch(id):
            raise Refused("expected the name of a rater")
        if entry["kind"] == "rater":
            trials = [str(trial) for trial in entry["trials"]]
            if not all(item_of(trial) in self._items for trial in trials):
                raise Refused("expected questions of this study")
            self.raters[id] = Rater(id, str(entry["name"]), trials)
            return
        if entry["kind"] != "vote":
            raise Refused("expected a rater or a vote")
        seconds = entry["seconds"]
        vote = Vote(id, entry["trial"], entry["choice"], tuple(entry["shown"]), entry["id"],
                    None if seconds is None else float(seconds))  # fmt: skip
        known = id in self.raters
        self.raters.setdefault(id, Rater(id))
        try:
            self._checked(vote)
        except (DataError, TypeError):
            if not known:
                del self.raters[id]
            raise
        place = (id, vote.trial)
        if vote.choice is not None:
            self.changes += self._chosen.get(place, vote.choice) != vote.choice
            self._chosen[place] = vote.choice
        self.last[place] = vote
        self._seen.add(vote.id)


def _plain(name: str) -> str:
    """A name on one line, not too long."""
    return " ".join("".join(c if c.isprintable() else " " for c in name).split())[:LONGEST_NAME]


def _locked(file: BinaryIO) -> bool:
    """Whether this process alone writes the file from now on; systems without such locks trust their user."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
