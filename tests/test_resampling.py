"""Resizing, mirroring and normalising on a CPU: values worked out by hand, and Pillow's, bit for bit."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from hvd_imagenet.data import resampling
from hvd_imagenet.data.resampling import Resampler
from hvd_imagenet.errors import SettingsError

MEAN, STD = (0, 0, 0), (1 / 255,) * 3  # the output is the image itself, 0 to 255


def resample(images, size, regions=None, mirror=None, antialiased=True, threads=1, mean=MEAN, std=STD):
    sizes = np.array([image.shape[:2] for image in images], np.int64).reshape(-1, 2)
    if regions is None:
        regions = np.concatenate([np.zeros(sizes.shape), sizes], 1)
    if mirror is None:
        mirror = np.zeros(len(images), bool)
    resampler = Resampler(size, mean, std, antialiased, threads)
    addresses = np.array([image.ctypes.data for image in images], np.uint64)
    found = resampler(addresses, sizes, np.array(regions, np.float64), np.array(mirror))
    resampler.close()
    return found


def line(values, size, **options):
    """A row of grey values, resized to `size`; the image's own height does not matter, all its rows are equal."""
    row = np.repeat(np.array(values, np.uint8)[None, :, None], 3, 2)
    found = resample([np.ascontiguousarray(np.repeat(row, 2, 0))], size, **options)[0]
    assert (found == found[:1, :, :1]).all()
    upright = resample([np.ascontiguousarray(np.repeat(row, 2, 0).transpose(1, 0, 2))], size, **options)[0]
    assert np.array_equal(upright, found.transpose(1, 0, 2))
    return found[0, :, 0].tolist()


def test_values_worked_out_by_hand():
    assert line([7], 3) == [7, 7, 7]
    assert line([3, 250], 2) == [3, 250]
    assert line([0, 100], 4) == [0, 25, 75, 100]  # centres at -0.25, 0.25, 0.75 and 1.25 pixels; the edge repeats
    assert line([0, 100], 1) == [50]
    assert line([0, 1], 1) == [1]  # halves are rounded up
    # Four to one: weights 5, 7, 7 and 5 of 24; without antialiasing, the two in the middle.
    assert line([0, 10, 20, 91], 1) == [round((70 + 140 + 455) / 24)] == [28]
    assert line([0, 10, 20, 91], 1, antialiased=False) == [15]


def test_regions_between_pixels():
    """From 1 to 3 of four pixels, to two: they themselves. A quarter of a pixel further: a quarter of the next."""
    row = [0, 100, 200, 40]
    pixels = np.repeat(np.array(row, np.uint8)[None, :, None], 3, 2)
    assert resample([pixels], 2, [[0, 1, 1, 3]])[0, 0, :, 0].tolist() == [100, 200]
    assert resample([pixels], 2, [[0, 1.25, 1, 3.25]])[0, 0, :, 0].tolist() == [125, 160]
    # Enlarged, the filter sees what is around the region: 0.75 of a pixel inside, 0.25 of the one outside.
    assert resample([pixels], 4, [[0, 1, 1, 3]])[0, 0, :, 0].tolist() == [75, 125, 175, 160]


@pytest.mark.parametrize("size", [1, 21, 22, 224])
def test_equals_pillow_to_the_bit(size):
    """Rows first, then columns: Pillow 13 takes the columns first where that is faster. It counts in float32."""
    rng = np.random.default_rng(size)
    images = [rng.integers(0, 256, (*rng.integers(1, 400, 2), 3), np.uint8) for _ in range(60)]
    images += [np.full((3, 500, 3), 255, np.uint8), rng.integers(0, 256, (2000, 2, 3), np.uint8)]
    whole = [(0, 0, *image.shape[:2]) for image in images]
    corners = [np.sort(rng.integers(0, 64 * np.array(image.shape[:2]), (2, 2)), 0) / 64 for image in images]
    for regions in (whole, [(*start, *(end + 1 / 64)) for start, end in corners]):
        found = resample(images, size, regions)
        for image, pixels, (top, left, bottom, right) in zip(images, found, regions, strict=True):
            rows = Image.fromarray(image).resize((size, len(image)), Image.BILINEAR, (left, 0, right, len(image)))
            expected = rows.resize((size, size), Image.BILINEAR, (0, top, size, bottom))
            assert np.array_equal(pixels, np.asarray(expected))


def test_mirrored_and_normalised():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    plain, turned = resample([image, image], 16, mirror=[False, True])
    assert np.array_equal(plain[:, ::-1], turned)
    expected = ((plain.astype(np.float64) / 255 - mean) / std).astype(np.float32)
    assert np.array_equal(resample([image], 16, mean=mean, std=std)[0], expected)


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_threads_share_a_batch(count):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (9 + i, 20 - i, 3), np.uint8) for i in range(count)]
    mirror = np.arange(count) % 2 == 1
    alone = [resample([image], 8, mirror=[turned])[0] for image, turned in zip(images, mirror, strict=True)]
    for threads in (1, 2, 3):
        found = resample(images, 8, mirror=mirror, threads=threads)
        assert found.shape == (count, 8, 8, 3) and all(map(np.array_equal, found, alone))


def test_the_last_pixel_is_the_last_that_is_read():
    """Of an image that ends where the memory of its process ends."""
    program = """
import ctypes, mmap, sys
import numpy as np
from hvd_imagenet.data.resampling import Resampler
length, page = 57 * 41 * 3, mmap.PAGESIZE
memory = mmap.mmap(-1, 4 * page)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + 3 * page), page, 0) == 0
first = address + 3 * page - length
ctypes.memset(first, 9, length)
resampler = Resampler(16, (0, 0, 0), (1 / 255,) * 3, True, 1)
given = np.array([first], np.uint64), np.array([[57, 41]]), np.array([[0.0, 0, 57, 41]]), np.zeros(1, bool)
assert (resampler(*given) == 9).all()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_arrays_of_another_kind_are_refused():
    resampler = Resampler(8, MEAN, STD, True, 1)
    image = np.zeros((4, 4, 3), np.uint8)
    addresses, sizes, mirror = np.array([image.ctypes.data], np.uint64), np.array([[4, 4]]), np.zeros(1, bool)
    with pytest.raises(Exception, match="wrong type|must have data type"):
        resampler(addresses, sizes, np.array([[0, 0, 4, 4]], np.float32), mirror)
    resampler.close()


def test_without_its_compiled_part(monkeypatch):
    """As in a clone that was not installed."""
    monkeypatch.setattr(resampling, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"its compiled part is missing; run: pip install \."):
        Resampler(8, MEAN, STD, True, 1)
