"""A new method: write its file, add one line here, and one in `pairing` for each base that it cannot use."""

from .dfosd import DFOSD, DFOSDConfig
from .osediff import OSEDiff, OSEDiffConfig
from .pairing import obstacle
from .sinsr import SinSR, SinSRConfig
from .tadsr import TADSR, TADSRConfig
from .teacher import Teacher, TeacherConfig
from .tsdsr import TSDSR, TSDSRConfig

METHODS = {
    "teacher": (Teacher, TeacherConfig),
    "tsdsr": (TSDSR, TSDSRConfig),
    "dfosd": (DFOSD, DFOSDConfig),
    "tadsr": (TADSR, TADSRConfig),
    "osediff": (OSEDiff, OSEDiffConfig),
    "sinsr": (SinSR, SinSRConfig),
}

__all__ = [
    "DFOSD",
    "METHODS",
    "TADSR",
    "TSDSR",
    "DFOSDConfig",
    "OSEDiff",
    "OSEDiffConfig",
    "SinSR",
    "SinSRConfig",
    "TADSRConfig",
    "TSDSRConfig",
    "Teacher",
    "TeacherConfig",
    "obstacle",
]
