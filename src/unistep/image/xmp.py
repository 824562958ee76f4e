"""XMP, made true for a picture that has been turned upright and resized.

A packet is read into a flat list of tags and texts, of which those are left out that are no longer true, and
written again with its prefixes, without recursion and in time proportional to its length. What is a little
broken is mended; a document type, whose entities could grow without end, is refused. Source: XMP, part 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple
from xml.parsers import expat
from xml.sax.saxutils import escape

from unistep.image.xmprules import APPLIED, RDF, TOLD, Name, Rules

# For packets that use a prefix without saying what it stands for.
PREFIXES = {
    "xml": "http://www.w3.org/XML/1998/namespace",
    "x": "adobe:ns:meta/",
    "rdf": RDF,
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "xmpMM": "http://ns.adobe.com/xap/1.0/mm/",
    "xmpRights": "http://ns.adobe.com/xap/1.0/rights/",
    "xmpNote": "http://ns.adobe.com/xmp/note/",
    "tiff": "http://ns.adobe.com/tiff/1.0/",
    "exif": "http://ns.adobe.com/exif/1.0/",
    "aux": "http://ns.adobe.com/exif/1.0/aux/",
    "crs": "http://ns.adobe.com/camera-raw-settings/1.0/",
    "lr": "http://ns.adobe.com/lightroom/1.0/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "Iptc4xmpCore": "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "mwg-rs": "http://www.metadataworkinggroup.com/schemas/regions/",
    "GCamera": "http://ns.google.com/photos/1.0/camera/",
    "drone-dji": "http://www.dji.com/drone-dji/1.0/",
}
# Encodings by a byte order mark, by a first "<" without one, and by name.
MARKS = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
MARKS |= {b"<\0\0\0": "utf-32-le", b"\0\0\0<": "utf-32-be", b"<\0": "utf-16-le", b"\0<": "utf-16-be"}
NAMED = re.compile(
    rb"""\s*<\?xml[^>]{1,80}?encoding\s*=\s*["'](iso-8859-1|windows-1252)["']""", re.IGNORECASE
)

DAMAGED = "its XMP is damaged and is dropped"
MENDED = "its XMP is damaged and kept as far as it can be read"
ILLEGAL = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
MARKUP = re.compile(
    r"<!\[CDATA\[.*?(?:\]\]>|\Z)|<!--.*?(?:-->|\Z)|<\?.*?(?:\?>|\Z)"
    r"|&(?:#(?:x(?P<hex>[0-9A-Fa-f]{1,8})|(?P<number>[0-9]{1,8}));|(?:amp|lt|gt|quot|apos);)?"
    r"|<(?![A-Za-z_:/!?]|[^\x00-\x7f])",
    re.DOTALL,
)
IN_TEXT = {"\r": "&#13;"}
IN_ATTRIBUTE = {'"': "&quot;", "\t": "&#9;", "\n": "&#10;", "\r": "&#13;"}


class Start(NamedTuple):
    """A tag that opens, with its attributes and the namespaces that it declares, as they are written."""

    name: Name
    attributes: list[tuple[Name, str]]
    declared: dict[str, str]


class End:
    """A tag that closes the last one open."""


class Other(NamedTuple):
    """A comment or a processing instruction, as it is written."""

    written: str
    packet: bool


Event = Start | End | Other | str
END = End()


def rewrite_xmp(
    xmp: bytes, width: int, height: int, *, gps: bool = True, turned: int | None = None
) -> tuple[bytes | None, list[str]]:
    """Make an XMP packet true: orientation, sizes and numbers of pixels where it has them; without thumbnails
    and what speaks of pictures and videos beside this one; and without the place if not wanted (nor comments
    and notes that only their maker can read).

    turned: the orientation by which the picture was turned upright; by default what the packet says. Returns
    the new packet in UTF-8, or None when it cannot be read, and notes of what is lost, one sentence each.
    """
    try:
        text, mended = _decoded(xmp)
        try:
            events = _read(text)
        except expat.ExpatError:
            events, mended = _read(_mended(text)), True
    except (expat.ExpatError, ValueError):
        return None, [DAMAGED]
    rules = Rules(dict(_told(events)), (width, height), gps, turned)
    root = next(event.name for event in events if isinstance(event, Start))
    if rules.value(root, applied=False) is None:
        return None, [DAMAGED]
    made = "".join(_written(events, rules)).strip()
    return made.encode(), [*([MENDED] if mended else []), *rules.notes]


def _decoded(xmp: bytes) -> tuple[str, bool]:
    """The text of a packet, and whether it is damaged."""
    named = NAMED.match(xmp)
    encoding = named[1].decode() if named else "utf-8"
    encoding = next((name for mark, name in MARKS.items() if xmp.startswith(mark)), encoding)
    try:
        text, broken = xmp.decode(encoding), False
    except UnicodeDecodeError:
        text, broken = xmp.decode(encoding, "replace"), True
    return text.strip("\0 \r\n\t\ufeff"), broken


def _mended(text: str) -> str:
    """The packet alone, without characters that XML forbids, and with each `&` and `<` that marks nothing
    escaped.
    """

    def mend(match: re.Match[str]) -> str:
        if match.group() in "&<":
            return escape(match.group())
        code = int(match["hex"] or "0", 16) or int(match["number"] or "0")
        legal = code < 0x110000 and not ILLEGAL.match(chr(code))
        return match.group() if legal or not (match["hex"] or match["number"]) else ""

    for end in ("<?xpacket end", "</x:xmpmeta", "</x:xapmeta", "</rdf:RDF"):
        at = text.find(end)
        closed = text.find(">", at) if at >= 0 else -1
        if closed >= 0:
            text = text[: closed + 1]
            break
    return MARKUP.sub(mend, ILLEGAL.sub("", text[max(0, text.find("<")) :]))


def _read(text: str) -> list[Event]:
    """Raises ExpatError where it is not XML, and ValueError for a document type."""
    events: list[Event] = []
    spaces: dict[str, list[str]] = {prefix: [space] for prefix, space in PREFIXES.items()}
    opened: list[list[str]] = []

    def named(written: str, attribute: bool = False) -> Name:
        prefix, colon, local = written.rpartition(":")
        if attribute and not colon:
            return Name(written, "", local)
        known = spaces.get(prefix) or ([""] if not prefix else [])
        return Name(written, known[-1] if known else None, local)

    def start(written: str, pairs: list[str]) -> None:
        given = dict(zip(pairs[::2], pairs[1::2], strict=True))
        declared = {name: space for name, space in given.items() if name.split(":")[0] == "xmlns"}
        rest = {name: value for name, value in given.items() if name not in declared}
        for name in (written, *rest):
            prefix = name.rpartition(":")[0]
            if prefix in PREFIXES and prefix != "xml" and len(spaces[prefix]) == 1:
                declared.setdefault(f"xmlns:{prefix}", PREFIXES[prefix])
        opened.append([name.partition(":")[2] for name in declared])
        for prefix, space in zip(opened[-1], declared.values(), strict=True):
            spaces.setdefault(prefix, []).append(space)
        attributes = [(named(name, attribute=True), value) for name, value in rest.items()]
        events.append(Start(named(written), attributes, declared))

    def end(_: str) -> None:
        for prefix in opened.pop():
            spaces[prefix].pop()
        events.append(END)

    def instruction(target: str, data: str) -> None:
        events.append(Other(f"<?{target} {data}?>", target == "xpacket"))

    def doctype(*_: object) -> None:
        raise ValueError("a document type")

    parser = expat.ParserCreate()
    parser.ordered_attributes = parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.ProcessingInstructionHandler = events.append, instruction
    parser.CommentHandler = lambda data: events.append(Other(f"<!--{data}-->", False))
    parser.StartDoctypeDeclHandler = doctype
    parser.Parse(text, True)
    return events


def _told(events: list[Event]) -> Iterator[tuple[str, str]]:
    """The names in TOLD with their values."""
    for event, following in pairwise(events):
        if isinstance(event, Start):
            yield from ((name.local, value) for name, value in event.attributes if name.local in TOLD)
            if event.name.local in TOLD and isinstance(following, str):
                yield event.name.local, following


def _written(events: list[Event], rules: Rules) -> Iterator[str]:
    """The packet without what is dropped, piece by piece."""
    opened: list[str] = []
    skipped, applied = 0, 0  # depths: in what is dropped; of the dimensions that regions apply to
    for event in events:
        if skipped:
            skipped += isinstance(event, Start) - isinstance(event, End)
        elif isinstance(event, str):
            yield escape(event, IN_TEXT)
        elif isinstance(event, Other):
            if rules.gps or event.packet:
                yield event.written if opened else f"{event.written}\n"
        elif isinstance(event, End):
            yield f"</{opened.pop()}>" + ("\n" if not opened else "")
            applied = applied if len(opened) >= applied else 0
        else:
            value = rules.value(event.name, bool(applied))
            if value is None:
                skipped = 1
                continue
            opened.append(event.name.written)
            if event.name.local == APPLIED:
                applied = len(opened)
            yield _tag(event, rules, bool(applied))
            if value:
                yield f"{value}</{opened.pop()}>"
                skipped = 1


def _tag(event: Start, rules: Rules, applied: bool) -> str:
    parts = [event.name.written]
    parts.extend(f'{name}="{escape(space, IN_ATTRIBUTE)}"' for name, space in event.declared.items())
    for name, old in event.attributes:
        value = rules.value(name, applied)
        if value is not None:
            parts.append(f'{name.written}="{escape(value or old, IN_ATTRIBUTE)}"')
    return f"<{' '.join(parts)}>"
