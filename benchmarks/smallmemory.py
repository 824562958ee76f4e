"""int8, int4 and offload of folded denoisers: bytes of weights, and what quantisation changes in the result.

    python benchmarks/smallmemory.py

Bytes are those of the real sizes, in bfloat16, counted without data. Changes are measured on reduced
networks of random weights against float32: they check the arithmetic, and say nothing about pictures. A
change is the norm of the difference over the norm of what the network predicts. Needs the extra `quant`;
int4 needs CUDA and the extra `quant-cuda`, otherwise its cells say so. Exits with 1 if int8 is more than 0.3
of float32, or changes more than 0.03 in float32.
"""

import copy
from collections.abc import Callable

import torch
from common import filled, leave, parser, passed
from torch import Tensor, nn

from unistep.bases.resshift.student import FoldedSwin, SwinConfig
from unistep.bases.sd3.mmdit import FoldedMMDiT, MMDiTConfig
from unistep.bases.sd21.sdunet import FoldedUNet, UNetConfig
from unistep.students.smallmemory import blocks, offload, quantise, stored_bytes

REAL: dict[str, Callable[[], nn.Module]] = {
    "SD3": lambda: FoldedMMDiT(MMDiTConfig()),
    "SD2.1": FoldedUNet,
    "ResShift": lambda: FoldedSwin(SwinConfig()),
}
REDUCED: dict[str, Callable[[], nn.Module]] = {
    "SD3, 4 layers of width 512": lambda: FoldedMMDiT(MMDiTConfig(layers=4, heads=8, tokens=32)),
    "SD2.1, levels of 64 and 256": lambda: FoldedUNet(
        UNetConfig(widths=(64, 256), heads=(2, 4), attends=(True, True), tokens=32)
    ),
}
WAYS = [
    ("full", torch.float32), ("offload", torch.float32), ("full", torch.bfloat16), ("int8", torch.float32),
    ("int8", torch.bfloat16), ("int8", torch.float16), ("int4", torch.bfloat16),
]  # fmt: skip
SHARE, CHANGE = 0.3, 0.03
"""Gates of int8."""


def linears(net: nn.Module) -> int:
    """Bytes of its large linear layers, quantised or not."""
    layers = [m for m in net.modules() if isinstance(m, nn.Linear)]
    return sum(stored_bytes(m) for m in layers if min(m.in_features, m.out_features) >= 256)


def sizes(name: str) -> str:
    with torch.device("meta"):
        net = REAL[name]().to(torch.bfloat16)
    full, large = stored_bytes(net), linears(net)
    visit = max(map(stored_bytes, blocks(net)))
    held = full - sum(map(stored_bytes, blocks(net)))
    small = f"{stored_bytes(quantise(net, 'int8', 'meta')) / 1e9:.3f}" if large else "nothing to quantise"
    return (
        f"| {name} | {full / 1e9:.3f} | {large / full:.0%} | {small} | {held / 1e9:.3f} + {visit / 1e9:.3f} |"
    )


@torch.no_grad()
def change(name: str, how: str, dtype: torch.dtype, device: str) -> tuple[str, bool]:
    """(row of the table, whether within the gates)."""
    full = filled(REDUCED[name]())
    channels: int = full.get_parameter("proj_in.weight" if "SD3" in name else "conv_in.weight").shape[1]
    z = torch.randn(1, channels, 32, 32, generator=torch.Generator().manual_seed(1))
    net = copy.deepcopy(full).to(dtype)
    offload(net, device) if how == "offload" else quantise(net, how, device).to(device)

    def predicted(m: nn.Module, z: Tensor) -> Tensor:
        return (m(z) - z).float().cpu()

    wanted = predicted(full, z)
    apart = ((predicted(net, z.to(device)) - wanted).norm() / wanted.norm()).item()
    share = linears(net) / linears(full)
    row = f"| {name} | {how}, {str(dtype).removeprefix('torch.')} | {share:.3f} | {apart:.5f} |"
    return row, how != "int8" or (share <= SHARE and (dtype != torch.float32 or apart <= CHANGE))


def main() -> bool:
    parser(__doc__).parse_args()
    print("| real size | weights, GB | large linear layers | int8, GB | offload, GB |\n|---|---|---|---|---|")
    for name in REAL:
        print(sizes(name), flush=True)
    print("\n| reduced | weights | large linear layers, of float32 | change |\n|---|---|---|---|")
    good = True
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for name in REDUCED:
        for how, dtype in WAYS:
            if how == "int4" and device == "cpu":
                print(f"| {name} | int4 | not measured: no CUDA | |")
                continue
            row, within = change(name, how, dtype, device)
            good &= within
            print(row, flush=True)
    return passed({f"int8 at most {SHARE} of float32, changes at most {CHANGE}": good})


if __name__ == "__main__":
    leave(main())
