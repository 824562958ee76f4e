"""Features of images, which distances between sets are made of: a file of records that only grows.

A record is the key's 32 bytes, the features as little-endian float32, and the SHA-256 of both. A kill while
one is written costs that one; a damaged one counts as never written.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .inception import FEATURES

KEY, VALUES, PROOF = 32, 4 * FEATURES, 32
RECORD = KEY + VALUES + PROOF


class Features:
    """Key (64 hex digits) -> features [2048] float32. To be closed. Raises OSError as the system does."""

    def __init__(self, path: Path) -> None:
        self.at: dict[str, int] = {}
        self.file = path.open("a+b")
        self.file.seek(0)
        end = 0
        while len(record := self.file.read(RECORD)) == RECORD:
            if hashlib.sha256(record[:-PROOF]).digest() == record[-PROOF:]:
                self.at[record[:KEY].hex()] = end
            end += RECORD
        self.file.truncate(end)

    def close(self) -> None:
        self.file.close()

    def __contains__(self, key: str) -> bool:
        return key in self.at

    def add(self, key: str, values: Tensor) -> None:
        """Keeps features [2048]; they are on the disk when this returns."""
        record = bytes.fromhex(key) + values.cpu().numpy().astype("<f4").tobytes()
        assert len(record) == KEY + VALUES
        at = self.file.seek(0, os.SEEK_END)
        self.file.write(record + hashlib.sha256(record).digest())
        self.file.flush()
        os.fsync(self.file.fileno())
        self.at[key] = at

    def stacked(self, keys: Iterable[str]) -> Tensor:
        """[N, 2048] float32 of N keys, in their order. Raises KeyError for one that is not there."""
        rows = []
        for key in keys:
            self.file.seek(self.at[key] + KEY)
            rows.append(np.frombuffer(self.file.read(VALUES), "<f4").astype(np.float32))
        return torch.from_numpy(np.stack(rows))
