"""Which gradients are summed in one go."""

import pytest

from hvd_imagenet.buckets import buckets

MIB = 2**20


@pytest.mark.parametrize(
    ("sizes", "mib", "expected"),
    [
        # From the end: 1 MiB, then no more than what comes after it, 1, 2 and 4, and at most an eighth of 32 MiB.
        ([1] * 32, None, [[*range(4 * i, 4 * i + 4)] for i in range(7)] + [[28, 29], [30], [31]]),
        ([1] * 32, 2, [[2 * i, 2 * i + 1] for i in range(15)] + [[30], [31]]),
        ([1] * 4, 8, [[0, 1], [2], [3]]),
        # Less than 1 MiB is not worth a bucket, unless it is asked for.
        ([0.25] * 8, None, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ([0.25] * 4, 0.5, [[0, 1], [2, 3]]),
        ([0.25, 0.5, 0.5], None, [[0], [1, 2]]),
        # A large one goes alone.
        ([0.5, 3, 0.5, 0.5], None, [[0], [1], [2, 3]]),
        ([5], None, [[0]]),
        ([], None, []),
    ],
)
def test_which_go_together(sizes, mib, expected):
    assert [list(part) for part in buckets([int(size * MIB) for size in sizes], mib)] == expected
