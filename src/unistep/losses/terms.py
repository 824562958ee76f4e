"""Losses that several methods share; each takes tensors and returns a scalar."""

import torch
import torch.nn.functional as F
from torch import Tensor


def push(z: Tensor, direction: Tensor) -> Tensor:
    """A loss whose gradient with respect to z is `direction / z.numel()`: score distillation's surrogate."""
    return 0.5 * F.mse_loss(z, (z - direction).detach())


def edge_loss(x: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of horizontal and vertical differences, at distances 1 and 2 pixels."""
    error = x - target
    distances = [error[..., d:, :] - error[..., :-d, :] for d in (1, 2)]
    distances += [error[..., d:] - error[..., :-d] for d in (1, 2)]
    return torch.stack([d.abs().mean() for d in distances]).mean()


def grid_loss(x: Tensor, target: Tensor, period: int = 4, window: int = 8) -> Tensor:
    """Mean absolute error of the period x period sub-pixel positions, each averaged over windows of cells.

    Errors of content average out over a window; a pattern that repeats in every cell does not.
    """
    b, c, h, w = x.shape
    cells = F.pixel_unshuffle(x - target, period).reshape(b, c * period**2, h // period, w // period)
    size = min(window, h // period, w // period)
    folded = F.avg_pool2d(cells, size, stride=max(1, size // 2))
    folded = folded.reshape(b, c, period**2, *folded.shape[-2:])
    return (folded - folded.mean(dim=2, keepdim=True)).abs().mean()
