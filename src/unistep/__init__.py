"""One-step diffusion super-resolution for real photographs.

    from unistep import Upscaler
    large = Upscaler.from_pretrained()(image, scale=4)

Names are loaded when they are first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import UnistepError
    from .evaluation.metrics import METRICS
    from .image import Picture, read_image, write_image
    from .recipes.recipes import RECIPES
    from .upscaling.upscaler import Upscaler

__version__ = "0.1.0"

_HOMES = {
    "METRICS": "evaluation.metrics",
    "Picture": "image",
    "RECIPES": "recipes.recipes",
    "UnistepError": "errors",
    "Upscaler": "upscaling.upscaler",
    "read_image": "image",
    "write_image": "image",
}

__all__ = ["METRICS", "RECIPES", "Picture", "UnistepError", "Upscaler", "read_image", "write_image"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'unistep' has no attribute '{name}'")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
