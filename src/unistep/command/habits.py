"""What users of other tools type, in our words: the ncnn programs and Python scripts of Real-ESRGAN."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, get_args

from unistep.errors import ConfigError

Format = Literal["jpeg", "png", "webp", "tiff", "bmp", "avif"]
SHORT = {"jpg": "jpeg", "tif": "tiff"}


def format_of(kind: object, tokens: Sequence[Any]) -> str:
    """A format in any case, with or without its dot, or as its short suffix."""
    text: str = tokens[0].value
    name = text.lower().lstrip(".")
    name = SHORT.get(name, name)
    if name not in get_args(Format):
        raise ConfigError(f"--format takes one of {', '.join(get_args(Format))}, found {text!r}")
    return name


def tile_of(kind: object, tokens: Sequence[Any]) -> int | str:
    """A number of pixels; auto, which is 0 elsewhere."""
    text = tokens[0].value
    if text in ("auto", "0"):
        return "auto"
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ConfigError(f"--tile takes auto or a number of pixels from 1 upward, found {text!r}")
    return int(text)


def model_of(model: str | None, named: str | None) -> str | None:
    """-m, or -n of those who have -m for a folder of models, or for waifu2x's noise level."""
    if named is not None and re.fullmatch(r"-?\d", named):
        raise ConfigError(f"-n takes a model's name, found {named}: no level of noise is chosen here")
    if None not in (model, named):
        raise ConfigError("-m and -n both name the model here: give one of them, without a folder of models")
    return named if model is None else model


def device_of(device: str, gpu: str | None) -> str:
    """-d, or the number of a GPU with -1 for none."""
    if gpu in (None, "auto"):
        return device
    if not re.fullmatch(r"-1|\d+", gpu):
        raise ConfigError(f"-g takes the number of one GPU, or -1 for the CPU, found {gpu!r}")
    found = "cpu" if gpu == "-1" else f"cuda:{gpu}"
    if device not in ("auto", found):
        raise ConfigError(f"--device {device} and -g {gpu} disagree: give one of them")
    return found


def dtype_of(dtype: str, fp32: bool) -> str:
    """--dtype, or float32."""
    if fp32 and dtype not in ("auto", "float32"):
        raise ConfigError(f"--dtype {dtype} and --fp32 disagree: give one of them")
    return "float32" if fp32 else dtype
