"""Which gradients are summed over the workers in one go."""

from __future__ import annotations

from collections.abc import Sequence

PART = 8  # buckets at least: early enough for the links to be busy through most of a backward
LEAST = 2**20  # bytes: less is hardly worth one of Horovod's cycles
# What gradients are multiplied by to travel in 16 bits, where less than 6e-8 is nothing and more than 65,504 infinite:
# a mean over thousands of samples comes near the one; 64, of one parameter, is rare. A power of two rounds nothing.
FP16_SCALE = 2.0**10


def default_bytes(whole: int) -> float:
    """The most bytes of a bucket, for so many of all gradients."""
    return max(whole / PART, LEAST)


def buckets(sizes: Sequence[int], mib: float | None) -> list[range]:
    """Gradients put together in their order; one that is larger than a bucket goes alone.

    No bucket above 1 MiB has more bytes than all that come after it: what is summed last, when no backward hides it any
    longer, is little.

    Args:
        sizes: in bytes, in the order in which a backward makes them.
        mib: of a bucket, at most; None: an eighth of them all, but at least 1 MiB.
    """
    most = default_bytes(sum(sizes)) if mib is None else mib * 2**20
    found: list[range] = []
    filled = after = 0
    for number in reversed(range(len(sizes))):
        if found and filled + sizes[number] <= min(most, max(after, LEAST)):
            found[-1] = range(number, found[-1].stop)
            filled += sizes[number]
        else:
            found.append(range(number, number + 1))
            after += filled
            filled = sizes[number]
    return found[::-1]
