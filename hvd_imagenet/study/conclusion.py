"""The end of a study: its table and its report, and what is to be said of runs without a result."""

from __future__ import annotations

from hvd_imagenet import report
from hvd_imagenet.durable import write_whole
from hvd_imagenet.errors import StoppedError, StudyError
from hvd_imagenet.study import outcome, tables
from hvd_imagenet.study.definition import REPORT, TABLE, Run
from hvd_imagenet.study.folder import StudyFolder
from hvd_imagenet.study.runner import Left


def conclude(folder: StudyFolder, left: Left) -> None:
    """Show and write the table, and write the report, unless the study was asked to stop; then say what is left.

    Raises:
        StudyError, StoppedError: there are runs left.
    """
    done, runs = folder.done(), len(folder.study.runs())
    if left.asked and (left.failed or left.stopped):
        raise StoppedError(
            f"stopped, since the study {left.asked}, with {len(done)} of {runs} runs done; what was begun is saved: "
            "the same command goes on"
        )
    if done:
        _sum_up(folder, done)
    if left.failed:
        raise StudyError(
            f"{len(left.failed)} of {runs} runs failed: {_names(left.failed)}; why stands above, and more in "
            f"{folder.log(left.failed[0])}; the same command tries again"
        )
    if left.stopped:
        raise StoppedError(f"stopped by somebody: {_names(left.stopped)}; the same command goes on with them")


def _sum_up(folder: StudyFolder, done: list[Run]) -> None:
    study = folder.study
    runs, names = [folder.run(run) for run in done], [run.arm for run in done]
    policies = {arm: study.policy(arm) for arm in study.arms}
    lines = outcome.lines(policies, report.table(runs, names), len(study.seeds))
    tables.show(outcome.COLUMNS, lines, numbers=range(1, len(outcome.COLUMNS)))
    print(outcome.NOTE)
    written = folder.path / TABLE, folder.path / REPORT
    with folder.writing():
        write_whole(written[0], outcome.markdown(study.title, lines).encode())
        report.write(runs, written[1], study.title, names)
    print("Written:", ", ".join(map(str, written)))


def _names(runs: list[Run]) -> str:
    return ", ".join(run.name for run in runs)
