"""hvd-imagenet evaluate: a checkpoint of a run on a whole split, class by class."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from hvd_imagenet import settings
from hvd_imagenet.arguments import Parser, require_run, with_settings_of_run
from hvd_imagenet.errors import SettingsError
from hvd_imagenet.evaluation.outcome import Outcome
from hvd_imagenet.run_directory import RunDirectory

DESCRIPTION = """Evaluate a checkpoint of a run on the whole validation set, and write RUN/evaluation.json, with the
accuracy of each class and what the worst ones are taken for. The run may be going on. --checkpoint says which: last,
the newest usable one (default); best, the one that did best in the run's evaluations; or the folder of one."""
SPLITS = ("val", "train")
WIDTH = 120  # columns, where there is no terminal


def main(arguments: list[str]) -> None:
    """Run ``hvd-imagenet evaluate`` with these arguments.

    Raises:
        RunError: an option makes no sense, or see `job.evaluate`.
    """
    choice, arguments = _checkpoint(arguments)
    parser = settings.parser("evaluate", DESCRIPTION)
    parser.add_argument("--run", metavar="FOLDER", help="the run's folder (needed)")
    parser.add_argument(
        "--split",
        metavar="|".join(SPLITS),
        default=SPLITS[0],
        help="which images; those of training are cropped as those of validation, too (default: val)",
    )
    config, options = settings.parse(parser, with_settings_of_run(arguments))
    require_run(options.run)
    if options.split not in SPLITS:
        raise SettingsError(f"--split: {options.split}; give one of {', '.join(SPLITS)}")

    from hvd_imagenet.evaluation import job

    found = job.evaluate(config, RunDirectory(Path(options.run)), choice, options.split, _show)
    if found:
        _show(found)


def _checkpoint(arguments: list[str]) -> tuple[str, list[str]]:
    """The value of --checkpoint, and all other arguments: in settings, that is the name of a group."""
    parser = Parser(prog="hvd-imagenet evaluate", add_help=False, allow_abbrev=False)
    parser.add_argument("--checkpoint", default="last")
    options, others = parser.parse_known_args(arguments)
    return options.checkpoint, others


def _show(found: Outcome) -> None:
    terminal = Console()
    print(found.text(terminal.width if terminal.is_terminal else WIDTH), flush=True)
