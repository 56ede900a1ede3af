"""The run in MLPerf's log format, by the keys of the closed division of Training's ResNet benchmark."""

from __future__ import annotations

import json
import logging
import math
import os
import re
from pathlib import Path
from typing import Any

import psutil
from mlperf_logging.mllog import constants as keys
from mlperf_logging.mllog.mllog import LOG_TEMPLATE, MLLogger

from hvd_imagenet.config import Config
from hvd_imagenet.metrics.appended import AppendedLines, keep_lines
from hvd_imagenet.metrics.journal import Listener
from hvd_imagenet.policy import LargeBatchPolicy

TARGET = 0.759  # top-1 accuracy at which the benchmark counts as done
ROOT = str(Path(__file__).parents[2])  # of the files that lines are said to come from
PREFIX = LOG_TEMPLATE.partition("{")[0]
OF_EVALUATION = {keys.BLOCK_STOP, keys.EVAL_START, keys.EVAL_ACCURACY, keys.EVAL_STOP, keys.BLOCK_START}
STEP = "step"  # of each line, in its metadata: where a resumed run cuts the log


class MLPerfLog(Listener):
    """Appends to a log; a run that goes on cuts it where it goes on, so that it reads as one run.

    Args:
        path: the file, made if it is not there.
        config: the run's settings, resolved.
        policy: its plan.
        workers: of this job; evaluated_images: of an evaluation.
        from_step: finished steps; evaluated: so is the evaluation after them.
    """

    def __init__(
        self,
        path: Path,
        config: Config,
        policy: LargeBatchPolicy,
        workers: int,
        evaluated_images: int,
        from_step: int,
        evaluated: bool,
    ):
        kept = _kept(path, from_step, evaluated)
        self._file = AppendedLines(path)
        self._log = MLLogger(_logger(self._file), root_dir=re.escape(ROOT))
        self._policy = policy
        self._every = config.evaluate.every_epochs
        self._step = from_step
        self._begun = bool(kept)
        blocks = [line for line in kept if line["key"] in (keys.BLOCK_START, keys.BLOCK_STOP)]
        under_way = blocks and blocks[-1]["key"] == keys.BLOCK_START
        self._block: float | None = blocks[-1]["metadata"][keys.FIRST_EPOCH_NUM] if under_way else None  # its epoch
        if not self._begun:
            for key, value in submission(workers).items():
                self._event(key, value)
            self._event(keys.CACHE_CLEAR, False)  # of the host's page cache, which is the user's
            started = int(1000 * psutil.Process().create_time())
            self._log.start(keys.INIT_START, metadata=self._at(), time_ms=started)
            for key, value in hyperparameters(config, policy, workers, evaluated_images).items():
                self._event(key, value)

    def begin(self, values: dict[str, Any]) -> None:
        if not self._begun:
            self._log.end(keys.INIT_STOP, metadata=self._at())
            self._log.start(keys.RUN_START, metadata=self._at())
            self._begun = True
        self._begin_block(values)

    def step(self, values: dict[str, Any]) -> None:
        self._step = values["step"]

    def evaluating(self, values: dict[str, Any]) -> None:
        self._step = values["step"]
        if self._block is not None:
            self._log.end(keys.BLOCK_STOP, metadata=self._at(**{keys.FIRST_EPOCH_NUM: self._block}))
            self._block = None
        self._log.start(keys.EVAL_START, metadata=self._at(**{keys.EPOCH_NUM: values["epoch"]}))

    def evaluation(self, values: dict[str, Any]) -> None:
        at = self._at(**{keys.EPOCH_NUM: values["epoch"]})
        self._event(keys.EVAL_ACCURACY, values["top1"], **at)
        self._log.end(keys.EVAL_STOP, metadata=at)
        self._begin_block(values)

    def done(self, values: dict[str, Any]) -> None:
        reached = values["best_top1"] >= TARGET
        self._stop(keys.SUCCESS if reached else keys.ABORTED)

    def failed(self, reason: str) -> None:
        self._stop(keys.ABORTED)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _begin_block(self, values: dict[str, Any]) -> None:
        """What is trained until the next evaluation, unless nothing is."""
        if self._block is None and values["step"] < self._policy.total_steps:
            self._block = values["epoch"]
            block = {keys.FIRST_EPOCH_NUM: self._block, keys.EPOCH_COUNT: self._every}
            self._log.start(keys.BLOCK_START, metadata=self._at(**block))

    def _stop(self, status: str) -> None:
        self._log.end(keys.RUN_STOP, metadata=self._at(**{keys.STATUS: status}))

    def _event(self, key: str, value: Any, **metadata: Any) -> None:
        self._log.event(key, value, metadata={**self._at(), **metadata}, stack_offset=2)

    def _at(self, **metadata: Any) -> dict[str, Any]:
        return {STEP: self._step, **metadata}


def submission(workers: int) -> dict[str, str]:
    """Who submits what; organisation and platform as MLPerf's own scripts take them, from the environment."""
    return {
        keys.SUBMISSION_BENCHMARK: keys.RESNET,
        keys.SUBMISSION_DIVISION: keys.CLOSED,
        keys.SUBMISSION_ORG: os.environ.get("MLPERF_SUBMISSION_ORG") or "unknown",
        keys.SUBMISSION_PLATFORM: os.environ.get("MLPERF_SUBMISSION_PLATFORM") or f"{workers} Horovod workers",
        keys.SUBMISSION_STATUS: os.environ.get("MLPERF_STATUS") or keys.ONPREM,
    }


def hyperparameters(
    config: Config, policy: LargeBatchPolicy, workers: int, evaluated_images: int
) -> dict[str, float | str | None]:
    """What the closed division asks for, as it is in this run; it has rules for some of these that a run may break."""
    stretches = [plan for ends in policy.stretches() for plan in ends]
    micro_batches = max(plan.micro_batches for plan in stretches)
    return {
        keys.SEED: config.seed,
        keys.GLOBAL_BATCH_SIZE: max(plan.global_batch for plan in stretches),
        keys.GRADIENT_ACCUMULATION_STEPS: math.ceil(micro_batches / workers),
        keys.TRAIN_SAMPLES: policy.dataset_size,
        keys.EVAL_SAMPLES: evaluated_images,
        keys.MODEL_BN_SPAN: policy.micro_batch,
        keys.OPT_NAME: keys.SGD,
        "sgd_opt_base_learning_rate": _rounded(max(plan.learning_rate for plan in stretches)),
        "sgd_opt_end_learning_rate": _rounded(stretches[-1].learning_rate),
        "sgd_opt_learning_rate_decay_poly_power": (
            config.lr.schedule.power if config.lr.schedule.kind == "polynomial" else None
        ),
        "sgd_opt_learning_rate_decay_steps": policy.total_steps,
        "sgd_opt_weight_decay": config.optimizer.weight_decay,
        "sgd_opt_momentum": config.optimizer.momentum,
        keys.OPT_LR_WARMUP_EPOCHS: config.lr.warmup.epochs if config.lr.warmup.kind != "none" else 0,
    }


def _rounded(rate: float) -> float:
    """Without the last digits, which products of floats have wrong."""
    return float(f"{rate:.12g}")


def _logger(file: AppendedLines) -> logging.Logger:
    """One that is known to nobody else, since loggers by name are everybody's."""

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            file.write(record.getMessage())

    logger = logging.Logger("mllog")
    logger.addHandler(Lines())
    return logger


def _kept(path: Path, from_step: int, evaluated: bool) -> list[dict[str, Any]]:
    """Cut a log where a run goes on; returns its lines until then. Nothing is kept of a run that has not begun."""

    def stays(line: str) -> bool:
        found = _parsed(line)
        return found is not None and _stays(found, from_step, evaluated)

    kept = list(map(_parsed, keep_lines(path, stays)))
    if not any(line["key"] == keys.RUN_START for line in kept):
        return list(keep_lines(path, lambda line: False))
    return kept


def _stays(line: dict[str, Any], from_step: int, evaluated: bool) -> bool:
    comes_again = line["metadata"][STEP] > from_step - (line["key"] in OF_EVALUATION and not evaluated)
    return line["key"] != keys.RUN_STOP and not comes_again


def _parsed(line: str) -> dict[str, Any] | None:
    """A line's values; None: it is cut short, or not one of ours."""
    try:
        values = json.loads(line.removeprefix(PREFIX))
        return values if isinstance(values["metadata"][STEP], int) else None
    except (ValueError, KeyError, TypeError):
        return None
