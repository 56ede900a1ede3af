"""A packed data set as large as one likes: an index of holes, which takes no disk, and empty shards."""

import zipfile

import numpy as np

from hvd_imagenet.data.description import Description, Shard, Split
from hvd_imagenet.data.index import SplitIndex


def make_holes(root, samples, per_shard):
    """A train split of so many samples; all that the index says of them is 0."""
    counts = [per_shard] * (samples // per_shard) + [samples % per_shard] * (samples % per_shard > 0)
    (root / "train").mkdir(parents=True)
    shards = [Shard(f"train/shard-{n:06d}.tar", 0, count, "0" * 64) for n, count in enumerate(counts)]
    for shard in shards:
        (root / shard.name).touch()
    path = root / "train" / "index.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, kind in SplitIndex.TYPES.items():
            _add_hole(archive, name, np.dtype(kind), samples)
    split = Split(samples, "0" * 16, path.stat().st_size, "0" * 64, shards)
    Description("holes", "", {}, ["all"], {"train": split}).save(root)
    return root


def _add_hole(archive, name, kind, samples):
    """A column of zeros, as numpy.savez writes it, of which only the header is written."""
    header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": (samples,)}
    member = zipfile.ZipInfo(f"{name}.npy")
    member.header_offset, member.CRC = archive.start_dir, 0
    file = archive.fp
    file.seek(archive.start_dir)
    file.write(member.FileHeader(zip64=True))
    start = file.tell()
    np.lib.format.write_array_header_1_0(file, header)
    archive.start_dir = file.seek(samples * kind.itemsize, 1)
    member.file_size = member.compress_size = archive.start_dir - start
    archive.filelist.append(member)
    archive._didModify = True
