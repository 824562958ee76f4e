"""`unistep bench`: a model's speed and memory as a table for people, or as one JSON object for programs."""

from __future__ import annotations

from dataclasses import asdict
from json import dumps
from typing import TYPE_CHECKING, Annotated

from unistep.command.options import Compile, Device, Dtype, Model, option
from unistep.command.report import clean
from unistep.errors import ConfigError

if TYPE_CHECKING:
    from unistep.evaluation.bench import Result


def bench(
    model: Model = None,
    /,
    *,
    size: Annotated[int, option("Side of the small picture, in pixels. Default: 128.")] = 128,
    device: Device = "auto",
    dtype: Dtype = "auto",
    repeat: Annotated[int, option("Runs, of which the median counts. Default: 30.")] = 30,
    compile: Compile = False,
    peaks: Annotated[
        tuple[float, float] | None,
        option("The device's peaks, instead of measuring them.", metavar="TFLOP/s GB/s"),
    ] = None,
    json: Annotated[bool, option("One JSON object, for programs.")] = False,
) -> int:
    """Measure a model's speed and memory here, against what the device can do at most."""
    from unistep.counting.operators import Peaks
    from unistep.evaluation.bench import bench as measure
    from unistep.upscaling.upscaler import Upscaler

    if peaks is not None and not min(peaks) > 0:
        raise ConfigError(f"expected --peaks to be two numbers above 0, found {peaks[0]:g},{peaks[1]:g}")
    upscaler = Upscaler.from_pretrained(model, device=device, dtype=dtype)
    given = None if peaks is None else Peaks(peaks[0] * 1e12, peaks[1] * 1e9)
    result = measure(upscaler, size, repeat, given, compile)
    if json:
        print(dumps({**asdict(result), "efficiency": result.efficiency, "peaks_given": bool(peaks)}))
        return 0
    print(f"{clean(model or 'the packaged model')}, {result.device}, {result.dtype}")
    for name, value, how in _rows(result, "given" if peaks else "measured"):
        print(f"  {name:20}{value:>14}  {how}")
    return 0


def _rows(r: Result, peaks: str) -> list[tuple[str, str, str]]:
    """(name, value, where it is from)."""
    memory = "measured, one run" if r.device.startswith("cuda") else "counted: weights and live tensors"
    way = ", compiled" if r.compiled else ""
    return [
        ("picture", f"{r.size} x {r.size}", "low-quality pixels, one call of the network"),
        ("seconds", f"{r.seconds:.4f}", f"measured, median of {r.runs}{way}"),
        ("CPU seconds", f"{r.cpu_seconds:.4f}", f"measured, median of {r.runs}, all threads"),
        ("operators", f"{r.operators}", "counted, before any compiler"),
        ("GMAC", f"{r.gmacs:.2f}", "counted: convolutions, products, attention"),
        ("parameters", f"{r.parameters:,}", "counted"),
        ("weights", f"{r.weight_bytes / 1e6:.1f} MB", "counted, as they lie in memory"),
        ("peak memory", f"{r.peak_bytes / 1e6:.1f} MB", memory),
        ("peak arithmetic", f"{r.peak_tflops:.3f} TFLOP/s", f"{peaks}: product of matrices"),
        ("peak bandwidth", f"{r.peak_gbs:.1f} GB/s", f"{peaks}: copy, both ways"),
        ("least time, fused", f"{r.bound_fused:.4f} s", "counted work at these peaks"),
        ("least time, eager", f"{r.bound_eager:.4f} s", "the same with every operator's own memory traffic"),
        ("efficiency", f"{r.efficiency:.1%}", "least time, fused, over seconds"),
    ]  # fmt: skip
