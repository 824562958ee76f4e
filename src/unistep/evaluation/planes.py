"""What every measure of pixels begins with: tensors that fit, the luma, a separable filter."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ImageError


def luma(image: Tensor) -> Tensor:
    """BT.601 studio-swing luma of [B,3,H,W] in [0,1] -> [B,1,H,W] float64, 16..235 for inputs in range."""
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=torch.float64, device=image.device)
    return torch.einsum("bchw,c->bhw", image.double(), weights).unsqueeze(1) + 16.0


def check(image: Tensor, reference: Tensor | None = None, *, least: int = 1) -> None:
    """Raises ImageError but for float images [B,3,H,W] of one shape, at least `least` pixels a side."""
    if image.ndim != 4 or image.shape[1] != 3 or not image.is_floating_point():
        raise ImageError(
            f"A metric takes float tensors [B,3,H,W], not {image.dtype} {tuple(image.shape)}: convert first."
        )
    if reference is not None and reference.shape != image.shape:
        raise ImageError(
            f"Image {tuple(image.shape)} and reference {tuple(reference.shape)} differ in shape: crop one."
        )
    if min(image.shape[2:]) < least:
        raise ImageError(f"This metric needs at least {least}x{least} pixels, not {tuple(image.shape[2:])}.")


def separable(x: Tensor, k: Tensor, stride: int = 1) -> Tensor:
    """Valid correlation of [B,1,H,W] with k (outer) k."""
    x = F.conv2d(x, k.view(1, 1, -1, 1), stride=(stride, 1))
    return F.conv2d(x, k.view(1, 1, 1, -1), stride=(1, stride))
