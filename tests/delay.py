"""A stretch of cable that takes its time: carries frames between two new network devices, each so much later.

    python delay.py DEVICE OTHER_DEVICE MILLISECONDS

What tc's netem does, which not every kernel has. It prints a line when the devices are there, and runs until it is
ended.
"""

import fcntl
import os
import select
import struct
import sys
import time
from collections import deque
from contextlib import suppress

TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4 = 0x01, 0x02  # frames come in one piece of up to 64 KiB, as between any two namespaces
LONGEST = 2**16 + 64


def main(one: str, other: str, milliseconds: str) -> None:
    ends = [opened(one), opened(other)]
    opposite = dict(zip(ends, ends[::-1], strict=True))
    on_the_way: deque[tuple[float, int, bytes]] = deque()
    print(flush=True)
    while True:
        left = max(0.0, on_the_way[0][0] - time.monotonic()) if on_the_way else None
        for end in select.select(ends, [], [], left)[0]:
            on_the_way.append((time.monotonic() + float(milliseconds) / 1000, opposite[end], os.read(end, LONGEST)))
        while on_the_way and on_the_way[0][0] <= time.monotonic():
            _, end, frame = on_the_way.popleft()
            with suppress(OSError):  # a device that is not up yet: nobody is there
                os.write(end, frame)


def opened(name: str) -> int:
    """The descriptor of a new device: what is read from it was sent to the network through it."""
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
    fcntl.ioctl(device, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4)
    return device


if __name__ == "__main__":
    main(*sys.argv[1:])
