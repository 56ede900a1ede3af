"""Tells what was in the step whose loss is not finite."""

from __future__ import annotations

import math

from hvd_imagenet.backend import Backend
from hvd_imagenet.data.store import Store
from hvd_imagenet.errors import DivergedError
from hvd_imagenet.policy import StepPlan
from hvd_imagenet.stream import SampleStream

REMEDY = "lower lr.reference or lengthen lr.warmup.epochs"
OF_COMPRESSED = f"{REMEDY}, or set allreduce.compression none: in 16 bits, a gradient above 64 is infinite"
NAMED = 2  # files named in the message, beside all sample numbers


def diverged(backend: Backend, plan: StepPlan, stream: SampleStream, store: Store, compressed: bool) -> DivergedError:
    """The error for a step whose summed loss is not finite; every worker calls this.

    It names the step, its learning rate, and the samples of its first micro-batch with such a loss.

    Args:
        compressed: gradients travel in 16 bits.
    """
    remedy = OF_COMPRESSED if compressed else REMEDY
    losses = [(number, loss, rank) for rank, part in enumerate(backend.gather(backend.losses(plan)))
              for number, loss in part.items()]  # fmt: skip
    guilty = sorted((number, loss, rank) for number, loss, rank in losses if not math.isfinite(loss))
    rate = f"epoch {plan.epoch:.2f}, learning rate {plan.learning_rate:g}"
    if not guilty:  # each is finite, their sum is not
        return DivergedError(f"the loss of step {plan.step + 1} is too large a number at {rate}; {remedy}")
    number, loss, rank = guilty[0]
    micro_batch = plan.global_batch // plan.micro_batches
    stretches = stream.stretches(plan.samples_seen + number * micro_batch, micro_batch)
    samples = [sample for part in stretches for sample in part.numbers.tolist()]
    error = DivergedError(
        f"the loss is {loss} at step {plan.step + 1}, {rate}, in {len(guilty)} of its {plan.micro_batches} "
        f"micro-batches, first in number {number} on worker {rank}: samples {', '.join(map(str, samples))} "
        f"({', '.join(store.name(n) for n in samples[:NAMED])}{', ...' if len(samples) > NAMED else ''}); "
        + (remedy if len(guilty) == plan.micro_batches else f"look at these images, or {remedy}")
    )
    error.rank = rank
    return error
