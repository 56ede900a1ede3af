"""hvd-imagenet bench: how fast a part of a run is on this machine."""

from __future__ import annotations

from hvd_imagenet.arguments import Parser
from hvd_imagenet.bench import loader


def main(arguments: list[str]) -> None:
    """Run ``hvd-imagenet bench`` with these arguments."""
    parser = Parser(prog="hvd-imagenet bench", description="How fast a part of a run is on this machine.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    loader.add_to(commands)
    options = parser.parse_args(arguments)
    options.command(options)
