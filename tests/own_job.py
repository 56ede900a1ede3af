"""A job of a user with networks of their own: the folder that it is started in, and a backend of one of them."""

import dataclasses
import importlib
import sys
from pathlib import Path

import pytest
from steps import config

from hvd_imagenet import backend as backends
from hvd_imagenet.config import ModelSettings

both = pytest.mark.parametrize("framework", ["torch", "keras"])


@pytest.fixture(autouse=True)
def mine(request, tmp_path, monkeypatch):
    """The user's ``mine.py``, the networks of ``own_torch.py`` or ``own_keras.py``, in the current folder."""
    framework = request.node.callspec.params.get("framework", "torch") if hasattr(request.node, "callspec") else "torch"
    (tmp_path / "mine.py").write_text(Path(__file__).with_name(f"own_{framework}.py").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    importlib.invalidate_caches()
    return tmp_path / "mine.py"


def made(framework, name="mine:net", precision="float64", **kwargs):
    model = ModelSettings(name, 4, kwargs)
    return backends.load(framework)(dataclasses.replace(config(framework, precision), model=model))
