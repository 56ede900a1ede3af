"""Checkpoints: whole or not there, read back as written, and what is said of damaged ones."""

import json
import os

import numpy as np
import pytest

from hvd_imagenet import checkpoint
from hvd_imagenet.backend import State
from hvd_imagenet.checkpoint import Progress
from hvd_imagenet.errors import CheckpointError


def state(value=1.0):
    return State(
        {"fc.weight": np.full((2, 3), value), "fc.bias": np.zeros(2, np.float32)}, {"fc.weight": np.ones((2, 3))}
    )


def save(folder, step, value=1.0, keep=3):
    return checkpoint.save(folder, state(value), Progress(step, step * 10, 1.5, 2.5), {"seed": 4}, keep)


def test_what_is_saved_is_loaded(tmp_path):
    path = save(tmp_path, 7)
    assert path == tmp_path / "step-00000007"
    assert sorted(f.name for f in path.iterdir()) == ["model.safetensors", "optimizer.safetensors", "state.json"]
    loaded, progress, settings = checkpoint.load(tmp_path)
    assert settings == {"seed": 4}
    assert progress == Progress(7, 70, 1.5, 2.5)
    for given, found in ((state().model, loaded.model), (state().momentum, loaded.momentum)):
        assert given.keys() == found.keys()
        assert all(np.array_equal(given[name], found[name]) for name in given)
        assert all(given[name].dtype == found[name].dtype for name in given)
    assert json.loads((path / "state.json").read_text())["config"] == {"seed": 4}


def test_the_newest_are_kept_and_the_newest_is_loaded(tmp_path):
    for step in (1, 9, 10, 200):
        save(tmp_path, step, value=step, keep=2)
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["step-00000010", "step-00000200"]
    assert checkpoint.load(tmp_path)[0].model["fc.weight"][0, 0] == 200


def test_a_save_that_was_cut_short_does_not_count(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "step-00000002.partial").mkdir()
    (tmp_path / "step-00000002.partial" / "model.safetensors").write_bytes(b"half")
    assert checkpoint.load(tmp_path)[1].step == 1
    save(tmp_path, 2)
    assert checkpoint.load(tmp_path)[1].step == 2
    assert not list(tmp_path.glob("*.partial"))


def test_the_same_step_is_saved_again(tmp_path):
    save(tmp_path, 1, value=1)
    save(tmp_path, 1, value=2)
    assert checkpoint.load(tmp_path)[0].model["fc.weight"][0, 0] == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-00000001"]


def flip(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: flip(path / "model.safetensors"), "model.safetensors: damaged"),
        (lambda path: os.truncate(path / "optimizer.safetensors", 40), "optimizer.safetensors: damaged"),
        (lambda path: (path / "model.safetensors").unlink(), "step-00000002: unreadable"),
        (lambda path: (path / "state.json").write_text("{"), "step-00000002: unreadable"),
        (lambda path: (path / "state.json").write_text("{}"), "step-00000002: unreadable"),
        (lambda path: (path / "state.json").write_text('{"format": 2}'), "format 2, this version reads 1"),
        (lambda path: [f.unlink() for f in path.iterdir()], "step-00000002: unreadable"),
    ],
)
def test_damage_is_named(tmp_path, damage, message):
    save(tmp_path, 1)
    damage(save(tmp_path, 2))
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(tmp_path)


def test_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        checkpoint.load(tmp_path)
