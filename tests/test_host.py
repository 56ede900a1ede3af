"""What workers find on their hosts: cores to share out, and a GPU each."""

import pytest

from hvd_imagenet.errors import SettingsError
from hvd_imagenet.host import Place, cores_per_worker, require_own_gpus


def places(*masks, host="a"):
    return [Place(host, frozenset(mask), None) for mask in masks]


@pytest.mark.parametrize(
    ("given", "cores"),
    [
        (places(range(8)), 8),
        (places(range(8), range(8)), 4),  # all cores to all
        (places(range(4), range(4, 8)), 4),  # bound by the launcher
        (places(range(8), range(8), range(8)), 2),
        (places([0], [0], [0]), 1),
        (places(range(8)) + places(range(2), host="b"), 8),
    ],
)
def test_cores_are_shared_out_on_each_host(given, cores):
    assert cores_per_worker(given, 0) == cores


def gpus(*names):
    return [Place(name[0], frozenset([0]), name[1:] or None) for name in names]


@pytest.mark.parametrize("given", [gpus("a", "a"), gpus("aX", "aY"), gpus("aX", "bX")], ids=["cpu", "own", "hosts"])
def test_a_gpu_each_or_none(given):
    require_own_gpus(given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (gpus("aX", "aY", "aX"), "workers 0 and 2 on a share GPU X; start one worker per GPU"),
        (gpus("aX", "b"), "worker 1 on b has no GPU, others have"),
    ],
)
def test_shared_or_missing_gpus_are_named(given, message):
    with pytest.raises(SettingsError, match=message):
        require_own_gpus(given)
