"""The autoencoder of Stable Diffusion at its real size, random weights: whole, in blocks and in fast tiles.

    python benchmarks/vae.py [--sizes 512 1024] [--block 256] [--directions encode decode] [--no-whole]

Equality, CPU seconds, bytes of live tensors against those planned, and the growth to 16 megapixels from
shapes alone. Weights and picture are random, so the deviation of the fast mode is an example,
not a bound.
"""

import argparse
import resource
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from unistep.autoencoder import layersync
from unistep.autoencoder.codecs import KLCodec
from unistep.counting.peak import Live

SD = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
}
GROWTH = (512, 1024, 2048, 4096)


def autoencoder() -> KLCodec:
    import diffusers

    torch.manual_seed(0)
    return KLCodec(diffusers.AutoencoderKL(**SD).eval())


def picture(side: int) -> Tensor:
    """[1, 3, side, side]: a ramp, and a half with noise."""
    torch.manual_seed(1)
    x = torch.linspace(-1, 1, side).expand(1, 3, side, side).clone()
    x[..., side // 2 :, :] += 0.5 * torch.randn(1, 3, side - side // 2, side)
    return x.clamp(-1, 1)


def measured(call: Callable[[], Tensor], known: nn.Module, given: Tensor) -> tuple[Tensor, float, int]:
    """(result, CPU seconds, peak bytes of live tensors beyond the weights and the input)."""
    live = Live()
    for tensor in (*known.parameters(), given):
        live.known[tensor.untyped_storage()._cdata] = 0
    start = time.process_time()
    with torch.no_grad(), live:
        out = call()
    return out, time.process_time() - start, live.peak


def row(codec: KLCodec, direction: str, side: int, block: int, whole: bool) -> None:
    x = picture(side) if direction == "encode" else torch.nn.functional.avg_pool2d(picture(side), 8)
    if direction == "decode":
        x = torch.cat([x, x[:, :1].flip(2)], dim=1) * 3
    reference = None
    run = getattr(layersync, direction)
    ways: list[tuple[str, Callable[[], Tensor]]] = [
        ("exact", lambda: run(codec, x, block=block, store="host")),
        ("fast", lambda: run(codec, x, block=block, mode="fast")),
    ]
    if whole:
        ways.insert(0, ("whole", lambda: getattr(codec, direction)(x)))
    for name, call in ways:
        out, seconds, peak = measured(call, codec, x)
        planned = ""
        if name == "whole":
            reference = out
        else:
            p = layersync.plan(codec, side, side, direction=direction, block=block, mode=name)
            total = p.device_bytes + p.host_bytes
            planned = (
                f"{p.device_bytes / 1e6:.0f} | {p.host_bytes / 1e6:.0f} | {peak / total:.2f} | "
                f"{p.macs / p.whole_macs:.3f}"
            )
        differs = ""
        if reference is not None and name != "whole":
            gap = (out - reference).abs()
            differs = (
                f"{float(gap.max() / reference.abs().max()):.1e} | "
                f"{float(gap.max()) * 127.5:.3f} / {float(gap.mean()) * 127.5:.3f}"
            )
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        print(
            f"{direction} | {side} | {name} | {seconds:.0f} | {peak / 1e6:.0f} | {planned or ' | | | '} | "
            f"{differs or ' | '} | {rss:.0f}",
            flush=True,
        )


def growth(codec: KLCodec, block: int) -> None:
    print(
        "\ndirection | side | TMAC | its attention | in blocks | largest GB (float32) | device MB | host GB"
    )
    for direction in ("encode", "decode"):
        for side in GROWTH:
            p = layersync.plan(codec, side, side, direction=direction, block=block)
            print(
                f"{direction} | {side} | {p.whole_macs / 1e12:.2f} | {p.attention_macs / 1e12:.2f} | "
                f"{p.macs / 1e12:.2f} | {p.largest / 1e9:.2f} | {p.device_bytes / 1e6:.0f} | "
                f"{p.host_bytes / 1e9:.2f}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[512, 1024])
    parser.add_argument("--block", type=int, default=256)
    parser.add_argument("--directions", nargs="+", default=["encode", "decode"])
    parser.add_argument("--no-whole", action="store_true")
    args = parser.parse_args()
    codec = autoencoder()
    growth(codec, args.block)
    print(
        "\ndirection | side | way | CPU s | live MB | planned device MB | planned host MB | live/planned | "
        "MACs/whole | max relative | levels of 255 max / mean | RSS so far MB"
    )
    for side in args.sizes:
        for direction in args.directions:
            row(codec, direction, side, args.block, not args.no_whole)


if __name__ == "__main__":
    main()
