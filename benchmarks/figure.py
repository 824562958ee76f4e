"""The figure of `compare.py`: the same crops at 1:1, one column per method."""

import sys
from pathlib import Path

import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from quality import Method, Sample, to_image, to_tensor
from torch import Tensor

CROP = 160
"""Side of a crop, pixels of the result; a multiple of 4."""
GAP, TITLE = 4, 20
Centre = tuple[float, float]
"""Where to look, as shares of height and width."""


def bundled() -> tuple[list[Sample], dict[str, Centre]]:
    """scikit-image's own photographs (CC0 or public domain), degraded as `make demo` does; their centres."""
    sys.path.append(str(Path(__file__).parent.parent / "examples"))
    from demo import CENTRES, PHOTOGRAPHS, degraded
    from skimage import data

    samples = []
    for index, name in enumerate(PHOTOGRAPHS):
        lq, hr = (to_tensor(Image.fromarray(x)) for x in degraded(getattr(data, name)(), index))
        samples.append(Sample(name, lq, hr))
    return samples, CENTRES


def window(sample: Sample, centre: Centre) -> tuple[slice, slice]:
    """Rows and columns of the crop in the result."""
    sides = [4 * side for side in sample.lq.shape[2:]]
    starts = [
        round(min(max(share * side - CROP / 2, 0), side - CROP)) // 4 * 4
        for share, side in zip(centre, sides, strict=True)
    ]
    return slice(starts[0], starts[0] + CROP), slice(starts[1], starts[1] + CROP)


def figure(samples: list[Sample], centres: dict[str, Centre], methods: dict[str, Method]) -> Image.Image:
    """A row per sample: the input, each method's result, the truth; photographs of at least CROP pixels."""
    columns = ["input", *methods, "ground truth"]
    step = CROP + GAP
    page = Image.new("RGB", (step * len(columns) - GAP, TITLE + step * len(samples) - GAP), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for i, title in enumerate(columns):
        draw.text((i * step + CROP / 2, TITLE / 2), title, "black", font=font, anchor="mm")
    for j, sample in enumerate(samples):
        rows, cols = window(sample, centres.get(sample.name, (0.5, 0.5)))
        results: list[Tensor | None] = [F.interpolate(sample.lq, scale_factor=4, mode="nearest")]
        results += [method(sample.lq).clamp(0, 1) for method in methods.values()]
        for i, x in enumerate([*results, sample.hr]):
            if x is not None:
                page.paste(to_image(x[..., rows, cols]), (i * step, TITLE + j * step))
    return page
