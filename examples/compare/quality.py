"""Quality table of one-step upscaling x4: bicubic, peers and Unistep models, on files that the caller names.

    python examples/compare/quality.py --out OUT --hr CLEAN_PHOTOS --preset light --preset realesrgan \
        --pairs FOLDER_WITH_lr_AND_hr --lq LOW_QUALITY_PHOTOS \
        --peer realesr-general-x4v3=realesr_general_x4v3.safetensors --model ours=unistep.safetensors \
        --niqe niqe_pris_params.npz --lpips squeezenet1_1.safetensors lpips_v0.1_squeeze_heads.safetensors

OUT gets table.md, table.csv (means), images.csv (every image) and sheets/SET/NAME.png (side by side at 1:1:
look at them before the numbers). Every result is rounded to 8 bits before it is measured.
"""

import argparse
import sys
from pathlib import Path

import photos
import torch
from options import degraded, given, options, parser
from photos import Method
from tables import Rows, write_report

from unistep.errors import UnistepError


def arguments() -> argparse.Namespace:
    p = parser(__doc__)
    p.add_argument("--out", type=Path, required=True, help="folder for the tables and sheets")
    options(p, "--hr", "--held-out", "--preset", "--seed", "--pairs", "--lq")
    options(p, "--peer", "--model", "--niqe", "--lpips", "--limit")
    p.add_argument("--crop", type=int, default=512, help="largest panel of a sheet, pixels; 0: whole")
    p.add_argument("--no-sheets", action="store_true")
    args = p.parse_args()
    if not (args.hr or args.pairs or args.lq):
        p.error("nothing to measure on: give --hr, --pairs or --lq")
    return args


def run(args: argparse.Namespace) -> None:
    sets = (degraded(args) if args.hr else {}) | given(args)
    methods: dict[str, Method] = {"bicubic": photos.bicubic}
    methods |= {name: photos.student(path) for name, path in (*args.peer, *args.model)}
    measures = photos.scores(args.niqe, args.lpips)

    rows: Rows = []
    for set_name, samples in sets.items():
        for sample in samples:
            panels = {name: photos.rounded(method, sample.lq) for name, method in methods.items()}
            if sample.hr is not None:
                panels["ground truth"] = sample.hr
            for name, result in panels.items():
                values = photos.measure(measures, result, sample.hr)
                rows.append({"set": set_name, "image": sample.name, "method": name, **values})
            if not args.no_sheets:
                path = args.out / "sheets" / set_name / f"{sample.name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                photos.sheet(panels, args.crop).save(path)
            print(f"{set_name}/{sample.name}", file=sys.stderr, flush=True)
    print(write_report(args.out, rows, measures))


if __name__ == "__main__":
    try:
        with torch.inference_mode():
            run(arguments())
    except (UnistepError, OSError) as error:
        sys.exit(f"quality: {error}")
