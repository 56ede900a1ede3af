"""The README's examples, as they stand there, on two workers."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LAUNCH_SECONDS
from jobs import gloo, outside

README = Path(__file__).parents[1] / "README.md"
EXAMPLES = {
    name: block for name, block in re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```$", README.read_text(), re.M | re.S)
}


@pytest.fixture
def folder(tmp_path):
    """Where all of them are saved."""
    for name, text in EXAMPLES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("torch_loop.py", r"epoch 4  loss 0\.\d+  next rate 0\.0080"),
        ("keras_loop.py", r"Epoch 4/4\n.*accuracy: [01]\.\d+ - loss: 0\.\d+ - learning_rate: 0\.0080"),
    ],
)
def test_a_loop_runs_as_it_stands(name, said, folder):
    command = [*map(str, gloo(2)), sys.executable, name]
    done = subprocess.run(command, cwd=folder, env=outside(), capture_output=True, text=True, timeout=LAUNCH_SECONDS)
    assert done.returncode == 0, done.stderr
    assert re.search(said, re.sub(r"^\[\d\]<stdout>:", "", done.stdout, flags=re.M)), done.stdout


@pytest.mark.parametrize(("framework", "module"), [("torch", "my_models"), ("keras", "my_keras_models")])
def test_a_model_is_trained_as_it_stands(framework, module, folder, image_folder):
    options = [f"--framework={framework}", f"--model.name={module}:small", '--model.kwargs={"width": 8, "classes": 2}']
    options += ["--model.classes=2", "--data.train_samples=null", "--data.image_size=16", "--batch.global_size=16"]
    options += ["--batch.micro_size=8", "--epochs=1", f"--data.path={image_folder}", f"--run={folder / 'run'}"]
    command = [sys.executable, "-m", "hvd_imagenet.cli", "train", "--config", "fashion_mnist", *options]
    done = subprocess.run(command, cwd=folder, env=outside(), capture_output=True, text=True, timeout=LAUNCH_SECONDS)
    assert done.returncode == 0, done.stderr
    assert (folder / "run" / "result.json").exists()
