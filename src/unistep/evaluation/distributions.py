"""Distances between sets of images: FID and KID over the features of Inception-v3.

FID    arXiv 1706.08500, Eq. 6: Frechet distance of two Gaussians with the sets' means and covariances
KID    arXiv 1801.01401: unbiased squared maximum mean discrepancy, kernel (x.y / d + 1)^3, mean over subsets

Both sets may have any number of images of any sizes. Under LEAST images FID is mostly bias, so that only sets
of one size compare; each use says so.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import ImageError
from .inception import Inception, Resize

LEAST = 1000
"""Images in each set below which a warning is given."""
log = logging.getLogger(__name__)


class SetScore(nn.Module, ABC):
    """Called with two sets, iterables of images [B,3,H,W] in [0,1], it gives one number, a scalar float64.

    Or in two steps, for sets that are compared often: `features` of each batch, `distance` of all of them.
    weights: .safetensors of Inception-v3 (`Inception.open`). resize: how images come to 299x299.
    """

    def __init__(self, weights: str | Path, resize: Resize = "clean") -> None:
        super().__init__()
        self.network = Inception.open(weights)
        self.resize: Resize = resize

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """[B,3,H,W] in [0,1], read as 8-bit images -> [B,2048] float32, on the CPU."""
        result: Tensor = self.network(images, self.resize).cpu()
        return result

    def forward(self, images: Iterable[Tensor], references: Iterable[Tensor]) -> Tensor:
        a, b = (torch.cat([self.features(x) for x in batches]) for batches in (images, references))
        return self.distance(a, b)

    @abstractmethod
    def distance(self, features: Tensor, references: Tensor) -> Tensor:
        """Of the features [N,D] and [M,D] of two sets, N and M at least 2. Raises ImageError for fewer."""


class Fid(SetScore):
    def distance(self, features: Tensor, references: Tensor) -> Tensor:
        _check(features, references)
        return frechet_distance(features, references)


class Kid(SetScore):
    def distance(self, features: Tensor, references: Tensor) -> Tensor:
        _check(features, references)
        return kernel_distances(features, references).mean()


def _check(a: Tensor, b: Tensor) -> None:
    least = min(len(a), len(b))
    if least < 2:
        raise ImageError(f"expected sets of at least 2 images, found {len(a)} and {len(b)}: add images")
    if least < LEAST:
        log.warning(
            "expected sets of at least %d images for FID and KID, found %d and %d: compare the number with "
            "those of equally large sets alone",
            LEAST, len(a), len(b),
        )  # fmt: skip


def frechet_distance(a: Tensor, b: Tensor) -> Tensor:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) of samples [N,D], [M,D] -> scalar float64, 0 or more.

    Covariances are unbiased. With C = R^T R, the eigenvalues of C_a C_b are the squared singular values of
    R_a R_b^T: no matrix root is taken, and fewer samples than dimensions need no constant on the diagonal.
    """
    a, b = a.double(), b.double()
    roots = []
    for x in (a, b):
        root = (x - x.mean(0)) / (len(x) - 1) ** 0.5
        roots.append(torch.linalg.qr(root, mode="r").R if len(root) > root.shape[1] else root)
    r, s = roots
    spread = r.square().sum() + s.square().sum() - 2 * torch.linalg.svdvals(r @ s.T).sum()
    distance: Tensor = (a.mean(0) - b.mean(0)).square().sum() + spread
    return distance.clamp_min(0)


def kernel_distances(a: Tensor, b: Tensor, subsets: int = 100, size: int = 1000, seed: int = 0) -> Tensor:
    """The unbiased estimates of KID on seeded subsets of samples [N,D], [M,D] -> [subsets] float64.

    A subset has `size` samples of each set, without repetition, or as many as the smaller set has. Estimates
    can be below 0. With all samples of both sets in it there is one subset, and one estimate.
    """
    size = min(size, len(a), len(b))
    if size == len(a) == len(b):
        subsets = 1
    random = torch.Generator().manual_seed(seed)
    out = []
    for _ in range(subsets):
        x, y = (z[torch.randperm(len(z), generator=random)[:size]].double() for z in (a, b))
        within = sum(_off_diagonal(_kernel(z, z)) for z in (x, y)) / (size * (size - 1))
        out.append(within - 2 * _kernel(x, y).mean())
    return torch.stack(out)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _off_diagonal(k: Tensor) -> Tensor:
    return k.sum() - k.diagonal().sum()
