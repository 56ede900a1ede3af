"""The time of one worker's micro-batch, worked out from steps that were measured."""

from __future__ import annotations

from hvd_imagenet.config import Config
from hvd_imagenet.errors import SettingsError
from hvd_imagenet.models.layers import training_flops
from hvd_imagenet.planner.cluster import Cluster
from hvd_imagenet.planner.measured import Steps
from hvd_imagenet.planner.step import Network, Speed, Step
from hvd_imagenet.planner.transport import Transport
from hvd_imagenet.planner.units import milliseconds

HALVINGS = 50  # of the interval that the time lies in


def micro_batch_seconds(steps: Steps, config: Config, links: Cluster, transport: Transport, spread: float) -> float:
    """Seconds of one micro-batch of the plan, by a worker that is alone.

    Where workers were measured together, theirs is the time with which their step is predicted as it was measured,
    over the same links as those of the plan. Another network, image or micro-batch takes as much longer as it has more
    operations.

    Raises:
        SettingsError: over these links, the all-reduce alone takes longer than the steps did; or the network is none
            of the table, or was trained in another precision.
    """
    was = steps.config or config
    if was.model.own:
        raise SettingsError(f"--bench: {steps.source}; trains {was.model.name}, none of the table's; give --step-ms")
    if was.precision != config.precision:
        raise SettingsError(
            f"--bench: {steps.source}; is in {was.precision}; plan with --precision {was.precision}, or give --step-ms"
        )
    network = Network.of(was)
    cluster = links.of(steps.workers, steps.workers // steps.nodes)

    def predicted(seconds: float) -> float:
        speed = Speed(seconds, spread)
        return Step(steps.micro_batches, steps.micro_size, cluster, network, speed, transport).seconds

    found = steps.computing or _inverse(predicted, steps.seconds, steps)
    operations = training_flops(config.layers()) * config.batch.micro_size
    return found * operations / (training_flops(network.costs) * steps.micro_size)


def _inverse(predicted, seconds: float, steps: Steps) -> float:
    """The micro-batch's time for which a step is predicted to take so long; both grow together."""
    shortest, longest = 0.0, seconds
    if predicted(shortest) >= seconds:
        raise SettingsError(
            f"--bench: {steps.source}; its steps took {milliseconds(seconds)}, and over this network the all-reduce "
            f"alone takes {milliseconds(predicted(shortest))}; give the --network that they were measured on"
        )
    for _ in range(HALVINGS):
        middle = (shortest + longest) / 2
        shortest, longest = (middle, longest) if predicted(middle) < seconds else (shortest, middle)
    return longest
