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


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("torch_loop.py", r"epoch 4  loss 0\.\d+  next rate 0\.0080"),
        ("keras_loop.py", r"Epoch 4/4\n.*accuracy: [01]\.\d+ - loss: 0\.\d+ - learning_rate: 0\.0080"),
    ],
)
def test_an_example_runs_as_it_stands(name, said, tmp_path):
    for each, text in EXAMPLES.items():
        (tmp_path / each).write_text(text)
    command = [*map(str, gloo(2)), sys.executable, name]
    done = subprocess.run(command, cwd=tmp_path, env=outside(), capture_output=True, text=True, timeout=LAUNCH_SECONDS)
    assert done.returncode == 0, done.stderr
    assert re.search(said, re.sub(r"^\[\d\]<stdout>:", "", done.stdout, flags=re.M)), done.stdout
