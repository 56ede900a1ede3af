"""Whether all workers still have the same weights."""

from __future__ import annotations

from collections import Counter

from hvd_imagenet.backend import Backend
from hvd_imagenet.errors import OutOfStepError


def require_same_weights(backend: Backend, step: int) -> None:
    """Compare the workers' weights, bit for bit.

    All workers take the same updates of the same sums, so there is no tolerance to choose.

    Raises:
        OutOfStepError: names the workers that differ from most, and the first parameter that does.
    """
    if backend.size == 1:
        return
    mine = backend.fingerprint()
    if len(set(backend.gather(hash_of(mine)))) == 1:
        return
    everyone = backend.gather(mine)
    counts = Counter(map(hash_of, everyone))
    most = max(everyone, key=lambda other: counts[hash_of(other)])  # of equally many, that with the lowest rank
    differing = [rank for rank, other in enumerate(everyone) if other != most]
    first = next(name for name in most if any(everyone[rank][name] != most[name] for rank in differing))
    who = f"worker{'s' if len(differing) > 1 else ''} {', '.join(map(str, differing))}"
    others = "worker 0" if backend.size == 2 else "the others"  # of two, either may be the one that is wrong
    error = OutOfStepError(
        f"after step {step}, the weights of {who} are not those of {others} any more, first in {first}; is the memory "
        "or device of a host faulty? --resume goes on from the last checkpoint"
    )
    error.rank = differing[0]
    raise error


def hash_of(fingerprint: dict[str, int]) -> int:
    """One number for all; the same in every process, as numbers' hashes are."""
    return hash(tuple(fingerprint.values()))
