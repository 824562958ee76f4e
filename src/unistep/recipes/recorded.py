"""What recipes gave when they were recorded, on a CPU with torch 2.13: `--smoke` compares with it."""

import json
from importlib import resources

Losses = dict[str, float]
"""Name of a loss or of a gradient's norm -> its value."""
BANDS: dict[str, tuple[Losses, Losses]] = json.loads(
    resources.files(__package__).joinpath("recorded.json").read_text(encoding="utf-8")
)
"""Recipe -> the losses of its first and of its last step."""
