"""The container image: built from docker/Dockerfile on a base made here, without a registry, and training inside."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from debian import mirror, require_packages
from runs import RECIPE

from hvd_imagenet import __version__

ROOT = Path(__file__).parents[1]
CACHE = Path(os.environ.get("HVD_IMAGENET_CACHE", Path.home() / ".cache" / "hvd_imagenet")) / "images"
GIB = 2**30
NEEDED_GIB = 20  # buildah copies each layer whole where there is no overlay file system
IN_IMAGE = "/opt/hvd_imagenet"


class Buildah:
    """buildah as it runs without a daemon or privileges, with its storage in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._options = ["--root", folder / "storage", "--runroot", folder / "runroot", "--storage-driver", "vfs"]

    def __call__(self, command: str, *arguments) -> str:
        """The output; an error that says all of it where the command fails."""
        given = map(str, ["buildah", *self._options, command, *arguments])
        environment = {**os.environ, "BUILDAH_ISOLATION": "chroot", "TMPDIR": str(CACHE)}
        done = subprocess.run(list(given), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, f"buildah {command}: {done.stdout[-4000:]}"
        return done.stdout.strip()


@pytest.fixture(scope="module")
def buildah(tmp_path_factory):
    """With its storage gone in the end, nothing mounted in it, and no process that lives there.

    The storage must not be below the caches: buildah 1.28 then empties the image after a step that mounts one.
    """
    if os.geteuid() != 0:
        pytest.skip("building an image takes root here")
    require_packages("buildah", "debootstrap")
    CACHE.mkdir(parents=True, exist_ok=True)
    folder = tmp_path_factory.mktemp("buildah")
    if shutil.disk_usage(folder).free < NEEDED_GIB * GIB:
        pytest.skip(f"{folder}: less than {NEEDED_GIB} GiB free")
    yield Buildah(folder)
    mounted = [part.mountpoint for part in psutil.disk_partitions(all=True) if is_below(part.mountpoint, folder)]
    alive = [number for number in psutil.pids() if is_below(root_of(number), folder)]
    assert not mounted + alive
    shutil.rmtree(folder)


def is_below(path: str, folder: Path) -> bool:
    return Path(path).is_relative_to(folder)


def root_of(process: int) -> str:
    """The folder that a process takes for the root of all."""
    with suppress(OSError):
        return os.readlink(f"/proc/{process}/root")
    return "/"


@pytest.fixture(scope="module")
def pip_settings() -> dict[str, str]:
    """How this machine's pip finds packages, from its files and its environment."""
    lines = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    pairs = (line.partition("=") for line in lines.stdout.splitlines())
    return {key.rpartition(".")[2]: value.strip("'\"") for key, _, value in pairs}


@pytest.fixture(scope="module")
def base(buildah, pip_settings):
    """An image of this machine's own distribution, which gets packages from where this machine does."""
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    if release["ID"] != "debian":
        pytest.skip("the base is made by debootstrap, of Debian")
    root = buildah.folder / "base"
    root.mkdir()
    command = ["debootstrap", "--variant=minbase", release["VERSION_CODENAME"], root, *mirror()]
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    (root / "etc/dpkg/dpkg.cfg.d/unsafe-io").write_text("force-unsafe-io\n")  # as in Docker's own images of Debian
    (root / "etc/apt/sources.list").unlink(missing_ok=True)
    shutil.copytree("/etc/apt", root / "etc/apt", dirs_exist_ok=True)
    settings = dict(pip_settings)
    if "cert" in settings:
        shutil.copy(settings["cert"], root / "etc/pip-cert.pem")
        settings["cert"] = "/etc/pip-cert.pem"
    lines = [f"{key} = {value}" for key, value in settings.items()]
    (root / "etc/pip.conf").write_text("\n".join(["[global]", *lines, ""]).replace("\\n", "\n    "))
    container = buildah("from", "scratch")
    buildah("add", container, root, "/")
    buildah("commit", "--rm", container, "base")
    shutil.rmtree(root)
    return "localhost/base"


def local_folders(settings: dict[str, str]) -> set[Path]:
    """The folders of this machine that its pip takes packages from; of an index, with the files beside it."""
    words = " ".join(settings.values()).replace("\\n", " ").replace("file://", "").split()
    folders = {Path(word) for word in words if word.startswith("/") and Path(word).is_dir()}
    return {folder.parent if folder.name == "simple" else folder for folder in folders}


@pytest.fixture(scope="module")
def container(buildah, base, pip_settings):
    """A container of the image for one framework and the CPU."""
    folders = [f"--volume={folder}:{folder}:ro" for folder in local_folders(pip_settings)]
    arguments = ["--build-arg=DEVICE=cpu", "--build-arg=FRAMEWORKS=torch", f"--build-arg=BASE={base}"]
    buildah("build", "--layers=false", *folders, *arguments, "-f", ROOT / "docker/Dockerfile", "-t", "trains", ROOT)
    name = buildah("from", "localhost/trains")
    yield name
    buildah("rm", name)


@pytest.fixture(scope="module")
def recipe_and_data(image_folder, tmp_path_factory):
    """A folder that everybody may read: images and the settings of ``runs.RECIPE``."""
    folder = tmp_path_factory.mktemp("inside")
    shutil.copytree(image_folder, folder / "images")
    (folder / "recipe.yaml").write_text(RECIPE)
    folder.chmod(0o777)  # for the index of the images
    return folder


@pytest.fixture
def inside(buildah, container, recipe_and_data, tmp_path):
    """Runs a command in the image as its user, with recipe and data in /given, and the test's folder as /runs."""
    tmp_path.chmod(0o777)
    volumes = [f"--volume={recipe_and_data}:/given", f"--volume={tmp_path}:/runs"]
    # The name that buildah would give the container leads nowhere, which makes Gloo crash; Docker's does.
    return lambda *command: buildah("run", "--hostname=localhost", *volumes, container, "--", *command)


TRAIN = [
    "hvd-imagenet",
    "train",
    "--config",
    "/given/recipe.yaml",
    "--data.path",
    "/given/images",
    "--run",
    "/runs/run",
]


@pytest.mark.cluster
def test_what_was_compiled_elsewhere_stays_out(buildah, tmp_path):
    """What an image takes of a checkout: it compiles the package's own library itself."""
    needed = {"setup.py", "hvd_imagenet/data/resample.c", "launch/install.sh"}
    left_out = {"hvd_imagenet/data/_resample.so", "hvd_imagenet/__pycache__/cli.pyc", "tests/conftest.py", ".git/HEAD"}
    for name in needed | left_out:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    shutil.copy(ROOT / ".dockerignore", tmp_path)
    (tmp_path / "launch/Dockerfile").write_text("FROM scratch\nCOPY . .\n")
    buildah("build", "-f", tmp_path / "launch/Dockerfile", "-t", "taken", tmp_path)
    name = buildah("from", "localhost/taken")
    root = Path(buildah("mount", name))
    found = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    buildah("rm", name)
    assert found == needed | {"launch/Dockerfile"}


@pytest.mark.cluster
@pytest.mark.long
def test_the_image_holds_what_training_needs_and_no_compiler(inside):
    assert inside("id", "-un") == "trainer"
    assert "[X] PyTorch" in inside("horovodrun", "--check-build")
    assert inside("sh", "-c", "command -v g++ cmake make nvcc || echo none") == "none"
    assert inside("sh", "-c", "ls /etc/ssh/ssh_host_* 2>/dev/null || echo none") == "none"
    parts = inside("ls", IN_IMAGE).split()
    assert "hvd_imagenet" in parts and "tests" not in parts


@pytest.mark.cluster
@pytest.mark.long
@pytest.mark.parametrize(
    "launcher",
    [
        ["horovodrun", "-np", "2", "--gloo", "--network-interface", "lo"],
        ["mpirun", "-np", "2", "--oversubscribe", "--bind-to", "none"],
    ],
    ids=lambda command: command[0],
)
def test_two_workers_train_inside(inside, launcher, tmp_path):
    inside(f"{IN_IMAGE}/docker/entrypoint.sh", "bash", f"{IN_IMAGE}/launch/job.sh", *launcher, *TRAIN)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["workers"], result["epochs"], result["framework"]) == (2, 3.2, "torch")
    assert (tmp_path / "run" / "result.json").stat().st_uid != 0


@pytest.mark.cluster
@pytest.mark.long
def test_a_launcher_elsewhere_is_let_in_by_its_key_alone(inside):
    """The first host of the job runs a command in the container of another; here both are one."""
    script = """
        mkdir -m 700 ~/.ssh && ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/key && cp ~/.ssh/key.pub ~/.ssh/authorized_keys
        SSH_PORT=22022 sshd.sh 2>/dev/null & server=$!
        say() { ssh -p 22022 -o BatchMode=yes -o StrictHostKeyChecking=no "$@" localhost hvd-imagenet --version 2>&1; }
        for i in $(seq 50); do say -i ~/.ssh/key >/dev/null && break; sleep 0.2; done
        say -i ~/.ssh/key; mv ~/.ssh/key ~/.ssh/other; say
        kill $server; wait $server; rm -r ~/.ssh
    """
    *_, version, refused = [line for line in inside("bash", "-c", script).splitlines() if "Warning" not in line]
    assert version == __version__
    assert "Permission denied (publickey" in refused
