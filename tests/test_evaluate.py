"""The real command that evaluates a run: class by class, on any number of workers, and what it refuses."""

import json
import math
import os
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import metrics

from hvd_imagenet import checkpoint, cli, settings
from hvd_imagenet.data.dali import Decoding
from hvd_imagenet.data.loader import evaluation_batches
from hvd_imagenet.data.requests import Worker
from hvd_imagenet.data.store import open_store
from hvd_imagenet.evaluation import job
from hvd_imagenet.faults.lock import RunLock
from hvd_imagenet.report import accounts
from hvd_imagenet.torch.export import trained

FIRST = os.environ.get("HOROVOD_RANK", "0") == "0"


@pytest.fixture
def run(walks, tmp_path):
    """A copy of a run of eight steps with checkpoints at 3, 5 and 8; each worker has its own."""
    return Path(shutil.copytree(walks / "on-1", tmp_path / "run"))


def evaluate(run, *options):
    return cli.main(["evaluate", "--run", str(run), *map(str, options)])


def written(run):
    return json.loads((run / "evaluation.json").read_text())


def scores(run, split, state):
    """Labels, and what the exported network answers to each image in float32."""
    config = settings.load(run / "config.yaml")
    store, data = open_store(config.data.path, split), config.data
    decoding = Decoding(16, tuple(data.mean), tuple(data.std), data.resize_shorter(), False, 1, None)
    network, labels, found = trained(config, state.model), [], []
    with evaluation_batches(store, 7, Worker(0, 1), decoding) as batches, torch.no_grad():
        for batch in batches:
            found.append(network(torch.from_dlpack(batch.images).permute(0, 3, 1, 2)).numpy())
            labels += np.from_dlpack(batch.labels).tolist()
    return store.classes, labels, np.concatenate(found)


@pytest.fixture
def skewed(run):
    """A checkpoint that takes all but a quarter of the validation images for the second class."""
    state, progress, config = checkpoint.load_one(run / "checkpoints" / "step-00000008")
    *_, found = scores(run, "val", state)
    ahead = np.sort(found[:, 1] - found[:, 0])
    state.model["fc.bias"][1] -= (ahead[5] + ahead[6]) / 2
    return checkpoint.save(run / "mine", state, progress, config)


def by_class(names, labels, found):
    """What evaluation.json says of two classes, counted one by one."""
    counts, pairs = Counter(labels), Counter(zip(labels, found.argmax(1).tolist(), strict=True))
    classes = [
        {"name": name, "count": counts[label], "top1": pairs[label, label] / counts[label], "top5": 1.0}
        for label, name in enumerate(names)
    ]
    confusions = [
        {"class": names[a], "taken_for": names[b], "count": count, "share": count / counts[a]}
        for (a, b), count in pairs.items()
        if a != b
    ]
    return classes, sorted(confusions, key=lambda one: -one["share"])


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("split", ["val", "train"])
def test_each_class(workers, split, run, skewed, capsys):
    """As counted from what the exported network answers; 23 and 50 images, each once, on any number of workers."""
    assert evaluate(run, "--split", split, "--checkpoint", skewed) == 0
    shown = capsys.readouterr().out
    if not FIRST:
        assert shown == "" and not (run / "evaluation.json").exists()
        return
    classes, confusions = by_class(*scores(run, split, checkpoint.load_one(skewed)[0]))
    said, count = written(run), {"val": 23, "train": 50}[split]
    assert said.pop("loss") > 0
    assert said == {
        "checkpoint": str(skewed),
        "step": 8,
        "split": split,
        "precise_bn": None,
        "top1": sum(one["top1"] * one["count"] for one in classes) / count,
        "top5": 1.0,
        "count": count,
        "classes": classes,
        "confusions": confusions,
    }
    assert 0 < classes[0]["top1"] < 1 and confusions[0]["class"] == "class0"
    line, empty, head, first, *_ = shown.splitlines()
    assert line.endswith("top5 100.00%  of 23 images" if split == "val" else "of 50 training images")
    assert empty == "" and head.startswith("worst classes  images   top1    top5")
    assert first.startswith("class0 ") and first.endswith(f"  class1 {confusions[0]['share']:.1%}")
    read = accounts.read(run).evaluation
    assert [(one.name, one.top1) for one in read.classes] == [(one["name"], one["top1"]) for one in classes]


@pytest.mark.parametrize("workers", [2])
def test_the_sums_are_those_of_the_runs_own_evaluation(workers, run, capsys):
    assert evaluate(run) == 0
    if FIRST:
        last, said = metrics(run, "eval")[-1], written(run)
        assert said["loss"] == pytest.approx(last["loss"], rel=1e-9) and said["top1"] == last["top1"]
        expected = f"step 8  loss {last['loss']:.4f}  top1 {last['top1']:.2%}  top5 100.00%  of 23 images"
        assert capsys.readouterr().out.splitlines()[0] == expected


@pytest.mark.parametrize("framework", ["torch", "keras"])
@pytest.mark.parametrize("workers", [2])
def test_a_network_that_takes_all_for_one_class(workers, framework, run, capsys):
    """Scores 0 and 1 for all images, 12 of the first class and 11 of the second."""
    state, progress, config = checkpoint.load_one(run / "checkpoints" / "step-00000005")
    state.model["fc.weight"][:], state.model["fc.bias"][:] = 0, [0, 1]
    checkpoint.save(run / "mine", state, progress, config)
    assert evaluate(run, "--checkpoint", run / "mine" / "step-00000005", "--framework", framework) == 0
    if not FIRST:
        return
    said = written(run)
    loss = (12 * math.log(1 + math.e) + 11 * math.log(1 + 1 / math.e)) / 23
    assert said["loss"] == pytest.approx(loss, rel=1e-12) and said["top1"] == 11 / 23
    assert (said["step"], said["checkpoint"]) == (5, str(run / "mine" / "step-00000005"))
    assert said["classes"] == [
        {"name": "class0", "count": 12, "top1": 0.0, "top5": 1.0},
        {"name": "class1", "count": 11, "top1": 1.0, "top5": 1.0},
    ]
    assert said["confusions"] == [{"class": "class0", "taken_for": "class1", "count": 12, "share": 1.0}]
    assert capsys.readouterr().out.splitlines()[2:] == [
        "worst classes  images  top1    top5  taken for",
        "class0             12  0.0%  100.0%  class1 100.0%",
    ]


def renoted(run, **top1):
    """The run as if its evaluations had come out like this: a top-1 accuracy by step."""
    evaluations = []
    for path in checkpoint.checkpoints(run / "checkpoints"):
        state, progress, config = checkpoint.load_one(path)
        if f"step{progress.step}" in top1:
            evaluations.append({"step": progress.step, "top1": top1[f"step{progress.step}"]})
        progress.evaluations = list(evaluations)
        checkpoint.save(path.parent, state, progress, config)
    shutil.rmtree(run / "checkpoints" / "step-00000008.unusable", ignore_errors=True)


@pytest.mark.parametrize(
    ("top1", "damaged", "best"),
    [
        ({"step3": 0.5, "step5": 0.7, "step8": 0.6}, None, 5),
        ({"step3": 0.7, "step5": 0.7, "step8": 0.6}, 8, 3),  # the first of equals; the newest one cannot say
        ({"step5": 0.7}, None, 5),
    ],
)
def test_the_best_checkpoint(top1, damaged, best, run):
    renoted(run, **top1)
    if damaged:
        (run / "checkpoints" / f"step-0000000{damaged}" / "state.json").write_text("{")
    assert checkpoint.best(run / "checkpoints") == run / "checkpoints" / f"step-0000000{best}"


def test_best_is_evaluated(run, capsys):
    renoted(run, step3=0.5, step5=0.7, step8=0.6)
    assert evaluate(run, "--checkpoint=best") == 0
    assert capsys.readouterr().out.startswith("step 5  loss ")
    assert (written(run)["checkpoint"], written(run)["step"]) == ("best", 5)


def snapshot(run):
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "evaluation.json"}


def test_a_run_that_goes_on_is_evaluated_and_left_alone(run):
    """Its lock is held; a checkpoint that is being written is no checkpoint; nothing changes but evaluation.json."""
    shutil.copytree(run / "checkpoints" / "step-00000008", run / "checkpoints" / "step-00000010.partial")
    lock = RunLock(run / "lock")
    lock.acquire(pytest.fail)
    try:
        before, begun = snapshot(run), time.monotonic()
        assert evaluate(run) == 0
        assert time.monotonic() - begun < 25  # a job that wants the lock waits for 30 s
        assert snapshot(run) == before and written(run)["step"] == 8
    finally:
        lock.release()


def wrong(run, kind):
    """Damage a copy of a run; returns the options."""
    newest = run / "checkpoints" / "step-00000008"
    if kind == "damaged":
        data = bytearray((newest / "model.safetensors").read_bytes())
        data[-1] ^= 1
        (newest / "model.safetensors").write_bytes(data)
    if kind == "newer":
        for path in checkpoint.checkpoints(run / "checkpoints"):
            said = json.loads((path / "state.json").read_text())
            (path / "state.json").write_text(json.dumps({**said, "format": checkpoint.FORMAT + 1}))
    if kind == "newer settings":
        (run / "config.yaml").write_text((run / "config.yaml").read_text() + "quantum: {bits: 3}\n")
    if kind == "none":
        shutil.rmtree(run / "checkpoints")
    return [option.format(run=run) for option in WRONG[kind][0]]


WRONG = {
    "split": (["--split", "test"], 2, "--split: test; give one of val, train"),
    "checkpoint": (["--checkpoint", "newest"], 2, "--checkpoint: newest; give last, best, or the folder of a check"),
    "empty": (["--checkpoint", ""], 2, "--checkpoint: is empty; give last, best, or the folder of a checkpoint"),
    "no value": (["--checkpoint"], 2, "argument --checkpoint: expected one argument; see hvd-imagenet evaluate --help"),
    "mistyped": (["--chekpoint", "best"], 2, "--chekpoint: unknown option; did you mean --checkpoint?"),
    "no folder": (["--checkpoint", "{run}/x"], 6, "/x: is no checkpoint (has no state.json); give the folder of one"),
    "another folder": (["--checkpoint", "{run}/checkpoints"], 6, "/checkpoints: is no checkpoint (has no state.json)"),
    "long name": (["--checkpoint", 300 * "x"], 2, "xxx; give last, best, or the folder of a checkpoint"),
    "long folder": (["--checkpoint", "/" + 300 * "x"], 6, "xxx: is no checkpoint (has no state.json)"),
    "damaged": (["--checkpoint", "{run}/checkpoints/step-00000008"], 6, "model.safetensors: damaged, not what was"),
    "newer": ([], 6, "holds no usable checkpoint ("),
    "newer settings": ([], 2, "config.yaml: quantum: unknown setting"),
    "none": (["--checkpoint", "best"], 6, "checkpoints: holds no checkpoint; the run has not got so far"),
    "too many": (["--evaluate.precise_bn", "51"], 2, "evaluate.precise_bn: 51; "),
    "no images": (["--evaluate.precise_bn", "0"], 2, "evaluate.precise_bn: 0; give a number of training images above"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_refused(kind, run, capsys):
    options, status, message = wrong(run, kind), *WRONG[kind][1:]
    assert evaluate(run, *options) == status
    said = capsys.readouterr().err
    assert message in said and said.splitlines()[-1].startswith("hvd-imagenet: error: ")
    assert said.count("\n") == 1 and not (run / "evaluation.json").exists()


def test_best_where_nothing_has_been_evaluated(run, capsys):
    renoted(run)
    assert evaluate(run, "--checkpoint", "best") == 6
    assert "checkpoints: of no checkpoint is an evaluation known; give --checkpoint last" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [2])
def test_a_file_that_cannot_be_written(workers, run, capsys):
    """What was found is shown all the same, and all workers end alike."""
    (run / "evaluation.json").mkdir()
    assert evaluate(run) == 2
    said = capsys.readouterr()
    if FIRST:
        assert said.out.startswith("step 8  loss ")
        assert "evaluation.json: cannot be written (Is a directory); free some space" in said.err
        assert said.err.count("\n") == 1
    else:
        assert said.out == said.err == ""


@pytest.mark.parametrize("workers", [2])
def test_it_is_asked_to_stop(workers, run, monkeypatch, capsys):
    """One worker alone, before its part."""
    evaluate_all = job.evaluate_all

    def signalled(*arguments):
        if not FIRST:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)
        return evaluate_all(*arguments)

    monkeypatch.setattr(job, "evaluate_all", signalled)
    assert evaluate(run) == 75
    said = capsys.readouterr()
    expected = "hvd-imagenet: stopped, as asked; an evaluation keeps nothing: run it again\n"
    assert said.out == "" and said.err == (expected if FIRST else "")
    assert not (run / "evaluation.json").exists()


def test_help_tells_of_the_checkpoint_too(capsys):
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "--checkpoint says which: last, the newest usable one (default); best," in said and "--split val|train" in said
    )
