"""How the doctor's workers meet and measure, whoever is late, silent or a stranger."""

import socket
import threading
import time
from contextlib import suppress

import pytest

from hvd_imagenet.doctor import meeting, network
from hvd_imagenet.faults.link import listen


def together(*parts):
    """Run functions at the same time; what they return."""
    results = [None] * len(parts)

    def run(number):
        results[number] = parts[number]()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def circle(size):
    """The meetings of so many workers."""
    server, address = listen()
    first = [lambda: meeting.open_to(address, server, size, 20)]
    return together(*first, *(lambda rank=rank: meeting.join(address, rank, size, 20) for rank in range(1, size)))


def test_all_learn_what_each_says():
    meetings = circle(3)
    said = together(*(lambda one=one: one.gather(f"{one.rank}" * 100_000, 10) for one in meetings))
    assert said == [[f"{rank}" * 100_000 for rank in range(3)]] * 3
    for one in meetings:
        one.close()


def test_a_silent_worker_keeps_nobody_waiting_for_ever():
    meetings = circle(3)
    begun = time.monotonic()
    said = together(lambda: meetings[0].gather("a", 1), lambda: meetings[2].gather("c", 1))
    assert said == [["a", None, "c"]] * 2
    assert together(lambda: meetings[0].gather("a", 1), lambda: meetings[2].gather("c", 1)) == [["a", None, "c"]] * 2
    assert time.monotonic() - begun < 5
    meetings[0].close()
    with pytest.raises(meeting.MeetingError, match="worker 0 is not heard of any more"):
        meetings[2].gather("c", 1)


def test_strangers_are_not_let_in():
    server, address = listen()
    with socket.create_connection(("127.0.0.1", address.port)) as stranger:
        stranger.sendall(b'{"token": "guessed", "rank": 1}\n')
        assert meeting.admit(server, address.token, time.monotonic() + 5) is None
    server.close()


def test_a_clock_ahead_is_seen(monkeypatch):
    meetings = circle(2)
    real = time.time
    mine = threading.local()
    monkeypatch.setattr(meeting.time, "time", lambda: real() + getattr(mine, "ahead", 0))

    def second():
        mine.ahead = 100
        return meetings[1].clocks()

    first, other = together(meetings[0].clocks, second)
    assert first == other
    assert first[0] == 0
    assert abs(first[1] - 100) < 1


def test_a_stranger_does_not_end_a_measurement(monkeypatch):
    monkeypatch.setattr(network, "WARM_UP_SECONDS", 0.1)
    monkeypatch.setattr(network, "SECONDS", 0.3)
    server, address = listen()
    with socket.create_connection(("127.0.0.1", address.port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        there = {"address": vars(address), "interfaces": {host: "eth7" for host in address.hosts}}
        _, link = together(lambda: network.receive(server, address, 10), lambda: network._sent(1, 0, there))
    server.close()
    assert link.mbits and (link.address, link.interface) == (address.hosts[0], "eth7")


def test_one_who_dawdles_keeps_no_worker_out(monkeypatch):
    monkeypatch.setattr(meeting, "HELLO_SECONDS", 0.5)
    server, address = listen()
    with socket.create_connection(("127.0.0.1", address.port)) as stranger:
        dawdling = threading.Event()

        def drip():
            with suppress(OSError):
                while not dawdling.wait(0.2):
                    stranger.sendall(b"x")

        begun = time.monotonic()
        threading.Thread(target=drip).start()
        assert meeting.admit(server, address.token, time.monotonic() + 20) is None
        assert time.monotonic() - begun < 5
        dawdling.set()
    server.close()


def test_a_worker_that_does_not_tell_its_time_keeps_no_other_from_it(monkeypatch):
    monkeypatch.setattr(meeting, "RELAY_SECONDS", 1)
    monkeypatch.setattr(meeting, "PING_SECONDS", 1.5)
    meetings = circle(3)
    first, other = together(meetings[0].clocks, meetings[2].clocks)
    assert first == other and first[:2] == [0, None] and abs(first[2]) < 1
    assert meetings[1].own_address() is None  # all are on this host
    for one in meetings:
        one.close()


@pytest.mark.parametrize("count", [2, 3, 4, 7, 8])
def test_each_meets_each_once_and_one_at_a_time(count):
    rounds = network.rounds(count)
    pairs = [frozenset(pair) for pairs in rounds for pair in pairs]
    assert len(pairs) == len(set(pairs)) == count * (count - 1) // 2
    assert all(len({place for pair in pairs for place in pair}) == 2 * len(pairs) for pairs in rounds)
