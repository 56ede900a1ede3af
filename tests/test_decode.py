"""What becomes of an image, against Pillow doing the same: on a CPU to the bit, by a GPU's graph nearly so."""

import tarfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from data_sets import packed_folder
from nvidia.dali.pipeline import Pipeline
from PIL import Image

from hvd_imagenet.config import DecoderSettings
from hvd_imagenet.data import dali, loader
from hvd_imagenet.data.dali import Decoding
from hvd_imagenet.data.decoders import OnDevice
from hvd_imagenet.data.loader import TrainLoader, evaluation_batches
from hvd_imagenet.data.requests import TrainRequests, Worker
from hvd_imagenet.data.store import open_store
from hvd_imagenet.errors import DataError
from hvd_imagenet.policy import BatchSettings, LargeBatchPolicy, LearningRateSettings
from hvd_imagenet.stream import GlobalOrder, SampleStream

PHOTOS = Path(__file__).parents[2] / "shared" / "data" / "imagenet-sample.tar"
ALONE = Worker(0, 1)


def grey_levels(image_size, resize_shorter=None, padded=False, threads=1):
    """A decoding whose output is the image itself, 0 to 255."""
    return Decoding(image_size, (0, 0, 0), (1 / 255,) * 3, resize_shorter or image_size, padded, threads, None)


def one_epoch(store, decoding, augment, batch):
    """Request and decoded images of each micro-batch."""
    policy = LargeBatchPolicy(len(store), 1, BatchSettings(batch, batch), LearningRateSettings())
    wanted = TrainRequests(store, policy, SampleStream(0, GlobalOrder(len(store))), augment, ALONE, decoding)
    with TrainLoader(wanted) as batches:
        for plan, request in zip(policy.steps(), wanted.from_(0), strict=True):
            for given in batches.micro_batches(plan):
                yield request, np.from_dlpack(given.images), np.from_dlpack(given.labels)


def pil(store, number):
    path = store.name(number)
    return Image.open(path).convert("RGB")


@pytest.fixture(params=["on a CPU", "in a GPU's graph"])
def tolerance(request, monkeypatch):
    """Grey levels. The graph for a GPU, which can be run on a CPU, resizes by DALI."""
    if request.param == "on a CPU":
        return 0
    monkeypatch.setattr(loader, "OnHost", OnDevice)
    return 0.5


def resized(image, width, height):
    """The rows first; Pillow 13 takes the columns first where that is faster, and rounds other values between."""
    return image.resize((width, image.height), Image.BILINEAR).resize((width, height), Image.BILINEAR)


def resized_window(image, anchor, shape, size):
    (top, left), (height, width) = anchor, shape
    return np.asarray(resized(image.crop((left, top, left + width, top + height)), size, size), np.float32)


def centre(image, resize_shorter, size):
    """torchvision's Resize and CenterCrop."""
    width, height = image.size
    scale = resize_shorter / min(width, height)
    new = [resize_shorter if side == min(width, height) else int(side * scale) for side in (width, height)]
    image = np.asarray(resized(image, *new), np.float32)
    top, left = round((new[1] - size) / 2), round((new[0] - size) / 2)
    return image[top : top + size, left : left + size]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photographs as class folders; made ones where the real ones are not at hand."""
    root = tmp_path_factory.mktemp("photos")
    if PHOTOS.exists():
        with tarfile.open(PHOTOS) as tar:
            tar.extractall(root / "train", filter="data")
    else:
        rng = np.random.default_rng(0)
        (root / "train" / "made").mkdir(parents=True)
        for number in range(50):
            width, height = rng.integers(300, 600, 2).tolist()
            coarse = Image.fromarray(rng.integers(60, 196, (9, 12, 3), np.uint8)).resize((width, height))
            # Fine detail, too, or resizing with and without antialiasing would look the same.
            pixels = np.asarray(coarse) + rng.integers(-60, 61, (height, width, 1))
            Image.fromarray(pixels.astype(np.uint8)).save(root / "train" / "made" / f"{number}.jpg", quality=95)
    (root / "val").symlink_to(root / "train")
    return open_store(root, "train")


def test_training_crops_equal_pils(photos, tolerance):
    """DALI's are about 0.2 of 255 grey levels off; a window one pixel off gives 6, no antialiasing 2."""
    differences, biases = [], []
    for request, images, _ in one_epoch(photos, grey_levels(224), "random_resized_crop", 10):
        for i, number in enumerate(request.numbers):
            expected = resized_window(pil(photos, number), request.windows.anchor[i], request.windows.shape[i], 224)
            found = images[i, :, ::-1] if request.windows.mirror[i] else images[i]
            differences.append(np.abs(found - expected).mean())
            biases.append((found - expected).mean())
        if len(differences) == 50:
            break
    print(f"mean difference {np.mean(differences):.3f}, largest {np.max(differences):.3f} grey levels")
    assert len(differences) == 50
    assert np.mean(differences) <= tolerance
    assert np.max(differences) <= 2 * tolerance
    assert abs(np.mean(biases)) < 0.1


def test_evaluation_crops_equal_torchvisions(photos, tolerance):
    batches = evaluation_batches(photos, 25, ALONE, grey_levels(224, resize_shorter=256))
    images = np.concatenate([np.from_dlpack(next(batches).images) for _ in range(2)])
    differences = [np.abs(images[i] - centre(pil(photos, i), 256, 224)).mean() for i in range(50)]
    print(f"mean difference {np.mean(differences):.3f}, largest {np.max(differences):.3f} grey levels")
    assert np.mean(differences) <= tolerance


@pytest.mark.parametrize(("height", "width"), [(4, 1000), (900, 3), (1, 300), (224, 224), (256, 4000), (100, 150)])
def test_evaluation_crops_of_odd_shapes_equal_torchvisions(height, width, tmp_path, tolerance):
    """Of which no more is decoded than the crop needs: shrunk and enlarged, at the edges and away from them."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    (tmp_path / "train" / "some").mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / "train" / "some" / "0.png")
    (tmp_path / "val").symlink_to("train")
    with evaluation_batches(open_store(tmp_path, "val"), 1, ALONE, grey_levels(224, resize_shorter=256)) as batches:
        found = np.from_dlpack(next(batches).images)[0]
    difference = np.abs(found - centre(Image.fromarray(pixels), 256, 224))
    assert difference.mean() <= 1.2 * tolerance
    # Beyond the edges of the crop, the filter still sees the image: an eighth of what it sees there.
    assert max(difference[[0, -1]].mean(), difference[:, [0, -1]].mean()) <= 1.2 * tolerance


@pytest.mark.parametrize("upright", [False, True])
def test_a_thread_of_pixels_does_not_fill_the_memory(upright, tmp_path, tolerance):
    """1 x 20,000 pixels, resized, would be 256 x 5,120,000 of them. The middle 0.875 pixels are all that counts."""
    row = np.full((1, 20_000, 3), 9, np.uint8)
    row[:, 9_999:10_001] = 250
    (tmp_path / "train" / "some").mkdir(parents=True)
    Image.fromarray(row.transpose(1, 0, 2) if upright else row).save(tmp_path / "train" / "some" / "0.png")
    (tmp_path / "val").symlink_to("train")
    with evaluation_batches(open_store(tmp_path, "val"), 1, ALONE, grey_levels(224, resize_shorter=256)) as batches:
        found = np.from_dlpack(next(batches).images)[0]
    assert (found == 250).all()


def test_shift_crops_equal_numpys(image_folder, tolerance):
    store = open_store(image_folder, "train")
    first = store.sizes(slice(1))[0].tolist()
    assert all(24 <= height < 29 and 20 <= width < 23 for height, width in store.sizes(slice(None)).tolist()), first
    for request, images, _ in one_epoch(store, grey_levels(24, padded=True), "shift_crop", 10):
        for i, number in enumerate(request.numbers):
            pixels = np.pad(np.asarray(pil(store, number)), ((4, 4), (4, 4), (0, 0)))
            (top, left), (height, width) = request.windows.anchor[i] + 4, request.windows.shape[i]
            window = Image.fromarray(pixels[top : top + height, left : left + width])
            expected = np.asarray(resized(window, 24, 24), np.float32)
            found = images[i, :, ::-1] if request.windows.mirror[i] else images[i]
            assert np.abs(found - expected).mean() <= 2 * tolerance


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("graph", "device_id", "device"), [("windows", None, "cpu"), ("batches", 0, "mixed")])
def test_the_decoder_gets_its_settings(graph, padded, device_id, device, monkeypatch):
    """Which is as far as a machine without a GPU takes the graph for one."""
    monkeypatch.setattr(Pipeline, "build", Pipeline._build_graph)
    settings = DecoderSettings(0.7, 5980, 6430, 211025920, 140544512, True)
    decoding = Decoding(16, (0, 0, 0), (1, 1, 1), 16, padded, 1, device_id, asdict(settings))
    pipeline = getattr(dali, graph)(iter([]), 4, decoding)
    [given] = [str(op.spec) for op in pipeline._ops if "decoders__" in str(op.spec).partition("\n")[0]]
    for argument in (
        f"device: {device}",
        "adjust_orientation: False",
        "hw_decoder_load: 0.700000",
        "preallocate_width_hint: 5980",
        "preallocate_height_hint: 6430",
        "device_memory_padding: 211025920",
        "host_memory_padding: 140544512",
        "use_fast_idct: True",
    ):
        assert f"    {argument}\n" in given


def test_the_fast_transform_is_not_the_exact_one(photos):
    exact, fast = grey_levels(224), replace(grey_levels(224), decoder={"use_fast_idct": True})
    both = (one_epoch(photos, decoding, "random_resized_crop", 25) for decoding in (exact, fast))
    (_, one, _), (_, other, _) = map(next, both)
    difference = np.abs(one - other).mean()
    print(f"mean difference {difference:.3f} grey levels")
    assert 0 < difference < 2


def test_normalisation(image_folder, tolerance):
    store = open_store(image_folder, "val")
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    plain = next(evaluation_batches(store, 8, ALONE, grey_levels(16)))
    normal = next(evaluation_batches(store, 8, ALONE, Decoding(16, mean, std, 16, False, 1, None)))
    expected = (np.from_dlpack(plain.images) / 255 - np.array(mean)) / np.array(std)
    assert np.from_dlpack(normal.images) == pytest.approx(expected, abs=1e-5)
    found = np.from_dlpack(normal.images)
    assert found.dtype == np.float32 and found.shape == (8, 16, 16, 3)


def test_grey_images_have_three_equal_colours(tmp_path, tolerance):
    for split in ("train", "val"):
        (tmp_path / split / "grey").mkdir(parents=True)
        pixels = np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8)
        Image.fromarray(pixels).save(tmp_path / split / "grey" / "0.png")
    batch = next(evaluation_batches(open_store(tmp_path, "val"), 4, ALONE, grey_levels(16)))
    assert np.array_equal(np.from_dlpack(batch.images)[0], np.repeat(pixels[:, :, None], 3, 2))


def test_labels_belong_to_their_images(image_folder, tolerance):
    store = open_store(image_folder, "train")
    for request, images, labels in one_epoch(store, grey_levels(16), "random_resized_crop", 10):
        assert np.array_equal(labels, store.labels[request.numbers])
        assert labels.dtype == np.int64
        # Images of class 0 are all red, those of class 1 all green.
        assert np.array_equal(images[..., :2].mean((1, 2)).argmax(1), labels)


@pytest.mark.parametrize("size", [1, 2, 3, 30])
def test_every_validation_image_is_read_once(image_folder, size):
    store = open_store(image_folder, "val")
    found = []
    for rank in range(size):
        for batch in evaluation_batches(store, 4, Worker(rank, size), grey_levels(16)):
            found += [image.tobytes() for image in np.from_dlpack(batch.images)]
    assert len(found) == 23 and len(set(found)) == 23


def test_pixels_do_not_depend_on_batch_or_threads(image_folder, tolerance):
    store = open_store(image_folder, "train")

    def pixels(batch, threads):
        decoding = grey_levels(16, threads=threads)
        return np.concatenate([images for _, images, _ in one_epoch(store, decoding, "random_resized_crop", batch)])

    assert np.array_equal(pixels(10, 1), pixels(25, 2))


def test_an_undecodable_image_is_named(image_folder, tmp_path):
    store = open_store(packed_folder(image_folder, tmp_path / "packed"), "val")
    index = store._index
    with (tmp_path / "packed" / "val" / "shard-000000.tar").open("r+b") as shard:
        shard.seek(int(index.offset[13]))
        shard.write(bytes(int(index.length[13])))
    with pytest.raises(DataError, match=r"shard-000000.tar, sample 13, .*: cannot be decoded \(.+\)"):
        for _ in evaluation_batches(store, 3, ALONE, grey_levels(16)):
            pass
