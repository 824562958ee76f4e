"""Perceptual losses: two forms over any feature network; `open_distance` is the way in.

LPIPS form   arXiv 1801.03924: maps of unit length over the channels, squared difference
DISTS form   arXiv 2004.07728: global means (luminance) and variances and covariance (structure) per channel

A distance has the name of its paper only with the paper's network and the published weights. A star says that
the network's file is not proven to be torchvision's own; "T-" that the features are a diffusion teacher's.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..diffusion.denoiser import Cond, Features
from ..errors import ConfigError, ModelError
from ..tensors import read
from . import featurenets
from .featurenets import LEAST, NETWORKS, FeatureNet, Pairs

S_MIN, S_MAX = 0.02, 0.15
"""Noise-to-signal ratios at which a teacher is asked for its features: texture is still visible there."""


class FeatureNetwork(nn.Module, ABC):
    """(x, target [B, 3, H, W] in [-1, 1], float32) -> pairs of feature maps; the gradient goes to x alone."""

    label: str
    widths: tuple[int, ...]
    """Channels of each map."""

    @abstractmethod
    def forward(self, x: Tensor, target: Tensor) -> Pairs:
        """One pair of maps, of x and of target, per width."""


class ImageFeatures(FeatureNetwork):
    """The taps of an image classifier.

    shift: leave out 0 to 3 rows and columns, drawn anew each call. Strided features hand back a gradient with
    their own grid; without it, that grid stays in step with the student's 4-pixel cells.
    Raises ConfigError for images too small for the network.
    """

    def __init__(self, net: FeatureNet, shift: bool = True, proven: bool = False) -> None:
        super().__init__()
        self.net, self.shift, self.widths = net, shift, net.layout.widths
        self.label = net.layout.label + ("" if proven else "*")

    def forward(self, x: Tensor, target: Tensor) -> Pairs:
        least = LEAST + 3 * self.shift
        if min(x.shape[2:]) < least:
            raise ConfigError(
                f"expected images of at least {least} pixels a side for {self.net.layout.label}, "
                f"found {x.shape[2]}x{x.shape[3]}: make data.patch larger"
            )
        # each without a dimension: one for the batch, however it is cut (distributed.Draws)
        down, right = (int(torch.randint(4, ())) if self.shift else 0 for _ in range(2))
        maps = self.net((x[..., down:, right:] + 1) / 2)
        with torch.no_grad():
            targets = self.net((target[..., down:, right:] + 1) / 2)
        return list(zip(maps, targets, strict=True))


class TeacherFeatures(FeatureNetwork):
    """The taps of a frozen diffusion model at little noise, the same for both images, drawn anew each call.

    `encode` and `cond` are the base's: both images are seen under the condition of the target, shrunk 4 times
    by area averaging, so that sides are multiples of 4 times what `cond` takes. Raises ConfigError for a
    process without a time from S_MIN to S_MAX.
    """

    label = "teacher"

    def __init__(
        self, features: Features, encode: Callable[[Tensor], Tensor], cond: Callable[[Tensor], Cond]
    ) -> None:
        super().__init__()
        self.features, self.encode, self.cond, self.widths = features, encode, cond, features.widths
        process = features.process
        ratio = process.s / process.a
        self.times = ((ratio >= S_MIN) & (ratio <= S_MAX)).nonzero().flatten()
        if not len(self.times):
            raise ConfigError(
                f"expected a process with times of noise-to-signal ratio {S_MIN} to {S_MAX}, found none: "
                "set train.features to another network"
            )

    def forward(self, x: Tensor, target: Tensor) -> Pairs:
        process = self.features.process
        t = self.times[torch.randint(len(self.times), (len(x),))].to(x.device)
        z = self.encode(x)
        eps = torch.randn_like(z)
        with torch.no_grad():
            cond = self.cond(F.avg_pool2d(target, 4))
            targets = self.features(process.perturb(self.encode(target), eps, t, cond.y), t, cond)
        maps = self.features(process.perturb(z, eps, t, cond.y), t, cond)
        return list(zip(maps, targets, strict=True))


class Form(nn.Module, ABC):
    """What the forms share: frozen, in float32, [B, 3, H, W] x 2 -> the mean over the batch."""

    name: str

    def __init__(self, network: FeatureNetwork) -> None:
        super().__init__()
        self.network = network

    @abstractmethod
    def distance(self, x: Tensor, target: Tensor) -> Tensor:
        """[B]"""

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        if x.shape != target.shape:
            raise ValueError(f"expected two images of one shape, found {x.shape} and {target.shape}")
        with torch.autocast(x.device.type, enabled=False):  # small differences of large numbers
            return self.distance(x.float(), target.float()).mean()


class Lpips(Form):
    """The LPIPS form, 0 if equal. heads: [1, C, 1, 1] per map; without, each channel weighs 1 / C."""

    def __init__(self, network: FeatureNetwork, heads: Sequence[Tensor] | None = None) -> None:
        super().__init__(network)
        self.name = _name("LPIPS", network, f"LPIPS-{network.label}" if heads else None)
        self.heads = None if heads is None else nn.ParameterList(heads)
        self.eval().requires_grad_(False)

    def distance(self, x: Tensor, target: Tensor) -> Tensor:
        return featurenets.lpips(self.network(x, target), None if self.heads is None else list(self.heads))


class Dists(Form):
    """The DISTS form, 0 if equal. The first pair of maps is the images themselves, in [0, 1].

    alpha_beta: the weights of luminance and structure, [1, C, 1, 1] with C the channels of all maps together,
    here divided by their sum; without, all weigh the same.
    """

    def __init__(self, network: FeatureNetwork, alpha_beta: tuple[Tensor, Tensor] | None = None) -> None:
        super().__init__(network)
        channels = 3 + sum(network.widths)
        weights = torch.stack(alpha_beta or (torch.ones(1, channels, 1, 1),) * 2).float().view(2, channels)
        self.register_buffer("weights", weights / weights.sum())
        self.name = _name("DISTS", network, network.label.replace("VGG16", "DISTS") if alpha_beta else None)
        self.eval().requires_grad_(False)

    def distance(self, x: Tensor, target: Tensor) -> Tensor:
        pairs = [((x + 1) / 2, (target + 1) / 2), *self.network(x, target)]
        luminance, structure = zip(*(similarity(a, b) for a, b in pairs), strict=True)
        alpha, beta = self.get_buffer("weights")
        # sum w (1 - l) instead of 1 - sum w l: exactly 0 for equal images
        unlike: Tensor = alpha * (1 - torch.cat(luminance, 1)) + beta * (1 - torch.cat(structure, 1))
        return unlike.sum(1)


def similarity(a: Tensor, b: Tensor, c1: float = 1e-6, c2: float = 1e-6) -> tuple[Tensor, Tensor]:
    """DISTS's l and s of two maps [B, C, H, W] -> [B, C] each: global means; variances and covariance."""
    mean_a, mean_b = a.mean((2, 3)), b.mean((2, 3))
    da, db = a - mean_a[..., None, None], b - mean_b[..., None, None]
    luminance = (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
    variances = da.square().mean((2, 3)) + db.square().mean((2, 3))
    return luminance, (2 * (da * db).mean((2, 3)) + c2) / (variances + c2)


def open_distance(
    form: str,
    network: str,
    file: str,
    heads: str,
    teacher: TeacherFeatures | None,
    device: torch.device | str,
) -> Lpips | Dists:
    """The distance that a run's settings name (`denoiser.Distance`), on `device`.

    form: "lpips" or "dists". network: "teacher" (then `teacher` is it) or a name in `featurenets.NETWORKS`.
    file: that network's .safetensors, empty for the torch hub cache. heads: the .safetensors of the form's
    published weights, or empty. Raises ConfigError for names and settings that do not go together, ModelError
    for a file that is missing or has other tensors.
    """
    if form not in ("lpips", "dists"):
        raise ConfigError(f"expected the form to be lpips or dists, found “{form}”")
    if network == "teacher":
        if teacher is None:
            raise ConfigError("expected a teacher whose features to compare, found none: set train.features")
        if file or heads:
            raise ConfigError(
                "expected train.features_file and train.features_heads to be empty with the features of the "
                f"teacher, found “{file or heads}”: empty them, or set train.features"
            )
        source: FeatureNetwork = teacher
    elif network in NETWORKS:
        source = open_network(network, file, l2=form == "dists" and network == "vgg16")
    else:
        raise ConfigError(f"expected train.features to be teacher, {', '.join(NETWORKS)}, found “{network}”")
    distance: Lpips | Dists
    if form == "lpips":
        distance = Lpips(source, open_heads(network, heads) if heads else None)
    else:
        distance = Dists(source, open_alpha_beta(network, heads) if heads else None)
    return distance.to(device)


def open_network(network: str, file: str, l2: bool = False) -> ImageFeatures:
    """A classifier's features from `file`, or from the torch hub cache. Raises ModelError."""
    layout = NETWORKS[network]
    path = file or str(Path(torch.hub.get_dir(), "checkpoints", f"{layout.file}.safetensors"))
    net = FeatureNet(network, l2)
    tensors, metadata = _read(path, f"the weights of {layout.label}", "train.features_file")
    try:
        net.load(tensors)
    except ModelError as error:
        raise ModelError(f"{path}: {error}: name another file in train.features_file") from error
    digits = layout.file.rpartition("-")[2]
    return ImageFeatures(net, proven=metadata.get("sha256", "").startswith(digits))


def open_heads(network: str, file: str) -> list[Tensor]:
    """LPIPS's heads of `network`. Raises ModelError for those of another."""
    tensors = _read(file, "the heads of LPIPS", "train.features_heads")[0]
    try:
        return featurenets.heads_of(tensors, network)
    except ModelError as error:
        raise ModelError(f"{file}: {error}: name another file in train.features_heads, or none") from error


def open_alpha_beta(network: str, file: str) -> tuple[Tensor, Tensor]:
    """DISTS's published weights. Raises ConfigError if the network is not theirs, ModelError for others."""
    if network != "vgg16":
        raise ConfigError(
            f"expected train.features=vgg16 for the published weights of DISTS, found {network}: set it, or "
            "leave train.features_heads empty"
        )
    tensors = _read(file, "the weights of DISTS", "train.features_heads")[0]
    shape = (1, 3 + sum(NETWORKS[network].widths), 1, 1)
    if {key: tuple(tensor.shape) for key, tensor in tensors.items()} != {"alpha": shape, "beta": shape}:
        raise ModelError(
            f"{file}: expected DISTS's alpha and beta {list(shape)}, found others: name another file in "
            "train.features_heads, or none"
        )
    return tensors["alpha"], tensors["beta"]


def _read(file: str, what: str, setting: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    path = Path(file)
    pickled = path if path.exists() else path.with_suffix(".pth")
    if pickled.is_file() and pickled.suffix in (".pth", ".pt"):
        raise ModelError(
            f"{pickled}: expected {what} as .safetensors, found a pickled file: convert it once with "
            f"`unistep models convert {pickled} {pickled.with_suffix('.safetensors')}`"
        )
    if not path.is_file():
        raise ModelError(f"{path}: expected {what} there, found no file: name it in {setting}")
    return read(path)


def _name(form: str, network: FeatureNetwork, published: str | None) -> str:
    if isinstance(network, TeacherFeatures):
        return f"T-{form}"
    return published or f"{network.label} features, {form} form"
