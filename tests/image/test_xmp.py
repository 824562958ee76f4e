"""XMP: kept and made true, mended where that is safe, without the place."""

from fractions import Fraction

import pytest
from exif_blocks import XMP
from hypothesis import given, settings
from hypothesis import strategies as st

from unistep.image import xmp, xmprules
from unistep.image.resized import ratio
from unistep.image.xmp import rewrite_xmp

SPACES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "tiff": "http://ns.adobe.com/tiff/1.0/",
    "exif": "http://ns.adobe.com/exif/1.0/",
    "dc": "http://purl.org/dc/elements/1.1/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "core": "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/",
    "ext": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "dji": "http://www.dji.com/drone-dji/1.0/",
    "geo": "http://www.w3.org/2003/01/geo/wgs84_pos#",
    "GCamera": "http://ns.google.com/photos/1.0/camera/",
    "Container": "http://ns.google.com/photos/1.0/container/",
    "hdrgm": "http://ns.adobe.com/hdr-gain-map/1.0/",
    "GPano": "http://ns.google.com/photos/1.0/panorama/",
    "mwg": "http://www.metadataworkinggroup.com/schemas/regions/",
    "stDim": "http://ns.adobe.com/xap/1.0/sType/Dimensions#",
}


def packet(inside="", attributes=""):
    spaces = " ".join(f'xmlns:{prefix}="{space}"' for prefix, space in SPACES.items())
    opened = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF {spaces}><rdf:Description {attributes}>'
    return f"{opened}{inside}</rdf:Description></rdf:RDF></x:xmpmeta>".encode()


def rewritten(packet, width, height, notes=(), **options):
    made, told = rewrite_xmp(packet, width, height, **options)
    assert told == [*notes]
    assert rewrite_xmp(made, width, height, **options) == (made, [])  # once is enough
    return made.decode()


def test_xmp_is_made_true():
    made = rewritten(XMP, 4000, 3000)
    assert 'tiff:Orientation="1"' in made and "<tiff:ImageWidth>4000<" in made
    assert "<exif:PixelYDimension>3000<" in made and "GPSLatitude" in made
    assert "Émilie &amp; Co" in made and 'dc:format="image/jpeg"' in made
    assert made.startswith("<?xpacket begin") and made.endswith("?>")


def test_xmp_without_place():
    made = rewritten(XMP, 9, 9, gps=False)
    assert "gps" not in made.lower() and "2,17.4E" not in made and "48,51" not in made
    assert "Émilie" in made


def test_xmp_that_points_elsewhere():
    pointing = XMP.replace(b'dc:format="image/jpeg"', b'xmlns:n="urn:n" n:HasExtendedXMP="0123"')
    assert b"HasExtendedXMP" in pointing and "HasExtendedXMP" not in rewritten(
        pointing, 9, 9, notes=[xmprules.EXTENDED]
    )


BOMB = b'<!DOCTYPE a [<!ENTITY b "bbbbbbbbbb"><!ENTITY c "&b;&b;&b;&b;&b;">]><a>&c;</a>'


@pytest.mark.parametrize("broken", [b"", b"not xml", XMP[:300], BOMB, b"\xff\xfe" + XMP, b"<a" * 50000])
def test_xmp_that_cannot_be_read_is_dropped(broken):
    assert rewrite_xmp(broken, 9, 9) == (None, [xmp.DAMAGED])


def test_deep_xmp_does_not_break():
    deep = b"<a>" * 20000 + b"</a>" * 20000
    assert rewritten(deep, 9, 9) == deep.decode()


@pytest.mark.parametrize(
    ("damage", "seen"),
    [
        (lambda x: x.replace(b"image/", b"ima\x02ge/"), "image/jpeg"),
        (lambda x: x.replace(b"image/", b"ima&#2;ge/&#x0;"), "image/jpeg"),
        (lambda x: x.replace(b"&amp;", b"&"), "Émilie &amp; Co"),
        (lambda x: x.replace(b"&amp;", b"< &nbsp;"), "Émilie &lt; &amp;nbsp; Co"),
        (lambda x: x.replace(b"\xc3\x89", b"\xc9"), "\N{REPLACEMENT CHARACTER}milie &amp; Co"),
        (lambda x: b"junk" + x + b"\0\1junk<", "Émilie &amp; Co"),
        (lambda x: x[: x.index(b"<?xpacket end") + 9], "Émilie &amp; Co"),
    ],
)
def test_slightly_broken_xmp_is_mended(damage, seen):
    broken = damage(XMP)
    assert broken != XMP
    made = rewritten(broken, 4000, 3000, notes=[xmp.MENDED])
    assert seen in made and "<tiff:ImageWidth>4000<" in made and "junk" not in made


def test_what_is_not_broken_is_not_mended():
    odd = packet("<dc:title><![CDATA[a & b < c &amp; d]]></dc:title>", 'dc:rights="a&#10;&lt;b&#9;&quot;"')
    made = rewritten(odd, 9, 9)
    assert "a &amp; b &lt; c &amp;amp; d" in made and 'dc:rights="a&#10;&lt;b&#9;&quot;"' in made
    broken = rewritten(odd.replace(b"</dc:title>", b"\1 & e</dc:title>"), 9, 9, notes=[xmp.MENDED])
    assert "a &amp; b &lt; c &amp;amp; d &amp; e<" in broken


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_encodings(encoding):
    assert rewritten(XMP.decode().encode(encoding), 4000, 3000) == rewritten(XMP, 4000, 3000)


def test_declared_encoding():
    latin = '<?xml version="1.0" encoding="ISO-8859-1"?>' + packet("<dc:title>É</dc:title>").decode()
    assert "<dc:title>É</dc:title>" in rewritten(latin.encode("latin-1"), 9, 9)


def test_undeclared_prefixes():
    known = XMP.replace(b'xmlns:exif="http://ns.adobe.com/exif/1.0/"', b"")
    made = rewritten(known, 9, 9)
    assert 'xmlns:exif="http://ns.adobe.com/exif/1.0/"' in made and "PixelYDimension" in made
    unknown = packet("<who:knows>what</who:knows><dc:format>a</dc:format>", 'who:else="no one"')
    made = rewritten(unknown, 9, 9, notes=[xmprules.UNDECLARED])
    assert "who:" not in made and "<dc:format>a<" in made


PLACES = [
    *("exif:GPSLatitude", "dji:Latitude", "dji:GpsLongtitude", "dji:AbsoluteAltitude", "dji:LRFTargetLon"),
    *("geo:lat", "geo:LONG", "photoshop:City", "photoshop:State", "photoshop:Country", "core:Location"),
    *("core:CountryCode", "ext:LocationCreated", "ext:LocationShown", "ext:Sublocation", "ext:ProvinceState"),
    *("dc:coverage", "GCamera:hdrp_makernote"),
]


@pytest.mark.parametrize("name", PLACES)
def test_the_place_goes_by_every_name(name):
    nested = f"<{name}><rdf:Bag><rdf:li><dc:text>Here</dc:text></rdf:li></rdf:Bag></{name}>"
    for found in (
        packet(f"<dc:title>Boat</dc:title><{name}>Here</{name}>"),
        packet("<dc:title>Boat</dc:title>", f'{name}="Here"'),
        packet("<dc:title>Boat</dc:title><!-- Here --><?place Here?>" + nested),
    ):
        assert "Here" in rewritten(found, 9, 9)
        made = rewritten(found, 9, 9, gps=False)
        assert "Here" not in made and "Boat" in made


def test_what_people_say_stays_without_the_place():
    said = "<dc:title><rdf:Alt><rdf:li>In Paris</rdf:li></rdf:Alt></dc:title>"
    said += "<core:CiAdrCity>Lyon</core:CiAdrCity>"
    assert said in rewritten(packet(said), 9, 9, gps=False)


@pytest.mark.parametrize(
    "inside",
    [
        "<GCamera:MicroVideoOffset>7</GCamera:MicroVideoOffset>",
        "<GCamera:MotionPhoto>1</GCamera:MotionPhoto>",
        "<Container:Directory><rdf:Seq><rdf:li Container:Item='x'/></rdf:Seq></Container:Directory>",
        "<hdrgm:Version>1.0</hdrgm:Version>",
    ],
)
def test_what_speaks_of_attached_pictures_goes(inside):
    made = rewritten(packet(inside + "<dc:title>Boat</dc:title>"), 9, 9, notes=[xmprules.ALONE])
    assert inside[:12] not in made and "Boat" in made


SIZES = 'exif:PixelXDimension="300" exif:PixelYDimension="200"'


@pytest.mark.parametrize(("turn", "size", "expected"), [(1, (600, 400), (2, 4)), (6, (400, 600), (4, 2))])
def test_focal_plane_follows_the_pixels(turn, size, expected):
    focal = 'exif:FocalPlaneXResolution="3/3" exif:FocalPlaneYResolution="2"'
    made = rewritten(packet(attributes=f'{focal} {SIZES} tiff:Orientation="{turn}"'), *size)
    assert f'exif:FocalPlaneXResolution="{expected[0]}/1"' in made
    assert f'exif:FocalPlaneYResolution="{expected[1]}/1"' in made


@pytest.mark.parametrize("sizes", ["", SIZES.replace("200", "300"), SIZES.replace("200", "")])
def test_focal_plane_of_another_size_goes(sizes):
    found = packet("<exif:SubjectArea>3</exif:SubjectArea>", f'exif:FocalPlaneXResolution="3/3" {sizes}')
    made = rewritten(found, 600, 400, notes=[xmprules.PIXELS])
    assert "FocalPlane" not in made and "Subject" not in made


@pytest.mark.parametrize("value", ["0", "1/0", "-3", "1e9", "99999999999/1", "5/", ""])
def test_no_number_breaks_it(value):
    focal = f'exif:FocalPlaneXResolution="{value}" {SIZES}'
    assert "FocalPlaneX" not in rewritten(packet(attributes=focal), 600, 400, notes=[xmprules.PIXELS])


def test_panorama_follows_the_pixels():
    sides = {
        "CroppedAreaImageWidthPixels": 300,
        "CroppedAreaImageHeightPixels": 200,
        "FullPanoWidthPixels": 1000,
        "CroppedAreaTopPixels": 0,
    }
    inside = "".join(f"<GPano:{name}>{value}</GPano:{name}>" for name, value in sides.items())
    made = rewritten(packet(inside), 600, 400)
    assert "WidthPixels>600<" in made and "FullPanoWidthPixels>2000<" in made and "TopPixels>0<" in made
    other = rewritten(packet(inside.replace("200", "20")), 600, 400, notes=[xmprules.PIXELS])
    assert "<GPano" not in other


FACES = """<mwg:Regions><mwg:AppliedToDimensions stDim:w="300" stDim:unit="pixel">
<stDim:h>200</stDim:h></mwg:AppliedToDimensions><mwg:Name stDim:w="5">Ada</mwg:Name></mwg:Regions>"""


def test_faces_stay_where_the_picture_was_upright():
    for made in (
        rewritten(packet(FACES), 600, 400, turned=1),
        rewritten(packet(FACES, 'tiff:Orientation="1"'), 600, 400),
    ):
        assert 'stDim:w="600"' in made and "<stDim:h>400<" in made and 'Name stDim:w="5">Ada' in made
    for turned in (None, 3, 6):
        assert "Ada" not in rewritten(packet(FACES), 600, 400, notes=[xmprules.OUTLINES], turned=turned)


TAGS = [b"<a", b"<x:y", b">", b"</a>", b"/>", b"&", b"&#", b";", b" e:f='", b"'", b"<!--", b"-->", b"<a>"]
TAGS += [b"<![CDATA[", b"]]>", b"<?xpacket end", b"?>", b"\0", b"\xff", b"<!DOCTYPE a>", b" xmlns:x='y'"]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(TAGS) | st.binary(max_size=4), max_size=30),
    st.lists(st.tuples(st.integers(0, len(XMP) - 1), st.binary(max_size=3)), max_size=3),
    st.booleans(),
)
def test_any_bytes_are_a_packet_or_none(pieces, changes, gps):
    damaged = bytearray(XMP)
    for place, value in changes:
        damaged[place : place + 1] = value
    for found in (b"".join(pieces), bytes(damaged)):
        made, notes = rewrite_xmp(found, 9, 9, gps=gps)
        assert (made is None) == (notes == [xmp.DAMAGED])
        assert made is None or rewrite_xmp(made, 9, 9, gps=gps) == (made, [])


def test_fractions_fit_32_bits():
    for value in (Fraction(10**12, 233), Fraction(1, 3), Fraction(7, 10**5), Fraction(2**32 - 1)):
        pair = ratio(value)
        assert pair is not None
        assert max(pair) < 1 << 32 and abs(Fraction(*pair) / value - 1) < 1e-5
    assert ratio(Fraction(1, 3)) == (1, 3) and ratio(Fraction(0)) is None is ratio(Fraction(2**40))
