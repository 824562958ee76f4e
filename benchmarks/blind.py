"""Which result looks best, when nobody says whose it is: sheets at 1:1, verdicts, and the tally.

    python benchmarks/blind.py --out SHEETS --lq PHOTOS --model ours=A.safetensors \
        --model other=B.safetensors [--results third=FOLDER] [--crops 2] [--crop 256] [--seed 0]
    python benchmarks/blind.py --out SHEETS --tally

The first makes, of each photograph, a sheet for its most detailed crop, one for its flattest, and so on in
turns: the input, then each result as A, B, C, ... in an order of the sheet's own. Crops are chosen by the
input alone. SHEETS/verdicts.csv has a line for each sheet: write the order there, as in "B>A=C", and look
into SHEETS.key.json, which lies beside the folder, no sooner than that. The second counts who was preferred.
--results: a folder of pictures with the names of the inputs, made by any program.
"""

import argparse
import csv
import itertools
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from common import parser, table
from torch import Tensor

from unistep.errors import UnistepError

sys.path.append(str(Path(__file__).parents[1] / "examples" / "compare"))
import photos
from options import FILES, degraded, given, options

SCALE, MARGIN = 4, 48
"""Low-resolution pixels that a model sees around a crop: more than any of these looks far."""
VERDICTS = "verdicts.csv"
Box = tuple[int, int, int]
"""top, left, side in low-resolution pixels"""


def boxes(lq: Tensor, side: int, count: int) -> list[Box]:
    """`count` crops of [1, 3, h, w] that do not overlap, the most and the least detailed in turns.

    Detail is the mean difference of neighbours, on a lattice of half crops. Fewer, if no more fit. Nearly
    black and nearly white crops, in which nothing is seen, are taken only where there are no others.
    """
    h, w = lq.shape[-2:]
    side = min(side, h, w)
    luma = lq.mean(dim=1, keepdim=True)
    change = F.pad(luma.diff(dim=2).abs(), (0, 0, 0, 1)) + F.pad(luma.diff(dim=3).abs(), (0, 1))
    places = [[*range(0, n - side, max(1, side // 2)), n - side] for n in (h, w)]
    left, unseen = dict[tuple[int, int], float](), dict[tuple[int, int], float]()
    for y, x in itertools.product(*places):
        area = slice(y, y + side), slice(x, x + side)
        seen = 0.1 < float(luma[0, 0][area].mean()) < 0.9
        (left if seen else unseen)[y, x] = float(change[0, 0][area].mean())
    left = left or unseen
    found: list[Box] = []
    while left and len(found) < count:
        y, x = (max, min)[len(found) % 2](left, key=left.__getitem__)
        found.append((y, x, side))
        left = {at: v for at, v in left.items() if abs(at[0] - y) >= side or abs(at[1] - x) >= side}
    return found


def restored(method: photos.Method, lq: Tensor, box: Box) -> Tensor:
    """What a method makes of a crop, which it sees with its surroundings; in 8 bits."""
    y, x, side = box
    top, left = max(0, y - MARGIN), max(0, x - MARGIN)
    whole = photos.rounded(method, lq[..., top : y + side + MARGIN, left : x + side + MARGIN])
    return cut(whole, (y - top, x - left, side))


def cut(x: Tensor, box: Box) -> Tensor:
    top, left, side = (SCALE * n for n in box)
    return x[..., top : top + side, left : left + side]


def order(names: Sequence[str], sheet: str, seed: int) -> dict[str, str]:
    """Letter -> name, in an order that belongs to the sheet."""
    shuffled = random.Random(f"{seed}/{sheet}").sample(list(names), len(names))
    return {chr(ord("A") + i): name for i, name in enumerate(shuffled)}


def make(args: argparse.Namespace) -> None:
    methods = {name: photos.student(path) for name, path in args.model}
    folders = {name: {file.stem: file for file in photos.files(path)} for name, path in args.results}
    names = [*methods, *folders]
    key: dict[str, dict[str, str]] = {}
    args.out.mkdir(parents=True, exist_ok=True)
    for label, samples in ((degraded(args) if args.hr else {}) | given(args)).items():
        for sample in samples:
            for n, box in enumerate(boxes(sample.lq, args.crop // SCALE, args.crops)):
                sheet = f"{label}-{sample.name}-{n + 1}"
                key[sheet] = order(names, sheet, args.seed)
                y, x, side = box
                piece = sample.lq[..., y : y + side, x : x + side]
                panels = {"input": F.interpolate(piece, scale_factor=SCALE, mode="nearest")}
                for letter, name in key[sheet].items():
                    if name in methods:
                        panels[letter] = restored(methods[name], sample.lq, box)
                    else:
                        panels[letter] = cut(photos.read(found(folders[name], sample.name, name)), box)
                if sample.hr is not None:
                    panels["photograph"] = cut(sample.hr, box)
                photos.sheet(panels, 0).save(args.out / f"{sheet}.png")
                print(sheet, file=sys.stderr, flush=True)
    with (args.out / VERDICTS).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("sheet", "order"), *((sheet, "") for sheet in key)])
    key_of(args.out).write_text(json.dumps(key, indent=1), encoding="utf-8")
    print(f"{len(key)} sheets in {args.out}: write the orders into {args.out / VERDICTS}, then --tally")


def found(files: Mapping[str, Path], stem: str, name: str) -> Path:
    if stem not in files:
        sys.exit(f"expected the result {stem} in the folder of {name}, found none: make it")
    return files[stem]


def key_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.key.json")


def ranks(verdict: str, letters: Mapping[str, str], sheet: str) -> dict[str, int]:
    """Name -> place, from "B>A=C"; what is not said comes last. Exits where letters are others'."""
    places = [re.findall(r"\w", part) for part in verdict.upper().split(">")]
    said = [letter for part in places for letter in part]
    if len(set(said)) < len(said) or not set(said) <= set(letters):
        sys.exit(f"{sheet}: expected each of {', '.join(letters)} once, as in B>A, found “{verdict}”")
    place = {letter: i for i, part in enumerate(places) for letter in part}
    return {name: place.get(letter, len(places)) for letter, name in letters.items()}


def tally(key: Mapping[str, Mapping[str, str]], verdicts: Mapping[str, str]) -> str:
    """Table: of how many sheets each was best, and against each other one preferred-equal-behind."""
    judged = [ranks(v, key[sheet], sheet) for sheet, v in verdicts.items() if v.strip() and sheet in key]
    names = sorted({name for letters in key.values() for name in letters.values()})
    versus: Counter[tuple[str, str, int]] = Counter()
    for places in judged:
        for one, other in itertools.permutations(places, 2):
            versus[one, other, (places[one] < places[other]) - (places[one] > places[other])] += 1
    best = Counter(name for places in judged for name, i in places.items() if i == min(places.values()))

    def cell(one: str, other: str) -> str:
        return "" if one == other else "-".join(str(versus[one, other, sign]) for sign in (1, 0, -1))

    rows = [[one, str(best[one]), *(cell(one, other) for other in names)] for one in names]
    return f"{len(judged)} of {len(key)} sheets judged\n\n" + table(["", "best", *names], rows)


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--out", type=Path, required=True, help="folder of the sheets")
    p.add_argument("--tally", action="store_true", help="count the verdicts instead of making sheets")
    options(p, "--hr", "--held-out", "--preset", "--pairs", "--lq", "--seed", "--model", "--limit")
    p.add_argument("--results", **{**FILES, "metavar": "[NAME=]FOLDER"}, help="pictures by another program")
    p.add_argument("--crops", type=int, default=2, help="of each photograph")
    p.add_argument("--crop", type=int, default=256, help="side of a crop of the result, pixels")
    args = p.parse_args()
    if args.tally:
        key = json.loads(key_of(args.out).read_text(encoding="utf-8"))
        with (args.out / VERDICTS).open(newline="", encoding="utf-8") as lines:
            print(tally(key, {row["sheet"]: row["order"] for row in csv.DictReader(lines)}))
        return
    if not (args.hr or args.pairs or args.lq) or len(args.model) + len(args.results) < 2:
        p.error("expected photographs (--lq, --pairs or --hr) and two or more of --model and --results")
    make(args)


if __name__ == "__main__":
    try:
        with torch.inference_mode():
            main()
    except (UnistepError, OSError, KeyError, ValueError) as error:
        sys.exit(f"blind: {error}")
