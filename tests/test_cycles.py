"""How long Horovod's cycle is where nobody says so."""

import math
import os

import pytest

from hvd_imagenet import cycles
from hvd_imagenet.config import AllreduceSettings, Config, DataSettings, ModelSettings

CYCLE = "HOROVOD_CYCLE_TIME"


@pytest.mark.parametrize(
    ("seconds", "milliseconds"),
    [
        (None, 5),
        (0.08, 5),  # 4 by the root
        (0.125, 5),
        (0.18, 6),
        (0.5, 10),
        (12.5, 50),
        (18.0, 50),  # 60
    ],
)
def test_on_a_cpu_it_is_the_root_of_a_step_and_of_twice_a_look(seconds, milliseconds):
    assert cycles.cpu_cycle(seconds) == pytest.approx(milliseconds, rel=1e-9)


def test_what_is_set_comes_before_the_environment_and_that_before_the_default(monkeypatch):
    monkeypatch.setenv(CYCLE, "2")
    assert cycles.cycle_ms(AllreduceSettings(cycle_ms=20), False, 0.5) == 20
    assert cycles.cycle_ms(AllreduceSettings(), False, 0.5) == 2
    assert cycles.cycle_ms(AllreduceSettings(), True, 0.5) == 2
    monkeypatch.delenv(CYCLE)
    assert cycles.cycle_ms(AllreduceSettings(), False, 0.5) == pytest.approx(10)
    assert cycles.cycle_ms(AllreduceSettings(), True, 0.5) == 1


def test_a_step_is_as_long_as_its_operations_take_at_100_gflops_on_each_core():
    """ResNet-50's forward has 8,178,368,512 for an image, its backward twice as many; a micro-batch has 32 images."""
    assert cycles.micro_batch_seconds(Config(), cores=1) == pytest.approx(96 * 8_178_368_512 / 1e11, rel=1e-12)
    assert cycles.micro_batch_seconds(Config(), cores=4) == pytest.approx(24 * 8_178_368_512 / 1e11, rel=1e-12)


def test_of_a_network_of_ones_own_nothing_is_known(monkeypatch):
    own = Config(model=ModelSettings("mine:net"), data=DataSettings(image_size=28))
    assert cycles.micro_batch_seconds(own, cores=1) is None
    monkeypatch.setenv("HOROVOD_RANK", "0")
    assert cycles.step_seconds(own) is None


@pytest.mark.parametrize("of_launcher", ["HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_STEP_ID"])
def test_a_worker_alone_is_not_looked_after(of_launcher, monkeypatch):
    monkeypatch.setattr(os, "environ", {"HOME": "/"})
    assert cycles.step_seconds(Config()) == math.inf and cycles.cpu_cycle(math.inf) == 50
    os.environ[of_launcher] = "0"
    assert cycles.step_seconds(Config()) < math.inf


@pytest.mark.parametrize(
    ("environment", "cores"),
    [
        ({"HOROVOD_RANK": "0"}, 8),
        ({"HOROVOD_RANK": "0", "HOROVOD_LOCAL_SIZE": "2"}, 4),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "3"}, 2),
        ({"MPI_LOCALNRANKS": "16"}, 1),
        ({"HOROVOD_RANK": "0", "HOROVOD_LOCAL_SIZE": "many"}, 8),
        ({"HOROVOD_RANK": "0", "HOROVOD_LOCAL_SIZE": "0"}, 8),
    ],
)
def test_a_worker_has_its_part_of_the_cores(environment, cores, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr(os, "environ", environment)
    assert cycles.step_seconds(Config()) == cycles.micro_batch_seconds(Config(), cores)
