"""How fast a model is on this machine, and how near to what the machine can do at most.

Measured: seconds, CPU seconds, on a GPU the peak of memory, and the machine's peaks if they are not given.
Counted, by `counting`: operators, MACs, bytes of weights, on a CPU the peak of memory; and from these two the
least time, the roofline of Williams et al. 2009. One run is one call of the network, from the tensor that it
is given to the one that it gives: reading, writing, colour fix and tiles are not in it.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..counting.operators import Peaks, count, parameters, weight_bytes
from ..counting.peak import Live
from ..diffusion.sampler import Sampler
from ..errors import ConfigError
from ..upscaling.upscaler import Upscaler

if TYPE_CHECKING:
    from ..students.latent import LatentStudent

WARM_UP = 3
"""Runs before those that count; a compiler does its work there."""


@dataclass(frozen=True)
class Result:
    """Of one model, size and device; seconds are medians."""

    device: str
    dtype: str
    size: int
    """Side of the low-quality picture, in pixels."""
    runs: int
    compiled: bool
    seconds: float
    """Wall time of a run, the device's work finished."""
    cpu_seconds: float
    """Of all threads of this process."""
    operators: int
    gmacs: float
    parameters: int
    weight_bytes: int
    peak_bytes: int
    """Weights and activations: on a GPU what the allocator gave out, elsewhere counted tensors."""
    peak_tflops: float
    peak_gbs: float
    """Gigabytes per second, read and written together."""
    bound_fused: float
    """Seconds at least, if norms and activations were done on the way of other operators."""
    bound_eager: float
    """Seconds at least, operator by operator."""

    @property
    def efficiency(self) -> float:
        """The fused bound as a share of the time measured."""
        return self.bound_fused / self.seconds


def bench(
    upscaler: Upscaler,
    size: int = 128,
    repeat: int = 30,
    peaks: Peaks | None = None,
    compile: bool = False,
) -> Result:
    """Runs an upscaler's network on random pictures of size x size pixels.

    Args:
        peaks: of the device; None: measured first.
        compile: torch.compile over the whole call, on a GPU replayed as CUDA graphs.

    Raises ConfigError for sizes and numbers of runs below 1.
    """
    if size < 1 or repeat < 1:
        raise ConfigError(f"expected a size and a number of runs from 1 upward, found {size} and {repeat}")
    device, dtype = upscaler.device, upscaler.dtype
    model, inputs = network(upscaler, size)
    # The small model keeps float32 weights, and computes as in use.
    lower = dtype != torch.float32 and upscaler.latent is None
    with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=lower):
        counts = count(model, *inputs)
        run: Callable[..., object] = model
        if compile:
            run = torch.compile(model, mode="reduce-overhead" if device.type == "cuda" else "default")
        for _ in range(WARM_UP):
            run(*inputs)
        seconds, cpu_seconds = timed(lambda: run(*inputs), repeat, device)
        peak = _peak_bytes(model, inputs, device)
    peaks = peaks or measured_peaks(device, dtype)
    return Result(
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        size=size,
        runs=repeat,
        compiled=compile,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        operators=counts.operators,
        gmacs=counts.macs() / 1e9,
        parameters=parameters(model),
        weight_bytes=weight_bytes(model),
        peak_bytes=peak,
        peak_tflops=peaks.flops / 1e12,
        peak_gbs=peaks.bandwidth / 1e9,
        bound_fused=counts.bound(peaks, fused=True),
        bound_eager=counts.bound(peaks, fused=False),
    )


def network(upscaler: Upscaler, size: int) -> tuple[nn.Module, list[Tensor | None]]:
    """The model and what it is called with for a random picture of size x size pixels."""
    rgb = np.random.default_rng(0).random((size, size, 3), np.float32)
    place: Any = {"device": upscaler.device, "dtype": torch.float32}
    if upscaler.latent and isinstance(upscaler.latent.denoiser, Sampler):
        raise ConfigError(
            "expected a one-step student to measure, found a many-step teacher: convert it without --unfolded"
        )
    if upscaler.latent is None:
        x = torch.from_numpy(rgb * 2 - 1).permute(2, 0, 1)[None].to(**place)
        return upscaler.model, [x.contiguous(memory_format=torch.channels_last)]
    student: LatentStudent = upscaler.latent
    x, image = student.inputs(rgb, (student.scale * size, student.scale * size))
    place["dtype"], codec = upscaler.dtype, student.codec
    noise = None
    if student.config.noise:
        noise = torch.randn(1, codec.channels, *(side // codec.factor for side in x.shape[2:])).to(**place)
    x = x.to(**place).contiguous(memory_format=torch.channels_last)
    return student, [x, None if image is None else image.to(**place), noise]


def synchronise(device: torch.device) -> None:
    """Waits until the device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def timed(run: Callable[[], object], repeat: int, device: torch.device) -> tuple[float, float]:
    """Medians over `repeat` runs, each waited for: (seconds, CPU seconds of this process)."""
    walls, cpus = [], []
    for _ in range(repeat):
        synchronise(device)
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        synchronise(device)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return statistics.median(walls), statistics.median(cpus)


def measured_peaks(device: torch.device, dtype: torch.dtype = torch.float32) -> Peaks:
    """What a large product of matrices and a large copy reach on the device; the best of ten runs each."""
    side, length = (8192, 1 << 28) if device.type == "cuda" else (1536, 1 << 24)
    a, b = (torch.rand(side, side, device=device, dtype=dtype) for _ in range(2))
    source = torch.zeros(length, device=device, dtype=torch.float32)
    target = torch.empty_like(source)

    def best(run: Callable[[], object]) -> float:
        run()
        return min(timed(run, 1, device)[0] for _ in range(10))

    return Peaks(2 * side**3 / best(lambda: a @ b), 2 * source.nbytes / best(lambda: target.copy_(source)))


def _peak_bytes(model: nn.Module, inputs: list[Tensor | None], device: torch.device) -> int:
    """Of one more run, not compiled."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        model(*inputs)
        synchronise(device)
        return int(torch.cuda.max_memory_allocated(device))
    live = Live()
    with live:
        model(*inputs)
    return weight_bytes(model) + live.peak
