"""How good is a picture: a table of measures, each with the protocol that makes its number comparable.

Every measure of images is called as `score(image, reference)`, or `score(image)` where it needs no reference,
on sRGB tensors [B,3,H,W] in [0,1], and returns [B], one number per image. Nothing is rounded to 8 bits here:
to reproduce a figure measured on files, round first. Values outside [0,1] are measured as they are.

    METRICS["psnr_y"].open()(image, reference)
    METRICS["niqe"].open("niqe_pris_params.npz")(image)
    METRICS["niqe"].open_from({"niqe": "niqe_pris_params.npz"}).files[0].sha256

A measure of sets (`over`) is called as `score(images, references)` on two iterables of such tensors.
Weights and pristine models of other projects are not part of Unistep: the caller names the files, or they are
in the torch hub cache; a metric whose files are not there raises AbsentMetric.
"""

from functools import partial
from math import inf

from . import weights
from .arcface import ArcFaceIdentity, Ids
from .distributions import Fid, Kid
from .faces import DlibIdentity, LandmarkDistance
from .fidelity import psnr_rgb, psnr_y, ssim_rgb, ssim_y
from .files import AbsentMetric
from .learned import open_learned
from .metric import Metric, Opened, Score
from .natural import Niqe
from .perceptual import DistsMetric, EaDistsMetric, LpipsAlex, LpipsSqueeze, LpipsVgg
from .planes import luma
from .texture import gradient_energy, grid, swd

__all__ = [
    "METRICS", "AbsentMetric", "ArcFaceIdentity", "DistsMetric", "DlibIdentity", "EaDistsMetric", "Fid",
    "Ids", "Kid", "LandmarkDistance", "LpipsAlex", "LpipsSqueeze", "LpipsVgg", "Metric", "Niqe", "Opened",
    "Score", "gradient_energy", "grid", "luma", "psnr_rgb", "psnr_y", "ssim_rgb", "ssim_y", "swd",
]  # fmt: skip

METRICS: dict[str, Metric] = {
    "psnr_y": Metric("PSNR-Y", psnr_y, higher_is_better=True, needs_reference=True, unit="dB", range=(0, 80),
        source="pyiqa 0.1.13, psnr with test_y_channel", protocol=
        "Unrounded BT.601 luma, mean squared error + 1e-8, no border crop (pyiqa, as TSD-SR and OSEDiff)."),
    "ssim_y": Metric("SSIM-Y", ssim_y, higher_is_better=True, needs_reference=True, range=(0, 1), protocol=
        "Luma rounded to integers, 11x11 Gaussian, contrast-structure clamped at 0, no border crop (pyiqa).",
        source="Wang et al. 2004; pyiqa 0.1.13, ssim with test_y_channel"),
    "psnr_rgb": Metric("PSNR-RGB", psnr_rgb, higher_is_better=True, needs_reference=True, unit="dB",
        range=(0, 80), source="pyiqa 0.1.13, psnr without test_y_channel",
        protocol="One mean squared error of the three channels + 1e-8, no border crop (pyiqa)."),
    "ssim_rgb": Metric("SSIM-RGB", ssim_rgb, higher_is_better=True, needs_reference=True, range=(0, 1),
        source="Wang et al. 2004; pyiqa 0.1.13, ssim without test_y_channel", protocol=
        "Mean of the channels' SSIM, as SSIM-Y: rounded, contrast-structure clamped at 0, no crop (pyiqa)."),
    "lpips_squeeze": Metric("LPIPS-squeeze*", LpipsSqueeze, higher_is_better=False, needs_reference=True,
        range=(0, inf), source="Zhang et al. 2018, arXiv 1801.03924",
        protocol="LPIPS v0.1 heads over a SqueezeNet 1.1 that the user names: only compares models.",
        files=(weights.SQUEEZENET, weights.LPIPS_SQUEEZE)),
    "lpips": Metric("LPIPS", LpipsAlex, higher_is_better=False, needs_reference=True, range=(0, inf),
        protocol="LPIPS v0.1 over AlexNet, images in their own size (TSD-SR, OSEDiff, TAD-SR).",
        source="Zhang et al. 2018, arXiv 1801.03924", files=(weights.ALEXNET, weights.LPIPS_ALEX)),
    "lpips_vgg": Metric("LPIPS-VGG", LpipsVgg, higher_is_better=False, needs_reference=True, range=(0, inf),
        protocol="LPIPS v0.1 over VGG16, images in their own size.",
        source="Zhang et al. 2018, arXiv 1801.03924", files=(weights.VGG16, weights.LPIPS_VGG)),
    "dists": Metric("DISTS", DistsMetric, higher_is_better=False, needs_reference=True, range=(0, 2),
        protocol="VGG16 with L2 pooling, published weights, images in their own size (TSD-SR, OSEDiff).",
        source="Ding et al. 2020, arXiv 2004.07728", files=(weights.VGG16, weights.DISTS)),
    "ea_dists": Metric("EA-DISTS", EaDistsMetric, higher_is_better=False, needs_reference=True, range=(0, 4),
        protocol="DISTS plus DISTS of the Sobel magnitudes, each channel's over its largest possible one.",
        source="DFOSD, Eq. 5 to 7", files=(weights.VGG16, weights.DISTS)),
    "niqe": Metric("NIQE", Niqe, higher_is_better=False, needs_reference=False, range=(0, inf), protocol=
        "BasicSR's NIQE: rounded luma, 96x96 blocks, two scales, no border crop.",
        source="Mittal et al. 2013; BasicSR, metrics/niqe.py", files=(weights.NIQE,)),
    "fid": Metric("FID", Fid, higher_is_better=False, needs_reference=True, range=(0, inf), over="sets",
        protocol="Inception-v3 of 2015-12-05, resized as by clean-fid, to the set's references (pyiqa).",
        source="Heusel et al. 2017, arXiv 1706.08500; Parmar et al. 2022", files=(weights.INCEPTION,)),
    "fid_g": Metric("FID-G", Fid, higher_is_better=False, needs_reference=True, range=(0, inf), over="sets",
        protocol="FID of restored faces to their ground truths; TAD-SR does not say how images are resized.",
        source="TAD-SR, Tab. III; name and reference set as in face restoration", files=(weights.INCEPTION,),
        by_name=True),
    "fid_f": Metric("FID-F", Fid, higher_is_better=False, needs_reference=True, range=(0, inf), over="sets",
        protocol="FID of restored faces to the faces of FFHQ, which the user names as the reference set.",
        source="TAD-SR, Tab. III; name and reference set as in face restoration", files=(weights.INCEPTION,),
        reference_set=True),
    "kid": Metric("KID", Kid, higher_is_better=False, needs_reference=True, range=(-inf, inf), over="sets",
        protocol="As FID; cubic kernel, unbiased, mean of 100 subsets of 1,000 images (or all), seed 0.",
        source="Binkowski et al. 2018, arXiv 1801.01401", files=(weights.INCEPTION,)),
    "clipiqa": Metric("CLIP-IQA", partial(open_learned, "clipiqa"), higher_is_better=True,
        needs_reference=False, range=(0, 1), package="pyiqa", source="Wang et al. 2023, arXiv 2207.12396",
        protocol="pyiqa's clipiqa (ResNet-50 CLIP), in float32; SinSR and TAD-SR in half precision."),
    "musiq": Metric("MUSIQ", partial(open_learned, "musiq"), higher_is_better=True, needs_reference=False,
        range=(0, 100), package="pyiqa", source="Ke et al. 2021, arXiv 2108.05997",
        protocol="pyiqa's musiq (KonIQ-10k), in float32; SinSR and TAD-SR in half precision."),
    "maniqa-pipal": Metric("MANIQA-PIPAL", partial(open_learned, "maniqa-pipal"), higher_is_better=True,
        needs_reference=False, range=(0, 1), package="pyiqa", source="Yang et al. 2022, arXiv 2204.08958",
        protocol="pyiqa's maniqa-pipal (TSD-SR, OSEDiff), crops of seed 0; not its maniqa of KonIQ-10k."),
    "ids": Metric("IDS", Ids, higher_is_better=False, needs_reference=True, unit="degrees", range=(0, 180),
        package="onnxruntime", files=(weights.ARCFACE_GRAY,), protocol="Angle of embeddings by the user's "
        "ArcFace of the whole crop, gray, 128x128, unaligned: VQFR's Deg.; TAD-SR does not define its IDS.",
        source="TAD-SR, Tab. III; VQFR, arXiv 2205.06803, metric_paper/calculate_cos_dist.py"),
    "identity_arcface": Metric("identity (ArcFace)", ArcFaceIdentity, higher_is_better=False,
        needs_reference=True, unit="degrees", range=(0, 180), package="onnxruntime", protocol=
        "Angle of embeddings by the user's ArcFace, RGB, 112x112, aligned by dlib's eyes in the truth.",
        source="Deng et al. 2019, arXiv 1801.07698", files=(weights.ARCFACE, weights.LANDMARKS_5)),
    "identity_dlib": Metric("identity (dlib)", DlibIdentity, higher_is_better=False, needs_reference=True,
        range=(0, inf), package="dlib", files=(weights.DLIB_IDENTITY, weights.LANDMARKS_5), protocol=
        "Distance of dlib's 128-number descriptors, not ArcFace's, of the truth's largest face.",
        source="King, dlib, face recognition network v1"),
    "lmd_5": Metric("LMD-5", partial(LandmarkDistance, 5), higher_is_better=False, needs_reference=True,
        unit="px", range=(0, inf), package="dlib", files=(weights.LANDMARKS_5,), protocol="Mean distance of "
        "dlib's 5 landmarks (whole pixels) in the truth's largest face; VQFR has 98, TAD-SR does not say.",
        source="VQFR, metric_paper/calculate_landmark_distance.py; Kazemi and Sullivan 2014"),
    "lmd_68": Metric("LMD-68", partial(LandmarkDistance, 68), higher_is_better=False, needs_reference=True,
        unit="px", range=(0, inf), package="dlib", files=(weights.LANDMARKS_68,), protocol="Mean distance of "
        "dlib's 68 landmarks (whole pixels) in the truth's largest face; VQFR has 98, TAD-SR does not say.",
        source="VQFR, metric_paper/calculate_landmark_distance.py; Kazemi and Sullivan 2014"),
    "swd": Metric("SWD", swd, higher_is_better=False, needs_reference=True, unit="x 1000", range=(0, inf),
        source="Karras et al. 2018, arXiv 1710.10196, of single images", protocol=
        "Sliced Wasserstein distance of 7x7 patches over a Laplacian pyramid, to the reference; seed 0."),
    "gradient_energy": Metric("gradient energy", gradient_energy, higher_is_better=None, needs_reference=True,
        unit="x reference", range=(0, inf), source="Unistep",
        protocol="Mean squared forward difference of the luma over the reference's."),
    "grid": Metric("grid", grid, higher_is_better=None, needs_reference=False, range=(0, inf),
        source="Unistep",
        protocol="Luma power at periods of 4 and 2 pixels over the median of the bins 4 to 12 away."),
}  # fmt: skip
