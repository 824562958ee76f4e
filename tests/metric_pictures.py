"""Pictures for the tests of metrics: the recorded pairs of `golden/metrics`, and seeded noise."""

import numpy as np
import torch
from goldens import GOLDEN
from PIL import Image
from torch import Tensor


def load(name: str) -> Tensor:
    """A picture of the recorded pairs, [1,3,H,W] in [0,1]."""
    with Image.open(GOLDEN / "metrics" / name) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float() / 255


def noise(seed: int, *shape: int) -> Tensor:
    """Uniform in [0,1]."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))
