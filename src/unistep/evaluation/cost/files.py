"""A picture file through `unistep upscale`: read, decode, tiles, colours, encode, write."""

from pathlib import Path

from ...errors import UnistepError
from ...image import Picture, write_image
from ...upscaling import folders
from .participants import Participant
from .stages import random_picture
from .timing import Run

FORMAT = "png"


def picture_file(folder: Path, side: int) -> Path:
    """A synthetic picture of side x side pixels."""
    file = folder / f"picture.{FORMAT}"
    write_image(file, Picture(random_picture(side, side)))
    return file


def through_files(who: Participant, source: Path, target: Path) -> Run:
    """What the command does for one file; a result that exists is replaced. Raises what went wrong."""

    def run() -> None:
        jobs = folders.plan([source], target, sizing={"scale": float(who.scale)}, existing="overwrite")
        for job in folders.run(jobs, who.enlarge):
            if job.status != "done":
                raise job.error or UnistepError(f"{source}: {job.message}")

    return run
