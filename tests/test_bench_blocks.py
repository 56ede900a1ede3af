"""Contestants: they work in their own blocks only, in step where they are several, and nothing of them stays behind."""

import os
import random
import signal
import subprocess
import sys
import time
from argparse import Namespace
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from jobs import gone, until

from hvd_imagenet.bench import blocks, report
from hvd_imagenet.bench.contestant import Command, Contestant, ContestantError, Crew, Task
from hvd_imagenet.bench.work import Answer, Turns, Work, steps_left

HERE = str(Path(__file__).parent)
# What a launcher does: a session of its own for a worker that is not even its child any more, when it has ended.
LAUNCHER = ["bash", "-c", 'setsid --fork "$0" "$@"; sleep 1000']


def crew(*launcher, speakers=1, commands=1, cores=(), **arguments):
    """A crew of the contestants below."""
    task = Task("pretended.anything", arguments, list(cores))
    return Crew([Command(task, launcher, {"PYTHONPATH": pythonpath()})] * commands, speakers)


def pythonpath():
    return os.pathsep.join([HERE, os.environ.get("PYTHONPATH", "")])


@contextmanager
def contestant(folder, of):
    made = Contestant(folder / "contestant", of)
    try:
        yield made
    finally:
        made.end()


@pytest.mark.parametrize(
    ("seconds", "pace", "taken", "steps"),
    [(2, 0.5, 0, 4), (2, 3, 0, 1), (0, 3, 0, 1), (0, 3, 1, 0), (-1, 3, 1, 0), (1.4, 3, 1, 0), (1.6, 3, 1, 1)],
)
def test_steps_of_a_block(seconds, pace, taken, steps):
    """As many as come closest to its end, and one at least."""
    assert steps_left(seconds, pace, taken) == steps


class Together(Work):
    """A first process whose others are written down."""

    size = 2
    amount = 10

    def __init__(self):
        self.done = []

    def prepare(self, asked):
        self.done.append(f"prepare {asked}")

    def take(self, steps):
        self.done.append(steps)
        time.sleep(0.01 * steps)

    def finish(self):
        self.done.append("finish")

    def told(self):
        return {"data": 1.0}

    def gather(self, value):
        self.done.append(f"tell {value}")
        return [value, {"data": 3.0}]


def test_a_leader_says_how_many_steps():
    """0.1 seconds of steps of 0.01: ten, all at once, after a warm-up that does not count, and that comes only once."""
    one = Together()
    turns = Turns(one)
    answer = turns.lead("a", 0.1)
    warm_up = ["tell a", "prepare a", 2, "finish", 1, "finish"]
    assert one.done[:6] == warm_up
    (told, taken), rest = one.done[6:8], one.done[8:]
    assert told == f"tell {taken}" and 7 <= taken <= 10 and rest[-3:] == ["finish", "tell 0", "tell {'data': 1.0}"]
    assert answer.steps >= taken and answer.amount == 10 * answer.steps and answer.told == {"data": 2.0}
    assert answer.seconds == pytest.approx(0.1, rel=0.5)
    one.done.clear()
    turns.lead("a", 0.1)
    assert one.done[:2] == ["tell a", "prepare a"] and one.done[2].startswith("tell ")


def test_a_follower_does_as_it_is_told():
    one = Together()
    told = iter(["a", 3, 2, 0, None])
    one.gather = lambda value: [next(told)]
    Turns(one).follow()
    assert one.done == ["prepare a", 2, "finish", 1, "finish", 3, 2, "finish"]


def test_speeds_of_those_beside_each_other_add_up():
    """30 in 2 seconds, and 10 in 4."""
    assert blocks.speed([Answer(30, 2.0, 3, {}), Answer(10, 4.0, 1, {})]) == 17.5


def test_rounds(monkeypatch):
    """Each has one block for each thing in every round; what was asked comes back in its place."""
    asked = []

    class Pretended:
        def block(self, seconds, what):
            asked.append(what)
            return [Answer(what, seconds, 1, {})]

    found = blocks.interleaved(
        {"a": Pretended(), "b": Pretended()}, 3, 0.5, lambda *_: None, (10, 20), random.Random(0)
    )
    assert {name: [[one[0].amount for one in rounds] for rounds in its] for name, its in found.items()} == {
        name: [[10] * 3, [20] * 3] for name in "ab"
    }
    assert len(asked) == 12 and all(sorted(asked[i : i + 4]) == [10, 10, 20, 20] for i in (0, 4, 8))


def test_rounds_are_shared_out_over_starts(tmp_path, monkeypatch):
    """Five over two are 2 and 3; processes are others each time, and what they answered stands together."""
    shares, usual = [], report.interleaved
    monkeypatch.setattr(report, "interleaved", lambda *of: [shares.append(of[1]), usual(*of)][1])
    crews = {name: crew(log=str(tmp_path)) for name in "ab"}
    with report.going_on("some", Namespace(rounds=5, seconds=0.01)) as bench:
        found = bench.measure(crews, {"a": "A", "b": "B"}, starts=2)
    assert list(found) == ["a", "b"] and all(len(rounds) == 5 for (rounds,) in found.values())
    assert len(list(tmp_path.glob("[0-9]*"))) == 4 and shares == [2, 3]


@pytest.mark.parametrize(("launcher", "commands"), [([], 1), ([], 2), (LAUNCHER, 1)])
def test_they_work_in_their_own_blocks_only(launcher, commands, tmp_path):
    of = crew(*launcher, commands=commands, speakers=commands, cores=[0], log=str(tmp_path))
    with contestant(tmp_path, of) as one:
        one.start()
        for _ in range(2):
            answers = one.block(0.1)
            assert len(answers) == commands and all(a.seconds == pytest.approx(0.1, abs=0.1) for a in answers)
            workers = {int(path.name) for path in tmp_path.glob("[0-9]*")}
            until(lambda pids=workers: all(psutil.Process(pid).status() == psutil.STATUS_STOPPED for pid in pids))
            assert len(workers) == commands
            done = [path.read_text() for path in tmp_path.glob("[0-9]*")]
            time.sleep(0.1)
            assert [path.read_text() for path in tmp_path.glob("[0-9]*")] == done
        assert all(psutil.Process(pid).cpu_affinity() == [0] for pid in workers)
    assert gone(workers)


@pytest.mark.parametrize("arguments", [{"fails": "at once"}, {"fails": "in a block"}])
@pytest.mark.parametrize("launcher", [[], LAUNCHER])
def test_one_that_fails_says_why(launcher, arguments, tmp_path):
    failing = crew(*launcher, log=str(tmp_path), **arguments)
    why = pytest.raises(ContestantError, match="^ValueError: no more of it$")
    with contestant(tmp_path, failing) as one, why:
        one.start()
        one.block(1.0)


@pytest.mark.parametrize(
    ("arguments", "said"), [({"fails": "killed"}, "said before"), ({"fails": "silently"}, "it said nothing")]
)
def test_one_that_is_killed_has_its_last_line(arguments, said, tmp_path):
    failing = crew(commands=2, speakers=2, log=str(tmp_path), **arguments)
    with contestant(tmp_path, failing) as one, pytest.raises(ContestantError, match=f"^{said}$"):
        one.start()
        one.block(1.0)


def test_one_that_cannot_be_started(tmp_path):
    why = pytest.raises(ContestantError, match="no-such-launcher")
    with contestant(tmp_path, crew("no-such-launcher")) as one, why:
        one.start()


def test_a_bench_that_is_killed_leaves_nothing(tmp_path):
    """Its contestants are stopped then, in sessions of their own, and have lost their parent."""
    program = f"""
import sys, time
sys.path.insert(0, {HERE!r})
from pathlib import Path
from test_bench_blocks import LAUNCHER, crew
from hvd_imagenet.bench.contestant import Contestant
one = Contestant(Path(sys.argv[1]) / "contestant", crew(*LAUNCHER, log=sys.argv[1]))
one.start()
print("ready", flush=True)
time.sleep(1000)
"""
    bench = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with bench.stdout:
        assert bench.stdout.readline() == "ready\n"
    left = [process.pid for process in psutil.Process(bench.pid).children(recursive=True)]
    bench.send_signal(signal.SIGKILL)
    bench.wait()
    assert len(left) == 3  # keeper, launcher, worker
    until(lambda: gone(left))


def test_ctrl_c_ends_all_contestants(tmp_path):
    """Pressed while the second one starts."""
    left, others = [], {child.pid for child in psutil.Process().children(recursive=True)}  # of tests before

    def told(name):
        if name == "second":
            left.extend({child.pid for child in psutil.Process().children(recursive=True)} - others)
            raise KeyboardInterrupt

    crews = {"first": crew(*LAUNCHER, log=str(tmp_path)), "second": crew()}
    with pytest.raises(KeyboardInterrupt), blocks.started(crews, tmp_path, None, told):
        pass
    assert len(left) == 3 and gone(left)


def test_no_room_for_one_more(tmp_path, monkeypatch):
    """The second one would need what the first one has: some 20 MiB for each of its processes, of which 5 are free."""
    free = [2**40, 5 * 2**20]
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("", (), {"available": free.pop(0)}))
    crews = {"first": crew(log=str(tmp_path)), "second": crew(log=str(tmp_path))}
    why = pytest.raises(ContestantError, match="^second: does not fit into memory: another one has taken 0.0 GiB")
    with why, blocks.started(crews, tmp_path, None, lambda name: None):
        pass
    assert free == []


def test_a_name_stands_before_an_error():
    with pytest.raises(ContestantError, match="^ours: why$"), blocks.naming("ours"):
        raise ContestantError("why")
