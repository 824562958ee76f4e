"""The way from a student's file to a LatentStudent that runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ..autoencoder.codecs import Codec, KLCodec, TinyDecoder
from ..diffusion.sampler import Sampler
from ..errors import ConfigError, ModelError
from .latent import LatentConfig, LatentStudent
from .onestep import OneStep, Options


class Reader(Protocol):
    """A base, as far as it reads the networks of its students from a file."""

    def student(self, header: dict[str, Any], tensors: Mapping[str, Tensor]) -> tuple[OneStep, Codec]: ...
    def teacher(
        self, header: dict[str, Any], tensors: Mapping[str, Tensor], steps: int | None
    ) -> tuple[Sampler, Codec]: ...


def open_student(
    path: Path,
    header: dict[str, Any],
    tensors: dict[str, Tensor],
    options: Options,
    decoder: dict[str, Tensor] | None,
    reader: Reader,
) -> LatentStudent:
    """The student in the file `path`, whose `header` and `tensors` these are.

    Args:
        decoder: tensors of a TAESD decoder, to take instead of the model's own.
        reader: the base that the header names.

    Raises:
        ModelError: a header or tensors that are damaged or of another model.
        ConfigError: options that this file cannot have.
    """
    entry = header["student"]
    try:
        config, folded = LatentConfig(**entry["latent"]), bool(entry["folded"])
    except (KeyError, TypeError, ConfigError) as error:
        raise ModelError(
            f"{path}: expected the header of a student, found a damaged one: {error!r}"
        ) from error
    if folded and options.steps not in (None, 1):
        raise ConfigError(
            f"{path}: expected 1 step, since this file is folded for one, found {options.steps}: convert the "
            "authors' file with --unfolded for its many-step sampler"
        )
    try:
        denoiser: OneStep | Sampler
        codec: Codec
        if folded:
            denoiser, codec = reader.student(entry, tensors)
        else:
            denoiser, codec = reader.teacher(entry, tensors, options.steps)
        tiny = None if decoder is None else tiny_decoder(codec, decoder)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    return LatentStudent(denoiser, codec, config, header, options, tiny)


def tiny_decoder(codec: Codec, tensors: dict[str, Tensor]) -> TinyDecoder:
    """A TAESD decoder for the latents of `codec`. Raises ConfigError, ModelError."""
    if not isinstance(codec, KLCodec):
        raise ConfigError(
            "expected a model with a variational autoencoder for a tiny decoder, found one with another"
        )
    # TAESD3 was trained on shifted latents, TSD-SR leaves the shift out
    missing = float(codec.vae.config.shift_factor or 0) - codec.shift
    decoder = TinyDecoder.from_tensors(tensors, missing * codec.scale)
    if decoder.channels != codec.channels:
        raise ModelError(
            f"expected a tiny decoder of {codec.channels} latent channels, found one of {decoder.channels}: "
            "take that of the model's base (unistep models list)"
        )
    return decoder
