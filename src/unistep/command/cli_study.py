"""`unistep study`: names, defaults and help; the work is in `study`."""

from __future__ import annotations

import re
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App

from unistep.command.options import argument, option
from unistep.command.report import clean, draw, erase, say
from unistep.errors import ConfigError

EXAMPLES = """Example:
  unistep study make --results ours=a --results theirs=b --lq input --out study
  unistep study serve study
  unistep study result study

See docs/study.md."""

study = App(name="study", help="Ask people which results they prefer, blindly.", help_epilogue=EXAMPLES)
Folder = Annotated[Path, argument("STUDY", "The folder of a study.")]


@study.command
def make(
    *,
    results: Annotated[
        list[str] | None,
        option("Pictures of a method; two times or more.", metavar="NAME=FOLDER"),
    ] = None,
    lq: Annotated[Path | None, option("The low-quality inputs, shown beside.", metavar="FOLDER")] = None,
    hq: Annotated[Path | None, option("The originals, shown beside.", metavar="FOLDER")] = None,
    scale: Annotated[int, option("Of the results against --lq. Default: 4.")] = 4,
    category: Annotated[
        list[str] | None,
        option("Images by a pattern or a file of names; may be repeated.", metavar="NAME=PATTERN"),
    ] = None,
    ask: Annotated[
        Literal["pairs", "best"],
        option("Two methods at a time (pairs, default), or the best of all, as in TSD-SR."),
    ] = "pairs",
    against: Annotated[str | None, option("Only pairs with this method.", metavar="NAME")] = None,
    forced: Annotated[bool, option("No answer that there is no difference.")] = False,
    images: Annotated[int | None, option("Only so many images, drawn evenly over categories.")] = None,
    per_rater: Annotated[int | None, option("Questions that a rater is asked. Default: all.")] = None,
    repeats: Annotated[int, option("Questions that a rater is asked twice. Default: 0.")] = 0,
    title: Annotated[str, option("What raters see at the top.")] = "Picture study",
    question: Annotated[str | None, option("Instead of the question that the page asks.")] = None,
    seed: Annotated[int | None, option("The same seed makes the same study. Default: drawn.")] = None,
    unmatched: Annotated[
        Literal["stop", "skip"],
        option("Files without a partner, of a wrong size or unreadable: stop (default) or skip them."),
    ] = "stop",
    key: Annotated[Path | None, option("Who made which picture. Default: key.json in --out.")] = None,
    out: Annotated[Path | None, option("Folder for the study.", "-o")] = None,
) -> int:
    """Make a study from folders of results: pictures without names, and a key apart."""
    if out is None:
        raise ConfigError("expected --out FOLDER, found none")
    from unistep.study.making import Plan, make

    folders = [(name, Path(path)) for name, path in _named("results", "FOLDER", results)]
    groups = _named("category", "PATTERN", category)
    twice = sorted({name for name, _ in groups if sum(name == other for other, _ in groups) > 1})
    if twice:
        raise ConfigError(
            f"expected each category once, found {', '.join(twice)} twice: list names in a file"
        )
    plan = Plan(
        folders, secrets.randbits(48) if seed is None else seed, lq, hq, scale, ask, against, not forced,
        dict(groups), images, per_rater, repeats, title, question, unmatched,
    )  # fmt: skip
    bar = sys.stderr.isatty()
    try:
        made = make(plan, out, key, lambda done, of: draw(done / of, f"{done}/{of} images") if bar else None)
    finally:
        if bar:
            erase()
    for note in made.notes:
        say(note)
    asked = (made.per_rater or len(made.items)) + made.repeats
    say(f"{len(made.items)} questions about {len(made.images)} images, {asked} for each rater: {out}")
    say(f"who made what is in {key or out / 'key.json'}: no rater should see it")
    return 0


@study.command
def serve(
    folder: Folder,
    /,
    *,
    host: Annotated[
        str, option("Where to listen; 0.0.0.0 for the whole network. Default: 127.0.0.1.")
    ] = "127.0.0.1",
    port: Annotated[int, option("0 takes a free one. Default: 8400.")] = 8400,
    name: Annotated[
        list[str] | None,
        option("Another name of this server, as of a proxy before it; may be repeated.", metavar="HOST"),
    ] = None,
) -> int:
    """Serve the page and keep every vote in votes.jsonl, until Ctrl-C."""
    from unistep.extras import extra

    for package in ("starlette", "uvicorn"):
        extra(package)
    from unistep.study.serving import serve

    votes = serve(folder, host, port, name or (), say)
    say(f"{len(votes.counted)} votes of {len(votes.raters)} raters are in {votes.path}")
    return 0


@study.command
def result(
    folder: Folder,
    /,
    *,
    key: Annotated[Path | None, option("Who made which picture. Default: key.json in STUDY.")] = None,
    out: Annotated[Path | None, option("Folder for result.md and result.json. Default: STUDY.", "-o")] = None,
) -> int:
    """Print preferences with intervals, by category and in pairs; write result.md and result.json."""
    from unistep.study.reporting import report

    print("\n".join(map(clean, report(folder, key, out).split("\n"))), end="")
    return 0


@study.command
def export(
    folder: Folder,
    /,
    *,
    out: Annotated[Path | None, option("The HTML file to write.", "-o", metavar="FILE")] = None,
) -> int:
    """Write the study as one HTML file, for raters elsewhere."""
    if out is None:
        raise ConfigError("expected --out FILE, found none")
    from unistep.study.standalone import LARGE, export

    size = export(folder, out)
    say(
        f"{out}: {size / 1e6:.1f} MB; raters send the file back that they save at its end: study add takes it"
    )
    if size > LARGE:
        say("that is slow to open: make a study with fewer images (--images), or serve it")
    return 0


@study.command
def add(
    folder: Folder,
    files: Annotated[list[Path], argument("FILE", "Answers that a page of study export saved.")],
    /,
) -> int:
    """Put answers from elsewhere with the other votes; the same file twice counts once."""
    from unistep.study.returned import add
    from unistep.study.studyfolder import read_study
    from unistep.study.votes import Votes

    found = read_study(folder)
    with Votes(folder, found) as votes:
        for file in files:
            say(f"{file}: {add(file, found, votes)} new votes")
    return 0


def _named(name: str, value: str, texts: Sequence[str] | None) -> list[tuple[str, str]]:
    found = []
    for text in texts or ():
        hit = re.fullmatch(r"([^=]+)=(.+)", text, re.DOTALL)
        if hit is None:
            raise ConfigError(f"expected --{name} NAME={value}, found {text!r}")
        found.append((hit[1], hit[2]))
    return found
