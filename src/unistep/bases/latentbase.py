"""What Stable Diffusions share as bases: opened once, frozen, with a LoRA of its own for each role.

Every role's network is a copy whose tensors are the base's own, so that a role costs its LoRA alone. (One
network whose adapters are switched loses gradients where another adapter is active in the backward pass.)
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..autoencoder.codecs import KLCodec
from ..diffusion.denoiser import Cond, Denoiser, Features, filled
from ..diffusion.process import Process
from ..errors import ConfigError
from ..tensors import part, read_tensors
from . import lora
from .adapted import DTYPES, AdaptedConfig

VAE_TARGETS = (
    r"quant_conv|encoder\..*(conv_in|conv_out|conv1|conv2|conv_shortcut|downsamplers\.\d+\.conv"
    r"|to_q|to_k|to_v|to_out\.0)"
)
"""Layers of the autoencoder that a student's own encoder trains: all that weigh (TSD-SR, OSEDiff)."""
Prompts = Callable[[str], tuple[Tensor, Tensor | None]]
"""A text -> its embedding [1, tokens, D] and, where the base takes one, the pooled one [1, P]; float32."""


@dataclass(frozen=True)
class Opened:
    """The parts of a base: diffusers' network, the autoencoder, the process, and the folder they are from."""

    net: Any
    codec: KLCodec
    process: Process
    folder: Path = Path()


class Student(Denoiser):
    """A denoiser with all else that a student may train: an encoder of its own, its prompt's embedding."""

    def __init__(
        self,
        denoiser: Denoiser,
        codec: KLCodec | None,
        scale: int,
        prompt: Tensor | None,
        pooled: Tensor | None,
    ):
        """codec: looks at the picture, `scale` times enlarged; None: z_t is taken. prompt, pooled: where the
        learned ones start; None: the condition's are taken."""
        super().__init__()
        self.denoiser, self.process, self.codec, self.scale = denoiser, denoiser.process, codec, scale
        self.prompt, self.pooled = (None if p is None else nn.Parameter(p.clone()) for p in (prompt, pooled))

    def forward(self, z_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        if self.codec is not None:
            z_t = self.codec.encode(enlarged(cond.image, self.scale))
        if self.prompt is not None:
            cond = replace(cond, prompt=self.prompt, pooled=self.pooled)
        z_0: Tensor = self.denoiser(z_t, t, cond)
        return z_0


class LatentBase(ABC):
    """Stable Diffusion, opened for training (`denoiser.Base`)."""

    name: str
    """In BASES."""
    view: str
    """The one process that the network knows."""
    component: str
    """The network's folder in the diffusers layout, and its name within a denoiser."""
    prefixes: tuple[str, str]
    """Before the names in the authors' LoRA files: in the network's, in the autoencoder's."""
    clothed: ClassVar[Any]
    taps: ClassVar[Any]
    """(network, process) -> the network as a denoiser, and as its encoder half."""
    text_keys: ClassVar[tuple[str, ...]]
    """Of the network's configuration: widths of a token's embedding and, if there is one, of the pooled."""
    sigma_data = 1.0
    """Latents are scaled to unit variance."""
    guided = True

    def __init__(
        self,
        source: Path | Opened,
        config: AdaptedConfig,
        prompts: Prompts,
        device: torch.device | str = "cpu",
    ):
        """source: a folder in the diffusers layout, or its parts, which the base then takes over.

        Raises ModelError for another model and another LoRA; ConfigError for embeddings of another model.
        """
        opened = source if isinstance(source, Opened) else self.read(source, config)
        self.config, self.device, self.folder = config, torch.device(device), opened.folder
        # not diffusers' own `to`, which warns whatever it casts
        self.net = nn.Module.to(opened.net, self.device, DTYPES[config.dtype]).eval()
        self.codec = opened.codec.to(self.device, torch.float32).eval()
        for module in (self.net, self.codec.vae):
            module.requires_grad_(False)
            if config.checkpointing:  # diffusers' own, which is not reentrant; copies keep it
                module.enable_gradient_checkpointing()
        self.only, self.scale, self.prompts = opened.process, config.scale, prompts
        patch = getattr(self.net.config, "patch_size", 1)
        self.multiple = max(1, self.codec.factor * patch // config.scale)
        self.prompt, self.pooled = self.words(config.prompt)
        self.without = self.words(config.negative)

    @classmethod
    @abstractmethod
    def read(cls, folder: Path, config: Any) -> Opened:
        """The parts in a folder in the diffusers layout. Raises ModelError."""

    @property
    @abstractmethod
    def t_student(self) -> int:
        """The index that one-step students are asked at."""

    @abstractmethod
    def targets(self, role: str) -> Sequence[str] | str:
        """The layers that the LoRA of a role trains."""

    @abstractmethod
    def export(
        self, weights: Mapping[str, Tensor], method: str, dtype: torch.dtype
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """(header["student"], tensors) of the folded student. `weights`: what it trained, by its names."""

    # ---- roles

    def process(self, view: str) -> Process:
        """Raises ConfigError for a view that the network was not trained for."""
        if view != self.view:
            raise ConfigError(
                f"expected method.process to be {self.view} on the base {self.name}, found “{view}”"
            )
        return self.only

    def adapted(self, role: str) -> Any:
        """A copy of the network with the LoRA of `role`, beside tensors that are the base's own."""
        net, c = shared(self.net), self.config
        if role == "teacher":
            if c.lora_teacher:
                lora.wear(net, self.file(c.lora_teacher, 0), c.lora_teacher)
            return net
        rank = c.rank if role == "student" else c.rank_score
        self.inject(net, role, rank)
        mine = c.lora_student and f"{c.lora_student}/{self.component}.safetensors"
        if file := {"student": mine, "score": c.lora_score}.get(role):
            lora.fill(net, self.file(file, 0), file, self.share(rank))
        return net

    def inject(self, net: Any, role: str, rank: int) -> None:
        """Puts into `net` what a role trains."""
        lora.adapt(net, self.targets(role), rank, self.config.alpha)

    def share(self, rank: int) -> float:
        """How often a LoRA counts."""
        return (self.config.alpha or rank) / rank

    def file(self, path: str, which: int) -> dict[str, Tensor]:
        """A LoRA in the authors' layout: of the network (0) or of the autoencoder (1)."""
        return lora.strip(read_tensors(Path(path)), self.prefixes[which])

    def encoder(self) -> KLCodec | None:
        """The student's own encoder, a LoRA on the base's; None where it has none."""
        c = self.config
        if not c.rank_encoder:
            return None
        codec: KLCodec = shared(self.codec)
        codec.vae.decoder = codec.vae.post_quant_conv = None
        lora.adapt(codec.vae, VAE_TARGETS, c.rank_encoder, c.alpha)
        if c.lora_student:
            file = f"{c.lora_student}/vae.safetensors"
            lora.fill(codec.vae, self.file(file, 1), file, self.share(c.rank_encoder))
        return codec

    def denoiser(self, role: str, view: str) -> Denoiser:
        self.process(view)
        denoiser: Denoiser = self.clothed(self.adapted(role), self.only)
        if role != "student":
            return denoiser
        learned = (self.prompt, self.pooled) if self.config.learned_prompt else (None, None)
        return Student(denoiser, self.encoder(), self.scale, *learned)

    def features(self, role: str, view: str) -> Features:
        self.process(view)
        features: Features = self.taps(self.adapted(role), self.only)
        return features

    # ---- pictures and texts

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """x [B, 3, H, W] in [-1, 1], sides multiples of 8 (SD3: 16) -> the posterior's mean [B, C, H/8, W/8].

        Differs from the authors' code, which samples the posterior.
        """
        return self.codec.encode(x)

    def decode(self, z: Tensor) -> Tensor:
        return self.codec.decode(z)

    def words(self, text: str) -> tuple[Tensor, Tensor | None]:
        """The embeddings of a text on the base's device. Raises ConfigError for those of another model."""
        prompt, pooled = self.prompts(text)
        given = [one for one in (prompt, pooled) if one is not None]
        found = tuple(one.shape[-1] for one in given)
        wanted = tuple(getattr(self.net.config, key) for key in self.text_keys)
        if prompt.ndim != 3 or found != wanted:
            raise ConfigError(
                f"expected embeddings of widths {wanted} on the base {self.name}, found {found}: take "
                "those that this base's text encoders made"
            )
        prompt, *rest = (one.to(self.device, torch.float32) for one in given)
        return prompt, rest[0] if rest else None

    def cond(self, x_lq: Tensor) -> Cond:
        """x_lq [B, 3, h, w] in [-1, 1], enlarged to sides as `encode` takes; y is the latent of that."""
        return Cond(x_lq, self.encode(enlarged(x_lq, self.scale)), self.prompt, self.pooled)

    def null(self, cond: Cond) -> Cond | None:
        prompt, pooled = self.without
        return replace(cond, prompt=prompt, pooled=pooled)

    def told(self, cond: Cond, texts: Sequence[str]) -> Cond:
        """`cond` with the embeddings of `texts`, one for each image: [B, tokens, D] and [B, P]."""
        prompts, pooled = zip(*map(self.words, texts), strict=True)
        return replace(
            cond,
            prompt=torch.cat(prompts),
            pooled=None if self.pooled is None else torch.cat(pooled),
        )

    # ---- students

    def check_student(self, view: str, t: int) -> None:
        """Raises ConfigError unless t is the index at which a student is folded."""
        self.process(view)
        if t != self.t_student:
            raise ConfigError(
                f"expected method.t_student to be {self.t_student} on the base {self.name}, found {t}"
            )

    @torch.no_grad()
    def restore(self, student: nn.Module, x_lq: Tensor) -> Tensor:
        """[B, 3, h, w] -> [B, 3, scale h, scale w], both in [0, 1], on the CPU; sides as for `cond`."""
        cond = self.cond(x_lq.to(self.device) * 2 - 1)
        z_hat = student(cond.y, filled(self.t_student, cond.y), cond)
        return (self.decode(z_hat).cpu() + 1) / 2

    def layout(self, weights: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """File name -> tensors: a student's LoRA as its authors store it, to count once; its learned prompt.

        `weights`: what it trained, by the student's own names.
        """
        own = {name.removeprefix("denoiser."): p for name, p in weights.items()}
        c, net, vae = self.config, f"{self.component}.", "codec.vae."
        files: dict[str, dict[str, Tensor]] = {
            f"{self.component}.safetensors": plain(part(own, net), self.prefixes[0], self.share(c.rank)),
            "prompt.safetensors": {name: own[name] for name in ("prompt", "pooled") if name in own},
        }
        if c.rank_encoder:
            files["vae.safetensors"] = plain(part(own, vae), self.prefixes[1], self.share(c.rank_encoder))
        return {name: tensors for name, tensors in files.items() if tensors}

    def learned(self, files: Mapping[str, dict[str, Tensor]]) -> list[Tensor]:
        """The embedding of a student's prompt, and the pooled one if there is one, from its `layout`."""
        own = {"prompt": self.prompt, "pooled": self.pooled} | files.get("prompt.safetensors", {})
        return [one.cpu() for one in own.values() if one is not None]


def shared(module: Any) -> Any:
    """A copy of a module whose tensors are the module's own."""
    tensors: dict[int, Any] = {id(p): p for p in [*module.parameters(), *module.buffers()]}
    return copy.deepcopy(module, tensors)


def enlarged(x_lq: Tensor, scale: int) -> Tensor:
    """Pictures in [-1, 1] as the encoder sees them, by torch's bicubic (TSD-SR)."""
    return F.interpolate(x_lq, scale_factor=scale, mode="bicubic", align_corners=False).clamp(-1, 1)


def plain(own: Mapping[str, Tensor], prefix: str, share: float) -> dict[str, Tensor]:
    """A LoRA that counts `share` times, under PEFT's names, as one that counts once, under the files'."""
    return {
        prefix + name.replace(".default.weight", ".weight"): p * share if ".lora_B." in name else p
        for name, p in own.items()
    }
