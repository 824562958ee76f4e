"""A batch of images degraded at once, where the batch is: for `data.degrade_on=device`.

Each image keeps its own sizes on the way: all lie in the corner of a common canvas, and what is beyond an
image is never read. So the number of operators does not grow with the batch. The steps are those of
`degrade`, drawn by the same generators; but noise comes from one generator on the device, seeded by the first
index: the generators of the images are not moved on by it. Up to the first noise all is as `degrade` makes
it; what follows is other draws from the same distribution, the same again for the same seed and indices.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .degrade import (
    MODES,
    REDUCE,
    Blur,
    Draw,
    Grey,
    Jpeg,
    Noise,
    Resize,
    Step,
    check_sides,
    eight_bits,
    grey,
    mixed,
    steps,
)
from .filters import correlate, jpeg, usm_sharpen
from .presets import Degradation, FaceDegradation

SLOTS = (Blur, Resize, Noise, Jpeg, Blur, Resize, Noise, Jpeg, Resize, Blur, Jpeg, Grey)
"""An image's steps are some of these, in this order."""
Sizes = list[tuple[int, int]]
Plan = list[Step | None]


def degrade_batch(
    x: Tensor,
    params: Sequence[Degradation | FaceDegradation],
    *,
    seed: int,
    indices: list[int],
    usm: bool = False,
) -> tuple[Tensor, Tensor]:
    """As `degrade`, by the parameters of each image, which agree in scale: ([B, 3, h, w], [B, 3, H, W]).

    x: [B, 3, H, W] float32 in [0, 1]. Raises ConfigError for sides not divisible by the scale.
    """
    check_sides(x, params[0].scale)
    x = usm_sharpen(x) if usm else x
    plans = [
        plan(each, Draw(seed, index), image.shape[-2], image.shape[-1])
        for image, each, index in zip(x, params, indices, strict=True)
    ]
    noise = torch.Generator(x.device).manual_seed(mixed(mixed(seed, indices[0]), 1))
    return carried_out(x, plans, noise)


def plan(params: Degradation | FaceDegradation, draw: Draw, h: int, w: int) -> Plan:
    """The steps of an image in their SLOTS; the amounts of noise are drawn."""
    slots: Plan = [None] * len(SLOTS)
    at = 0
    for step in steps(params, draw, h, w):
        if isinstance(step, Noise):
            amount = draw.uniform(*step.amounts)
            step = step._replace(amounts=(amount, amount))
        at = SLOTS.index(type(step), at)
        slots[at] = step
        at += 1
    return slots


def carried_out(x: Tensor, plans: list[Plan], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Both images of the pairs of [B, 3, H, W], by a plan for each; noise by a generator on x's device."""
    x_hq = x
    sizes: Sizes = [(x.shape[-2], x.shape[-1])] * len(plans)
    for kind, slot in zip(SLOTS, zip(*plans, strict=True), strict=True):
        if all(step is None for step in slot):
            continue
        if kind is Resize:
            wanted = [have if step is None else step.size for have, step in zip(sizes, slot, strict=True)]
            x = resized(x, sizes, wanted, [None if step is None else step.mode for step in slot])
            sizes = wanted
        elif kind is Blur:
            x = blurred(x, sizes, [None if step is None else step.kernel for step in slot])
        elif kind is Noise:
            x = noisy(x, sizes, slot, generator)
        elif kind is Jpeg:
            x = compressed(x, sizes, [None if step is None else step.quality for step in slot])
        else:
            chosen = _numbers([step is not None for step in slot], x)
            x, x_hq = torch.where(chosen, grey(x), x), torch.where(chosen, grey(x_hq), x_hq)
    h, w = sizes[0]  # by now all have the size of the low-quality image
    return eight_bits(x[..., :h, :w]), x_hq


def _numbers(values: Sequence[float], x: Tensor) -> Tensor:
    """One number for each image, [B, 1, 1, 1], where x is."""
    return torch.tensor(values, device="cpu").to(x.device).view(-1, 1, 1, 1)


def _within(x: Tensor, sizes: Sizes) -> Tensor:
    """[B, 1, H, W]: whether a pixel of the canvas belongs to its image."""
    inside = []
    for axis in (0, 1):
        have = _numbers([size[axis] for size in sizes], x).view(-1, 1)
        inside.append(torch.arange(x.shape[2 + axis], device=x.device) < have)
    return inside[0][:, None, :, None] & inside[1][:, None, None, :]


def blurred(x: Tensor, sizes: Sizes, kernels: Sequence[Tensor | None]) -> Tensor:
    """`filter2d` of each image by its own kernel; None leaves an image as it is."""
    sides = [1 if kernel is None else kernel.shape[-1] for kernel in kernels]
    size = max(sides)
    radius = size // 2
    table = np.zeros((len(kernels), size, size), np.float32)
    for row, side, kernel in zip(table, sides, kernels, strict=True):
        own = slice(radius - side // 2, radius + side // 2 + 1)
        row[own, own] = 1 if kernel is None else kernel.numpy()
    # Borders as far as the image's own kernel reaches: beyond it the table holds zeros.
    reflect = [side // 2 < min(have) for side, have in zip(sides, sizes, strict=True)]
    mirrored = _numbers(reflect, x).view(-1, 1)
    rows, columns = (
        _bordered(
            _numbers([size[axis] for size in sizes], x).view(-1, 1), x.shape[2 + axis], radius, mirrored
        )
        for axis in (0, 1)
    )
    images = torch.arange(len(x), device=x.device)[:, None, None]
    padded = x.permute(0, 2, 3, 1)[images, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    found = correlate(padded.contiguous(), torch.from_numpy(table).to(x))
    return torch.where(_numbers([kernel is not None for kernel in kernels], x), found, x)


def _bordered(have: Tensor, canvas: int, radius: int, mirrored: Tensor) -> Tensor:
    """[B, canvas + 2 radius]: which pixels of an axis, of which `have` [B, 1] are an image's, are read."""
    places = torch.arange(-radius, canvas + radius, device=have.device)
    last = have - 1
    return torch.where(mirrored, last - (places.abs() - last).abs(), places).clamp(min=0).minimum(last)


def resized(x: Tensor, sizes: Sizes, wanted: Sizes, modes: Sequence[str | None]) -> Tensor:
    """`F.interpolate` of each image from its size to the wanted one; None is for images that keep theirs."""
    known = torch.tensor(
        [-1 if mode is None else (*MODES, REDUCE).index(mode) for mode in modes], device="cpu"
    ).to(x.device)
    down, across = (
        _interpolation(
            torch.tensor([size[axis] for size in sizes], device="cpu").to(x.device),
            torch.tensor([size[axis] for size in wanted], device="cpu").to(x.device),
            known,
            (max(size[axis] for size in wanted), x.shape[2 + axis]),
        )
        for axis in (0, 1)
    )
    return down[:, None] @ x @ across[:, None].mT


def _interpolation(have: Tensor, wanted: Tensor, modes: Tensor, shape: tuple[int, int]) -> Tensor:
    """[B, *shape]: what each output pixel of an axis takes from which input pixel."""
    have, wanted = have.view(-1, 1, 1), wanted.view(-1, 1, 1)
    out = torch.arange(shape[0], device=have.device).view(1, -1, 1)
    pixel = torch.arange(shape[1], device=have.device).view(1, 1, -1)
    ratio = have.float() / wanted.float()
    centre = (out + 0.5) * ratio - 0.5
    first, last = out * have // wanted, -((-(out + 1) * have) // wanted)
    area = ((pixel >= first) & (pixel < last)) / (last - first)
    # A tap beyond the border reads the pixel at the border.
    bilinear = (1 - (centre.clamp(min=0).minimum(have - 1.0) - pixel).abs()).clamp(min=0)
    below = centre.floor()
    bicubic = torch.zeros_like(bilinear)
    for tap in (-1, 0, 1, 2):
        place = (below + tap).clamp(min=0).minimum(have - 1.0)
        bicubic = bicubic + (place == pixel) * _cubic((centre - below - tap).abs(), -0.75)
    reduced = _cubic((centre - pixel).abs() / ratio.clamp(min=1), -0.5) * (pixel < have)
    reduced = reduced / reduced.sum(dim=-1, keepdim=True)
    known = torch.stack([(pixel == out).expand_as(area).to(area), area, bilinear, bicubic, reduced])
    matrix = known[modes + 1, torch.arange(len(modes), device=modes.device)]
    return torch.where((pixel < have) & (out < wanted), matrix, 0.0)


def _cubic(t: Tensor, a: float) -> Tensor:
    """Keys' kernel at distances t >= 0."""
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return torch.where(t <= 1, near, torch.where(t < 2, far, 0.0))


def compressed(x: Tensor, sizes: Sizes, qualities: Sequence[float | None]) -> Tensor:
    """`jpeg` of each image; None leaves an image as it is."""
    quality = _numbers([50.0 if quality is None else quality for quality in qualities], x)
    found = jpeg(torch.where(_within(x, sizes), x.clamp(0, 1), 0.0), quality.flatten())
    return torch.where(_numbers([quality is not None for quality in qualities], x), found, x)


def noisy(x: Tensor, sizes: Sizes, kinds: Sequence[Noise | None], generator: torch.Generator) -> Tensor:
    """Each image with its noise, Gaussian or photon; both are made for all, and one is taken."""
    some = [Noise(True, False, (0.0, 0.0)) if kind is None else kind for kind in kinds]
    gray = _numbers([kind.gray for kind in some], x)
    gaussian = torch.randn(x.shape, generator=generator, device=x.device)
    photon = photon_noise(x, _within(x, sizes), gray, generator)
    amount = _numbers([kind.amounts[0] / (255 if kind.gaussian else 1) for kind in some], x)
    noise = torch.where(_numbers([kind.gaussian for kind in some], x), gaussian, photon)
    noise = torch.where(gray, noise[:, :1], noise)
    found = (x + noise * amount).clamp(0, 1)
    return torch.where(_numbers([kind is not None for kind in kinds], x), found, x)


def photon_noise(x: Tensor, inside: Tensor, gray: Tensor, generator: torch.Generator) -> Tensor:
    """Shot noise [B, 3, H, W] as `poisson_noise` defines it; of grey noise the first channel counts."""
    levels = (x * 255).round().clamp(0, 255)
    weights = torch.tensor([0.2989, 0.587, 0.114], device="cpu").to(x.device).view(1, 3, 1, 1)
    levels = torch.where(gray, (levels * weights).sum(dim=1, keepdim=True).round(), levels)
    places = torch.where(inside, levels, 256.0).long().flatten(1)
    used = torch.zeros(len(x), 257, device=x.device).scatter_(1, places, 1.0)[:, :256].sum(dim=1)
    count = (2 ** used.clamp(min=2).log2().ceil()).view(-1, 1, 1, 1)
    levels = levels / 255
    return torch.poisson(levels * count, generator=generator) / count - levels
