"""A study's folder: what a second start finds done there, adds, or refuses to mix."""

import json

import pytest
import yaml
from conftest import make_image_folder
from studies import STUDY, prepared, write_study

from hvd_imagenet import cli, settings
from hvd_imagenet.errors import DataError, SettingsError
from hvd_imagenet.faults.lock import RunLock
from hvd_imagenet.study import definition
from hvd_imagenet.study.data import with_data


def begin(folder, number, contents=None):
    """A run as its own command would begin it; with a checkpoint, if there is to be one."""
    run = folder.study.runs()[number]
    path = folder.run(run)
    (path / "checkpoints" / "step-00000002").mkdir(parents=True)
    (path / "config.yaml").write_text(settings.dump(run.config))
    if contents:
        state = json.dumps({"config": {"data": {"contents": contents}}})
        (path / "checkpoints" / "step-00000002" / "state.json").write_text(state)
    return path


def finish(path):
    (path / "result.json").write_text('{"median5_top1": 0.5}')


def refused(*arguments, **overrides):
    with pytest.raises(SettingsError) as caught:
        prepared(*arguments, **overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_folder_says_what_the_study_is(image_folder, tmp_path):
    folder = prepared(tmp_path, image_folder)
    assert sorted(path.name for path in folder.path.iterdir()) == ["large", "lock", "small", "study.yaml"]
    config = settings.load(folder.path / "large" / "settings.yaml")
    assert (config.batch.global_size, config.lr.warmup.kind, config.data.train_samples) == (40, "none", 50)
    assert config.data.path == str(image_folder.resolve())
    written = definition.read(str(folder.path / "study.yaml"), {})
    assert with_data(written)[0].configs == folder.study.configs
    written = yaml.safe_load((folder.path / "study.yaml").read_text())
    assert written["settings"]["data.path"] == str(image_folder.resolve()) and written["seeds"] == [0, 1]


@pytest.mark.parametrize("damaged", ['{"median5_', "5", "null", '["median5_top1"]', '{"median5_top1": null}', "{}"])
def test_what_is_done_is_what_has_a_result(damaged, image_folder, tmp_path):
    folder = prepared(tmp_path, image_folder)
    finish(begin(folder, 2))
    begin(folder, 0)
    (begin(folder, 1) / "result.json").write_text(damaged)
    assert [run.name for run in folder.done()] == ["small/seed-1"]


@pytest.mark.parametrize("damaged", ["", "- 1", "3"])
def test_a_run_whose_settings_are_damaged_is_named(damaged, image_folder, tmp_path):
    path = begin(prepared(tmp_path, image_folder), 0)
    (path / "config.yaml").write_text(damaged)
    assert refused(tmp_path, image_folder) == (
        f"{path}/config.yaml: holds no settings; move that run away, or name another folder with -o"
    )


@pytest.mark.parametrize("name", ["study.yaml", "table.md", "report.html", "lock", "lock.old"])
def test_no_arm_is_called_as_what_the_study_itself_writes(name, image_folder, tmp_path):
    message = refused(tmp_path, image_folder, STUDY.replace("large", name))
    assert message.endswith(f": arm {name}: is how a file of the study's own is called; give another name")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (STUDY.replace("[0, 1]", "[0, 1, 7]"), 6),
        (STUDY.replace("[0, 1]", "[1, 0]"), 4),
        (STUDY.replace("arms:", "arms:\n  new: {batch.global_size: 48}"), 6),
        (STUDY.replace("tiny", "renamed"), 4),
        (STUDY + "settings: {log.every_steps: 5, checkpoint: {keep: 1}, data.threads: 1, faults.stall_seconds: 9}", 4),
    ],
)
def test_arms_seeds_and_what_changes_no_result_may_be_added(text, names, image_folder, tmp_path):
    before = prepared(tmp_path, image_folder)
    finish(begin(before, 0))
    begin(before, 1)
    after = prepared(tmp_path, image_folder, text)
    assert len(after.study.runs()) == names and [run.name for run in after.done()] == ["small/seed-0"]
    assert definition.read(str(after.path / "study.yaml"), {}).seeds == after.study.seeds


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (
            STUDY,
            {"epochs": 4},
            "epochs: was 3.0 in out/large/seed-0, and is 4.0; leave it as it was, move that run away, or",
        ),
        (
            STUDY.replace("none", "constant"),
            {},
            "lr.warmup.kind: was none in out/large/seed-0, and is constant; leave it",
        ),
        (STUDY + "settings: {model.zero_last_gamma: false}", {}, "model.zero_last_gamma: was True in out/large/seed-0"),
        (
            STUDY.replace("large", "huge"),
            {},
            "-o: out; holds large, which is not of this study; a study may get more arms",
        ),
        (
            STUDY.replace("[0, 1]", "[1]"),
            {},
            "-o: out; holds large/seed-0, which is not of this study; a study may get",
        ),
    ],
)
def test_what_has_begun_is_neither_lost_nor_mixed(text, overrides, message, image_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = prepared(tmp_path, image_folder)
    begin(prepared(tmp_path.relative_to(tmp_path), image_folder), 1)
    before = (folder.path / "study.yaml").read_text(), (folder.path / "large" / "settings.yaml").read_text()
    assert message in refused(tmp_path.relative_to(tmp_path), image_folder, text, **overrides)
    assert before == ((folder.path / "study.yaml").read_text(), (folder.path / "large" / "settings.yaml").read_text())


def test_arms_that_have_not_begun_may_be_changed(image_folder, tmp_path):
    begin(prepared(tmp_path, image_folder), 0)
    folder = prepared(tmp_path, image_folder, STUDY.replace("large", "huge").replace("40", "60"))
    assert list(folder.study.arms) == ["small", "huge"]


def test_a_setting_that_is_newer_than_a_run_had_its_default(image_folder, tmp_path):
    path = begin(prepared(tmp_path, image_folder), 0) / "config.yaml"
    known = yaml.safe_load(path.read_text())
    del known["model"]["zero_last_gamma"]
    path.write_text(yaml.safe_dump(known))
    prepared(tmp_path, image_folder)
    newer = STUDY + "settings: {model.zero_last_gamma: false}"
    assert "model.zero_last_gamma: was True in" in refused(tmp_path, image_folder, newer)


def test_the_data_may_move_but_not_change(image_folder, image_shards, tmp_path):
    """The same images may be packed meanwhile; what a run was trained on stands in its checkpoints."""
    folder = prepared(tmp_path, image_folder)
    begin(folder, 0, with_data(folder.study)[1]["small"])
    prepared(tmp_path, image_shards)
    other = make_image_folder(tmp_path / "other", 50, 23, size=(30, 30))
    message = refused(tmp_path, other)
    assert message.startswith(
        f"data.path: {other}; has other images than {folder.path}/small/seed-0 was trained on; give"
    )


@pytest.mark.parametrize(("kind", "name"), [("file", "notes.txt"), ("folder", "holiday"), ("file", "large")])
def test_a_folder_with_something_else_in_it_is_refused(kind, name, image_folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).mkdir() if kind == "folder" else (out / name).touch()
    message = refused(tmp_path, image_folder)
    assert message == f"-o: {out}; holds {name}, which is not of this study; name another folder with -o"
    assert [path.name for path in out.iterdir()] == [name]


def test_a_folder_that_is_none(image_folder, tmp_path):
    (tmp_path / "out").touch()
    assert refused(tmp_path, image_folder) == f"-o: {tmp_path}/out; is no folder; name another"


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (STUDY.replace("40", "400"), SettingsError, "arm large: batch.global_size: 400; the whole run is 150 samples"),
        (
            STUDY + "settings: {model.classes: 3}",
            DataError,
            "has 2 classes, but model.classes is 3; set model.classes to 2",
        ),
        (
            STUDY + "settings: {data.train_samples: 51}",
            DataError,
            "has 50 training images, but data.train_samples is 51",
        ),
    ],
)
def test_settings_are_held_against_the_data_before_any_run(text, error, message, image_folder, tmp_path):
    study = definition.read(str(write_study(tmp_path, text)), {"data.path": str(image_folder)})
    with pytest.raises(error, match=message):
        with_data(study)


def test_a_task_is_told_as_options_of_train(image_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["study", str(write_study(tmp_path)), "--data.path", str(image_folder), "-o", "out of it"]
    assert cli.main([*command, "--task", "3"]) == 0
    said = capsys.readouterr().out.splitlines()
    settings_file, run = "out of it/large/settings.yaml", "out of it/large/seed-1"
    assert said == ["--config", settings_file, "--seed", "1", "--run", run, "--resume", "auto"]
    assert settings.load(tmp_path / settings_file).batch.global_size == 40
    (tmp_path / run).mkdir()
    finish(tmp_path / run)
    assert cli.main([*command, "--task", "3"]) == 0
    assert capsys.readouterr().out == ""
    for task in ("4", "-1"):
        assert cli.main([*command, f"--task={task}"]) == 2
        assert f"--task: {task}; this study has 4 runs: give 0 to 3" in capsys.readouterr().err
    assert cli.main([*command, "--list"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[4][:3] == ["3", "large", "1"] and rows[4][-3:] == ["error", "50.00", "%"]


def test_a_task_that_waits_for_another_says_so_beside_its_options(image_folder, tmp_path, monkeypatch, capsys):
    """All tasks of an array begin at once, and each writes what the study is. The other ends while this one waits."""
    other = RunLock(tmp_path / "out" / "lock")
    other.acquire(print)
    monkeypatch.setattr("hvd_imagenet.faults.lock.time.sleep", lambda _: other.release())
    command = ["study", str(write_study(tmp_path)), "--data.path", str(image_folder), "-o", str(tmp_path / "out")]
    assert cli.main([*command, "--task", "0"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[0] == "--config" and len(said.out.splitlines()) == 8
    assert "is in use by" in said.err
