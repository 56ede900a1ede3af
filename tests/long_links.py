"""Two network namespaces, and between them a link of some rate, by ``tc``, and some latency.

Not every kernel has tc's netem: the latency is that of a process which passes on what is sent, some time later.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import struct
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress

import pytest

CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000  # if_tun.h
DEVICE, MTU = "tun0", 30000  # large packets: Python passes some thousands on per second


class LongLink:
    """A link between two namespaces, from `__enter__` to `__exit__`.

    Args:
        rate: as tc has it, such as ``1gbit``; milliseconds: of latency, each way.

    Attributes:
        namespaces: the two; addresses: theirs.
    """

    def __init__(self, rate: str, milliseconds: float):
        self.namespaces = [f"hvd{os.getpid()}-{end}" for end in ("a", "b")]
        self.addresses = ["10.72.0.1", "10.72.0.2"]
        self._rate, self._milliseconds = rate, milliseconds
        self._relay: subprocess.Popen | None = None

    def __enter__(self) -> LongLink:
        try:
            for namespace in self.namespaces:
                _call("ip", "netns", "add", namespace)
            command = [sys.executable, __file__, *self.namespaces, str(self._milliseconds)]
            self._relay = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert self._relay.stdout.readline(), "the relay has not started"
            for namespace, address in zip(self.namespaces, self.addresses, strict=True):
                _call("ip", "-n", namespace, "address", "add", f"{address}/24", "dev", DEVICE)
                _call("ip", "-n", namespace, "link", "set", DEVICE, "mtu", str(MTU), "up")
                limit = ["tbf", "rate", self._rate, "burst", "256kb", "latency", "50ms"]
                _call("tc", "-n", namespace, "qdisc", "replace", "dev", DEVICE, "root", *limit)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        if self._relay:
            self._relay.kill()
            self._relay.communicate()
        for namespace in self.namespaces:
            subprocess.run(["ip", "netns", "delete", namespace], stderr=subprocess.DEVNULL)

    def on(self, end: int, *command: str) -> list[str]:
        """The command that runs another one at one end."""
        return ["ip", "netns", "exec", self.namespaces[end], *command]


def require_links() -> None:
    """Skip the test where this machine does not allow such links."""
    try:
        with LongLink("1gbit", 1):
            pass
    except (OSError, subprocess.CalledProcessError, AssertionError) as error:
        pytest.skip(f"no network namespaces with tun devices and tc here: {error}")


def main(first: str, second: str, milliseconds: str) -> None:
    """Pass on what is sent at either end to the other, until nobody is there any more to end this."""
    os.nice(-15)  # a wire does not wait for a processor
    ends = [_device(namespace) for namespace in (first, second)]
    print("ready", flush=True)
    waiting: list[deque[tuple[float, bytes]]] = [deque(), deque()]
    while True:
        due = min((queue[0][0] for queue in waiting if queue), default=None)
        pause = None if due is None else max(0.0, due - time.monotonic())
        ready, _, _ = select.select([*ends, sys.stdin], [], [], pause)
        if sys.stdin in ready:
            return
        for number, end in enumerate(ends):
            if end in ready:
                waiting[number].append((time.monotonic() + float(milliseconds) / 1000, os.read(end, 65536)))
            while waiting[number] and waiting[number][0][0] <= time.monotonic():
                with suppress(OSError):  # a device that is not up yet
                    os.write(ends[1 - number], waiting[number].popleft()[1])


def _device(namespace: str) -> int:
    """A network device of a namespace, whose packets are read and written here."""
    with open(f"/run/netns/{namespace}") as place:
        if ctypes.CDLL(None, use_errno=True).setns(place.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH14x", DEVICE.encode(), IFF_TUN | IFF_NO_PI))
    return device


def _call(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
