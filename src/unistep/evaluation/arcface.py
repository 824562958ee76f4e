"""Identity by ArcFace: the angle between the embeddings of two faces, by a network that is given as ONNX.

    ids                 the protocol of face restoration (VQFR's “Deg.”): gray, 128x128, the whole crop
    identity_arcface    the protocol of recognition (InsightFace): RGB, 112x112, the face aligned

An ONNX file is data here: it is read into memory and run on the CPU, in one thread, without telemetry.
"""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError, ImageError, ModelError
from ..extras import extra
from .faces import Codes, Landmarks, largest_face, pairs
from .files import AbsentMetric
from .planes import check

EYES = ((38.2946, 51.6963), (73.5318, 51.5014))
"""Where ArcFace's template has the eyes, the left one in the picture first, in pixels (InsightFace)."""


class Embedder:
    """An ONNX network from one image [1, *shape] float32 to its embedding.

    Raises AbsentMetric without the package onnxruntime, ModelError for another file or another shape.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int]) -> None:
        try:
            runtime = extra("onnxruntime")
        except ConfigError as error:
            raise AbsentMetric(str(error)) from error
        runtime.disable_telemetry_events()
        options = runtime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # sums in one order: equal bytes
        data = path.read_bytes()
        try:
            self.session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own classes have no common base
            reason = " ".join(str(error).split())[:200]
            raise ModelError(
                f"{path}: expected an ONNX network, found {reason}: name another file"
            ) from error
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        found = [list(one.shape) for one in inputs]
        if len(inputs) != 1 or len(outputs) != 1 or not _fits(found[0], (1, *shape)):
            raise ModelError(
                f"{path}: expected one image {[1, *shape]} and one embedding, found {found} and "
                f"{len(outputs)} outputs: name an ArcFace of this kind"
            )
        self.input = inputs[0].name
        self.scales = scales_itself(data)
        self.path = path

    def __call__(self, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """x: [C,H,W] from 0 to 255 -> the embedding, one axis."""
        x = x if self.scales else (x - 127.5) / 127.5
        try:
            (found,) = self.session.run(None, {self.input: x[None].astype(np.float32)})
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"{self.path}: expected a network that runs, found {reason}") from error
        return np.asarray(found, np.float64).reshape(-1)


class Ids:
    """IDS as VQFR measures “Deg.”, the angle of ArcFace embeddings: degrees, [B] float64; 0 for equal images.

    network: ONNX, one gray image [1,1,128,128] from -1 to 1. Images [B,3,H,W] in [0,1], square crops of
    aligned faces as the test sets have them, rounded to 8 bits, in gray and bilinear to 128x128 without
    antialiasing (`gray`); no face is looked for. Source: VQFR, metric_paper/calculate_cos_dist.py,
    whose mean leaves out what is below 1 degree; here every image counts. DAEFR's script takes radians, and
    BGR for RGB. Raises as `Embedder`; when called, ImageError for images that are not square.
    """

    def __init__(self, network: str | Path) -> None:
        self.embed = Embedder(Path(network), (1, 128, 128))

    def __call__(self, image: Tensor, reference: Tensor) -> Tensor:
        check(image, reference)
        height, width = image.shape[2:]
        if height != width:
            raise ImageError(f"IDS compares square crops of aligned faces, not {width}x{height}")
        found = [angle(*(self.embed(gray(codes)) for codes in pair)) for pair in pairs(image, reference)]
        return torch.tensor(found, dtype=torch.float64)


class ArcFaceIdentity:
    """Angle between ArcFace embeddings of aligned faces: degrees, [B] float64; 0 for equal images.

    network: ONNX, one RGB image [1,3,112,112]. landmarks: dlib's 5-point model, whose eye centres in the
    reference are brought to where ArcFace's template has them, in both images: InsightFace aligns by five
    points (eyes, nose, mouth) that its own detector finds. Images [B,3,H,W] in [0,1], rounded to 8 bits.
    Raises as `Embedder` and `faces.LandmarkDistance`.
    """

    def __init__(self, network: str | Path, landmarks: str | Path) -> None:
        self.embed = Embedder(Path(network), (3, 112, 112))
        self.landmarks = Landmarks(landmarks, 5)

    def __call__(self, image: Tensor, reference: Tensor) -> Tensor:
        check(image, reference)
        return torch.tensor([self._one(*pair) for pair in pairs(image, reference)], dtype=torch.float64)

    def _one(self, result: Codes, truth: Codes) -> float:
        points = self.landmarks.points(truth, largest_face(truth))
        left, right = points[2:4].mean(0), points[0:2].mean(0)
        if np.array_equal(left, right):
            raise ImageError("the eyes of the truth's face were found at one place")
        return angle(*(self.embed(aligned(codes, left, right)) for codes in (result, truth)))


def gray(codes: Codes) -> npt.NDArray[np.float64]:
    """uint8 [H,W,3] -> [1,128,128], whole numbers: what OpenCV makes of a PNG of 512x512 pixels.

    It reads BT.601 gray by libpng, which cuts off the fraction, and resizes bilinearly without antialiasing.
    """
    luma = (codes.astype(np.int64) @ np.array([9797, 19234, 3737])) >> 15
    picture = torch.from_numpy(luma.astype(np.float64))[None, None]
    small = F.interpolate(picture, (128, 128), mode="bilinear", align_corners=False)[0]
    return (small + 0.5).floor().numpy()


def aligned(
    codes: Codes, left: npt.NDArray[np.float64], right: npt.NDArray[np.float64], side: int = 112
) -> npt.NDArray[np.float64]:
    """uint8 [H,W,3] -> [3,side,side] from 0 to 255 with the eyes, at x and y, where `EYES` are; black around.

    Turned, scaled and moved, bilinear, without antialiasing.
    """
    height, width, _ = codes.shape
    a, b = (complex(*point) for point in EYES)  # turning and scaling of the plane: one complex factor
    turn = (complex(*right) - complex(*left)) / (b - a)
    target = np.arange(side)[None, :] + 1j * np.arange(side)[:, None]
    source = complex(*left) + turn * (target - a)
    at = np.stack([(2 * source.real + 1) / width - 1, (2 * source.imag + 1) / height - 1], -1)
    picture = torch.from_numpy(codes.astype(np.float64)).permute(2, 0, 1)[None]
    found = F.grid_sample(picture, torch.from_numpy(at)[None], align_corners=False, padding_mode="zeros")
    return found[0].numpy()


def angle(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    """Between two vectors, in degrees, from 0 to 180; nan if one has no length or no end.

    By the half angle, tan = |u - v| / |u + v| of unit vectors: exactly 0 for equal ones, which the arccosine
    of a rounded cosine is not.
    """
    u, v = (x / length if (length := np.linalg.norm(x)) > 0 else x * math.nan for x in (one, other))
    return math.degrees(2 * math.atan2(np.linalg.norm(u - v), np.linalg.norm(u + v)))


def scales_itself(data: bytes) -> bool:
    """Whether an ONNX network takes 0 to 255: it subtracts and multiplies in its first eight nodes.

    InsightFace's rule, by the nodes' operators instead of their names: exports from MXNet do so.
    """
    graph = next((value for number, value in _fields(memoryview(data)) if number == 7), memoryview(b""))
    nodes = itertools.islice((value for number, value in _fields(graph) if number == 1), 8)
    kinds = {bytes(value) for node in nodes for number, value in _fields(node) if number == 4}
    return {b"Sub", b"Mul"} <= kinds


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and bytes of the fields of a protobuf message that have a length; others are passed over."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            value |= (byte & 127) << shift
            at, shift = at + 1, shift + 7
            if byte < 128:
                return value

    while at < len(message):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            varint()
        elif kind == 2:
            length = varint()
            yield number, message[at : at + length]
            at += length
        else:
            at += {1: 8, 5: 4}[kind]


def _fits(found: list[Any], wanted: tuple[int, ...]) -> bool:
    """Whether an input takes this shape; names and None stand for any size."""
    return len(found) == len(wanted) and all(
        a == b for a, b in zip(found, wanted, strict=True) if isinstance(a, int)
    )
