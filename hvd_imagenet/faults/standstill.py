"""Notices that the job has stopped getting on, though every worker answers: one hangs, and all others wait for it."""

from __future__ import annotations

from collections.abc import Mapping

from hvd_imagenet.backend import Pulse
from hvd_imagenet.errors import LostContactError
from hvd_imagenet.faults.status import Ending

NAMED = 4  # workers in the message


class Standstill:
    """Follows the pulses of all workers.

    Args:
        hosts: of all workers.
        stall_seconds: how long none of the pulses may change.
        slack: seconds more, so that a worker which does not answer either is named for that.
    """

    def __init__(self, hosts: list[str], stall_seconds: float, slack: float = 0):
        self._hosts = hosts
        self._stall = stall_seconds
        self._slack = slack
        self._pulses: dict[int, Pulse] = {}
        self._still = 0.0

    def look(self, pulses: Mapping[int, Pulse], passed: float) -> Ending | None:
        """The ending that it comes to, naming those that the others wait for; None: the job gets on.

        Args:
            pulses: by rank.
            passed: seconds since the last look.
        """
        pulses = dict(pulses)
        self._still = self._still + passed if pulses == self._pulses else 0.0
        self._pulses = pulses
        if self._still < self._stall + self._slack:
            return None
        furthest = max(pulse.meetings for pulse in pulses.values())
        behind = sorted(rank for rank, pulse in pulses.items() if pulse.meetings < furthest)
        stands = f"for {self._stall:g} s (faults.stall_seconds)"
        if not behind:
            reason = f"no worker has got any further {stands}: a device, the data or the network hangs"
            return Ending(LostContactError.exit_code, f"{reason}; look at them, and run again with --resume to go on")
        who = ", ".join(f"{rank} on {self._hosts[rank]}" for rank in behind[:NAMED])
        more = f" and {len(behind) - NAMED} more" if len(behind) > NAMED else ""
        reason = (
            f"all wait for worker {who}{more}, which has got no further {stands}: a read, a write or its device hangs"
        )
        first = behind[0]
        return Ending(
            LostContactError.exit_code, f"{reason}; run again with --resume to go on", first, self._hosts[first]
        )
