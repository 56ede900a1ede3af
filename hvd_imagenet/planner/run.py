"""A whole run on a cluster: its steps, images per second, time to train; and the same on other numbers of workers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from hvd_imagenet.config import Config
from hvd_imagenet.planner.cluster import Cluster
from hvd_imagenet.planner.step import Network, Speed, Step
from hvd_imagenet.planner.transport import Transport
from hvd_imagenet.policy import LargeBatchPolicy

FEWEST, MOST = 8, 1024  # workers of the table


@dataclass(frozen=True)
class Run:
    """A run that is planned, without its evaluations and checkpoints.

    Where a step of the recipe has fewer micro-batches than there are workers, it gets one for each.

    Args:
        recipe: the settings, with the size of the training set.

    Raises:
        ValueError: the whole run has fewer micro-batches than there are workers.
    """

    recipe: Config
    cluster: Cluster
    network: Network
    speed: Speed
    transport: Transport

    def __post_init__(self):
        _ = self.policy  # found out now, not when it is shown

    @cached_property
    def config(self) -> Config:
        """The recipe with a batch that is enough for all workers."""
        return with_batch(self.recipe, self.cluster.workers * self.recipe.batch.micro_size)

    @property
    def raised(self) -> bool:
        """Whether the recipe's own batch is too small for so many workers."""
        return self.config != self.recipe

    @cached_property
    def policy(self) -> LargeBatchPolicy:
        return self.config.policy(self.config.data.train_samples)

    @cached_property
    def steps(self) -> dict[int, int]:
        """How many steps the run has of each number of micro-batches."""
        found: dict[int, int] = {}
        for first, last in self.policy.stretches():
            found[first.micro_batches] = found.get(first.micro_batches, 0) + last.step + 1 - first.step
        return found

    def step(self, micro_batches: int) -> Step:
        size = self.recipe.batch.micro_size
        return Step(micro_batches, size, self.cluster, self.network, self.speed, self.transport)

    @cached_property
    def main_step(self) -> Step:
        """The step in which most of the run's images are taken."""
        return self.step(max(self.steps, key=lambda count: count * self.steps[count]))

    @property
    def at_once(self) -> int:
        """Images of a forward of the main step; where that is measured first, of one micro-batch."""
        batch = self.recipe.batch
        shared = -(-self.main_step.micro_batches // self.cluster.workers) * batch.micro_size
        return min(shared, batch.forward_size) if isinstance(batch.forward_size, int) else batch.micro_size

    @cached_property
    def seconds(self) -> float:
        return sum(count * self.step(micro_batches).seconds for micro_batches, count in self.steps.items())

    @property
    def images_per_second(self) -> float:
        return self.policy.last_sample / self.seconds

    @property
    def efficiency(self) -> float:
        """Images per second, of so many times one worker's that is alone and never waits."""
        alone = self.policy.last_sample / self.policy.micro_batch * self.speed.micro_batch
        return alone / self.cluster.workers / self.seconds

    @property
    def node_rate(self) -> float:
        """Bytes per second that each node reads."""
        return self.images_per_second * self.speed.image / self.cluster.nodes

    def others(self) -> Iterator[Run]:
        """This run, and those on 8 to 1,024 workers, doubled from one to the next, in the order of their numbers."""
        per_node = self.cluster.per_node
        counts = {per_node * 2**doublings for doublings in range(MOST.bit_length())}
        for workers in sorted({count for count in counts if FEWEST <= count <= MOST} | {self.cluster.workers}):
            try:
                yield dataclasses.replace(self, cluster=self.cluster.of(workers, per_node))
            except ValueError:  # more workers than the whole run has micro-batches
                return


def with_batch(recipe: Config, least: int) -> Config:
    """A recipe with a batch of at least so many samples, at any time of the run."""
    batch = recipe.batch
    if isinstance(batch.global_size, dict):
        sizes = {epoch: max(size, least) for epoch, size in batch.global_size.items()}
    else:
        sizes = max(batch.global_size, least)
    grow = dataclasses.replace(batch.grow, limit=batch.grow.limit and max(batch.grow.limit, least))
    return dataclasses.replace(recipe, batch=dataclasses.replace(batch, global_size=sizes, grow=grow))
