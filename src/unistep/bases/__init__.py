"""A new base: write its file, add one line here."""

from .compact.base import CompactBase, CompactConfig
from .resshift.base import ResShiftBase
from .sd3.base import SD3Base
from .sd21.base import SD21Base
from .settings import ResShiftConfig, SD3Config, SD21Config

BASES = {
    "compact": (CompactBase, CompactConfig),
    "sd3": (SD3Base, SD3Config),
    "sd21": (SD21Base, SD21Config),
    "resshift": (ResShiftBase, ResShiftConfig),
}

__all__ = [
    "BASES",
    "CompactBase",
    "CompactConfig",
    "ResShiftBase",
    "ResShiftConfig",
    "SD3Base",
    "SD3Config",
    "SD21Base",
    "SD21Config",
]
