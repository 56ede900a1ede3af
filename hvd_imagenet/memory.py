"""The memory of a CPU that steps need again and again."""

from __future__ import annotations

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
NEVER, A_GIBIBYTE, MOST_OF_OLD = -1, 1 << 30, 32 << 20


def keep_memory() -> None:
    """Let the C library keep freed memory for the next step, which needs as much again; and let PyTorch ask for it in
    huge pages, where the system leaves that to those who ask.

    As it comes, glibc gives activations back to the system and has them zeroed, page by page, when they are allocated
    again: a third of a ResNet-50's step on two cores. Frameworks cache only a GPU's memory.

    Call it before PyTorch allocates anything: it looks at its setting once.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # glibc's; others do without
        mallopt(M_TRIM_THRESHOLD, NEVER)
        if not mallopt(M_MMAP_THRESHOLD, A_GIBIBYTE):  # refused by older ones
            mallopt(M_MMAP_THRESHOLD, MOST_OF_OLD)
