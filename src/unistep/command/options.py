"""How the command's options look, and what several commands take alike."""

from typing import Annotated, Any, Literal

from cyclopts import Parameter


def option(text: str, *aliases: str, **more: Any) -> Parameter:
    """An option named as its parameter; without --no-... forms, and defaults only where the help has them."""
    return Parameter(alias=aliases, help=text, negative=(), show_default=False, show_choices=False, **more)


def argument(name: str, text: str) -> Parameter:
    return Parameter(name=name, help=text, negative=(), show_default=False)


Model = Annotated[str | None, argument("MODEL", "Name or .safetensors file. Default: the packaged model.")]
Recipe = Annotated[str, argument("RECIPE", "Name of a recipe; ? lists them.")]
Device = Annotated[str, option("auto (default), cpu, cuda, cuda:1 ...", "-d")]
Dtype = Annotated[
    Literal["auto", "float32", "float16", "bfloat16"],
    option("auto (default: as the device is fast), float32, float16, bfloat16."),
]
Compile = Annotated[bool, option("torch.compile: slow start, then faster.")]
