"""Metrics through pyiqa, which is not installed: a stand-in of its interface, and its absence."""

import logging
import random
import sys
import types

import numpy as np
import pytest
import torch

from unistep.errors import ImageError
from unistep.evaluation import learned
from unistep.evaluation.files import AbsentMetric
from unistep.evaluation.metrics import METRICS

NAMES = ["clipiqa", "musiq", "maniqa-pipal"]


@pytest.fixture
def pyiqa(monkeypatch):
    """As much of pyiqa as is used: its metrics give the mean of the image, [1, 1] or a scalar."""
    module = types.ModuleType("pyiqa")
    module.__version__, module.opened = "0.1.13", []

    def create_metric(name, device):
        module.opened.append((name, device.type))
        calls = iter(range(10**6))

        def metric(x):
            assert x.shape[0] == 1 and x.dtype == torch.float32 and not torch.is_grad_enabled()
            assert x.min() >= 0 and x.max() <= 1
            return x.mean().reshape((1, 1) if next(calls) % 2 else ())

        return metric

    module.create_metric = create_metric
    monkeypatch.setitem(sys.modules, "pyiqa", module)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    learned._say_licence.cache_clear()
    return module


@pytest.mark.parametrize("name", NAMES)
def test_the_papers_variant_is_opened_and_scores_each_image(pyiqa, name):
    metric = METRICS[name]
    score = metric.open_from().score
    x = torch.rand(3, 3, 9, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1.5 - 0.2
    torch.testing.assert_close(score(x), x.clamp(0, 1).float().mean((1, 2, 3)))
    assert pyiqa.opened == [(name, "cpu")] and not metric.needs_reference and metric.higher_is_better
    with pytest.raises(ImageError, match="float tensors"):
        score(x[0])


def test_the_licence_is_said_once(pyiqa, caplog):
    with caplog.at_level(logging.WARNING):
        for name in NAMES:
            METRICS[name].open()
    assert caplog.text.count("PolyForm Noncommercial") == 1 and "pyiqa 0.1.13" in caplog.text


def test_nothing_random_is_left_to_the_caller(pyiqa, monkeypatch):
    """MANIQA looks at random crops: the same image has the same number, and the caller's stream stays."""

    def drawn(x):
        return torch.rand(1, 1) + random.random() + np.random.random()

    monkeypatch.setattr(pyiqa, "create_metric", lambda name, device: drawn)
    score, x = METRICS["maniqa-pipal"].open(), torch.zeros(2, 3, 8, 8)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    first = score(x)
    assert torch.equal(torch.get_rng_state(), before[0]) and first[0] == first[1]
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]
    drawn(x)
    assert torch.equal(score(x), first)


@pytest.mark.parametrize("name", NAMES)
def test_without_pyiqa_a_metric_is_absent(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(
        AbsentMetric, match=rf"{name}: expected the package pyiqa.*pip install 'unistep\[eval-nc\]'"
    ):
        METRICS[name].open_from()


def test_what_pyiqa_cannot_download_is_said(pyiqa, monkeypatch):
    def offline(name, device):
        raise OSError("no network\nhere")

    monkeypatch.setattr(pyiqa, "create_metric", offline)
    with pytest.raises(AbsentMetric, match="musiq: expected pyiqa to open it, found no network here"):
        METRICS["musiq"].open()
