"""A run, complete: its model, optimizer, log, checkpoints, evaluations and faults, and all else put together."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from hvd_imagenet.config.data import DataSettings, StreamSettings
from hvd_imagenet.models.layers import Layer, layers
from hvd_imagenet.models.spec import RESNETS
from hvd_imagenet.policy import BatchSettings, LargeBatchPolicy, LearningRateSettings
from hvd_imagenet.policy.settings import is_positive, require

ANY_SIZE = 2**40  # samples: a training set that no setting is too large for, where its size is not known yet


def _fits_json(value: Any) -> bool:
    """Whether a value can be written to a run's files as it is."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


@dataclass(frozen=True)
class ModelSettings:
    """The network.

    Args:
        name: resnet18, resnet34, resnet50, resnet101 or resnet152 for ImageNet; resnet8, resnet20, resnet32, resnet44
            or resnet56 for small images; or package.module:function, which makes one of your own.
        classes: number of classes.
        kwargs: what your own function is called with, a table {name: value}.
        zero_last_gamma: whether gamma of the last batch normalisation of each residual block starts at 0, so that the
            block starts as the identity (section 5.1); else at 1.
    """

    name: str = "resnet50"
    classes: int = 1000
    kwargs: dict = field(default_factory=dict)  # not dict[str, Any], in which jsonargparse takes "1" for 1
    zero_last_gamma: bool = True

    def __post_init__(self):
        if self.own:
            module, _, function = self.name.partition(":")
            right = all(part.isidentifier() for part in (*module.split("."), function))
            require(right, "model.name", self.name, "give package.module:function")
        else:
            near = difflib.get_close_matches(self.name, RESNETS, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            known = f"{', '.join(RESNETS)}, or package.module:function of your own"
            require(self.name in RESNETS, "model.name", self.name, f"{hint}known: {known}")
        require(self.classes > 1, "model.classes", self.classes, "give 2 or more")
        require(self.own or not self.kwargs, "model.kwargs", self.kwargs,
                f"{self.name} takes none; they are for a model.name package.module:function")  # fmt: skip
        require(_fits_json(self.kwargs), "model.kwargs", self.kwargs,
                "give texts, numbers, true, false, null, and lists and tables of them")  # fmt: skip

    @property
    def own(self) -> bool:
        """Whether the network is the user's own: made by a function, instead of from the table."""
        return ":" in self.name

    @property
    def short_name(self) -> str:
        """Without package and module, to name files by."""
        return self.name.rpartition(":")[2]


@dataclass(frozen=True)
class OptimizerSettings:
    """SGD with momentum (sections 3 and 5.1).

    Args:
        momentum: the paper's m.
        nesterov: Nesterov momentum instead of the plain one.
        weight_decay: the paper's lambda; added to the aggregated gradient, not applied to gamma and beta of
            batch normalisation.
    """

    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 1e-4

    def __post_init__(self):
        require(0 <= self.momentum < 1, "optimizer.momentum", self.momentum, "give a number from 0 to below 1")
        require(self.momentum > 0 or not self.nesterov, "optimizer.nesterov", self.nesterov,
                "needs optimizer.momentum above 0")  # fmt: skip
        require(self.weight_decay >= 0, "optimizer.weight_decay", self.weight_decay, "give a number from 0")


@dataclass(frozen=True)
class AllreduceSettings:
    """How Horovod sums the gradients.

    Args:
        cycle_ms: milliseconds from one look at which gradients are ready to the next; null: HOROVOD_CYCLE_TIME, or else
            Horovod's own 1 on GPUs, and on CPUs, whose cores it takes from the training, 5 to 50: the longer, the
            longer a micro-batch of the network takes; for a network of your own 5.
        bucket_mib: how many MiB of gradients are summed in one go, at most, but for a larger one; null: an eighth of
            them all, but at least 1 MiB.
        compression: fp16: gradients travel, and are summed, in 16 bits: half the bytes, and what is learnt depends on
            the number of workers, by what is rounded on the way. A gradient above 64, of one parameter, is too large.
    """

    cycle_ms: float | None = None
    bucket_mib: float | None = None
    compression: Literal["none", "fp16"] = "none"

    def __post_init__(self):
        require(self.cycle_ms is None or is_positive(self.cycle_ms), "allreduce.cycle_ms", self.cycle_ms,
                "give a number of milliseconds above 0, or null")  # fmt: skip
        require(self.bucket_mib is None or is_positive(self.bucket_mib), "allreduce.bucket_mib", self.bucket_mib,
                "give a number of MiB above 0, or null")  # fmt: skip


@dataclass(frozen=True)
class LogSettings:
    """What is written down on the way.

    Args:
        every_steps: steps between two lines of metrics.jsonl and of the console, and two points in TensorBoard.
        tensorboard: write TensorBoard's event files into the run's folder.
        mllog: write mllog.txt, the run in MLPerf's log format; needs the package mlperf-logging.
    """

    every_steps: int = 20
    tensorboard: bool = True
    mllog: bool = False

    def __post_init__(self):
        require(self.every_steps > 0, "log.every_steps", self.every_steps, "give a number of steps above 0")


@dataclass(frozen=True)
class CheckpointSettings:
    """When the run is saved; it always is at its end, and when it is asked to stop.

    Args:
        every_epochs: epochs between two checkpoints; null: epochs do not matter.
        every_steps: steps between two checkpoints, beside those of every_epochs; null: steps do not matter.
        keep: how many of the newest checkpoints are kept, beside the one that did best in evaluation.
        on_failure: when a checkpoint cannot be written, because the disk is full: continue goes on, keeps the
            checkpoints before and tries again when the next is due; stop ends the run.
    """

    every_epochs: float | None = 1
    every_steps: int | None = None
    keep: int = 3
    on_failure: Literal["continue", "stop"] = "continue"

    def __post_init__(self):
        require(self.every_epochs is None or is_positive(self.every_epochs), "checkpoint.every_epochs",
                self.every_epochs, "give a number above 0, or null")  # fmt: skip
        require(self.every_steps is None or self.every_steps > 0, "checkpoint.every_steps", self.every_steps,
                "give a number of steps above 0, or null")  # fmt: skip
        require(self.keep > 0, "checkpoint.keep", self.keep, "give a number above 0")


@dataclass(frozen=True)
class EvaluateSettings:
    """When the validation set is evaluated, which it always is at the end, and how.

    Args:
        every_epochs: epochs between two evaluations.
        precise_bn: training images from which the statistics of batch normalisation are recomputed for each evaluation,
            always the same ones; rounded up to whole micro-batches. null: it uses the running statistics.
    """

    every_epochs: float = 1
    precise_bn: int | None = None

    def __post_init__(self):
        require(is_positive(self.every_epochs), "evaluate.every_epochs", self.every_epochs, "give a number above 0")
        require(self.precise_bn is None or self.precise_bn > 0, "evaluate.precise_bn", self.precise_bn,
                "give a number of training images above 0, or null")  # fmt: skip


@dataclass(frozen=True)
class FaultSettings:
    """When the workers are checked upon.

    Args:
        stall_seconds: after how long a worker that does not answer, stopped or cut off, ends the job, and after how
            long one that answers but hangs, so that no worker gets any further: give more than the slowest save or
            micro-batch takes; null: never.
        fingerprint_every_steps: steps between two comparisons of the workers' weights, which also comes after the
            first step, at every evaluation and at every checkpoint; null: never.
        commit_every_steps: in an elastic job, steps between two states that each worker keeps in memory, from which
            those that stay go on when one is lost.
    """

    stall_seconds: float | None = 600
    fingerprint_every_steps: int | None = 500
    commit_every_steps: int = 100

    def __post_init__(self):
        require(self.stall_seconds is None or (is_positive(self.stall_seconds) and self.stall_seconds >= 1),
                "faults.stall_seconds", self.stall_seconds, "give 1 second or more, or null")  # fmt: skip
        require(self.fingerprint_every_steps is None or self.fingerprint_every_steps > 0,
                "faults.fingerprint_every_steps", self.fingerprint_every_steps,
                "give a number of steps above 0, or null")  # fmt: skip
        require(self.commit_every_steps > 0, "faults.commit_every_steps", self.commit_every_steps,
                "give a number of steps above 0")  # fmt: skip


@dataclass(frozen=True)
class Config:
    """A run, complete: what is trained, on what, how, and for how long.

    Args:
        framework: torch or keras.
        model: the network.
        data: the images.
        stream: the order of the training images.
        batch: samples per step and per micro-batch.
        lr: the learning rate.
        optimizer: what turns gradients into steps.
        epochs: length of the run; it ends at the first step boundary at or after that many epochs.
        seed: of initial weights, order and augmentation; with the settings, it determines the run.
        precision: float32; bf16: forward and backward in bfloat16, weights in float32; float64: CPU, for tests.
        allreduce: how gradients are summed over the workers.
        log: what is written down on the way.
        checkpoint: when the run is saved.
        evaluate: when the validation set is evaluated, and how.
        faults: when the workers are checked upon.
    """

    framework: Literal["torch", "keras"] = "torch"
    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    stream: StreamSettings = field(default_factory=StreamSettings)
    batch: BatchSettings = field(default_factory=BatchSettings)
    lr: LearningRateSettings = field(default_factory=LearningRateSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    epochs: float = 90
    seed: int = 0
    precision: Literal["float32", "bf16", "float64"] = "float32"
    allreduce: AllreduceSettings = field(default_factory=AllreduceSettings)
    log: LogSettings = field(default_factory=LogSettings)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    faults: FaultSettings = field(default_factory=FaultSettings)

    def __post_init__(self):
        self.policy(self.data.train_samples or ANY_SIZE)  # what only shows in the whole shows now
        alone = self.batch.forward_size in (None, self.batch.micro_size)
        require(alone or not self.model.own, "batch.forward_size", self.batch.forward_size,
                "a network of your own may draw by chance, or look at other samples: leave it null")  # fmt: skip
        of_keras = self.framework == "torch" and self.model.name.startswith("keras.")
        require(not of_keras, "framework", "torch", f"{self.model.name} is a network of Keras: give keras")
        # How small a network of the user's own makes its images is not known.
        reduction = self.data.image_size if self.model.own else RESNETS[self.model.name].reduction
        remedy = "give 2 or more" if self.model.own else f"give 2 or more, or data.image_size above {reduction}"
        require(self.batch.micro_size > 1 or self.data.image_size > reduction, "batch.micro_size",
                self.batch.micro_size, f"batch normalisation needs more than one value: {remedy}")  # fmt: skip

    def policy(self, dataset_size: int) -> LargeBatchPolicy:
        """The plan of the run on a training set of that many samples."""
        return LargeBatchPolicy(dataset_size, self.epochs, self.batch, self.lr)

    def layers(self) -> list[Layer]:
        """The network's layers, in the order of the forward, and what they cost.

        Raises:
            KeyError: it is one of your own, whose layers are not known before it is built.
        """
        return layers(RESNETS[self.model.name], self.model.classes, self.data.image_size)
