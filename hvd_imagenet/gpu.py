"""The GPUs that a process sees, by the names that CUDA's driver gives them; no framework is needed."""

from __future__ import annotations

import ctypes
import uuid
from typing import NamedTuple

from hvd_imagenet.cores import near_device

ADDRESS_BYTES = 32  # a PCI address has 12 characters
NO_DEVICE = 100  # cuda.h: CUDA_ERROR_NO_DEVICE


class Gpu(NamedTuple):
    """A GPU's unique name, and the cores of the NUMA node that it hangs on (none: not known)."""

    name: str
    near: frozenset[int] = frozenset()


def visible() -> int:
    """How many GPUs this process sees; none where there is no driver, either.

    Raises:
        RuntimeError: there is a driver, and it fails.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    status, count = driver.cuInit(0), ctypes.c_int()
    if status == NO_DEVICE:
        return 0
    _require(status or driver.cuDeviceGetCount(ctypes.byref(count)), "count the GPUs")
    return count.value


def identify(device_id: int) -> Gpu:
    """The GPU that has this number among those that the process sees.

    Raises:
        RuntimeError: CUDA's driver does not tell.
    """
    driver = ctypes.CDLL("libcuda.so.1")
    device, name, address = ctypes.c_int(), (ctypes.c_byte * 16)(), ctypes.create_string_buffer(ADDRESS_BYTES)
    for status in (
        driver.cuInit(0),
        driver.cuDeviceGet(ctypes.byref(device), device_id),
        driver.cuDeviceGetUuid_v2(name, device),
        driver.cuDeviceGetPCIBusId(address, ADDRESS_BYTES, device),
    ):
        _require(status, f"tell the name of GPU {device_id}")
    return Gpu(str(uuid.UUID(bytes=bytes(name))), near_device(address.value.decode()))


def _require(status: int, what: str) -> None:
    if status != 0:
        raise RuntimeError(f"CUDA's driver cannot {what} (error {status})")
