"""Which method trains a student of which base: the table of docs/train.md.

    python benchmarks/matrix.py [--write docs/train.md]

A pair is a recipe's, or runs without one, or cannot run, for a reason (`Face.obstacles`). Nothing
is run here: tests/methods/test_matrix.py trains the pairs without a recipe and holds the page to this output.
"""

import sys
from pathlib import Path

import common

from unistep.atomic import atomic_write
from unistep.bases import BASES
from unistep.methods import METHODS
from unistep.recipes.config import kind
from unistep.recipes.recipes import RECIPES

MARKS = "<!-- matrix:begin -->", "<!-- matrix:end -->"


def covered() -> dict[tuple[str, str], list[str]]:
    """(method, base) -> names of its recipes."""
    pairs: dict[tuple[str, str], list[str]] = {}
    for name, recipe in RECIPES.items():
        run = recipe()
        pairs.setdefault((kind(run.method), kind(run.base)), []).append(name)
    return pairs


def table() -> str:
    recipes = covered()
    reasons: list[str] = []

    def cell(method: str, base: str) -> str:
        if reason := BASES[base].obstacles.get(method):
            if reason not in reasons:
                reasons.append(reason)
            return f"no ({reasons.index(reason) + 1})"
        return ", ".join(f"`{name}`" for name in recipes.get((method, base), [])) or "runs"

    rows = [[f"`{method}`", *(cell(method, base) for base in BASES)] for method in METHODS]
    notes = [f"({i}) {reason}.  " for i, reason in enumerate(reasons, 1)]
    return "\n".join([common.table(["method", *(BASES[base].title for base in BASES)], rows), *notes])


def write(page: Path, text: str) -> None:
    """Between the page's two markers."""
    begin, end = MARKS
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        sys.exit(f"expected {page} to hold {begin} and {end}, found neither or one: put both there")
    with atomic_write(page) as file:
        file.write(f"{before}{begin}\n{text}\n{end}{after}".encode())


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("--write", type=Path, metavar="PAGE", help="a page with the two markers")
    args = p.parse_args()
    print(table())
    if args.write:
        write(args.write, table())


if __name__ == "__main__":
    main()
