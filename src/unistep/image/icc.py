"""Colour through ICC profiles, in float and without clipping the gamut.

`parse` turns the bytes of a profile into something with two directions:

    decode: device codes -> sRGB-encoded RGB, where colours outside sRGB are simply < 0 or > 1
    encode: the same RGB -> device values in 0..1, clipped to the device's own gamut and to nothing smaller

Profiles made of curves and a matrix (nearly every camera, phone and screen) and grey ones are computed here.
Profiles made of tables (every press) go through Little CMS in float. Both ways use the media-relative
colorimetric intent without black point compensation, so that one is the inverse of the other.

The sRGB curve is extended to negative values as an odd function. Source: ICC.1:2022, sections 8 and 10.
"""

from __future__ import annotations

import struct
from typing import Any, Protocol

import imagecodecs
import numpy as np
import numpy.typing as npt

from unistep.image.pixels import Floats
from unistep.image.stored import Codes

Doubles = npt.NDArray[np.float64]

SPACES = {b"GRAY": "grey", b"RGB ": "rgb", b"CMYK": "cmyk"}
CHANNELS = {"grey": 1, "rgb": 3, "cmyk": 4}
LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)
# How far sRGB-encoded colours may be off after a way there and back through tables: on average, and 19 of 20.
MEAN_OFF, MOST_OFF = 0.05, 0.2
HINT = np.float32(1 / 255)  # weight of the inks shown against the colour that they must give
BAND = 1 << 18  # pixels converted at a time: bounds the memory of the temporaries

# sRGB primaries adapted to D50, as the ICC's own sRGB profile rounds them; columns are red, green, blue.
SRGB_TO_XYZ: Doubles = (
    np.array([[28578, 25241, 9376], [14581, 46981, 3972], [912, 6362, 46799]], np.float64) / 65536
)
XYZ_TO_SRGB: Doubles = np.asarray(np.linalg.inv(SRGB_TO_XYZ), np.float64)
GRID: Doubles = np.arange(65536) / 65535  # every code of a 16-bit channel


class Profile(Protocol):
    """A colour space of `CHANNELS[space]` channels.

    `decode` takes uint8 or uint16 codes [H,W,C] and gives float32 [H,W,3]; `encode` takes float32 [H,W,3] and
    gives float32 [H,W,C] in 0..1. `invertible`: whether `encode` leads back to what `decode` saw.
    """

    invertible: bool

    @property
    def space(self) -> str: ...
    def decode(self, codes: Codes) -> Floats: ...
    def encode(self, rgb: Floats) -> Floats: ...


def srgb_to_linear(encoded: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The sRGB curve, any shape and float dtype; odd, so that negative values stay meaningful."""
    size = np.abs(encoded)
    linear: npt.NDArray[Any] = np.where(size <= 0.04045, size / 12.92, ((size + 0.055) / 1.055) ** 2.4)
    signed: npt.NDArray[Any] = np.copysign(linear, encoded)
    return signed


def linear_to_srgb(linear: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The inverse of `srgb_to_linear`."""
    size = np.abs(linear)
    encoded: npt.NDArray[Any] = np.where(size <= 0.0031308, size * 12.92, 1.055 * size ** (1 / 2.4) - 0.055)
    signed: npt.NDArray[Any] = np.copysign(encoded, linear)
    return signed


LINEAR: Doubles = srgb_to_linear(np.linspace(0, 2, 1 << 17))  # what lies beyond 2 is beyond every gamut


def parse(icc: bytes) -> Profile:
    """Read a profile. Raises ValueError, with the reason, when it is damaged or of a kind that is not
    known.
    """
    if len(icc) < 132 or icc[36:40] != b"acsp":
        raise ValueError("it is not an ICC profile")
    space = SPACES.get(icc[16:20])
    if space is None:
        raise ValueError(f"its colour space {icc[16:20]!r} is none of grey, RGB and CMYK")
    tags = _tags(icc)
    if tags.get(b"cicp", b"")[9:10] in (b"\x10", b"\x12"):
        raise ValueError("it is for HDR")
    if tags.keys() & {b"A2B0", b"A2B1"}:  # tables come before curves, where a profile has both
        return Table(icc, space)
    if space == "grey" and b"kTRC" in tags and icc[20:24] == b"XYZ ":
        curve = _curve(tags[b"kTRC"])
        return Srgb("grey") if _is_srgb(curve) else Matrix([curve], None)
    if space == "rgb" and {b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC", b"gTRC", b"bTRC"} <= tags.keys():
        curves = [_curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC")]
        matrix = np.stack([_xyz(tags[name]) for name in (b"rXYZ", b"gXYZ", b"bXYZ")], axis=1)
        if abs(np.linalg.det(matrix)) < 1e-4:
            raise ValueError("its primaries lie on one line")
        if all(map(_is_srgb, curves)) and np.abs(matrix - SRGB_TO_XYZ).max() < 2e-3:
            return Srgb("rgb")
        return Matrix(curves, matrix)
    return Table(icc, space)


class Srgb:
    """sRGB, or grey with its curve: nothing to convert, so 8- and 16-bit codes come back bit by bit."""

    invertible = True

    def __init__(self, space: str = "rgb") -> None:
        self.space = space

    def decode(self, codes: Codes) -> Floats:
        levels = np.float32(np.iinfo(codes.dtype).max)
        out = np.empty((*codes.shape[:2], 3), np.float32)
        np.divide(codes, levels, out=out)  # one grey channel broadcasts to three
        return out

    def encode(self, rgb: Floats) -> Floats:
        values = _grey(rgb) if self.space == "grey" else rgb
        return np.clip(values, 0, 1)


class Matrix:
    """One curve for each channel, then for RGB a matrix to XYZ relative to D50.

    A curve is kept as its values at the 65536 codes of a 16-bit channel: decoding is a look-up, and encoding
    two interpolated ones, which come within one 16-bit code.
    """

    invertible = True

    def __init__(self, curves: list[Doubles], matrix: Doubles | None) -> None:
        self.space = "rgb" if matrix is not None else "grey"
        self.curves = curves
        self.to_srgb = XYZ_TO_SRGB @ matrix if matrix is not None else np.eye(1)
        self.from_srgb = np.linalg.inv(self.to_srgb)
        # Device values over the square root of linear ones, where all common curves bend little.
        self.inverse = [np.interp(GRID**2, curve, GRID) for curve in curves]

    def decode(self, codes: Codes) -> Floats:
        step = 65535 // np.iinfo(codes.dtype).max
        tables = [curve[::step] for curve in self.curves]
        out = np.empty((*codes.shape[:2], 3), np.float32)
        for rows in _bands(codes.shape):
            linear = np.stack([table[codes[rows, :, i]] for i, table in enumerate(tables)], axis=-1)
            out[rows] = linear_to_srgb(linear @ self.to_srgb.T)
        return out

    def encode(self, rgb: Floats) -> Floats:
        out = np.empty((*rgb.shape[:2], len(self.curves)), np.float32)
        for rows in _bands(rgb.shape):
            values = _grey(rgb[rows]) if self.space == "grey" else rgb[rows]
            linear = np.copysign(_sample(LINEAR, np.abs(values) / 2.0), values) @ self.from_srgb.T
            root = np.sqrt(np.clip(linear, 0, 1))
            for i, inverse in enumerate(self.inverse):
                out[rows, :, i] = _sample(inverse, root[..., i])
        return out


class Table:
    """A profile made of tables, through Little CMS to XYZ in float and back.

    Profiles of cameras and of codecs (XYB) often have no way back, or one that leads elsewhere: a grid of
    colours goes there and back once, and shows it.
    """

    def __init__(self, icc: bytes, space: str) -> None:
        self.icc, self.space = icc, space
        self.name = {"grey": "gray"}.get(space, space)
        self.levels = 100.0 if space == "cmyk" else 1.0  # Little CMS counts ink in percent
        self.xyz: bytes = imagecodecs.cms_profile("xyz")
        channels = CHANNELS[space]
        steps = np.linspace(0, 255, {1: 64, 3: 9, 4: 5}[channels]).round().astype(np.uint8)
        grid = np.stack(np.meshgrid(*[steps] * channels, indexing="ij"), axis=-1).reshape(1, -1, channels)
        try:
            seen = self.decode(grid)
        except (imagecodecs.CmsError, ValueError, RuntimeError) as error:
            raise ValueError("its tables cannot be used") from error
        try:
            again = self.decode(np.rint(self.encode(seen) * 255).astype(np.uint8))
        except (imagecodecs.CmsError, ValueError, RuntimeError):
            self.invertible = False
        else:
            off = np.abs(again - seen).max(axis=-1)
            self.invertible = bool(off.mean() <= MEAN_OFF and np.quantile(off, 0.95) <= MOST_OFF)

    def decode(self, codes: Codes) -> Floats:
        scale = np.float32(self.levels / np.iinfo(codes.dtype).max)
        out = np.empty((*codes.shape[:2], 3), np.float32)
        for rows in _bands(codes.shape):
            ink = np.ascontiguousarray(codes[rows] * scale, dtype=np.float32)
            xyz = self._transform(ink, self.icc, self.xyz, self.name, "xyz")
            xyz = np.nan_to_num(xyz.astype(np.float64), posinf=2, neginf=-2)
            out[rows] = linear_to_srgb(xyz @ XYZ_TO_SRGB.T)
        return out

    def encode(self, rgb: Floats) -> Floats:
        out = np.empty((*rgb.shape[:2], CHANNELS[self.space]), np.float32)
        for rows in _bands(rgb.shape):
            xyz = srgb_to_linear(rgb[rows].astype(np.float64)) @ SRGB_TO_XYZ.T
            ink = self._transform(xyz.astype(np.float32), self.xyz, self.icc, "xyz", self.name)
            out[rows] = np.nan_to_num(ink.reshape(out[rows].shape) / self.levels).clip(0, 1)
        return out

    def _transform(self, values: Floats, source: bytes, target: bytes, space: str, to: str) -> Floats:
        if space == "gray":
            values = values[..., 0]
        made: Floats = imagecodecs.cms_transform(
            values,
            source,
            target,
            colorspace=space,
            outcolorspace=to,
            outdtype=np.float32,
            intent=imagecodecs.CMS.INTENT.RELATIVE_COLORIMETRIC,
            planar=False,
            outplanar=False,
        )
        return made


class NaiveCmyk:
    """CMYK without a profile: R = (1-C)(1-K), ... Many separations give one colour; `encode` follows the one
    that it is shown.
    """

    space = "cmyk"
    invertible = True

    def decode(self, codes: Codes) -> Floats:
        left = 1 - codes.astype(np.float32) / np.float32(np.iinfo(codes.dtype).max)
        return left[..., :3] * left[..., 3:]

    def encode(self, rgb: Floats, shown: Codes | None = None) -> Floats:
        """shown: uint8 inks [H,W,4]. Of the darkness that C, M and Y have in common, K takes the same part as
        there, and where K leaves nothing to see of the others, they are as there. None: K takes all of it.
        """
        rgb = np.clip(rgb, 0, 1)
        key = 1 - rgb.max(axis=-1, keepdims=True)
        colours: npt.NDArray[Any] = np.zeros(3, np.float32)
        if shown is not None:
            colours = shown[..., :3] / np.float32(255)
            dark = 1 - self.decode(shown).max(axis=-1, keepdims=True)
            key = key * np.minimum(shown[..., 3:] / np.float32(255) / np.maximum(dark, 1e-6), 1)
        left = 1 - key
        inks = (left - rgb + HINT * colours) / (left + HINT)
        return np.concatenate([inks.clip(0, 1), key], axis=-1, dtype=np.float32)


def _bands(shape: tuple[int, ...]) -> list[slice]:
    step = max(1, BAND // max(1, shape[1]))
    return [slice(top, top + step) for top in range(0, shape[0], step)]


def _sample(table: Doubles, places: npt.NDArray[Any]) -> Doubles:
    """A table over 0..1 at places >= 0, with straight lines between its entries; beyond 1 its last entry."""
    position = np.minimum(places, 1).astype(np.float64) * (len(table) - 1)
    index = np.minimum(position.astype(np.intp), len(table) - 2)
    low = table[index]
    return np.asarray(low + (position - index) * (table[index + 1] - low))


def _grey(rgb: Floats) -> Floats:
    return (rgb @ LUMA)[..., None]


def _is_srgb(curve: Doubles) -> bool:
    return float(np.abs(linear_to_srgb(curve) - GRID).max()) < 1 / 512


def _tags(icc: bytes) -> dict[bytes, bytes]:
    count = struct.unpack_from(">I", icc, 128)[0]
    if count > 200 or 132 + 12 * count > len(icc):
        raise ValueError("its table of tags is cut off")
    tags = {}
    for i in range(count):
        name, start, size = struct.unpack_from(">4sII", icc, 132 + 12 * i)
        if start + size > len(icc):
            raise ValueError(f"its tag {name!r} is cut off")
        tags[name] = icc[start : start + size]
    return tags


def _fixed(data: bytes, start: int, count: int) -> list[float]:
    if len(data) < start + 4 * count:
        raise ValueError("a tag is too short")
    return [value / 65536 for value in struct.unpack_from(f">{count}i", data, start)]


def _xyz(data: bytes) -> Doubles:
    if data[:4] != b"XYZ ":
        raise ValueError("a primary is not an XYZ value")
    return np.array(_fixed(data, 8, 3))


def _curve(data: bytes) -> Doubles:
    """A tone curve at the 65536 codes, rising, within 0..1."""
    if len(data) < 12 or data[:4] not in (b"curv", b"para"):
        raise ValueError("a tone curve is of an unknown kind")
    values = _sampled(data) if data[:4] == b"curv" else _parametric(data)
    if not np.isfinite(values).all() or values[-1] - values[0] < 0.1:
        raise ValueError("a tone curve does not rise")
    return np.maximum.accumulate(np.clip(values, 0, 1))


def _sampled(data: bytes) -> Doubles:
    count = struct.unpack_from(">I", data, 8)[0]
    if len(data) < 12 + 2 * count:
        raise ValueError("a tone curve is cut off")
    samples = np.frombuffer(data, ">u2", count, 12)
    if count == 0:
        return GRID.copy()
    if count == 1:
        return np.asarray(GRID ** (samples[0] / 256))
    return np.interp(GRID, np.linspace(0, 1, count), samples / 65535)


def _parametric(data: bytes) -> Doubles:
    kind = struct.unpack_from(">H", data, 8)[0]
    if kind > 4:
        raise ValueError("a tone curve is of an unknown kind")
    g, a, b, c, d, e, f = (_fixed(data, 12, (1, 3, 4, 5, 7)[kind]) + [0.0] * 6)[:7]
    if kind == 0:
        a = 1.0
    elif kind == 2:  # here c is what the later kinds call e
        c, e = 0.0, c
    with np.errstate(all="ignore"):  # a curve that is not finite is refused by the caller
        power = np.maximum(a * GRID + b, 0) ** g
        return np.where(d > GRID, c * GRID + f, power + e)
