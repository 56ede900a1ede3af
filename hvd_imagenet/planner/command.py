"""hvd-imagenet plan: what a run will take, before any of it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rich.console import Console

from hvd_imagenet import settings
from hvd_imagenet.errors import SettingsError
from hvd_imagenet.planner import options, page

DESCRIPTION = """What a run will take, before it begins: steps, all-reduce, efficiency, time, data rate and memory, on
any number of workers. Needs neither a framework nor the data nor a GPU. What is not given is assumed, and said."""
WIDTH = 120  # columns, where there is no terminal

# Option, what stands for its value, and what it is; `planner.options` reads them, and says what is wrong itself.
OPTIONS = (
    ("--workers", "K", "workers in all (default: one for each micro-batch of a step)"),
    ("--per-node", "N", "workers of a node, which divide all (default: 8 at most)"),
    ("--network", "RATE", "of each node to the others, either way, such as 50Gbit/s (default: as in the paper)"),
    ("--latency-us", "T", "microseconds of a small message between nodes (default: 30)"),
    ("--inside", "RATE", "between workers of a node, such as 12GB/s (default: as --transport has it)"),
    ("--transport", "nccl|mpi|gloo", "what sums the gradients (default: nccl)"),
    ("--step-ms", "T", "milliseconds of forward and backward of one micro-batch, on one worker that is alone"),
    ("--spread", "S", "standard deviation of the nodes' times for a step, as a part of their mean (default: 0.05)"),
    ("--storage", "RATE", "that a node can read images at, such as 2GB/s (default: as needed)"),
    ("--image-bytes", "SIZE", "mean size of an encoded image, such as 110kB (default: ImageNet's)"),
)


def main(arguments: list[str]) -> None:
    """Run ``hvd-imagenet plan`` with these arguments.

    Raises:
        SettingsError, DataError: an option or a file makes no sense.
    """
    parser = settings.parser("plan", DESCRIPTION)
    for option, value, what in OPTIONS:
        parser.add_argument(option, metavar=value, help=what)
    parser.add_argument(
        "--bench",
        metavar="FILE|RUN",
        nargs="+",
        help="what was measured: files of hvd-imagenet bench --json, or the folder of a run; in the place of --step-ms",
    )
    parser.add_argument("--json", action="store_true", help="everything as one line of JSON")
    parser.add_argument("--plot", metavar="FILE", help="speed-up and efficiency as a picture: .png, .svg or .pdf")
    config, given = settings.parse(parser, _values_joined(arguments))
    if config.data.train_samples is None:
        raise SettingsError("data.train_samples: null; give the size of the training set, or a recipe: --config NAME")
    run, assumed = options.planned(given, config, os.environ)
    if given.plot:
        from hvd_imagenet.planner import picture

        picture.plot(run, Path(given.plot))
        print(f"{given.plot}: written", file=sys.stderr)
    if given.json:
        print(page.as_json(run, assumed))
        return
    width = None if Console().is_terminal else WIDTH
    page.show(run, assumed, Console(highlight=False, markup=False, emoji=False, width=width))


def _values_joined(arguments: list[str]) -> list[str]:
    """The arguments, with values that begin with a minus joined to their option, whose value they would not be else."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] in (option for option, _, _ in OPTIONS) and argument[:1] == "-" != argument[1:2]:
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined
