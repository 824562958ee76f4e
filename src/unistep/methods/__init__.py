"""A new method: write its file, add one line here."""

from .dfosd import DFOSD, DFOSDConfig
from .tadsr import TADSR, TADSRConfig
from .teacher import Teacher, TeacherConfig
from .tsdsr import TSDSR, TSDSRConfig

METHODS = {
    "teacher": (Teacher, TeacherConfig),
    "tsdsr": (TSDSR, TSDSRConfig),
    "dfosd": (DFOSD, DFOSDConfig),
    "tadsr": (TADSR, TADSRConfig),
}

__all__ = [
    "DFOSD",
    "METHODS",
    "TADSR",
    "TSDSR",
    "DFOSDConfig",
    "TADSRConfig",
    "TSDSRConfig",
    "Teacher",
    "TeacherConfig",
]
