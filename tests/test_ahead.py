"""Work done ahead on a thread: order, errors, bounds, and an end that leaves nothing behind."""

import gc
import subprocess
import sys
import threading
import time

import pytest

from hvd_imagenet.data.ahead import Ahead


def threads():
    return {thread for thread in threading.enumerate() if thread.name == "test"}


def eventually(holds):
    deadline = time.monotonic() + 10
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.001)
    return holds()


def test_items_come_in_order_then_the_end_again_and_again():
    ahead = Ahead((number for number in range(100)), 3, "test")
    assert list(ahead) == list(range(100))
    assert list(ahead) == []
    assert eventually(lambda: not threads())


def test_an_error_comes_after_the_items_before_it_again_and_again():
    def failing():
        yield 1
        yield 2
        raise ValueError("three")

    ahead = Ahead(failing(), 10, "test")
    assert [next(ahead), next(ahead)] == [1, 2]
    for _ in range(2):
        with pytest.raises(ValueError, match="three"):
            next(ahead)
    assert eventually(lambda: not threads())


def test_no_more_is_made_than_there_is_room_for():
    made = []

    def counting():
        for number in range(10):
            made.append(number)
            yield number

    with Ahead(counting(), 3, "test") as ahead:
        assert eventually(lambda: len(made) == 3)
        time.sleep(0.05)
        assert len(made) == 3
        assert next(ahead) == 0
        assert eventually(lambda: len(made) == 4)
        time.sleep(0.05)
        assert len(made) == 4


def test_work_goes_on_while_the_items_are_used():
    """Ten items that take 20 ms to make and 20 ms to use: 220 ms together, 400 ms one after the other."""

    def slow():
        for number in range(10):
            time.sleep(0.02)
            yield number

    start = time.monotonic()
    for _ in Ahead(slow(), 2, "test"):
        time.sleep(0.02)
    assert time.monotonic() - start < 0.35


def closable(closed):
    """An endless generator that says on which thread it was closed."""
    try:
        while True:
            yield 0
    finally:
        closed.append(threading.current_thread().name)


@pytest.mark.parametrize("limit", [1, 5])
def test_closing_ends_the_thread_and_the_generator_on_it(limit):
    closed = []
    ahead = Ahead(closable(closed), limit, "test")
    next(ahead)
    ahead.close()
    assert not threads() and closed == ["test"]
    with pytest.raises(StopIteration):
        next(ahead)
    ahead.close()


def test_what_nobody_refers_to_ends():
    closed = []
    ahead = Ahead(closable(closed), 2, "test")
    next(ahead)
    del ahead
    gc.collect()
    assert not threads() and closed == ["test"]


def test_the_interpreter_ends_with_threads_at_work():
    program = """
import time
from hvd_imagenet.data.ahead import Ahead

def endless():
    try:
        while True:
            time.sleep(0.001)
            yield 0
    finally:
        print("closed", flush=True)

ahead = Ahead(endless(), 2, "test")
next(ahead)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "closed\n", "")
