"""Exported files, read by what they are for: names and shapes, scores, and what is refused."""

import dataclasses
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import make_image_folder
from runs import RECIPE, train
from test_models import resnet50_parameters

from hvd_imagenet import backend as backends
from hvd_imagenet import checkpoint, cli, settings
from hvd_imagenet.backend import Batch, State
from hvd_imagenet.checkpoint import Progress
from hvd_imagenet.config import Config, ModelSettings
from hvd_imagenet.export import FORMATS
from hvd_imagenet.run_directory import RunDirectory
from hvd_imagenet.torch.model import build_model

FRAMEWORKS = ("torch", "keras")
STEPS = 8


@pytest.fixture(scope="module")
def runs(tmp_path_factory, image_folder):
    """A run in each framework, in float32, and its export in each format."""
    folder = tmp_path_factory.mktemp("exported")
    (folder / "recipe.yaml").write_text(RECIPE.replace("float64", "float32"))
    for framework in FRAMEWORKS:
        run = folder / framework
        assert train(str(folder / "recipe.yaml"), image_folder, run, "--framework", framework) == 0
        for name in FORMATS:
            assert export(run, name) == 0
    return folder


def export(run, name, *options):
    return cli.main(["export", "--run", str(run), "--format", name, *map(str, options)])


@pytest.fixture
def run(runs, tmp_path):
    """A copy of the run in PyTorch, with nothing exported from it."""
    return shutil.copytree(runs / "torch", tmp_path / "run", ignore=shutil.ignore_patterns("resnet8-step-*"))


def contents(folder):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def exported(run, name):
    return run / f"resnet8-step-{STEPS}{FORMATS[name].suffix}"


def scores_of_the_backend(run, framework, images):
    """What the network of the evaluation answers to images of shape (n, height, width, 3)."""
    backend = backends.load(framework)(settings.load(run / "config.yaml"))
    state, _, _ = checkpoint.load(run / "checkpoints", pytest.fail)
    backend.load_state(state)
    backend.evaluate([Batch(images, np.zeros(len(images), np.int64))])  # leaves the network as evaluation has it
    if framework == "keras":
        return backend._model(images, training=False).numpy()
    with torch.no_grad():
        return backend._model(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()


def scores_of_a_file(run, name, images):
    path = exported(run, name)
    if name == "keras":
        return keras.saving.load_model(path)(images).numpy()
    if name == "onnx":
        return onnx_scores(path, images)
    model = build_model("resnet8", 2).eval()
    model.load_state_dict(torch.load(path))
    return model(torch.from_numpy(images).permute(0, 3, 1, 2)).detach().numpy()


def onnx_scores(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["scores"], {"images": images.transpose(0, 3, 1, 2)})[0]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_file_answers_as_the_evaluation_does(runs, framework, name):
    run = runs / framework
    for count in (1, 7):
        images = np.random.default_rng(count).standard_normal((count, 16, 16, 3)).astype(np.float32)
        expected = scores_of_the_backend(run, framework, images)
        scores = scores_of_a_file(run, name, images)
        assert scores.dtype == np.float32 and scores.shape == (count, 2)
        assert np.abs(expected).max() > 0.05  # or else the difference says nothing
        assert np.abs(scores - expected).max() < 1e-5


def test_keras_reads_its_file_without_this_package(runs, tmp_path):
    images = np.random.default_rng(0).standard_normal((3, 16, 16, 3)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    program = """
import sys, keras, numpy as np
model = keras.saving.load_model(sys.argv[1])
np.save("scores.npy", model.predict(np.load("images.npy"), verbose=0))
print({weight.dtype for weight in model.weights}, "hvd_imagenet" in sys.modules)
"""
    command = [sys.executable, "-c", program, str(exported(runs / "torch", "keras"))]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert shown == "{'float32'} False\n"
    expected = scores_of_the_backend(runs / "torch", "torch", images)
    assert np.abs(np.load(tmp_path / "scores.npy") - expected).max() < 1e-5


def test_a_float64_run_is_exported_in_float32(recipe, image_folder, tmp_path):
    run = tmp_path / "run"
    assert train(recipe, image_folder, run) == 0
    images = np.random.default_rng(0).standard_normal((3, 16, 16, 3))
    expected = scores_of_the_backend(run, "keras", images)
    for name in FORMATS:
        assert export(run, name) == 0
        assert np.abs(scores_of_a_file(run, name, images.astype(np.float32)) - expected).max() < 1e-5


def resnet50_state():
    """torchvision's resnet50, written out: names and shapes of its state_dict, in order."""
    for name, shape in resnet50_parameters():
        yield name, shape
        layer, _, kind = name.rpartition(".")
        if kind == "bias" and layer != "fc":
            yield from [(f"{layer}.running_mean", shape), (f"{layer}.running_var", shape)]
            yield f"{layer}.num_batches_tracked", ()


def test_resnet50_has_torchvisions_state(tmp_path, capsys):
    run = RunDirectory(tmp_path / "run")
    run.write_config(Config())
    state = build_model("resnet50", 1000, seed=1).state_dict()
    weights = {name: tensor.numpy() for name, tensor in state.items() if "tracked" not in name}
    checkpoint.save(run.checkpoints, State(weights, {}), Progress(step=450_000), dataclasses.asdict(Config()))
    assert export(run.path, "torchvision") == 0
    assert capsys.readouterr().out == (
        f"{run.path}/resnet50-step-450000.pth: resnet50 after step 450000 of {run.path}, for torchvision\n"
        "images: (n, 3, 224, 224) float32, RGB; shorter side to 256 pixels, centre crop, (x / 255 - mean) / std with "
        "mean [0.485, 0.456, 0.406], std [0.229, 0.224, 0.225]\n"
    )
    found = torch.load(run.path / "resnet50-step-450000.pth", weights_only=True)
    expected = list(resnet50_state())
    assert len(expected) == 320
    assert [(name, tuple(tensor.shape)) for name, tensor in found.items()] == expected
    for name, tensor in found.items():
        if name.endswith("num_batches_tracked"):
            assert tensor.dtype == torch.int64 and tensor == 450_000
        else:
            assert tensor.dtype == torch.float32 and torch.equal(tensor, state[name])


def test_onnx_says_what_it_is(runs, image_folder):
    model = onnx.load(exported(runs / "torch", "onnx"))
    onnx.checker.check_model(model, full_check=True)
    shapes = [
        (value.name, [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim])
        for value in (*model.graph.input, *model.graph.output)
    ]
    assert shapes == [("images", ["batch", 3, 16, 16]), ("scores", ["batch", 2])]
    assert {prop.key: prop.value for prop in model.metadata_props} == {
        "model": "resnet8",
        "step": "8",
        "image_size": "16",
        "resize_shorter": "18",
        "mean": "[0.485, 0.456, 0.406]",
        "std": "[0.229, 0.224, 0.225]",
        "class_names": '["class0", "class1"]',
    }
    assert b".py" not in model.SerializeToString()  # paths of this machine


@pytest.mark.parametrize("path", ["/nowhere", "another"])
def test_without_the_data_of_the_run_there_are_no_class_names(run, tmp_path, path):
    make_image_folder(tmp_path / "another", 6, 2)
    config = settings.load(run / "config.yaml")
    data = dataclasses.replace(config.data, path=str(tmp_path / path))
    RunDirectory(run).write_config(dataclasses.replace(config, data=data))
    assert export(run, "onnx") == 0
    found = {prop.key for prop in onnx.load(exported(run, "onnx")).metadata_props}
    assert found == {"model", "step", "image_size", "resize_shorter", "mean", "std"}


def test_a_damaged_checkpoint_is_left_and_the_one_before_exported(run, tmp_path, capsys):
    newest = run / "checkpoints" / f"step-0000000{STEPS}" / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    before = contents(run)
    assert export(run, "torchvision", "-o", tmp_path / "weights.pth") == 0
    said = capsys.readouterr()
    assert said.err == f"warning: {newest}: damaged, not what was saved; trying the checkpoint before\n"
    assert f"{tmp_path}/weights.pth: resnet8 after step 5 of {run}, for torchvision\n" in said.out
    assert torch.load(tmp_path / "weights.pth")["bn1.num_batches_tracked"] == 5
    assert contents(run) == before


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ([], 2, "the following arguments are required: --run, --format; see hvd-imagenet export --help"),
        (["--format", "onnx", "--run", ""], 2, "--run: is empty"),
        (["--format", "onnx", "--run", "/nowhere"], 2, "--run: /nowhere; holds no run (no config.yaml)"),
        (["--run", "RUN", "--format", "tflite"], 2, "--format: tflite; give one of torchvision, keras, onnx"),
        (["--run", "RUN", "--format", "keras", "-o", "a.h5"], 2, "-o: a.h5; give a name that ends in .keras"),
        (["--run", "RUN", "--format", "keras", "-o", ""], 2, "-o: .; give a name that ends in .keras"),
        (
            ["--run", "RUN", "--format", "onnx", "-o", "/nowhere/a.onnx"],
            2,
            "/nowhere/a.onnx: there is no folder /nowhere",
        ),
        (["--run", "RUN", "--format", "onnx", "-o", "a" * 300 + ".onnx"], 2, "File name too long"),
        (["--run", "RUN", "--format", "onnx", "-o", "/proc/a.onnx"], 2, "/proc/a.onnx: cannot be written ("),
    ],
)
def test_bad_input(run, options, status, message, capsys):
    before = contents(run)
    assert cli.main(["export", *[str(run) if option == "RUN" else option for option in options]]) == status
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and not said.out
    assert contents(run) == before


@pytest.mark.parametrize("options", [[], ["-o", "mine.pth"]])
def test_a_file_that_is_there_stays(run, monkeypatch, tmp_path, options, capsys):
    monkeypatch.chdir(tmp_path)
    path = Path(options[1]) if options else exported(run, "torchvision")
    path.write_text("mine")
    assert export(run, "torchvision", *options) == 2
    assert f"{path}: is there already; remove it, or give another name with -o" in capsys.readouterr().err
    assert path.read_text() == "mine"


def test_a_run_without_a_checkpoint(run, capsys):
    shutil.rmtree(run / "checkpoints")
    assert export(run, "torchvision") == 6
    assert "checkpoints: holds no checkpoint; the run has not got so far\n" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["torchvision", "keras"])
def test_settings_of_another_network(run, name, capsys):
    config = settings.load(run / "config.yaml")
    RunDirectory(run).write_config(dataclasses.replace(config, model=ModelSettings("resnet8", 3)))
    assert export(run, name) == 2
    message = "model: is not the one of the checkpoint (model: fc.bias has shape (2,), the network's is (3,))"
    assert capsys.readouterr().err == f"hvd-imagenet: error: {message}\n"


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_onnx_that_is_not_installed(run, package, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    assert export(run, "onnx") == 2
    said = capsys.readouterr().err
    assert f"--format: onnx; import of {package} halted" in said
    assert said.endswith("; run: pip install 'hvd_imagenet[onnx]'\n") and said.count("\n") == 1


@pytest.mark.parametrize(("name", "other"), [("torchvision", "tensorflow"), ("keras", "torch")])
def test_only_the_framework_of_the_format_is_needed(run, name, other):
    program = "import sys; sys.modules[sys.argv.pop(1)] = None; from hvd_imagenet import cli; cli.console()"
    missing = {"torchvision": "torch", "keras": "tensorflow"}[name]
    for blocked, status in ((missing, 2), (other, 0)):
        command = [sys.executable, "-c", program, blocked, "export", "--run", str(run), "--format", name]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == status
        assert exported(run, name).exists() == (status == 0)
        remedy = "; run: bash launch/install.sh --frameworks torch,keras\n"
        assert done.stderr.endswith(remedy) == (status == 2)


OWN = """
from torch import nn

class Deciding(nn.Sequential):
    def forward(self, images):
        return super().forward(images if images.sum() > 0 else -images)

def net(kind=nn.Sequential):
    features = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.ReLU(), nn.Dropout()]
    return kind(*features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))

def deciding():
    return net(Deciding)
"""


@pytest.fixture
def own_run(tmp_path, image_folder, monkeypatch):
    """Trains a network of the user's own, by its function, for an epoch; its folder."""
    (tmp_path / "own_networks.py").write_text(OWN)
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("float64", "float32"))
    monkeypatch.syspath_prepend(tmp_path)

    def trained(function):
        options = ["--model.name", f"own_networks:{function}", "--epochs", "1"]
        assert train(str(tmp_path / "recipe.yaml"), image_folder, tmp_path / function, *options) == 0
        return tmp_path / function

    return trained


def test_a_network_of_ones_own(own_run, capsys):
    run = own_run("net")
    images = np.random.default_rng(0).standard_normal((5, 16, 16, 3)).astype(np.float32)
    expected = scores_of_the_backend(run, "torch", images)
    assert export(run, "onnx") == 0 and export(run, "torchvision") == 0
    assert np.abs(onnx_scores(run / "net-step-3.onnx", images) - expected).max() < 1e-5
    weights = torch.load(run / "net-step-3.pth")
    assert len(weights) == 9 and weights["1.num_batches_tracked"] == 3 and weights["0.weight"].is_contiguous()
    capsys.readouterr()
    assert export(run, "keras") == 2
    assert "own_networks:net; returns a Sequential, not a keras.Model" in capsys.readouterr().err


def test_a_network_of_ones_own_that_onnx_cannot_hold(own_run, capsys):
    run = own_run("deciding")
    capsys.readouterr()
    assert export(run, "onnx") == 2
    said = capsys.readouterr().err
    assert said.startswith("hvd-imagenet: error: --format: onnx; own_networks:deciding cannot be written so (")
    assert said.endswith("); change it, or give another format\n") and said.count("\n") == 1
