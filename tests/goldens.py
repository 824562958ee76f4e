"""The recorded cases of tests/golden. Files over 100 kB lie there packed (.xz) and are unpacked on first use.

python tests/goldens.py     packs what is large and not yet packed
"""

import atexit
import functools
import lzma
import shutil
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent / "golden"
LARGE = 100_000
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 2, "lp": 2, "pb": 2}]
"""Positions count modulo 4: the bytes of float32 numbers with the exponent are much alike."""


class Golden:
    """GOLDEN / "case" is the case's folder, whole, as it was recorded."""

    def __truediv__(self, case: str) -> Path:
        return _unpacked(case)


@functools.cache
def _unpacked(case: str) -> Path:
    folder = _temporary() / case
    shutil.copytree(FOLDER / case, folder)
    for packed in folder.rglob("*.xz"):
        packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
        packed.unlink()
    return folder


@functools.cache
def _temporary() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="golden-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def pack() -> None:
    """Packs the large files that are not; the unpacked ones go."""
    for file in sorted(FOLDER.rglob("*.safetensors")):
        if file.stat().st_size > LARGE:
            packed = lzma.compress(file.read_bytes(), format=lzma.FORMAT_XZ, filters=FILTERS)
            file.with_name(f"{file.name}.xz").write_bytes(packed)
            file.unlink()
    print(f"{sum(f.stat().st_size for f in FOLDER.rglob('*') if f.is_file()) / 1e6:.2f} MB")


GOLDEN = Golden()

if __name__ == "__main__":
    pack()
