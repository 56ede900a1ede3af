"""What of its host a worker takes, one GPU; and its clock."""

from __future__ import annotations

import time

import torch

from hvd_imagenet.gpu import Gpu, identify


def choose_device(local_rank: int) -> tuple[int, Gpu] | tuple[None, None]:
    """Number and names of this worker's GPU: one each where all are seen, or the only one that is."""
    if not torch.cuda.is_available():
        return None, None
    device_id = local_rank % torch.cuda.device_count()
    torch.cuda.set_device(device_id)
    return device_id, identify(device_id)


class Moment:
    """When a device is done with all that it was told to before this was made; on a CPU, now."""

    def __init__(self, device: torch.device):
        self._time = time.perf_counter()
        self._event = torch.cuda.Event(enable_timing=True) if device.type == "cuda" else None
        if self._event is not None:
            self._event.record()

    def seconds_until(self, later: Moment) -> float:
        """Waits for the device to get there."""
        if self._event is None:
            return later._time - self._time
        later._event.synchronize()
        return self._event.elapsed_time(later._event) / 1000
