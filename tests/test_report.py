"""What the report reads from runs, also from unfinished, damaged and foreign ones, and how it compares them."""

import json
import os
import statistics
import time
from pathlib import Path

import pytest
import yaml
from report_runs import EVAL, STEP, make_run, write_evaluation, write_lines, write_settings

from hvd_imagenet import report
from hvd_imagenet.errors import DataError, SettingsError
from hvd_imagenet.report import accounts, arms, run


def simple(folder, *top1, status="done", seed=0, **settings):
    """A run of which nothing is known but its evaluations, one for each epoch."""
    folder.mkdir(parents=True)
    write_settings(folder, {"seed": seed, **settings})
    write_lines(
        folder, *({**EVAL, "step": 40 * n, "epoch": float(n), "top1": top} for n, top in enumerate(top1, start=1))
    )
    (folder / "status.json").write_text(json.dumps({"status": status, "reason": "worker 3 was lost"}))
    return folder


def runs(*folders):
    return run.read(list(folders))


# Small files


@pytest.mark.parametrize(
    ("status", "lock_age", "result", "word"),
    [
        ({"status": "done"}, None, {}, "done"),
        ({"status": "failed", "reason": "why"}, 0, {}, "failed"),
        ({"status": "running"}, accounts.LIFE_SECONDS - 30, {}, "running"),
        ({"status": "running"}, accounts.LIFE_SECONDS + 30, {}, "silent"),
        ({"status": "running"}, None, {}, "silent"),
        (None, None, {"val_top1": 0.5}, "done"),
        (None, None, None, "unknown"),
        ({"status": "on holiday"}, 0, None, "unknown"),
        (["no", "table"], 0, None, "unknown"),
    ],
)
def test_what_has_become_of_a_run_is_said_honestly(tmp_path, status, lock_age, result, word):
    for name, said in (("status", status), ("result", result)):
        if said is not None:
            (tmp_path / f"{name}.json").write_text(json.dumps(said))
    if lock_age is not None:
        (tmp_path / "lock").write_text("")
        os.utime(tmp_path / "lock", (time.time() - lock_age,) * 2)
    state = accounts.read(tmp_path).state
    assert state.word == word and (word != "failed" or state.reason == "why")


@pytest.mark.parametrize(
    "text",
    [
        "epochs: [",
        "- 1\n- 2",
        "",
        "\x00",
        "epochs: !!python/object:os.system {}",
        "epochs: &a [*a]",
        "model: &a {kwargs: *a}",
        "model: {kwargs: {? [1, 2] : 3}}",
    ],
)
def test_settings_that_cannot_be_read_are_told(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    found = accounts.read(tmp_path)
    assert found.settings is None and len(found.notes) == 1
    assert found.notes[0].startswith("config.yaml cannot be read (") and "\n" not in found.notes[0]


def test_settings_of_older_and_newer_versions_are_compared(tmp_path):
    for name, given in (("old", {"epochs": 90}), ("new", {"epochs": 90.0, "data.mixup": 0.2, "seed": 5})):
        (tmp_path / name).mkdir()
        write_settings(tmp_path / name, given)
    old, new = (accounts.read(tmp_path / name).settings for name in ("old", "new"))
    assert old["optimizer.momentum"] == 0.9  # a default, which the file does not have
    assert [key for key in new if new[key] != old.get(key)] == ["seed", "data.mixup"]


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"classes": [1]}', '{"classes": [{"name": "a", "top1": "b"}]}', "9" * 9999]
)
def test_an_evaluation_that_cannot_be_read_is_told(tmp_path, text):
    (tmp_path / "config.yaml").write_text("epochs: 3")
    (tmp_path / "evaluation.json").write_text(text)
    found = accounts.read(tmp_path)
    assert found.evaluation is None and "evaluation.json cannot be read" in found.notes[0]


def test_a_checkpoint_that_cannot_be_read_is_told(tmp_path):
    simple(tmp_path / "a", 0.5)
    (tmp_path / "a/checkpoints/step-00000040").mkdir(parents=True)
    (tmp_path / "a/checkpoints/step-00000040/state.json").write_text('{"format": 9}')
    (one,) = runs(tmp_path / "a")
    assert any("step-00000040/state.json cannot be read" in note for note in one.notes)


# A run


def test_errors_are_of_the_last_the_best_and_the_median_of_the_last_five(tmp_path):
    (one,) = runs(simple(tmp_path / "a", 0.90, 0.10, 0.50, 0.20, 0.40, 0.30))
    assert one.errors == pytest.approx((70, 10, 70))  # of 10, 50, 20, 40, 30 per cent the median is 30
    assert (one.steps, one.epoch) == (240, 6)


def test_the_errors_of_a_run_that_is_done_are_those_of_its_result(tmp_path):
    folder = simple(tmp_path / "a", 0.5)
    (folder / "result.json").write_text(json.dumps({"val_top1": 0.6, "best_top1": 0.7, "median5_top1": 0.65}))
    assert runs(folder)[0].errors == pytest.approx((40, 30, 35))
    (folder / "status.json").write_text(json.dumps({"status": "stopped"}))  # resumed since, for more epochs
    assert runs(folder)[0].errors == pytest.approx((50, 50, 50))


def test_what_to_know_of_a_run(tmp_path):
    folder = simple(tmp_path / "a", status="failed")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(STEP) + "\nrubbish\nmore\n{")
    assert runs(folder)[0].notes == [
        "2 lines of metrics.jsonl cannot be read and are left out",
        "the last line of metrics.jsonl is cut short and left out",
        "has failed (worker 3 was lost): what is shown is up to epoch 0.5 of 90",
        "has not been evaluated yet",
    ]


def test_numbers_beyond_all_measure_are_none(tmp_path):
    folder = simple(tmp_path / "a", 0.5, status="stopped", epochs=10**400, **{"data.train_samples": 10**400})
    other = simple(tmp_path / "b", 0.5, **{"data.train_samples": float("nan")})
    (other / "result.json").write_text(json.dumps({"wall_seconds": 1e99, "val_top1": 0.5}))
    report.write([folder, other], tmp_path / "r.html")
    assert "has stopped (worker 3 was lost): what is shown is up to epoch 1<" in (tmp_path / "r.html").read_text()


def test_runs_are_known_by_as_much_of_their_paths_as_it_takes(tmp_path):
    folders = [simple(tmp_path / name, 0.5) for name in ("x/seed-0", "y/seed-0", "y/seed-1")]
    assert [one.label for one in runs(*folders)] == ["x/seed-0", "y/seed-0", "y/seed-1"]
    assert [one.label for one in runs(*folders[1:])] == ["seed-0", "seed-1"]


def test_runs_are_found_in_folders_and_studies_once(tmp_path):
    folders = [simple(tmp_path / name, 0.5) for name in ("study/arm-a/seed-0", "study/arm-b/seed-0", "lone")]
    (tmp_path / "study/study.yaml").write_text("")
    (tmp_path / "study/report.html").write_text("")
    (tmp_path / "empty").mkdir()
    found = run.find([tmp_path / name for name in ("study", "empty", "lone", "study/../lone", "study/arm-a")])
    assert found.paths == folders and found.arms == ["arm-a", "arm-b", None]
    assert len(found.notes) == 1 and "empty" in found.notes[0]


def test_runs_come_in_the_order_that_people_number_them_in(tmp_path):
    names = ["arm-2/seed-9", "arm-2/seed-10", "arm-10/seed-1", "arm-10/seed-²"]
    for name in reversed(names):
        simple(tmp_path / name, 0.5)
    assert run.find([tmp_path]).paths == [tmp_path / name for name in names]


def test_what_in_a_folder_cannot_be_read_is_left_out_and_told(tmp_path, monkeypatch):
    good, closed = simple(tmp_path / "runs/good", 0.5), simple(tmp_path / "runs/closed", 0.5)
    read = Path.open

    def opened(path, *how):
        if path.parent == closed:
            raise PermissionError(13, "Permission denied")
        return read(path, *how)

    monkeypatch.setattr(Path, "open", opened)
    found = run.find([tmp_path / "runs"])
    assert found.paths == [good] and found.notes == [f"left out: {closed} cannot be read (Permission denied)"]
    with pytest.raises(SettingsError, match="closed; cannot be read \\(Permission denied\\)"):
        run.find([good, closed])
    (good / "metrics.jsonl").unlink()
    with pytest.raises(
        SettingsError, match="no run in there .*; .*closed cannot be read \\(Permission denied\\); give"
    ):
        run.find([tmp_path / "runs"])


@pytest.mark.parametrize(("name", "said"), [("nowhere", "there is no such folder"), ("empty", "no run in there")])
def test_a_report_on_nothing(tmp_path, name, said):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError, match=said):
        run.find([tmp_path / name])
    with pytest.raises(SettingsError, match="no run is in there yet"):
        report.write([tmp_path / name], tmp_path / "r.html")


def test_the_folders_of_strangers_hold_no_runs(tmp_path):
    """Others call their files so, too."""
    (tmp_path / "config.yaml").write_text("trainer: another\n")
    (tmp_path / "metrics.jsonl").write_text('{"loss": 1.0}\n')
    assert not run.is_run(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("rubbish\n" + json.dumps(STEP))
    assert run.is_run(tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    assert not run.is_run(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    assert run.is_run(tmp_path)


def test_a_folder_that_cannot_be_read(tmp_path):
    with pytest.raises(SettingsError, match="cannot be read \\(File name too long\\)"):
        run.find([tmp_path / ("x" * 300)])
    (tmp_path / "metrics.jsonl").mkdir()
    assert not run.is_run(tmp_path)
    with pytest.raises(SettingsError, match="cannot be read \\(Is a directory\\)"):
        runs(tmp_path)


# Arms


def test_runs_that_differ_in_seed_and_places_are_one_arm(tmp_path):
    large = {"batch.global_size": 1024}
    folders = [
        simple(tmp_path / "a", 0.5, seed=0),
        simple(tmp_path / "b", 0.5, seed=1, **large),
        simple(tmp_path / "c", 0.5, seed=2, **{"data.path": "/elsewhere", "data.cache_dir": "/tmp/x"}),
        simple(tmp_path / "d", 0.5, seed=3, **large),
    ]
    found = arms.group(runs(*folders))
    assert [(arm.name, [one.label for one in arm.runs]) for arm in found] == [
        ("global_size 256", ["a", "c"]),
        ("global_size 1024", ["b", "d"]),
    ]


def test_an_arm_is_named_by_few_settings_and_else_by_its_folder(tmp_path):
    many = {"batch.global_size": 512, "epochs": 30, "optimizer.momentum": 0.8, "precision": "bf16"}
    folders = [simple(tmp_path / "a", 0.5), simple(tmp_path / "b", 0.5, **many)]
    assert [arm.name for arm in arms.group(runs(*folders))] == ["a", "b"]
    del many["precision"]
    folders[1] = simple(tmp_path / "c", 0.5, **many)
    names = [arm.name for arm in arms.group(runs(*folders))]
    assert names == ["global_size 256, momentum 0.9, epochs 90", "global_size 512, momentum 0.8, epochs 30"]
    assert [arm.name for arm in arms.group(runs(folders[0]))] == ["a"]
    folders[1] = simple(tmp_path / "d", 0.5, seed=1)
    assert [arm.name for arm in arms.group(runs(*folders))] == ["resnet50"]


def test_keys_are_as_short_as_they_can_be():
    keys = ["lr.warmup.kind", "lr.schedule.kind", "epochs", "lr.warmup.epochs", "batch.micro_size", "model.name"]
    assert list(arms.short(keys).values()) == [
        "warmup.kind",
        "schedule.kind",
        "epochs",
        "warmup.epochs",
        "micro_size",
        "model.name",
    ]


def test_a_run_of_unknown_settings_is_an_arm_of_its_own_and_makes_no_difference(tmp_path):
    folders = [simple(tmp_path / name, 0.5, epochs=epochs) for name, epochs in (("a", 3), ("b", 4), ("c", 3), ("d", 4))]
    for folder in folders[2:]:
        (folder / "config.yaml").unlink()
    found = arms.group(runs(*folders))
    assert [arm.name for arm in found] == ["epochs 3", "epochs 4", "c", "d"]
    assert arms.differing([arm.settings for arm in found]) == ["epochs"]


def test_names_that_are_given_decide_and_what_they_hide_is_told(tmp_path):
    folders = [
        simple(tmp_path / "a", 0.5, epochs=3),
        simple(tmp_path / "b", 0.5, epochs=4),
        simple(tmp_path / "c", 0.5),
    ]
    found = arms.group(runs(*folders), ["x", "x", "y"])
    assert [(arm.name, len(arm.runs)) for arm in found] == [("x", 2), ("y", 1)]
    assert arms.warnings(found) == ["x: its runs differ in epochs"]


def test_the_table_by_hand(tmp_path):
    """Medians 0.40, 0.42, 0.47: errors 60, 58, 53; mean 57, variance (9 + 1 + 16) / 2 = 13."""
    tops = (0.40, 0.42, 0.47)
    folders = [simple(tmp_path / f"{n}", 0.1, *5 * [top], seed=n) for n, top in enumerate(tops)]
    folders += [simple(tmp_path / "not-done", 0.9, seed=9, status="running")]
    folders += [simple(tmp_path / "alone", 0.7, epochs=3), simple(tmp_path / "new", 0.7, epochs=4, status="failed")]
    first, second, third = report.table(folders)
    assert (first.runs, first.mean, first.std) == (4, pytest.approx(57), pytest.approx(13**0.5))
    assert first.values == pytest.approx([60, 58, 53]) and first.std == pytest.approx(statistics.stdev(first.values))
    assert (second.name, second.runs, second.mean, second.std) == ("epochs 3", 1, pytest.approx(30), None)
    assert (third.runs, third.mean, third.std, third.values) == (1, None, None, [])
    assert [row.name for row in report.table(folders, ["x", "x", "x", "x", "y", "y"])] == ["x", "y"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data.train_samples": 50_000}, "1,281,167 training images and 50,000"),
        ({"model.classes": 100}, "1,000 classes and 100"),
        ({"count": 10_000}, "23 validation images and 10,000"),
    ],
)
def test_runs_of_different_data_sets_are_refused(tmp_path, change, said):
    folders = [simple(tmp_path / "a", 0.5), simple(tmp_path / "b", 0.5, **change)]
    if "count" in change:
        write_lines(folders[1], {**EVAL, **change})
    with pytest.raises(DataError, match=f"a and b are of different data sets \\({said}") as caught:
        report.table(folders)
    assert caught.value.exit_code == 3


def test_training_sets_that_may_be_others_are_told(tmp_path):
    folders = [simple(tmp_path / name, 0.5) for name in "abc"]
    for folder, contents in zip(folders, ("11aa", "22bb", "11aa"), strict=True):
        (folder / "checkpoints/step-00000040").mkdir(parents=True)
        saved = {"config": {"data": {"contents": contents}}}
        (folder / "checkpoints/step-00000040/state.json").write_text(json.dumps(saved))
    assert arms.warnings(arms.group(runs(*folders[::2]))) == []
    (told,) = arms.warnings(arms.group(runs(*folders)))
    assert "different checksums" in told and "b (22bb)" in told


def test_the_made_up_runs_are_as_the_trainer_leaves_them(tmp_path):
    """So that the tests with them are worth something: read by the project's own readers."""
    from hvd_imagenet import settings
    from hvd_imagenet.metrics import lines as metrics
    from hvd_imagenet.metrics import result

    folder = make_run(tmp_path / "a", epochs=6)
    assert settings.load(folder / "config.yaml").epochs == 6
    evaluations = [event for event in metrics.read(folder / "metrics.jsonl") if event["event"] == "eval"]
    said = json.loads((folder / "result.json").read_text())
    assert result.accuracies(evaluations)["median5_top1"] == pytest.approx(said["median5_top1"])
    write_evaluation(folder, ["a", "b"])
    assert accounts.read(folder).evaluation.confusions[0].taken_for == "b"
    assert yaml.safe_load((folder / "config.yaml").read_text())["batch"]["global_size"] == 8192
