"""A new method: write its file, add one line here; a base that cannot carry it says so (`obstacles`)."""

from typing import Any

from .dfosd import DFOSD, DFOSDConfig
from .osediff import OSEDiff, OSEDiffConfig
from .regression import Regression, RegressionConfig
from .sinsr import SinSR, SinSRConfig
from .tadsr import TADSR, TADSRConfig
from .teacher import Teacher, TeacherConfig
from .tsdsr import TSDSR, TSDSRConfig

METHODS: dict[str, tuple[type[Any], type]] = {
    "teacher": (Teacher, TeacherConfig),
    "tsdsr": (TSDSR, TSDSRConfig),
    "dfosd": (DFOSD, DFOSDConfig),
    "tadsr": (TADSR, TADSRConfig),
    "osediff": (OSEDiff, OSEDiffConfig),
    "sinsr": (SinSR, SinSRConfig),
    "regression": (Regression, RegressionConfig),
}

__all__ = [
    "DFOSD", "METHODS", "TADSR", "TSDSR", "DFOSDConfig", "OSEDiff", "OSEDiffConfig", "Regression",
    "RegressionConfig", "SinSR", "SinSRConfig", "TADSRConfig", "TSDSRConfig", "Teacher", "TeacherConfig",
]  # fmt: skip
