"""How good is a picture: a table of measures, each with the protocol that makes its number comparable.

Every measure is called as `score(image, reference)`, or `score(image)` where it needs no reference, on sRGB
tensors [B,3,H,W] in [0,1], and returns [B], one number per image. Nothing is rounded to 8 bits here: to
reproduce a figure measured on files, round first. Values outside [0,1] are measured as they are.

    METRICS["psnr_y"].open()(image, reference)
    METRICS["niqe"].open("niqe_pris_params.npz")(image)

Weights and pristine models of other projects are not part of Unistep: the caller names the files.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError, ImageError, ModelError
from ..losses import featurenets
from ..tensors import read_tensors

Score = Callable[..., Tensor]
Protocol = Literal["pyiqa", "basicsr", "rounded"]


def luma(image: Tensor) -> Tensor:
    """BT.601 studio-swing luma of [B,3,H,W] in [0,1] -> [B,1,H,W] float64, 16..235 for inputs in range."""
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=torch.float64, device=image.device)
    return torch.einsum("bchw,c->bhw", image.double(), weights).unsqueeze(1) + 16.0


def _check(image: Tensor, reference: Tensor | None = None, *, least: int = 1) -> None:
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


def _lumas(image: Tensor, reference: Tensor, protocol: str, border: int, least: int) -> list[Tensor]:
    if protocol not in ("pyiqa", "basicsr", "rounded"):
        raise ConfigError(f"No protocol {protocol!r}: take 'pyiqa', 'basicsr' or 'rounded'.")
    _check(image, reference, least=2 * border + least)
    height, width = image.shape[2:]
    return [luma(x)[..., border : height - border, border : width - border] for x in (image, reference)]


def psnr_y(image: Tensor, reference: Tensor, *, protocol: Protocol = "pyiqa", border: int = 0) -> Tensor:
    """Peak signal-to-noise ratio of the luma, in dB, [B]; `border` pixels are left out on each side.

    pyiqa (TSD-SR's and OSEDiff's tables): luma as it is, 1e-8 added to the error, so equal images give 80 dB.
    basicsr: nothing added. rounded (SinSR's and TAD-SR's tables): luma rounded to integers, up to half a dB
    apart at 46 dB.
    """
    x, y = _lumas(image, reference, protocol, border, least=1)
    if protocol == "rounded":
        x, y = x.round(), y.round()
    mse = ((x - y) / 255).square().mean((1, 2, 3))
    return -10 * torch.log10(mse + 1e-8 if protocol == "pyiqa" else mse)


def _separable(x: Tensor, k: Tensor, stride: int = 1) -> Tensor:
    """Valid correlation of [B,1,H,W] with k (outer) k."""
    x = F.conv2d(x, k.view(1, 1, -1, 1), stride=(stride, 1))
    return F.conv2d(x, k.view(1, 1, 1, -1), stride=(1, stride))


def ssim_y(image: Tensor, reference: Tensor, *, protocol: Protocol = "pyiqa", border: int = 0) -> Tensor:
    """Structural similarity of the luma (Wang et al. 2004: 11x11 Gaussian, sigma 1.5, valid), [B], at most 1.

    pyiqa: luma rounded to integers, contrast-structure clamped at 0. rounded: not clamped.
    basicsr: neither. At least 11x11 pixels inside the border.
    """
    x, y = _lumas(image, reference, protocol, border, least=11)
    if protocol != "basicsr":
        x, y = x.round(), y.round()
    g = torch.exp(-torch.arange(-5, 6, dtype=x.dtype, device=x.device).square() / (2 * 1.5**2))
    g = g / g.sum()
    mx, my = _separable(x, g), _separable(y, g)
    vx, vy = _separable(x * x, g) - mx * mx, _separable(y * y, g) - my * my
    vxy = _separable(x * y, g) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    contrast_structure = (2 * vxy + c2) / (vx + vy + c2)
    if protocol == "pyiqa":
        contrast_structure = contrast_structure.relu()
    return ((2 * mx * my + c1) / (mx * mx + my * my + c1) * contrast_structure).mean((1, 2, 3))


class LpipsSqueeze(nn.Module):
    """`LPIPS-squeeze*`: the LPIPS form (Zhang et al. 2018) over SqueezeNet 1.1, [B] float32, 0 if equal.

    The star: figures compare models with each other only, for the backbone file may not be other papers'.
    Differentiable, and symmetric in its arguments. At least 32x32 pixels.

    backbone: safetensors, SqueezeNet 1.1 with the names `features.N...` (its classifier is not read).
    heads: safetensors, the seven linear heads of LPIPS v0.1, `linN.model.1.weight` [1,C,1,1].
    Raises ModelError if a file cannot be read or has other tensors.
    """

    def __init__(self, backbone: str | Path, heads: str | Path) -> None:
        super().__init__()
        self.features = featurenets.FeatureNet("squeezenet")
        try:
            self.features.load(read_tensors(Path(backbone)))
            linear = featurenets.heads_of(read_tensors(Path(heads)), "squeezenet")
        except ModelError as error:
            raise ModelError(f"{backbone}, {heads}: not SqueezeNet 1.1 and LPIPS heads: {error}") from error
        for i, head in enumerate(linear):
            self.register_buffer(f"head{i}", head)

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        _check(image, reference, least=featurenets.LEAST)
        a, b = self.features(image.float()), self.features(reference.float())
        return featurenets.lpips(
            list(zip(a, b, strict=True)), [self.get_buffer(f"head{i}") for i in range(7)]
        )


class Niqe:
    """NIQE (Mittal et al. 2013) by BasicSR's protocol: rounded luma, 96x96 blocks, two scales; [B] float64.

    pristine: the .npz with `mu_pris_param` [1,36], `cov_pris_param` [36,36] and `gaussian_window` [7,7].
    Only whole blocks count, and at least one is needed. nan if no block has texture.
    Where one block alone has texture, its covariance is a number, as in BasicSR: its 36 features' variance.
    Grain can lower this number: never read it alone.
    """

    _alphas = torch.arange(200, 10001, dtype=torch.float64) / 1000

    def __init__(self, pristine: str | Path) -> None:
        try:
            with np.load(pristine, allow_pickle=False) as file:
                self.mu = torch.from_numpy(file["mu_pris_param"]).double().reshape(36)
                self.cov = torch.from_numpy(file["cov_pris_param"]).double().reshape(36, 36)
                self.window = torch.from_numpy(file["gaussian_window"]).double().reshape(1, 1, 7, 7)
        except (OSError, ValueError, KeyError, RuntimeError, EOFError) as error:
            raise ModelError(f"{pristine} is not a NIQE pristine model in BasicSR's form: {error}") from error

    def __call__(self, image: Tensor) -> Tensor:
        _check(image)
        rows, columns = image.shape[2] // 96, image.shape[3] // 96
        if not rows * columns:
            raise ImageError(f"NIQE needs a whole block of 96x96 pixels, not {tuple(image.shape[2:])}.")
        y = luma(image[..., : rows * 96, : columns * 96].cpu())
        y = ((y / 255).float() * 255).round().double()  # float32, as BasicSR: so its ties are rounded
        return torch.stack([self._distance(one.unsqueeze(0)) for one in y])

    def _distance(self, y: Tensor) -> Tensor:
        features = torch.cat([self._features(y, 96), self._features(_halve(y), 48)], 1)  # [blocks, 36]
        whole = features[~features.isnan().any(1)]
        if not len(whole):
            return torch.tensor(torch.nan, dtype=torch.float64)
        d = self.mu - features.nanmean(0)
        spread = torch.cov(whole.T if len(whole) > 1 else whole[0])
        distance: Tensor = d @ torch.linalg.pinv((self.cov + spread) / 2) @ d
        return distance.sqrt()

    def _features(self, y: Tensor, block: int) -> Tensor:
        # float32, as BasicSR: in flat places its rounding is all the texture there is, and decides on nan
        y = y.float()
        mean = self._filtered(y)
        sigma = (self._filtered(y.square()) - mean.square()).abs().sqrt()
        mscn = ((y - mean) / (sigma + 1)).double()
        tiles = mscn.unfold(2, block, block).unfold(3, block, block).reshape(-1, block, block)
        alpha, left, right = self._aggd(tiles)
        out = [alpha, (left + right) / 2]
        for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):  # four neighbours, wrapped at the block's edge
            alpha, left, right = self._aggd(tiles * tiles.roll(shift, (1, 2)))
            out += [alpha, (right - left) * _gamma(2 / alpha) / _gamma(1 / alpha), left, right]
        return torch.stack(out, 1)

    def _filtered(self, y: Tensor) -> Tensor:
        """y through the window: summed in float64, float32."""
        return F.conv2d(F.pad(y.double(), (3, 3, 3, 3), mode="replicate"), self.window).float()

    def _aggd(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Asymmetric generalised Gaussian fitted to each x[i] by moments: shape, left and right scale."""
        x = x.flatten(1)
        left = (x.square() * (x < 0)).sum(1).div((x < 0).sum(1)).sqrt()
        right = (x.square() * (x > 0)).sum(1).div((x > 0).sum(1)).sqrt()
        g = left / right
        r = x.abs().mean(1).square() / x.square().mean(1) * (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
        table = _gamma(2 / self._alphas).square() / (_gamma(1 / self._alphas) * _gamma(3 / self._alphas))
        alpha = self._alphas[(table - r.unsqueeze(1)).abs().argmin(1)]
        ratio = (_gamma(1 / alpha) / _gamma(3 / alpha)).sqrt()
        return alpha, left * ratio, right * ratio


def _gamma(x: Tensor) -> Tensor:
    return torch.lgamma(x).exp()


def _halve(y: Tensor) -> Tensor:
    """MATLAB's imresize(y, 0.5) of an even-sided [1,1,H,W]: antialiased bicubic (a = -0.5), mirrored."""
    k = torch.tensor([-3.0, -9.0, 29.0, 111.0], dtype=y.dtype) / 256  # at 7/4, 5/4, 3/4 and 1/4, halved
    k = torch.cat([k, k.flip(0)])
    for axis in (2, 3):
        n = y.shape[axis]
        index = torch.cat([torch.arange(2, -1, -1), torch.arange(n), torch.arange(n - 1, n - 4, -1)])
        y = y.index_select(axis, index)
    return _separable(y, k, stride=2)


def gradient_energy(image: Tensor, reference: Tensor) -> Tensor:
    """Mean squared forward difference of the luma over that of the reference, [B] float64.

    Below 1 soft, above 1 harsh or noisy; nan where the reference is flat. At least 2x2 pixels.
    """
    _check(image, reference, least=2)

    def energy(x: Tensor) -> Tensor:
        y = luma(x)
        return y.diff(dim=2).square().mean((1, 2, 3)) + y.diff(dim=3).square().mean((1, 2, 3))

    below = energy(reference)
    return torch.where(below > 0, energy(image) / below, torch.nan)


def grid(image: Tensor) -> Tensor:
    """Grid number: how far the luma's spectrum stands out at periods of 4 and 2 pixels, [B] float64.

    Power of the row and of the column spectra (averaged over rows, over columns) at 1/4 and 1/2 cycles per
    pixel, each over the (lower) median of the bins 4 to 12 away, averaged. About 1 for photographs.
    Upsampling leaves a lattice there that PSNR, NIQE and LPIPS forgive and eyes do not. Sides are cropped to
    a multiple of 4; at least 64x64 pixels; nan or inf for an image without texture.
    """
    _check(image, least=64)
    y = luma(image)[:, 0]
    ratios = []
    for rows in (y, y.mT):
        n = rows.shape[-1] // 4 * 4
        power = torch.fft.rfft(rows[..., :n]).abs().square().mean(1)  # [B, n/2 + 1]
        for k in (n // 4, n // 2):
            around = [j for d in range(4, 13) for j in (k - d, k + d) if j <= n // 2]
            ratios.append(power[:, k] / power[:, around].median(1).values)
    return torch.stack(ratios).mean(0)


def swd(
    image: Tensor, reference: Tensor, *, patches: int = 1024, directions: int = 256, seed: int = 0
) -> Tensor:
    """Laplacian-pyramid sliced Wasserstein distance x 1000 (Karras et al. 2018), [B] float64; 0 if equal.

    On each level (down to 16 pixels), 7x7 RGB patches at seeded positions, the same in both images, are
    projected on seeded unit directions; the mean distance of the sorted projections, averaged over levels. At
    least 32x32 pixels. Differs from the paper: the sets are single images, both divided by the reference's
    deviation per channel, so that lost contrast counts.
    """
    _check(image, reference, least=32)
    random = torch.Generator().manual_seed(seed)
    totals: list[Tensor] = []
    for a, b in zip(_laplacian(image.double()), _laplacian(reference.double()), strict=True):
        height, width = a.shape[2] - 6, a.shape[3] - 6
        at = torch.randint(height * width, (patches,), generator=random).to(a.device)
        std = b.std((2, 3), keepdim=True).clamp_min(1e-6)
        u = torch.randn(147, directions, dtype=torch.float64, generator=random).to(a.device)
        u = u / u.norm(dim=0)
        p, q = ((_patches(x / std, at) @ u).sort(1).values for x in (a, b))
        totals.append((p - q).abs().mean((1, 2)))
    return 1000 * torch.stack(totals).mean(0)


def _patches(x: Tensor, at: Tensor) -> Tensor:
    """7x7 patches of [B,3,H,W] at flat positions `at` of the valid region -> [B, len(at), 147]."""
    width = x.shape[3] - 6
    offset = torch.arange(7, device=x.device)
    row = (at // width).view(-1, 1, 1) + offset.view(1, 7, 1)
    column = (at % width).view(-1, 1, 1) + offset.view(1, 1, 7)
    return x[:, :, row, column].permute(0, 2, 1, 3, 4).flatten(2)


def _laplacian(x: Tensor) -> list[Tensor]:
    """Burt-Adelson pyramid, finest level first; the last, 16 to 31 pixels on its shorter side, is plain."""
    binomial = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=x.dtype, device=x.device) / 16

    def blur(z: Tensor, stride: int = 1) -> Tensor:
        flat = F.pad(z.flatten(0, 1).unsqueeze(1), (2, 2, 2, 2), mode="reflect")
        flat = _separable(flat, binomial, stride)
        return flat.view(*z.shape[:2], *flat.shape[2:])

    halvings = (min(x.shape[2:]) // 16).bit_length() - 1
    gaussian = [x[..., : x.shape[2] >> halvings << halvings, : x.shape[3] >> halvings << halvings]]
    for _ in range(halvings):
        gaussian.append(blur(gaussian[-1], 2))
    up = [blur(F.interpolate(low, scale_factor=2, mode="nearest")) for low in gaussian[1:]]
    return [fine - coarse for (fine, _), coarse in zip(pairwise(gaussian), up, strict=True)] + gaussian[-1:]


@dataclass(frozen=True)
class Metric:
    """One measure. `function` is the score itself, or, where `files` names any, the class that opens them."""

    label: str
    function: Score | type[LpipsSqueeze] | type[Niqe]
    higher_is_better: bool | None  # None: best near 1
    needs_reference: bool
    protocol: str
    unit: str = ""
    files: tuple[str, ...] = ()

    def open(self, *paths: str | Path) -> Score:
        """The score, ready to call; `paths` in the order of `files`. Raises ConfigError or ModelError."""
        if len(paths) != len(self.files):
            wanted = ", ".join(self.files) or "no file"
            raise ConfigError(f"{self.label} is opened with {wanted}, not with {len(paths)} path(s).")
        score: Score = self.function(*paths) if self.files else self.function  # type: ignore[assignment]
        return score


METRICS: dict[str, Metric] = {
    "psnr_y": Metric("PSNR-Y", psnr_y, higher_is_better=True, needs_reference=True, unit="dB", protocol=
        "Unrounded BT.601 luma, mean squared error + 1e-8, no border crop (pyiqa, as TSD-SR and OSEDiff)."),
    "ssim_y": Metric("SSIM-Y", ssim_y, higher_is_better=True, needs_reference=True, protocol=
        "Luma rounded to integers, 11x11 Gaussian, contrast-structure clamped at 0, no border crop (pyiqa)."),
    "lpips_squeeze": Metric("LPIPS-squeeze*", LpipsSqueeze, higher_is_better=False, needs_reference=True,
        protocol="LPIPS v0.1 heads over a SqueezeNet 1.1 that the user names: only compares models.",
        files=("the SqueezeNet 1.1 weights", "the LPIPS v0.1 squeeze heads")),
    "niqe": Metric("NIQE", Niqe, higher_is_better=False, needs_reference=False, protocol=
        "BasicSR's NIQE: rounded luma, 96x96 blocks, two scales, no border crop.",
        files=("the pristine model (.npz)",)),
    "swd": Metric("SWD", swd, higher_is_better=False, needs_reference=True, unit="x 1000", protocol=
        "Sliced Wasserstein distance of 7x7 patches over a Laplacian pyramid, to the reference; seed 0."),
    "gradient_energy": Metric("gradient energy", gradient_energy, higher_is_better=None, needs_reference=True,
        unit="x reference", protocol="Mean squared forward difference of the luma over the reference's."),
    "grid": Metric("grid", grid, higher_is_better=None, needs_reference=False, protocol=
        "Luma power at periods of 4 and 2 pixels over the median of the bins 4 to 12 away."),
}  # fmt: skip
