"""What a run tells of itself: lines of JSON, the result, the console."""

import io

import pytest
from rich.console import Console

from hvd_imagenet.metrics import lines, result
from hvd_imagenet.metrics.console import RELAYED, RunConsole
from hvd_imagenet.metrics.stopwatch import Stopwatch
from hvd_imagenet.metrics.words import LogFile, _clock
from hvd_imagenet.policy import BatchSettings, LargeBatchPolicy, LearningRateSettings

POLICY = LargeBatchPolicy(1000, 90, BatchSettings(100, 10), LearningRateSettings())
STEP = {
    "step": 405,
    "samples_seen": 40_500,
    "epoch": 40.5,
    "loss": 1.23456,
    "top1": 0.70512,
    "lr": 0.0390625,
    "global_batch": 100,
    "images_per_second": 10.0,
}
LINE = "epoch 40.50/90  step 405/900  loss 1.235  top-1 70.5%  lr 0.0391  10 img/s  1:22:30 left"


def test_lines_can_be_read_while_they_are_written(tmp_path):
    journal = lines.MetricsLines(tmp_path / "metrics.jsonl", up_to_step=0)
    journal.step({"step": 1, "loss": 0.5})
    assert lines.read(tmp_path / "metrics.jsonl") == [{"event": "step", "step": 1, "loss": 0.5}]
    journal.close()


def test_restarts_are_never_cut_and_an_evaluation_that_comes_again_is(tmp_path):
    path = tmp_path / "metrics.jsonl"
    events = [("step", 2), ("eval", 2), ("step", 3), ("restart", 3), ("step", 4)]
    path.write_text("".join(f'{{"event": "{event}", "step": {step}}}\n' for event, step in events))
    lines.MetricsLines(path, up_to_step=2, evaluated=False).close()
    assert [(e["event"], e["step"]) for e in lines.read(path)] == [("step", 2), ("restart", 3)]


def test_lines_beyond_the_checkpoint_are_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"event": "step", "step": 2}\n{"event": "eval", "step": 2}\n{"event": "step", "step": 3}\n{"eve')
    journal = lines.MetricsLines(path, up_to_step=2)
    journal.step({"step": 3})
    journal.close()
    assert [(e["event"], e["step"]) for e in lines.read(path)] == [("step", 2), ("eval", 2), ("step", 3)]


def evaluations(*top1):
    return [{"top1": value, "top5": value + 0.1} for value in top1]


@pytest.mark.parametrize(
    ("top1", "expected"),
    [
        ((0.5,), (0.5, 0.5, 0.5)),
        ((0.1, 0.4, 0.3), (0.3, 0.4, 0.3)),
        ((0.9, 0.1, 0.5, 0.2, 0.4, 0.3), (0.3, 0.9, 0.3)),  # the first of six is not among the last five
    ],
)
def test_accuracies(top1, expected):
    found = result.accuracies(evaluations(*top1))
    assert (found["val_top1"], found["best_top1"], found["median5_top1"]) == expected
    assert found["val_top5"] == pytest.approx(top1[-1] + 0.1)


def test_a_terminal_shows_a_bar_that_fits_80_columns(tmp_path, monkeypatch):
    monkeypatch.delenv(RELAYED, raising=False)
    screen = io.StringIO()
    shown = RunConsole(POLICY, Console(file=screen, force_terminal=True, width=80))
    shown.step({**STEP, "images_per_second": 12_345.0})
    shown._bar.refresh()
    shown.say("epoch 1 [validation]")
    shown.close()
    assert "12,345 img/s 0:04 left" in screen.getvalue() and "…" not in screen.getvalue()
    assert "epoch 1 [validation]" in screen.getvalue()


@pytest.mark.parametrize("relayed", [False, True])
def test_a_file_gets_plain_lines(tmp_path, monkeypatch, relayed):
    if relayed:
        monkeypatch.setenv(RELAYED, "0")
    screen = io.StringIO()
    for listener in (
        RunConsole(POLICY, Console(file=screen, force_terminal=relayed)),
        LogFile(tmp_path / "log.txt", POLICY),
    ):
        listener.step(STEP)
        listener.close()
    assert screen.getvalue() == (tmp_path / "log.txt").read_text() == LINE + "\n"


@pytest.mark.parametrize(("slowest", "named"), [(1.1, False), (1.101, True)])
def test_a_worker_that_the_others_wait_for_is_named(tmp_path, slowest, named):
    times = {"slowest_rank": 3, "slowest_host": "node2", "slowest_seconds": slowest, "median_seconds": 1.0}
    log = LogFile(tmp_path / "log.txt", POLICY)
    log.step({**STEP, **times})
    log.close()
    assert (tmp_path / "log.txt").read_text() == LINE + ("  worker 3 on node2 10% slower\n" if named else "\n")


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00")]
)
def test_clock(seconds, shown):
    assert _clock(seconds) == shown


def test_the_stopwatch_stands_still_in_pauses(monkeypatch):
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    watch = Stopwatch(seconds=10.0, samples=1000)
    now = 105.0
    assert watch.images_per_second(1200) == 40.0
    with watch.paused():
        now = 205.0
    now = 207.0
    assert watch.seconds() == 17.0
    assert watch.images_per_second(1300) == 50.0
