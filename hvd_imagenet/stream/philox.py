"""Random numbers that are the same everywhere and for ever: raw output of the counter-based generator Philox.

numpy promises the raw stream of a bit generator, but not the methods of `Generator`: only `random_raw` is used.
"""

from __future__ import annotations

import hashlib

import numpy as np

BLOCK = 4  # numbers per count of the generator


def raw(seed: int, purpose: str, start_block: int, count: int) -> np.ndarray:
    """`count` numbers, uint64, of the stream of a seed and a purpose, from block `start_block` (4 numbers) on."""
    key = int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:16], "little")
    return np.random.Philox(key=key, counter=start_block).random_raw(count)


def uniform(numbers: np.ndarray) -> np.ndarray:
    """Raw numbers as float64 in [0, 1), from their upper 53 bits."""
    return (numbers >> np.uint64(11)) * 2.0**-53


def below(numbers: np.ndarray, limit: np.ndarray | int) -> np.ndarray:
    """Raw numbers as int64 from 0 to limit - 1, limit up to 2**32, from their upper 32 bits."""
    return ((numbers >> np.uint64(32)) * np.asarray(limit, np.uint64) >> np.uint64(32)).astype(np.int64)


def seeds(seed: int, purpose: str, count: int) -> list[int]:
    """`count` seeds from 0 to 2**32 - 1, for generators of other libraries."""
    return below(raw(seed, purpose, 0, count), 2**32).tolist()


def normal(seed: int, purpose: str, count: int) -> np.ndarray:
    """`count` independent draws, float64, of the standard normal distribution (Box and Muller 1958)."""
    pairs = -(-count // 2)
    u = uniform(raw(seed, purpose, 0, 2 * pairs))
    radius, angle = np.sqrt(-2 * np.log1p(-u[:pairs])), 2 * np.pi * u[pairs:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
