"""Packages that only some bases need: imported where used, asked for in one sentence where missing."""

import importlib
from typing import Any

from ..errors import ConfigError

EXTRA_OF = {
    "diffusers": "sd",
    "transformers": "sd",
    "peft": "sd",
    "huggingface_hub": "sd",
    "torchao": "quant",
    "bitsandbytes": "quant-cuda",
}
"""Package -> the extra of Unistep that installs it."""


def extra(package: str, module: str | None = None) -> Any:
    """`module` (default: `package`) of an optional package. Raises ConfigError that names the extra."""
    try:
        return importlib.import_module(module or package)
    except (ImportError, RuntimeError) as error:  # a broken torchvision raises RuntimeError on import
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"expected the package {package} for this model, found none that works ({reason}): "
            f"pip install 'unistep[{EXTRA_OF[package]}]'"
        ) from error
