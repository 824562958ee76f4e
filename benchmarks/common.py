"""What several benchmarks share: command lines, tables, gates, random weights."""

import argparse
import sys
from collections.abc import Iterable, Sequence

import torch
from torch import nn


def parser(doc: str | None) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In Markdown."""
    head, *body = ("| " + " | ".join(line) + " |" for line in [heads, *rows])
    return "\n".join([head, "|" + "---|" * len(heads), *body]) + "\n"


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
