"""`unistep models`: names, defaults and help; the work is in `models.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App

from unistep.command.options import Model, argument, option
from unistep.recipes import examples

models = App(name="models", help="Weights: list, pull, verify, info, convert, rm.", help_epilogue="")


@models.command(name="list")
def list_models() -> int:
    """List what is here: the package's models, pulled ones, your students."""
    from unistep.command import models as command

    return command.listing()


@models.command(
    help_epilogue=f"""{examples.PULL}

Stopped downloads go on with the same command. HF_HOME (folder),
HF_ENDPOINT (mirror), HF_TOKEN and HF_HUB_OFFLINE hold."""
)
def pull(
    name: Annotated[str, argument("NAME", "A name of the catalogue, or owner/repository[@revision].")],
    /,
    *,
    include: Annotated[
        list[str] | None,
        option("Also files of this pattern; may be repeated.", metavar="PATTERN"),
    ] = None,
    offline: Annotated[bool, option("Only look whether it is here.")] = False,
) -> int:
    """Fetch a model of others: its licence is shown, its files are checked."""
    from unistep.command import models as command

    return command.pull(name, include or [], offline=offline)


@models.command(name="rm")
def remove(name: Annotated[str, argument("NAME", "A pulled model.")], /) -> int:
    """Delete a pulled model."""
    from unistep.command import models as command

    return command.remove(name)


@models.command
def verify(
    model: Annotated[
        str | None, argument("MODEL", "Name or .safetensors file. Default: all that are here.")
    ] = None,
    /,
) -> int:
    """Look for damage: load the package's models, compare all with their checksums."""
    from unistep.command import models as command

    return command.verify(model)


@models.command
def info(model: Model = None, /) -> int:
    """Show what is known of a model: source, licence, hashes, recipe."""
    from unistep.command import models as command

    return command.info(model)


@models.command(help_epilogue=examples.CONVERT)
def convert(
    src: Annotated[Path, argument("SRC", "The authors' file, or TSD-SR's folder of LoRA files.")],
    dst: Annotated[Path, argument("DST", "The .safetensors file to write.")],
    /,
    *,
    base: Annotated[
        str | None,
        option("What the file was trained on: a folder in diffusers' layout or a pulled model."),
    ] = None,
    vae: Annotated[Path | None, option("The VQ autoencoder's file, where it needs one.")] = None,
    embedding: Annotated[
        Path | None,
        option("Prompt embeddings: TSD-SR's folder of them, or a file of one tensor."),
    ] = None,
    prompt: Annotated[str | None, option("Text for the base's own text encoder.")] = None,
    kind: Annotated[
        str | None,
        option("Whose files they are (tsdsr, osediff ...), or tensors. Default: by the file."),
    ] = None,
    variant: Annotated[
        str | None,
        option("Which model of its family it is. Default: by the file's name."),
    ] = None,
    pix: Annotated[float, option("PiSA-SR: share of its pixel-level LoRA. Default: 1.")] = 1.0,
    sem: Annotated[float, option("PiSA-SR: share of its semantic LoRA. Default: 1.")] = 1.0,
    dtype: Annotated[
        Literal["float16", "bfloat16", "float32"],
        option("Of the stored weights: float16 (default), bfloat16, float32."),
    ] = "float16",
    unfolded: Annotated[bool, option("Keep time and prompt as inputs: a teacher, for --steps.")] = False,
) -> int:
    """Turn the authors' weights into one .safetensors file, safely."""
    from unistep.command import models as command

    asked = {"kind": kind, "vae": vae, "embedding": embedding, "prompt": prompt, "variant": variant}
    return command.convert(src, dst, base, dtype=dtype, unfolded=unfolded, pix=pix, sem=sem, **asked)
