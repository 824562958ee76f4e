"""Packages that only some bases need: imported where used, asked for in one sentence where missing."""

import contextlib
import importlib
import logging
from collections.abc import Iterator
from typing import Any

from .errors import ConfigError

EXTRA_OF = {
    "diffusers": "sd",
    "transformers": "sd",
    "peft": "sd",
    "huggingface_hub": "sd",
    "torchao": "quant",
    "bitsandbytes": "quant-cuda",
    "scipy": "eval",
    "dlib": "faces",
    "onnxruntime": "faces",
    "matplotlib": "eval",
    "jinja2": "eval",
    "pyiqa": "eval-nc",
    "starlette": "study",
    "uvicorn": "study",
}
"""Package -> the extra of Unistep that installs it."""


def extra(package: str, module: str | None = None) -> Any:
    """`module` (default: `package`) of an optional package. Raises ConfigError that names the extra."""
    try:
        with without_warnings():
            if package == "diffusers":  # what it would load later, aloud, with torchao beside it
                importlib.import_module("diffusers.quantizers")
            if package == "transformers":  # its bars and reports would break into the run's own lines
                own = importlib.import_module("transformers.utils.logging")
                own.disable_progress_bar()
                own.set_verbosity_error()
            return importlib.import_module(module or package)
    except (ImportError, RuntimeError) as error:  # a broken torchvision raises RuntimeError on import
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"expected the package {package} that this needs, found none that works ({reason}): "
            f"pip install 'unistep[{EXTRA_OF[package]}]'"
        ) from error


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Others' logged warnings about parts that nobody here asked for are not shown."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(before)
