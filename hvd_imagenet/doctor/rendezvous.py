"""How the workers learn where worker 0 is: from the store of horovodrun, or over MPI."""

from __future__ import annotations

import dataclasses
import json
import os
import time
import urllib.request

from hvd_imagenet.doctor.child import Child, ChildError
from hvd_imagenet.doctor.launch import ALONE, GLOO, Launch
from hvd_imagenet.doctor.meeting import Meeting, MeetingError, join, open_to
from hvd_imagenet.faults.link import Address, listen

SECONDS = 120  # for all to be there: a large job's workers do not start at once
PAUSE = 0.1
KEY = "hvd-imagenet-doctor/worker-0"
DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy knows the way to a worker


def meet(launch: Launch, collective: Child) -> Meeting:
    """Meet all workers of the job.

    Args:
        collective: the process for MPI and Horovod.

    Raises:
        MeetingError: they cannot find each other; names what is in the way, with a remedy.
    """
    if launch.kind == ALONE or launch.size == 1:
        return Meeting(0, 1, {})
    server, own = listen()
    exchange = _over_horovodrun if launch.kind == GLOO else _over_mpi
    address = exchange(launch, own, collective)
    if launch.rank == 0:
        return open_to(own, server, launch.size, SECONDS)
    server.close()
    return join(address, launch.rank, launch.size, SECONDS)


def _over_horovodrun(launch: Launch, own: Address, collective: Child) -> Address:
    """Worker 0's address, by the store that horovodrun keeps for its workers while they run."""
    host, port = (os.environ[f"HOROVOD_GLOO_RENDEZVOUS_{name}"] for name in ("ADDR", "PORT"))
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/{KEY}"
    give_up, reason = time.monotonic() + SECONDS, ""
    data = json.dumps(dataclasses.asdict(own)).encode() if launch.rank == 0 else None
    request = urllib.request.Request(url, data, method="PUT" if data else "GET")
    while time.monotonic() < give_up:
        try:
            with DIRECTLY.open(request, timeout=5) as answer:
                return own if data else _address(json.load(answer))
        except (OSError, ValueError) as error:  # not there yet, among others
            reason = str(error)
        time.sleep(PAUSE)
    raise MeetingError(f"horovodrun at {host}:{port} does not tell where worker 0 is ({reason})")


def _over_mpi(launch: Launch, own: Address, collective: Child) -> Address:
    try:
        addresses = collective.ask("meet", SECONDS, value=own)
    except ChildError as error:
        raise MeetingError(f"MPI does not bring the workers together ({error})") from None
    if len(addresses) != launch.size:
        text = f"{launch.launcher} started {launch.size} workers, but MPI's library sees {len(addresses)}"
        raise MeetingError(f"{text}: each would train alone")
    return _address(addresses[0])


def _address(values: dict) -> Address:
    return Address(tuple(values["hosts"]), values["port"], values["token"])
