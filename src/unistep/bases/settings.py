"""What a training run may set of a pretrained base; importing this needs none of the base's packages."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from ..errors import ConfigError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


MOST_RANK = 1024


def require(known: Iterable[str], **settings: str) -> None:
    """Raises ConfigError for a setting of the base that is not in `known`."""
    for name, value in settings.items():
        if value not in known:
            raise ConfigError(f"expected base.{name} to be one of {', '.join(known)}, found “{value}”")


def at_least(least: int, **settings: int) -> None:
    """Raises ConfigError for a setting of the base below `least`."""
    for name, value in settings.items():
        if value < least:
            raise ConfigError(f"expected base.{name} to be {least} or more, found {value}")


def wordless(base: str) -> ConfigError:
    """What there is to say where a base that takes no text is given some."""
    return ConfigError(f"expected no prompts on the base {base}, which takes no text, found some: "
                       "set data.prompts=false")  # fmt: skip


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
        require(DTYPES, dtype=self.dtype)
        at_least(1, rank=self.rank, rank_score=self.rank_score)
        at_least(0, rank_encoder=self.rank_encoder)
        for name in ("rank", "rank_encoder", "rank_score"):
            if getattr(self, name) > MOST_RANK:
                raise ConfigError(
                    f"expected base.{name} to be at most {MOST_RANK}, found {getattr(self, name)}: a larger "
                    "LoRA is hardly smaller than its layer"
                )
        if not 0 <= self.alpha < float("inf"):
            raise ConfigError(f"expected base.alpha to be 0 or more, found {self.alpha}")
        if self.scale not in (1, 4):
            raise ConfigError(f"expected base.scale to be 1 or 4, found {self.scale}")


@dataclass(frozen=True)
class SD3Config(AdaptedConfig):
    """Stable Diffusion 3 (`train.init`: its folder in the diffusers layout, or a pulled model's name)."""

    shift: bool = False
    """Whether latents are shifted, as in SD3's own pipeline; TSD-SR leaves it out."""


@dataclass(frozen=True)
class SD21Config(AdaptedConfig):
    """Stable Diffusion 2 or 2.1 (`train.init`: its folder in the diffusers layout, or a pulled name)."""

    t_student: int = 999
    """The index at which one-step students are asked."""
    train_conv_in: bool = False
    """The student's first convolution is trained as a whole too (OSEDiff, as released)."""
    critic: str = ""
    """Folder of SDXL, whose UNet DFOSD's discriminator then starts from (Tab. 6); empty: this base's own."""
    critic_latents: str = "as-is"
    """What that discriminator is given: this base's latents "as-is", or decoded and "re-encoded" by its own
    autoencoder."""
    critic_text: str = "empty"
    """What it is told: the "empty" text by its own text encoders, or "zeros", as its own pipeline has it."""
    critic_size: int = 0
    """Pixels per side of original and target that its time ids claim; 0: those of the picture it looks at."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(("as-is", "re-encoded"), critic_latents=self.critic_latents)
        require(("empty", "zeros"), critic_text=self.critic_text)
        at_least(0, t_student=self.t_student, critic_size=self.critic_size)


@dataclass(frozen=True)
class ResShiftConfig:
    """ResShift, trained as a whole (`train.init`: an unfolded file, `unistep models convert --unfolded`)."""

    variant: str = ""
    """What `train.init` must be of: resshift-15, resshift-4, resshift-faces, ...; empty: of any."""
    checkpointing: bool = False
    """Blocks are computed again in the backward pass instead of kept: less memory, more arithmetic."""
    sha256: str = ""
    """What `train.init` must hash to; empty: the run remembers what it found."""
