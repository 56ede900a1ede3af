"""What Horovod is told before it starts."""

import os

import pytest

from hvd_imagenet.config import AllreduceSettings
from hvd_imagenet.errors import SettingsError
from hvd_imagenet.joining import horovod_set

CYCLE, PATIENCE, GIVES_WAY = "HOROVOD_CYCLE_TIME", "HOROVOD_GLOO_TIMEOUT_SECONDS", "OMPI_MCA_mpi_yield_when_idle"


@pytest.mark.parametrize(
    ("settings", "on_gpu", "before", "after"),
    [
        ({}, False, {}, {CYCLE: "10"}),
        ({}, True, {}, {}),
        ({}, True, {CYCLE: "2"}, {CYCLE: "2"}),
        ({}, False, {CYCLE: "2"}, {CYCLE: "2"}),
        ({"cycle_ms": 20}, True, {CYCLE: "2"}, {CYCLE: "20"}),
        ({}, True, {GIVES_WAY: "0"}, {GIVES_WAY: "0"}),
    ],
)
def test_settings_come_before_the_environment_and_that_before_our_defaults(
    settings, on_gpu, before, after, monkeypatch
):
    monkeypatch.setattr(os, "environ", before.copy())
    with horovod_set(AllreduceSettings(**settings), on_gpu, 12.5, step_seconds=0.5):
        assert os.environ == {GIVES_WAY: "1", **after, PATIENCE: "43", "HOROVOD_FUSION_THRESHOLD": "0"}
    assert os.environ == before


@pytest.mark.parametrize("given", ["soon", "-1", "nan", "inf"])
def test_a_cycle_that_is_none_is_refused(given, monkeypatch):
    monkeypatch.setattr(os, "environ", {CYCLE: given})
    refused = pytest.raises(SettingsError, match=f"{CYCLE}: {given}; give a number of milliseconds from 0 on")
    with refused, horovod_set(AllreduceSettings(), False, 12.5, step_seconds=None):
        pass


@pytest.mark.parametrize(("name", "unit"), [("cycle_ms", "milliseconds"), ("bucket_mib", "MiB")])
def test_none_of_them_may_be_nothing(name, unit):
    with pytest.raises(ValueError, match=f"allreduce.{name}: 0; give a number of {unit} above 0, or null"):
        AllreduceSettings(**{name: 0})
