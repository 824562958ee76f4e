"""What the table says of each metric, and how its files are found: given, cached, absent, another."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from unistep.errors import ModelError
from unistep.evaluation.files import AbsentMetric, WeightsFile, find
from unistep.evaluation.metrics import METRICS, Metric, Opened
from unistep.tensors import sha256

KNOWN = WeightsFile("net", "the weights of Net", "MIT", "example.org", "net-01234567")
LOOSE = WeightsFile("heads", "the heads of Net", "MIT", "example.org")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    for name in ("checkpoints", "pyiqa"):
        (tmp_path / "hub" / name).mkdir(parents=True)
    return tmp_path / "hub"


def write(path, metadata=None):
    save_file({"x": torch.zeros(2)}, path, metadata)
    return path


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_says_what_its_number_is(name):
    metric = METRICS[name]
    low, high = metric.range
    assert low < high and metric.protocol.endswith(".") and metric.source
    assert metric.lower_is_better == (metric.higher_is_better is False)
    assert metric.heading == f"{metric.label} " + {True: "↑", False: "↓", None: "→1"}[metric.higher_is_better]
    assert metric.self_contained == (not metric.files and not metric.package)
    for file in metric.files:
        assert file.licence and file.origin and file.what


def test_one_key_is_one_file():
    files = [file for metric in METRICS.values() for file in metric.files]
    assert len({file.key for file in files}) == len(set(files))


@pytest.mark.parametrize("folder", ["checkpoints", "pyiqa"])
def test_a_file_of_the_cache(cache, folder):
    path = write(cache / folder / "net-01234567.safetensors")
    found = find(KNOWN, {})
    assert (found.path, found.sha256, found.key) == (path, sha256(path), "net")


def test_a_given_file_comes_first(cache, tmp_path):
    write(cache / "checkpoints" / "net-01234567.safetensors")
    given = write(tmp_path / "mine.safetensors")
    assert find(KNOWN, {"net": given, "other": "none"}).path == given
    with pytest.raises(
        ModelError, match="expected the weights of Net, found no file: name another as net=FILE"
    ) as e:
        find(KNOWN, {"net": tmp_path / "none.safetensors"})
    assert not isinstance(e.value, AbsentMetric)


def test_an_absent_file_says_how_to_get_it(cache):
    with pytest.raises(AbsentMetric, match=r"give net=FILE, or put net-01234567\.safetensors into"):
        find(KNOWN, {"heads": "x"})
    with pytest.raises(AbsentMetric, match=r"found no file: give heads=FILE \(example\.org\)"):
        find(LOOSE, {})
    (cache / "checkpoints" / "net-01234567.pth").write_bytes(b"")
    with pytest.raises(AbsentMetric, match=r"convert \S+net-01234567\.pth \S+net-01234567\.safetensors`"):
        find(KNOWN, {})


def test_what_is_proven(cache, tmp_path):
    path = write(tmp_path / "converted.safetensors", {"sha256": "01234567" + "0" * 56})
    assert find(KNOWN, {"net": path}).proven is True
    path = write(tmp_path / "other.safetensors", {"sha256": "8" * 64})
    assert find(KNOWN, {"net": path}).proven is False
    assert find(LOOSE, {"heads": path}).proven is None
    own = WeightsFile("net", "the weights", "MIT", "example.org", digits=sha256(path))
    assert find(own, {"net": path}).proven is True
    damaged = tmp_path / "bad.safetensors"
    damaged.write_text("text")
    with pytest.raises(ModelError, match="bad"):
        find(KNOWN, {"net": damaged})


def test_an_opened_metric_tells_its_files_and_has_a_star_for_others(cache, tmp_path):
    def opened(path) -> Opened:
        metric = Metric(
            "Net*", lambda *paths: paths, False, True, (0, math.inf), "So.", "us", files=(KNOWN, LOOSE)
        )
        return metric.open_from({"net": path, "heads": path})

    other = write(tmp_path / "other.safetensors")
    result = opened(other)
    assert result.score == (other, other) and [f.sha256 for f in result.files] == [sha256(other)] * 2
    assert (result.label, result.heading) == ("Net*", "Net* ↓")
    assert opened(write(tmp_path / "own.safetensors", {"sha256": KNOWN.proofs[0]})).heading == "Net ↓"


def test_a_metric_without_files_opens_from_anything():
    opened = METRICS["psnr_y"].open_from({"niqe": "nowhere"})
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert opened.files == () and opened.label == "PSNR-Y"
    assert opened.score(x, x).item() == pytest.approx(80)


@pytest.mark.parametrize("name", [n for n, m in METRICS.items() if m.files])
def test_a_metric_without_its_files_is_absent(cache, name):
    with pytest.raises(AbsentMetric, match=METRICS[name].files[0].what.split("(")[0]):
        METRICS[name].open_from()


def test_the_documentation_has_a_row_for_each_metric_and_each_file():
    text = (Path(__file__).parents[2] / "docs" / "evaluate.md").read_text(encoding="utf-8")
    metrics, files = (
        {line.split("`")[1]: line for line in part.splitlines() if line.startswith("| `")}
        for part in text.split("## The files")
    )
    known = {file.key: file for metric in METRICS.values() for file in metric.files}
    assert metrics.keys() == METRICS.keys() and files.keys() == known.keys()
    for name, metric in METRICS.items():
        for said in (metric.heading.replace("*", r"\*"), metric.protocol, metric.source):
            assert said in metrics[name]
        assert [f"`{file.key}`" in metrics[name] for file in metric.files] == [True] * len(metric.files)
    for key, file in known.items():
        assert file.licence in files[key] and file.origin in files[key] and file.known in files[key]
