"""Checkpoints: whole or not there, read back as written, and what is said of damaged ones."""

import errno
import json
import os
from pathlib import Path

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


def save(folder, step, value=1.0, evaluations=()):
    progress = Progress(step, step * 10, 1.5, 2.5, list(evaluations), evaluation_due=step % 2 == 1)
    return checkpoint.save(folder, state(value), progress, {"seed": 4, "batch": {"global_size": {2: 8, 10: 16}}})


def load(folder):
    """The checkpoint, and what was said of those that were skipped."""
    said = []
    return *checkpoint.load(folder, lambda path, error: said.append((path.name, str(error)))), said


def evaluation(step, top1):
    return {"step": step, "epoch": step / 5, "loss": 1.0, "top1": top1, "top5": 1.0, "count": 9}


def test_what_is_saved_is_loaded(tmp_path):
    path = save(tmp_path, 7, evaluations=[evaluation(5, 0.25)])
    assert path == tmp_path / "step-00000007"
    assert sorted(f.name for f in path.iterdir()) == ["model.safetensors", "optimizer.safetensors", "state.json"]
    loaded, progress, settings, said = load(tmp_path)
    assert settings == {"seed": 4, "batch": {"global_size": {"2": 8, "10": 16}}}  # as JSON has it
    assert progress == Progress(7, 70, 1.5, 2.5, [evaluation(5, 0.25)], evaluation_due=True)
    assert said == []
    for given, found in ((state().model, loaded.model), (state().momentum, loaded.momentum)):
        assert given.keys() == found.keys()
        assert all(np.array_equal(given[name], found[name]) for name in given)
        assert all(given[name].dtype == found[name].dtype for name in given)
    assert json.loads((path / "state.json").read_text())["config"] == settings


def test_the_newest_is_loaded(tmp_path):
    for step in (1, 9, 10, 200):
        save(tmp_path, step, value=step)
    assert load(tmp_path)[0].model["fc.weight"][0, 0] == 200


@pytest.mark.parametrize(
    ("top1", "kept"),
    [
        ({}, [10, 200]),
        ({1: 0.5, 9: 0.4, 10: 0.3}, [1, 10, 200]),
        ({1: 0.5, 9: 0.5}, [1, 10, 200]),  # the first of equals
        ({1: 0.5, 9: 0.6, 10: 0.7}, [10, 200]),
        ({1: 0.5, 5: 0.9}, [1, 10, 200]),  # the best was not saved
    ],
)
def test_the_newest_are_kept_and_the_best(tmp_path, top1, kept):
    for step in (1, 9, 10, 200):
        save(tmp_path, step)
    checkpoint.prune(tmp_path, 2, [evaluation(step, value) for step, value in top1.items()])
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == [f"step-{step:08d}" for step in kept]


def test_an_evaluation_is_noted_in_its_checkpoint(tmp_path):
    save(tmp_path, 7)
    progress = load(tmp_path)[1]
    progress.evaluations, progress.evaluation_due = [evaluation(7, 0.5)], False
    checkpoint.note(tmp_path, progress)
    loaded, noted, *_ = load(tmp_path)
    assert noted == progress and np.array_equal(loaded.model["fc.weight"], state().model["fc.weight"])
    progress.step = 8
    checkpoint.note(tmp_path, progress)  # not saved: nothing to note it in
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000007"]


def test_a_save_that_was_cut_short_does_not_count(tmp_path):
    save(tmp_path, 1)
    for step in (2, 3):
        (tmp_path / f"step-0000000{step}.partial").mkdir()
        (tmp_path / f"step-0000000{step}.partial" / "model.safetensors").write_bytes(b"half")
    assert load(tmp_path)[1].step == 1
    save(tmp_path, 2)
    assert load(tmp_path)[1].step == 2
    checkpoint.remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]


def test_nothing_is_left_of_a_save_that_fails(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def fail(path, data):
        path.write_bytes(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_flushed", fail)
    with pytest.raises(CheckpointError, match="step-00000002: cannot be written .No space left on device.; free"):
        save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_read_that_fails_just_now_is_no_damage(tmp_path, monkeypatch):
    """As after a file server's restart: the newest is neither passed over nor set aside."""
    for step in (1, 2):
        save(tmp_path, step)

    def stale(path):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(Path, "read_bytes", stale)
    with pytest.raises(CheckpointError, match=r"step-00000002: cannot be read \(Stale file handle\)"):
        checkpoint.load(tmp_path, pytest.fail)


def flip(path, place=-3):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "flipped bit of the weights": (lambda path: flip(path / "model.safetensors"), "model.safetensors: damaged"),
    "flipped bit of the state": (lambda path: flip(path / "state.json", 60), "state.json: damaged"),
    "truncated": (lambda path: os.truncate(path / "optimizer.safetensors", 40), "optimizer.safetensors: damaged"),
    "missing": (lambda path: (path / "model.safetensors").unlink(), "step-00000002: unreadable"),
    "half JSON": (lambda path: (path / "state.json").write_text("{"), "step-00000002: unreadable"),
    "other JSON": (lambda path: (path / "state.json").write_text("[]"), "step-00000002: unreadable"),
    "not text": (lambda path: (path / "state.json").write_bytes(b"\xff\xfe"), "step-00000002: unreadable"),
    "newer format": (
        lambda path: (path / "state.json").write_text('{"format": 3}'),
        "step-00000002: is of format 3, this version reads 2",
    ),
    "empty folder": (lambda path: [f.unlink() for f in path.iterdir()], "step-00000002: unreadable"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_named_and_skipped(tmp_path, damage, message):
    save(tmp_path, 1)
    damage(save(tmp_path, 2))
    _, progress, _, said = load(tmp_path)
    assert progress.step == 1
    assert [name for name, _ in said] == ["step-00000002"] and message in said[0][1]


def test_somebodys_copies_do_not_count(tmp_path):
    copy = tmp_path / "step-00000001.bak"
    save(tmp_path, 1).rename(copy)
    for step in (2, 3):
        save(tmp_path, step)
    checkpoint.prune(tmp_path, 1, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == [copy.name, "step-00000003"]


def test_none_that_is_usable(tmp_path):
    with pytest.raises(CheckpointError, match="holds no usable checkpoint .none at all.; copy one back"):
        load(tmp_path)
    for step in (1, 2):
        flip(save(tmp_path, step) / "model.safetensors")
    with pytest.raises(CheckpointError, match="step-00000002/model.* damaged.*step-00000001/model.* damaged"):
        load(tmp_path)


def test_what_is_set_aside_neither_counts_nor_is_lost(tmp_path):
    save(tmp_path, 1)
    checkpoint.set_aside(save(tmp_path, 2))
    assert load(tmp_path)[1].step == 1
    checkpoint.set_aside(save(tmp_path, 2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000002.unusable"]
    checkpoint.prune(tmp_path, 1, [])
    assert len(list(tmp_path.iterdir())) == 2
