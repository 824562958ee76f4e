"""The page: one HTML file, with its style, its script and its data inside, and leave to fetch nothing.

Names, reasons and numbers reach it through templates that escape, or as JSON in a block that is not run; the
script puts them in as text. A policy in the page allows its own style and script by their hashes, and
pictures that are in the page.
"""

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from ...extras import extra
from ..beside import ARROWS, DAGGER, title
from ..tables import caption, digits, published_rows, shown, tests
from .costs import COSTS, costs
from .gallery import Card, cards, focus
from .intervals import intervals
from .reading import Findings

MB = 1_000_000
CROPS, CROP_SIZE, MAX_MB = 24, 256, 30.0
SCRIPTS = ("page.js", "charts.js", "gallery.js")
HEAD_OF = ("Protocol of ", "Note: ", f"{DAGGER} ")
"""Lines of a caption that stand open below a table, with the one that names the set."""


@dataclass(frozen=True)
class Options:
    """crops: of each set. crop_size: their sides in pixels. max_mb: the page is no larger."""

    crops: int = CROPS
    crop_size: int = CROP_SIZE
    max_mb: float = MAX_MB
    title: str | None = None

    def __post_init__(self) -> None:
        if self.crops < 0 or self.crop_size < 16 or not 0 < self.max_mb < math.inf:
            raise ConfigError(
                "expected --crops of 0 or more, --crop-size of 16 or more and --max-mb above 0, found "
                f"{self.crops}, {self.crop_size} and {self.max_mb:g}"
            )


class Shown(str):
    """A cell of a table: a number with its interval and place."""

    span: str
    place: int

    @classmethod
    def of(cls, number: str, span: str, place: int) -> "Shown":
        cell = cls(number)
        cell.span, cell.place = span, place
        return cell


def page(findings: Findings, bench: Sequence[Path] = (), options: Options = Options()) -> tuple[bytes, str]:
    """The file's bytes, and what a person should know of it ("" if nothing). The same for the same input.

    Raises ConfigError for a budget that holds no page or a `bench` file that says nothing, DataError for
    pictures that cannot be read.
    """
    known = costs(findings.results, bench)
    budget = int(options.max_mb * MB)
    why = "--crops 0 asks for none" if options.crops == 0 else findings.why
    bare = _render(findings, known, [], "", options)
    if len(bare) > budget:
        raise ConfigError(
            f"expected a page of {options.max_mb:g} MB at most, found {len(bare) / MB:.1f} MB before any "
            "picture: raise --max-mb"
        )
    if why:
        return _render(findings, known, [], why, options), f"without a gallery: {why}"
    room = budget - len(bare) - 1000  # for the sentence below
    found, cut = cards(findings, options.crops, options.crop_size, room)
    notes = []
    if gone := [on for on in findings.images if on not in findings.pictured]:
        notes.append(f"the gallery is without {', '.join(gone)}: their pictures are not there")
    if cut:
        notes.append(
            f"the gallery has only the first {len(found)} crops, to stay within {options.max_mb:g} MB: raise "
            "--max-mb, or lower --crop-size"
        )
    note = "; ".join(notes)
    return _render(findings, known, found, note, options), note


def _render(
    findings: Findings, known: Mapping[str, Any], found: Sequence[Card], note: str, options: Options
) -> bytes:
    jinja = extra("jinja2")
    own = files("unistep.evaluation.report")
    style = (own / "page.css").read_text(encoding="utf-8")
    script = "\n".join((own / name).read_text(encoding="utf-8") for name in SCRIPTS)
    place = jinja.Environment(
        loader=jinja.FunctionLoader(lambda name: (own / name).read_text(encoding="utf-8")),
        autoescape=True, undefined=jinja.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    results, markup = findings.results, extra("jinja2", "markupsafe").Markup
    text = place.get_template("page.html.j2").render(
        title=options.title or f"Evaluation: {', '.join(results['order']['sets'])}",
        results=results, sha256=findings.sha256, sets=[_set(findings, on) for on in findings.images],
        style=markup(style), script=markup(script), style_hash=_hash(style), script_hash=_hash(script),
        data=_data(findings, known, found), gallery=bool(found), note=note, costs=bool(known),
        scatter=len(results["order"]["judged"]) > 1 and focus(findings) is not None,
    )  # fmt: skip
    return bytes(text.encode("utf-8", "replace"))  # a name that is no UTF-8 has a ? there


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _set(findings: Findings, on: str) -> dict[str, Any]:
    head, rows, notes = shown(findings.results, on, Shown.of)
    lines = list(caption(findings.results, on))
    published = published_rows(findings.results, on)
    opened = [line for line in lines if line.startswith((f"{on}: ", *HEAD_OF))]
    return {
        "name": on, "head": head, "rows": rows, "notes": notes, "caption": opened,
        "protocol": [line for line in lines if line not in opened],
        "published": published, "published_title": title(findings.results) if published else "",
        "tests": tests(findings.results, on), "plots": intervals(findings.results, on),
    }  # fmt: skip


def _data(findings: Findings, known: Mapping[str, Any], found: Sequence[Card]) -> dict[str, Any]:
    """What the script draws: lists in the order of sets, metrics and judged, so that no name is a key."""
    order = findings.results["order"]
    means = {(s["set"], s["metric"], s["judged"]): s for s in findings.results["scores"]}

    def values(on: str, metric: str) -> list[list[float | None]] | None:
        columns = [findings.values.get((on, who, metric)) for who in order["judged"]]
        if any(column is None or all(map(math.isnan, column)) for column in columns):
            return None
        return [[None if math.isnan(v) else v for v in column or ()] for column in columns]

    metrics = [findings.results["metrics"][key] for key in order["metrics"]]
    return {
        "judged": order["judged"],
        "metrics": [{"label": metric["label"], "arrow": ARROWS[metric["better"]], "better": metric["better"],
                     "digits": digits(metric)} for metric in metrics],
        "sets": [{
            "name": on, "images": findings.images[on], "reference": findings.results["sets"][on]["reference"],
            "scale": findings.results["sets"][on]["scale"],
            "means": [[[means[on, metric, who][key] for key in ("mean", "low", "high")]
                       for who in order["judged"]] for metric in order["metrics"]],
            "values": [values(on, metric) for metric in order["metrics"]],
            "cards": [card.said for card in found if card.on == on],
        } for on in order["sets"]],
        "costs": [{"label": COSTS[key][0], "values": [of.get(who) for who in order["judged"]]}
                  for key, of in known.items()],
        "focus": focus(findings),
    }  # fmt: skip
