"""Recipes: each a function that returns a whole Run. A new recipe: one function and one line in RECIPES."""

import difflib
from collections.abc import Callable

from .config import Run, TrainConfig
from .data.pairs import DataConfig
from .errors import ConfigError
from .methods import TeacherConfig


def compact_teacher() -> Run:
    """The embedded model: denoiser and one-step slot, 160-pixel crops, trainable on two CPU cores."""
    return Run(
        name="compact-teacher",
        method=TeacherConfig(slot_share=0.8, weight_edge=0.5),
        data=DataConfig(patch=160),
        train=TrainConfig(steps=15_000, batch=10, lr=1e-3, lr_min=0.01),
    )


RECIPES: dict[str, Callable[[], Run]] = {
    "compact-teacher": compact_teacher,
}


def recipe(name: str) -> Run:
    """The named recipe. Raises ConfigError, with the nearest name, for an unknown one."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; expected one of {', '.join(RECIPES)}"
        raise ConfigError(f"unknown recipe “{name}”{hint}")
    return RECIPES[name]()
