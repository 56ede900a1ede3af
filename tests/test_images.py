"""Which images can be used, what is odd about them, and what is said of the others."""

import io
import os
import re

import numpy as np
import pytest
from bad_images import BAD, GOOD, ODD, PHOTO, header_of_another_height
from data_sets import encoded, picture
from PIL import Image

from hvd_imagenet.data.packing import decodable, examining
from hvd_imagenet.data.packing.decodable import findings
from hvd_imagenet.data.packing.examining import Report, usable
from hvd_imagenet.data.packing.images import Unusable, examine, shrunk
from hvd_imagenet.data.sources import Item


def looked_at(change=None, **files):
    """The report on files of these names, and those that can be used, by name."""
    items = [Item(name, number, len(data), (data,)) for number, (name, data) in enumerate(files.items())]
    report = Report()
    found = {items[u.number].name: u.image for u in usable(lambda item: item.place[0], items, report, change)}
    return report, found


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_left_out_with_the_reason(name):
    data, reason = BAD[name]
    report, found = looked_at(**{name: data})
    assert not found and not report.odd
    (rejected,) = report.rejected
    assert rejected["name"] == name and rejected["label"] == 0
    assert re.search(reason, rejected["reason"]), rejected
    assert "\n" not in rejected["reason"] and "\x1b" not in rejected["reason"]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("name", ODD)
def test_what_is_odd_is_used_and_listed(name):
    data, oddity = ODD[name]
    report, found = looked_at(**{name: data})
    assert not report.rejected and name in found
    assert any(re.search(oddity, said) for said in report.odd[0]["oddities"]), report.odd
    image = Image.open(io.BytesIO(data.lstrip(b"\r\n")))
    assert (found[name].height, found[name].width) == (image.height, image.width)


def test_good_ones_among_bad_ones_are_used_and_not_listed():
    mixed = {}
    bad = iter(BAD.items())
    for name, data in GOOD.items():
        mixed[name] = data
        for _ in range(3):
            other, (damaged, _) = next(bad)
            mixed[other] = damaged
    report, found = looked_at(**mixed)
    assert list(found) == list(GOOD) and not report.odd
    assert {line["name"] for line in report.rejected} == mixed.keys() - GOOD.keys()
    assert {line["name"]: line["label"] for line in report.rejected}["noise.jpg"] == list(mixed).index("noise.jpg")


def test_bytes_stay_as_they_are_but_for_those_before_the_image():
    for name in ("cmyk.jpg", "tail.jpg", "hole.jpg", "turned.jpg"):
        assert examine(ODD[name][0], name).data == ODD[name][0]
    assert examine(ODD["front.jpg"][0], "front.jpg").data == PHOTO


def test_the_size_is_that_before_rotation():
    image = examine(ODD["turned.jpg"][0], "turned.jpg")
    assert (image.height, image.width, image.extension) == (40, 50, "jpg")


@pytest.mark.parametrize(("pixels", "large"), [((1000, 9999), False), ((1000, 10_000), True)])
def test_images_of_ten_megapixels_are_large(pixels, large):
    found = examine(encoded(Image.new("RGB", pixels)), "x.jpg").oddities
    assert bool(found) == large


def test_what_the_decoder_writes_does_not_reach_the_screen(capfd):
    looked_at(**{name: data for name, (data, _) in BAD.items()})
    assert capfd.readouterr() == ("", "")


def test_an_image_that_decodes_to_another_size_is_damaged():
    image = examine(PHOTO, "x.jpg")._replace(height=374)
    assert findings([image])[0].reason == "damaged: decodes to another size than its header says"
    assert header_of_another_height(PHOTO, 375) == PHOTO


@pytest.mark.parametrize(
    ("size", "shorter_side", "expected"),
    [((375, 500), 256, (256, 341)), ((500, 375), 256, (341, 256)), ((256, 900), 256, (256, 900)),
     ((257, 900), 256, (256, 896)), ((100, 100), 256, (100, 100)), ((2, 5000), 1, (1, 2500))],
)  # fmt: skip
def test_images_are_shrunk_to_their_shorter_side(size, shorter_side, expected):
    image = shrunk(examine(encoded(picture(*size)), "x.jpg"), shorter_side, 95)
    assert (image.height, image.width) == expected
    assert Image.open(io.BytesIO(image.data)).size == expected[::-1]


def test_shrunk_images_look_the_same():
    photo = picture(375, 500)
    for kind, mode in (("JPEG", "RGB"), ("PNG", "RGB"), ("JPEG", "L"), ("PNG", "RGBA"), ("JPEG", "CMYK"), ("PNG", "P")):
        image = shrunk(examine(encoded(photo.convert(mode), kind), "x"), 100, 95)
        expected = np.asarray(photo.convert(mode).convert("RGB").resize((133, 100), Image.Resampling.BICUBIC), float)
        found = np.asarray(Image.open(io.BytesIO(image.data)).convert("RGB"), float)
        assert np.abs(found - expected).mean() < 3, (kind, mode)
        assert image.extension == "jpg"


def test_a_lower_quality_takes_fewer_bytes():
    image = examine(PHOTO, "x.jpg")
    assert len(shrunk(image, 100, 50).data) < len(shrunk(image, 100, 95).data)


def test_an_image_too_long_for_a_jpeg_is_kept():
    for width, expected in ((65_500 * 2, 65_500), (65_501 * 2, 65_501 * 2)):
        image = examine(encoded(Image.new("RGB", (width, 100)), "PNG"), "x.png")
        assert shrunk(image, 50, 95).width == expected


def test_images_are_decoded_before_they_are_shrunk():
    names = {"hole.jpg": ODD["hole.jpg"][0], "half.jpg": BAD["half.jpg"][0], "photo.jpg": PHOTO, "dot.jpg": PHOTO}
    report, found = looked_at(lambda image: shrunk(image, 100, 95), **names)
    assert [line["name"] for line in report.odd] == ["hole.jpg"]
    assert report.odd[0]["oddities"] == looked_at(**names)[0].odd[0]["oddities"]
    assert report.rejected == looked_at(**names)[0].rejected
    assert {(image.height, image.width) for image in found.values()} == {(100, 133)}


def test_what_a_change_cannot_use_and_what_it_leaves_as_it_is():
    def change(image):
        if image.height == 375:
            raise Unusable("too beautiful")
        return image

    hole = ODD["extraneous.jpg"][0]
    report, found = looked_at(change, **{"a.jpg": PHOTO, "grey.jpg": ODD["grey.jpg"][0]})
    assert [line["reason"] for line in report.rejected] == ["too beautiful"] and list(found) == ["grey.jpg"]
    assert looked_at(lambda image: image, **{"x.jpg": hole})[0].odd == looked_at(**{"x.jpg": hole})[0].odd


def test_no_more_is_in_memory_than_so_many_images_and_so_many_bytes(monkeypatch):
    monkeypatch.setattr(examining, "AT_ONCE", 3)
    monkeypatch.setattr(examining, "BYTES_AT_ONCE", 100)

    def parts(*lengths):
        return list(examining._parts([Item("", 0, length, ()) for length in lengths]))

    assert parts(1, 1, 1, 1) == [(0, 3), (3, 4)]
    assert parts(50, 50, 1) == [(0, 2), (2, 3)] and parts(50, 51) == [(0, 1), (1, 2)]
    assert parts(500, 500, 1) == [(0, 1), (1, 2), (2, 3)]
    assert parts() == []


def test_reasons_hold_no_times():
    with decodable._caught_stderr() as said:
        os.write(2, b"\x1b[31m[ERROR:0@0.016] global loadsave.cpp:1409 imdecode_ imdecode: no data\n")
        assert said() == "imdecode: no data"


def test_16_bit_images_are_not_shrunk_but_kept():
    data = ODD["16-bit.png"][0]
    assert shrunk(examine(data, "x.png"), 10, 95).data == data


def test_an_image_that_cannot_be_shrunk_is_unusable():
    with pytest.raises(Unusable, match="cannot be decoded: "):
        shrunk(examine(BAD["half.jpg"][0], "x.jpg"), 100, 95)
