"""What a tiny autoencoder costs: real photographs there and back.

    python benchmarks/tiny_decoder.py --photos FOLDER --taesd FOLDER [--limit N]

--taesd holds taesd_encoder.safetensors, taesd_decoder.safetensors and the same of taesd3. Each photograph's
middle, at most 512 x 512 pixels, goes through the tiny encoder and the tiny decoder; PSNR is over RGB, in 8
bits. It is the loss of the pair. What the tiny decoder alone does to latents of the large encoder needs that
encoder's weights.
"""

import argparse
import statistics
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from unistep.autoencoder.codecs import TinyCodec

SIDE = 512
KINDS = (".png", ".jpg", ".jpeg", ".webp")


def middle(path: Path) -> np.ndarray:
    """[H, W, 3] uint8, sides multiples of 8 and at most SIDE."""
    with Image.open(path) as picture:
        width, height = (min(SIDE, n // 8 * 8) for n in picture.size)
        left, top = (picture.width - width) // 2, (picture.height - height) // 2
        return np.asarray(picture.convert("RGB").crop((left, top, left + width, top + height)))


@torch.inference_mode()
def psnr(codec: TinyCodec, rgb: np.ndarray) -> float:
    x = torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None] / 127.5 - 1
    y = codec.decode(codec.encode(x))[0].permute(1, 2, 0)
    back = ((y + 1) * 127.5).clamp(0, 255).round().double().numpy()
    return float(10 * np.log10(255**2 / np.mean((back - rgb) ** 2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--taesd", type=Path, required=True)
    parser.add_argument("--limit", type=int)
    args = parser.parse_args()
    photos = sorted(p for p in args.photos.iterdir() if p.suffix.lower() in KINDS)[: args.limit]
    print("codec | photographs | PSNR mean dB | min | max\n--- | --- | --- | --- | ---")
    for name in ("taesd", "taesd3"):
        tensors = {
            f"{part}.{key}": tensor
            for part in ("encoder", "decoder")
            for key, tensor in load_file(args.taesd / f"{name}_{part}.safetensors").items()
        }
        codec = TinyCodec.from_tensors(tensors)
        found = [psnr(codec, middle(path)) for path in photos]
        print(
            f"{name} | {len(found)} | {statistics.mean(found):.2f} | {min(found):.2f} | {max(found):.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
