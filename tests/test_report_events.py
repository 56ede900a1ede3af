"""What the report reads from metrics.jsonl, whatever has been written there."""

import json
import subprocess
import sys

import numpy as np
import pytest
from report_runs import EVAL, RESTART, STEP, write_lines

from hvd_imagenet.report import events


def lines(folder, *said):
    return events.read(write_lines(folder, *said))


def test_events_become_columns_in_their_order(tmp_path):
    found = lines(tmp_path, STEP, EVAL, RESTART, {**STEP, "step": 60, "grad_norm": 2})
    assert found.steps["step"].tolist() == [20, 60] and found.steps["lr"].tolist() == [0.1, 0.1]
    assert np.isnan(found.steps["grad_norm"][0]) and found.steps["grad_norm"][1] == 2
    assert found.evaluations["top1"].tolist() == [0.5] and found.evaluations["count"].tolist() == [23]
    (restart,) = found.restarts
    assert (restart["workers"], restart["workers_before"], restart["reason"]) == (3, 4, "lost <b>")
    assert (found.damaged, found.cut_short) == (0, False)


@pytest.mark.parametrize(
    ("line", "damaged"),
    [
        (b'{"event": "step", "st', 1),
        (b"\x00\x00\x00\x00", 1),
        (b'\xff\xfe{"event"}', 1),
        (b"[1, 2]", 1),
        (b"[" * 100_000, 1),
        (b"", 0),
        (b'{"event": "holiday", "step": {"of": "another kind"}}', 0),
        (b'{"event": "step", "step": 40, "epoch": NaN}', 0),
        (b'{"event": "step", "step": "forty", "epoch": 1.0}', 0),
        (b'{"event": "step", "step": true, "epoch": 1.0}', 0),
        (b'{"event": ["step"], "step": 40, "epoch": 1.0}', 0),
        (b'{"event": "eval", "step": 1' + b"0" * 400 + b', "epoch": 1.0, "top1": 1e999}', 0),
        (b'{"event": "eval", "step": 1, "epoch": 1.0, "top1": -1e101}', 0),
        (b'{"event": "restart", "step": null, "reason": "\\ud800"}', 0),
        (b'{"new": "' + b"x" * 2 * events.LONGEST_LINE + b'"}', 0),
    ],
)
def test_a_line_that_is_damaged_or_of_another_version_is_left_out(tmp_path, line, damaged):
    found = lines(tmp_path, STEP, line, EVAL, RESTART)
    assert (len(found.steps["step"]), len(found.evaluations["step"]), len(found.restarts)) == (1, 1, 1)
    assert found.steps["top1"].tolist() == [0.25] and found.restarts[0]["reason"] == "lost <b>"
    assert found.damaged == damaged


def test_both_ways_to_read_find_the_same(tmp_path):
    good = [{**STEP, "step": n, "epoch": n / 7, "loss": 1 / (n + 1)} for n in range(500)] + [EVAL, RESTART]
    quick, slow = lines(tmp_path, *good), lines(tmp_path, *good, b"damaged")
    assert (quick.damaged, slow.damaged) == (0, 1) and quick.restarts == slow.restarts
    for kind in ("steps", "evaluations"):
        for key in events.NUMBERS:
            np.testing.assert_array_equal(getattr(quick, kind)[key], getattr(slow, kind)[key])


@pytest.mark.parametrize(("last", "steps", "cut"), [(b'{"event": "st', 1, True), (json.dumps(STEP).encode(), 2, False)])
def test_the_last_line_may_still_be_being_written(tmp_path, last, steps, cut):
    (tmp_path / "metrics.jsonl").write_bytes(json.dumps(STEP).encode() + b"\n" + last)
    found = events.read(tmp_path / "metrics.jsonl")
    assert (len(found.steps["step"]), found.cut_short, found.damaged) == (steps, cut, 0)


def test_squares_of_the_largest_numbers_are_numbers(tmp_path):
    found = lines(tmp_path, {**STEP, "top1": 0.99 * events.LARGEST, "lr": 1.01 * events.LARGEST})
    assert np.isfinite(found.steps["top1"][0] ** 2) and np.isnan(found.steps["lr"][0])


def test_no_other_library_is_loaded_to_read(tmp_path):
    """pyarrow loads pandas for much that can be done without, wherever it is installed: half a second."""
    lines(tmp_path, STEP, EVAL, RESTART)
    code = """if True:
        import sys
        class Watch:
            def find_spec(self, name, path=None, target=None):
                if name == "pandas":
                    print("pandas was asked for")
        sys.meta_path.insert(0, Watch())
        from pathlib import Path
        from hvd_imagenet.report import events
        print(len(events.read(Path(sys.argv[1])).restarts))"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "metrics.jsonl"], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("1\n", "")
