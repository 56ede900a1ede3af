"""ImageNet as it is distributed: ILSVRC2012's archives, read without unpacking them."""

from __future__ import annotations

import csv
import io
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from hvd_imagenet.data.sources import FileReader, Item, mixed, reading, require_inside, require_same_classes
from hvd_imagenet.data.sources.tars import Member, members, open_tar
from hvd_imagenet.errors import DataError

TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
DEVKIT, KAGGLE = "ILSVRC2012_devkit_t12", "LOC_val_solution.csv"
META, TRUTH = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"


class ImageNetArchives:
    """The archives of ILSVRC2012 as a source.

    Args:
        root: holds ``ILSVRC2012_img_train.tar`` (a tar of one tar per class), ``ILSVRC2012_img_val.tar``, and what says
            the validation images' classes: the devkit, ``ILSVRC2012_devkit_t12.tar.gz`` or unpacked, or Kaggle's
            ``LOC_val_solution.csv``. Where both are there, they must agree.
        follow_links: take what a symbolic link leads to outside of `root`, too.

    Raises:
        DataError: an archive is missing, cut short or another, its labels do not fit, or a link leads out of `root`.
    """

    description = "ILSVRC2012 archives"

    def __init__(self, root: Path, follow_links: bool = False):
        self._root = root
        for name in (TRAIN, VAL):
            if not (root / name).is_file():
                raise DataError(f"{root / name}: not found; the archives of ILSVRC2012 belong into one folder")
        if not follow_links:
            devkit = (f"{DEVKIT}.tar.gz", f"{DEVKIT}/{META}", f"{DEVKIT}/{TRUTH}")
            for name in (TRAIN, VAL, KAGGLE, *devkit):
                require_inside(root / name, root)
        self.reader = FileReader(root)
        truth = self._truth()
        train = list(self._train())
        self.classes = sorted({name for name, _ in train})
        require_same_classes(set(self.classes), set(truth.values()), root)
        labels = {name: label for label, name in enumerate(self.classes)}
        images = [self._item(TRAIN, f"{name}.tar/{image.name}", labels[name], image)
                  for name, image in sorted(train)]  # fmt: skip
        self.splits = {"train": mixed(images), "val": list(self._val(truth, labels))}

    def _train(self) -> Iterator[tuple[str, Member]]:
        with open_tar(self._root / TRAIN) as file:
            path = self._root / TRAIN
            classes = set()
            for tar in reading(members(file, str(path)), TRAIN):
                name, dot, extension = Path(tar.name).name.rpartition(".")
                if not dot or extension != "tar":
                    raise DataError(f"{path}: holds {tar.name}, where a tar for each class should be; fetch it again")
                found = members(file, f"{path}: {tar.name}", tar.offset, tar.length)
                if not found or name in classes:
                    problem = "is there twice" if name in classes else "holds no image"
                    raise DataError(f"{path}: {tar.name} {problem}; fetch it again")
                classes.add(name)
                yield from ((name, image) for image in found)

    def _val(self, truth: dict[str, str], labels: dict[str, int]) -> Iterator[Item]:
        """The validation images sorted by class, then by name: as in class folders."""
        path = self._root / VAL
        with open_tar(path) as file:
            images = members(file, str(path))
        found = {Path(image.name).stem: image for image in images}
        if len(found) != len(images):
            twice = Counter(Path(image.name).stem for image in images).most_common(1)[0][0]
            raise DataError(f"{path}: holds {twice} in two folders; fetch it again")
        for name, missing in (("labels", found.keys() - truth.keys()), (VAL, truth.keys() - found.keys())):
            if missing:
                raise DataError(
                    f"{path}: {len(found)} images, {len(truth)} labels: {min(missing)} is missing in {name}; "
                    "do they belong together?"
                )
        for wnid, stem in sorted((truth[stem], stem) for stem in found):
            yield self._item(VAL, found[stem].name, labels[wnid], found[stem])

    def _item(self, archive: str, name: str, label: int, image: Member) -> Item:
        return Item(f"{self._root / archive}/{name}", label, image.length, (archive, image.offset))

    def _truth(self) -> dict[str, str]:
        """The WordNet ID of each validation image, by the stem of its name."""
        found = [read(self._root) for read in (_devkit_truth, _kaggle_truth)]
        found = [truth for truth in found if truth]
        if not found:
            raise DataError(
                f"{self._root}: nothing says the classes of {VAL}; add {DEVKIT}.tar.gz, or Kaggle's {KAGGLE}"
            )
        if found[0] != found[-1]:
            stems = found[0].keys() | found[-1].keys()
            stem = min(stem for stem in stems if found[0].get(stem) != found[-1].get(stem))
            raise DataError(f"{self._root}: {DEVKIT} and {KAGGLE} say different things of {stem}; remove the wrong one")
        return found[0]


def _devkit_truth(root: Path) -> dict[str, str]:
    meta, truth = (_devkit_file(root, name) for name in (META, TRUTH))
    if meta is None or truth is None:
        return {}
    from scipy.io import loadmat  # with MATLAB's format nobody else has to do

    try:
        synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        wnids = {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets}
        lines = truth.decode().split()
        return {f"ILSVRC2012_val_{number:08d}": wnids[int(line)] for number, line in enumerate(lines, 1)}
    except Exception as error:  # whatever a parser makes of damaged bytes
        raise DataError(f"{root / DEVKIT}: cannot be read ({error!r}); fetch it again") from None


def _devkit_file(root: Path, name: str) -> bytes | None:
    """A file of the devkit, packed or not."""
    if (root / DEVKIT / name).is_file():
        return (root / DEVKIT / name).read_bytes()
    archive = root / f"{DEVKIT}.tar.gz"
    if not archive.is_file():
        return None
    try:
        with tarfile.open(archive) as tar:
            return tar.extractfile(f"{DEVKIT}/{name}").read()
    except Exception as error:  # of tarfile, or of any decompressor
        raise DataError(f"{archive}: cannot be read ({error}); fetch it again") from None


def _kaggle_truth(root: Path) -> dict[str, str]:
    path = root / KAGGLE
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [(row["ImageId"], row["PredictionString"].split()[0]) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, AttributeError, IndexError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error!r}); fetch it again") from None
    truth = dict(rows)
    if len(truth) != len(rows):
        stem = Counter(stem for stem, _ in rows).most_common(1)[0][0]
        raise DataError(f"{path}: {stem} is there twice; fetch it again")
    for stem, wnid in rows:
        if not re.fullmatch(r"n\d{8}", wnid):
            raise DataError(f"{path}: {stem} is of class {wnid}, which is no WordNet ID; fetch it again")
    return truth
