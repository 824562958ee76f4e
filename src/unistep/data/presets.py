"""What a degradation is made of: parameters under their community names, and sets of them by name."""

from dataclasses import dataclass, replace

from ..errors import ConfigError

KERNELS = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")
SMALLEST_KERNEL = 7
"""Kernel sizes are drawn from the odd numbers from here up to blur_kernel_size."""


@dataclass(frozen=True)
class Degradation:
    """The parameters under their community names; the defaults are Real-ESRGAN's. Noise in levels of 255."""

    scale: int = 4
    # first order
    blur_kernel_size: int = 21
    kernel_list: tuple[str, ...] = KERNELS
    kernel_prob: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    sinc_prob: float = 0.1
    blur_sigma: tuple[float, float] = (0.2, 3.0)
    betag_range: tuple[float, float] = (0.5, 4.0)
    betap_range: tuple[float, float] = (1.0, 2.0)
    resize_prob: tuple[float, float, float] = (0.2, 0.7, 0.1)
    """up, down, keep"""
    resize_range: tuple[float, float] = (0.15, 1.5)
    gaussian_noise_prob: float = 0.5
    """Poisson noise otherwise"""
    noise_range: tuple[float, float] = (1.0, 30.0)
    poisson_scale_range: tuple[float, float] = (0.05, 3.0)
    gray_noise_prob: float = 0.4
    jpeg_range: tuple[float, float] = (30.0, 95.0)
    # second order
    second_order: bool = True
    """False leaves only the bicubic reduction by `scale`."""
    second_blur_prob: float = 0.8
    blur_kernel_size2: int = 21
    kernel_list2: tuple[str, ...] = KERNELS
    kernel_prob2: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    sinc_prob2: float = 0.1
    blur_sigma2: tuple[float, float] = (0.2, 1.5)
    betag_range2: tuple[float, float] = (0.5, 4.0)
    betap_range2: tuple[float, float] = (1.0, 2.0)
    resize_prob2: tuple[float, float, float] = (0.3, 0.4, 0.3)
    resize_range2: tuple[float, float] = (0.3, 1.2)
    gaussian_noise_prob2: float = 0.5
    noise_range2: tuple[float, float] = (1.0, 25.0)
    poisson_scale_range2: tuple[float, float] = (0.05, 2.5)
    gray_noise_prob2: float = 0.4
    jpeg_range2: tuple[float, float] = (30.0, 95.0)
    final_sinc_prob: float = 0.8

    def __post_init__(self) -> None:
        for name in ("blur_kernel_size", "blur_kernel_size2"):
            if getattr(self, name) < SMALLEST_KERNEL:
                raise ConfigError(
                    f"expected {name} to be {SMALLEST_KERNEL} or more, found {getattr(self, name)}"
                )
        for kinds, shares in ((self.kernel_list, self.kernel_prob), (self.kernel_list2, self.kernel_prob2)):
            if len(kinds) != len(shares) or not set(kinds) <= set(KERNELS):
                raise ConfigError(
                    f"expected a kernel_prob for each of kernel_list, out of {', '.join(KERNELS)}, "
                    f"found {list(kinds)} and {list(shares)}"
                )


@dataclass(frozen=True)
class FaceDegradation:
    """Blind face restoration: x_lq = grey(up(jpeg(down(x * k) + n))), as large as x (GFPGAN, 2101.04061).

    The defaults are those of the released training for faces of arXiv 2307.12348
    (faceir_gfpgan512_lpips.yaml), which made TAD-SR's teacher; TAD-SR itself says only "a typical
    degradation model". Ours: JPEG is DiffJPEG's (4:2:0, no entropy coding), where the reference calls
    OpenCV's encoder.
    """

    scale: int = 1
    blur_kernel_size: int = 41
    kernel_list: tuple[str, ...] = ("iso", "aniso")
    kernel_prob: tuple[float, ...] = (0.5, 0.5)
    blur_sigma: tuple[float, float] = (0.1, 15.0)
    downsample_range: tuple[float, float] = (0.8, 32.0)
    noise_range: tuple[float, float] = (0.0, 20.0)
    jpeg_range: tuple[float, float] = (30.0, 100.0)
    gray_prob: float = 0.01
    """Both images of the pair become grey (gt_gray), so that no colour is invented for old photographs."""


_LIGHT = Degradation(
    resize_range=(0.3, 1.5),
    noise_range=(1.0, 15.0),
    poisson_scale_range=(0.05, 2.0),
    jpeg_range=(60.0, 95.0),
    second_blur_prob=0.5,
    resize_range2=(0.6, 1.2),
    noise_range2=(1.0, 12.0),
    poisson_scale_range2=(0.05, 1.0),
    jpeg_range2=(60.0, 100.0),
)
DEGRADATIONS: dict[str, Degradation | FaceDegradation] = {
    "realesrgan": Degradation(),  # OSEDiff's and Real-ESRGAN's values
    "light": _LIGHT,  # AdcSR's, S3Diff's and SeeSR's params_realesrgan
    "bicubic": replace(_LIGHT, second_order=False),
    # Ours: blurred and compressed, but hardly noisy. In the others noise always comes with blur: a network
    # that saw only them answers every blur with more smoothing.
    "mild": replace(
        _LIGHT,
        blur_sigma=(0.2, 2.0),
        sinc_prob=0.05,
        resize_range=(0.5, 1.2),
        noise_range=(0.0, 6.0),
        poisson_scale_range=(0.0, 0.5),
        jpeg_range=(80.0, 98.0),
        second_blur_prob=0.3,
        blur_sigma2=(0.2, 1.0),
        resize_range2=(0.7, 1.2),
        noise_range2=(0.0, 4.0),
        poisson_scale_range2=(0.0, 0.3),
        jpeg_range2=(75.0, 100.0),
        final_sinc_prob=0.4,
    ),
    # Ours: sharp and clean until it was compressed strongly, as small pictures of the web are. In the others
    # strong compression always comes with noise: a network that saw only them keeps the blocks of JPEG.
    "compressed": replace(
        _LIGHT,
        blur_sigma=(0.2, 1.5),
        sinc_prob=0.05,
        resize_range=(0.5, 1.2),
        noise_range=(0.0, 4.0),
        poisson_scale_range=(0.0, 0.3),
        jpeg_range=(60.0, 98.0),
        second_blur_prob=0.2,
        blur_sigma2=(0.2, 1.0),
        resize_range2=(0.7, 1.2),
        noise_range2=(0.0, 2.0),
        poisson_scale_range2=(0.0, 0.15),
        jpeg_range2=(25.0, 90.0),
        final_sinc_prob=0.3,
    ),
    "faces": FaceDegradation(),
}


def preset(name: str) -> Degradation | FaceDegradation:
    """The named preset of DEGRADATIONS. Raises ConfigError for an unknown name."""
    if name not in DEGRADATIONS:
        raise ConfigError(f"expected a degradation out of {', '.join(DEGRADATIONS)}, found “{name}”")
    return DEGRADATIONS[name]


def without_grey(params: Degradation | FaceDegradation) -> Degradation | FaceDegradation:
    """`params` that leave the high-quality image as it is, for pairs whose latent is fixed."""
    return replace(params, gray_prob=0.0) if isinstance(params, FaceDegradation) else params
