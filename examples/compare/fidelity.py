"""What `--fidelity` trades: PSNR-Y against restored detail, for one model on degraded photographs.

    python examples/compare/fidelity.py --model unistep.safetensors --hr TRAINING_PHOTOS --held-out \
        --lpips squeezenet1_1.safetensors lpips_v0.1_squeeze_heads.safetensors

Prints one row for each degradation and value. Exits with 1 if the mean PSNR-Y of all images falls anywhere
as the value grows.
"""

import argparse
import sys
from itertools import pairwise

import photos
import torch
from options import degraded, options, parser
from tables import Rows, markdown, mean, summary

from unistep import Upscaler
from unistep.errors import UnistepError

SHOWN = ("psnr_y", "ssim_y", "lpips_squeeze", "gradient_energy", "grid")


def run(args: argparse.Namespace) -> bool:
    """Prints the table; whether the mean PSNR-Y never falls."""
    opened = photos.scores(lpips=args.lpips)
    measures = {name: opened[name] for name in SHOWN if name in opened}
    values = sorted(set(args.values))
    upscalers = {f"fidelity {v:g}": Upscaler.from_pretrained(args.model, fidelity=v) for v in values}
    rows: Rows = []
    for preset, samples in degraded(args).items():
        for sample in samples:
            for name, upscaler in upscalers.items():
                result = photos.to_tensor(upscaler(photos.to_image(sample.lq)))
                rows.append({"set": preset, "method": name, **photos.measure(measures, result, sample.hr)})
            print(f"{preset}/{sample.name}", file=sys.stderr, flush=True)
    print(markdown(summary(rows, measures), measures))
    over_all = [mean(float(str(r["psnr_y"])) for r in rows if r["method"] == name) for name in upscalers]
    print("PSNR-Y over all:", ", ".join(f"{value:.3f}" for value in over_all))
    rising = all(now <= later for now, later in pairwise(over_all))
    print(f"\n{'pass' if rising else 'FAIL'}: mean PSNR-Y never falls as fidelity grows")
    return rising


if __name__ == "__main__":
    p = parser(__doc__)
    p.add_argument("--model", required=True, help="Unistep weights: a name or a file")
    options(p, "--hr", "--held-out", "--preset", "--seed", "--lpips", "--limit")
    p.add_argument("--values", type=float, nargs="+", default=[0, 0.25, 0.5, 0.75, 1])
    args = p.parse_args()
    if args.hr is None:
        p.error("--hr is needed: clean photographs")
    try:
        with torch.inference_mode():
            sys.exit(0 if run(args) else 1)
    except (UnistepError, OSError) as error:
        sys.exit(f"fidelity: {error}")
