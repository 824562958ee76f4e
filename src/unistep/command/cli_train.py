"""`unistep train`, `prepare` and `export`: names, defaults and help; the work is elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from unistep.command.options import Recipe, argument, option
from unistep.command.report import Live
from unistep.errors import ConfigError

Settings = Annotated[
    list[str] | None,
    option("Change one setting of the recipe; may be repeated.", metavar="KEY=VALUE"),
]
STRICT = "Stop at the first image or shard that cannot be used"


def train(
    recipe: Recipe,
    /,
    *,
    data: Annotated[
        Path | None,
        option("Folder of training photographs, of tar archives, or of unistep prepare."),
    ] = None,
    out: Annotated[Path | None, option("Folder of the run: checkpoints, curves, sheets.")] = None,
    set: Settings = None,
    strict: Annotated[
        bool, option(f"{STRICT}, and where the data set has changed since the last step (data.strict=true).")
    ] = False,
    dry_run: Annotated[
        bool, option("Show the resolved run, open its networks, read its images; train nothing.")
    ] = False,
    plan: Annotated[
        bool, option("Show what a step needs in memory and arithmetic; needs no weights, no GPU.")
    ] = False,
    smoke: Annotated[
        bool, option("Train a tiny random model for a few steps and compare with known losses.")
    ] = False,
) -> int:
    """Train a model; the same command again goes on where it stopped."""
    settings = [*(set or []), *(["data.strict=true"] if strict else [])]
    if plan:
        from unistep.training.plan import main as show_plan

        show_plan(recipe, settings)
        return 0
    if smoke:
        from unistep.training.smoke import main as try_out

        if settings:
            raise ConfigError(
                f"expected --smoke without other settings, found {', '.join(settings)}: leave them out"
            )
        try_out(recipe)
        return 0
    if data is None or out is None:
        raise ConfigError(
            "expected --data FOLDER and --out FOLDER, found none: only --plan and --smoke do without"
        )
    from unistep.training.loop import main

    live = Live()
    main(recipe, data, out, settings, dry_run=dry_run, report=live.report, tick=live.tick)
    return 0


def export(
    run: Annotated[Path, argument("RUN", "Folder of a training run on a large base.")],
    dst: Annotated[Path, argument("FILE", "The .safetensors file to write.")],
    /,
    *,
    authors: Annotated[
        Path | None,
        option("Also the LoRA files in the layout of the method's authors.", metavar="FOLDER"),
    ] = None,
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"], option("Of the weights. Default: float16.")
    ] = "float16",
) -> int:
    """Fold a trained student into one file for `unistep upscale -m`."""
    from unistep.bases.conversion import DTYPES
    from unistep.training.export import export as fold

    fold(run, dst, authors, DTYPES[dtype])
    return 0


def prepare(
    recipe: Recipe,
    /,
    *,
    data: Annotated[Path, option("Folder of photographs or of tar archives.")],
    out: Annotated[Path, option("Folder for the shards; unistep train takes it as --data.")],
    set: Settings = None,
    crops: Annotated[int | None, option("At most so many of each photograph. Default: all that fit.")] = None,
    embedding: Annotated[
        Path | None,
        option("TSD-SR's folder of prompt embeddings, for base.prompt.", metavar="FOLDER"),
    ] = None,
    negative: Annotated[Path | None, option("The same for base.negative.", metavar="FOLDER")] = None,
    strict: Annotated[bool, option(f"{STRICT}, as data.strict=true.")] = False,
) -> int:
    """Cut photographs, encode them and their texts, once for all training runs.

    For a recipe with train.restorer: make whole pairs with its results, data.draws of each crop.
    """
    from unistep.training.prepare import main

    live = Live()
    settings = [*(set or []), *(["data.strict=true"] if strict else [])]
    main(recipe, data, out, settings, crops, (embedding, negative), live.report, live.tick)
    return 0
