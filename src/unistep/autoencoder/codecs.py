"""Autoencoders between pictures and latents, all behind one protocol.

A latent here is what the denoiser sees: scaled, and shifted where the base's own pipeline shifts.
"""

import dataclasses
import inspect
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError, ModelError
from ..extras import extra
from ..tensors import load_exactly
from .vq import VQ, VQConfig


class Codec(nn.Module, ABC):
    """A pretrained autoencoder. It computes in the dtype of its weights; inputs must have it."""

    factor: int
    """Pixels per latent side."""
    channels: int
    """Of the latent."""

    @abstractmethod
    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """x [B, 3, H, W] about [-1, 1], sides multiples of `factor` -> z [B, C, H / factor, W / factor].

        noise: standard normal of z's shape: z is then a sample of the posterior, otherwise its mean. Codecs
        without a posterior ignore it.
        """

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """z [B, C, h, w] -> [B, 3, factor h, factor w] about [-1, 1], not clipped."""

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Plain values from which `from_config` builds the codec."""


class KLCodec(Codec):
    """The autoencoder of Stable Diffusion (Rombach et al. 2022, arXiv 2112.10752), by diffusers.

    z = (raw - shift_factor) scaling_factor; TSD-SR and its LoRA leave the shift out.
    """

    def __init__(self, vae: Any, shift: bool = False):
        """vae: an AutoencoderKL; shift: whether its shift_factor is applied."""
        super().__init__()
        self.vae = vae
        config = vae.config
        self.factor = 2 ** (len(config.block_out_channels) - 1)
        self.channels = int(config.latent_channels)
        self.scale = float(config.scaling_factor)
        self.shift = float(config.shift_factor or 0.0) if shift else 0.0
        self._shift = shift

    @classmethod
    def from_config(cls, config: Mapping[str, Any], shift: bool = False) -> "KLCodec":
        """Empty, on the meta device, from diffusers' config.json or from `config` of another codec."""
        kind = extra("diffusers").AutoencoderKL
        known = inspect.signature(kind.__init__).parameters.keys() - {"self"}
        try:
            with torch.device("meta"):
                vae = kind(**{name: value for name, value in config.items() if name in known})
        except (TypeError, ValueError, KeyError, IndexError) as error:
            raise ConfigError(
                f"expected the configuration of an AutoencoderKL, found {dict(config)} ({error})"
            ) from error
        return cls(vae.eval(), bool(config.get("shift", shift)))

    @property
    def config(self) -> dict[str, Any]:
        own = {name: value for name, value in self.vae.config.items() if not name.startswith("_")}
        return {**own, "shift": self._shift}

    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        h = self.vae.encoder(x)
        return self.latent(h if self.vae.quant_conv is None else self.vae.quant_conv(h), noise)

    def latent(self, moments: Tensor, noise: Tensor | None = None) -> Tensor:
        """What the encoder gives [B, 2C, h, w] -> z [B, C, h, w]."""
        mean, log_variance = moments.chunk(2, dim=1)
        if noise is not None:  # the limits are AutoencoderKL's
            mean = mean + (0.5 * log_variance.clamp(-30, 20)).exp() * noise.to(mean)
        return (mean - self.shift) * self.scale

    def raw(self, z: Tensor) -> Tensor:
        """z -> what the decoder takes."""
        return z / self.scale + self.shift

    def decode(self, z: Tensor) -> Tensor:
        h = self.raw(z)
        out: Tensor = self.vae.decoder(h if self.vae.post_quant_conv is None else self.vae.post_quant_conv(h))
        return out


class VQCodec(Codec):
    """A VQGAN: the latent is not quantised, the decoder quantises what it is given; there is no scale."""

    def __init__(self, vq: VQ):
        super().__init__()
        self.vq = vq
        self.factor, self.channels = vq.config.factor, vq.config.embed_dim

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "VQCodec":
        """Empty, on the meta device. Raises ConfigError for other settings than VQConfig's."""
        try:
            sizes = VQConfig(**config)
        except TypeError as error:
            raise ConfigError(f"expected the sizes of a VQ autoencoder, found {dict(config)}") from error
        with torch.device("meta"):
            return cls(VQ(sizes).eval())

    @property
    def config(self) -> dict[str, Any]:
        return dataclasses.asdict(self.vq.config)

    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.vq.encode(x)

    def decode(self, z: Tensor) -> Tensor:
        return self.vq.decode(z)


class Bound(nn.Module):
    """Keeps a latent within about [-3, 3]."""

    def forward(self, z: Tensor) -> Tensor:
        return 3 * torch.tanh(z / 3)


class TinyBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        three = [nn.Conv2d(width, width, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(three[0], nn.ReLU(), three[1], nn.ReLU(), three[2])

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x) + x)


class TinyDecoder(Codec):
    """A distilled decoder of Stable Diffusion's latents (TAESD; 4 or 16 channels), 64 wide.

    It was trained on latents that are scaled and shifted as the base's own pipeline does. `shift` is
    subtracted first: where the latent lacks the base's shift, it is shift_factor * scaling_factor.
    """

    factor = 8
    width = 64

    def __init__(self, channels: int, shift: float = 0.0):
        super().__init__()
        if channels not in range(1, 65) or not math.isfinite(shift):
            raise ConfigError(
                f"expected a tiny decoder's channels (1 to 64) and shift, found {channels} and {shift}"
            )
        self.channels, self.shift = channels, float(shift)
        w = self.width
        layers: list[nn.Module] = [Bound(), nn.Conv2d(channels, w, 3, padding=1), nn.ReLU()]
        for _ in range(3):
            layers += [TinyBlock(w), TinyBlock(w), TinyBlock(w), nn.Upsample(scale_factor=2)]
            layers += [nn.Conv2d(w, w, 3, padding=1, bias=False)]
        self.decoder = nn.Sequential(*layers, TinyBlock(w), nn.Conv2d(w, 3, 3, padding=1))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "TinyDecoder":
        """Empty, on the meta device."""
        try:
            with torch.device("meta"):
                return cls(**config).eval()
        except TypeError as error:
            raise ConfigError(
                f"expected a tiny decoder's channels and shift, found {dict(config)}"
            ) from error

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], shift: float = 0.0, dtype: torch.dtype = torch.float32
    ) -> "TinyDecoder":
        """From the tensors of a TAESD file, with its own names or those of diffusers' AutoencoderTiny.

        A codec that has an encoder needs both files' tensors under "encoder." and "decoder.". Raises
        ModelError that lists missing and surplus tensors.
        """
        own = {_official(name): tensor.to(dtype) for name, tensor in tensors.items()}
        if cls is TinyDecoder:
            own = {name: tensor for name, tensor in own.items() if not name.startswith("encoder.")}
        first = own.get("decoder.1.weight")
        if first is None or first.ndim != 4:
            found = ", ".join(sorted(tensors)[:3])
            raise ModelError(f"expected the tensors of a TAESD decoder, found {found or 'none'}")
        codec = cls.from_config({"channels": first.shape[1], "shift": shift})
        load_exactly(codec, own, "a TAESD decoder" if cls is TinyDecoder else "a TAESD encoder and decoder")
        return codec

    @property
    def config(self) -> dict[str, Any]:
        return {"channels": self.channels, "shift": self.shift}

    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        raise ConfigError("expected a codec that encodes, found a tiny decoder; use the base's own encoder")

    def decode(self, z: Tensor) -> Tensor:
        out: Tensor = self.decoder(z - self.shift)
        return 2 * out - 1


def _official(name: str) -> str:
    """The name within a tiny codec of a tensor that TAESD's files or diffusers name otherwise."""
    theirs = re.match(r"(encoder|decoder)\.layers\.(\d+)\.(.+)", name)
    if theirs:  # diffusers does not count the decoder's bound
        part, index, rest = theirs.groups()
        return f"{part}.{int(index) + (part == 'decoder')}.{rest}"
    return f"decoder.{name}" if name[:1].isdigit() else name
