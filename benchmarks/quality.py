"""Quality table of one-step upscaling x4: bicubic, peers and Unistep models, on files that the caller names.

    python benchmarks/quality.py --out OUT --hr CLEAN_PHOTOS --preset light --preset realesrgan \
        --pairs FOLDER_WITH_lr_AND_hr --lq LOW_QUALITY_PHOTOS \
        --peer realesr-general-x4v3=realesr_general_x4v3.safetensors --model ours=unistep.safetensors \
        --niqe niqe_pris_params.npz --lpips squeezenet1_1.safetensors lpips_v0.1_squeeze_heads.safetensors

OUT gets table.md, table.csv (means), images.csv (every image) and sheets/SET/NAME.png (side by side at 1:1:
look at them before the numbers). Every result is rounded to 8 bits before it is measured.
"""

import argparse
import csv
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from peers import load_srvgg, ready
from PIL import Image, ImageDraw
from torch import Tensor

from unistep.data.degrade import DEGRADATIONS, degrade
from unistep.data.pairs import DataConfig, Photographs
from unistep.errors import ImageError, UnistepError
from unistep.evaluation.metrics import METRICS, Score

Method = Callable[[Tensor], Tensor]  # [1,3,h,w] -> [1,3,4h,4w], both in [0,1]
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


@dataclass(frozen=True)
class Sample:
    name: str
    lq: Tensor  # [1,3,h,w] in [0,1]
    hr: Tensor | None


def read(path: Path) -> Tensor:
    with Image.open(path) as image:
        return to_tensor(image.convert("RGB"))


def to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def to_image(x: Tensor) -> Image.Image:
    return Image.fromarray((x[0].permute(1, 2, 0) * 255).round().byte().numpy())


def files(source: Path, limit: int | None) -> list[Path]:
    """The images of a folder, sorted, or those that a text file lists, a path (relative to it) per line."""
    if source.is_file():
        found = [source.parent / line for line in source.read_text(encoding="utf-8").split("\n") if line]
    else:
        found = sorted(p for p in source.iterdir() if p.suffix.lower() in SUFFIXES)
    if not found:
        raise ImageError(f"{source} holds no image: name a folder of photographs, or a list of them.")
    return found[:limit]


# What is measured on


def held_out(folder: Path) -> list[Path]:
    """One crop of each photograph that the default training keeps out of a training folder."""
    photographs = Photographs(folder, DataConfig().holdout)
    first = {photographs.photograph[file]: file for file in reversed(photographs.held_out)}
    return sorted(first.values())


def degraded(paths: list[Path], preset: str, seed: int) -> Iterator[Sample]:
    """Clean photographs, degraded: the place in the list is the index that seeds each."""
    for index, path in enumerate(paths):
        x = read(path)
        x = x[..., : x.shape[2] // 4 * 4, : x.shape[3] // 4 * 4]
        lq, hr = degrade(x, preset, seed=seed, indices=[index])
        yield Sample(path.stem, lq, hr)


def pairs(folder: Path, limit: int | None) -> Iterator[Sample]:
    """Real pairs: `lr/` and `hr/` with the same names, 4 times apart."""
    for path in files(folder / "lr", limit):
        yield Sample(path.stem, read(path), read(folder / "hr" / path.name))


def alone(folder: Path, limit: int | None) -> Iterator[Sample]:
    """Low-quality photographs without a reference."""
    for path in files(folder, limit):
        yield Sample(path.stem, read(path), None)


# What is measured


def bicubic(x: Tensor) -> Tensor:
    """Pillow's bicubic (a = -0.5), the usual baseline."""
    image = to_image(x)
    return to_tensor(image.resize((image.width * 4, image.height * 4), Image.Resampling.BICUBIC))


def peer(path: Path) -> Method:
    net = load_srvgg(path)
    return lambda x: net(x.contiguous(memory_format=torch.channels_last))


def student(path: Path) -> Method:
    from unistep.models.checkpoint import load_student

    net = ready(load_student(path))
    return lambda x: (net((x * 2 - 1).contiguous(memory_format=torch.channels_last)) + 1) / 2


def scores(args: argparse.Namespace) -> dict[str, Score]:
    """The measures that need no file, and those whose files were given."""
    given = {"niqe": args.niqe and [args.niqe], "lpips_squeeze": args.lpips}
    return {
        name: metric.open(*(given.get(name) or ()))
        for name, metric in METRICS.items()
        if not metric.files or given.get(name)
    }


def measure(measures: dict[str, Score], result: Tensor, reference: Tensor | None) -> dict[str, float]:
    """nan where a measure needs a reference that is not there, or a larger image."""
    out = {}
    for name, score in measures.items():
        arguments = (result, reference) if METRICS[name].needs_reference else (result,)
        try:
            out[name] = math.nan if arguments[-1] is None else float(score(*arguments))
        except ImageError as error:
            print(f"{name}: {error}", file=sys.stderr)
            out[name] = math.nan
    return out


# What is shown


def sheet(panels: dict[str, Tensor], crop: int) -> Image.Image:
    """Panels side by side at 1:1, each the same centre crop of at most `crop` pixels, under its name."""
    height, width = next(iter(panels.values())).shape[2:]
    h, w = (min(height, crop), min(width, crop)) if crop else (height, width)
    top, left = (height - h) // 2 // 4 * 4, (width - w) // 2 // 4 * 4
    page = Image.new("RGB", ((w + 4) * len(panels) - 4, h + 16), "white")
    draw = ImageDraw.Draw(page)
    for i, (name, x) in enumerate(panels.items()):
        page.paste(to_image(x[..., top : top + h, left : left + w]), (i * (w + 4), 16))
        draw.text((i * (w + 4) + 2, 2), name, fill="black")
    return page


def mean(values: list[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else math.nan


def summary(rows: list[dict[str, object]], measures: dict[str, Score]) -> list[dict[str, object]]:
    """Means by set and method, in the order of first appearance."""
    out: list[dict[str, object]] = []
    for key in dict.fromkeys((row["set"], row["method"]) for row in rows):
        group = [row for row in rows if (row["set"], row["method"]) == key]
        averages = {name: mean([float(str(row[name])) for row in group]) for name in measures}
        out.append({"set": key[0], "method": key[1], "images": len(group), **averages})
    return out


def heading(name: str) -> str:
    sign = {True: " ↑", False: " ↓", None: " →1"}
    return METRICS[name].label + sign[METRICS[name].higher_is_better]


def shown(name: str, value: float) -> str:
    digits = 3 if name == "psnr_y" else 2 if name in ("niqe", "grid") else 1 if name == "swd" else 4
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def markdown(table: list[dict[str, object]], measures: dict[str, Score]) -> str:
    heads = ["set", "method", "images", *map(heading, measures)]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in table:
        cells = [str(row["set"]), str(row["method"]), str(row["images"])]
        cells += [shown(name, float(str(row[name]))) for name in measures]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write_csv(path: Path, rows: list[dict[str, object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def named(text: str) -> tuple[str, Path]:
    """NAME=PATH, or a path that is its own name."""
    name, sign, path = text.rpartition("=")
    return (name, Path(path)) if sign else (Path(text).stem, Path(text))


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    p.add_argument("--out", type=Path, required=True, help="folder for the tables and sheets")
    p.add_argument("--hr", type=Path, help="clean photographs, to degrade: a folder, or a list in a file")
    p.add_argument(
        "--held-out", action="store_true", help="--hr is a training folder: only what training kept out"
    )
    p.add_argument("--preset", action="append", choices=list(DEGRADATIONS), help="default: light, realesrgan")
    p.add_argument("--seed", type=int, default=0, help="of the degradation")
    p.add_argument("--pairs", type=Path, help="folder with lr/ and hr/")
    p.add_argument("--lq", type=Path, help="folder of low-quality photographs without a reference")
    for option, what in (("--peer", "SRVGGNetCompact x4"), ("--model", "Unistep weights")):
        p.add_argument(option, type=named, action="append", default=[], metavar="[NAME=]FILE", help=what)
    p.add_argument("--niqe", type=Path, metavar="NPZ", help="NIQE's pristine model")
    p.add_argument("--lpips", type=Path, nargs=2, metavar=("SQUEEZENET", "HEADS"), help="for LPIPS-squeeze*")
    p.add_argument("--limit", type=int, help="images per set")
    p.add_argument("--crop", type=int, default=512, help="largest panel of a sheet, pixels; 0: whole")
    p.add_argument("--no-sheets", action="store_true")
    args = p.parse_args()
    if not (args.hr or args.pairs or args.lq):
        p.error("nothing to measure on: give --hr, --pairs or --lq")
    return args


def run(args: argparse.Namespace) -> None:
    sets: dict[str, Iterator[Sample]] = {}
    if args.hr:
        clean = held_out(args.hr)[: args.limit] if args.held_out else files(args.hr, args.limit)
        for preset in args.preset or ("light", "realesrgan"):
            sets[preset] = degraded(clean, preset, args.seed)
    if args.pairs:
        sets["pairs"] = pairs(args.pairs, args.limit)
    if args.lq:
        sets["lq"] = alone(args.lq, args.limit)
    methods: dict[str, Method] = {"bicubic": bicubic}
    methods |= {name: peer(path) for name, path in args.peer}
    methods |= {name: student(path) for name, path in args.model}
    measures = scores(args)

    rows: list[dict[str, object]] = []
    for set_name, samples in sets.items():
        for sample in samples:
            panels = {name: (f(sample.lq).clamp(0, 1) * 255).round() / 255 for name, f in methods.items()}
            if sample.hr is not None:
                panels["ground truth"] = sample.hr
            for name, result in panels.items():
                values = measure(measures, result, sample.hr)
                rows.append({"set": set_name, "image": sample.name, "method": name, **values})
            if not args.no_sheets:
                path = args.out / "sheets" / set_name / f"{sample.name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                sheet(panels, args.crop).save(path)
            print(f"{set_name}/{sample.name}", file=sys.stderr, flush=True)
    table = summary(rows, measures)
    args.out.mkdir(parents=True, exist_ok=True)
    write_csv(args.out / "images.csv", rows)
    write_csv(args.out / "table.csv", table)
    text = markdown(table, measures)
    (args.out / "table.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    try:
        with torch.inference_mode():
            run(arguments())
    except (UnistepError, OSError) as error:
        sys.exit(f"quality: {error}")
