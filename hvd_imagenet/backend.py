"""What the trainer asks of a framework, and loading one by name."""

from __future__ import annotations

import importlib
import re
import warnings
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np

from hvd_imagenet.errors import SettingsError
from hvd_imagenet.policy import StepPlan
from hvd_imagenet.totals import StepTotals, Totals

PACKAGES = {"torch": "torch", "keras": "tensorflow"}
OTHER_VERSION = "Framework .* installed with version"  # how Horovod begins to say so


class Batch(NamedTuple):
    """Decoded samples on the device, both with ``__dlpack__``.

    Attributes:
        images: float32, shape (n, height, width, 3), normalised.
        labels: class numbers, int64, shape (n,).
    """

    images: Any
    labels: Any


class InUse:
    """The batches of forwards that a device may still read: it is only told what to do when a framework's call returns.

    The loader takes the memory of a batch back as soon as nobody holds it, and knows nothing of the framework's work.
    """

    FORWARDS = 2  # enough to keep the device busy, and no more memory than that

    def __init__(self):
        self._forwards: deque[tuple[list[Batch], Callable[[], object]]] = deque()

    def hold(self, batches: list[Batch], wait: Callable[[], object]) -> None:
        """Keep those of one more, and wait for the device where it is more than `FORWARDS` behind.

        Args:
            wait: returns when the device has done all with these batches that it was told to.
        """
        self._forwards.append((batches, wait))
        if len(self._forwards) > self.FORWARDS:
            _, wait_for_first = self._forwards[0]
            wait_for_first()
            self._forwards.popleft()


@dataclass
class State:
    """What training has made, under neutral names, as numpy arrays in torchvision's layouts.

    Attributes:
        model: parameters, the running statistics of batch normalisation, and what else a user's own network keeps.
        momentum: the paper's u of each parameter; empty before the first step.
    """

    model: dict[str, np.ndarray]
    momentum: dict[str, np.ndarray]


class Pulse(NamedTuple):
    """How far a worker has got in its job. One with fewer meetings than another keeps that one waiting.

    Attributes:
        meetings: exchanges with all other workers that it has come to.
        batches: that it has begun to work on; several micro-batches that run as one count as one.
    """

    meetings: int = 0
    batches: int = 0

    def met(self) -> Pulse:
        return self._replace(meetings=self.meetings + 1)

    def worked(self) -> Pulse:
        return self._replace(batches=self.batches + 1)


class NormBatches(NamedTuple):
    """What an evaluation recomputes the statistics of batch normalisation from.

    Attributes:
        micro_batches: how many, of all workers.
        batches: this worker's share of them, in their order, shared out as a step's.
    """

    micro_batches: int
    batches: Iterable[Batch]


class Backend(Protocol):
    """One framework with Horovod under it; the same for all.

    Attributes:
        rank, size: of this worker among all; local_rank, local_size: among those of this host.
        device_id: the GPU of this worker; None: the CPU.
        cores: how many threads this worker may keep busy.
        pulse: how far this worker has got; may be read from any thread.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    device_id: int | None
    cores: int
    pulse: Pulse

    def train_step(
        self, plan: StepPlan, micro_batches: Iterable[Batch], stop: bool = False, norms: bool = False
    ) -> None:
        """Take one step from this worker's micro-batches of it; returns without waiting for the device.

        Args:
            stop: this worker is asked to stop; in the step's totals, all workers find how many are.
            norms: have the norms of gradients and weights in the step's totals.

        Raises:
            LostContactError: another worker is gone; so may the other methods that wait for all workers.
        """

    def take_totals(self, wait: bool) -> list[tuple[StepPlan, StepTotals]]:
        """The steps that have not been taken by an earlier call: the plan of each, and the sums over its samples.

        Args:
            wait: for the device to finish the last step. Otherwise, on a GPU, it is left to the next call; on a CPU
                there is nothing to wait for.
        """

    def losses(self, plan: StepPlan) -> dict[int, float]:
        """The mean loss of each of this worker's micro-batches, by its number in the step; of the last two steps."""

    def evaluate(
        self,
        batches: Iterable[Batch],
        norm: NormBatches | None = None,
        answered: Callable[[np.ndarray], None] | None = None,
    ) -> Totals:
        """Sums over the batches of all workers; the state stays as it is.

        Args:
            norm: to be run through the network as in training: its statistics of batch normalisation, means over the
                micro-batches of mean and unbiased variance, are used for this evaluation only. None: the running ones
                are. Where a worker has less than its share of them, no batch is evaluated, and the sums are 0.
            answered: called with the answers to each batch: class numbers, the best first, shape (n, 5), or
                (n, classes) where there are fewer than 5.
        """

    def state(self) -> State:
        """A copy of the state."""

    def load_state(self, state: State) -> None:
        """Take over a state.

        Raises:
            ValueError: names or shapes that differ from the network's.
        """

    def broadcast(self) -> None:
        """Give every worker rank 0's state."""

    def fingerprint(self) -> dict[str, int]:
        """A number for each parameter and running statistic; equal exactly if, but for odd chance, all bits are."""

    def gather(self, value: Any) -> list[Any]:
        """Every worker's (picklable) value, in the order of the ranks, on every worker; also a barrier."""


def require_statistics(precise_bn: int | None, model: str, count: int) -> None:
    """Raise SettingsError if statistics of batch normalisation are to be recomputed in a network that has none.

    Args:
        precise_bn: the setting; model: the network's name.
        count: of running statistics that training changes.
    """
    if precise_bn is not None and count == 0:
        raise SettingsError(
            f"evaluate.precise_bn: {precise_bn}; {model} has no batch normalisation whose running statistics training "
            "changes: leave it null"
        )


def require_same_shapes(what: str, expected: dict[str, tuple[int, ...]], given: dict[str, np.ndarray]) -> None:
    """Raise ValueError unless a part of a state has the names and shapes that the network has."""
    found = {name: array.shape for name, array in given.items()}
    differing = sorted(set(expected.items()) ^ set(found.items()))
    if differing:
        name = differing[0][0]
        raise ValueError(f"{what}: {name} has shape {found.get(name)}, the network's is {expected.get(name)}")


def load(framework: str) -> type[Backend]:
    """The backend class of a framework.

    Raises:
        SettingsError: see `import_part`.
    """
    return import_part(framework, "backend").Backend


def import_part(framework: str, part: str) -> ModuleType:
    """A module of a framework's folder; imports that framework, and nothing of the other.

    Raises:
        SettingsError: the framework or its part of Horovod is not installed, or not the one for the other.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", OTHER_VERSION)  # Horovod itself only warns if it loads at all
            return importlib.import_module(f"hvd_imagenet.{framework}.{part}")
    except (ImportError, UserWarning) as error:
        reason, *_ = str(error).splitlines()
        if re.match(OTHER_VERSION, reason):
            reason = f"Horovod was built for another version of it: {reason.rstrip('.')}"
        raise SettingsError(f"framework: {framework} cannot be loaded ({reason}); {remedy(framework)}") from None


def remedy(framework: str) -> str:
    """What to do where a framework, or Horovod for it, is missing or another one's."""
    # With the other, where that is: Horovod is built anew for all that are named.
    named = [name for name, package in PACKAGES.items() if name == framework or find_spec(package)]
    return f"run: bash launch/install.sh --frameworks {','.join(named)}"
