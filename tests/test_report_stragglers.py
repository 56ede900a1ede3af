"""The workers that others wait for, worked out by hand, and their table."""

import json

import pytest
from report_runs import make_run

from hvd_imagenet.report import arms, run, tables
from hvd_imagenet.report.stragglers import stragglers


def logged(folder, *slowest):
    """A run with a step for each (rank, host, its seconds, seconds of the median); None: not logged."""
    folder.mkdir(parents=True)
    keys = "slowest_rank", "slowest_host", "slowest_seconds", "median_seconds"
    lines = []
    for step, values in enumerate(slowest, start=1):
        said = {key: value for key, value in zip(keys, values, strict=False) if value is not None}
        lines.append(json.dumps({"event": "step", "step": step, "epoch": step / 10, **said}) + "\n")
    (folder / "metrics.jsonl").write_text("".join(lines))
    return folder


def found(*folders):
    return stragglers([arms.Arm("a", run.read(list(folders)))])


def test_the_worker_that_is_slowest_most_often_by_hand(tmp_path):
    steps = [(3, "b", 1.2, 1.0), (2, "b", 1.1, 1.0), (3, "b", 1.4, 1.0), (0, "a", 1.0, 1.0), ()]
    (one,) = found(logged(tmp_path / "x", *steps))
    assert (one.rank, one.host, one.run) == (3, "b", "x")
    assert (one.share, one.on_host) == (0.5, 0.75)  # of the four that have logged it
    assert one.behind == pytest.approx(0.3) and one.ratio == pytest.approx(0.3)  # (0.2 + 0.4) / 2
    assert one.lost == pytest.approx(0.175)  # (0.2 + 0.1 + 0.4 + 0) / 4


def test_a_rank_on_another_host_is_another_worker(tmp_path):
    steps = [(1, "a", 2.0, 1.0), (1, "a", 2.0, 1.0), (1, "b", 2.0, 1.0), (1, "b", 2.0, 1.0), (1, "b", 4.0, 2.0)]
    (one,) = found(logged(tmp_path / "x", *steps))
    assert (one.host, one.share, one.on_host) == ("b", 0.6, 0.6)
    assert one.behind == pytest.approx(4 / 3) and one.ratio == pytest.approx(1)


def test_what_is_not_known_is_not_said(tmp_path):
    (one,) = found(logged(tmp_path / "x", (5,)))
    assert (one.rank, one.host, one.share) == (5, None, 1)
    assert (one.on_host, one.behind, one.ratio, one.lost) == (None, None, None, None)
    (row,) = tables.slowest([one]).rows
    assert [cell.text for cell in row] == ["x", "worker 5", "100", "–", "–", "–"]
    (one,) = found(logged(tmp_path / "y", (5, "a", 1.0, 0.0)))
    assert one.behind == 1 and one.ratio is None


def test_nobody_waits_for_the_only_worker(tmp_path):
    assert found(logged(tmp_path / "x", (), ())) == []
    assert tables.slowest([]) is None


def test_the_runs_that_lose_the_most_come_first(tmp_path):
    folders = [logged(tmp_path / f"{n}", (n, "<b>\n", 1 + n / 1000, 1.0)) for n in range(12)]
    table = tables.slowest(found(*folders))
    assert [row[0].text for row in table.rows] == ["11", "10", "9", "8", "7", "6", "5", "4", "3", "2"]
    assert [cell.text for cell in table.rows[0]] == ["11", "worker 11 on <b>\\n", "100", "100", "11.0 ms", "11.0 ms"]
    assert table.rows[0][4].more == "+1.1 %" and "of 12 runs the 10" in table.caption


def test_made_up_runs_have_them_where_they_log_all(tmp_path):
    of = run.read([make_run(tmp_path / "x", epochs=1), make_run(tmp_path / "y", epochs=1, split=False)])
    (one,) = stragglers([arms.Arm("a", of)])
    assert (one.run, one.rank, one.host, one.share) == ("x", 3, "node2", 1)
