"""The fidelity dial: 0 is the student, 1 the plain model, between them the network of the mixed weights."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tinies import load_denoiser

from unistep import Upscaler
from unistep.bases.compact.network import CompactConfig, CompactDenoiser
from unistep.bases.compact.student import fold_slot, folded
from unistep.command.cli import main
from unistep.errors import ConfigError, ModelError
from unistep.models import checkpoint
from unistep.models.checkpoint import load_student
from unistep.recipes.config import Run
from unistep.tensors import read_header, read_tensors, save_weights, sha256

SMALL = CompactConfig((4, 8, 12), (1, 1, 2))


def write(path: Path, seed: int, base: CompactConfig = SMALL, **header: object) -> Path:
    """A file of random weights, FiLM and output as lively as the rest."""
    torch.manual_seed(seed)
    denoiser = CompactDenoiser(base)
    state = {name: t + 0.1 * torch.randn_like(t) for name, t in denoiser.state_dict().items()}
    save_weights(path, state, {"run": Run("toy", base=base).to_dict(), **header}, torch.float16)
    return path


def plain(path: Path) -> dict[str, str]:
    return {"name": path.stem, "sha256": sha256(path)}


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A student and the plain model inside a package, in folders of their own."""
    package, user = tmp_path / "package", tmp_path / "user"
    package.mkdir(), user.mkdir()
    monkeypatch.setattr(checkpoint, "embedded", lambda: {p.stem: p for p in package.glob("*.safetensors")})
    teacher = write(package / "compact-teacher.safetensors", 1)
    student = write(user / "student.safetensors", 2, plain=plain(teacher))
    return SimpleNamespace(teacher=teacher, student=student)


def with_header(pair: SimpleNamespace, **more: object) -> Path:
    header = read_header(pair.student) | more
    save_weights(pair.student, read_tensors(pair.student), header, torch.float16)
    return pair.student


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_ends_are_the_two_models(pair, x):
    student, teacher = load_student(pair.student)(x), load_student(pair.teacher)(x)
    assert not torch.allclose(student, teacher, atol=0.01)
    assert torch.equal(load_student(pair.student, 0)(x), student)
    assert torch.equal(load_student(pair.student, 1)(x), teacher)


@pytest.mark.parametrize("f", [0.25, 0.7])
def test_between_them_the_weights_are_mixed_before_they_are_folded(pair, x, f):
    theta, theta_plain = (load_denoiser(file)[0].state_dict() for file in (pair.student, pair.teacher))
    mixed = CompactDenoiser(SMALL)
    mixed.load_state_dict({name: (1 - f) * theta[name] + f * theta_plain[name] for name in theta})
    found = load_student(pair.student, f)
    assert torch.allclose(found(x), fold_slot(mixed)(x), atol=1e-5)
    assert found.info == read_header(pair.student)
    assert all(t.dtype == torch.float32 and not t.requires_grad for t in found.parameters())
    blend = (1 - f) * load_student(pair.student)(x) + f * load_student(pair.teacher)(x)
    assert not torch.allclose(found(x), blend, atol=1e-3)  # two calls would give something else


@pytest.mark.parametrize("f", [0.0, 0.4, 1.0])
def test_a_folded_student_is_mixed_with_its_plain_model_folded(pair, x, f):
    torch.manual_seed(3)
    net = CompactDenoiser(dataclasses.replace(SMALL, folded=True))
    header = {"run": Run("toy", base=net.config).to_dict(), "plain": plain(pair.teacher)}
    save_weights(pair.student, net.state_dict(), header, torch.float32)
    theta, theta_plain = net.state_dict(), folded(load_denoiser(pair.teacher)[0]).state_dict()
    net.load_state_dict({name: (1 - f) * theta[name] + f * theta_plain[name] for name in theta})
    assert torch.allclose(load_student(pair.student, f)(x), fold_slot(net)(x), atol=1e-5)
    if f == 1:
        torch.testing.assert_close(load_student(pair.student, f)(x), load_student(pair.teacher)(x))


@pytest.mark.parametrize("f", [None, 0, 0.5, 1])
def test_one_call_for_each_tile(pair, f):
    upscaler = Upscaler.from_pretrained(pair.student, device="cpu", fidelity=f)
    calls = []
    upscaler.model.net.register_forward_hook(lambda *_: calls.append(1))
    upscaler(np.zeros((8, 8, 3), np.float32))
    assert len(calls) == 1


def test_the_plain_model_may_lie_beside_the_student(pair, x):
    expected = load_student(pair.student, 0.5)(x)
    beside = pair.student.parent / pair.teacher.name
    write(pair.teacher, 3)  # the package's is another one now
    with pytest.raises(ModelError):
        load_student(pair.student, 0.5)
    write(beside, 1)
    assert torch.equal(load_student(pair.student, 0.5)(x), expected)
    pair.teacher.unlink()
    assert torch.equal(load_student(pair.student, 0.5)(x), expected)


def test_beside_the_student_it_may_have_any_name(pair, x):
    """A name in the header is no path, however long."""
    expected = load_student(pair.student, 0.5)(x)
    write(pair.student.with_name("another.safetensors"), 3)
    (pair.student.with_name("folder.safetensors")).mkdir()
    pair.teacher.rename(pair.student.with_name("renamed.safetensors"))
    assert torch.equal(load_student(pair.student, 0.5)(x), expected)
    sha = read_header(pair.student)["plain"]["sha256"]
    with_header(pair, plain={"name": "n" * 400, "sha256": sha})
    assert torch.equal(load_student(pair.student, 0.5)(x), expected)
    with_header(pair, plain={"name": "n" * 400, "sha256": "0"})
    with pytest.raises(ModelError, match="found none"):
        load_student(pair.student, 0.5)


def test_a_missing_or_another_plain_model_is_refused(pair, x):
    student, wanted = load_student(pair.student, 0)(x), sha256(pair.teacher)
    write(pair.teacher, 3)
    for found in (sha256(pair.teacher), "none"):
        with pytest.raises(ModelError, match="put it next to the file, or take fidelity 0") as caught:
            load_student(pair.student, 0.5)
        message = f"expected the plain model compact-teacher with sha256 {wanted}, found {found};"
        assert message in str(caught.value) and str(pair.student) in str(caught.value)
        assert torch.equal(load_student(pair.student)(x), student)  # which needs no plain model
        assert torch.equal(load_student(pair.student, 0)(x), student)
        pair.teacher.unlink(missing_ok=True)


@pytest.mark.parametrize("entry", ["text", None, [], {"name": "compact-teacher"}, {"sha256": "0"}])
def test_a_damaged_entry_is_refused(pair, entry):
    with pytest.raises(ModelError, match="damaged “plain”"):
        load_student(with_header(pair, plain=entry), 0.5)


def test_a_header_leads_to_no_other_folder(pair):
    outside = write(pair.student.parents[1] / "outside.safetensors", 1)
    with pytest.raises(ModelError, match="found none"):
        load_student(with_header(pair, plain={"name": "../outside", "sha256": sha256(outside)}), 0.5)


def test_a_plain_model_of_another_shape_is_refused(pair):
    write(pair.teacher, 1, CompactConfig((4, 8, 8), (1, 1, 2)))
    with pytest.raises(ModelError, match="to have the same shape"):
        load_student(with_header(pair, plain=plain(pair.teacher)), 0.5)


def test_the_header_names_the_default(pair, x):
    half, student = load_student(pair.student, 0.5)(x), load_student(pair.student, 0)(x)
    with_header(pair, fidelity=0.5)
    assert torch.equal(load_student(pair.student)(x), half)
    assert torch.equal(load_student(pair.student, 0)(x), student)
    for damaged in (1.5, -1, float("nan"), "much", None, True):
        with_header(pair, fidelity=damaged)
        with pytest.raises(ModelError, match="expected the header's fidelity to be from 0 to 1, found"):
            load_student(pair.student)
        assert torch.equal(load_student(pair.student, 0.5)(x), half)


def test_a_model_without_a_plain_one_is_its_own(pair, x):
    expected = load_student(pair.teacher)(x)
    for f in (0, 0.3, 1):
        assert torch.equal(load_student(pair.teacher, f)(x), expected)


@pytest.mark.parametrize("f", [-0.1, 1.01, float("nan"), float("inf")])
def test_values_outside_0_to_1_are_refused(pair, f):
    for model in (pair.student, pair.teacher):
        with pytest.raises(ConfigError, match=f"expected fidelity to be from 0 to 1, found {f}"):
            Upscaler.from_pretrained(model, device="cpu", fidelity=f)


# The command


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photos" / "a.png"
    path.parent.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)).save(path)
    return path


def upscale(pair: SimpleNamespace, photo: Path, out: Path, *options: str) -> np.ndarray:
    assert main(["upscale", str(photo), "-o", str(out), "-m", str(pair.student), "-d", "cpu", *options]) == 0
    return np.asarray(Image.open(out / "a.png" if out.is_dir() else out))


def test_the_command_gives_what_the_upscaler_gives(pair, photo, tmp_path):
    found = {}
    for f in (0, 0.5, 1):
        found[f] = upscale(pair, photo, tmp_path / f"{f}.png", "--fidelity", str(f))
        upscaler = Upscaler.from_pretrained(pair.student, device="cpu", fidelity=f)
        assert np.array_equal(found[f], np.asarray(upscaler(Image.open(photo))))
    assert np.array_equal(found[0], upscale(pair, photo, tmp_path / "none.png"))
    assert not np.array_equal(found[0], found[0.5]) and not np.array_equal(found[0.5], found[1])


@pytest.mark.parametrize("value", ["-0.1", "1.5", "nan", "inf", "much"])
def test_bad_values_are_wrong_usage(pair, photo, capsys, value):
    for more in ([], ["--dry-run"]):
        assert main(["upscale", str(photo), "-m", str(pair.student), f"--fidelity={value}", *more]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1) and "fidelity" in err.lower() and value in err
    assert [p.name for p in photo.parent.iterdir()] == ["a.png"]


def test_the_command_says_that_the_plain_model_is_missing(pair, photo, capsys):
    pair.teacher.unlink()
    assert main(["upscale", str(photo), "-m", str(pair.student), "--fidelity", "0.5"]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"unistep: {pair.student}: expected the plain model") and err.count("\n") == 1


@pytest.mark.parametrize("option", [("--fidelity", "1"), ("--colour", "adain")])
def test_a_finished_folder_is_finished_whatever_it_was_made_with(pair, photo, tmp_path, option):
    """As with every setting that is not in a result's name: --existing and --suffix tell runs apart."""
    out = tmp_path / "out"
    first = upscale(pair, photo.parent, out)
    assert np.array_equal(upscale(pair, photo.parent, out, *option), first)
    assert not np.array_equal(upscale(pair, photo.parent, out, *option, "--existing", "overwrite"), first)


def test_info_shows_it(pair, capsys):
    def line(path: Path) -> str:
        assert main(["info", str(path)]) == 0
        lines = [row for row in capsys.readouterr().out.splitlines() if row.startswith("fidelity:")]
        assert len(lines) == 1
        return lines[0].split(maxsplit=1)[1]

    assert line(pair.student) == f"0 to 1, default 0; 1 is {pair.teacher}"
    assert line(with_header(pair, fidelity=0.25)) == f"0 to 1, default 0.25; 1 is {pair.teacher}"
    assert line(pair.teacher) == "no effect: the model names no plain one"
    pair.teacher.unlink()
    assert line(pair.student).startswith("expected the plain model compact-teacher with sha256 ")
