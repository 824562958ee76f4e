"""A study's result as Markdown whose columns also line up on a terminal; made from result.json alone."""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

NONE = "—"
Results = Mapping[str, Any]


def markdown(found: Results) -> str:
    return "\n\n".join(_parts(found)) + "\n"


def _parts(found: Results) -> Iterator[str]:
    counts, raters, chance = found["counts"], found["raters"], found["chance"]
    yield f"# {found['title']}"
    yield found["question"]
    if found["criteria"]:
        yield "\n".join(f"- {line}" for line in found["criteria"])
    yield (
        f"{_n(counts['raters'], 'rater')}, {_n(counts['votes'], 'vote')} ({counts['ties']} without a "
        f"difference) on {counts['questions']} of {_n(counts['questions_of_study'], 'question')} about "
        f"{counts['images']} of {_n(counts['images_of_study'], 'image')}."
    )
    yield "## Preference"
    rows = [[one["method"], _percent(one["mean"]), _span(one), str(one["votes"]), _judged(one, chance)]
            for one in found["preference"]]  # fmt: skip
    yield _grid(["method", "preferred", "95 % interval", "votes", f"chance is {chance:.1%}"], rows)
    if len(found["order"]["categories"]) > 1:
        yield "## By category"
        yield _categories(found)
    if found["pairwise"]:
        yield "## In pairs"
        head = ["A", "B", "A wins", "no difference", "B wins", "A preferred", "95 % interval", "alpha"]
        yield _grid(head, [_pair(one) for one in found["pairwise"]])
    yield "## Raters"
    yield "\n".join(f"- {line}" for line in _raters(raters, counts))
    yield "\n".join(f"{name[0].upper()}{name[1:]}: {text}." for name, text in found["rules"].items())
    notes = list(found["notes"])
    if found["damaged_lines"]:
        lines = ", ".join(map(str, found["damaged_lines"]))
        notes.append(f"damaged lines of the votes are kept but not counted: {lines}")
    yield "\n".join([f"Note: {note}." for note in notes] + [f"Study sha256 {found['study'][:12]}, unistep "
                                                           f"{found['version']}."])  # fmt: skip


def _categories(found: Results) -> str:
    cells = {(one["method"], one["category"]): one for one in found["by_category"]}
    order = found["order"]
    rows = []
    for method in order["methods"]:
        of = [cells[method, category] for category in order["categories"]]
        rows.append([method, *(f"{_percent(one['mean'])} {_span(one)}".strip() for one in of)])
    return _grid(["method", *order["categories"]], rows)


def _pair(one: Mapping[str, Any]) -> list[str]:
    numbers = [str(one[key]) for key in ("wins_a", "ties", "wins_b")]
    return [one["a"], one["b"], *numbers, _percent(one["mean"]), _span(one), _decimal(one["alpha"])]


def _raters(raters: Mapping[str, Any], counts: Mapping[str, Any]) -> Iterator[str]:
    each = raters["votes_each"]
    yield f"votes of a rater: {each['least']} to {each['most']}, median {each['median']:g}"
    if counts["joined"] > counts["raters"]:
        yield f"{counts['joined'] - counts['raters']} more joined and cast no vote"
    if raters["agreement"] is None:
        yield "agreement: no question has two votes"
    else:
        why = "" if raters["alpha"] is not None else " (all answers are equal)"
        yield (f"agreement: {_percent(raters['agreement'])} of the pairs of raters give the same answer; "
               f"Krippendorff's alpha {_decimal(raters['alpha'])}{why}")  # fmt: skip
    again = raters["repeated"]
    if again["questions"]:
        share = again["same"] / again["questions"]
        yield f"asked again: {again['same']} of {again['questions']} answers ({share:.1%}) were the same"
    place = raters["first_place"]
    if place["of"]:
        low, high = place["interval"]
        share = place["chosen"] / place["of"]
        yield (f"the first picture was chosen in {share:.1%} [{low:.1%}, {high:.1%}] of "
               f"{_n(place['of'], 'choice')}; chance is {place['chance']:.1%}")  # fmt: skip
    if raters["median_seconds"] is not None:
        yield f"median time of a vote: {raters['median_seconds']:g} s"
    yield f"changed votes: {raters['changes_of_mind']}"


def _n(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{value:.1%}"


def _decimal(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"


def _span(one: Mapping[str, Any]) -> str:
    return "" if one["mean"] is None else f"[{one['low']:.1%}, {one['high']:.1%}]"


def _judged(one: Mapping[str, Any], chance: float) -> str:
    if one["mean"] is None:
        return NONE
    return "above" if one["low"] > chance else "below" if one["high"] < chance else "not told apart"


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    widths = [max(3, *map(_wide, column)) for column in zip(*cells, strict=True)]
    padded = [[cell + " " * (width - _wide(cell)) for cell, width in zip(row, widths, strict=True)]
              for row in cells]  # fmt: skip
    lines = ["| " + " | ".join(row) + " |" for row in padded]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _wide(text: str) -> int:
    """Columns on a terminal."""
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text if not unicodedata.combining(c))
