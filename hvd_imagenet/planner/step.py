"""How long a step takes on a cluster, and what of it is computing, waiting for others, and all-reduce."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

from hvd_imagenet.buckets import buckets
from hvd_imagenet.config import Config
from hvd_imagenet.models import layers
from hvd_imagenet.planner.cluster import Cluster
from hvd_imagenet.planner.transport import Transport

FORWARD = 1 / 3  # of a micro-batch's time: a backward takes two operations for each one of the forward
COUNTS = 5  # loss, top-1, top-5, samples, stop: the end of the step vector


@dataclass(frozen=True)
class Network:
    """The network that is trained, as far as time and memory are concerned.

    Attributes:
        costs: its layers, in the order of the forward.
        element: bytes of a gradient's element: backends keep weights and gradients in float32 under bf16, too.
        activation: bytes of an element of what the layers give.
        sent: bytes of an element of a gradient on its way.
        bucket_mib: the most that is summed in one go, see `hvd_imagenet.buckets`.
    """

    costs: list[layers.Layer]
    element: int
    activation: int
    sent: int
    bucket_mib: float | None = None

    @classmethod
    def of(cls, config: Config) -> Network:
        element = 8 if config.precision == "float64" else 4
        activation = 2 if config.precision == "bf16" else element
        sent = 2 if config.allreduce.compression == "fp16" else element
        return cls(config.layers(), element, activation, sent, config.allreduce.bucket_mib)

    @property
    def parameters(self) -> int:
        return layers.parameters(self.costs)

    @property
    def gradient_bytes(self) -> int:
        return self.element * self.parameters

    @property
    def wire_bytes(self) -> int:
        """Of all gradients, as they travel."""
        return self.sent * self.parameters

    @property
    def step_vector_bytes(self) -> int:
        """Of what backends sum beside the gradients: a mean and a variance of each normalised channel, and counts."""
        return self.element * (sum(layer.norm_channels for layer in self.costs) + COUNTS)

    def tensors(self, backward: float) -> list[tuple[float, int]]:
        """When what is summed in one go is ready, in seconds from the beginning of a backward, and its bytes."""
        moments, of_layers = zip(*layers.ready(self.costs), strict=True)
        sizes = [self.element * layer.parameters for layer in of_layers]
        together = buckets(sizes, self.bucket_mib)
        sent = [self.sent * layer.parameters for layer in of_layers]
        gradients = [(moments[part[-1]] * backward, sum(sent[i] for i in part)) for part in together]
        return [(0.0, self.step_vector_bytes), *gradients]


@dataclass(frozen=True)
class Speed:
    """How fast a worker is, and what it is fed by.

    Attributes:
        micro_batch: seconds for forward and backward of one micro-batch, of a worker that is alone.
        spread: standard deviation of the nodes' times for a step, as a part of their mean.
        image: mean bytes of an image.
        storage: bytes per second that a node can read; loader: images per second that a worker can decode;
            None: as many as needed.
    """

    micro_batch: float
    spread: float
    image: float = 0.0
    storage: float | None = None
    loader: float | None = None


@dataclass(frozen=True)
class Step:
    """A step of some micro-batches, each worker with its share.

    Attributes:
        micro_batches: of the step; images: of a micro-batch.
    """

    micro_batches: int
    images: int
    cluster: Cluster
    network: Network
    speed: Speed
    transport: Transport

    @property
    def share(self) -> int:
        """Micro-batches of the workers that have most."""
        return -(-self.micro_batches // self.cluster.workers)

    @property
    def computing(self) -> float:
        """Seconds of forward and backward, of a worker that has most micro-batches."""
        return self.share * self.speed.micro_batch

    @property
    def slowest(self) -> float:
        """Seconds that the slowest of the nodes takes longer than the mean one."""
        return self.computing * self.speed.spread * largest_of(self.cluster.nodes)

    @cached_property
    def exposed(self) -> float:
        """Seconds of the all-reduce that are left when the backward of the last micro-batch is over."""
        backward = (1 - FORWARD) * self.speed.micro_batch
        return self.transport.finished(self.cluster, self.network.tensors(backward)) - backward

    @property
    def working(self) -> float:
        """Seconds of computing, waiting for the slowest, and all-reduce."""
        return self.computing + self.slowest + self.exposed

    @property
    def reading(self) -> float:
        """Seconds that storage takes for a node's images of a step, beside it."""
        mine = self.micro_batches * self.images / self.cluster.nodes
        return mine * self.speed.image / self.speed.storage if self.speed.storage else 0.0

    @property
    def decoding(self) -> float:
        """Seconds that a worker takes to decode its images of a step, beside it."""
        return self.share * self.images / self.speed.loader if self.speed.loader else 0.0

    @property
    def seconds(self) -> float:
        return max(self.working, self.reading, self.decoding)

    @property
    def efficiency(self) -> float:
        """Images per second, of so many times one worker's that is alone and never waits."""
        return self.micro_batches * self.speed.micro_batch / self.cluster.workers / self.seconds

    @property
    def images_per_second(self) -> float:
        return self.micro_batches * self.images / self.seconds


def largest_of(count: int) -> float:
    """The expected largest of so many standard normal variables (Blom's approximation); 0 of one."""
    return NormalDist().inv_cdf((count - 0.375) / (count + 0.25))
