"""The way from a student's file to a LatentStudent that runs."""

from pathlib import Path
from typing import Any

from torch import Tensor

from ..autoencoder.codecs import Codec, KLCodec, TinyDecoder
from ..bases.resshift import student as resshift
from ..bases.sd3 import student as sd3
from ..bases.sd21 import student as sd21
from ..diffusion.sampler import Sampler
from ..errors import ConfigError, ModelError
from ..students.latent import LatentConfig, LatentStudent
from ..students.onestep import OneStep, Options

STUDENTS: dict[str, Any] = {"sd3": sd3, "sd21": sd21, "resshift": resshift}
"""header["student"]["base"] -> the module whose `student` and `teacher` read it."""


def open_student(
    path: Path,
    header: dict[str, Any],
    tensors: dict[str, Tensor],
    options: Options,
    decoder: dict[str, Tensor] | None = None,
) -> LatentStudent:
    """The student in the file `path`, whose `header` and `tensors` these are.

    Args:
        decoder: tensors of a TAESD decoder, to take instead of the model's own.

    Raises:
        ModelError: a header or tensors that are damaged or of another model.
        ConfigError: options that this file cannot have.
    """
    entry = header["student"]
    try:
        module, config = STUDENTS[entry["base"]], LatentConfig(**entry["latent"])
        folded = bool(entry["folded"])
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
            denoiser, codec = module.student(entry, tensors)
        elif teacher := getattr(module, "teacher", None):
            denoiser, codec = teacher(entry, tensors, options.steps)
        else:
            raise ModelError("expected a folded student, found one that keeps its time")
        tiny = None if decoder is None else tiny_decoder(codec, decoder)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    return LatentStudent(denoiser, codec, config, header, options, tiny)


def tiny_decoder(codec: Codec, tensors: dict[str, Tensor]) -> TinyDecoder:
    """A TAESD decoder for the latents of `codec`. Raises ConfigError, ModelError."""
    if not isinstance(codec, KLCodec):
        raise ConfigError(
            "expected a Stable Diffusion model for a tiny decoder, found one of ResShift's family"
        )
    # TAESD3 was trained on shifted latents, TSD-SR leaves the shift out
    missing = float(codec.vae.config.shift_factor or 0) - codec.shift
    decoder = TinyDecoder.from_tensors(tensors, missing * codec.scale)
    if decoder.channels != codec.channels:
        raise ModelError(
            f"expected a tiny decoder of {codec.channels} latent channels, found one of {decoder.channels}: "
            "SD3 takes taesd3, SD2.1 takes taesd"
        )
    return decoder
