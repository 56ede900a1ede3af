"""What to think about before a run is begun, each in one line: warnings, and the paper's figures for large batches."""

from __future__ import annotations

from collections.abc import Iterator

from hvd_imagenet.planner.run import Run
from hvd_imagenet.planner.units import bits_per_second, bytes_per_second

PAPER_MICRO = 32  # images that the paper's results are for: its n
PAPER_BATCH = 8192  # up to which its accuracy stays
PAPER_ERRORS = {8192: 23.74, 16384: 24.79, 32768: 27.55, 65536: 33.96}  # per cent, of ResNet-50 (table 1)
SLOW = 0.1  # of a step; what takes more is told


def warnings(run: Run) -> list[str]:
    """All that is against this plan, the gravest first."""
    return [*_too_few(run), *_large_batch(run), *_other_micro_batch(run), *_uneven(run), *_slow_links(run)]


def _too_few(run: Run) -> Iterator[str]:
    if run.raised:
        size, workers = run.recipe.batch.micro_size, run.cluster.workers
        smallest = min(samples for _, samples in run.recipe.batch.ramp())
        yield (
            f"batch.global_size: {smallest:,}; is {smallest // size:,} micro-batches of {size} for {workers:,} "
            f"workers: train refuses it. Planned with {workers * size:,}; or take {smallest // size:,} workers"
        )


def _large_batch(run: Run) -> Iterator[str]:
    largest = max(samples for _, samples in run.config.batch.ramp())
    if largest > PAPER_BATCH:
        known = min((size for size in PAPER_ERRORS if size >= largest), default=max(PAPER_ERRORS))
        yield (
            f"batch.global_size: {largest:,}; above {PAPER_BATCH:,} the paper's accuracy falls: ResNet-50 has "
            f"{PAPER_ERRORS[known]} % top-1 error at {known:,}, {PAPER_ERRORS[PAPER_BATCH]} % at {PAPER_BATCH:,}"
        )


def _other_micro_batch(run: Run) -> Iterator[str]:
    size = run.recipe.batch.micro_size
    if size != PAPER_MICRO:
        yield (
            f"batch.micro_size: {size}; batch normalisation sees {size} images, which changes what is learnt: the "
            f"paper's results are for {PAPER_MICRO} (section 2.3)"
        )


def _uneven(run: Run) -> Iterator[str]:
    workers = run.cluster.workers
    for count in run.steps:
        step = run.step(count)
        if count % workers:
            lost = 1 - count / workers / step.share
            fitting = [number for number in range(1, count + 1) if count % number == 0]
            fewer, more = (pick(fitting, workers) for pick in (_below, _above))
            yield (
                f"--workers: {workers}; {count:,} micro-batches are {step.share} for some and {step.share - 1} for "
                f"others, who wait: {lost:.0%} of the time is lost; {fewer} or {more} share evenly"
            )


def _slow_links(run: Run) -> Iterator[str]:
    step = run.main_step
    images = step.images_per_second * step.seconds / step.working  # that the workers could take
    if step.reading > step.working:
        yield (
            f"--storage: {bytes_per_second(run.speed.storage)}; a node needs "
            f"{bytes_per_second(images * run.speed.image / run.cluster.nodes)}: pack smaller images (data pack "
            "--shorter-side), or copy the data to each node's own disk"
        )
    if step.decoding > step.working:
        yield (
            f"--bench: a worker decodes {run.speed.loader:,.0f} images/s, and could train on "
            f"{images / run.cluster.workers:,.0f}: give each worker more cores (data.threads)"
        )
    if step.exposed > SLOW * step.seconds and run.cluster.nodes > 1:
        yield (
            f"--network: {bits_per_second(run.cluster.network.rate)}; {step.exposed / step.seconds:.0%} of a step "
            "waits for the all-reduce; fewer workers, or a larger batch, have more to compute between two of them"
        )


def _below(numbers: list[int], limit: int) -> int:
    return max(number for number in numbers if number < limit)


def _above(numbers: list[int], limit: int) -> int:
    return min(number for number in numbers if number > limit)
