"""The search for settings of the all-reduce: its steps by hand, its jobs on two workers, and what it refuses."""

import math
import os

import pytest
import yaml

from hvd_imagenet import cli, settings
from hvd_imagenet.bench import jobs, tune
from hvd_imagenet.bench.figures import Figure
from hvd_imagenet.config import AllreduceSettings
from hvd_imagenet.errors import SettingsError

CYCLE = pytest.approx(1000 * (2 * 32 * 3 * 8_178_368_512 / 1e11 * 0.0001) ** 0.5)  # 40 ms, of 8 s on a core
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


def given(*options):
    return settings.parse(settings.parser("", ""), list(options))[0]


def test_it_begins_with_what_the_settings_come_to(monkeypatch):
    """An eighth of ResNet-50's 25,557,032 parameters, at 4 bytes, are 12.186 MiB; of ResNet-8's, less than 1."""
    monkeypatch.setattr(tune.gpu, "visible", lambda: 0)
    monkeypatch.delenv("HOROVOD_CYCLE_TIME", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3})
    assert tune.begins(given(), 4) == {"cycle_ms": CYCLE, "bucket_mib": 25_557_032 / 2 / 2**20}
    assert tune.begins(given("--precision", "float64"), 4) == {"cycle_ms": CYCLE, "bucket_mib": 25_557_032 / 2**20}
    assert tune.begins(given(), 1)["cycle_ms"] == pytest.approx(tune.begins(given(), 4)["cycle_ms"] / 2)
    assert tune.begins(given(*SMALL), 4) == {"cycle_ms": 5, "bucket_mib": 1}
    own = "--model.name", "mine:net", "--allreduce.cycle_ms", "20"
    assert tune.begins(given(*own), 2) == {"cycle_ms": 20}
    assert tune.begins(given(*own, "--allreduce.bucket_mib", "3"), 2) == {"cycle_ms": 20, "bucket_mib": 3}
    monkeypatch.setenv("HOROVOD_CYCLE_TIME", "0")
    with pytest.raises(SettingsError, match="HOROVOD_CYCLE_TIME: 0; cannot be doubled: unset it"):
        tune.begins(given(), 2)


@pytest.fixture
def ratios(monkeypatch):
    """In the place of measurements: the ratios that each of them comes to, in their order."""
    to_come, asked = [], []

    def ratio(self, one, other):
        asked.append((one, other))
        return Figure.of(to_come.pop(0))

    monkeypatch.setattr(tune.Duel, "ratio", ratio)
    monkeypatch.setattr(jobs, "most_workers", lambda: (2, "core"))
    return to_come, asked


def tuned(tmp_path, *options):
    return cli.main(["tune", *options, "-o", str(tmp_path / "tuned.yaml")])


def test_less_than_one_percent_is_not_worth_it(ratios, tmp_path, capsys):
    """ResNet-8's gradients fit into one bucket, of 0.5 MiB as of 2: only cycles are measured."""
    ratios[0][:] = [[1.009] * 6, [1.0, 1.2, 1.2, 1.2, 1.2, 1.2]]
    assert tuned(tmp_path, *SMALL) == 0
    assert [one.cycle_ms for one, _ in ratios[1]] == [10, 2.5] and not (tmp_path / "tuned.yaml").exists()
    assert "nothing is surely faster than cycle_ms default, bucket_mib default" in capsys.readouterr().out


def test_what_is_found_has_to_win_once_more(ratios, tmp_path, capsys):
    ratios[0][:] = [[1.2] * 6, [0.9] * 6, [1.005] * 6]
    assert tuned(tmp_path, *SMALL) == 0
    assert ratios[1][2] == (AllreduceSettings(10), AllreduceSettings()) and not (tmp_path / "tuned.yaml").exists()
    assert "nothing is surely faster" in capsys.readouterr().out


def test_a_file_that_cannot_be_written_loses_nothing(ratios, tmp_path, capsys, monkeypatch):
    ratios[0][:] = [[1.2] * 6, [0.9] * 6, [1.2] * 6]
    monkeypatch.setattr(tune, "_require_new", lambda file: file.write_text("another's"))
    assert tuned(tmp_path, *SMALL) == 1
    said = capsys.readouterr()
    assert "allreduce:\n  cycle_ms: 10.0\n" in said.out and "tuned.yaml: cannot be written (File exists)" in said.err
    assert (tmp_path / "tuned.yaml").read_text() == "another's"


def test_other_buckets_of_a_large_network_are_measured(ratios, tmp_path):
    """From 12 MiB to 24 and 6; the fixed cycle's 40 and 10 are tried before."""
    ratios[0][:] = [[1.0] * 6] * 4
    assert tuned(tmp_path, "--allreduce.cycle_ms", "20") == 0
    assert [(one.cycle_ms, round(one.bucket_mib or 0)) for one, _ in ratios[1]] == [(40, 0), (10, 0), (20, 24), (20, 6)]


def test_real_jobs_take_turns(tmp_path, monkeypatch, capsys):
    """A cycle of a second is so slow that half of it is surely faster, by one start of each."""
    for name, value in {"LEAST_STARTS": 1, "TURNS": 1, "FACTORS": (0.5,)}.items():
        monkeypatch.setattr(tune, name, value)
    monkeypatch.setattr(tune, "begins", lambda config, workers: {"cycle_ms": 1000})
    duel, calls = tune.Duel.__call__, []

    def once(*of):
        calls.append(of)
        return len(calls) == 1 and duel(*of)

    monkeypatch.setattr(tune.Duel, "__call__", once)
    options = [*SMALL, "--allreduce.cycle_ms", "1000", "--starts", "1", "--seconds", "0.1"]
    assert tuned(tmp_path, *options) == 0
    said = capsys.readouterr().out
    assert "cycle_ms 500, bucket_mib default: " in said and "goes on" in said
    assert yaml.safe_load((tmp_path / "tuned.yaml").read_text()) == {"allreduce": {"cycle_ms": 500.0}}
    assert f"give --config {tmp_path}/tuned.yaml behind" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "1"], "--workers: 1; this machine has 2 cores: give a number from 2 to that"),
        (["--workers", "3"], "--workers: 3; this machine has 2 cores: give a number from 2 to that"),
        (["--batch.global_size", "16"], "--workers: 2; batch.global_size 16 is 1 micro-batch of 16: give fewer"),
        (["--batch.forward_size", "auto"], "batch.forward_size: auto; give the number that is to be measured"),
        (["--starts", "5"], "--starts: 5; give 6 or more: fewer show nothing for sure"),
        (["--seconds", "0"], "--seconds: 0.0; give a number above 0"),
        (["--transport", "mpi,gloo"], "--transport: mpi,gloo; give one of gloo, mpi"),
        (["-o", "{there}"], "--output: {there}; exists: give another name, or remove it"),
        (["-o", "{there}/no/tuned.yaml"], "its folder does not exist"),
        (["-o", "resnet50_8k"], "--output: resnet50_8k; is the name of a recipe: give another one"),
    ],
)
def test_what_cannot_be_searched_is_refused(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jobs, "most_workers", lambda: (2, "core"))
    assert cli.main(["tune", *SMALL, *[option.format(there=tmp_path) for option in options]]) == 2
    assert message.format(there=tmp_path) in capsys.readouterr().err


def test_one_gpu_has_nothing_to_tune(monkeypatch, capsys):
    monkeypatch.setattr(jobs, "most_workers", lambda: (1, "GPU"))
    assert cli.main(["tune", *SMALL]) == 2
    assert "tune: gradients are summed over 2 workers or more, and this machine has 1 GPU" in capsys.readouterr().err


def test_it_is_not_for_a_worker(monkeypatch, capsys):
    monkeypatch.setenv("HOROVOD_RANK", "0")
    assert cli.main(["tune", *SMALL]) == 2
    assert "tune: starts its workers itself" in capsys.readouterr().err
