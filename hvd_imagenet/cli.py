"""What a person types: hvd-imagenet COMMAND ... ; every failure is one line and an exit status."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from hvd_imagenet import __version__
from hvd_imagenet.errors import RunError, SettingsError, StoppedError, in_one_line
from hvd_imagenet.faults.status import JOB_STATUS, Ending, Status

SUMMARY = """usage: hvd-imagenet COMMAND [OPTION ...]

Train an image classifier with large-minibatch synchronous SGD, from one laptop to hundreds of GPUs.

  train      train a network; under horovodrun or mpirun on many workers
  evaluate   evaluate a checkpoint of a run, class by class
  export     write a run's newest checkpoint for torchvision, Keras or ONNX
  schedule   the plan of a run: batch size and learning rate, before any work
  plan       what a run will take on a cluster: time, all-reduce, data rate, memory
  data       make, verify and look at data sets: pack, verify, info, fashion-mnist
  report     runs compared, as one HTML file: errors, rate, speed, restarts, settings, table
  bench      how fast a part of a run is on this machine, beside what else there is: loader, step, scaling, allreduce
  tune       the settings of the all-reduce with which steps are fastest on this machine
  study      many runs: arms of a recipe, seeds, and a table at the end
  doctor     what is wrong with installation, hosts, network or data, and what to do about it

  hvd-imagenet COMMAND --help says more about each; --version tells the version.
"""

TO_SAY_WHY_SECONDS = 2
# The launchers tell a worker its rank by one of these, before Horovod is up.
RANK_VARIABLES = ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID")


def console() -> None:
    """The program: `main` with the arguments of the command line."""
    status = main(sys.argv[1:])
    if status:  # at the first exit that is not 0, a launcher ends all workers, which are about to do so themselves
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
    sys.exit(status)


def main(arguments: list[str]) -> int:
    """Run a command; its exit status is that of ``hvd_imagenet.errors``."""
    commands: dict[str, Callable[[list[str]], None]] = {
        "train": train,
        "evaluate": evaluate,
        "export": export,
        "schedule": schedule,
        "plan": plan,
        "data": data,
        "report": report,
        "bench": bench,
        "tune": tune,
        "study": study,
        "doctor": doctor,
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print(SUMMARY, end="")
        return 0
    if arguments[0] == "--version":
        print(__version__)
        return 0
    try:
        if arguments[0] not in commands:
            raise SettingsError(f"{arguments[0]}: unknown command; known: {', '.join(commands)}")
        commands[arguments[0]](arguments[1:])
    except RunError as error:
        _say_last(error)
        return error.exit_code
    except KeyboardInterrupt:
        print("hvd-imagenet: ended by SIGINT", file=sys.stderr, flush=True)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:  # nobody's fault that is known: the traceback says more
        host = socket.gethostname()
        _tell(Ending(1, f"worker {_rank()} on {host}: {error!r}", _rank(), host))
        raise
    return 0


def train(arguments: list[str]) -> None:
    from hvd_imagenet import settings
    from hvd_imagenet.arguments import require_name, with_settings_of_run

    parser = settings.parser("train", "Train a network; start it under horovodrun or mpirun to use many workers.")
    parser.add_argument("--run", metavar="FOLDER", help="the run's folder (default: runs/MODEL-DATE-TIME)")
    parser.add_argument(
        "--resume",
        metavar="auto",
        nargs="?",
        const="always",
        help="go on from the newest checkpoint in --run, with the settings of that run where no --config is given; "
        "auto: start the run if there is nothing to go on from",
    )
    options_given = [argument.partition("=")[0] for argument in arguments]
    if "--resume" in options_given and "--config" not in options_given:
        arguments = with_settings_of_run(arguments)
    config, options = settings.parse(parser, arguments)
    require_name(options.run)
    if options.resume not in (None, "auto", "always"):
        raise SettingsError(f"--resume: {options.resume}; give auto, or nothing")
    if options.resume and not options.run:
        raise SettingsError("--resume: needs --run, the folder of the run to go on with")

    from hvd_imagenet.run_directory import RunDirectory

    run = RunDirectory(Path(options.run or f"runs/{config.model.short_name}-{time.strftime('%Y%m%d-%H%M%S')}"))
    if options.resume == "always":
        run.holds_run(options.resume)  # what can be said before the seconds that frameworks take to load

    from hvd_imagenet import trainer

    trainer.train(config, run, options.resume or "no")


def evaluate(arguments: list[str]) -> None:
    from hvd_imagenet.evaluation import command

    command.main(arguments)


def export(arguments: list[str]) -> None:
    from hvd_imagenet.arguments import Parser, require_run

    parser = Parser(
        prog="hvd-imagenet export",
        description="Write a run's newest checkpoint as a file that others read; whatever framework it was trained in.",
        allow_abbrev=False,
    )
    parser.add_argument("--run", metavar="FOLDER", required=True, help="the run's folder")
    parser.add_argument(
        "--format",
        metavar="torchvision|keras|onnx",
        required=True,
        help="torchvision: a state_dict for load_state_dict; keras: a model for keras.saving.load_model; onnx: a model "
        "from images to scores, for any number of images",
    )
    parser.add_argument("-o", metavar="FILE", type=Path, help="default: RUN/MODEL-step-N.pth, .keras or .onnx")
    options = parser.parse_args(arguments)
    require_run(options.run)

    from hvd_imagenet import export as exporting
    from hvd_imagenet.run_directory import RunDirectory

    exporting.export(RunDirectory(Path(options.run)), options.format, options.o)


def schedule(arguments: list[str]) -> None:
    from hvd_imagenet import settings

    parser = settings.parser("schedule", "The plan of a run. Needs neither a framework nor the data.")
    parser.add_argument("--csv", action="store_true", help="one line per step")
    parser.add_argument("--plot", metavar="FILE", help="a picture: .png, .svg or .pdf")
    config, options = settings.parse(parser, arguments)
    if config.data.train_samples is None:
        raise SettingsError("data.train_samples: null; give the size of the training set, or a recipe: --config NAME")

    from hvd_imagenet import schedule as view

    policy = config.policy(config.data.train_samples)
    if options.csv:
        view.write_csv(policy, sys.stdout)
    if options.plot:
        view.plot(policy, Path(options.plot))
        print(f"{options.plot}: written", file=sys.stderr)
    if not options.csv and not options.plot:
        view.print_table(policy)


def plan(arguments: list[str]) -> None:
    from hvd_imagenet.planner import command

    command.main(arguments)


def data(arguments: list[str]) -> None:
    from hvd_imagenet import data_cli

    data_cli.main(arguments)


def report(arguments: list[str]) -> None:
    from hvd_imagenet.report import command

    command.main(arguments)


def bench(arguments: list[str]) -> None:
    from hvd_imagenet.bench import command

    command.main(arguments)


def tune(arguments: list[str]) -> None:
    from hvd_imagenet.bench import tune

    tune.main(arguments)


def study(arguments: list[str]) -> None:
    from hvd_imagenet.study import command

    command.main(arguments)


def doctor(arguments: list[str]) -> None:
    from hvd_imagenet.doctor import command

    command.main(arguments)


def _say_last(error: RunError) -> None:
    """Say why the program ends; to the launch script, too, which hears no more than a status from its launcher."""
    first = _is_first_worker() or not error.everywhere
    if not first and not error.settled:
        time.sleep(TO_SAY_WHY_SECONDS)  # for the first worker, and its launcher, which ends all; unless it has no error
    if first or not error.settled:
        kind = "" if isinstance(error, StoppedError) else "error: "
        print(f"hvd-imagenet: {kind}{in_one_line(str(error))}", file=sys.stderr, flush=True)
    _tell(Ending(error.exit_code, str(error), error.rank))


def _tell(ending: Ending) -> None:
    """Tell the launch script, if one is there to hear it."""
    if JOB_STATUS in os.environ:
        Status(Path(os.environ[JOB_STATUS])).end(ending)


def _rank() -> int:
    return int(next((os.environ[name] for name in RANK_VARIABLES if name in os.environ), 0))


def _is_first_worker() -> bool:
    return _rank() == 0


if __name__ == "__main__":
    console()
