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

DLIB = "PyPI face_recognition_models 0.3.0 (models/), or github.com/davisking/dlib-models"
LANDMARKS_5 = WeightsFile(
    "landmarks_5", "dlib's 5-point landmark model (.dat)", "CC0-1.0", DLIB,
    digits="c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888",
    plain="shape_predictor_5_face_landmarks.dat",
)  # fmt: skip
LANDMARKS_68 = WeightsFile(
    "landmarks_68", "dlib's 68-point landmark model (.dat)", "not for commercial use (300-W)", DLIB,
    digits="fbdc2cb80eb9aa7a758672cbfdda32ba6300efe9b6e6c7a299ff7e736b11b92f",
)  # fmt: skip
DLIB_IDENTITY = WeightsFile(
    "dlib_identity", "dlib's face recognition network (.dat)", "CC0-1.0", DLIB,
    digits="55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
    plain="dlib_face_recognition_resnet_model_v1.dat",
)  # fmt: skip
ARCFACE_GRAY = WeightsFile(
    "arcface_gray", "the ArcFace of face restoration (gray, 128x128) as .onnx", "none stated",
    "TencentARC/VQFR, metric_weights/resnet18_110.pth, from ronghuaiyang/arcface-pytorch: exported by you",
)  # fmt: skip
ARCFACE = WeightsFile(
    "arcface", "an ArcFace network (RGB, 112x112) as .onnx", "Apache-2.0; InsightFace's for research alone",
    "github.com/onnx/models, arcfaceresnet100-8.onnx, or InsightFace's model packs",
)  # fmt: skip
