"""hvd-imagenet study: runs a study, or tells what it consists of."""

from __future__ import annotations

import argparse
import shlex
import shutil
from pathlib import Path

from hvd_imagenet import settings
from hvd_imagenet.arguments import Parser
from hvd_imagenet.errors import SettingsError
from hvd_imagenet.study import definition, tables
from hvd_imagenet.study.conclusion import conclude
from hvd_imagenet.study.data import with_data
from hvd_imagenet.study.definition import Run, Study
from hvd_imagenet.study.display import Display
from hvd_imagenet.study.folder import StudyFolder
from hvd_imagenet.study.job import options as options_of_train
from hvd_imagenet.study.runner import Runner
from hvd_imagenet.study.shares import shares

USAGE = "hvd-imagenet study NAME|FILE --data.path DATA [OPTION ...] [--dotted.key value ...]"
DESCRIPTION = """Train all runs of a study: a base recipe, arms that each change some of its settings, and seeds. At the
end come a table with the mean error of each arm, and a report. The same command goes on with a study that was stopped
or killed: what has a result is skipped, what was begun goes on at the exact sample. A run that fails does not stop the
others; it is tried again by the same command."""
EXAMPLE = """a study's file:
  base: resnet50_256                 # a recipe, or a file of settings beside this one
  settings: {epochs: 45}             # of all runs; after these come --dotted.key value, any setting of train
  arms:                              # each by its name, with what it changes
    small: {batch.global_size: 256}
    large: {batch.global_size: 8192, lr.warmup.kind: none}
  grid: {lr.reference: [0.05, 0.1]}  # in the place of arms, or beside: then each arm with each value
  seeds: [0, 1, 2]

The run of arm A with seed S is in FOLDER/A/seed-S, what its command prints in FOLDER/A/seed-S.log.
Files that come with the package, as examples:
"""


def main(arguments: list[str]) -> None:
    """Run ``hvd-imagenet study`` with these arguments.

    Raises:
        SettingsError, DataError: before any run begins.
        StudyError: runs have failed; StoppedError: asked to stop, with everything saved.
    """
    parser = _parser()
    own, given = _split(arguments, parser)
    options = parser.parse_args(own)
    if options.study is None:
        if not options.list:
            raise SettingsError(f"NAME|FILE: missing; give a file or one of {', '.join(definition.study_names())}")
        tables.list_studies()
        return
    study = definition.read(options.study, settings.given(given, parser._option_string_actions))
    if options.o == "":
        raise SettingsError("-o: is empty; give the name of a folder")
    path = Path(options.o or f"runs/{study.name}")
    if options.list:
        tables.list_runs(StudyFolder(path, study))
        return
    launcher, parts = _launcher(options), shares(options.parallel)
    folder = StudyFolder(path, *with_data(study))
    run = None if options.task is None else _run_of_task(folder.study, options.task)
    folder.prepare()
    if run:
        _print_options(folder, run)
        return
    with Display(folder) as display:
        left = Runner(folder, launcher, parts, display).run()
    conclude(folder, left)


def _parser() -> Parser:
    parser = Parser(
        prog="hvd-imagenet study",
        usage=USAGE,
        description=DESCRIPTION,
        epilog=EXAMPLE + "\n".join(f"  {definition.STUDIES}/{name}.yaml" for name in definition.study_names()),
        formatter_class=_Help,
        allow_abbrev=False,
    )
    names = ", ".join(definition.study_names())
    parser.add_argument("study", metavar="NAME|FILE", nargs="?", help=f"a study ({names}) or a YAML file of one")
    parser.add_argument("-o", metavar="FOLDER", help="where all of it goes (default: runs/NAME)")
    parser.add_argument(
        "--launcher",
        metavar="COMMAND",
        help="what each run is started by, such as 'horovodrun -np 8', or 'bash launch/job.sh mpirun -np 8' (default: "
        "nothing, for one worker)",
    )
    parser.add_argument(
        "--parallel",
        metavar="N",
        type=int,
        default=1,
        help="so many runs at a time, of one worker each, which share the cores of this machine, and have a GPU each "
        "where there are any (default: 1)",
    )
    parser.add_argument(
        "--list",
        action="store_true",
        help="show the runs, and which are done; without NAME, the studies that there are",
    )
    parser.add_argument(
        "--task",
        metavar="I",
        type=int,
        help="run nothing; print, for batch scripts, the options of hvd-imagenet train for run I of --list, one to a "
        "line; nothing for a run that has a result",
    )
    return parser


class _Help(argparse.HelpFormatter):
    """Wraps the description, and leaves the example after the options as it is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(EXAMPLE) else super()._fill_text(text, width, indent)


def _split(arguments: list[str], parser: Parser) -> tuple[list[str], list[str]]:
    """The command's own arguments, and the settings among them, each of which has a value."""
    own, given = [], []
    rest = iter(arguments)
    for argument in rest:
        name, equals, _ = argument.partition("=")
        if not name.startswith("--") or name in parser._option_string_actions:
            own.append(argument)
            continue
        given.append(argument)
        given += [] if equals else [value for value in [next(rest, None)] if value is not None]
    return own, given


def _launcher(options: argparse.Namespace) -> list[str]:
    """The launcher's command.

    Raises:
        SettingsError: there is none such, or it is not for runs side by side.
    """
    if options.parallel < 1:
        raise SettingsError(f"--parallel: {options.parallel}; give a number of runs, 1 or more")
    if options.launcher is None:
        return []
    try:
        launcher = shlex.split(options.launcher)
    except ValueError as error:
        raise SettingsError(f"--launcher: {options.launcher}; is no command ({error})") from None
    if not launcher or not shutil.which(launcher[0]):
        raise SettingsError(
            f"--launcher: {options.launcher}; there is no such command on the PATH; give one such as 'horovodrun -np 8'"
        )
    if options.parallel > 1:
        raise SettingsError(
            f"--parallel: {options.parallel}; is for runs of one worker; with --launcher they go one after the other"
        )
    return launcher


def _run_of_task(study: Study, task: int) -> Run:
    runs = study.runs()
    if not 0 <= task < len(runs):
        raise SettingsError(f"--task: {task}; this study has {len(runs)} runs: give 0 to {len(runs) - 1}")
    return runs[task]


def _print_options(folder: StudyFolder, run: Run) -> None:
    if not folder.is_done(run):
        print(*options_of_train(folder, run), sep="\n")
