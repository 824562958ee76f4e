"""Which files of a folder are pictures, and why the others are passed over.

A file is taken by its suffix, and where that is an odd one (`.jpe`, `.jpg_large`, none at all) by its first
bytes. What cannot be a picture by its name, such as notes beside pictures, is not worth a word.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from unistep.image.decoders import sniff
from unistep.image.encoders import FORMATS
from unistep.upscaling.paths import same

# Suffixes that are tried whatever the file holds, so that a damaged picture is said to be one.
READABLE = frozenset({".gif"}.union(*(form.suffixes for form in FORMATS.values())))
RAW = "camera raw"
BESIDE = "what lies beside pictures"  # notes, lists, settings: not worth a word
UNREAD = {
    BESIDE: ".aae .cos .csv .db .dop .htm .html .ini .json .lnk .log .md .on1 .pp3 .sha256 .srt .thm .toml "
    ".txt .url .xml .xmp .yaml .yml",
    "HEIC": ".heic .heif .heics .hif",
    RAW: ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .gpr .iiq .k25 .kdc .mef .mos .mrw .nef .nrw .orf "
    ".pef .raf .raw .rw2 .rwl .sr2 .srf .srw .x3f",
    "JPEG XL": ".jxl",
    "JPEG 2000": ".j2c .j2k .jp2 .jpc .jpf .jpx",
    "a picture of this kind": ".cin .dds .dpx .exr .fits .hdr .icns .ico .pbm .pcx .pfm .pgm .pnm .ppm .qoi "
    ".tga",
    "a picture in layers": ".afphoto .clip .kra .psb .psd .xcf",
    "a drawing": ".ai .cdr .emf .eps .ps .svg .svgz .wmf",
    "a document": ".doc .docx .odt .pdf .ppt .pptx .xls .xlsx",
    "a video": ".3gp .avi .insv .lrv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .webm .wmv",
    "sound": ".aac .flac .m4a .mp3 .ogg .wav",
    "an archive": ".7z .bz2 .cbz .gz .rar .tar .tgz .xz .zip",
}
KINDS = {suffix: kind for kind, suffixes in UNREAD.items() for suffix in suffixes.split()}
# Copies that programs leave beside a picture: as pictures they would be done twice.
COPIES = (".bak", ".crdownload", ".download", ".orig", ".part", ".tmp", "_original", "~")
# Folders that operating systems and storage boxes leave among photographs (dotfiles are ignored anyway).
SYSTEM_FOLDERS = frozenset({"__MACOSX", "$RECYCLE.BIN", "System Volume Information", "@eaDir"})


def scan(folder: Path, recursive: bool, leave: Path | None) -> Iterator[tuple[Path, str | OSError | None]]:
    """What is in a folder, in the order of names, without hidden and system files and the folder `leave`.

    Each path comes with None (a picture, or a broken link that is named like one), the reason why the file is
    passed over, or the error of a folder that cannot be opened.
    """
    broken: list[OSError] = []
    leave = None if leave is None or same(leave, folder) else leave
    for root, folders, files in os.walk(folder, onerror=broken.append):
        here = Path(root)
        inside = [f for f in folders if not f.startswith(".") and f not in SYSTEM_FOLDERS]
        folders[:] = [f for f in sorted(inside) if recursive and not (leave and same(here / f, leave))]
        for name in sorted(files):
            path = here / name
            suffix = path.suffix.lower()
            if name.startswith(".") or KINDS.get(suffix) == BESIDE:
                continue
            if suffix in READABLE:
                if os.path.isfile(path) or os.path.islink(path):  # a broken link fails by its name
                    yield path, None
            elif os.path.isfile(path):
                yield path, _why_not(path)
    for error in broken:
        yield Path(error.filename), error


def content(path: Path) -> str | None:
    """The format that the first bytes of a regular file announce; None also if it cannot be opened."""
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError:
        return None
    format = sniff(head)
    # Two letters are little to go by where no suffix agrees: the reserved bytes of a BMP are zero.
    return None if format == "BMP" and any(head[6:10]) else format


def _why_not(path: Path) -> str | None:
    """Why a file without a picture's suffix is passed over; None if it holds a picture all the same."""
    kind, format = KINDS.get(path.suffix.lower()), content(path)
    if path.name.lower().endswith(COPIES):
        return "a copy or an unfinished download"
    if format is None or (kind == RAW and format == "TIFF"):  # most raw files are TIFFs inside
        return f"{kind} is not read" if kind else "not a picture that is read"
    return None
