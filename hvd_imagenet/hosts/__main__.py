"""What the scripts in launch/ ask for.

    python -m hvd_imagenet.hosts gloo|mpi     the number of workers, the hosts and the network interface, in one line
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
from hvd_imagenet.hosts.fitness import interface_of, require_fit, skewed
from hvd_imagenet.hosts.listed import hosts_of
from hvd_imagenet.hosts.reports import report_here, reports_of, ssh_of


def main(arguments: list[str], environment: Mapping[str, str] = os.environ) -> int:
    """The program; its exit status."""
    if arguments == ["here"]:
        print(json.dumps({**report_here()._asdict(), "clock": time.time()}))
        return 0
    over_gloo = arguments == ["gloo"]
    try:
        hosts = hosts_of(environment)
        here, reports = report_here(), reports_of(hosts, ssh_of(environment))
        require_fit(here, reports, over_gloo)
        interface = interface_of(here, reports, environment.get("NETWORK_INTERFACE"), over_gloo)
    except SettingsError as error:
        print(f"hvd-imagenet: error: {error}", file=sys.stderr)
        return error.exit_code
    for line in skewed(reports):
        print(f"hvd-imagenet: warning: {line}", file=sys.stderr)
    print(sum(host.workers for host in hosts), ",".join(f"{host.name}:{host.workers}" for host in hosts), interface)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
