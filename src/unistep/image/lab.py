"""CIE L*a*b* as TIFF stores it, to sRGB codes. Source: TIFF 6.0, section 23; Photoshop TIFF notes; CIE 15."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from unistep.image.icc import BAND, XYZ_TO_SRGB, linear_to_srgb
from unistep.image.pixels import quantise
from unistep.image.stored import Codes

D50 = np.array([0.9642, 1.0, 0.8249])


def lab_to_srgb(codes: Codes, signed: bool) -> Codes:
    """[H,W,3] uint8 or uint16 L*a*b* codes to sRGB codes of the same type; beyond sRGB they are clipped.

    signed: a* and b* are two's complement (CIELab); else they are offset by half (ICCLab).
    """
    deep = codes.dtype == np.uint16
    out = np.empty_like(codes)
    step = max(1, BAND // max(1, codes.shape[1]))
    for top in range(0, len(codes), step):
        part: npt.NDArray[Any] = codes[top : top + step]
        steps = 256.0 if deep else 1.0
        if signed:
            light = part[..., 0] * (100 / (65535 if deep else 255))
            ab = part[..., 1:].astype(np.int16 if deep else np.int8).astype(np.float64) / steps
        else:
            light = part[..., 0] * (100 / (65280 if deep else 255))
            ab = part[..., 1:] / steps - 128
        y = (light + 16) / 116
        f = np.stack([y + ab[..., 0] / 500, y, y - ab[..., 1] / 200], axis=-1)
        xyz = np.where(f > 6 / 29, f**3, (f - 4 / 29) * (108 / 841)) * D50
        srgb = linear_to_srgb(xyz @ XYZ_TO_SRGB.T).astype(np.float32)
        quantise(srgb, 16 if deep else 8, out=out[top : top + step])
    return out
