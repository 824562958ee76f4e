"""Faces: angles of known value, what landmarks and identities must notice, and what is said without a face.

Networks are a few bytes of ONNX, the landmark model is trained here on one face; dlib's network cannot be,
and has a stand-in. The face is the astronaut of scikit-image.
"""

import json
import math
import sys

import numpy as np
import onnx_bytes
import pytest
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from unistep.command.cli import main
from unistep.errors import ImageError, ModelError
from unistep.evaluation import faces
from unistep.evaluation.arcface import EYES, Embedder, aligned, angle, gray, scales_itself
from unistep.evaluation.files import AbsentMetric
from unistep.evaluation.measuring import measures
from unistep.evaluation.metrics import METRICS

dlib = pytest.importorskip("dlib", reason="the extra faces is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra faces is not installed")
data = pytest.importorskip("skimage.data")
GRAY = [1, 1, 128, 128]
POINTS = [(255, 104), (237, 105), (195, 101), (212, 103), (224, 135)]
"""What dlib's 5-point model finds in the astronaut: outer and inner corner of each eye, right first, nose"""


@pytest.fixture(scope="module")
def astronaut():
    return data.astronaut()


@pytest.fixture(scope="module")
def predictor(astronaut, tmp_path_factory):
    """A file of dlib's format, trained on one face and its four neighbouring places."""

    def trained(points, name):
        path = tmp_path_factory.mktemp("dlib") / name
        options = dlib.shape_predictor_training_options()
        options.cascade_depth, options.tree_depth, options.num_trees_per_cascade_level = 4, 2, 20
        options.feature_pool_size, options.num_test_splits, options.oversampling_amount = 60, 10, 20
        left, top, right, bottom = faces.largest_face(astronaut)
        images, truths = [], []
        for dx, dy in ((0, 0), (9, 0), (-9, 0), (0, 9), (0, -9)):
            images.append(np.roll(astronaut, (dy, dx), (0, 1)))
            box = dlib.rectangle(left, top, right, bottom)
            truths.append([dlib.full_object_detection(box, [dlib.point(x + dx, y + dy) for x, y in points])])
        dlib.train_shape_predictor(images, truths, options).save(str(path))
        return path

    return trained(POINTS, "five.dat"), trained(POINTS[:3], "three.dat")


@pytest.fixture
def network(tmp_path):
    def write(*arguments, **options):
        path = tmp_path / "net.onnx"
        path.write_bytes(onnx_bytes.pooling(*arguments, **options))
        return path

    return write


def tensor(picture) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255


def blurred(codes, sigma) -> Tensor:
    return tensor(Image.fromarray(codes).filter(ImageFilter.GaussianBlur(sigma)))


# IDS


def halves(left: float, right: float) -> Tensor:
    """A picture of two halves; 0.5 is half black, half white."""
    picture = torch.zeros(1, 3, 128, 128)
    for value, part in ((left, picture[..., :64]), (right, picture[..., 64:])):
        part[..., : round(128 * value), :] = 1
    return picture


def test_ids_is_the_angle_of_the_embeddings(network):
    score = METRICS["ids"].open(network(GRAY, [128, 64]))
    cases = {(1, 1): 0.0, (1, 0.5): 45.0, (1, 0): 90.0, (0, 0.5): 135.0, (0, 0): 180.0}
    batch = torch.cat([halves(*pair) for pair in cases])
    values = score(batch, halves(1, 1).expand_as(batch))
    torch.testing.assert_close(values, torch.tensor([*cases.values()], dtype=torch.float64))
    assert values[0] == 0 and METRICS["ids"].range == (0, 180) and METRICS["ids"].unit == "degrees"


def test_an_embedding_without_length_has_no_angle(network):
    score = METRICS["ids"].open(network(GRAY, [128, 64]))
    assert score(halves(0.5, 0.5), halves(1, 0)).isnan().all()
    assert angle(np.array([3.0, 0]), np.array([0, 0.1])) == pytest.approx(90)


def test_gray_is_what_opencv_makes_of_a_png():
    solid = np.zeros((128, 128, 3), np.uint8)
    for channel, value in enumerate((76, 149, 29)):  # of 76.2, 149.7 and 29.1
        colour = solid.copy()
        colour[..., channel] = 255
        assert (gray(colour) == value).all()
    rows = np.arange(512, dtype=np.uint8)[:, None, None].repeat(512, 1).repeat(3, 2)  # 0..255 twice
    wanted = (4 * np.arange(128) + 2) % 256  # of four rows the middle two count; their mean, n + 1/2, goes up
    assert (gray(rows)[0] == wanted[:, None]).all()
    spots = np.zeros((512, 512, 3), np.uint8)
    spots[::4, ::4] = 255
    assert (gray(spots) == 0).all()


def test_ids_grows_under_blur_and_is_symmetric(network, astronaut):
    face = astronaut[:256, 96:352]
    score, sharp = METRICS["ids"].open(network(GRAY, [8, 8])), tensor(face)
    values = [score(blurred(face, sigma), sharp).item() for sigma in (1, 2, 4, 8)]
    assert score(sharp, sharp) == 0 and 0 < values[0] < values[1] < values[2] < values[3] < 90
    torch.testing.assert_close(score(sharp, blurred(face, 4)).item(), values[2])


def test_ids_takes_square_crops_alone(network):
    x = torch.rand(1, 3, 128, 160)
    with pytest.raises(ImageError, match="square crops of aligned faces, not 160x128"):
        METRICS["ids"].open(network(GRAY, [128, 64]))(x, x)


# ONNX


def test_networks_that_scale_themselves_are_given_0_to_255(network):
    plain = network(GRAY, [16, 16]).read_bytes()
    scaling = onnx_bytes.pooling(GRAY, [16, 16], scales=True)
    assert scales_itself(scaling) and not scales_itself(plain)
    x, y = torch.rand(2, 1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    one = METRICS["ids"].open(network(GRAY, [16, 16]))(x, y)
    other = METRICS["ids"].open(network(GRAY, [16, 16], scales=True))(x, y)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=0)
    assert 5 < one < 175


def test_any_batch_size_and_no_telemetry(network, monkeypatch):
    said = []
    monkeypatch.setattr(onnxruntime, "disable_telemetry_events", lambda: said.append(True))
    embed = Embedder(network(["N", 1, 128, 128], [128, 64]), (1, 128, 128))
    assert said and embed.session.get_providers() == ["CPUExecutionProvider"]
    assert embed(np.full((1, 128, 128), 255.0)).tolist() == [1, 1]


@pytest.mark.parametrize("shape", [[1, 3, 112, 112], [1, 1, 112, 112], [2, 1, 128, 128], [1, 128, 128]])
def test_another_network_is_refused(network, shape):
    window = [8] * (len(shape) - 2)
    with pytest.raises(ModelError, match=r"expected one image \[1, 1, 128, 128\] and one embedding, found"):
        METRICS["ids"].open(network(shape, window))


def test_what_is_no_embedding_network(network, tmp_path):
    with pytest.raises(ModelError, match="2 outputs: name an ArcFace"):
        METRICS["ids"].open(network(GRAY, [8, 8], outputs=2))
    (tmp_path / "text.onnx").write_text("text")
    with pytest.raises(ModelError, match=r"text\.onnx: expected an ONNX network, found"):
        METRICS["ids"].open(tmp_path / "text.onnx")


# where the face is


def test_the_largest_face_is_taken(astronaut):
    left, top, right, bottom = faces.largest_face(astronaut)
    assert 170 < left < top + 110 < 200 and 160 < bottom < 190 and 250 < right < 280
    small = np.array(Image.fromarray(astronaut).resize((480, 480)))
    both = np.concatenate([np.pad(small, ((0, 32), (0, 0), (0, 0))), astronaut], 1)
    assert abs(faces.largest_face(both)[0] - 480 - left) < 8


def test_small_faces_are_found_in_twice_the_size(astronaut):
    half = np.array(Image.fromarray(astronaut).resize((256, 256)))
    box, large = faces.largest_face(half), faces.largest_face(astronaut)
    assert max(abs(2 * a - b) for a, b in zip(box, large, strict=True)) < 24


def test_an_image_without_a_face_has_no_value(predictor, network):
    noise = torch.rand(1, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    arcface = METRICS["identity_arcface"].open(network([1, 3, 112, 112], [8, 8]), predictor[0])
    for score in (METRICS["lmd_5"].open(predictor[0]), arcface):
        with pytest.raises(ImageError, match="no face was found in the truth"):
            score(noise, noise)


# landmarks


def test_landmark_distance_is_the_mean_of_lengths(predictor, monkeypatch):
    monkeypatch.setattr(faces, "largest_face", lambda codes: (0, 0, 9, 9))
    moved = np.array([[0, 0], [3, 4], [0, -5], [6, 8], [5, 0]], float)
    monkeypatch.setattr(faces.Landmarks, "points", lambda self, codes, box: moved * (codes[0, 0, 0] / 255))
    score = METRICS["lmd_5"].open(predictor[0])
    white, black = torch.ones(2, 3, 16, 16), torch.zeros(2, 3, 16, 16)
    assert score(white, black).tolist() == [5, 5] == score(black, white).tolist()
    assert score(torch.stack([black[0], white[0]]), black).tolist() == [0, 5]


def test_landmarks_follow_the_face(astronaut, predictor):
    score, truth = METRICS["lmd_5"].open(predictor[0]), tensor(astronaut)
    values = [score(tensor(np.roll(astronaut, shift, 1)), truth).item() for shift in (0, 4, 9)]
    assert values[0] == 0 and 1 < values[1] < values[2] == pytest.approx(9, abs=2)
    assert score(torch.zeros_like(truth), truth) > 0  # read where the truth's face is: no detector decides
    found = faces.Landmarks(predictor[0], 5).points(astronaut, faces.largest_face(astronaut))
    assert np.abs(found - POINTS).max() <= 2


def test_another_landmark_model_is_refused(predictor, tmp_path):
    with pytest.raises(ModelError, match="expected 5 landmarks, found 3: name dlib's 5-point model"):
        METRICS["lmd_5"].open(predictor[1])
    with pytest.raises(ModelError, match="expected 68 landmarks, found 5"):
        METRICS["lmd_68"].open(predictor[0])
    (tmp_path / "text.dat").write_text("text")
    with pytest.raises(ModelError, match="expected dlib's shape_predictor"):
        METRICS["lmd_5"].open(tmp_path / "text.dat")
    with pytest.raises(ModelError, match="expected dlib's face_recognition_model_v1"):
        METRICS["identity_dlib"].open(tmp_path / "text.dat", predictor[0])


# identities of aligned faces


def test_alignment_brings_the_eyes_to_the_template():
    y, x = np.mgrid[:200, :240].astype(np.uint8)
    codes = np.stack([x, y, np.full_like(x, 255)], -1)
    left, right = np.array([90.0, 80.0]), np.array([150.0, 104.0])  # turned, and larger than the template
    found = aligned(codes, left, right)
    (ax, ay), (bx, by) = EYES
    per_pixel = math.dist(left, right) / math.dist(*EYES)
    for eye, (u, v) in ((left, (ax, ay)), (right, (bx, by))):
        assert np.abs(found[:2, round(v), round(u)] - eye).max() < per_pixel
    turn = (found[:2, round(by), round(bx)] - found[:2, round(ay), round(ax)]) / (right - left)
    assert np.abs(turn - (round(bx) - round(ax)) / (bx - ax)).max() < 0.03
    same = aligned(codes, np.array([100 + ax, 50 + ay]), np.array([100 + bx, 50 + by]))  # only moved
    assert np.abs(same - codes[50:162, 100:212].transpose(2, 0, 1)).max() < 1e-6
    outside = aligned(codes, np.array([-400.0, 10]), np.array([-300.0, 10]))
    assert (outside == 0).all()


def test_arcface_of_aligned_faces(astronaut, predictor, network):
    score = METRICS["identity_arcface"].open(network([1, 3, 112, 112], [8, 8]), predictor[0])
    truth = tensor(astronaut)
    values = [score(blurred(astronaut, sigma), truth).item() for sigma in (1, 2, 4, 8)]
    assert score(truth, truth) == 0 and 0 < values[0] < values[1] < values[2] < values[3] < 90
    # the 112 pixels are rows 37 to 180 here, a little tilted; upside down they would end at 170
    for rows, counts in ((slice(0, 30), False), (slice(173, 177), True), (slice(186, None), False)):
        other = truth.clone()
        other[..., rows, :] = 0
        assert (score(other, truth).item() > 0) == counts, rows


def test_dlib_identity_is_the_distance_of_its_descriptors(astronaut, predictor, monkeypatch):
    class Network:
        def compute_face_descriptor(self, chip):
            assert chip.shape == (150, 150, 3) and chip.dtype == np.uint8
            return [*chip[75, 10:138, 1].astype(float)]

    monkeypatch.setattr(dlib, "face_recognition_model_v1", lambda path: Network())
    score, truth = METRICS["identity_dlib"].open("network.dat", predictor[0]), tensor(astronaut)
    darker = np.maximum(astronaut, 3) - 3
    assert score(truth, truth) == 0
    # a green that is 3 lower at 128 places, but where it was dark already
    assert score(tensor(darker), truth).item() == pytest.approx(3 * 128**0.5, rel=0.1)
    assert METRICS["identity_dlib"].label == "identity (dlib)"


# in a run


@pytest.mark.parametrize(
    ("name", "package"), [("ids", "onnxruntime"), ("identity_arcface", "onnxruntime"), ("lmd_5", "dlib")]
)
def test_without_its_package_a_metric_is_absent(name, package, predictor, network, monkeypatch):
    files = {"arcface_gray": network(GRAY, [8, 8]), "arcface": network(GRAY, [8, 8])}
    files["landmarks_5"] = predictor[0]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(AbsentMetric, match=rf"expected the package {package}.*'unistep\[faces\]'"):
        METRICS[name].open_from(files)
    (one,) = measures([name], files)
    assert one.score is None and package in one.why


def test_one_image_without_a_face_and_there_is_no_mean(astronaut, predictor, tmp_path):
    crop = Image.fromarray(astronaut).crop((120, 0, 376, 256))
    cat = Image.fromarray(data.chelsea()).crop((0, 0, 256, 256))
    for name, picture in (("a", crop), ("b", cat)):
        for folder, one in (("gt", picture), ("lq", picture.resize((64, 64))), ("sr", picture)):
            (tmp_path / folder).mkdir(exist_ok=True)
            one.save(tmp_path / folder / f"{name}.png")
    code = main(["eval", "--results", f"equal={tmp_path / 'sr'}", "--metric", "lmd_5", "--metric", "ids",
                 "--file", f"landmarks_5={predictor[0]}", "--pairs", f"faces={tmp_path / 'lq'}",
                 str(tmp_path / "gt"), "--out", str(tmp_path / "out"), "-d", "cpu"])  # fmt: skip
    assert code == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    why = {score["metric"]: (score["mean"], score["why"]) for score in found["scores"]}
    assert why["lmd_5"][0] is None and "1 of 2 images have no value: no face was found" in why["lmd_5"][1]
    assert why["ids"][0] is None and "give arcface_gray=FILE (TencentARC/VQFR" in why["ids"][1]
    assert found["metrics"]["lmd_5"]["label"] == "LMD-5*"  # not dlib's own file
    assert ",0.000000" in (tmp_path / "out" / "images.csv").read_text()
