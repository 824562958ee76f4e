"""Perceptual losses against inline transcriptions of the papers, and what each name may stand for."""

import functools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from unistep.bases.compact.base import CompactBase
from unistep.bases.compact.network import CompactConfig, CompactDenoiser
from unistep.diffusion.denoiser import Cond, Features
from unistep.diffusion.process import Process
from unistep.errors import ConfigError, ModelError
from unistep.evaluation.metrics import LpipsSqueeze
from unistep.losses import featurenets, perceptual
from unistep.losses.featurenets import NETWORKS, FeatureNet, L2Pool
from unistep.losses.perceptual import (
    Dists,
    FeatureNetwork,
    ImageFeatures,
    Lpips,
    TeacherFeatures,
    open_distance,
)

# features.N of torchvision's files: VGG16 and AlexNet [out, in, k], SqueezeNet 1.1 Fire [in, squeeze, expand]
VGG16 = {
    0: (64, 3, 3), 2: (64, 64, 3), 5: (128, 64, 3), 7: (128, 128, 3), 10: (256, 128, 3), 12: (256, 256, 3),
    14: (256, 256, 3), 17: (512, 256, 3), 19: (512, 512, 3), 21: (512, 512, 3), 24: (512, 512, 3),
    26: (512, 512, 3), 28: (512, 512, 3),
}  # fmt: skip
ALEXNET = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
FIRES = {
    3: (64, 16, 64), 4: (128, 16, 64), 6: (128, 32, 128), 7: (256, 32, 128), 9: (256, 48, 192),
    10: (384, 48, 192), 11: (384, 64, 256), 12: (512, 64, 256),
}  # fmt: skip


def shapes(kind: str) -> dict[str, tuple[int, ...]]:
    convs = {str(i): shape for i, shape in (VGG16 if kind == "vgg16" else ALEXNET).items()}
    if kind == "squeezenet":
        convs = {"0": (64, 3, 3)}
        for i, (c_in, squeeze, expand) in FIRES.items():
            convs[f"{i}.squeeze"] = (squeeze, c_in, 1)
            convs[f"{i}.expand1x1"], convs[f"{i}.expand3x3"] = (expand, squeeze, 1), (expand, squeeze, 3)
    table: dict[str, tuple[int, ...]] = {}
    for name, (c_out, c_in, k) in convs.items():
        table[f"features.{name}.weight"], table[f"features.{name}.bias"] = (c_out, c_in, k, k), (c_out,)
    return table


@functools.cache
def weights(kind: str) -> dict[str, Tensor]:
    """Random, of a size that keeps the maps' scale."""
    random = torch.Generator().manual_seed(0)
    table = {name: torch.randn(shape, generator=random) for name, shape in shapes(kind).items()}
    return {name: w * ((2 / w[0].numel()) ** 0.5 if w.dim() == 4 else 0.1) for name, w in table.items()}


def lpips_heads(kind: str) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1)
    return {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1, generator=random)
            for i, c in enumerate(NETWORKS[kind].widths)}  # fmt: skip


@functools.cache
def net(kind: str, l2: bool = False) -> FeatureNet:
    made = FeatureNet(kind, l2)
    made.load(weights(kind))
    return made


def images(seed: int, size: int = 48, batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


class Toy(FeatureNetwork):
    """Two small convolutions."""

    label, widths = "toy", (4, 6)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3, stride=2)

    def maps(self, x: Tensor) -> list[Tensor]:
        one = self.one(x)
        return [one, self.two(one)]

    def forward(self, x: Tensor, target: Tensor) -> featurenets.Pairs:
        return list(zip(self.maps(x), self.maps(target), strict=True))


class Seen(Features):
    """A teacher's features that remembers how it was asked."""

    widths = (48, 48)

    def __init__(self, process: Process) -> None:
        super().__init__()
        self.process, self.calls = process, []
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, z_t: Tensor, t: Tensor, cond: Cond) -> list[Tensor]:
        self.calls.append((z_t, t, cond))
        return [self.scale * z_t, F.avg_pool2d(self.scale * z_t, 2)]


@functools.cache
def base() -> CompactBase:
    torch.manual_seed(0)
    denoiser = CompactDenoiser(CompactConfig((8, 12, 16), (1, 1, 1)))
    with torch.no_grad():
        for p in denoiser.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return CompactBase(denoiser)


def teacher(view: str = "ddpm") -> TeacherFeatures:
    return TeacherFeatures(base().features("teacher", view), base().encode, base().cond)


def networks() -> list[FeatureNetwork]:
    return [Toy(), ImageFeatures(net("squeezenet")), teacher()]


# The forms


@pytest.mark.parametrize("weighted", [True, False])
def test_lpips_form_is_the_equation(weighted):
    toy, x, target = Toy(), images(1), images(2)
    heads = [torch.rand(1, c, 1, 1) for c in toy.widths]
    total = 0.0
    for a, b, w in zip(toy.maps(x), toy.maps(target), heads, strict=True):
        channels = a.shape[1]
        for n in range(2):
            for u in range(a.shape[2]):
                for v in range(a.shape[3]):
                    error = (a[n, :, u, v] / a[n, :, u, v].norm() - b[n, :, u, v] / b[n, :, u, v].norm()) ** 2
                    share = (w.flatten() if weighted else torch.full((channels,), 1 / channels)) @ error
                    total += share.item() / (a.shape[2] * a.shape[3])
    form = Lpips(toy, heads if weighted else None)
    assert form(x, target).item() == pytest.approx(total / 2, rel=1e-4)


@pytest.mark.parametrize("weighted", [True, False])
def test_dists_form_is_the_equation(weighted):
    toy, x, target = Toy(), images(1), 0.7 * images(1) + 0.3 * images(2) + 0.2
    alpha, beta = (torch.rand(1, 13, 1, 1) if weighted else torch.ones(1, 13, 1, 1) for _ in range(2))
    scores = []
    for n in range(2):
        score, channel = 0.0, 0
        first = [(x + 1) / 2, *toy.maps(x)]
        second = [(target + 1) / 2, *toy.maps(target)]
        for a, b in zip(first, second, strict=True):
            for p, q in zip(a[n].double(), b[n].double(), strict=True):
                variance = p.var(correction=0) + q.var(correction=0)
                covariance = (p * q).mean() - p.mean() * q.mean()
                luminance = (2 * p.mean() * q.mean() + 1e-6) / (p.mean() ** 2 + q.mean() ** 2 + 1e-6)
                structure = (2 * covariance + 1e-6) / (variance + 1e-6)
                score += (alpha[0, channel] * luminance + beta[0, channel] * structure).item()
                channel += 1
        scores.append(1 - score / (alpha.sum() + beta.sum()).item())
    form = Dists(toy, (alpha, beta) if weighted else None)
    assert form(x, target).item() == pytest.approx(sum(scores) / 2, rel=1e-4)


@pytest.mark.parametrize("form", [Lpips, Dists])
@pytest.mark.parametrize("which", range(3))
def test_zero_if_equal_else_positive_and_the_gradient_is_for_x(form, which):
    distance = form(networks()[which])
    x, target = images(1).requires_grad_(), images(2).requires_grad_()
    assert distance(x.detach(), x.detach()).item() == 0
    value = distance(x, target)
    assert value.shape == () and value.dtype == torch.float32 and value > 1e-4
    value.backward()
    assert x.grad is not None and x.grad.isfinite().all() and x.grad.abs().sum() > 0
    assert not distance.training and all(p.grad is None for p in distance.parameters())
    assert not any(p.requires_grad for p in distance.parameters())


@pytest.mark.parametrize("form", [Lpips, Dists])
def test_symmetric_over_images(form):
    distance = form(ImageFeatures(net("squeezenet"), shift=False))
    a, b = images(1), images(2)
    assert distance(a, b).item() == pytest.approx(distance(b, a).item(), rel=1e-5)


@pytest.mark.parametrize("form", [Lpips, Dists])
def test_a_step_down_the_gradient_comes_nearer(form):
    distance = form(ImageFeatures(net("squeezenet"), shift=False))
    target = images(2, batch=1)
    x = (target + 0.2 * images(1, batch=1)).requires_grad_()
    before = distance(x, target)
    before.backward()
    with torch.no_grad():
        after = distance(x - 0.1 * x.grad / x.grad.norm(), target)
    assert after < before


@pytest.mark.parametrize("form", [Lpips, Dists])
def test_float32_under_autocast(form):
    distance, x, target = form(ImageFeatures(net("squeezenet"), shift=False)), images(1), images(2)
    with torch.autocast("cpu", torch.bfloat16):
        low = distance(x, target)
    assert low.dtype == torch.float32 and torch.equal(low, distance(x, target))
    assert distance(x.bfloat16(), target).dtype == torch.float32


def test_images_of_two_shapes():
    with pytest.raises(ValueError, match="one shape"):
        Lpips(Toy())(images(1), images(2, batch=1))


# The networks


@pytest.mark.parametrize(
    ("kind", "parameters"), [("vgg16", 14_714_688), ("alexnet", 2_469_696), ("squeezenet", 722_496)]
)
def test_layouts_are_torchvisions(kind, parameters):
    state = FeatureNet(kind).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == shapes(kind)
    assert sum(tensor.numel() for tensor in state.values()) == parameters
    if kind == "vgg16":
        assert FeatureNet(kind, l2=True).state_dict().keys() == state.keys()
    least = net(kind)(torch.rand(1, 3, featurenets.LEAST, featurenets.LEAST))
    assert tuple(x.shape[1] for x in least) == NETWORKS[kind].widths
    assert all(x.min() >= 0 and 0 < (x > 0).float().mean() < 1 for x in least)  # taps follow a ReLU


@pytest.mark.parametrize("l2", [False, True])
def test_vgg16_is_the_published_stack(l2):
    w, x = weights("vgg16"), (images(3, 40, 1) + 1) / 2
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    h, taps, index = (x - mean.view(3, 1, 1)) / std.view(3, 1, 1), [], 0
    for stage, count in enumerate((2, 2, 3, 3, 3)):
        if stage:
            h = L2Pool()(h) if l2 else F.max_pool2d(h, 2, 2)
            index += 1
        for _ in range(count):
            h = F.relu(F.conv2d(h, w[f"features.{index}.weight"], w[f"features.{index}.bias"], padding=1))
            index += 2
        taps.append(h)
    for a, b in zip(net("vgg16", l2)(x), taps, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_alexnet_is_the_published_stack():
    w, x = weights("alexnet"), (images(3, 70, 1) + 1) / 2
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

    def conv(h: Tensor, i: int, stride: int = 1, padding: int = 1) -> Tensor:
        return F.relu(F.conv2d(h, w[f"features.{i}.weight"], w[f"features.{i}.bias"], stride, padding))

    taps = [conv((x - mean.view(3, 1, 1)) / std.view(3, 1, 1), 0, 4, 2)]
    taps.append(conv(F.max_pool2d(taps[-1], 3, 2), 3, padding=2))
    taps.append(conv(F.max_pool2d(taps[-1], 3, 2), 6))
    taps.append(conv(taps[-1], 8))
    taps.append(conv(taps[-1], 10))
    for a, b in zip(net("alexnet")(x), taps, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_l2_pooling_is_the_equation():
    x = torch.randn(1, 2, 7, 6, generator=torch.Generator().manual_seed(0))
    window = torch.hann_window(5, periodic=False)[1:-1]
    window = torch.outer(window, window) / window.sum() ** 2
    padded, out = F.pad(x, (1, 1, 1, 1)), L2Pool()(x)
    assert out.shape == (1, 2, 4, 3)
    for u in range(4):
        for v in range(3):
            patch = padded[0, :, 2 * u : 2 * u + 3, 2 * v : 2 * v + 3]
            torch.testing.assert_close(out[0, :, u, v], (window * patch**2).sum((1, 2)).sqrt())
    flat = torch.zeros(1, 1, 4, 4, requires_grad=True)
    L2Pool()(flat).sum().backward()
    assert flat.grad.isfinite().all()


def test_lpips_squeezenet_is_the_metric(tmp_path):
    backbone, heads = tmp_path / "backbone.safetensors", tmp_path / "heads.safetensors"
    save_file(weights("squeezenet"), backbone)
    save_file(lpips_heads("squeezenet"), heads)
    metric = LpipsSqueeze(backbone, heads)
    loss = Lpips(ImageFeatures(net("squeezenet"), shift=False), list(lpips_heads("squeezenet").values()))
    x, target = images(1), images(2)
    torch.testing.assert_close(loss(x, target), metric((x + 1) / 2, (target + 1) / 2).mean())


def test_the_shift_is_a_crop_drawn_anew():
    x, target = images(1), images(2)
    shifted, plain = ImageFeatures(net("squeezenet")), ImageFeatures(net("squeezenet"), shift=False)
    crops = {
        (down, right): Lpips(plain)(x[..., down:, right:], target[..., down:, right:]).item()
        for down in range(4)
        for right in range(4)
    }
    torch.manual_seed(0)
    drawn = [Lpips(shifted)(x, target).item() for _ in range(12)]
    assert set(drawn) <= set(crops.values()) and len(set(drawn)) > 4


def test_images_too_small():
    with pytest.raises(ConfigError, match="at least 35 pixels a side for AlexNet, found 34x34"):
        Lpips(ImageFeatures(net("alexnet")))(images(1, 34), images(2, 34))
    Lpips(ImageFeatures(net("alexnet")))(images(1, 35), images(2, 35))


# The teacher


@pytest.mark.parametrize("view", ["flow", "ddpm"])
def test_teacher_features_use_one_noise_one_time_and_the_targets_condition(view):
    process = base().process(view)
    seen = Seen(process)
    features = TeacherFeatures(seen, base().encode, base().cond)
    x, target = images(1, batch=40), images(2, batch=40)
    pairs = features(x, target)
    assert len(pairs) == 2 and all(a.shape == b.shape for a, b in pairs)
    (z_target, t_target, cond_target), (z, t, cond) = seen.calls
    assert torch.equal(t, t_target) and torch.equal(cond.image, cond_target.image)
    wanted = base().cond(F.interpolate(target, scale_factor=0.25, mode="area"))
    torch.testing.assert_close(cond.image, wanted.image)
    torch.testing.assert_close(cond.y, wanted.y)
    a, _, s = process.at(t)
    assert ((s / a >= perceptual.S_MIN - 1e-6) & (s / a <= perceptual.S_MAX + 1e-6)).all()
    assert len(t.unique()) > 10 and (s / a).min() < 0.05 and (s / a).max() > 0.12
    noise = process.noise(base().encode(x), z, t, cond.y)
    torch.testing.assert_close(
        noise, process.noise(base().encode(target), z_target, t, cond.y), rtol=0, atol=2e-3
    )
    assert noise.mean().abs() < 0.01 and noise.std().item() == pytest.approx(1, abs=0.01)
    features(x, target)
    assert not torch.equal(seen.calls[2][0], z_target) and not torch.equal(seen.calls[2][1], t)


def test_a_process_without_little_noise():
    process = base().process("resshift")
    noisy = Process(process.a[-2:], process.b[-2:], process.s[-2:], "z0", markov="add")
    with pytest.raises(ConfigError, match=r"found none: set train\.features"):
        TeacherFeatures(Seen(noisy), base().encode, base().cond)


# Names and files


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    paths = {}

    def write(name: str, tensors: dict[str, Tensor]) -> None:
        paths[name] = str(tmp_path / f"{name}.safetensors")
        save_file(tensors, paths[name])

    for kind in ("alexnet", "squeezenet"):
        write(kind, {**weights(kind), "classifier.1.bias": torch.zeros(1000)})
        write(f"{kind} heads", lpips_heads(kind))
    write("vgg16", weights("vgg16"))
    write("vgg16 heads", lpips_heads("vgg16"))
    write("dists", {"alpha": torch.rand(1, 1475, 1, 1), "beta": torch.rand(1, 1475, 1, 1)})
    return paths


def opened(form: str, network: str, file: str = "", heads: str = "") -> Lpips | Dists:
    return open_distance(form, network, file, heads, teacher() if network == "teacher" else None, "cpu")


def test_names(files):
    assert opened("lpips", "teacher").name == "T-LPIPS" and opened("dists", "teacher").name == "T-DISTS"
    names = {"vgg16": "VGG16", "alexnet": "AlexNet", "squeezenet": "SqueezeNet"}
    for kind, label in names.items():
        assert opened("lpips", kind, files[kind], files[f"{kind} heads"]).name == f"LPIPS-{label}*"
        assert opened("lpips", kind, files[kind]).name == f"{label}* features, LPIPS form"
        assert opened("dists", kind, files[kind]).name == f"{label}* features, DISTS form"
    dists = opened("dists", "vgg16", files["vgg16"], files["dists"])
    assert dists.name == "DISTS*"
    assert any(isinstance(module, L2Pool) for module in dists.modules())
    assert not any(isinstance(module, nn.MaxPool2d) for module in dists.modules())
    assert dists(images(1), images(2)) > 0


def test_a_converted_file_of_torchvision_loses_the_star(files, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    for kind, (file, digits) in {
        "vgg16": ("vgg16-397923af", "397923af"),
        "alexnet": ("alexnet-owt-7be5be79", "7be5be79"),
        "squeezenet": ("squeezenet1_1-b8a52dc0", "b8a52dc0"),
    }.items():
        path = tmp_path / "checkpoints" / f"{file}.safetensors"
        with pytest.raises(ModelError, match=r"found no file: name it in train\.features_file"):
            opened("lpips", kind)
        path.with_suffix(".pth").write_bytes(b"")
        with pytest.raises(
            ModelError, match=rf"unistep models convert \S+{file}\.pth \S+{file}\.safetensors`"
        ):
            opened("lpips", kind)
        save_file(weights(kind), path, {"sha256": digits + "0" * 56})
        label = NETWORKS[kind].label
        assert opened("lpips", kind, "", files[f"{kind} heads"]).name == f"LPIPS-{label}"
        save_file(weights(kind), path, {"sha256": "0" * 64})
        assert opened("lpips", kind, "", files[f"{kind} heads"]).name == f"LPIPS-{label}*"


def test_what_does_not_fit_is_named(files, tmp_path):
    none = str(tmp_path / "none.safetensors")
    for arguments, error, message in (
        (("ssim", "teacher"), ConfigError, "expected the form to be lpips or dists, found “ssim”"),
        (("lpips", "vgg19"), ConfigError, "to be teacher, vgg16, alexnet, squeezenet, found “vgg19”"),
        (("lpips", "teacher", "", none), ConfigError, "to be empty with the features of the teacher"),
        (("lpips", "alexnet", none), ModelError, r"none\.safetensors: expected the weights of AlexNet"),
        (("lpips", "alexnet", files["alexnet"], none), ModelError, r"none\.safe.*in train\.features_heads"),
        (("lpips", "alexnet", files["vgg16"]), ModelError,
         r"expected AlexNet in .* with features\.0\.weight \[64, 3, 11, 11\], found \[64, 3, 3, 3\]"),
        (("lpips", "vgg16", files["dists"]), ModelError, r"features\.0\.weight \[64, 3, 3, 3\], found none"),
        (("lpips", "alexnet", files["alexnet"], files["vgg16 heads"]), ModelError,
         "expected the LPIPS heads of AlexNet: .* 64, 192, 384, 256, 256 channels, found others"),
        (("lpips", "vgg16", files["vgg16"], files["dists"]), ModelError, "the LPIPS heads of VGG16"),
        (("dists", "vgg16", files["vgg16"], files["vgg16 heads"]), ModelError,
         r"expected DISTS's alpha and beta \[1, 1475, 1, 1\], found others"),
        (("dists", "alexnet", files["alexnet"], files["dists"]), ConfigError, "train.features=vgg16 for"),
    ):  # fmt: skip
        with pytest.raises(error, match=message) as caught:
            opened(*arguments)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="expected a teacher"):
        open_distance("lpips", "teacher", "", "", None, "cpu")
    (tmp_path / "damaged.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError, match=r"expected a \.safetensors file, found a text"):
        opened("lpips", "alexnet", str(tmp_path / "damaged.safetensors"))
