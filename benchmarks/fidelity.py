"""What `--fidelity` trades: PSNR-Y against restored detail, for one model on degraded photographs.

    python benchmarks/fidelity.py --model unistep.safetensors --hr TRAINING_PHOTOS --held-out \
        --lpips squeezenet1_1.safetensors lpips_v0.1_squeeze_heads.safetensors

Prints one row for each degradation and value. Exits with 1 if the mean PSNR-Y of all images falls anywhere
as the value grows.
"""

import argparse
import sys
from itertools import pairwise
from pathlib import Path

import torch
from quality import degraded, files, held_out, markdown, measure, scores, summary, to_image, to_tensor

from unistep import Upscaler
from unistep.data.degrade import DEGRADATIONS
from unistep.errors import UnistepError

SHOWN = ("psnr_y", "ssim_y", "lpips_squeeze", "gradient_energy", "grid")


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    p.add_argument("--model", required=True, help="Unistep weights: a name or a file")
    p.add_argument("--hr", type=Path, required=True, help="clean photographs: a folder, or a list in a file")
    p.add_argument(
        "--held-out", action="store_true", help="--hr is a training folder: only what training kept out"
    )
    p.add_argument("--values", type=float, nargs="+", default=[0, 0.25, 0.5, 0.75, 1])
    p.add_argument("--preset", action="append", choices=list(DEGRADATIONS), help="default: light, realesrgan")
    p.add_argument("--seed", type=int, default=0, help="of the degradation")
    p.add_argument("--lpips", type=Path, nargs=2, metavar=("SQUEEZENET", "HEADS"), help="for LPIPS-squeeze*")
    p.add_argument("--limit", type=int, help="images per degradation")
    p.set_defaults(niqe=None)
    return p.parse_args()


def run(args: argparse.Namespace) -> bool:
    """Prints the table; whether the mean PSNR-Y never falls."""
    clean = held_out(args.hr)[: args.limit] if args.held_out else files(args.hr, args.limit)
    opened = scores(args)
    measures = {name: opened[name] for name in SHOWN if name in opened}
    values = sorted(set(args.values))
    upscalers = {value: Upscaler.from_pretrained(args.model, fidelity=value) for value in values}
    rows: list[dict[str, object]] = []
    for preset in args.preset or ("light", "realesrgan"):
        for sample in degraded(clean, preset, args.seed):
            for value, upscaler in upscalers.items():
                result = to_tensor(upscaler(to_image(sample.lq)))
                found = measure(measures, result, sample.hr)
                rows.append({"set": preset, "method": f"fidelity {value:g}", **found})
            print(f"{preset}/{sample.name}", file=sys.stderr, flush=True)
    table = summary(rows, measures)
    print(markdown(table, measures))
    over_all = [
        sum(float(str(row["psnr_y"])) for row in rows if row["method"] == f"fidelity {value:g}")
        for value in values
    ]
    print("PSNR-Y over all:", ", ".join(f"{total * len(values) / len(rows):.3f}" for total in over_all))
    monotone = all(now <= later for now, later in pairwise(over_all))
    if not monotone:
        print("FAIL: it falls where fidelity grows")
    return monotone


if __name__ == "__main__":
    try:
        with torch.inference_mode():
            sys.exit(0 if run(arguments()) else 1)
    except (UnistepError, OSError) as error:
        sys.exit(f"fidelity: {error}")
