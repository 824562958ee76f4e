"""`--smoke`: the recorded losses come again, and a loss that is wrong by little is found.

Recipes of large bases take longer: `unistep train RECIPE --smoke`. This file takes quick ones.
"""

import os

import pytest
import torch

from unistep.bases.resshift import sizes as resshift
from unistep.bases.sd3 import sizes as sd3
from unistep.bases.sd21 import sizes as sd21
from unistep.diffusion.process import Process
from unistep.errors import ConfigError, TrainingError
from unistep.losses.terms import push
from unistep.methods import dfosd, tsdsr
from unistep.recipes.recipes import RECIPES, recipe
from unistep.training import smoke

pytest.importorskip("accelerate")


def quietly(name):
    lines = []
    smoke.main(name, lines.append)
    return lines


def test_every_recipe_has_its_losses():
    assert smoke.BANDS.keys() == RECIPES.keys()
    for first, last in smoke.BANDS.values():
        assert first.keys() == last.keys() and "student/grad_norm" in first
        assert all(value == value and first != last for value in (*first.values(), *last.values()))


def test_the_recorded_losses_come_again(monkeypatch):
    monkeypatch.setenv("UNISTEP_HOME", "kept")
    torch.set_num_threads(2)
    try:
        lines = quietly("compact-tsdsr")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert lines[-1] == "smoke: ok" and os.environ["UNISTEP_HOME"] == "kept"
    assert len(lines) == 1 + 2 * len(smoke.BANDS["compact-tsdsr"][0])


def pushed_the_wrong_way(z, direction):
    return push(z, -direction)


def less(share):
    return lambda whole: lambda *args, **kwargs: share * whole(*args, **kwargs)


MUTATIONS = {
    "w(t) = s": ("compact-tsdsr", tsdsr, "weight", lambda _: lambda process, t: process.at(t)[2]),
    "lambda the other way": ("compact-tsdsr", tsdsr, "tsd", lambda whole: lambda a, b, c: whole(a, b, 1 - c)),
    "a score loss 5 % off": ("compact-tsdsr", tsdsr, "score_loss", less(0.95)),
    "uphill": ("compact-tsdsr", tsdsr, "push", lambda _: pushed_the_wrong_way),
    "predictions 5 % off": ("compact-tsdsr", Process, "raw", less(0.95)),
    "another edge filter": (
        "compact-dfosd",
        dfosd,
        "G_X",
        lambda g: tuple(tuple(2 * v for v in r) for r in g),
    ),
    "the student flees": ("compact-dfosd", dfosd, "adversarial_loss", less(-1)),
    "no real latents": ("compact-dfosd", dfosd, "discriminator_loss", less(0.5)),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_wrong_loss_is_found(monkeypatch, mutation):
    name, where, what, change = MUTATIONS[mutation]
    monkeypatch.setattr(where, what, change(getattr(where, what)))
    with pytest.raises(TrainingError, match=r"smoke: expected (student|critic)/\w+ in the .* step .*, found"):
        quietly(name)


def test_another_set_of_losses_is_found(monkeypatch):
    first, last = smoke.BANDS["compact-plain"]
    monkeypatch.setitem(smoke.BANDS, "compact-plain", ({**first, "student/more": 1.0}, last))
    with pytest.raises(
        TrainingError, match="expected the losses student/mse, student/grad_norm, student/more"
    ):
        quietly("compact-plain")


def test_bands():
    assert smoke.band(2.0) == pytest.approx((1.96 - 1e-5, 2.04 + 1e-5))
    low, high = smoke.band(-1.0)
    assert low < -1 < high


@pytest.mark.parametrize("name", [name for name in RECIPES if not name.startswith("compact")])
def test_the_miniature_keeps_what_the_recipe_says(monkeypatch, tmp_path, name):
    for sizes in (resshift, sd3, sd21):
        monkeypatch.setattr(sizes, "write", lambda folder, variant="": folder)
    whole = recipe(name)
    small, data = smoke.miniature(whole, tmp_path)
    assert small.method == whole.method and small.data.degradations == whole.data.degradations
    assert (
        small.name == name and len(list(data.glob("*.png"))) == len(list(data.glob("*.txt"))) == smoke.COUNT
    )
    assert small.train.precision == "fp32" and small.train.steps == smoke.STEPS
    assert bool(small.train.micro) == bool(whole.train.micro)
    assert getattr(small.base, "rank", 0) == getattr(whole.base, "rank", 0)


def test_an_unknown_recipe():
    with pytest.raises(ConfigError, match="unknown recipe"):
        smoke.main("compact-tsd")
