"""What a check finds, and the levels of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

OK, WARNING, FAILURE = "ok", "warning", "failure"
LEVELS = (OK, WARNING, FAILURE)  # from good to bad


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        level: ok, warning or failure.
        check: a short name of what was looked at.
        text: what was found.
        remedy: what to do about it; empty where all is well.
    """

    level: str
    check: str
    text: str
    remedy: str = ""


@dataclass
class Found:
    """What a check has found on a worker.

    Attributes:
        findings: for the report, about this worker or its host.
        facts: for checks over all workers, by name.
        job: findings about all workers together, of worker 0.
    """

    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    job: list[Finding] = field(default_factory=list)

    def __iadd__(self, other: Found) -> Found:
        self.findings += other.findings
        self.job += other.job
        self.facts |= other.facts
        return self


def ok(check: str, text: str) -> Finding:
    return Finding(OK, check, text)


def warning(check: str, text: str, remedy: str) -> Finding:
    return Finding(WARNING, check, text, remedy)


def failure(check: str, text: str, remedy: str) -> Finding:
    return Finding(FAILURE, check, text, remedy)


def of_error(check: str, error: str, remedy: str = "see the message") -> Finding:
    """A failure from the message of an error of this package, which ends with the remedy."""
    text, found, last = error.rpartition("; ")
    return failure(check, text, last) if found else failure(check, error, remedy)
