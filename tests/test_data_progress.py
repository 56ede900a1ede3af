"""What is shown of the work on a data set, on a terminal and in a log."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from hvd_imagenet import data_progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when the test says so."""
    now = [0.0]
    monkeypatch.setattr(data_progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_lines_in_a_log(clock):
    written = io.StringIO()
    lines = data_progress._Lines(Console(file=written, width=200), {"train": 1000, "val": 200})
    lines("train", 100, 0)  # of an earlier packing: no part of the speed
    for clock[0], train, val, rejected in ((29.9, 300, 0, 1), (30, 400, 0, 2), (59.9, 500, 0, 2), (60, 700, 100, 1200)):
        lines("train", train, rejected)
        lines("val", val, 0)
    assert written.getvalue().splitlines() == [
        "400 of 1,200 images, 10 images/s, 0:01:20 left, 2 left out",
        "700 of 1,200 images, 10 images/s, 0:00:50 left, 1,200 left out",
    ]


def test_bars_on_a_terminal(monkeypatch):
    written = io.StringIO()
    terminal = Console(file=written, force_terminal=True, width=120)
    monkeypatch.setattr(data_progress, "Console", lambda **_: terminal)
    with data_progress.shown({"train": 10, "val": 5}) as update:
        update("train", 4, 0)
        update("val", 2, 3)
    said = written.getvalue()
    assert (
        "train" in said and "4/10" in said.replace(" ", "") and "2/5" in said.replace(" ", "") and "3 left out" in said
    )
