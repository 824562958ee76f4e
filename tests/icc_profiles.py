"""Small ICC profiles, built by hand for the tests: nothing here is read from a file."""

import struct

import numpy as np


def _s15(values):
    return b"".join(struct.pack(">i", round(float(v) * 65536)) for v in values)


def _xyz(values):
    return b"XYZ " + bytes(4) + _s15(values)


def gamma(value):
    """A `curv` of one entry."""
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(value * 256))


def parametric(kind, *numbers):
    """A `para` of types 0 to 4."""
    return b"para" + bytes(4) + struct.pack(">HH", kind, 0) + _s15(numbers)


def srgb_curve():
    return parametric(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def table(values):
    """A sampled `curv`, values in 0..1."""
    codes = np.round(np.asarray(values) * 65535).astype(">u2")
    return b"curv" + bytes(4) + struct.pack(">I", len(codes)) + codes.tobytes()


def profile(space, pcs, tags):
    """A version 2.4 display profile with the given colour space, connection space and tags."""
    body, directory, position = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        directory += name + struct.pack(">II", position + len(body), len(data))
        body += data
    header = bytearray(128)
    struct.pack_into(">I", header, 0, position + len(body))
    header[8:12] = bytes([2, 0x40, 0, 0])
    header[12:24] = b"mntr" + space + pcs
    header[36:40] = b"acsp"
    header[68:80] = _s15([0.9642, 1.0, 0.8249])
    return bytes(header) + struct.pack(">I", len(tags)) + directory + body


D50 = np.array([0.9642, 1.0, 0.8249])
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
DISPLAY_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE_RGB = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))


def rgb_matrix(primaries, white=(0.3127, 0.3290)):
    """Columns: the primaries in XYZ relative to D50 (Bradford)."""

    def to_xyz(x, y):
        return np.array([x / y, 1.0, (1 - x - y) / y])

    columns = np.stack([to_xyz(*p) for p in primaries], axis=1)
    w = to_xyz(*white)
    columns = columns * np.linalg.solve(columns, w)
    cone = np.diag((BRADFORD @ D50) / (BRADFORD @ w))
    return np.linalg.inv(BRADFORD) @ cone @ BRADFORD @ columns


def rgb_profile(primaries, curve):
    m = rgb_matrix(primaries)
    tags = {b"rXYZ": _xyz(m[:, 0]), b"gXYZ": _xyz(m[:, 1]), b"bXYZ": _xyz(m[:, 2]), b"wtpt": _xyz(D50)}
    return profile(b"RGB ", b"XYZ ", tags | {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve})


def grey_profile(curve):
    return profile(b"GRAY", b"XYZ ", {b"kTRC": curve, b"wtpt": _xyz(D50)})


def display_p3():
    return rgb_profile(DISPLAY_P3, srgb_curve())


def adobe_rgb():
    return rgb_profile(ADOBE_RGB, gamma(563 / 256))


def srgb():
    return rgb_profile(SRGB, srgb_curve())


def _lut16(clut, grid, n_in, n_out):
    ramp = np.array([0, 65535], dtype=">u2").tobytes()
    head = b"mft2" + bytes(4) + bytes([n_in, n_out, grid, 0]) + _s15(np.eye(3).ravel())
    head += struct.pack(">HH", 2, 2)
    return head + ramp * n_in + np.round(clut).clip(0, 65535).astype(">u2").tobytes() + ramp * n_out


def _lab_from_rgb(rgb):
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = linear @ rgb_matrix(SRGB).T / D50
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _rgb_from_lab(lab):
    y = (lab[..., 0] + 16) / 116
    f = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], axis=-1)
    xyz = np.where(f > 6 / 29, f**3, (116 * f - 16) * 27 / 24389) * D50
    linear = np.clip(xyz @ np.linalg.inv(rgb_matrix(SRGB)).T, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def cmyk_profile():
    """A press without dot gain: Lab of the colour (1-C)(1-K), ..., by tables of 9 and 17 points an axis."""
    scale = np.array([65280 / 100, 256, 256])
    shift = np.array([0, 128, 128])
    c, m, y, k = np.meshgrid(*[np.linspace(0, 1, 9)] * 4, indexing="ij")
    rgb = np.stack([(1 - c) * (1 - k), (1 - m) * (1 - k), (1 - y) * (1 - k)], axis=-1)
    a2b = _lut16((_lab_from_rgb(rgb) + shift) * scale, 9, 4, 3)
    codes = np.stack(np.meshgrid(*[np.linspace(0, 65535, 33)] * 3, indexing="ij"), axis=-1)
    rgb = _rgb_from_lab(codes / scale - shift)
    black = 1 - rgb.max(axis=-1)
    inks = (1 - rgb - black[..., None]) / np.maximum(1 - black, 1e-6)[..., None]
    b2a = _lut16(np.concatenate([inks, black[..., None]], axis=-1) * 65535, 33, 3, 4)
    tags = {b"A2B0": a2b, b"A2B1": a2b, b"B2A0": b2a, b"B2A1": b2a, b"wtpt": _xyz(D50)}
    made = bytearray(profile(b"CMYK", b"Lab ", tags))
    made[12:16] = b"prtr"
    return bytes(made)
