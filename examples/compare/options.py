"""The options that the scripts of this folder share, and the sets of photographs that they name."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import photos
from photos import Sample

from unistep.data.presets import DEGRADATIONS


def parser(doc: str | None) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def named(text: str) -> tuple[str, Path]:
    """NAME=PATH, or a path that is its own name."""
    name, sign, path = text.rpartition("=")
    return (name, Path(path)) if sign else (Path(text).stem, Path(text))


FILES: dict[str, Any] = {"type": named, "action": "append", "default": [], "metavar": "[NAME=]FILE"}
OPTIONS: dict[str, dict[str, Any]] = {
    "--hr": {"type": Path, "help": "clean photographs, to degrade: a folder, or a list in a file"},
    "--held-out": {"action": "store_true", "help": "--hr is a training folder: only what training kept out"},
    "--preset": {"action": "append", "choices": list(DEGRADATIONS), "help": "default: light, realesrgan"},
    "--seed": {"type": int, "default": 0, "help": "of the degradation"},
    "--pairs": {"type": Path, "help": "folder with lr/ and hr/"},
    "--lq": {"type": Path, "help": "folder of low-quality photographs without a reference"},
    "--peer": {**FILES, "help": "SRVGGNetCompact or RRDBNet x4"},
    "--model": {**FILES, "help": "Unistep weights"},
    "--niqe": {"type": Path, "metavar": "NPZ", "help": "NIQE's pristine model"},
    "--lpips": {"type": Path, "nargs": 2, "metavar": ("SQUEEZENET", "HEADS"), "help": "for LPIPS-squeeze*"},
    "--limit": {"type": int, "help": "images per set"},
}  # fmt: skip
PRESETS = ("light", "realesrgan")


def options(p: argparse.ArgumentParser, *names: str) -> None:
    for name in names:
        p.add_argument(name, **OPTIONS[name])


def degraded(args: argparse.Namespace) -> dict[str, Iterator[Sample]]:
    """The photographs of --hr in each preset."""
    clean = (photos.held_out if args.held_out else photos.files)(args.hr, args.limit)
    return {preset: photos.degraded(clean, preset, args.seed) for preset in args.preset or PRESETS}


def given(args: argparse.Namespace) -> dict[str, Iterator[Sample]]:
    """What was low in quality before: --pairs and --lq."""
    sets = {"pairs": photos.pairs(args.pairs, args.limit)} if args.pairs else {}
    return sets | ({"lq": photos.alone(args.lq, args.limit)} if args.lq else {})
