"""What Stable Diffusions share before they are opened: settings, and a face; importing this needs no package.

Their own weights stay frozen: each role trains a LoRA of its own.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..errors import ConfigError, check_choices, check_range
from .face import FROM_NOTHING, Face, Source, Sources
from .prompts import Prompts

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MOST_RANK = 1024
BLIND = "its teacher must see the low-quality image and start from it; this base's sees noise and a text"


@dataclass(frozen=True)
class AdaptedConfig:
    """A Stable Diffusion whose own weights stay frozen: each role trains a LoRA of its own."""

    prompt: str = ""
    """What the student is told, and every other role where images have no prompts of their own."""
    negative: str = ""
    """The condition without content, for classifier-free guidance."""
    rank: int = 64
    """Of the student's LoRA."""
    alpha: float = 0.0
    """LoRAs count alpha / rank times; 0: as often as their rank, once."""
    rank_encoder: int = 64
    """Of the LoRA on the encoder that the student looks with; 0: it looks with the frozen one."""
    rank_score: int = 64
    """Of the LoRA of a score network or a critic."""
    learned_prompt: bool = False
    """The student's embedding is trained too, from that of `prompt` on (DFOSD Sec. 3.1)."""
    lora_student: str = ""
    """A folder of LoRA files in the authors' layout, of these ranks, that the student starts from."""
    lora_teacher: str = ""
    """A LoRA file in the authors' layout that the teacher wears, and keeps."""
    lora_score: str = ""
    """A LoRA file in the authors' layout that the score network starts from."""
    scale: int = 4
    """Enlargement from the low-quality image to the result: 4, or 1 for pictures that are large already."""
    dtype: str = "fp32"
    """Of the frozen denoiser's weights: fp32, bf16 or fp16. LoRAs and autoencoder stay float32."""
    checkpointing: bool = False
    """Blocks are computed again in the backward pass instead of kept: less memory, more arithmetic."""
    sha256: str = ""
    """What `train.init` must hash to (`unistep train` prints it); empty: the run remembers what it found."""

    def __post_init__(self) -> None:
        check_choices("base", self, {"dtype": DTYPES})
        check_range("base", self, "rank rank_score", 1)
        check_range("base", self, "rank_encoder alpha", 0)
        for name in ("rank", "rank_encoder", "rank_score"):
            if getattr(self, name) > MOST_RANK:
                raise ConfigError(
                    f"expected base.{name} to be at most {MOST_RANK}, found {getattr(self, name)}: a larger "
                    "LoRA is hardly smaller than its layer"
                )
        if self.scale not in (1, 4):
            raise ConfigError(f"expected base.scale to be 1 or 4, found {self.scale}")


class AdaptedFace(Face):
    """A Stable Diffusion. Its samples are of a text: they tell nothing of a low-quality image."""

    sees = False
    files: ClassVar[tuple[str, ...]] = ("lora_student", "lora_teacher", "lora_score")
    obstacles: ClassVar = {
        "teacher": FROM_NOTHING,
        "tadsr": BLIND,
        "sinsr": BLIND,
    }
    Base: ClassVar[Any]
    """What it is when it is opened: called with folder, config, prompts and device."""

    def check(self, config: Any, source: Source, recipe: str) -> None:
        """Another model is known by what it lacks."""
        for component in self.components:
            if not (source.path / component / "config.json").is_file():
                raise ConfigError(
                    f"expected train.init to be {self.start}, found {source.path} without {component}/: "
                    f"take the base of {recipe}"
                )

    def open(
        self, config: Any, sources: Sources, device: torch.device, prompts: Prompts | None = None
    ) -> Any:
        return self.Base(sources["train.init"].path, config, prompts, device)
