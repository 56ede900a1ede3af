"""The loader bench: everybody does the same work, on the same photos, and the figures are what was measured."""

import importlib
import json
import random
import re
import tarfile

import numpy as np
import psutil
import pytest
from data_sets import packed_folder
from PIL import Image

from hvd_imagenet import cli
from hvd_imagenet.bench import loader, options, photos
from hvd_imagenet.bench.figures import Figure
from hvd_imagenet.bench.loader import ENTRIES, LIMITS
from hvd_imagenet.bench.loaders import MEAN, STD, Task
from hvd_imagenet.data.store import open_store

LOADERS = [entry.module.removeprefix("loaders.") for name, entry in ENTRIES.items() if name not in LIMITS]


def save(root, pictures, **options):
    """A data set of one class: pictures by the names of their files."""
    folder = root / "train" / "some"
    folder.mkdir(parents=True)
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(folder / name, **options)
    (root / "val").symlink_to("train")
    return root


def task(root, folder, antialiased=True):
    """A task on all photos of a data set."""
    folder.mkdir()
    _, shards = photos.lay_out(*photos.chosen(root, 1000), folder, 1)
    return Task(str(folder), shards, 1, 4, antialiased)


@pytest.mark.parametrize(
    ("count", "left_out"), [(1, 0), (5, 0), (6, 0), (7, 0), (8, 0), (9, 1), (11, 1), (12, 2), (60, 21)]
)
def test_intervals(count, left_out):
    """Of 9 values, the second to the eighth miss the median by chance in (1 + 9) / 256 of all cases: 3.9 %.

    Of 8, in (1 + 8) / 128: 7.0 %. Of 60, from the 22nd on: 2.7 %; from the 23rd: 5.2 %.
    """
    values = [float(value) for value in np.random.default_rng(0).permutation(count)]
    figure = Figure.of(values)
    assert (figure.low, figure.high) == (left_out, count - 1 - left_out)
    assert figure.median == (count - 1) / 2
    assert figure.values == values


def test_photos_are_those_that_everybody_reads(tmp_path):
    grey, colour = np.full((30, 40), 7, np.uint8), np.full((30, 40, 3), 7, np.uint8)
    root = save(tmp_path / "set", {"a.jpg": colour, "b.jpg": grey, "c.png": colour, "d.jpg": colour, "e.jpg": grey})
    Image.fromarray(np.full((30, 40, 4), 7, np.uint8), "CMYK").save(root / "train" / "some" / "d.jpg")
    store, numbers = photos.chosen(root, 1000)
    assert numbers.tolist() == [0, 1, 2, 3, 4]
    assert photos.chosen(root, 2)[1].tolist() == [0, 2]
    (tmp_path / "out").mkdir()
    count, shards = photos.lay_out(store, numbers, tmp_path / "out", 2)
    files = sorted((tmp_path / "out" / "train").rglob("*.jpg"))
    assert count == 3 and [file.name for file in files] == ["00000000.jpg", "00000001.jpg", "00000004.jpg"]
    for shard, its in zip(shards, (files[::2], files[1::2]), strict=True):
        with tarfile.open(shard) as tar:
            assert tar.getnames() == [name for file in its for name in (file.name, f"{file.stem}.cls")]
            assert [tar.extractfile(file.name).read() for file in its] == [file.read_bytes() for file in its]


@pytest.mark.parametrize("module", LOADERS)
def test_everybody_normalises(module, tmp_path):
    colours = np.zeros((64, 80, 3), np.uint8) + np.array([200, 100, 50], np.uint8)
    root = save(tmp_path / "set", {f"{number}.jpg": colours for number in range(4)}, quality=100)
    batch = np.asarray(next(batches(module, task(root, tmp_path / "task"))))
    assert batch.dtype == np.float32 and batch.shape == (4, 224, 224, 3)
    expected = (np.array([200, 100, 50]) / 255 - MEAN) / STD
    assert np.abs(batch - expected).max() < 2 / 255 / min(STD)


@pytest.mark.parametrize("module", LOADERS)
def test_everybody_resamples_alike(module, tmp_path):
    """Noise, shrunk to between 0.22 and 0.79: averaged over all its pixels, much less of it is left."""
    noise = np.random.default_rng(0).integers(0, 256, (4, 1000, 1000), np.uint8)
    root = save(tmp_path / "set", {f"{number}.jpg": pixels for number, pixels in enumerate(noise)}, quality=95)
    left = []
    for antialiased in (True, False):
        some = batches(module, task(root, tmp_path / str(antialiased), antialiased))
        left.append(np.mean([np.asarray(next(some))[:, 20:-20, 20:-20].std((1, 2)) * STD for _ in range(4)]))
    # Uniform noise has 0.29. From 4 pixels at most 0.19 is left on average, over all at most 0.19 / 1.3.
    assert left[0] < 0.13 < 0.16 < left[1] < 0.22


def batches(module, of):
    return importlib.import_module(f"hvd_imagenet.bench.loaders.{module}").batches(of)


def test_crops_of_tensorflow_are_as_large_as_torchvisions():
    """Of wide and of upright photos, and of such that most attempts do not fit into."""
    tf_data, pil = (importlib.import_module(f"hvd_imagenet.bench.loaders.{name}") for name in ("tf_data", "pil"))
    random.seed(0)
    tf_data.tf.random.set_seed(0)
    for height, width in ((375, 500), (500, 333), (100, 900)):
        windows = [tf_data.window(tf_data.tf.constant([height, width])).numpy() for _ in range(1500)]
        for top, left, h, w in windows:
            assert 0 <= top < top + h <= height and 0 <= left < left + w <= width
        areas = [h * w / (height * width) for _, _, h, w in windows]
        expected = [w * h / (height * width) for _, _, w, h in (pil.window(width, height) for _ in range(6000))]
        assert np.mean(areas) == pytest.approx(np.mean(expected), rel=0.05)


def test_limits(image_folder, tmp_path):
    of = task(image_folder, tmp_path / "task")
    files = sorted((tmp_path / "task" / "train").glob("*/*"))
    decoded = next(batches("jpeg_decode", of))
    assert len(decoded) == 4
    for pixels, file in zip(decoded, files, strict=False):
        assert np.abs(pixels.astype(int) - np.asarray(Image.open(file))).max() <= 2
    copied = next(batches("memory_copy", of))
    assert copied.dtype == np.float32 and copied.shape == (4, 224, 224, 3) and (copied == 1).all()


def test_the_command(image_folder, tmp_path, capsys):
    before = psutil.Process().children()
    arguments = ["bench", "loader", "--data", str(image_folder), "--threads", "1", "--rounds", "2", "--seconds", "0.1"]
    assert cli.main([*arguments, "--against", "dali", "--json", str(tmp_path / "bench.json")]) == 0
    report = json.loads((tmp_path / "bench.json").read_text())
    assert report["settings"]["photos"] == 50 and report["machine"]["cores"] > 0 and "numpy" in report["versions"]
    found = report["results"]
    assert {name for name in found if "per_core" in found[name]} == {"ours", "dali", "decode", "copy"}
    ours, dali = found["ours"]["images_per_second"]["values"], found["dali"]["images_per_second"]["values"]
    assert len(ours) == len(dali) == 2 and min(ours + dali) > 0
    ratios = [our / its for our, its in zip(ours, dali, strict=True)]
    assert found["dali"]["ours_to_it"]["values"] == pytest.approx(ratios)
    said = capsys.readouterr().out
    assert "50 photos, 1 thread, batches of 32, antialiased resampling" in said and "not asked for" in said
    assert f"{sum(ratios) / 2:.3f} (" in said
    assert psutil.Process().children() == before


def test_figures_are_per_core():
    found = loader.results({"ours": [30.0, 60.0, 90.0], "dali": [60.0, 60.0, 60.0]}, threads=2)
    assert found["ours"]["images_per_second"]["median"] == 60 and found["ours"]["per_core"]["median"] == 30
    assert found["dali"]["ours_to_it"]["values"] == [0.5, 1, 1.5]


def test_what_is_not_installed(image_folder, monkeypatch, capsys):
    monkeypatch.setattr(options, "find_spec", lambda name: None if name in ("torch", "webdataset") else name)
    assert loader._contestants(None) == ["ours", "dali", "tfdata", "decode", "copy"]
    assert cli.main(["bench", "loader", "--data", str(image_folder), "--against", "dali,webdataset"]) == 2
    assert "webdataset is not installed; run: pip install webdataset torch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--against", "webdatasets"], "--against: webdatasets; known: dali, torch, tfdata, webdataset"),
        (["--threads", "0"], "--threads: 0; give a number above 0"),
        (["--threads", "5000"], "--threads: 5000; this process may use "),
        (["--batch", "0"], "--batch: 0; give a number above 0"),
        (["--rounds", "0"], "--rounds: 0; give a number above 0"),
        (["--seconds", "0"], "--seconds: 0.0; give a number above 0"),
        (["--json", "/nowhere/bench.json"], "--json: /nowhere/bench.json; its folder does not exist"),
        (["--json", ""], "--json: is empty; give the name of a file"),
        (["--json", "/tmp"], "--json: /tmp; is a folder; give the name of a file"),
        (["--batch", "51"], "--batch: 51; there are 50 photos that all can read"),
    ],
)
def test_bad_options(options, said, image_folder, capsys):
    assert cli.main(["bench", "loader", "--data", str(image_folder), *options]) == 2
    assert said in capsys.readouterr().err


def test_a_loader_that_fails_says_why(image_folder, monkeypatch, capsys):
    monkeypatch.setattr(photos, "lay_out", lambda *_: (50, []))
    assert cli.main(["bench", "loader", "--data", str(image_folder), "--against", ""]) == 3
    assert re.search(r"bench loader: ours: .*: has no folder train", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ([], 0, "loader     images per second"),
        (["--help"], 0, "loader     images per second"),
        (["decode"], 2, "bench: decode; known: loader, step, scaling, allreduce"),
        (["loader"], 2, "the following arguments are required: --data; see hvd-imagenet bench loader --help"),
    ],
)
def test_kinds(arguments, status, said, capsys):
    assert cli.main(["bench", *arguments]) == status
    assert said in "".join(capsys.readouterr())


def test_photos_of_a_packed_set_are_the_same(image_folder, tmp_path):
    packed_folder(image_folder, tmp_path / "packed")
    for name, root in (("plain", image_folder), ("tars", tmp_path / "packed")):
        task(root, tmp_path / name)
    plain, tars = (open_store(tmp_path / name, "train") for name in ("plain", "tars"))
    assert plain.contents() == tars.contents() and len(plain) == 50
