"""Peak memory and CPU seconds per megapixel of the upscaler, for outputs of 1 to 16 megapixels, one thread.

    python benchmarks/memory.py [--model NAME_OR_FILE] [--megapixels 1,2,4,8,16] [--tile N]

Each size runs in a fresh process on a seeded synthetic image, float32 [H,W,3] in and out. The peak is that
of the whole process (interpreter, torch and weights included); CPU seconds are those of the call alone, after
a warm-up. Of several rounds the table shows the smallest time (what other programs disturbed least) and the
largest peak. Exits with 1 if a gate is missed.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time


def one(megapixels: float, model: str | None, tile: str) -> dict[str, float]:
    """Upscales one image of this output size in this process."""
    import numpy as np
    import torch

    from unistep import Upscaler

    torch.set_num_threads(1)
    # four to three, as photographs are
    width, height = (round((megapixels * 1e6 * ratio) ** 0.5 / 4) for ratio in (4 / 3, 3 / 4))
    waves = np.add.outer(np.sin(np.arange(height) / 9), np.cos(np.arange(width) / 7))[..., None]
    noise = np.random.default_rng(0).random((height, width, 3), dtype=np.float32)
    image = np.float32(0.4) + np.float32(0.15) * waves.astype(np.float32) + np.float32(0.1) * noise
    del waves, noise
    upscaler = Upscaler.from_pretrained(model, device="cpu")
    size: int | str = int(tile) if tile.isdigit() else tile
    upscaler(image[:32, :32], scale=4, tile=size)
    start = time.process_time()
    result = upscaler(image, scale=4, tile=size)
    seconds = time.process_time() - start
    # kilobytes, but bytes on macOS
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "megapixels": result.shape[0] * result.shape[1] / 1e6,
        "seconds": seconds,
        "peak": peak / 2**20,
        "buffers": (image.nbytes + result.nbytes) / 2**20,
    }


def measured(arguments: list[str]) -> dict[str, float]:
    """`one` in a fresh process. This one stays small: a child's peak on Linux starts from its parent's."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    output = subprocess.check_output([sys.executable, __file__, *arguments], env=environment, text=True)
    row: dict[str, float] = json.loads(output.splitlines()[-1])
    return row


def main() -> bool:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", help="an embedded model's name or a file of weights")
    p.add_argument("--megapixels", default="1,2,4,8,16", help="of the output; the memory gate needs 4 and 16")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--tile", default="auto", help="low-resolution pixels, or auto")
    p.add_argument("--one", type=float, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.one:
        print(json.dumps(one(args.one, args.model, args.tile)))
        return True

    model = ["--model", args.model] if args.model else []
    rows: dict[float, dict[str, float]] = {}
    for megapixels in [float(part) for part in args.megapixels.split(",")] * args.rounds:
        row = measured(["--one", str(megapixels), "--tile", args.tile, *model])
        before = rows.setdefault(megapixels, row)
        before["seconds"] = min(row["seconds"], before["seconds"])
        before["peak"] = max(row["peak"], before["peak"])
    from common import passed  # not before: torch would make this process large

    print("| output, MP | CPU s | CPU s per MP | peak, MiB | input and output, MiB |\n|---|---|---|---|---|")
    for row in rows.values():
        print(
            f"| {row['megapixels']:.2f} | {row['seconds']:.2f} | {row['seconds'] / row['megapixels']:.3f} "
            f"| {row['peak']:.0f} | {row['buffers']:.0f} |"
        )
    rates = [row["seconds"] / row["megapixels"] for row in rows.values()]
    spread = max(rates) / min(rates)
    gates = {f"CPU seconds per megapixel within 30 % ({spread:.2f})": spread <= 1.3}
    if {4.0, 16.0} <= rows.keys():
        peak, bound = rows[16.0]["peak"], 1.1 * rows[4.0]["peak"] + rows[16.0]["buffers"]
        gate = f"peak at 16 MP at most 1.1 x that at 4 MP + buffers ({peak:.0f} of {bound:.0f} MiB)"
        gates[gate] = peak <= bound
    return passed(gates)


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
