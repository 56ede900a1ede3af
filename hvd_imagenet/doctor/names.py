"""The host's name and its interfaces: what workers of several hosts find each other by."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Mapping
from contextlib import suppress

import psutil

from hvd_imagenet.doctor.findings import FAILURE, Finding, Found, failure, ok, warning
from hvd_imagenet.doctor.launch import GLOO, Launch
from hvd_imagenet.faults import link

# Which interface to take: the variables of Horovod's Gloo, of NCCL and of Open MPI.
GLOO_IFACE, NCCL_IFACE, MPI_IFACE = "HOROVOD_GLOO_IFACE", "NCCL_SOCKET_IFNAME", "OMPI_MCA_btl_tcp_if_include"


def look(launch: dict) -> Found:
    """The host's own name, its interfaces, and those that the environment asks for.

    As facts, the interfaces' addresses, and whether Gloo would start in vain: it dies of a name without an address.
    """
    job = Launch(**launch)
    interfaces = addresses()
    own = _own_name(job)
    facts = {"interfaces": interfaces, "unreachable": own.level == FAILURE}
    return Found([own, _listed(interfaces), *_asked_for(interfaces, job)], facts)


def addresses() -> dict[str, list[str]]:
    """IP addresses of the interfaces that are up, by name; those without one are left out."""
    return link.addresses(socket.AF_INET, socket.AF_INET6)


def chosen(
    job: Launch, on_gpu: bool, interfaces: dict[str, list[str]], environment: Mapping[str, str] = os.environ
) -> list[str]:
    """The addresses at which this launch is told to exchange gradients; none where nothing that counts tells it.

    Args:
        on_gpu: gradients are exchanged by NCCL; interfaces: this host's, as of `addresses`.
    """
    for variable in ([NCCL_IFACE] if on_gpu else []) + [GLOO_IFACE if job.kind == GLOO else MPI_IFACE]:
        value = environment.get(variable, "")
        if value:
            return [
                address for address, name in by_address(interfaces).items() if _names(variable, value, name, address)
            ]
    return []


def by_address(interfaces: dict[str, list[str]]) -> dict[str, str]:
    """The interfaces' names by their addresses."""
    return {address: name for name, found in interfaces.items() for address in found}


def _names(variable: str, value: str, interface: str, address: str) -> bool:
    """Whether a variable's value stands for an interface, by the rules of who reads that variable."""
    if variable == NCCL_IFACE:  # ^ for all but these, = for exactly these names: otherwise they are beginnings of names
        but, value = value.startswith("^"), value.removeprefix("^")
        exactly, parts = value.startswith("="), value.removeprefix("=").split(",")
        return but != any(interface == part if exactly else interface.startswith(part) for part in parts)
    if variable == MPI_IFACE:
        return any(interface == part or _is_in(address, part) for part in value.split(","))
    return interface == value


def _is_in(address: str, network: str) -> bool:
    with suppress(ValueError):
        return "/" in network and ipaddress.ip_address(address) in ipaddress.ip_network(network, strict=False)
    return False


def _own_name(job: Launch) -> Finding:
    """Gloo binds to the address that the host's own name stands for; a loopback address is no other host's to reach."""
    name, check = socket.gethostname(), "host name"
    broken = job.several_hosts and job.kind == GLOO
    worse = failure if broken else warning
    effect = "no other host reaches Gloo there" if broken else "jobs of several hosts over Gloo would fail"
    try:
        found = sorted({entry[4][0] for entry in socket.getaddrinfo(name, None, socket.AF_INET)})
    except OSError as error:
        text = f"{name} has no address ({error.strerror}): {effect}"
        return worse(check, text, f"add it to /etc/hosts: {_reachable()} {name}")
    loopback = [address for address in found if ipaddress.ip_address(address).is_loopback]
    if loopback:
        remedy = f"in /etc/hosts, give {name} its own address, {_reachable()}, in the place of {loopback[0]}"
        return worse(
            check, f"{name} stands for {loopback[0]}, a loopback address: {effect}", f"{remedy}; or use mpirun"
        )
    if not set(found) & set(by_address(addresses())):
        text = f"{name} stands for {', '.join(found)}, which no interface of this host has: {effect}"
        return worse(check, text, f"in /etc/hosts, give {name} its own address, {_reachable()}; or use mpirun")
    return ok(check, f"{name} stands for {', '.join(found)}")


def _reachable() -> str:
    """An address of this host that others may reach, for the remedy."""
    for name, found in addresses().items():
        for address in found:
            if name != "lo" and ":" not in address:
                return address
    return "ADDRESS"


def _listed(interfaces: dict[str, list[str]]) -> Finding:
    speeds = {name: stats.speed for name, stats in psutil.net_if_stats().items()}
    texts = []
    for name, found in interfaces.items():
        speed = f" ({speeds[name]:,} Mbit/s)" if speeds.get(name) else ""
        texts.append(f"{name} {' '.join(address for address in found if not address.startswith('fe80:'))}{speed}")
    if all(name == "lo" for name in interfaces):
        return warning(
            "interfaces", f"none but {', '.join(texts) or 'none'}", "for jobs of several hosts, bring one up"
        )
    return ok("interfaces", ", ".join(texts))


def _asked_for(interfaces: dict[str, list[str]], job: Launch) -> list[Finding]:
    """Of each variable that names interfaces or networks: whether they are there."""
    findings, owners = [], by_address(interfaces)
    for variable in (GLOO_IFACE, NCCL_IFACE, MPI_IFACE):
        value = os.environ.get(variable, "")
        if not value or value.startswith("^"):  # all but these: nothing to look up
            continue
        exactly, known = "=" * value.startswith("="), ", ".join(interfaces)
        for name in value.removeprefix("=").split(","):
            there = sorted({own for address, own in owners.items() if _names(variable, exactly + name, own, address)})
            if not there:
                text = f"{variable} names {name}, which this host does not have, or it is down"
                findings.append(failure("interfaces", text, f"name one of {known}, or unset {variable}"))
            elif there == ["lo"] and job.several_hosts:
                text = f"{variable} names lo, and the job spans several hosts"
                findings.append(failure("interfaces", text, f"name the one between the hosts, of {known}"))
            else:
                findings.append(ok("interfaces", f"{variable} names {name}"))
    return findings
