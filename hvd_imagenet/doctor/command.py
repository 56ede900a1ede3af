"""hvd-imagenet doctor: every worker looks around, worker 0 says what is wrong and what to do about it."""

from __future__ import annotations

import dataclasses
import socket
import sys
import time
from importlib.util import find_spec

from rich.console import Console

from hvd_imagenet.arguments import Parser
from hvd_imagenet.backend import PACKAGES
from hvd_imagenet.doctor import guard, horovod, names, network, rendezvous
from hvd_imagenet.doctor.child import Child
from hvd_imagenet.doctor.compare import compared
from hvd_imagenet.doctor.findings import FAILURE, Finding, Found, failure
from hvd_imagenet.doctor.launch import Launch, read_launch
from hvd_imagenet.doctor.meeting import Meeting, MeetingError
from hvd_imagenet.doctor.report import WIDTH, Report
from hvd_imagenet.errors import UnfitError

HELLO_SECONDS = 30
LAST_WORD_SECONDS = 2
DESCRIPTION = """Look for what would break a job or slow it down, before it does; alone, or under the launcher that the
job will be started by, on as many hosts. Ends with status 0 where nothing failed (warnings are fine), 1 otherwise."""


def main(arguments: list[str]) -> None:
    """Run ``hvd-imagenet doctor`` with these arguments.

    Raises:
        UnfitError: a check failed.
    """
    parser = Parser(prog="hvd-imagenet doctor", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument(
        "--network",
        action="store_true",
        help="measure bandwidth and latency between the workers; horovodrun takes it for an option of its own, unless "
        "the command begins so: env -- hvd-imagenet doctor",
    )
    parser.add_argument("--data", metavar="PATH", help="a data set, to be opened and read from for some seconds")
    parser.add_argument("--json", action="store_true", help="everything as one line of JSON")
    parser.add_argument(
        "--framework", choices=list(PACKAGES), help="that the job is for (default: torch, if it is installed)"
    )
    options = parser.parse_args(arguments)
    framework = options.framework or ("torch" if find_spec("torch") or not find_spec("tensorflow") else "keras")
    launch = read_launch(framework=framework, data=options.data, network=options.network)
    with Child("collective") as collective:
        failed = examine(launch, collective, options.json)
    if failed and launch.rank:
        time.sleep(LAST_WORD_SECONDS)  # for the first worker: at the first exit that is not 0, launchers end all
    if failed:
        raise UnfitError(f"doctor: {', '.join(failed)} failed; what to do stands above")


def examine(launch: Launch, collective: Child, as_json: bool) -> list[str]:
    """Make all checks with all workers, and print the report; the names of those that failed."""
    try:
        meeting = rendezvous.meet(launch, collective)
        hosts = meeting.gather(socket.gethostname(), HELLO_SECONDS)
        found = _look(launch, meeting, collective, hosts)
        return _conclude(launch, meeting, hosts, found, collective, as_json)
    except (MeetingError, OSError) as error:
        # On its own, then: every worker says what it knows, the first one in full.
        remedy = "open the ports between the hosts; use one MPI, inside and outside; see below"
        found = Found([failure("workers", f"worker {launch.rank}: {error}", remedy)])
        found += guard.look(guard.CHECKS, launch)
        return _conclude(launch, Meeting(0, 1, {}), [socket.gethostname()], found, collective, as_json)


def _look(launch: Launch, meeting: Meeting, collective: Child, hosts: list[str | None]) -> Found:
    """All that this worker finds, alone and with the others."""
    found = guard.look(guard.CHECKS, launch)
    meeting.gather(None, guard.longest(guard.CHECKS))
    if launch.data is not None:
        if launch.local_rank == 0:
            guard.look_once(guard.DATA, launch, "index")
        meeting.gather(None, guard.DATA.seconds)
        found += guard.look([guard.DATA], launch)
        meeting.gather(None, guard.DATA.seconds)
    if launch.network and launch.size > 1:
        found += _network(launch, meeting, hosts, bool(found.facts.get("gpus")))
    found.facts["clocks"] = meeting.clocks()
    found += horovod.look(launch, meeting, collective, found.facts)
    return found


def _network(launch: Launch, meeting: Meeting, hosts: list[str | None], on_gpu: bool) -> Found:
    """Between the hosts, by a worker of each; on one host, between its workers."""
    there = [rank for rank, host in enumerate(hosts) if host]
    firsts = [hosts.index(host) for host in dict.fromkeys(hosts) if host]
    ranks = firsts if len(firsts) > 1 else there
    interfaces = names.addresses()
    measured = network.measure(meeting, ranks, interfaces, names.chosen(launch, on_gpu, interfaces))
    found = Found(facts={"mbits": min((link.mbits for link in measured if link.mbits), default=None)})
    if meeting.rank == 0:  # all know all links, which are many
        found.facts["links"] = [dataclasses.asdict(link) for link in measured]
        found.job = network.judged(measured, hosts)
    return found


def _conclude(
    launch: Launch, meeting: Meeting, hosts: list[str | None], found: Found, collective: Child, as_json: bool
) -> list[str]:
    """Bring together what all have found, and let worker 0 print it; the names of the checks that failed."""
    everything = meeting.gather(dataclasses.asdict(found), HELLO_SECONDS)
    failed: list[str] = []
    if meeting.rank == 0:
        hosts = [host if one else None for host, one in zip(hosts, everything, strict=True)]
        known = [one or {"findings": [], "facts": {}} for one in everything]
        findings = [[Finding(**finding) for finding in one["findings"]] for one in known]
        facts = [one["facts"] for one in known]
        job = [*found.job, *compared(hosts, facts, found.facts.get("clocks"))]
        report = Report.of(launch, hosts, findings, job, facts)
        failed = report.failed()
        _print(launch, report, as_json)
    collective.end()  # before the last exchange, after which workers may end at different times
    failed = meeting.gather(failed, HELLO_SECONDS)[0]
    meeting.close()
    return failed


def _print(launch: Launch, report: Report, as_json: bool) -> None:
    if launch.rank:  # it has lost the others: the first worker prints what it knows, this one what is wrong here
        for line in report.lines:
            if line.finding.level == FAILURE:
                print(f"hvd-imagenet: {socket.gethostname()}: {line.finding.text}", file=sys.stderr, flush=True)
    elif as_json:
        print(report.as_json(), flush=True)
    else:
        console = Console(highlight=False)
        report.show(console if console.is_terminal else Console(highlight=False, width=WIDTH))
