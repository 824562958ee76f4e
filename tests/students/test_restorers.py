"""Others' restorers: equal to their equations written out, and files that are no such thing say so."""

import math
import re
import zipfile

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from unistep.counting.peak import peak_bytes, without_data
from unistep.errors import ConfigError, ModelError
from unistep.models.checkpoint import load_student
from unistep.models.convert import convert
from unistep.pixels import tiling
from unistep.students.onestep import Options
from unistep.students.restorers import SLACK, RRDBNet, SRVGGNetCompact
from unistep.upscaling.upscaler import Upscaler

SRVGG = [(8, 3, 4), (6, 1, 2), (4, 2, 1)]
RRDB = [(8, 2, 4, 4), (8, 1, 4, 2), (4, 1, 2, 1)]


def drawn(net, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: 0.3 * torch.randn(t.shape, generator=generator) / math.sqrt(max(1, t[0].numel()))
        for name, t in net.state_dict().items()
    }


@pytest.fixture
def written(tmp_path):
    def write(tensors, name="restorer.safetensors"):
        save_file({key: t.contiguous() for key, t in tensors.items()}, tmp_path / name)
        return tmp_path / name

    return write


def conv(x, w, name):
    return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=1)


def srvgg(x, w, convs, scale):
    """Its equations, by the names of the published files."""
    out = x
    for i in range(convs + 1):
        out = F.prelu(conv(out, w, f"body.{2 * i}"), w[f"body.{2 * i + 1}.weight"])
    enlarged = x.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    return F.pixel_shuffle(conv(out, w, f"body.{2 * convs + 2}"), scale) + enlarged


def rrdb(x, w, blocks, scale):
    x = first = conv(F.pixel_unshuffle(x, 4 // scale), w, "conv_first")
    for i in range(blocks):
        block = x
        for part in ("rdb1", "rdb2", "rdb3"):
            seen = x
            for k in range(1, 5):
                new = F.leaky_relu(conv(seen, w, f"body.{i}.{part}.conv{k}"), 0.2)
                seen = torch.cat([seen, new], 1)
            x = x + 0.2 * conv(seen, w, f"body.{i}.{part}.conv5")
        x = block + 0.2 * x
    x = first + conv(x, w, "conv_body")
    for up in ("conv_up1", "conv_up2"):
        x = F.leaky_relu(conv(x.repeat_interleave(2, 2).repeat_interleave(2, 3), w, up), 0.2)
    return conv(F.leaky_relu(conv(x, w, "conv_hr"), 0.2), w, "conv_last")


@pytest.mark.parametrize("shape", SRVGG)
def test_srvgg_is_its_equations(written, shape):
    """Width, depth and scale are read off the tensors; pictures go from [-1, 1] to [-1, 1]."""
    tensors, x = drawn(SRVGGNetCompact(*shape)), torch.rand(2, 3, 9, 7)
    student = load_student(written(tensors))
    assert student.scale == shape[2] and not any(p.requires_grad for p in student.parameters())
    wanted = srvgg(x, tensors, shape[1], shape[2])
    torch.testing.assert_close(student(2 * x - 1), 2 * wanted - 1, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("shape", RRDB)
def test_rrdb_is_its_equations(written, shape):
    tensors, x = drawn(RRDBNet(*shape)), torch.rand(2, 3, 8, 12)
    student = load_student(written(tensors))
    assert student.scale == shape[3]
    wanted = rrdb(x, tensors, shape[1], shape[3])
    torch.testing.assert_close(student(2 * x - 1), 2 * wanted - 1, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("shape", RRDB)
def test_rrdb_takes_any_size(written, shape):
    student = load_student(written(drawn(RRDBNet(*shape))))
    assert student(torch.zeros(1, 3, 5, 3)).shape == (1, 3, 5 * shape[3], 3 * shape[3])


def earlier_names(tensors):
    """RRDBNet's tensors under the names of ESRGAN's and BSRGAN's files."""
    earlier = {}
    for name, t in tensors.items():
        name = re.sub(r"^body\.(\d+)\.rdb", r"RRDB_trunk.\1.RDB", name)
        for new, old in (("conv_body", "trunk_conv"), ("conv_up", "upconv"), ("conv_hr", "HRconv")):
            name = name.replace(new, old)
        earlier[name] = t
    return earlier


def test_earlier_names_of_rrdb(written):
    tensors, x = drawn(RRDBNet(8, 2, 4, 4)), torch.rand(1, 3, 6, 6)
    earlier = earlier_names(tensors)
    assert "RRDB_trunk.1.RDB3.conv5.bias" in earlier and "upconv2.weight" in earlier
    one, other = load_student(written(tensors)), load_student(written(earlier, "earlier.safetensors"))
    assert torch.equal(one(x), other(x))


def first_release(tensors):
    """RRDBNet's tensors of scale 4 under the names of ESRGAN's first files, which many models still have."""
    blocks = len({name.split(".")[1] for name in tensors if name.startswith("body.")})
    numbers = {"conv_first": "0", "conv_body": f"1.sub.{blocks}", "conv_up1": "3", "conv_up2": "6",
               "conv_hr": "8", "conv_last": "10"}  # fmt: skip

    def first(name):
        name = re.sub(r"^body\.(\d+)\.rdb(\d)\.conv(\d)\.", r"model.1.sub.\1.RDB\2.conv\3.0.", name)
        part, kind = name.rsplit(".", 1)
        return f"model.{numbers[part]}.{kind}" if part in numbers else name

    return {first(name): t for name, t in tensors.items()}


def test_the_first_names_of_rrdb(written):
    tensors, x = drawn(RRDBNet(8, 2, 4, 4)), torch.rand(1, 3, 6, 6)
    earlier = first_release(tensors)
    assert {"model.1.sub.1.RDB3.conv5.0.bias", "model.1.sub.2.weight", "model.10.bias"} <= earlier.keys()
    one, other = load_student(written(tensors)), load_student(written(earlier, "earlier.safetensors"))
    assert torch.equal(one(x), other(x))
    smaller = {name: t for name, t in earlier.items() if not name.startswith(("model.8", "model.10"))}
    with pytest.raises(ModelError, match=r"with other tensors .*: name another$"):
        load_student(written(smaller, "x2.safetensors"))


MEMORY = [(SRVGGNetCompact, shape) for shape in [*SRVGG, (64, 4, 4), (16, 3, 8)]]
MEMORY += [(RRDBNet, shape) for shape in [*RRDB, (64, 2, 32, 4), (16, 2, 96, 4), (32, 1, 192, 2)]]


@pytest.mark.parametrize(("kind", "shape"), MEMORY)
def test_the_memory_of_a_call_is_what_is_counted(written, kind, shape):
    """Within 4 %, the allowance aside."""
    student = load_student(written(drawn(kind(*shape))))
    counted = peak_bytes(without_data(student), (1, 3, 64, 64), dtype=torch.float32) / 64**2
    assert student.bytes_per_pixel / SLACK == pytest.approx(counted, rel=0.04)


def test_a_large_restorer_gets_smaller_tiles(written, monkeypatch):
    """So that a window takes at most half of what is free, as with the package's own models."""
    student = load_student(written(drawn(RRDBNet(32, 1, 32, 4))))
    free = 256 << 20
    monkeypatch.setattr(tiling, "free_memory", lambda device: free)
    windows = []

    def call(x):
        windows.append(x.shape[2] * x.shape[3])
        return torch.zeros(1, 3, 4 * x.shape[2], 4 * x.shape[3])

    call.overlap = student.overlap
    picture = torch.zeros(800, 800, 3).numpy()
    for named in (0, student.bytes_per_pixel):
        call.bytes_per_pixel = named
        windows.clear()
        list(tiling.bands(call, picture))
        fits = max(windows) * student.bytes_per_pixel <= free // 2
        assert fits == bool(named)


def test_a_restorer_upscales_in_tiles(written):
    """Its overlap is as far as it looks: tiles are exact."""
    upscaler = Upscaler(load_student(written(drawn(SRVGGNetCompact(8, 3, 4)))), "cpu")
    picture = torch.rand(70, 50, 3, generator=torch.Generator().manual_seed(1)).numpy()
    whole, tiled = (upscaler(picture, tile=tile) for tile in (128, 32))
    assert whole.shape == (280, 200, 3) and abs(whole - tiled).max() < 1e-5
    wanted = {"restorer": "SRVGGNetCompact", "scale": 4, "width": "8 channels", "depth": "5 convolutions"}
    assert upscaler.info == wanted


AUTHORS = {
    "SRVGGNetCompact": (drawn(SRVGGNetCompact(8, 3, 4)), "params"),
    "RRDBNet": (drawn(RRDBNet(8, 2, 4, 4)), "params_ema"),
    "RRDBNet, earlier names": (earlier_names(drawn(RRDBNet(8, 2, 4, 4))), None),
    "RRDBNet, first names": (first_release(drawn(RRDBNet(8, 2, 4, 4))), None),
}


@pytest.mark.parametrize("case", AUTHORS)
def test_the_authors_pickles_are_converted(tmp_path, written, case):
    """And are the same network as the tensors; averaged weights come before the last ones."""
    tensors, key = AUTHORS[case]
    torch.save(tensors if key is None else {key: tensors}, tmp_path / "a.pth")
    if key == "params_ema":
        last = {name: torch.zeros_like(t) for name, t in tensors.items()}
        torch.save({"params": last, key: tensors}, tmp_path / "a.pth")
    with pytest.raises(ModelError, match="pickled weights: unistep models convert makes"):
        load_student(tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "a.safetensors")
    x = torch.rand(1, 3, 5, 5)
    found, wanted = load_student(tmp_path / "a.safetensors"), load_student(written(tensors))
    assert found.info["restorer"] == case.split(",")[0] and torch.equal(found(x), wanted(x))


def grey(net):
    net.body[0] = torch.nn.Conv2d(1, 8, 3)
    return net


def without(net, name):
    return {key: t for key, t in drawn(net).items() if key != name}


WRONG = {
    "another architecture": (
        {"features.0.weight": torch.zeros(4, 3, 3, 3)}, "RRDBNet of others, .*without its header",
    ),
    "colours": (drawn(grey(SRVGGNetCompact(8, 3, 4))), "expected a restorer of 3 colours, found one of 1"),
    "a scale that is none": (
        drawn(SRVGGNetCompact(8, 3, 4)) | {"body.8.weight": torch.zeros(45, 8, 3, 3)},
        "scale 1 to 8, which gives 3 scale\\^2 channels, found one that gives 45",
    ),
    "channels that are no scale": (
        drawn(RRDBNet(8, 1, 4, 4)) | {"conv_first.weight": torch.zeros(8, 27, 3, 3)},
        "found one that sees 27",
    ),
    "missing": (
        without(SRVGGNetCompact(8, 3, 4), "body.3.weight"),
        "SRVGGNetCompact, found 1 missing: body.3.weight",
    ),
    "surplus": (drawn(RRDBNet(8, 1, 4, 4)) | {"more": torch.zeros(1)}, "RRDBNet, found 1 surplus: more"),
    "a forged number of blocks": (
        drawn(RRDBNet(8, 1, 4, 4)) | {"body.999999999.rdb1.conv1.bias": torch.zeros(4)}, "missing: body.1",
    ),
    "not a convolution": (
        drawn(RRDBNet(8, 1, 4, 4)) | {"conv_first.weight": torch.zeros(3)},
        "convolution conv_first, found \\[3\\]",
    ),
    "values": (
        drawn(SRVGGNetCompact(8, 3, 4)) | {"body.1.weight": torch.full((8,), math.nan)}, "found NaN or",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_files_that_do_not_fit(written, case):
    tensors, message = WRONG[case]
    path = written(tensors)
    with pytest.raises(ModelError, match=message) as caught:
        load_student(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_what_a_restorer_cannot_do(written):
    path = written(drawn(SRVGGNetCompact(4, 1, 4)))
    with pytest.raises(ConfigError, match="found none of Unistep's: leave them out"):
        load_student(path, options=Options(weights="int8"))


def test_an_archive_that_holds_no_weights(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ModelError, match="a zip archive of other files"):
        load_student(tmp_path / "a.pth")
