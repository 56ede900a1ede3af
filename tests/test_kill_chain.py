"""Twenty kills in one chain of resumes, and not one bit of difference."""

import math
import random
import signal
import time

import numpy as np
import pytest
from jobs import Job, mpi, steps_saved
from runs import metrics, weights

KILLS = 20
WHOLE_SECONDS = 400  # of all steps at once, where other tests want the cores, too
ARGUMENTS = ["--precision", "float32", "--checkpoint.every_steps", 3]
ARGUMENTS += ["--checkpoint.every_epochs", "null", "--evaluate.every_epochs", 100]


@pytest.mark.long
@pytest.mark.parametrize(("framework", "count"), [("torch", 1500), ("keras", 500)])
def test_a_chain_of_kills_changes_no_bit(framework, count, recipe, image_folder, tmp_path):
    arguments = ["--config", recipe, "--data.path", image_folder, "--framework", framework, *ARGUMENTS]
    arguments += ["--epochs", count * 20 / 50]
    assert Job(mpi(2), tmp_path / "whole", *arguments).end(WHOLE_SECONDS) == 0
    run, dice = tmp_path / "killed", random.Random(0)
    after_a_checkpoint = inside_a_save = 0
    for kill in range(KILLS):
        inside = kill % 3 == 2 and inside_a_save < 6
        before = newest(run)
        # A fifth of the jobs may be killed while they start, or read the checkpoint.
        patience = dice.uniform(0, 3) if dice.random() < 0.2 else math.inf
        job = Job(mpi(2), run, *arguments, "--resume", "auto").until(lambda job: job.workers())
        if inside:
            job.until(caught_saving)
        else:
            give_up = time.monotonic() + patience
            job.until(lambda job, before=before, then=give_up: newest(job.run) > before or time.monotonic() > then)
            time.sleep(dice.uniform(0, 0.08))
        job.kill()
        inside_a_save += bool(partial(run))
        after_a_checkpoint += newest(run) > before
    assert Job(mpi(2), run, *arguments, "--resume", "auto").end(WHOLE_SECONDS) == 0

    print(f"{KILLS} kills, {after_a_checkpoint} after a new checkpoint, {inside_a_save} inside a save")
    assert after_a_checkpoint >= 10 and inside_a_save >= 3
    whole, killed = weights(tmp_path / "whole", count), weights(run, count)
    for kind in whole:
        assert whole[kind].keys() == killed[kind].keys()
        assert all(np.array_equal(whole[kind][name], killed[kind][name]) for name in whole[kind])
    steps = [
        [(event["step"], event["loss"]) for event in metrics(tmp_path / name, "step")] for name in ("whole", "killed")
    ]
    assert len(steps[0]) == count and steps[0] == steps[1]
    assert len(metrics(run, "restart")) >= KILLS // 2


def caught_saving(job):
    """Stops worker 0 if it is in the middle of a save, which takes some milliseconds."""
    if not partial(job.run):
        return False
    job.signal(0, signal.SIGSTOP)
    time.sleep(0.05)
    if partial(job.run):
        return True
    job.signal(0, signal.SIGCONT)
    return False


def partial(run):
    return list(run.glob("checkpoints/*.partial"))


def newest(run):
    return steps_saved(run)[-1] if steps_saved(run) else 0
