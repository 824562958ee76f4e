"""The files of other projects that metrics are opened with."""

from ..losses.featurenets import NETWORKS
from .files import WeightsFile

TORCHVISION = "download.pytorch.org/models"
PYIQA = "huggingface.co/chaofengc/IQA-PyTorch-Weights"

SQUEEZENET, ALEXNET, VGG16 = (
    WeightsFile(
        kind, f"the {NETWORKS[kind].label} weights", "BSD-3-Clause, trained on ImageNet", TORCHVISION,
        NETWORKS[kind].file,
    )
    for kind in ("squeezenet", "alexnet", "vgg16")
)  # fmt: skip

LPIPS_SQUEEZE, LPIPS_ALEX, LPIPS_VGG = (
    WeightsFile(
        f"lpips_{name}", f"the LPIPS v0.1 heads for {label}", "BSD-2-Clause",
        f"{PYIQA}, from richzhang/PerceptualSimilarity", f"LPIPS_v0.1_{name}-{digits}", own,
    )
    for name, label, digits, own in (
        ("squeeze", "SqueezeNet", "33a58a82", "4a5350f2"),  # saved anew there
        ("alex", "AlexNet", "df73285e", ""),
        ("vgg", "VGG16", "a78928a0", ""),
    )
)  # fmt: skip

DISTS = WeightsFile(
    "dists", "the weights of DISTS", "MIT", f"{PYIQA}, from dingkeyan93/DISTS", "DISTS_weights-f5e65c96"
)
INCEPTION = WeightsFile(
    "inception", "the Inception-v3 weights of FID", "Apache-2.0, trained on ImageNet",
    "github.com/mseitzer/pytorch-fid, release fid_weights", "pt_inception-2015-12-05-6726825d",
)  # fmt: skip
NIQE = WeightsFile(
    "niqe", "the pristine model (.npz) of BasicSR", "Apache-2.0", "XPixelGroup/BasicSR, basicsr/metrics",
    digits="2a7c182a68c9e7f1b2e2e5ec723279d6f65d912b6fcaf37eb2bf03d7367c4296",
)  # fmt: skip
