"""What the scripts in launch/ ask for.

    python -m hvd_imagenet.hosts gloo|mpi     the number of workers, the hosts and the network interface, in one line
    python -m hvd_imagenet.hosts elastic      the network interface of those hosts that answer
    python -m hvd_imagenet.hosts answering    these hosts, one host:workers to a line
    python -m hvd_imagenet.hosts here         what this host says of itself, as JSON

The environment names the hosts, see ``launch/horovodrun.sh --help``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping

from hvd_imagenet.errors import SettingsError
from hvd_imagenet.hosts.answering import answering
from hvd_imagenet.hosts.fitness import interface_of, require_fit, skewed
from hvd_imagenet.hosts.listed import Host, hosts_of
from hvd_imagenet.hosts.reports import report_here, reports_of, ssh_of


def main(arguments: list[str], environment: Mapping[str, str] = os.environ) -> int:
    """The program; its exit status."""
    ask = {"gloo": _job, "mpi": _job, "elastic": _elastic, "answering": _answering, "here": _here}[arguments[0]]
    try:
        print(ask(environment, *arguments), end="")
    except SettingsError as error:
        print(f"hvd-imagenet: error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _job(environment: Mapping[str, str], over: str) -> str:
    hosts = hosts_of(environment)
    interface = _fit(hosts, environment, over_gloo=over == "gloo")
    return f"{sum(host.workers for host in hosts)} {','.join(map(str, hosts))} {interface}\n"


def _elastic(environment: Mapping[str, str], _: str) -> str:
    hosts = answering(hosts_of(environment), environment)
    if not hosts:
        raise SettingsError("HOSTFILE: none of its hosts answers on ssh's port; are they up, and is SSH_PORT right?")
    return f"{_fit(hosts, environment, over_gloo=True)}\n"


def _answering(environment: Mapping[str, str], _: str) -> str:
    return "".join(f"{host}\n" for host in answering(hosts_of(environment), environment))


def _here(environment: Mapping[str, str], _: str) -> str:
    return json.dumps({**report_here()._asdict(), "clock": time.time()})


def _fit(hosts: list[Host], environment: Mapping[str, str], over_gloo: bool) -> str:
    """Hold that the hosts can make one job; the interface between them."""
    here, reports = report_here(), reports_of(hosts, ssh_of(environment))
    require_fit(here, reports, over_gloo)
    interface = interface_of(here, reports, environment.get("NETWORK_INTERFACE"), over_gloo)
    for line in skewed(reports):
        print(f"hvd-imagenet: warning: {line}", file=sys.stderr)
    return interface


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
