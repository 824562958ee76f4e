"""What several benchmarks share: command lines, sets of photographs, gates, random weights."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unistep.data.degrade import DEGRADATIONS
from unistep.evaluation import pictures
from unistep.evaluation.pictures import Sample


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
    "--peer": {**FILES, "help": "SRVGGNetCompact x4"},
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
    clean = (pictures.held_out if args.held_out else pictures.files)(args.hr, args.limit)
    return {preset: pictures.degraded(clean, preset, args.seed) for preset in args.preset or PRESETS}


def given(args: argparse.Namespace) -> dict[str, Iterator[Sample]]:
    """What was low in quality before: --pairs and --lq."""
    sets = {"pairs": pictures.pairs(args.pairs, args.limit)} if args.pairs else {}
    return sets | ({"lq": pictures.alone(args.lq, args.limit)} if args.lq else {})


def passed(gates: dict[str, bool]) -> bool:
    """Prints each gate; whether all hold."""
    print()
    for gate, good in gates.items():
        print(f"{'pass' if good else 'FAIL'}: {gate}")
    return all(gates.values())


def leave(good: bool) -> None:
    sys.exit(0 if good else 1)


@torch.no_grad()
def filled(net: nn.Module) -> nn.Module:
    """With random weights that keep the scale of what goes through them."""
    generator = torch.Generator().manual_seed(0)
    for t in [*net.parameters(), *net.buffers()]:
        t.copy_(torch.randn(t.shape, generator=generator) * (t[0].numel() if t.dim() > 1 else 9) ** -0.5)
    for m in net.modules():
        if isinstance(m, (nn.LayerNorm, nn.GroupNorm)):
            m.weight += 1
    return net.eval().requires_grad_(False)
