"""Where pictures have prompts of their own, every role but the student is told them, in every method."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unistep.bases.compact.base import CompactBase
from unistep.bases.compact.network import CompactConfig, CompactDenoiser
from unistep.diffusion.denoiser import Batch, Cond, Denoiser, Features, Method
from unistep.methods import (
    METHODS,
    DFOSDConfig,
    OSEDiffConfig,
    RegressionConfig,
    SinSRConfig,
    TADSRConfig,
    TSDSRConfig,
)

CONFIGS: dict[str, Any] = {
    "tsdsr": TSDSRConfig(),
    "tsdsr plain": TSDSRConfig(guidance=1.0, dasm_steps=0),
    "tsdsr released": TSDSRConfig.released(dasm_steps=2),
    "dfosd": DFOSDConfig(spatial="mse"),
    "dfosd vanilla": DFOSDConfig(spatial="mse", discriminator="vanilla"),
    "dfosd diffusion-gan": DFOSDConfig(spatial="mse", discriminator="diffusion-gan"),
    "tadsr": TADSRConfig("resshift", teacher_steps=2, embed_dim=16),
    "tadsr sds": TADSRConfig("resshift", teacher_steps=2, embed_dim=16, score="sds"),
    "osediff": OSEDiffConfig(),
    "osediff plain": OSEDiffConfig(guidance=1.0),
    "sinsr": SinSRConfig("resshift", teacher_steps=2),
    "regression": RegressionConfig(),
}
STUDENTS, PICTURES, NONE = 0.0, 1.0, -1.0
"""What a prompt is: the student's, the picture's, the null one."""


def distance(x: Tensor, target: Tensor) -> Tensor:
    return (x - target).abs().mean()


def watched(method: Method) -> list[tuple[str, str, set[float]]]:
    """A list that gets, for each call of a network, its role, the method's call that asks, its prompts."""
    calls: list[tuple[str, str, set[float]]] = []
    now = ""

    def watch(role: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def see(_: nn.Module, given: tuple[Any, ...]) -> None:
            (cond,) = (one for one in given if isinstance(one, Cond))
            calls.append((role, now, set(cond.prompt.flatten().tolist())))

        return see

    for role in ("student", "teacher", "features", "critic"):
        net = getattr(method, role, None)
        for part in net.modules() if isinstance(net, nn.Module) else ():
            if isinstance(part, (Denoiser, Features)):
                part.register_forward_pre_hook(watch(role))

    def entered(name: str) -> None:
        call = getattr(method, name)

        def run(*given: Any) -> Any:
            nonlocal now
            now = name
            return call(*given)

        setattr(method, name, run)

    for name in ("generate", "generator_loss", "critic_loss"):
        entered(name)
    return calls


@pytest.mark.parametrize("name", CONFIGS)
def test_everyone_but_the_student_is_told_what_the_picture_shows(name, monkeypatch):
    monkeypatch.setattr(CompactBase, "guided", True)
    torch.manual_seed(0)
    base = CompactBase(CompactDenoiser(CompactConfig((8, 8, 8), (1, 1, 1))))
    method = METHODS[name.split()[0]][0].build(CONFIGS[name], base, lambda form: distance)
    x_lq, x_hq = torch.rand(2, 3, 16, 16) * 2 - 1, torch.rand(2, 3, 64, 64) * 2 - 1
    cond, told, null = (
        replace(base.cond(x_lq), prompt=torch.full((n, 1, 1), value))
        for n, value in ((1, STUDENTS), (2, PICTURES), (1, NONE))
    )
    calls = watched(method)
    batch = Batch(x_lq, x_hq, base.encode(x_hq), cond, null, told, restored=x_hq)
    z_hat = method.generate(batch)
    method.critic_loss(batch, z_hat.detach())
    method.generator_loss(batch, z_hat)

    guided = getattr(CONFIGS[name], "guidance", 1.0) != 1
    for role, where, prompts in calls:
        # the score network of OSEDiff is not guided, and no critic's own loss is
        null_too = guided and where != "critic_loss" and not (name == "osediff" and role == "critic")
        wanted = {STUDENTS} if role == "student" else {PICTURES, NONE} if null_too else {PICTURES}
        assert prompts == wanted, (role, where)
    others = {
        "tadsr": {"teacher", "features"}, "sinsr": {"teacher"}, "dfosd": {"critic"}, "regression": set(),
    }  # fmt: skip
    asked = others.get(name.split()[0], {"teacher", "critic"})
    assert {role for role, *_ in calls} == {"student", *asked}


def test_no_method_is_left_out():
    """`teacher` makes a base's own network: all its calls are the student's."""
    assert {name.split()[0] for name in CONFIGS} == METHODS.keys() - {"teacher"}
