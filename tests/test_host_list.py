"""The hosts that a job is to run on: how they are named, and what would keep it from beginning."""

import json
import socket
import time

import psutil
import pytest

import hvd_imagenet.version
from hvd_imagenet.errors import SettingsError
from hvd_imagenet.hosts import __main__ as program
from hvd_imagenet.hosts import addresses, fitness, reports
from hvd_imagenet.hosts import answering as answers
from hvd_imagenet.hosts.__main__ import main
from hvd_imagenet.hosts.addresses import interfaces, is_here, own_addresses
from hvd_imagenet.hosts.fitness import interface_of, require_fit, skewed
from hvd_imagenet.hosts.listed import Host, hosts_of
from hvd_imagenet.hosts.reports import Report, report_here, reports_of, ssh_of
from hvd_imagenet.version import version

AWAY = "198.51.100.1"  # an address of nobody
SAME = Report("a", "10.0.0.1", version(), {"lo": "127.0.0.1", "eth0": "10.0.0.1"}, True)


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        ("node1:8,node2:4", [("node1", 8), ("node2", 4)]),
        ("node1, node-2.cluster:16", [("node1", 1), ("node-2.cluster", 16)]),
        ("10.0.0.1:2", [("10.0.0.1", 2)]),
    ],
)
def test_hosts_by_list(listed, found):
    assert hosts_of({"HOSTS": listed}) == found


def test_hosts_by_file(tmp_path):
    (tmp_path / "hosts").write_text("# both\n\nnode1 slots=8\n  node2   slots = 4 # old\nnode3\nnode4:2\n")
    found = [("node1", 8), ("node2", 4), ("node3", 1), ("node4", 2)]
    assert hosts_of({"HOSTFILE": str(tmp_path / "hosts"), "HOSTS": ""}) == found


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "HOSTS: give the hosts with their workers, HOSTS=node1:8,node2:8, or a file: HOSTFILE=FILE"),
        ({"HOSTS": "a", "HOSTFILE": "b"}, "HOSTS: give the hosts with their workers"),
        ({"HOSTFILE": "/nowhere"}, "HOSTFILE: /nowhere; cannot be read (No such file or directory)"),
        ({"HOSTFILE": "/dev/null"}, "HOSTFILE: /dev/null; names no host"),
        ({"HOSTS": "a:0"}, "HOSTS; 'a:0' is no host with its workers"),
        ({"HOSTS": "a:1,"}, "HOSTS; '' is no host"),
        ({"HOSTS": "a:b"}, "HOSTS; 'a:b' is no host"),
        ({"HOSTS": "-v"}, "HOSTS; '-v' is no host"),  # of ssh, an option
        ({"HOSTS": "a:2,b:2,a:1"}, "HOSTS; a is named twice; name it once with all its workers: a:3"),
        ({"HOSTS": "127.0.0.1:2,localhost:2"}, "127.0.0.1 and localhost, one host, is named twice; name it once with"),
    ],
)
def test_hosts_that_are_not_understood(environment, message):
    with pytest.raises(SettingsError) as error:
        hosts_of(environment)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_plan_for_this_machine_alone(capsys):
    assert main(["gloo"], {"HOSTS": "localhost:2"}) == 0
    assert capsys.readouterr().out == "2 localhost:2 lo\n"
    assert main(["here"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert abs(said.pop("clock") - time.time()) < 20 and Report(**said) == report_here()
    assert main(["gloo"], {}) == 2
    assert capsys.readouterr().err.startswith("hvd-imagenet: error: HOSTS: give")


def test_ssh_is_asked_with_the_port_and_key_given():
    command = ssh_of({"SSH_PORT": "2222", "SSH_KEY": "/key"})
    assert command[:3] == ["ssh", "-o", "BatchMode=yes"] and command[-4:] == ["-p", "2222", "-i", "/key"]
    assert "-p" not in ssh_of({"SSH_PORT": ""})


def test_a_host_is_heard_behind_whatever_its_shell_says():
    """In the place of ssh, a shell: its first argument is the host, its second the command."""
    said = reports_of([Host(AWAY, 1)], ["sh", "-c", 'echo Welcome; sh -c "$1"'])
    assert said == {AWAY: report_here()}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("echo no module >&2; exit 1", "hvd_imagenet cannot be started there with .*python.* \\(no module\\); install"),
        ("true", "\\(it answers nothing\\)"),
        ("echo '{\"name\": 1}'", "hvd_imagenet cannot be started there"),
        ("echo Permission denied '(publickey)' >&2; exit 255", "without a password .*: ssh-copy-id 198.51.100.1"),
        ("echo Could not resolve hostname >&2; exit 255", "nobody knows that name"),
        ("echo Host key verification failed. >&2; exit 255", "ssh-keygen -R 198.51.100.1"),
        ("echo No route to host >&2; exit 255", "cannot be reached by ssh \\(No route to host\\); is it up"),
        ("exec sleep 60", "has not answered in 0.2 s"),
    ],
)
def test_a_host_that_does_not_answer_as_it_should(answer, message, monkeypatch):
    monkeypatch.setattr(reports, "ANSWER_SECONDS", 0.2 if "sleep" in answer else 30)
    with pytest.raises(SettingsError, match=f"^{AWAY}: .*{message}"):
        reports_of([Host("localhost", 1), Host(AWAY, 1)], ["sh", "-c", answer])


@pytest.mark.parametrize(
    ("report", "message"),
    [
        (
            SAME._replace(version="0.0.9+abc"),
            "^b: has hvd_imagenet 0.0.9.abc, .* has 0.1.0.*; install",
        ),
        (SAME._replace(free_port=False), "^b: has no free port to listen at"),
        (SAME._replace(address="127.0.1.1"), "^b: its own name a leads to 127.0.1.1 there, and no other host"),
        (SAME._replace(address=None), "^b: its own name a leads nowhere there"),
    ],
)
def test_hosts_that_cannot_make_one_job(report, message):
    require_fit(report_here(), {"a": SAME, "b": SAME}, over_gloo=True)
    with pytest.raises(SettingsError, match=message):
        require_fit(report_here(), {"a": SAME, "b": report}, over_gloo=True)


def test_a_name_that_leads_back_is_in_the_way_of_gloo_between_hosts_only():
    loop = SAME._replace(address="127.0.1.1")
    require_fit(report_here(), {"a": loop, "b": loop}, over_gloo=False)
    require_fit(report_here(), {"a": loop}, over_gloo=True)


@pytest.mark.parametrize(("clock", "ahead"), [(99, -1), (100, 0), (105, 0), (110, 0), (111.5, 1.5)])
def test_a_clock_is_ahead_by_no_more_than_what_asking_for_it_took(clock, ahead):
    assert reports._ahead(clock, asked=100, answered=110) == ahead


@pytest.mark.parametrize(
    ("ahead", "said"), [(60.6, "61 s ahead of"), (60, None), (-60, None), (-3600.4, "3,600 s behind")]
)
def test_a_clock_that_is_off_is_told_and_in_nobodys_way(ahead, said):
    both = {"a": SAME, "b": SAME._replace(ahead=ahead)}
    require_fit(report_here(), both, over_gloo=True)
    assert [line.partition("; ")[0] for line in skewed(both)] == (
        [f"b: its clock is {said} the one here"] if said else []
    )


@pytest.mark.parametrize("hours", [-1, 1])
def test_the_clock_of_another_host_is_looked_at(hours, monkeypatch, capsys):
    """It tells its own time, and this machine's is that much off."""
    monkeypatch.setattr(program, "ssh_of", lambda environment: ["sh", "-c", 'exec sh -c "$1"'])
    monkeypatch.setattr(fitness, "address_towards", lambda name: "127.0.0.1")
    real = time.time
    monkeypatch.setattr(reports.time, "time", lambda: real() + hours * 3600)
    assert main(["mpi"], {"HOSTS": f"{AWAY}:1"}) == 0
    said = capsys.readouterr()
    assert said.out == f"1 {AWAY}:1 lo\n"
    assert said.err.startswith(f"hvd-imagenet: warning: {AWAY}: its clock is 3,") and said.err.count("\n") == 1
    assert ("ahead of" if hours < 0 else "behind") in said.err


@pytest.mark.parametrize("wanted", ["ib0", "10.9.0.0/24", "10.9.0.1/32"])
def test_an_interface_that_a_host_has_not_got(wanted):
    here = SAME._replace(name="here", interfaces={"ib0": "10.9.0.1"})
    assert interface_of(here, {AWAY: here}, wanted, over_gloo=False) == wanted
    with pytest.raises(
        SettingsError, match=f"^NETWORK_INTERFACE: {wanted}; {AWAY} has no such interface, only lo, eth0;"
    ):
        interface_of(here, {AWAY: SAME}, wanted, over_gloo=False)


@pytest.mark.parametrize("wanted", ["eth7", "10.9.0.0/24", "10.0.0.1", "a/b"])
def test_an_interface_is_looked_for_where_all_workers_are_here(wanted):
    assert interface_of(SAME, {"localhost": SAME}, "eth0", over_gloo=False) == "eth0"
    with pytest.raises(SettingsError, match=f"^NETWORK_INTERFACE: {wanted}; (localhost|a) has no such interface"):
        interface_of(SAME, {"localhost": SAME}, wanted, over_gloo=False)


def test_a_network_is_for_mpi_alone():
    assert interface_of(SAME, {AWAY: SAME}, "10.0.0.0/24", over_gloo=False) == "10.0.0.0/24"
    with pytest.raises(SettingsError, match="^NETWORK_INTERFACE: 10.0.0.0/24; is a network, and .* such as lo, eth0$"):
        interface_of(SAME, {AWAY: SAME}, "10.0.0.0/24", over_gloo=True)


def test_the_interface_by_which_the_hosts_are_reached(monkeypatch):
    monkeypatch.setattr(fitness, "address_towards", lambda name: {AWAY: "10.0.0.1"}[name])
    assert interface_of(SAME, {"localhost": SAME, AWAY: SAME}, None, over_gloo=True) == "eth0"
    assert interface_of(SAME, {"localhost": SAME}, None, over_gloo=True) == "lo"
    other = SAME._replace(interfaces={"ens3": "10.0.0.2"})
    with pytest.raises(SettingsError, match=f"eth0, by which {AWAY} is reached from here; {AWAY} has no"):
        interface_of(SAME, {AWAY: other}, None, over_gloo=True)


def test_the_addresses_of_this_machine_are_what_psutil_says():
    known = psutil.net_if_addrs().items()
    assert sorted(own_addresses()) == sorted(
        (name, one.address) for name, all in known for one in all if one.family == socket.AF_INET
    )
    assert interfaces()["lo"] == "127.0.0.1"


def test_this_machine_is_that_of_its_own_addresses(monkeypatch):
    """Not of all that can be bound to, which is any where net.ipv4.ip_nonlocal_bind is set."""
    monkeypatch.setattr(addresses, "own_addresses", lambda: [("eth0", "10.0.0.1"), ("eth0", "10.0.0.2")])
    monkeypatch.setattr(socket.socket, "bind", lambda *_: None)
    assert [is_here(name) for name in ("10.0.0.1", "10.0.0.2", "127.0.0.2", "localhost")] == [True] * 4
    assert not is_here(AWAY)
    assert interfaces() == {"eth0": "10.0.0.1"}


def test_a_version_is_that_of_the_code(tmp_path, monkeypatch):
    (tmp_path / "a.py").write_text("1")
    monkeypatch.setattr(hvd_imagenet.version, "__file__", str(tmp_path / "version.py"))
    first = version()
    assert version() == first and first.startswith("0.1.0+")
    (tmp_path / "a.py").write_text("2")
    second = version()
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert len({first, second, version()}) == 3


@pytest.fixture
def heard(tmp_path):
    file = tmp_path / "heard"
    file.touch()
    return {"HEARD": str(file), "STALL_SECONDS": "40"}


def test_a_host_counts_as_long_as_the_workers_wait_for_it(heard, monkeypatch):
    """It answers at 100 s for the last time, so it is there until 140 s; it is asked again after 10, then each time."""
    hosts, asked, up = [Host("a", 1), Host("b", 2)], [], {"a", "b"}

    def connect(address, timeout):
        asked.append(address)
        if address[0] not in up:
            raise ConnectionRefusedError
        return socket.socket()

    monkeypatch.setattr(answers, "is_here", lambda name: False)
    monkeypatch.setattr(socket, "create_connection", connect)
    assert answers.answering(hosts, heard, now=100.0) == hosts
    assert answers.answering(hosts, heard, now=109.9) == hosts and len(asked) == 2
    up.remove("b")
    for now, there in ((110.0, 2), (111.0, 2), (139.9, 2), (140.0, 1), (200.0, 1)):
        assert answers.answering(hosts, heard, now=now) == hosts[:there], now
    assert [name for name, _ in asked].count("b") == 6 and {port for _, port in asked} == {22}
    up.add("b")
    assert answers.answering(hosts, heard, now=201.0) == hosts


def test_this_host_needs_no_ssh_server(heard):
    assert answers.answering([Host("localhost", 3)], {**heard, "SSH_PORT": "1"}) == [Host("localhost", 3)]


def test_a_host_that_never_answered_is_not_there(heard):
    assert answers.answering([Host("name.invalid", 3)], heard, now=5.0) == []


@pytest.mark.parametrize(("name", "given"), [("STALL_SECONDS", "7.5"), ("SSH_PORT", "0"), ("SSH_PORT", "ssh")])
def test_numbers_of_an_elastic_job(name, given, heard):
    with pytest.raises(SettingsError, match=f"{name}: {given}; give a whole number above 0"):
        answers.answering([], {**heard, name: given})
