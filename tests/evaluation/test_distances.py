"""LPIPS, DISTS and EA-DISTS as metrics: a second formula over random weights, and what they must notice."""

import math

import pytest
import torch
import torch.nn.functional as F
from metric_pictures import noise
from safetensors.torch import load_file, save_file
from torch import Tensor

from unistep.errors import ImageError, ModelError
from unistep.evaluation.metrics import METRICS, DistsMetric, EaDistsMetric
from unistep.losses.featurenets import NETWORKS, FeatureNet

ALL = {
    "lpips": ("alexnet", "lpips_alex"),
    "lpips_vgg": ("vgg16", "lpips_vgg"),
    "lpips_squeeze": ("squeezenet", "lpips_squeeze"),
    "dists": ("vgg16", "dists"),
    "ea_dists": ("vgg16", "dists"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Random weights of a size that keeps the maps' scale, under the keys of the table."""
    folder, random = tmp_path_factory.mktemp("weights"), torch.Generator().manual_seed(0)
    paths = {}

    def write(key: str, tensors: dict[str, Tensor]) -> None:
        paths[key] = folder / f"{key}.safetensors"
        save_file(tensors, paths[key])

    for network, key in (("alexnet", "alex"), ("vgg16", "vgg"), ("squeezenet", "squeeze")):
        tensors = {}
        for name, like in FeatureNet(network).state_dict().items():
            scale = (2 / like[0].numel()) ** 0.5 if like.ndim == 4 else 0.1
            tensors[name] = scale * torch.randn(like.shape, generator=random)
        write(network, tensors)
        write(f"lpips_{key}", {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1, generator=random)
                               for i, c in enumerate(NETWORKS[network].widths)})  # fmt: skip
    write("dists", {name: torch.rand(1, 1475, 1, 1, generator=random) for name in ("alpha", "beta")})
    return paths


def maps(w: dict[str, Tensor], x: Tensor, plan: str) -> list[Tensor]:
    """Taps of a plain network: numbers are convolutions "index/stride/padding", m and l pool, * taps."""
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1).to(x)
    x, out = (x - mean) / std, []
    for step in plan.split():
        if step[0] == "m":
            x = F.max_pool2d(x, int(step[1]), 2)
        elif step[0] == "l":
            row = torch.hann_window(5, periodic=False, dtype=x.dtype)[1:-1]
            kernel = torch.outer(row, row) / row.sum() ** 2
            x = F.conv2d((x**2).flatten(0, 1)[:, None], kernel[None, None], stride=2, padding=1)
            x = (x.view(-1, int(step[1:]), *x.shape[2:]) + 1e-12) ** 0.5
        else:
            i, stride, padding = step.strip("*").split("/")
            weight, bias = w[f"features.{i}.weight"], w[f"features.{i}.bias"]
            x = F.conv2d(x, weight, bias, int(stride), int(padding)).clamp_min(0)
            if step[-1] == "*":
                out.append(x)
    return out


ALEXNET = "0/4/2* m3 3/1/2* m3 6/1/1* 8/1/1* 10/1/1*"
VGG16 = (
    "0/1/1 2/1/1* {} 5/1/1 7/1/1* {} 10/1/1 12/1/1 14/1/1* {} 17/1/1 19/1/1 21/1/1* {} 24/1/1 26/1/1 28/1/1*"
)


@pytest.mark.parametrize(("name", "plan"), [("lpips", ALEXNET), ("lpips_vgg", VGG16.format(*["m2"] * 4))])
def test_lpips_is_the_formula(files, name, plan):
    network, key = ALL[name]
    w, heads = load_file(files[network]), load_file(files[key])
    x, y = noise(1, 2, 3, 45, 50), noise(2, 2, 3, 45, 50) * 0.5
    expected = torch.zeros(2)
    for i, (a, b) in enumerate(zip(maps(w, x, plan), maps(w, y, plan), strict=True)):
        error = (F.normalize(a, eps=1e-10) - F.normalize(b, eps=1e-10)) ** 2
        expected += torch.einsum("bchw,c->bhw", error, heads[f"lin{i}.model.1.weight"].flatten()).mean((1, 2))
    score = METRICS[name].open_from(files).score
    torch.testing.assert_close(score(x, y), expected, rtol=1e-4, atol=1e-6)


def dists(w: dict[str, Tensor], ab: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """DISTS, Eq. 3 to 6, channel by channel in float64: 1 - sum of alpha l + beta s."""
    plan = VGG16.format("l64", "l128", "l256", "l512")
    w = {name: tensor.double() for name, tensor in w.items()}
    alpha, beta = (
        ab[n].double().flatten() / (ab["alpha"].sum() + ab["beta"].sum()) for n in ("alpha", "beta")
    )
    total, c = torch.ones(len(x), dtype=torch.float64), 0
    for a, b in [(x, y), *zip(maps(w, x, plan), maps(w, y, plan), strict=True)]:
        for p, q in zip(a.flatten(2).unbind(1), b.flatten(2).unbind(1), strict=True):
            mp, mq = p.mean(1), q.mean(1)
            covariance = (p * q).mean(1) - mp * mq
            luminance = (2 * mp * mq + 1e-6) / (mp**2 + mq**2 + 1e-6)
            structure = (2 * covariance + 1e-6) / (p.var(1, correction=0) + q.var(1, correction=0) + 1e-6)
            total -= alpha[c] * luminance + beta[c] * structure
            c += 1
    assert c == 1475
    return total


def edges(x: Tensor) -> Tensor:
    """Sobel magnitudes of each channel by a plain convolution, borders repeated, over the root of 20."""
    row = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=x.dtype)
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate").flatten(0, 1)[:, None]
    across, down = (F.conv2d(padded, kernel[None, None]) for kernel in (row, row.T))
    return ((across**2 + down**2 + 1e-6).sqrt() / math.sqrt(20)).view_as(x)


def test_dists_and_ea_dists_are_the_formulas(files):
    w, ab = load_file(files["vgg16"]), load_file(files["dists"])
    x, y = noise(1, 2, 3, 40, 35).double(), noise(2, 2, 3, 40, 35).double() * 0.5
    plain, edge = dists(w, ab, x, y), dists(w, ab, edges(x), edges(y))
    found = METRICS["dists"].open_from(files).score(x.float(), y.float())
    torch.testing.assert_close(found.double(), plain, rtol=1e-3, atol=1e-5)
    found = METRICS["ea_dists"].open_from(files).score(x.float(), y.float())
    torch.testing.assert_close(found.double(), plain + edge, rtol=1e-3, atol=1e-5)
    assert edge.min() > 0.01


@pytest.mark.parametrize("name", ALL)
def test_properties(files, name):
    opened = METRICS[name].open_from(files)
    assert [f.key for f in opened.files] == list(ALL[name]) and opened.label.endswith("*")
    score = opened.score
    smooth = F.interpolate(noise(3, 1, 3, 12, 12), size=(48, 48), mode="bicubic").clamp(0, 1)
    x = (smooth + 0.2 * (noise(4, 1, 3, 48, 48) - 0.5)).clamp(0, 1)
    jitter = noise(5, *x.shape) - 0.5
    blurs = [F.avg_pool2d(F.pad(x, (k // 2,) * 4, mode="replicate"), k, 1) for k in (3, 7)]
    assert score(x, x).item() == 0
    for near, far in ((x + 0.1 * jitter, x + 0.8 * jitter), blurs):
        assert 0 < score(near, x).item() < score(far, x).item() < METRICS[name].range[1]
        assert score(far, x).item() == pytest.approx(score(x, far).item(), rel=1e-4)
    both = score(torch.cat([x, blurs[0]]), torch.cat([blurs[1], blurs[1]]))
    assert both.shape == (2,) and both[0].item() == pytest.approx(score(x, blurs[1]).item(), rel=1e-4)
    with pytest.raises(ImageError, match="at least 32x32"):
        score(x[..., :31], x[..., :31])


def test_wrong_files_are_named(files, tmp_path):
    for cls in (DistsMetric, EaDistsMetric):
        with pytest.raises(ModelError, match=r"alexnet\.safetensors: not the VGG16 of DISTS"):
            cls(files["alexnet"], files["dists"])
        with pytest.raises(ModelError, match=r"lpips_vgg\.safetensors: expected DISTS's alpha and beta"):
            cls(files["vgg16"], files["lpips_vgg"])
    with pytest.raises(ModelError, match="not AlexNet and LPIPS heads"):
        METRICS["lpips"].open(files["alexnet"], files["lpips_vgg"])
