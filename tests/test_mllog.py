"""MLPerf's log of a run, held against MLPerf's own compliance checker."""

import json
import os
import subprocess
import sys
import time

import pytest
from runs import train

from hvd_imagenet import cli
from hvd_imagenet.config import Config, DataSettings, EvaluateSettings, LogSettings
from hvd_imagenet.metrics.mllog import MLPerfLog
from hvd_imagenet.policy import BatchSettings, LearningRateSettings, ScheduleSettings, WarmupSettings

RULES = "4.0.0"  # the last ones with ResNet
CLOSED = {"lr": LearningRateSettings(0.1, 256, schedule=ScheduleSettings(milestones=[1, 2, 2.5]))}
EPOCH = {"step": 10, "epoch": 1.0}
TWO = {"step": 20, "epoch": 2.0}


@pytest.fixture(autouse=True)
def young(monkeypatch):
    """The process has just begun: one that has been at tests for half an hour has taken too long to initialise."""
    monkeypatch.setattr("psutil.Process.create_time", lambda process: time.time())


def check(path):
    """The checker's exit status, and what it says."""
    command = [sys.executable, "-m", "mlperf_logging.compliance_checker", "--usage", "training", "--ruleset", RULES]
    command += ["--log_output", str(path.with_suffix(".checked")), str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def lines(path):
    return [json.loads(line.removeprefix(":::MLLOG ")) for line in path.read_text().splitlines()]


def opened(path, from_step=0, evaluated=True, workers=2, **settings):
    config = Config(
        data=DataSettings(train_samples=2560),
        batch=BatchSettings(256, 32),
        epochs=3,
        evaluate=EvaluateSettings(1),
        log=LogSettings(mllog=True),
        **{**CLOSED, **settings},
    )
    return MLPerfLog(path, config, config.policy(2560), workers, 500, from_step, evaluated)


def evaluate(log, moment, top1):
    log.evaluating(moment)
    log.evaluation({**moment, "top1": top1})


def finish(log, top1=0.77):
    evaluate(log, {"step": 30, "epoch": 3.0}, top1)
    log.done({"best_top1": top1})
    log.close()


def whole_run(path, top1=0.77, **settings):
    log = opened(path, **settings)
    log.begin({"step": 0, "epoch": 0.0})
    evaluate(log, EPOCH, 0.3)
    evaluate(log, TWO, 0.6)
    finish(log, top1)
    return lines(path)


def test_a_run_by_the_rules_of_the_closed_division(tmp_path):
    said = whole_run(tmp_path / "mllog.txt")
    status, text = check(tmp_path / "mllog.txt")
    assert status == 0 and "SUCCESS" in text, text
    values = {line["key"]: line["value"] for line in said}
    expected = {"global_batch_size": 256, "train_samples": 2560, "eval_samples": 500, "model_bn_span": 32, "seed": 0}
    expected |= {"sgd_opt_base_learning_rate": 0.1, "sgd_opt_end_learning_rate": 1e-4, "sgd_opt_momentum": 0.9}
    expected |= {"gradient_accumulation_steps": 4, "sgd_opt_learning_rate_decay_steps": 30, "opt_name": "sgd"}
    expected |= {
        "opt_learning_rate_warmup_epochs": 5,
        "submission_division": "closed",
        "submission_benchmark": "resnet",
    }
    assert {key: values[key] for key in expected} == expected
    assert said[-1]["metadata"]["status"] == "success"
    keys = [line["key"] for line in said]
    block = ["block_start", "block_stop", "eval_start", "eval_accuracy", "eval_stop"]
    assert keys[keys.index("run_start") :] == ["run_start", *3 * block, "run_stop"]
    firsts = [line["metadata"]["first_epoch_num"] for line in said if "first_epoch_num" in line["metadata"]]
    assert firsts == [0, 0, 1, 1, 2, 2]
    assert all(line["metadata"]["file"] == "hvd_imagenet/metrics/mllog.py" for line in said)


@pytest.mark.parametrize(
    ("top1", "settings", "broken"),
    [
        (0.758, {}, "eval_accuracy"),  # the target is 0.759
        (0.77, {"lr": LearningRateSettings(0.1, 256, schedule=ScheduleSettings(milestones=[1]))}, "end_learning_rate"),
    ],
)
def test_a_run_that_breaks_a_rule_is_logged_as_it_is(tmp_path, top1, settings, broken):
    said = whole_run(tmp_path / "mllog.txt", top1, **settings)
    status, text = check(tmp_path / "mllog.txt")
    assert status == 1 and broken in text
    assert said[-1]["metadata"]["status"] == ("success" if top1 >= 0.759 else "aborted")


@pytest.mark.parametrize("evaluated", [True, False])
def test_a_run_that_goes_on_is_one_run(tmp_path, evaluated):
    path = tmp_path / "mllog.txt"
    log = opened(path)
    log.begin({"step": 0, "epoch": 0.0})
    evaluate(log, EPOCH, 0.3)
    evaluate(log, TWO, 0.6)
    log.failed("killed")
    log.close()
    with path.open("a") as file:
        file.write(':::MLLOG {"namespace": ')  # a line that a crash has cut short
    log = opened(path, from_step=10, evaluated=evaluated, workers=3)
    log.begin(EPOCH)
    if not evaluated:
        evaluate(log, EPOCH, 0.3)
    evaluate(log, TWO, 0.6)
    finish(log)
    status, text = check(path)
    assert status == 0, text
    whole_run(tmp_path / "at-once.txt")
    one, other = ([(line["key"], line["value"]) for line in lines(p)] for p in (path, tmp_path / "at-once.txt"))
    assert one == other


def test_who_submits_is_taken_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("MLPERF_SUBMISSION_ORG", 'Some "Org"')
    monkeypatch.setenv("MLPERF_SUBMISSION_PLATFORM", "8xH100")
    values = {line["key"]: line["value"] for line in whole_run(tmp_path / "mllog.txt")}
    assert (values["submission_org"], values["submission_platform"]) == ('Some "Org"', "8xH100")


def test_rates_are_those_of_the_steps(tmp_path):
    warmed = LearningRateSettings(0.1, 32, warmup=WarmupSettings("gradual", 1), schedule=ScheduleSettings("none"))
    values = {line["key"]: line["value"] for line in whole_run(tmp_path / "mllog.txt", lr=warmed)}
    assert values["sgd_opt_base_learning_rate"] == values["sgd_opt_end_learning_rate"] == 0.8
    assert values["opt_learning_rate_warmup_epochs"] == 1
    unwarmed = LearningRateSettings(0.1, 32, warmup=WarmupSettings("none", 1))
    values = {line["key"]: line["value"] for line in whole_run(tmp_path / "none.txt", lr=unwarmed)}
    assert values["opt_learning_rate_warmup_epochs"] == 0


def test_a_real_run_and_one_in_two_parts(recipe, image_folder, tmp_path):
    options = ["--log.mllog", "true", "--evaluate.every_epochs", "1"]
    assert train(recipe, image_folder, tmp_path / "whole", *options) == 0
    assert train(recipe, image_folder, tmp_path / "parts", *options, "--epochs", "1") == 0
    assert cli.main(["train", "--run", str(tmp_path / "parts"), "--resume", "--epochs", "3"]) == 0
    said = [lines(tmp_path / name / "mllog.txt") for name in ("whole", "parts")]
    walks = [[(line["key"], line["value"]) for line in found if "sgd_opt" not in line["key"]] for found in said]
    assert walks[0] == walks[1]  # the schedule is that of the first part, which was to be shorter


def test_a_real_run_by_the_rules_but_that_its_network_makes_no_errors(recipe, image_folder, tmp_path):
    rates = ["--lr.reference", "0.1", "--lr.reference_batch", "20", "--lr.warmup.epochs", "0.5"]
    rates += ["--lr.schedule.milestones", "[1, 2, 2.5]", "--evaluate.every_epochs", "0.7", "--log.mllog", "true"]
    assert train(recipe, image_folder, tmp_path / "run", *rates) == 0
    path = tmp_path / "run" / "mllog.txt"
    said = lines(path)
    starts, stops = (
        [line["metadata"]["first_epoch_num"] for line in said if line["key"] == key]
        for key in ("block_start", "block_stop")
    )
    assert starts == stops and len(starts) > 2 and starts[1] % 1 > 0
    # Images of two colours are told apart always: let it be but almost.
    path.write_text(path.read_text().replace('"eval_accuracy", "value": 1.0', '"eval_accuracy", "value": 0.99'))
    status, text = check(path)
    assert status == 0, text


def test_a_log_that_a_job_has_left_before_its_run_began_is_begun_anew(tmp_path):
    path = tmp_path / "mllog.txt"
    opened(path).close()
    path.write_text(path.read_text() + '{"of": "somebody else"}\n')
    whole_run(path)
    assert check(path)[0] == 0


def test_without_the_package_it_is_said_before_any_work(recipe, image_folder, tmp_path):
    program = "import sys; sys.modules['mlperf_logging'] = None; from hvd_imagenet import cli; cli.console()"
    options = ["--config", recipe, "--data.path", image_folder, "--run", tmp_path / "run", "--log.mllog", "true"]
    command = [sys.executable, "-c", program, "train", *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 2
    assert "log.mllog: true; needs the package mlperf-logging: pip install" in done.stderr
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
