"""Whether hosts can make one job, by what they say of themselves, and over which network interface."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from contextlib import suppress

from hvd_imagenet.errors import SettingsError
from hvd_imagenet.hosts.addresses import address_towards, is_here
from hvd_imagenet.hosts.reports import INSTALL, Report

SKEW_SECONDS = 60  # between two clocks: what compares them elsewhere allows for minutes


def require_fit(here: Report, reports: Mapping[str, Report], over_gloo: bool) -> None:
    """Raise SettingsError unless these hosts can make one job.

    Args:
        here: what this machine says, which starts the job.
        over_gloo: which listens where a host's own name leads to.
    """
    for name, report in reports.items():
        if report.version != here.version:
            raise SettingsError(f"{name}: has hvd_imagenet {report.version}, {here.name} has {here.version}; {INSTALL}")
        if not report.free_port:
            raise SettingsError(
                f"{name}: has no free port to listen at; end what holds them (ss -tan), or widen "
                "net.ipv4.ip_local_port_range"
            )
        if over_gloo and len(reports) > 1 and (report.address or "127.").startswith("127."):
            leads = f"leads to {report.address}" if report.address else "leads nowhere"
            raise SettingsError(
                f"{name}: its own name {report.name} {leads} there, and no other host can reach that; in its "
                "/etc/hosts, give that name its address in the network, or take launch/mpirun.sh"
            )


def skewed(reports: Mapping[str, Report]) -> list[str]:
    """A line for each host whose clock is too far from this machine's: no job minds, but what it leans on may."""
    return [
        f"{name}: its clock is {abs(report.ahead):,.0f} s {'ahead of' if report.ahead > 0 else 'behind'} the one here; "
        "a job compares no clocks, but S3, TLS, Kerberos and Slurm do: start chrony or ntpd on both"
        for name, report in reports.items()
        if abs(report.ahead) > SKEW_SECONDS
    ]


def interface_of(here: Report, reports: Mapping[str, Report], wanted: str | None, over_gloo: bool) -> str:
    """The network interface that all hosts and this one have.

    Args:
        wanted: its name, or for MPI a network such as 10.0.0.0/24; None: that by which the hosts are reached from here.
        over_gloo: for which a network will not do.

    Raises:
        SettingsError: a host has not got it.
    """
    given = f"NETWORK_INTERFACE: {wanted}"
    if wanted and over_gloo and "/" in wanted:
        raise SettingsError(f"{given}; is a network, and horovodrun takes a name, such as {_names(here)}")
    if not wanted:
        away = [name for name in reports if not is_here(name)]
        if not away:
            return "lo"
        address = address_towards(away[0])
        wanted = next((name for name, own in here.interfaces.items() if own == address), "")
        given = f"NETWORK_INTERFACE: {wanted}, by which {away[0]} is reached from here"
    for name, report in {here.name: here, **reports}.items():
        if not _is_among(wanted, report.interfaces):
            raise SettingsError(f"{given}; {name} has no such interface, only {_names(report)}; name one that all have")
    return wanted


def _names(report: Report) -> str:
    return ", ".join(report.interfaces)


def _is_among(wanted: str, interfaces: Mapping[str, str]) -> bool:
    if "/" not in wanted:
        return wanted in interfaces
    with suppress(ValueError):
        network = ipaddress.ip_network(wanted)
        return any(ipaddress.ip_address(address) in network for address in interfaces.values())
    return False
