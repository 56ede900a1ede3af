"""The search for settings of the all-reduce: its steps by hand, its jobs on two workers, and what it refuses."""

import math

import pytest
import yaml

from hvd_imagenet import cli, settings
from hvd_imagenet.bench import jobs, tune
from hvd_imagenet.config import AllreduceSettings

BEGINS = {"cycle_ms": 5.0, "bucket_mib": 4.0}
SMALL = ["--model.name", "resnet8", "--model.classes", "10", "--data.image_size", "28", "--batch.micro_size", "16"]
SMALL += ["--batch.global_size", "32"]


def nearer(cycle, bucket, tried):
    """Faster is who is nearer to these, as ratios, and so by far; left out settings are those that it begins with."""

    def distance(allreduce):
        return abs(math.log2((allreduce.cycle_ms or 5) / cycle)) + abs(math.log2((allreduce.bucket_mib or 4) / bucket))

    def is_faster(challenger, best):
        tried.append((challenger.cycle_ms, challenger.bucket_mib))
        return distance(challenger) < distance(best)

    return is_faster


@pytest.mark.parametrize(
    ("cycle", "bucket", "found", "tried"),
    [
        (5, 4, (None, None), [(10, None), (2.5, None), (None, 8), (None, 2)]),
        (20, 4, (20, None), [(10, None), (20, None), (40, None), (20, 8), (20, 2)]),
        (2.5, 1, (2.5, 1), [(10, None), (2.5, None), (1.25, None), (2.5, 8), (2.5, 2), (2.5, 1), (2.5, 0.5)]),
    ],
)
def test_one_after_the_other_is_doubled_or_halved_while_that_is_faster(cycle, bucket, found, tried):
    really = []
    best = tune.search(AllreduceSettings(), BEGINS, nearer(cycle, bucket, really))
    assert (best.cycle_ms, best.bucket_mib) == found and really == tried


def test_only_what_has_changed_is_written():
    text = tune.recipe(AllreduceSettings(10.0, 3.0), AllreduceSettings(None, 3.0), "1.2 times as fast")
    assert text.startswith("# Found by hvd-imagenet tune: 1.2 times as fast.\n")
    assert yaml.safe_load(text) == {"allreduce": {"cycle_ms": 10.0}}


def test_what_it_finds_is_read_back_behind_a_recipe(tmp_path):
    file = tmp_path / "tuned.yaml"
    file.write_text(tune.recipe(AllreduceSettings(10.0, 0.5), AllreduceSettings(), "faster"))
    options = ["--config", "resnet50_8k", "--config", str(file)]
    config, _ = settings.parse(settings.parser("", ""), options)
    assert config.allreduce == AllreduceSettings(10.0, 0.5) and config.batch.global_size == 8192


def test_it_begins_with_what_the_settings_come_to(monkeypatch):
    """An eighth of ResNet-50's 25,557,032 parameters, at 4 bytes, are 12.186 MiB; of ResNet-8's, less than 1."""
    monkeypatch.setattr(tune.gpu, "visible", lambda: 0)
    monkeypatch.delenv("HOROVOD_CYCLE_TIME", raising=False)

    def begins(*options):
        return tune.begins(settings.parse(settings.parser("", ""), list(options))[0])

    assert begins() == {"cycle_ms": 5, "bucket_mib": 25_557_032 / 2 / 2**20}
    assert begins(*SMALL) == {"cycle_ms": 5, "bucket_mib": 1}
    assert begins("--allreduce.cycle_ms", "20", "--allreduce.bucket_mib", "3") == {"cycle_ms": 20, "bucket_mib": 3}


def test_real_jobs_take_turns(tmp_path, monkeypatch, capsys):
    """A cycle of a second is so slow that half of it is surely faster, and is found in however few rounds."""
    monkeypatch.setattr(tune, "begins", lambda config: {"cycle_ms": 1000})
    file = tmp_path / "tuned.yaml"
    options = [*SMALL, "--allreduce.cycle_ms", "1000", "--rounds", "2", "--seconds", "0.1", "-o", str(file)]
    calls = []

    def few(*given):
        calls.append(given)
        return len(calls) <= 2 and duel(*given)

    duel = tune.Duel.__call__
    monkeypatch.setattr(tune.Duel, "__call__", few)
    assert cli.main(["tune", *options]) == 0
    said = capsys.readouterr().out
    assert "cycle_ms 2000, bucket_mib default: 0." in said and "is left" in said
    assert "cycle_ms 500, bucket_mib default: 1." in said and "goes on" in said
    assert yaml.safe_load(file.read_text()) == {"allreduce": {"cycle_ms": 500.0}}
    assert f"give --config {file} last" in said.replace("\n", " ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "1"], "--workers: 1; gradients are summed over 2 or more, and this machine has 2 cores"),
        (["--workers", "3"], "--workers: 3; gradients are summed over 2 or more, and this machine has 2 cores"),
        (
            ["--batch.global_size", "16"],
            "--workers: 2; batch.global_size 16 is 1 micro-batch of 16: give fewer workers",
        ),
        (["--rounds", "0"], "--rounds: 0; give a number above 0"),
        (["--transport", "nccl"], "--transport: nccl; known: gloo, mpi"),
        (["-o", "{there}"], "--output: {there}; exists: give another name, or remove it"),
        (["-o", "{there}/no/tuned.yaml"], "its folder does not exist"),
    ],
)
def test_what_cannot_be_searched_is_refused(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jobs, "most_workers", lambda: (2, "core"))
    assert cli.main(["tune", *SMALL, *[option.format(there=tmp_path) for option in options]]) == 2
    assert message.format(there=tmp_path) in capsys.readouterr().err


def test_it_is_not_for_a_worker(monkeypatch, capsys):
    monkeypatch.setenv("HOROVOD_RANK", "0")
    assert cli.main(["tune", *SMALL]) == 2
    assert "tune: starts its workers itself" in capsys.readouterr().err
