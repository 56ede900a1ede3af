"""Packages of Debian: what a test needs, where this machine gets them, and those of another release in a folder."""

import fcntl
import os
import subprocess
import tempfile
from pathlib import Path

import pytest

INSTALL = Path(__file__).parents[1] / "launch" / "system-packages"
KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def require_packages(*names: str) -> None:
    """Install what is missing of these packages; skips the test where this machine does not allow that."""
    with (Path(tempfile.gettempdir()) / f"packages-{os.getuid()}.lock").open("w") as one_at_a_time:
        fcntl.flock(one_at_a_time, fcntl.LOCK_EX)  # apt-get itself does not wait for another
        installed = subprocess.run(["bash", INSTALL, *names], capture_output=True, text=True)
    if installed.returncode != 0:
        pytest.skip(installed.stderr.strip())


def mirror() -> list[str]:
    """The first address that this machine has Debian's packages from; none: it has none."""
    for path in sorted(Path("/etc/apt").glob("sources.list.d/*.sources")) + [Path("/etc/apt/sources.list")]:
        words = path.read_text().split() if path.exists() else []
        found = [word for word in words if word.startswith(("http://", "https://")) and "security" not in word]
        addresses = [words[words.index("URIs:") + 1]] if "URIs:" in words else found
        if addresses:
            return addresses[:1]
    return []


def unpacked(folder: Path, source: str, *packages: str) -> Path:
    """The files of packages, none of them installed, in a folder that is made.

    Args:
        source: release and components, such as ``trixie main``.

    Raises:
        OSError: they are not to be had, with apt's last words.
    """
    state = folder / "apt"
    for name in ("lists/partial", "archives/partial"):
        (state / name).mkdir(parents=True)
    (state / "sources.list").write_text(f"deb [signed-by={KEYS}] {' '.join(mirror())} {source}\n")
    own = {
        "Dir::Etc::sourcelist": state / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": state / "lists",
        "Dir::State::status": "/dev/null",
        "Dir::Cache": state,
    }
    options = [f"--option={name}={value}" for name, value in own.items()]
    for command in (["update"], ["download", *packages]):
        done = subprocess.run(["apt-get", "-q", *options, *command], cwd=state, capture_output=True, text=True)
        if done.returncode != 0:
            raise OSError(f"apt-get {command[0]}: {done.stderr.splitlines()[-1]}")
    for package in state.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, folder / "root"], check=True)
        package.unlink()
    return folder / "root"
