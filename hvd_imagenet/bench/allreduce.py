"""hvd-imagenet bench allreduce: seconds of a sum over workers, by size, over each transport and by other libraries."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

from hvd_imagenet.arguments import Parser
from hvd_imagenet.backend import remedy
from hvd_imagenet.bench import allreduce_table, jobs, report
from hvd_imagenet.bench import options as shared
from hvd_imagenet.bench.blocks import speed
from hvd_imagenet.bench.contestant import Crew, Task
from hvd_imagenet.bench.figures import Figure
from hvd_imagenet.bench.options import Entry
from hvd_imagenet.bench.reductions import ELEMENT
from hvd_imagenet.bench.work import Answer, Turns
from hvd_imagenet.errors import SettingsError

COPY, GROUP = "copy", 16
ALTERNATIVES = {
    "torch": Entry("torch.distributed", "reductions.torch_sum", ("torch",)),
    "mpi4py": Entry("mpi4py", "reductions.mpi_sum"),
}
LIMITS = {COPY: Entry("limit: memory copy on the host", "reductions.memory_copy")}
OURS = "reductions.horovod_sum"
UNITS = {"": 1, "B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30}
SIZES = [4 * 2**10 * 4**power for power in range(9)]  # 4 KB to 256 MB
DISTRIBUTIONS = ["hvd-imagenet", "horovod", "torch", "mpi4py", "numpy"]

DESCRIPTION = f"""How long it takes to sum float32 over workers: a single tensor, and as many bytes in a group of
{GROUP}. Started alone, it starts jobs of --workers workers on this machine, over each transport that Horovod has;
beside them other libraries, and each worker copying as many bytes in memory. All take turns; the others are stopped
meanwhile. Started by a launcher, horovodrun -np 16 -H ... env -- hvd-imagenet bench allreduce --json FILE, it measures
that job and nothing else: so a cluster is measured. Horovod has the trainer's settings: on CPUs, it looks for tensors
every 5 ms, unless HOROVOD_CYCLE_TIME says otherwise. --json writes what hvd-imagenet plan --bench reads."""


def main(arguments: list[str]) -> None:
    """Measure, and show and write what was found.

    Raises:
        SettingsError: an option is not right, or what it asks for is not there; RunError: a contestant has failed.
    """
    options = _parser().parse_args(arguments)
    shared.require_sensible(options)
    asked = [{"bytes": size, "tensors": count} for size in sizes(options.sizes) for count in (1, GROUP)]
    if find_spec("torch") is None:
        raise SettingsError(f"bench allreduce: needs Horovod for PyTorch; {remedy('torch')}")
    if jobs.is_worker():
        _within_a_job(options, asked)
    else:
        _on_this_machine(options, asked)


def sizes(given: str | None) -> list[int]:
    """In bytes.

    Raises:
        SettingsError: one is none, or cannot be cut into a group.
    """
    if given is None:
        return SIZES
    found = []
    for text in given.split(","):
        match = re.fullmatch(r"(\d+) ?([KMG]?B?)", text.strip())
        count = int(match[1]) * UNITS.get(match[2], 0) if match else 0
        if count <= 0 or count % (ELEMENT * GROUP):
            raise SettingsError(f"--sizes: {text}; give multiples of {ELEMENT * GROUP} bytes, such as 4KB,1MB,256MB")
        found.append(count)
    return sorted(set(found))


def _parser() -> Parser:
    parser = Parser(prog="hvd-imagenet bench allreduce", description=DESCRIPTION)
    parser.add_argument("--workers", metavar="N", type=int, help="on this machine (default: 2)")
    parser.add_argument("--sizes", metavar="S,S", help="such as 4KB,1MB (default: 4KB to 256MB, by factors of 4)")
    parser.add_argument(
        "--transport", metavar="A,B", help=f"of {','.join(jobs.TRANSPORTS)} (default: those that can be used here)"
    )
    shared.add_to(parser, ",".join(ALTERNATIVES), rounds=20, seconds=0.2)
    return parser


def _within_a_job(options: Any, asked: list[dict[str, int]]) -> None:
    """As one of a job's workers: the first one leads the others, shows and writes."""
    for name in ("workers", "transport", "against"):
        if getattr(options, name) is not None:
            raise SettingsError(f"--{name}: within a job, that job is measured, and nothing else: leave it out")
    from hvd_imagenet.bench.reductions import work

    sums = work("horovod_sum", {})
    hosts = sums.gather(socket.gethostname())
    if sums.size == 1:
        raise SettingsError("bench allreduce: the job has one worker; start two or more")
    turns, answers = Turns(sums), [[] for _ in asked]
    for number in range(options.rounds * len(asked)):
        which = number % len(asked)
        if sums.rank == 0:
            answers[which].append([turns.lead(asked[which], options.seconds)])
        else:
            turns.follow()
    if sums.rank == 0:
        rows = rows_of(answers, asked, sums.size, len(set(hosts)))
        with report.going_on("bench allreduce", options) as bench:
            _tell({sums.transport: rows}, {sums.transport: f"Horovod, {sums.transport}"}, options, bench)


def _on_this_machine(options: Any, asked: list[dict[str, int]]) -> None:
    workers = _workers(options.workers)
    transports = jobs.transports(options.transport, "torch")
    others = [*_alternatives(options.against), COPY]
    titles = {name: f"Horovod, {jobs.TRANSPORTS[name][0]}" for name in transports}
    titles |= {name: (ALTERNATIVES | LIMITS)[name].title for name in others}
    with report.going_on("bench allreduce", options) as bench:
        crews = {name: _crew(name, workers, str(bench.folder / "meeting")) for name in titles}
        answered = bench.measure(crews, titles, asked)
        rows = {name: rows_of(answers, asked, workers, 1) for name, answers in answered.items()}
        _tell(rows, titles, options, bench)


def _tell(rows: Mapping[str, Any], titles: dict[str, str], options: Any, bench: report.Bench) -> None:
    """Rows of Horovod's are results, which the planner takes for what a job would have; others stand beside them."""
    ours = [name for name in rows if name not in ALTERNATIVES | LIMITS]
    single = [{**row, "transport": name} for name in ours for row in rows[name] if row["tensors"] == 1]
    grouped = [{**row, "transport": name} for name in ours for row in rows[name] if row["tensors"] > 1]
    others = [{**row, "contestant": name} for name in rows if name not in ours for row in rows[name]]
    parts = {"results": single, "grouped": grouped, "alternatives": others}
    workers = single[0]["workers"]
    told = {"workers": workers, "nodes": single[0]["nodes"], "group": GROUP}
    found = report.written("allreduce", told, options, DISTRIBUTIONS, parts)
    allreduce_table.show(found, rows, titles, bench.console)


def rows_of(
    answers: list[list[list[Answer]]], asked: list[dict[str, int]], workers: int, nodes: int
) -> list[dict[str, Any]]:
    """Of each thing that was asked: the seconds of a sum, and the bytes per second on each worker's link.

    Args:
        answers: by what was asked and by round, of those who answered, each a sum to a step.
    """
    rows = []
    for one, rounds in zip(asked, answers, strict=True):
        # Of workers that copy each for itself, the mean speed.
        seconds = [len(of_round) / speed(of_round) for of_round in rounds]
        rates = [bus_bandwidth(one["bytes"], each, workers) for each in seconds]
        row = {"seconds": asdict(Figure.of(seconds)), "bus_bytes_per_second": asdict(Figure.of(rates))}
        rows.append({**one, "workers": workers, "nodes": nodes, **row})
    return rows


def bus_bandwidth(count: int, seconds: float, workers: int) -> float:
    """Bytes per second that a worker sends, and is sent, in a sum around a ring: 2 (p - 1) / p of all bytes."""
    return 2 * (workers - 1) / workers * count / seconds


def _workers(given: int | None) -> int:
    most, what = jobs.most_workers()
    workers = 2 if given is None else given
    if workers < 2:
        raise SettingsError(f"--workers: {workers}; a sum takes 2 workers or more")
    if workers > most:
        raise SettingsError(
            f"--workers: {workers}; this machine has {report.counted(most, what)}: give at most as many"
        )
    return workers


def _alternatives(against: str | None) -> list[str]:
    names = shared.alternatives(against, ALTERNATIVES)
    if "mpi4py" in names and not jobs.has_mpirun():
        if against is not None:
            raise SettingsError("--against: mpi4py; there is no mpirun on the PATH; run: bash launch/install.sh")
        names.remove("mpi4py")
    return names


def _crew(name: str, workers: int, meeting: str) -> Crew:
    if name in jobs.TRANSPORTS:
        return jobs.job(name, Task(f"{__package__}.{OURS}", {}), workers)
    module = f"{__package__}.{(ALTERNATIVES | LIMITS)[name].module}"
    if name == "torch":
        each = [{"meeting": meeting, "rank": rank, "workers": workers} for rank in range(workers)]
        return jobs.together([Task(module, arguments) for arguments in each])
    if name == COPY:
        return jobs.apart(Task(module, {}), workers)
    return jobs.job("mpi", Task(module, {}), workers)
