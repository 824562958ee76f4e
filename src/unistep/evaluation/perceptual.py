"""LPIPS, DISTS and EA-DISTS: distances between the features of image classifiers.

    LPIPS       arXiv 1801.03924: maps of unit length over the channels, squared difference, v0.1 heads
    DISTS       arXiv 2004.07728: means, variances and covariance per channel, over VGG16 with L2 pooling
    EA-DISTS    DFOSD, Eq. 5: DISTS of the images plus DISTS of their Sobel edges

Images are measured in the size that they have: DISTS's script shrinks them to 256 pixels first, which the
tables of super-resolution do not. All are differentiable, symmetric, and 0 for equal images.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..losses import featurenets
from ..losses.perceptual import similarity
from ..methods.dfosd import sobel
from ..tensors import read_tensors
from .planes import check


class LpipsMetric(nn.Module):
    """LPIPS of [B,3,H,W] in [0,1] -> [B] float32. At least 32x32 pixels.

    network: a name in `featurenets.NETWORKS`. backbone: safetensors in torchvision's layout, `features.N...`
    (its classifier is not read). heads: safetensors, the linear heads of LPIPS v0.1, `linN.model.1.weight`
    [1,C,1,1]. Raises ModelError if a file cannot be read or has other tensors.
    """

    def __init__(self, network: str, backbone: str | Path, heads: str | Path) -> None:
        super().__init__()
        self.features = featurenets.FeatureNet(network)
        try:
            self.features.load(read_tensors(Path(backbone)))
            linear = featurenets.heads_of(read_tensors(Path(heads)), network)
        except ModelError as error:
            label = featurenets.NETWORKS[network].label
            raise ModelError(f"{backbone}, {heads}: not {label} and LPIPS heads: {error}") from error
        self.taps = len(linear)
        for i, head in enumerate(linear):
            self.register_buffer(f"head{i}", head)

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        check(image, reference, least=featurenets.LEAST)
        a, b = self.features(image.float()), self.features(reference.float())
        heads = [self.get_buffer(f"head{i}") for i in range(self.taps)]
        return featurenets.lpips(list(zip(a, b, strict=True)), heads)


class LpipsSqueeze(LpipsMetric):
    """LPIPS over SqueezeNet 1.1."""

    def __init__(self, backbone: str | Path, heads: str | Path) -> None:
        super().__init__("squeezenet", backbone, heads)


class LpipsAlex(LpipsMetric):
    """LPIPS over AlexNet: the papers' LPIPS."""

    def __init__(self, backbone: str | Path, heads: str | Path) -> None:
        super().__init__("alexnet", backbone, heads)


class LpipsVgg(LpipsMetric):
    """LPIPS over VGG16."""

    def __init__(self, backbone: str | Path, heads: str | Path) -> None:
        super().__init__("vgg16", backbone, heads)


class DistsMetric(nn.Module):
    """DISTS of [B,3,H,W] in [0,1] -> [B] float32, from 0 to 2. At least 32x32 pixels.

    backbone: safetensors, VGG16 in torchvision's layout. weights: safetensors, `alpha` and `beta`
    [1,1475,1,1], the weights of luminance and structure of the images and of the five maps, here divided by
    their sum.
    Raises ModelError if a file cannot be read or has other tensors.
    """

    def __init__(self, backbone: str | Path, weights: str | Path) -> None:
        super().__init__()
        self.features = featurenets.FeatureNet("vgg16", l2=True)
        try:
            self.features.load(read_tensors(Path(backbone)))
        except ModelError as error:
            raise ModelError(f"{backbone}: not the VGG16 of DISTS: {error}") from error
        tensors = read_tensors(Path(weights))
        shape = (1, 3 + sum(self.features.layout.widths), 1, 1)
        if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != {"alpha": shape, "beta": shape}:
            raise ModelError(
                f"{weights}: expected DISTS's alpha and beta {list(shape)}, found others: name another file"
            )
        both = torch.stack([tensors["alpha"], tensors["beta"]]).float().flatten(1)
        self.register_buffer("weights", both / both.sum())

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        check(image, reference, least=featurenets.LEAST)
        return self._distance(image.float(), reference.float())

    def _distance(self, x: Tensor, y: Tensor) -> Tensor:
        pairs = [(x, y), *zip(self.features(x), self.features(y), strict=True)]
        luminance, structure = zip(*(similarity(a, b) for a, b in pairs), strict=True)
        alpha, beta = self.get_buffer("weights")
        # sum w (1 - l) instead of 1 - sum w l: exactly 0 for equal images
        unlike: Tensor = alpha * (1 - torch.cat(luminance, 1)) + beta * (1 - torch.cat(structure, 1))
        return unlike.sum(1)


class EaDistsMetric(DistsMetric):
    """EA-DISTS of [B,3,H,W] in [0,1] -> [B] float32, from 0 to 4; files as `DistsMetric`.

    Edges are the Sobel magnitudes of each channel over the largest possible one (`methods.dfosd.sobel`, which
    says what the paper leaves open): the authors' own numbers may have another scale of edges.
    """

    def _distance(self, x: Tensor, y: Tensor) -> Tensor:
        edges = ((sobel(2 * z - 1) + 1) / 2 for z in (x, y))
        return super()._distance(x, y) + super()._distance(*edges)
