"""Faces by dlib: where the truth's face is, how far landmarks moved, and its identity (not ArcFace's).

The face is looked for in the truth alone, and the result is read at the same place: both show one scene,
pixel by pixel, and the scripts of face restoration, too, give whole crops to their networks. So a result
cannot leave the mean by being too bad for a detector, and where the two are equal, so is what is read.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import ConfigError, ImageError, ModelError
from ..extras import extra
from .files import AbsentMetric
from .planes import check

Codes = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]
"""Left, top, right, bottom, the last ones included."""
SIDE = 150
"""Pixels of the aligned face that dlib's network takes."""


class Landmarks:
    """dlib's landmark model with `count` points. path: its .dat.

    Raises AbsentMetric without the package dlib, ModelError for a file of another kind.
    """

    def __init__(self, path: str | Path, count: int) -> None:
        self._model = opened("shape_predictor", Path(path))
        found = self.shape(np.zeros((64, 64, 3), np.uint8), (16, 16, 47, 47)).num_parts
        if found != count:
            raise ModelError(
                f"{path}: expected {count} landmarks, found {found}: name dlib's {count}-point model"
            )

    def shape(self, codes: Codes, box: Box) -> Any:
        """dlib's own object of a face in `box` of uint8 [H,W,3]."""
        return self._model(codes, package().rectangle(*box))

    def points(self, codes: Codes, box: Box) -> npt.NDArray[np.float64]:
        """[count, 2]: x and y in pixels, as dlib gives them: whole numbers."""
        return np.array([(part.x, part.y) for part in self.shape(codes, box).parts()], np.float64)


class LandmarkDistance:
    """Mean Euclidean distance of dlib's landmarks in pixels, [B] float64; 0 for equal images.

    count: the points that the model must have. path: dlib's landmark model (.dat). Images [B,3,H,W] in [0,1],
    rounded to 8 bits. Raises AbsentMetric without dlib, ModelError for a wrong file; when called, ImageError
    if there is no face in a reference. VQFR (metric_paper/calculate_landmark_distance.py) measures the same
    distance of the 98 points of a network (AWing, trained on WFLW) over the whole crop.
    """

    def __init__(self, count: int, path: str | Path) -> None:
        self.landmarks = Landmarks(path, count)

    def __call__(self, image: Tensor, reference: Tensor) -> Tensor:
        check(image, reference)
        return torch.tensor([self._one(*pair) for pair in pairs(image, reference)], dtype=torch.float64)

    def _one(self, result: Codes, truth: Codes) -> float:
        box = largest_face(truth)
        moved = self.landmarks.points(result, box) - self.landmarks.points(truth, box)
        return float(np.hypot(*moved.T).mean())


class DlibIdentity:
    """Euclidean distance of dlib's descriptors of a face, 128 numbers each: [B] float64; 0 for equal images.

    network, landmarks: dlib's face recognition network and 5-point model (.dat). Images [B,3,H,W] in [0,1],
    rounded to 8 bits; the face of both is cut out by the landmarks of the reference, 150x150 pixels with a
    padding of 0.25. dlib calls faces closer than 0.6 the same person. Raises as `LandmarkDistance`.
    """

    def __init__(self, network: str | Path, landmarks: str | Path) -> None:
        self.landmarks = Landmarks(landmarks, 5)
        self.network = opened("face_recognition_model_v1", Path(network))

    def __call__(self, image: Tensor, reference: Tensor) -> Tensor:
        check(image, reference)
        return torch.tensor([self._one(*pair) for pair in pairs(image, reference)], dtype=torch.float64)

    def _one(self, result: Codes, truth: Codes) -> float:
        shape = self.landmarks.shape(truth, largest_face(truth))
        chips = [package().get_face_chip(codes, shape, SIDE, 0.25) for codes in (result, truth)]
        one, other = (np.array(self.network.compute_face_descriptor(chip), np.float64) for chip in chips)
        return float(np.linalg.norm(one - other))


def package() -> Any:
    """dlib. Raises AbsentMetric if it is not here."""
    try:
        return extra("dlib")
    except ConfigError as error:
        raise AbsentMetric(str(error)) from error


def opened(kind: str, path: Path) -> Any:
    """dlib's object `kind` from a file. Raises ModelError if it holds another."""
    try:
        return getattr(package(), kind)(str(path))
    except RuntimeError as error:
        raise ModelError(
            f"{path}: expected dlib's {kind} (.dat), found another file: name the one it is"
        ) from error


def pairs(image: Tensor, reference: Tensor) -> list[tuple[Codes, Codes]]:
    """[B,3,H,W] in [0,1] -> B pairs of uint8 [H,W,3]."""
    images, references = (
        (x.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
        for x in (image, reference)
    )
    return [*zip(images, references, strict=True)]


def largest_face(codes: Codes) -> Box:
    """Of the faces that dlib's frontal detector finds in uint8 [H,W,3]; in twice the size if it finds none.

    Raises ImageError if there is none: it finds upright faces that look at the camera, from 40 pixels on.
    """
    height, width, _ = codes.shape
    box = _largest_face(codes.tobytes(), height, width)
    if box is None:
        raise ImageError("no face was found in the truth (upright, frontal, 40 pixels or more)")
    return box


@functools.lru_cache(maxsize=2)  # every metric of faces asks for the same truth, one after the other
def _largest_face(data: bytes, height: int, width: int) -> Box | None:
    codes = np.frombuffer(data, np.uint8).reshape(height, width, 3)
    detect = _detector()
    for enlarged in (0, 1):
        boxes = [(r.left(), r.top(), r.right(), r.bottom()) for r in detect(codes, enlarged)]
        if boxes:
            return max(boxes, key=lambda box: ((box[2] - box[0]) * (box[3] - box[1]), box))
    return None


@functools.cache  # unpacking it takes longer than a picture
def _detector() -> Any:
    return package().get_frontal_face_detector()
