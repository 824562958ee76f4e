"""Recipes: each a function that returns a whole Run. A new recipe: one function and one line in RECIPES."""

import dataclasses
import difflib
from collections.abc import Callable

from .config import MethodConfig, Run, TrainConfig
from .data.pairs import DataConfig
from .errors import ConfigError
from .methods import DFOSDConfig, TADSRConfig, TeacherConfig, TSDSRConfig


def compact_teacher() -> Run:
    """The embedded model: denoiser and one-step slot, 160-pixel crops, trainable on two CPU cores."""
    return Run(
        name="compact-teacher",
        method=TeacherConfig(slot_share=0.8, weight_edge=0.5),
        data=DataConfig(patch=160),
        train=TrainConfig(steps=15_000, batch=10, lr=1e-3, lr_min=0.01),
    )


def compact_student(name: str, method: MethodConfig, plain: str = "compact-plain") -> Run:
    """What the students share: the teacher they start from, the plain model, data, batch and rates.

    The papers' rates (5e-6 to 5e-5) belong to adapters of large pretrained networks; here all weights of a
    small one move.
    """
    return Run(
        name=name,
        method=method,
        data=DataConfig(patch=128),
        train=TrainConfig(
            steps=1_000, batch=6, lr=1e-4, lr_critic=4e-4, lr_min=0.05, warmup=20, ema=0.99,
            init="compact-teacher", plain=plain, keep="last", save_every=200, validate_every=500,
        ),
    )  # fmt: skip


def compact_plain() -> Run:
    """A plain reconstruction: squared error alone."""
    method = DFOSDConfig(discriminator="none", spatial="mse", weight_mse=44.0)
    return compact_student("compact-plain", method, plain="self")


def compact_sharp() -> Run:
    """The default of `unistep upscale`: squared error against sharpened photographs, stronger damage.

    Sharpened targets (unsharp mask, as Real-ESRGAN's) answer with crisp edges where an adversary answers with
    grain, and more of `realesrgan` cleans compressed photographs. It starts from compact-plain.
    """
    method = DFOSDConfig(discriminator="none", spatial="mse", weight_mse=44.0, weight_grid=10.0)
    run = compact_student("compact-sharp", method)
    mix = {"realesrgan": 0.4, "light": 0.3, "bicubic": 0.1, "mild": 0.2}
    return dataclasses.replace(
        run,
        data=DataConfig(patch=128, usm_sharpen=True, degradations=mix),
        train=dataclasses.replace(run.train, steps=1_800, lr=2e-4, init="compact-plain"),
    )


def compact_tsdsr() -> Run:
    """TSD-SR on the compact base.

    Guidance is 1: the network has no text, and was never trained without its image. Above t = 650 its
    residual's share of the energy is below 0.12. gamma and the weights are in units of latents whose errors
    are of size 0.15: the released weights of 1 belong to latents of unit variance.
    """
    return compact_student(
        "compact-tsdsr",
        TSDSRConfig(guidance=1.0, t_min=20, t_max=650, gamma=128.0, weight_lpips=0.3, weight_mse=1.0),
    )


def compact_dfosd() -> Run:
    """DFOSD on the compact base.

    weight_mse is 1 / sigma_data^2. Above t = 150 the discriminator would see little of the residual.
    weight_grid: without it the adversary drives the 4-pixel grid number from 1.1 to 60 in 100 steps.
    """
    return compact_student(
        "compact-dfosd",
        DFOSDConfig(weight_mse=44.0, lambda_perceptual=0.3, lambda_adv=0.35, t_nad_max=150, weight_grid=30.0),
    )


def compact_tadsr() -> Run:
    """TAD-SR on the compact base.

    The paper's weights 1, 1 and 0.02 belong to latents about 4 times as large: the squared error grows with
    the square of that, the score's push in proportion, the adversarial term not at all.
    """
    return compact_student("compact-tadsr", TADSRConfig(weight_distill=16.0, lambda_hsd=4.0))


RECIPES: dict[str, Callable[[], Run]] = {
    "compact-teacher": compact_teacher,
    "compact-plain": compact_plain,
    "compact-sharp": compact_sharp,
    "compact-tsdsr": compact_tsdsr,
    "compact-dfosd": compact_dfosd,
    "compact-tadsr": compact_tadsr,
}


def recipe(name: str) -> Run:
    """The named recipe. Raises ConfigError, with the nearest name, for an unknown one."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; expected one of {', '.join(RECIPES)}"
        raise ConfigError(f"unknown recipe “{name}”{hint}")
    return RECIPES[name]()
