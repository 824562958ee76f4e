"""`unistep degrade`: pairs as files, for those who train elsewhere."""

from pathlib import Path

from ..errors import DataError, UnistepError
from ..image import Picture, write_image
from .degrade import degrade
from .presets import preset as named
from .skipping import Report
from .sources import image_files, load_rgb


def write_pairs(
    source: Path, out: Path, preset: str = "realesrgan", seed: int = 0, report: Report = print
) -> int:
    """`unistep degrade`: writes out/hr/NAME.png and out/lr/NAME.png for each image; returns how many failed.

    `source` is an image or a folder, whose folders are mirrored (without `out`, should it lie inside). The
    place in the sorted list is the image's index, so the same command makes the same pairs. The ground truth
    is cropped to a multiple of the scale. An image that fails is reported and skipped. Raises DataError for a
    source without images, ConfigError for an unknown preset.
    """
    params = named(preset)
    files, root = ([source], source.parent) if source.is_file() else (image_files(source), source)
    files = [file for file in files if out.resolve() not in file.resolve().parents]
    if not files:
        raise DataError(f"{source}: expected images outside of {out}, where the pairs go, found none there")
    taken: dict[Path, Path] = {}
    failed = 0
    for index, file in enumerate(files):
        name = file.relative_to(root).with_suffix(".png")
        try:
            first = taken.setdefault(name, file)
            if first != file:
                raise DataError(
                    f"{file}: its pair would have the name of {first}'s, {name}: rename one of them"
                )
            x = load_rgb(file)[None].float() / 255
            h, w = (side // params.scale * params.scale for side in x.shape[-2:])
            if not (h and w):
                raise DataError(
                    f"{file}: expected at least {params.scale} pixels on each side, "
                    f"found {x.shape[3]}x{x.shape[2]}"
                )
            x_lq, x_hq = degrade(x[..., :h, :w], params, seed=seed, indices=[index])
            for folder, image in (("hr", x_hq), ("lr", x_lq)):
                target = out / folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                write_image(target, Picture(image[0].permute(1, 2, 0).contiguous().numpy()))
        except (UnistepError, OSError) as error:
            failed += 1
            report(str(error))
    report(f"{len(files) - failed} pairs in {out}" + (f", {failed} failed" if failed else ""))
    return failed
