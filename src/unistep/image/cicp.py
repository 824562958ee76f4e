"""Colour that a file signals by numbers instead of a profile, turned into a profile.

Code points of primaries and transfer functions (AVIF, PNG's cICP), a gamma and chromaticities (PNG, BMP), and
what DCF says of Adobe RGB in EXIF. The transfer functions of video (BT.709 and its kin) count as sRGB's
curve, as browsers have it. HDR is not read: its brightness has no place in an SDR picture.
Source: ITU-T H.273 (2021), tables 2 and 3; PNG, third edition, section 4.3.
"""

from __future__ import annotations

import struct
from typing import Any

import imagecodecs
import numpy as np

from unistep.image.ifd import EXIF_IFD, INTEROP_IFD, Tiff
from unistep.image.stored import GREY, RGB, Undecodable

Cicp = tuple[int, int]  # code points of the primaries and of the transfer function
Chromaticities = tuple[float, ...]  # x, y of white, red, green, blue

D65 = (0.3127, 0.3290)
BT709: Chromaticities = (*D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
PRIMARIES: dict[int, Chromaticities] = {
    1: BT709,
    2: BT709,  # unspecified
    4: (0.310, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    8: (0.310, 0.316, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),
    9: (*D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    22: (*D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),
}
SRGB_CURVE = 0.0  # in place of a gamma
GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}
GAMMAS |= dict.fromkeys((1, 2, 6, 7, 11, 12, 13, 14, 15), SRGB_CURVE)
HDR = {16: "PQ", 18: "HLG"}
ADOBE_RGB: Chromaticities = (*D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
ADOBE_GAMMA = 563 / 256


def profile_of(cicp: Cicp, family: str) -> bytes | None:
    """The ICC profile of code points, for grey or RGB; None for sRGB. Raises Undecodable for HDR and codes
    that are not known.
    """
    primaries, transfer = cicp
    if transfer in HDR:
        raise Undecodable(
            f"it is an HDR picture ({HDR[transfer]}), a kind that is not read: save it as SDR first"
        )
    if primaries not in PRIMARIES or transfer not in GAMMAS:
        raise Undecodable(f"its colour (CICP {primaries}/{transfer}) is of a kind that is not read")
    return matrix_profile(PRIMARIES[primaries], GAMMAS[transfer], family)


def gamma_of(encoding: float) -> float:
    """The exponent that decodes, from the one that encoded (PNG's gAMA). 1/2.2 is what sRGB's writers put
    there for readers that know no sRGB: it counts as sRGB's curve. Raises ValueError for what cannot be.
    """
    if not 0.1 <= encoding <= 10:
        raise ValueError(f"its gamma is {encoding:g}")
    return SRGB_CURVE if abs(encoding - 1 / 2.2) < 0.005 else 1 / encoding


def matrix_profile(chromaticities: Chromaticities, gamma: float, family: str) -> bytes | None:
    """An ICC profile, or None for sRGB. gamma: the exponent that decodes, or SRGB_CURVE. Raises ValueError
    for chromaticities that span no colours.
    """
    white, primaries = chromaticities[:2], np.reshape(chromaticities[2:], (3, 2))
    spanned = abs(np.linalg.det(np.column_stack([primaries, [1, 1, 1]])))
    if not (0 < white[0] < 1 and 0 < white[1] < 1) or not np.isfinite(primaries).all() or spanned < 1e-3:
        raise ValueError("its chromaticities span no colours")
    if gamma == SRGB_CURVE and (family == GREY or np.abs(np.subtract(chromaticities, BT709)).max() < 2e-3):
        return None
    curve: dict[str, Any] = {"gamma": gamma}
    if gamma == SRGB_CURVE:
        codes = np.linspace(0, 1, 1024)
        linear = np.where(codes <= 0.04045, codes / 12.92, ((codes + 0.055) / 1.055) ** 2.4)
        curve = {"transferfunction": np.round(linear * 65535).astype(np.uint16)}
    if family == GREY:
        made = imagecodecs.cms_profile("gray", whitepoint=(*white, 1.0), **curve)
    else:
        points = [value for x, y in primaries for value in (x, y, 1.0)]
        made = imagecodecs.cms_profile("rgb", whitepoint=(*white, 1.0), primaries=points, **curve)
    return bytes(made[:24] + struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + made[36:])  # not today: files repeat


def adobe_rgb(exif: bytes | None, family: str) -> bytes | None:
    """The profile of a camera's file that says Adobe RGB in the words of DCF: EXIF's interoperability R03."""
    try:
        tiff = Tiff(exif or b"")
        directory = tiff.directory(tiff.first)
        for tag in (EXIF_IFD, INTEROP_IFD):
            directory = tiff.directory(tiff.number(directory.entries[tag]))
        said = tiff.raw(directory.entries[1])
    except (ValueError, KeyError):
        return None
    return (
        matrix_profile(ADOBE_RGB, ADOBE_GAMMA, family) if said.startswith(b"R03") and family == RGB else None
    )
