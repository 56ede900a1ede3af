"""What comes before the first step: every check, on all workers, and the state that a run starts from."""

from __future__ import annotations

import dataclasses
import json
import socket
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hvd_imagenet import checkpoint
from hvd_imagenet.backend import Backend, State
from hvd_imagenet.checkpoint import Progress
from hvd_imagenet.config import Config
from hvd_imagenet.config.flat import PLACES, flat
from hvd_imagenet.data.requests import FirstRequests
from hvd_imagenet.data.store import Store
from hvd_imagenet.elastic import Elastic
from hvd_imagenet.errors import CheckpointError, DataError, SettingsError
from hvd_imagenet.faults.job import Job
from hvd_imagenet.faults.together import together
from hvd_imagenet.inputs import (
    check_cache,
    check_classes,
    check_memory,
    norm_images,
    open_everywhere,
    require_data,
    sample_stream,
)
from hvd_imagenet.policy import LargeBatchPolicy
from hvd_imagenet.run_directory import RunDirectory
from hvd_imagenet.stream import SampleStream
from hvd_imagenet.version import version

# The settings that decide which samples a step takes, and into what: fixed for the whole of a run.
WALK = ("model.", "batch.global_size", "batch.micro_size", "batch.grow.", "seed", "data.train_samples")
WALK += ("data.contents", "data.image_size", "data.augment", "data.mean", "data.std", "data.decoder.use_fast_idct")
WALK += ("stream.",)


@dataclass
class Start:
    """A run with all checks made: its data open, its folder claimed, the backend in the state to start from.

    Attributes:
        config: the settings, resolved; settings: as checkpoints keep them.
        stream: the training set in the order that the run takes it.
        norm_images: what evaluations recompute batch normalisation's statistics from; None: they do not.
        progress: where the run is.
        resumed: the run has been begun by an earlier job, or by this one before a change of its workers.
        saved_step: finished steps of the checkpoint that was read; None: there was none.
    """

    config: Config
    settings: dict[str, Any]
    run: RunDirectory
    backend: Backend
    job: Job
    policy: LargeBatchPolicy
    train_set: Store
    val_set: Store
    stream: SampleStream
    norm_images: FirstRequests | None
    progress: Progress
    resumed: bool
    saved_step: int | None


def prepare(config: Config, run: RunDirectory, resume: str, backend: Backend, job: Job) -> Start:
    """Make all checks, in the order in which they need each other, and begin the job.

    Args:
        resume: no: begin a run; always: go on with the one in the folder; auto: go on if there is one.

    Raises:
        RunError: on all workers the same.
    """
    require_same_code(backend)
    require_same_settings(config, backend)
    with together(backend):
        require_data(config)
        require_packages(config)
    train_set, val_set = (open_everywhere(config, split, backend) for split in ("train", "val"))
    policy = config.policy(len(train_set))
    stream = sample_stream(config, train_set)
    with together(backend):
        check_fit(config, policy, train_set, backend.size)
        check_memory(config, stream, backend.local_size)
        first = norm_images(config, train_set, stream, backend)
        check_cache(config, policy, train_set, val_set, first, backend.size, backend.local_size)
        resumed = job.claim(resume) if backend.rank == 0 else None
    resumed = backend.gather(resumed)[0]
    config = resolved(config, train_set)
    settings = settings_of(config, train_set)
    state, progress, saved = read_checkpoint(run, backend, going_on=True) if resumed else (None, Progress(), None)
    saved_step = progress.step if saved else None
    if job.elastic:
        state, progress = newest(state, progress, job.elastic, backend)
    with together(backend):
        check_same_walk(settings, saved, policy, progress)
    take_over(state, backend)
    with together(backend):
        if backend.rank == 0:
            run.write_config(config)
    job.begin()
    return Start(
        config, settings, run, backend, job, policy, train_set, val_set, stream, first, progress, resumed, saved_step
    )


def require_same_code(backend: Backend) -> None:
    """Raise SettingsError unless all workers run the same version of this package, to the byte."""
    with together(backend):
        given = backend.gather((socket.gethostname(), version()))
        for rank, (host, other) in enumerate(given):
            if other != given[0][1]:
                raise SettingsError(
                    f"worker {rank} on {host} runs hvd_imagenet {other}, worker 0 on {given[0][0]} runs {given[0][1]}; "
                    "install the same on all hosts, or into a folder that all see: bash launch/install.sh"
                )


def require_same_settings(config: Config, backend: Backend) -> None:
    """Raise SettingsError unless all workers have the same settings, but for where the data is on their hosts."""
    with together(backend):
        given = [flat(settings) for settings in backend.gather(dataclasses.asdict(config))]
        for rank, other in enumerate(given):
            for key in other:
                if other[key] != given[0][key] and key not in PLACES:
                    raise SettingsError(
                        f"{key}: {other[key]} on worker {rank}, {given[0][key]} on worker 0; give all the same "
                        "options and files"
                    )


def require_packages(config: Config) -> None:
    """Raise SettingsError unless there is what the settings need beside the package's own requirements."""
    if config.log.mllog and not find_spec("mlperf_logging"):
        raise SettingsError("log.mllog: true; needs the package mlperf-logging: pip install 'hvd-imagenet[mllog]'")


def check_fit(config: Config, policy: LargeBatchPolicy, train_set: Store, workers: int) -> None:
    """Hold the settings against the training set and the number of workers.

    Raises:
        SettingsError, DataError: they do not fit.
    """
    samples = config.data.train_samples
    if samples is not None and samples != len(train_set):
        raise DataError(
            f"{train_set.path}: has {len(train_set)} training images, but data.train_samples is {samples}; "
            "is it the right data set? Otherwise set data.train_samples to null"
        )
    check_classes(config, train_set)
    if policy.smallest_step() < workers:
        size = policy.smallest_step() * config.batch.micro_size
        raise SettingsError(
            f"batch.global_size: {size}; is {policy.smallest_step()} micro-batches of {config.batch.micro_size} for "
            f"{workers} workers; start at most {policy.smallest_step()} workers or raise batch.global_size to "
            f"{workers * config.batch.micro_size}"
        )


def resolved(config: Config, train_set: Store) -> Config:
    """The settings with what the data set tells, to be found again from any folder."""
    path = str(train_set.path.resolve()) if isinstance(train_set.path, Path) else train_set.path
    return dataclasses.replace(config, data=dataclasses.replace(config.data, path=path, train_samples=len(train_set)))


def settings_of(config: Config, train_set: Store) -> dict[str, Any]:
    """What a checkpoint keeps of the settings, as JSON has them; with a checksum of the training set."""
    settings = json.loads(json.dumps(dataclasses.asdict(config)))
    return {**settings, "data": {**settings["data"], "contents": train_set.contents()}}


def read_checkpoint(
    run: RunDirectory, backend: Backend, going_on: bool
) -> tuple[State | None, Progress, dict[str, Any] | None]:
    """The newest usable checkpoint, read by rank 0: its state (there alone), and for all its progress and settings.

    A run that ended before its first checkpoint begins anew: no state, no progress, no settings to keep to.

    Args:
        going_on: the run will write to its folder: what is not usable is set aside.
    """
    found: tuple = None, Progress(), None
    with together(backend):
        if backend.rank == 0 and going_on:
            checkpoint.remove_unfinished(run.checkpoints)
        if backend.rank == 0 and checkpoint.checkpoints(run.checkpoints):
            skipped: list[Path] = []

            def skip(path: Path, error: CheckpointError) -> None:
                print(f"warning: {error}; trying the checkpoint before", flush=True)
                skipped.append(path)

            found = checkpoint.load(run.checkpoints, skip)
            for path in skipped if going_on else ():
                checkpoint.set_aside(path)
    state, *known = found
    progress, settings = backend.gather(known)[0]
    return state, progress, settings


def newest(
    state: State | None, progress: Progress, elastic: Elastic, backend: Backend
) -> tuple[State | None, Progress]:
    """What the workers of an elastic job go on from: a checkpoint, or what one of them has committed since.

    Args:
        state, progress: of the newest checkpoint, as from `read_checkpoint`.
    """
    steps = [-1 if step is None else step for step in backend.gather(elastic.step)]
    if max(steps) < max(progress.step, 1):
        return state, progress
    owner = steps.index(max(steps))
    committed = elastic.committed() if backend.rank == owner else None
    if owner == 0:
        state = committed[0] if committed else None
    else:
        kept = backend.gather(committed and committed[0])[owner]
        state = kept if backend.rank == 0 else None
    return state, backend.gather(committed and committed[1])[owner]


def take_over(state: State | None, backend: Backend) -> None:
    """Give every worker the state that rank 0 has read, or where there is none, rank 0's initial one."""
    with together(backend):
        if state is not None:
            try:
                backend.load_state(state)
            except ValueError as error:
                raise SettingsError(f"model: is not the one of the checkpoint ({error})") from None
    backend.broadcast()


def check_same_walk(
    settings: dict[str, Any], saved: dict[str, Any] | None, policy: LargeBatchPolicy, progress: Progress
) -> None:
    """Check that a run can go on with these settings along the stream that it began.

    Args:
        settings, saved: of this job and of the checkpoint; None: there is no checkpoint.

    Raises:
        SettingsError: names the settings that differ from those of the checkpoint.
    """
    before, now = flat(saved or {}), flat(settings)
    differing = [
        f"{key} was {before[key]} and is {now.get(key)}"
        for key in before
        if key.startswith(WALK) and before[key] != now.get(key)
    ]
    if differing:
        raise SettingsError(f"--resume: {'; '.join(differing)}; go on with the run's own, or start another run")
    if progress.samples_seen < policy.total_samples:
        try:
            step = policy.at(progress.samples_seen).step
        except ValueError:
            step = None
        if step != progress.step:
            raise SettingsError(
                f"--resume: the checkpoint is after {progress.step} steps and {progress.samples_seen} samples, where "
                "these settings have no step; the data set, or when the batch grows, has changed"
            )
