"""The one report of all workers: as a table for people, or as JSON."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hvd_imagenet.doctor.findings import FAILURE, LEVELS, OK, WARNING, Finding
from hvd_imagenet.doctor.launch import Launch

STYLES = {OK: "green", WARNING: "yellow", FAILURE: "bold red"}
WIDTH = 120  # columns, where there is no terminal
MOST_ALIKE = 8  # places with good lines only
ALL = "the job"


@dataclass(frozen=True)
class Line:
    """A finding, and who has it: all workers, those of a host, or some; none of them by name: it is about the job."""

    finding: Finding
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class Report:
    """What was found in the whole job.

    Attributes:
        launch: of worker 0; hosts: of each worker, by rank; None: not heard of.
        lines: in the order of the checks; facts: of each worker.
    """

    launch: Launch
    hosts: list[str | None]
    lines: list[Line]
    facts: list[dict[str, Any]]

    @classmethod
    def of(
        cls,
        launch: Launch,
        hosts: list[str | None],
        findings: list[list[Finding]],
        job: list[Finding],
        facts: list[dict],
    ) -> Report:
        """Merge what several workers have found alike.

        Args:
            findings: of each worker, by rank; job: about all of them together.
        """
        ranks = defaultdict(list)
        for rank, found in enumerate(findings):
            for finding in found:
                ranks[finding].append(rank)
        lines = [Line(finding, tuple(dict.fromkeys(who))) for finding, who in ranks.items()]
        return cls(launch, hosts, lines + [Line(finding, ()) for finding in job], facts)

    def count(self, level: str) -> int:
        return sum(line.finding.level == level for line in self.lines)

    def failed(self) -> list[str]:
        """The names of the checks that failed."""
        return list(dict.fromkeys(line.finding.check for line in self.lines if line.finding.level == FAILURE))

    def as_json(self) -> str:
        """In one line: horovodrun puts something in front of each."""
        lines = [{**asdict(line.finding), "host": self._host(line), "ranks": line.ranks} for line in self.lines]
        facts = [{"rank": rank, "host": self.hosts[rank], **facts} for rank, facts in enumerate(self.facts)]
        counts = {f"{level}s" if level != OK else OK: self.count(level) for level in LEVELS}
        job = {"launcher": self.launch.launcher, "workers": self.launch.size, "framework": self.launch.framework}
        return json.dumps({**job, "hosts": self._names(), **counts, "findings": lines, "facts": facts})

    def show(self, console: Console) -> None:
        """As a table for each place: first what all have, then host by host."""
        job = self.launch
        hosts = ", ".join(self._names()[:8]) + (", ..." if len(self._names()) > 8 else "")
        console.print(f"{job.launcher}, {job.size} worker{'s'[: job.size != 1]} on {hosts}", style="bold")
        places = defaultdict(list)
        for line in self.lines:
            places[self._place(line)].append(line.finding)
        good = [place for place, found in places.items() if place != ALL and all(one.level == OK for one in found)]
        for place, findings in places.items():
            if place in good[MOST_ALIKE:]:
                continue
            if len(places) > 1:
                console.print(f"\n{place}", style="bold")
            console.print(_table(findings))
        if good[MOST_ALIKE:]:
            console.print(f"\nall ok on {len(good) - MOST_ALIKE} more; --json tells")
        verdict = f"{self.count(FAILURE)} failure(s), {self.count(WARNING)} warning(s), {self.count(OK)} ok"
        worst = max((line.finding.level for line in self.lines), key=LEVELS.index)
        console.print(f"\n{verdict}", style=STYLES[worst])

    def _names(self) -> list[str]:
        return list(dict.fromkeys(host for host in self.hosts if host))

    def _host(self, line: Line) -> str | None:
        """The host that a line is about; None: several."""
        hosts = {self.hosts[rank] for rank in line.ranks}
        return hosts.pop() if len(hosts) == 1 else None

    def _place(self, line: Line) -> str:
        host = self._host(line)
        if host is None or len(set(line.ranks)) == self.launch.size:
            return ALL
        of_host = [rank for rank, other in enumerate(self.hosts) if other == host]
        first_only = line.ranks == (of_host[0],)  # one worker of each host makes the checks of the host
        if len(line.ranks) == len(of_host) or (first_only and len(self._names()) > 1):
            return host
        if first_only:
            return ALL
        return f"{host}, worker {', '.join(map(str, line.ranks))}"


def _table(findings: list[Finding]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1))
    for column in ("level", "check", "text"):
        table.add_column(column, overflow="fold", no_wrap=column != "text")
    for finding in findings:
        text = Text(finding.text)
        if finding.remedy:
            text.append(f"\n→ {finding.remedy}", style="bold")
        table.add_row(Text(finding.level, style=STYLES[finding.level]), finding.check, text)
    return table
