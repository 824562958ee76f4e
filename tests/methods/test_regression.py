"""Plain regression: its terms are its equations, each moves the student, and what it takes is said."""

import pytest
import torch
import torch.nn.functional as F

from unistep.bases.compact.base import CompactBase
from unistep.bases.compact.network import CompactConfig, CompactDenoiser, decode, encode
from unistep.diffusion.denoiser import Batch
from unistep.errors import ConfigError
from unistep.methods import Regression, RegressionConfig


def made(n=8, **settings):
    torch.manual_seed(0)
    denoiser = CompactDenoiser(CompactConfig((8, 8, 8), (1, 1, 1)))
    torch.nn.init.normal_(denoiser.net.out.weight, std=0.1)
    base = CompactBase(denoiser)
    x_lq, (x_hq, restored) = torch.rand(n, 3, 4, 4) * 2 - 1, torch.rand(2, n, 3, 16, 16) * 2 - 1
    batch = Batch(x_lq, x_hq, encode(x_hq), base.cond(x_lq), restored=restored)
    return Regression.build(RegressionConfig(**settings), base, lambda form: None), batch


def test_terms_are_the_equations():
    method, batch = made(weight_restored=2.0, weight_truth=3.0, weight_means=0.5, truth_share=0.25)
    z_hat = method.generate(batch)
    terms = method.generator_loss(batch, z_hat)
    error = lambda target: (decode(z_hat) - target).abs().mean(dim=(1, 2, 3))  # noqa: E731
    wanted = {
        "restored": 2.0 * error(batch.restored)[2:].sum() / 8,
        "truth": 3.0 * error(batch.x_hq)[:2].sum() / 8,
        "means": 0.5
        * (F.interpolate(decode(z_hat), size=(4, 4), mode="area")
           - F.interpolate(batch.x_hq, size=(4, 4), mode="area")).abs().mean(),
    }  # fmt: skip
    assert terms.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(terms[name], value)


@pytest.mark.parametrize(("share", "names"), [(0.0, {"means", "restored"}), (1.0, {"means", "truth"})])
def test_every_term_moves_the_student(share, names):
    method, batch = made(truth_share=share)
    terms = method.generator_loss(batch, method.generate(batch))
    assert set(terms) == names and method.critic is None and method.critic_loss(batch, batch.z_hq) == {}
    for term in terms.values():
        parameters = [p for name, p in method.student.named_parameters() if "time" not in name]
        gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
        assert sum(g is not None and bool(g.any()) for g in gradients) > 0.9 * len(gradients)


def test_the_means_leave_detail_alone():
    """A pattern within the squares changes `restored` and not `means`."""
    method, batch = made()
    z_hat = method.generate(batch).detach()
    pattern = torch.tensor([[0.1, -0.1], [-0.1, 0.1]]).repeat(8, 8).expand_as(batch.x_hq)
    one, other = (method.generator_loss(batch, z) for z in (z_hat, z_hat + encode(pattern)))
    torch.testing.assert_close(one["means"], other["means"])
    assert not torch.isclose(one["restored"], other["restored"])


def test_settings():
    with pytest.raises(ConfigError, match=r"found none; set method\.weight_restored"):
        RegressionConfig(weight_restored=0, weight_truth=0, weight_means=0)
    with pytest.raises(ConfigError, match=r"method\.truth_share"):
        RegressionConfig(truth_share=1.5)
    with pytest.raises(ConfigError, match=r"method\.t_student"):
        made(t_student=1000)
