"""The memory that is predicted for a picture, next to the memory that it takes: students with random weights.

    python benchmarks/latent_memory.py [--sides 256 512] [--width 4] [--block 128]

Whole pictures, on one thread of the CPU in float32. Each case runs in a fork of this process, which holds the
student, after a small picture: what resident memory grows by at the peak is what the picture took.
Counted: the tensors of the plan, without `planning.SLACK`. Predicted: with it, as the plan has it. On a CPU
blocks and the activations on the host share one memory, so both are added. Needs the extra
`sd`, and Linux with glibc. Exits with 1 unless every prediction is 0.8 to 1.6 times the measured peak.
"""

from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import numpy as np
import torch
from common import filled, leave, parser, passed, resident_peak
from torch import nn

from unistep.autoencoder.codecs import KLCodec
from unistep.bases.sd3.mmdit import FoldedMMDiT, MMDiTConfig
from unistep.bases.sd3.sizes import VAE as SD3_VAE
from unistep.bases.sd21.sdunet import FoldedUNet, UNetConfig
from unistep.bases.tiny import PUBLISHED_VAE as SD21_VAE
from unistep.students import planning
from unistep.students.latent import LatentConfig, LatentStudent

DENOISERS: dict[str, Callable[[], nn.Module]] = {
    "SD2.1, levels of 64 to 256": lambda: FoldedUNet(
        UNetConfig(widths=(64, 128, 256, 256), heads=(1, 2, 4, 4), tokens=32)
    ),
    "SD3, 4 layers of width 384": lambda: FoldedMMDiT(MMDiTConfig(layers=4, heads=6, tokens=83)),
}
GATES = (0.8, 1.6)
SMALL = 64
"""Side of the picture that comes before the one that is measured."""


def student(name: str, width: int) -> LatentStudent:
    """Its autoencoder has 1 / width of the real channels."""
    denoiser = filled(DENOISERS[name]())
    config = SD3_VAE if "SD3" in name else SD21_VAE
    widths = [channel // width for channel in config["block_out_channels"]]
    empty = KLCodec.from_config(config | {"block_out_channels": widths})
    whole = LatentStudent(denoiser, filled(empty.to_empty(device="cpu")), LatentConfig(shortest=0))
    return whole.place(torch.device("cpu"), torch.float32)


def enlarge(model: LatentStudent, side: int, mode: str) -> None:
    rgb = np.random.default_rng(0).random((side // 4, side // 4, 3), np.float32)
    model.enlarge(rgb, (side, side), vae_tiles=mode)


def row(name: str, model: LatentStudent, side: int, mode: str) -> bool:
    """Whether the prediction is within the gates."""
    planner = planning.Planner(model.denoiser, model.codec, model.decoder, None, model.device)
    plan = planner(side, side, model.config.tile, vae_tiles=mode)
    predicted = plan.device_bytes + plan.host_bytes
    counted = plan.device_bytes / planning.SLACK + plan.host_bytes
    taken = resident_peak(partial(enlarge, model, side, mode), partial(enlarge, model, SMALL, mode))
    print(
        f"| {name} | {side} | {mode} | {counted / 1e6:.0f} | {predicted / 1e6:.0f} | {taken / 1e6:.0f} "
        f"| {taken / counted:.2f} | {predicted / taken:.2f} |",
        flush=True,
    )
    return GATES[0] <= predicted / taken <= GATES[1]


def main() -> bool:
    p = parser(__doc__)
    p.add_argument("--sides", type=int, nargs="+", default=[256, 512], help="of the result, in pixels")
    p.add_argument("--width", type=int, default=4, help="the autoencoder's channels: the real ones / WIDTH")
    p.add_argument("--block", type=int, default=128, help="of the exact mode, in pixels")
    args = p.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, autoencoder of 1/{args.width} width, blocks of {args.block} pixels\n")
    print(
        "| student | side | autoencoder | counted, MB | predicted, MB | measured, MB | measured / counted "
        "| predicted / measured |\n|---|---|---|---|---|---|---|---|"
    )
    good = True
    with patch.object(planning, "BLOCKS", (args.block,)):
        for name in DENOISERS:
            model = student(name, args.width)
            for side in args.sides:
                for mode in ("whole", "exact"):
                    good &= row(name, model, side, mode)
    return passed({f"predicted between {GATES[0]} and {GATES[1]} of measured": good})


if __name__ == "__main__":
    leave(main())
