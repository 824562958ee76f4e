"""FID and KID: closed forms, other formulas, recorded features of another implementation, properties."""

import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from unistep.errors import ConfigError, ImageError, ModelError
from unistep.evaluation.distributions import Fid, Kid, frechet_distance, kernel_distances
from unistep.evaluation.inception import SIDE, Inception, resized
from unistep.evaluation.metrics import METRICS

RECORDED_AT = [0, 279, 280, 1048, 1815, 1817, 2008]
RECORDED = [
    [1.86995, 1.63529, 5.73066, 0.22469, 7.06993, 25.99461, 3.46657],
    [1.93179, 1.57927, 5.45765, 0.24172, 6.95404, 25.36604, 3.33773],
]
RECORDED_MEAN = [1.812718, 1.76736]


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pictures(seed: int, count: int, side: int = 40) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def random_weights() -> dict[str, Tensor]:
    """Of a size that keeps the maps' scale, drawn in the order of the names."""
    random, weights = torch.Generator().manual_seed(0), {}
    for name, like in sorted(Inception().state_dict().items()):
        if name.endswith("conv.weight"):
            tensor = torch.randn(like.shape, generator=random) * (2 / like[0].numel()) ** 0.5
        elif name.endswith(("running_var", "bn.weight")):
            tensor = 0.5 + torch.rand(like.shape, generator=random)
        elif name.endswith("num_batches_tracked"):
            tensor = torch.zeros((), dtype=torch.int64)
        else:
            tensor = 0.1 * torch.randn(like.shape, generator=random)
        weights[name] = tensor
    return weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "inception.safetensors"
    save_file({**random_weights(), "fc.bias": torch.zeros(1008)}, path)
    return path


# Frechet distance


@settings(max_examples=20, deadline=None)
@given(n=st.integers(3, 30), m=st.integers(3, 30), d=st.integers(1, 12), seed=st.integers(0, 99))
def test_frechet_distance_is_the_formula_with_a_matrix_root(n, m, d, seed):
    a, b = normal(seed, n, d), 1.5 * normal(seed + 1, m, d) @ normal(seed + 2, d, d) + 0.3
    ca, cb = (torch.cov(x.T).reshape(d, d) for x in (a, b))
    values, vectors = torch.linalg.eigh(ca)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    trace = torch.linalg.eigvalsh(root @ cb @ root).clamp_min(0).sqrt().sum()
    expected = (a.mean(0) - b.mean(0)).square().sum() + ca.trace() + cb.trace() - 2 * trace
    found = frechet_distance(a, b).item()
    assert found == pytest.approx(expected.item(), rel=1e-6, abs=1e-6)
    assert frechet_distance(b, a).item() == pytest.approx(found, rel=1e-9, abs=1e-9)


def test_frechet_distance_is_scipys():
    linalg = pytest.importorskip("scipy.linalg")
    a, b = normal(0, 60, 8), 0.5 * normal(1, 50, 8) + 0.2
    ca, cb = np.cov(a.numpy(), rowvar=False), np.cov(b.numpy(), rowvar=False)
    root = linalg.sqrtm(ca @ cb).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum().item() + np.trace(ca + cb - 2 * root)
    assert frechet_distance(a, b).item() == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(40, 6), (5, 30)])
def test_frechet_distance_in_closed_form(shape):
    a = normal(0, *shape)
    assert frechet_distance(a, a).item() == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + 2).item() == pytest.approx(4 * shape[1])
    middle = a.mean(0)
    wider = middle + 3 * (a - middle)  # C_b = 9 C_a: tr(C_a + 9 C_a - 6 C_a)
    assert frechet_distance(a, wider).item() == pytest.approx(4 * torch.cov(a.T).trace().item())
    one, other = normal(1, 30, 1), 2 * normal(2, 20, 1) + 1
    expected = (one.mean() - other.mean()) ** 2 + (one.std() - other.std()) ** 2
    assert frechet_distance(one, other).item() == pytest.approx(expected.item())


# KID


def test_kernel_distance_is_the_double_loop():
    a, b = normal(0, 7, 5), normal(1, 7, 5) + 0.5

    def kernel(x: Tensor, y: Tensor) -> float:
        return (sum(float(p) * float(q) for p, q in zip(x, y, strict=True)) / 5 + 1) ** 3

    within = sum(kernel(z[i], z[j]) for z in (a, b) for i in range(7) for j in range(7) if i != j) / 42
    across = sum(kernel(x, y) for x in a for y in b) / 49
    found = kernel_distances(a, b)
    assert found.shape == (1,) and found.item() == pytest.approx(within - 2 * across)
    assert kernel_distances(b, a).item() == pytest.approx(found.item())


def test_subsets_are_seeded_unbiased_and_without_repetition():
    a, b = normal(0, 40, 4), normal(1, 50, 4)
    values = kernel_distances(a, b, subsets=30, size=10)
    assert values.shape == (30,) and values.unique().numel() == 30
    torch.testing.assert_close(values, kernel_distances(a, b, subsets=30, size=10), rtol=0, atol=0)
    assert not torch.equal(values, kernel_distances(a, b, subsets=30, size=10, seed=1))
    same = kernel_distances(normal(2, 400, 4), normal(3, 400, 4), subsets=200, size=50)
    assert abs(same.mean()) < 0.1 and same.min() < 0 < same.max()  # unbiased: on both sides of 0
    far = kernel_distances(normal(2, 400, 4), normal(3, 400, 4) + 1, subsets=50, size=50)
    assert far.mean() > 1 and kernel_distances(a, b).shape == (100,)
    assert kernel_distances(a, b[:40], size=40).shape == (1,)


# Inception-v3


def test_features_are_those_of_pytorch_fid(weights):
    """Recorded with pytorch-fid 0.3.0 and torchvision 0.28.0: `InceptionV3([3])(x)[0]` after loading these
    weights under the same names (the class's `load_state_dict_from_url` replaced, `fc` at zero)."""
    x = (pictures(5, 2, 70) * 255).round() / 255
    found = Inception.open(weights)(x, "bilinear")
    assert found.shape == (2, 2048) and found.dtype == torch.float32
    torch.testing.assert_close(found[:, RECORDED_AT], torch.tensor(RECORDED), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.mean(1), torch.tensor(RECORDED_MEAN), rtol=1e-4, atol=1e-4)


def test_three_ways_to_299_pixels():
    pixels = (pictures(1, 1, 50)[..., :37] * 255).round()
    clean = resized(pixels, "clean")
    channel = Image.fromarray(pixels[0, 1].numpy()).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(clean[0, 1], (np.clip(np.asarray(channel), 0, 255) - 128) / 128, atol=1e-6)
    assert clean.min() == -1 and clean.max() == 127 / 128  # bicubic overshoots, and is cut off
    ramp = torch.arange(598.0).expand(1, 3, 20, 598) / 598 * 255
    step = 255 / 598
    for mode, first in (("tensorflow", 0.0), ("bilinear", step / 2)):  # every second pixel, or between two
        row = resized(ramp, mode)[0, 0, 7]
        grey = row * 128 + 128 if mode == "tensorflow" else (row + 1) / 2 * 255
        torch.testing.assert_close(grey, first + torch.arange(299.0) * 2 * step, rtol=1e-4, atol=1e-3)
    for mode in ("clean", "bilinear", "tensorflow"):
        assert resized(torch.full((2, 3, 9, 9), 51.0), mode).shape == (2, 3, SIDE, SIDE)
    with pytest.raises(ConfigError, match="clean, bilinear, tensorflow, found “area”"):
        resized(pixels, "area")


def test_another_file_is_named(weights, tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match=r"other\.safetensors: expected the tensors of Inception-v3"):
        Inception.open(path)
    older = {n: x for n, x in random_weights().items() if not n.endswith("num_batches_tracked")}
    save_file(older, path)
    assert not Inception.open(path).training


# as metrics


def test_sets_of_pictures(weights, caplog):
    clean = pictures(0, 4)
    noisy = {strength: clean + strength * (pictures(1, 4) - 0.5) for strength in (0.3, 1.0)}
    opened = METRICS["fid"].open_from({"inception": weights})
    fid = opened.score
    assert opened.label == "FID*" and METRICS["fid"].over == "sets" and isinstance(fid, Fid)
    features = {0: fid.features(clean), **{s: fid.features(x) for s, x in noisy.items()}}
    with caplog.at_level(logging.WARNING):
        kid = Kid.distance(fid, features[0], features[1.0])
        values = [fid.distance(features[s], features[0]).item() for s in (0, 0.3, 1.0)]
    assert "at least 1000 images for FID and KID, found 4 and 4" in caplog.text
    assert values[0] == pytest.approx(0, abs=1e-3) and 0 < values[1] < values[2]
    assert kid.item() == kernel_distances(features[0], features[1.0]).item()
    whole = fid([noisy[1.0][:3], noisy[1.0][3:]], iter([clean]))
    assert whole.item() == pytest.approx(values[2], rel=1e-3)
    caplog.clear()
    fid.distance(normal(0, 1000, 3), normal(1, 1000, 3))
    assert not caplog.text
    with pytest.raises(ImageError, match="at least 2 images, found 1 and 4"):
        fid.distance(features[0][:1], features[0])


def test_blur_moves_features_away(weights):
    network = Inception.open(weights)
    x = pictures(3, 1)
    small = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    large = F.avg_pool2d(x, 9, 1, 4, count_include_pad=False)
    at, near, far = (network(z) for z in (x, small, large))
    assert 0 < (near - at).norm() < (far - at).norm()
