"""The journal, and those who listen to it: nothing is lost, and no step waits."""

import threading
import time

import pytest

from hvd_imagenet.metrics.journal import Journal, Listener


class Heard(Listener):
    """Keeps what it hears."""

    def __init__(self):
        self.all = []

    def __getattribute__(self, name):
        if callable(vars(Listener).get(name)) and not name.startswith("_"):
            return lambda *values: self.all.append((name, *values))
        return super().__getattribute__(name)


def everything(journal):
    journal.say("text")
    journal.begin({"step": 0})
    journal.restart({"step": 0})
    journal.step({"step": 1})
    journal.evaluating({"step": 1})
    journal.evaluation({"step": 1, "top1": 0.5})
    journal.done({"val_top1": 0.5})
    journal.failed("why")
    journal.wait()
    journal.flush()
    journal.close()


def test_all_listeners_hear_everything_in_its_order():
    heard = [Heard(), Heard()]
    everything(Journal(heard))
    names = ["say", "begin", "restart", "step", "evaluating", "evaluation", "done", "failed"]
    names += ["wait", "flush", "close"]
    assert [name for name, *_ in heard[0].all] == names
    assert set(names) == {name for name, what in vars(Listener).items() if callable(what) and not name.startswith("_")}
    assert heard[0].all == heard[1].all
    assert heard[0].all[5] == ("evaluation", {"step": 1, "top1": 0.5})


def test_workers_without_listeners_begin_no_thread():
    before = threading.active_count()
    journal = Journal()
    everything(journal)
    assert threading.active_count() == before


def test_a_listener_that_is_held_up_holds_up_nobody_until_the_end():
    class Halted(Listener):
        def step(self, values):
            go_on.wait(10)
            written.append(values["step"])

    go_on, written = threading.Event(), []

    class Terminal(Halted):
        waited_for = False

    journal = Journal([Halted(), Terminal()])
    start = time.monotonic()
    for step in range(100):
        journal.step({"step": step})
    assert time.monotonic() - start < 5 and written == []
    threading.Timer(0.1, go_on.set).start()
    journal.close()
    assert sorted(written) == sorted([*range(100), *range(100)])


def test_a_checkpoint_waits_for_files_and_not_for_a_halted_terminal():
    class Slow(Listener):
        def step(self, values):
            time.sleep(0.1)
            written.append("file")

    class Halted(Listener):
        waited_for = False

        def step(self, values):
            go_on.wait(10)
            written.append("terminal")

    go_on, written = threading.Event(), []
    journal = Journal([Slow(), Halted()])
    journal.step({})
    journal.flush()
    assert written == ["file"]
    go_on.set()
    journal.close()
    assert written == ["file", "terminal"]


def test_a_fault_of_a_listener_is_not_hidden():
    class Faulty(Listener):
        def step(self, values):
            raise KeyError("loss")

    journal = Journal([Faulty()])
    journal.step({})
    with pytest.raises(KeyError, match="loss"):
        journal.flush()
    journal.failed("of something else")  # which is not to be hidden by this
    journal.close()


def test_the_end_waits_a_moment_for_a_halted_terminal(monkeypatch):
    class Halted(Listener):
        waited_for = False

        def step(self, values):
            go_on.wait(10)

    go_on = threading.Event()
    monkeypatch.setattr("hvd_imagenet.metrics.journal.PATIENCE", 0.1)
    journal = Journal([Halted()])
    journal.step({})
    start = time.monotonic()
    journal.close()
    assert time.monotonic() - start < 5
    go_on.set()
