"""Which GPU it is that a worker has: the names that the driver gives it, whatever its number in this process."""

from __future__ import annotations

import ctypes
import uuid
from typing import NamedTuple

from hvd_imagenet.cores import near_device

ADDRESS_BYTES = 32  # a PCI address has 12 characters


class Gpu(NamedTuple):
    """A GPU's unique name, and the cores of the NUMA node that it hangs on (none: not known)."""

    name: str
    near: frozenset[int] = frozenset()


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
        if status != 0:
            raise RuntimeError(f"CUDA's driver cannot tell the name of GPU {device_id} (error {status})")
    return Gpu(str(uuid.UUID(bytes=bytes(name))), near_device(address.value.decode()))
