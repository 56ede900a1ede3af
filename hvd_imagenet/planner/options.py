"""What a plan is made for, from the command's options: given, measured, or assumed and then said so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hvd_imagenet.config import Config
from hvd_imagenet.errors import SettingsError
from hvd_imagenet.models.layers import training_flops
from hvd_imagenet.planner import measured, units
from hvd_imagenet.planner.calibration import micro_batch_seconds
from hvd_imagenet.planner.cluster import Cluster, Link
from hvd_imagenet.planner.run import Run
from hvd_imagenet.planner.step import Network, Speed
from hvd_imagenet.planner.transport import TRANSPORTS, Transport, as_set

# The paper's: P100s, 8 of which are in a server, on 50 Gbit/s. These 8 take 29 hours for 90 epochs of ResNet-50 on
# ImageNet, in steps of 256 images: 232 ms for the 32 of each.
PER_NODE, NETWORK = 8, 50e9 / 8
FLOPS = 3 * 32 * 8_178_368_512 / 0.232  # per second: a backward takes twice as many as the 8.18 G of a forward
LATENCY = 30e-6  # of a small message over TCP between two hosts of one network
PAYLOAD = 1448 / 1538  # of each Ethernet frame, with preamble and gap: 1,500 bytes less 52 of IP and TCP, plus 38
SPREAD = 0.05  # with which a step of 352 of the paper's GPUs takes 12 % longer than one of 8 (section 5.5)
IMAGENET_IMAGE, SMALL_IMAGE, SMALL = 110e3, 2.6e3, 64  # bytes; the latter Fashion-MNIST's in a tar, up to 64 pixels


@dataclass
class Given:
    """The options as they were typed, and what is assumed in the place of those that were not."""

    options: Any
    assumed: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> str | None:
        return getattr(self.options, name)

    def assume(self, value: Any, words: str) -> Any:
        self.assumed.append(words)
        return value


def planned(options: Any, config: Config, environment: Mapping[str, str]) -> tuple[Run, list[str]]:
    """The run that is planned, and in words what was assumed.

    Args:
        options: see ``planner.command``; environment: where Horovod looks for its own settings.

    Raises:
        SettingsError, DataError: an option makes no sense, or does not go with another.
    """
    if config.model.own:
        raise SettingsError(
            f"model.name: {config.model.name}; what a network of your own costs is not known before it is built: plan "
            "with one of the table that is like it, such as --model.name resnet50"
        )
    given = Given(options)
    if given["bench"] and given["step_ms"] is not None:
        raise SettingsError(
            '--bench: and --step-ms; give one of them (a file {"bench": "step", ...} can stand beside others)'
        )
    known = measured.read(given["bench"] or [])
    transport = _transport(given, known.links, config, environment)
    cluster = _cluster(given, config, transport, known.links)
    spread = _spread(given)
    network = Network.of(config)
    if known.steps:
        seconds = micro_batch_seconds(known.steps, config, cluster, transport, spread)
        given.assume(seconds, f"{units.milliseconds(seconds)} for a micro-batch, from {known.steps.source}")
    else:
        seconds = _step_seconds(given, config, network)
    speed = Speed(seconds, spread, _image(given, config), _storage(given), known.loader)
    if not known.loader:
        given.assume(None, "decoding keeps up (--bench with a file of bench loader)")
    try:
        return Run(config, cluster, network, speed, transport), given.assumed
    except ValueError as error:
        raise SettingsError(f"--workers: {cluster.workers}; are too many: {error}") from None


def _transport(given: Given, links: measured.Links | None, config: Config, environment: Mapping[str, str]) -> Transport:
    name = given["transport"]
    if name is None and links and links.transport in TRANSPORTS:
        name = links.transport
    if name is None:
        name = given.assume("nccl", "NCCL sums the gradients, on GPUs (--transport)")
    if name.lower() not in TRANSPORTS:
        raise SettingsError(f"--transport: {name}; give one of {', '.join(TRANSPORTS)}")
    return as_set(TRANSPORTS[name.lower()], config, environment)


def _cluster(given: Given, config: Config, transport: Transport, links: measured.Links | None) -> Cluster:
    size = config.batch.micro_size
    if given["workers"] is None:
        workers = min(samples for _, samples in config.batch.ramp()) // size
        given.assume(None, f"{workers:,} workers, one for each micro-batch of a step (--workers)")
    else:
        workers = units.whole("--workers", given["workers"], "give a number of workers above 0")
    per_node = _per_node(given, workers)
    for option, measured_too in (("network", "network"), ("latency_us", "network"), ("inside", "inside")):
        if links and getattr(links, measured_too) and given[option] is not None:
            name = f"--{option.replace('_', '-')}"
            raise SettingsError(f"{name}: and --bench {links.source}, which has measured it; give one of them")
    network = (links and links.network) or _network(given, workers > per_node)
    inside = (links and links.inside) or _inside(given, transport, per_node > 1)
    return Cluster(workers, per_node, network, inside)


def _per_node(given: Given, workers: int) -> int:
    if given["per_node"] is None:
        per_node = max(number for number in range(1, PER_NODE + 1) if workers % number == 0)
        return given.assume(per_node, f"{per_node} workers to a node (--per-node)")
    per_node = units.whole("--per-node", given["per_node"], "give a number of workers above 0")
    if workers % per_node:
        fitting = ", ".join(str(number) for number in range(1, min(workers, 64) + 1) if workers % number == 0)
        raise SettingsError(f"--per-node: {per_node}; does not divide {workers} workers; give one of {fitting}")
    return per_node


def _network(given: Given, matters: bool) -> Link:
    rate, latency = NETWORK, LATENCY
    if given["network"] is not None:
        rate = units.rate("--network", given["network"])
    elif matters:
        given.assume(rate, f"{units.bits_per_second(rate)} between the nodes, as in the paper (--network)")
    if given["latency_us"] is not None:
        remedy = "give microseconds from 0 on, such as 30"
        latency = units.number("--latency-us", given["latency_us"], remedy, zero=True) / 1e6
    elif matters:
        given.assume(latency, f"{1e6 * latency:.0f} µs for a small message between nodes (--latency-us)")
    if matters:
        given.assume(PAYLOAD, f"{PAYLOAD:.0%} of the network's rate is left by headers (--bench with all-reduces)")
    return Link(latency, rate * PAYLOAD)


def _inside(given: Given, transport: Transport, matters: bool) -> Link:
    if given["inside"] is not None:
        return replace(transport.inside, rate=units.rate("--inside", given["inside"]))
    if matters:
        given.assume(None, f"{units.bytes_per_second(transport.inside.rate)} between workers of a node (--inside)")
    return transport.inside


def _spread(given: Given) -> float:
    if given["spread"] is None:
        words = f"nodes' times for a step vary by {SPREAD:.0%}, as the paper's growth with its nodes tells (--spread)"
        return given.assume(SPREAD, words)
    remedy = "give the standard deviation of the nodes' times as a part of their mean, from 0 to below 1"
    spread = units.number("--spread", given["spread"], remedy, zero=True)
    if spread >= 1:
        raise SettingsError(f"--spread: {given['spread']}; {remedy}")
    return spread


def _step_seconds(given: Given, config: Config, network: Network) -> float:
    if given["step_ms"] is not None:
        remedy = "give the milliseconds of forward and backward of one micro-batch, above 0"
        return units.number("--step-ms", given["step_ms"], remedy) / 1000
    seconds = config.batch.micro_size * training_flops(network.costs) / FLOPS
    shown = units.milliseconds(seconds)
    return given.assume(seconds, f"{shown} for a micro-batch, as fast as the paper's GPUs (--step-ms, --bench)")


def _image(given: Given, config: Config) -> float:
    if given["image_bytes"] is not None:
        return units.size("--image-bytes", given["image_bytes"])
    small = config.data.image_size <= SMALL
    image = SMALL_IMAGE if small else IMAGENET_IMAGE
    known = "Fashion-MNIST's" if small else "ImageNet's"
    return given.assume(image, f"{units.in_bytes(image)} for an image, {known} mean (--image-bytes)")


def _storage(given: Given) -> float | None:
    if given["storage"] is not None:
        return units.rate("--storage", given["storage"])
    return given.assume(None, "storage keeps up (--storage)")
