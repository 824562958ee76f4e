"""Two results.json against each other, for continuous integration: what changed, and whether it may.

A condition such as `lpips>+0.01` fails where a mean of the second file minus that of the first is more than
0.01, for any set and model that it has a value for; `psnr_y<-0.1` where it is less than -0.1.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .run import FORMAT

CONDITION = re.compile(r"\s*([\w-]+)\s*([<>])\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*")


@dataclass(frozen=True)
class Condition:
    text: str
    metric: str
    above: bool
    limit: float

    @classmethod
    def read(cls, text: str) -> "Condition":
        """Raises ConfigError for what is none."""
        hit = CONDITION.fullmatch(text)
        if hit is None:
            raise ConfigError(f"expected --fail-if METRIC>+NUMBER or METRIC<-NUMBER, found “{text}”")
        return cls(text.strip(), hit[1], hit[2] == ">", float(hit[3]))

    def fails(self, difference: float) -> bool:
        return difference > self.limit if self.above else difference < self.limit


def read_results(path: Path) -> dict[str, Any]:
    """A results.json. Raises ConfigError for another file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
        if found["format"] != FORMAT:
            raise ConfigError(
                f"expected a results.json of format {FORMAT} at {path}, found one of {found['format']}: "
                "measure again"
            )
        return dict(found)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"expected a results.json of unistep eval at {path}, found: {error}") from error


def compare(
    first: Mapping[str, Any], second: Mapping[str, Any], conditions: Sequence[Condition]
) -> tuple[list[str], list[str]]:
    """(a line for each mean that both have, a sentence for each condition that fails).

    Models are compared by name; where each file has one only, these two are.

    Raises ConfigError where a comparison would mean nothing: other images, models or protocols, or no value
    that a condition asks for.
    """
    partner = _partners(first, second)
    for name, on in first["sets"].items():
        other = second["sets"].get(name)
        if other is None or other["sha256"] != on["sha256"]:
            found = "none" if other is None else f"{other['images']} others"
            raise ConfigError(
                f"expected the same {on['images']} images of {name} in both files, found {found} in the "
                "second: measure both on one set"
            )
    scores = {(s["set"], s["judged"], s["metric"]): s for s in second["scores"]}
    lines, failures, asked = [], [], {condition.metric: False for condition in conditions}
    for score in first["scores"]:
        metric, who = score["metric"], score["judged"]
        of = [condition for condition in conditions if condition.metric == metric]
        if score["mean"] is None:
            continue
        where = f"{score['set']}, {who}: {metric}"
        if metric in asked:
            asked[metric] = True
        other = scores.get((score["set"], partner[who], metric), {"mean": None, "why": "it is not measured"})
        if other["mean"] is None:
            lines.append(f"{where} {score['mean']:.6f} -> none ({other['why']})")
            failures += [f"{where} has no value any more ({other['why']}): {c.text}" for c in of]
            continue
        if first["metrics"][metric] != second["metrics"][metric]:
            raise ConfigError(f"expected one protocol of {metric} in both files, found two: measure again")
        difference = other["mean"] - score["mean"]
        change = f"{where} {score['mean']:.6f} -> {other['mean']:.6f}, {difference:+.6f}"
        lines.append(change)
        failures += [f"{change}: {c.text}" for c in of if c.fails(round(difference, 9))]
    missing = [metric for metric, seen in asked.items() if not seen]
    if missing:
        known = sorted({score["metric"] for score in first["scores"] if score["mean"] is not None})
        raise ConfigError(
            f"expected a value of {missing[0]} in the first file, found {', '.join(known)} alone"
        )
    return lines, failures


def _partners(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, str]:
    """Model of the first file -> that of the second."""
    ours, theirs = list(first["judged"]), list(second["judged"])
    if len(ours) == len(theirs) == 1:
        return {ours[0]: theirs[0]}
    missing = [name for name in ours if name not in theirs]
    if missing:
        raise ConfigError(
            f"expected {', '.join(missing)} in both files, found {', '.join(theirs)} in the second"
        )
    return {name: name for name in ours}
