"""Studies as they go: what is run, skipped, stopped, killed and resumed; most of it with a stand-in for training."""

import json
import os
import shlex
import signal
import subprocess
import time

import psutil
import pytest
from jobs import PYTHON, Started, gloo, gone, steps_saved, until
from rich.console import Console
from runs import metrics
from studies import NAMES, STUDY, prepared, write_study

from hvd_imagenet import cli
from hvd_imagenet.errors import SettingsError
from hvd_imagenet.faults.lock import RunLock
from hvd_imagenet.host import own_cores
from hvd_imagenet.study import child, shares
from hvd_imagenet.study.display import Display
from hvd_imagenet.study.runner import Runner
from hvd_imagenet.study.shares import Share

PATIENCE = 600  # seconds for a few runs in earnest, on a machine that is busy

TABLE = """# A tiny study

| arm | global batch | learning rate | steps | runs | error % |
| --- | ---: | ---: | ---: | ---: | ---: |
| small | 20 | 0.125 | 8 | 2 of 2 | 10.50 ± 0.71 |
| large | 40 | 0.25 | 4 | 2 of 2 | 10.50 ± 0.71 |

"""


@pytest.fixture
def study(image_folder, tmp_path, monkeypatch):
    """Runs the command with the stand-in; the lines that it has noted."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRETENDED", str(tmp_path / "noted"))
    write_study(tmp_path)

    def run(*options, text=STUDY, **environment):
        (tmp_path / "noted").write_text("")
        write_study(tmp_path, text)
        for name in ("MEETS", "FAILS", "LINGERS", "SILENT", "LATE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        places = ["study.yaml", "--data.path", str(image_folder), "-o", "out", "--launcher", str(tmp_path / "pretends")]
        return cli.main(["study", *places, *options]), noted(tmp_path)

    return run


def noted(folder):
    return [line.split() for line in (folder / "noted").read_text().splitlines()]


def begun(lines):
    return [line[1] for line in lines if line[0] == "begin"]


def test_all_runs_one_after_the_other_and_the_table(study, tmp_path, capsys):
    status, lines = study()
    assert status == 0
    assert [line[:2] for line in lines] == [[kind, name] for name in NAMES for kind in ("begin", "end")]
    assert (tmp_path / "out" / "table.md").read_text().startswith(TABLE)
    said = capsys.readouterr().out
    assert "small/seed-0: begins\nsmall/seed-0: error 10.00 %; 1 of 4 runs done; 0:00:0" in said
    assert "small            20          0.125      8  2 of 2  10.50 ± 0.71" in said
    assert "Written: out/table.md" in said
    assert sorted(p.name for p in (tmp_path / "out" / "small").iterdir()) == [
        "seed-0",
        "seed-0.log",
        "seed-1",
        "seed-1.log",
        "settings.yaml",
    ]


def test_what_is_done_is_skipped_and_more_is_added(study, tmp_path):
    assert study()[0] == 0
    status, lines = study()
    assert (status, lines) == (0, [])
    status, lines = study(text=STUDY.replace("[0, 1]", "[0, 1, 2]").replace("arms:", "arms:\n  new: {epochs: 4}"))
    assert status == 0
    assert begun(lines) == ["new/seed-0", "new/seed-1", "new/seed-2", "small/seed-2", "large/seed-2"]
    assert "| large | 40 | 0.25 | 4 | 3 of 3 | 11.00 ± 1.00 |" in (tmp_path / "out" / "table.md").read_text()


def test_a_run_that_fails_does_not_stop_the_others(study, tmp_path, capsys):
    status, lines = study(FAILS="large/seed-0")
    assert (status, begun(lines)) == (1, NAMES)
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| small | 20 | 0.125 | 8 | 2 of 2 | 10.50 ± 0.71 |\n| large | 40 | 0.25 | 4 | 1 of 2 | 11.00 |" in table
    said = capsys.readouterr()
    assert "large/seed-0: failed: the loss is [not] finite; 1 of 4 runs done" in said.out
    assert said.err == (
        "hvd-imagenet: error: 1 of 4 runs failed: large/seed-0; why stands above, and more in out/large/seed-0.log; "
        "the same command tries again\n"
    )
    status, lines = study()
    assert (status, begun(lines)) == (0, ["large/seed-0"])
    assert (tmp_path / "out" / "table.md").read_text().startswith(TABLE)


def test_a_report_that_cannot_be_written_does_not_take_the_table_along(study, tmp_path, capsys):
    (tmp_path / "out" / "report.html").mkdir(parents=True)
    assert study()[0] == 2
    said = capsys.readouterr()
    assert "2 of 2  10.50 ± 0.71" in said.out and "out/report.html" in said.err
    assert (tmp_path / "out" / "table.md").read_text().startswith(TABLE)


def test_a_run_that_ends_without_a_word(study, capsys):
    assert study(SILENT="small/seed-1")[0] == 1
    said = capsys.readouterr().out
    assert "small/seed-1: failed: it ended with status 7, and has not said why; see out/small/seed-1.log; 2 of" in said


def test_where_no_run_has_a_result_there_is_no_table(study, tmp_path):
    text = STUDY.replace("[0, 1]", "[0]").replace("  large", "#")
    assert study(text=text, FAILS="small/seed-0")[0] == 1
    assert not (tmp_path / "out" / "table.md").exists()


def test_a_run_that_a_person_stops_waits_for_the_next_start(study, tmp_path, capsys):
    waits = "until [ -e out/small/seed-0/status.json ]; do sleep 0.05; done; touch out/small/seed-0/STOP"
    person = subprocess.Popen(["bash", "-c", waits])
    status, lines = study(LINGERS="small/seed-0")
    assert person.wait() == 0
    assert (status, begun(lines)) == (75, NAMES)
    said = capsys.readouterr()
    assert "small/seed-0: stopped; 0 of 4 runs done" in said.out
    assert said.err == "hvd-imagenet: stopped by somebody: small/seed-0; the same command goes on with them\n"
    assert begun(study()[1]) == ["small/seed-0"]


@pytest.fixture
def started(image_folder, tmp_path):
    """Starts the command as a process of its own."""
    jobs = []

    def start(*options, folder=tmp_path, text=STUDY, **environment):
        write_study(folder, text)
        places = [folder / "study.yaml", "--data.path", image_folder, "-o", folder / "out"]
        job = Started([*PYTHON, "study", *places, *options], folder / "out", PRETENDED=folder / "noted", **environment)
        jobs.append(job)
        return job

    yield start
    for job in jobs:
        job.kill()  # its runs are asked to end, then


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_on_and_the_study_goes_on_later(number, study, started, tmp_path):
    job = started("--launcher", tmp_path / "pretends", LINGERS="large/seed-0")
    job.until(lambda _: (tmp_path / "out" / "large" / "seed-0" / "status.json").exists())
    job.process.send_signal(number)
    assert job.end() == 75
    assert noted(tmp_path)[-1] == ["saved", "large/seed-0"]
    assert job.log().splitlines()[-1] == (
        f"hvd-imagenet: stopped, since the study got {number.name}, with 1 of 4 runs done; what was begun is saved: "
        "the same command goes on"
    )
    assert not (tmp_path / "out" / "large" / "seed-0" / "STOP").exists()
    assert not (tmp_path / "out" / "table.md").exists()
    status, lines = study()
    assert (status, begun(lines)) == (0, NAMES[1:])
    assert (tmp_path / "out" / "table.md").read_text().startswith(TABLE)


DEAF = """trap 'echo heard >>noted; $LAST' TERM; echo $$ >noted; for i in {1..900}; do sleep 0.1; done"""


def test_a_second_signal_ends_all_at_once(started, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = started("--launcher", shlex.join(["bash", "-c", DEAF]), LAST="true")
    job.until(lambda _: (tmp_path / "noted").exists())
    job.process.send_signal(signal.SIGINT)
    job.until(lambda _: "heard" in (tmp_path / "noted").read_text())
    time.sleep(1.1)  # until then it is the same request
    job.process.send_signal(signal.SIGINT)
    assert job.end() == 130
    until(lambda: (tmp_path / "noted").read_text().count("heard") > 1)
    psutil.Process(int((tmp_path / "noted").read_text().split()[0])).kill()


def test_a_study_that_is_killed_takes_its_runs_along(started, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = started("--launcher", shlex.join(["bash", "-c", DEAF]), LAST="exit")
    job.until(lambda _: (tmp_path / "noted").exists())
    job.kill()
    until(lambda: "heard" in (tmp_path / "noted").read_text())
    assert gone([int((tmp_path / "noted").read_text().split()[0])])


def test_a_run_whose_study_has_ended_does_not_begin(capsys):
    with pytest.raises(SystemExit) as ended:
        child.main("1", "", "true")
    assert "the study has ended before" in str(ended.value)


def test_runs_side_by_side_each_on_its_share(image_folder, tmp_path, monkeypatch):
    """Both of the first two are to have begun before either ends; the cores are told by the processes themselves."""
    monkeypatch.setenv("PRETENDED", str(tmp_path / "noted"))
    monkeypatch.setenv("MEETS", "2")
    folder = prepared(tmp_path, image_folder)
    core = min(os.sched_getaffinity(0))
    parts = [Share(frozenset({core}), "GPU-a"), Share(frozenset({core}), "GPU-b")]
    with Display(folder) as display:
        left = Runner(folder, [str(tmp_path / "pretends")], parts, display).run()
    assert (left.failed, left.stopped, left.asked) == ([], [], "")
    lines = [line for line in noted(tmp_path) if line[0] == "begin"]
    assert sorted(line[1] for line in lines) == sorted(NAMES)
    assert {line[2] for line in lines} == {f"cores={core}"}
    assert {line[3] for line in lines[:2]} == {"gpu=GPU-a", "gpu=GPU-b"}
    assert lines[0][4:] == ["--resume", "auto"]


@pytest.mark.parametrize(
    ("cores", "gpus", "visible", "expected"),
    [
        (range(4), 0, "", [({0, 1}, None), ({2, 3}, None)]),
        (range(5), 0, "", [({0, 1}, None), ({2, 3, 4}, None)]),
        (range(2), 2, None, [({0}, "0"), ({1}, "1")]),
        (range(2), 3, "GPU-x,5,7", [({0}, "GPU-x"), ({1}, "5")]),
        (range(1), 0, "", "--parallel: 2; there are 1 cores for as many runs; give 1"),
        (range(4), 1, None, "--parallel: 2; there are 1 GPUs for as many runs; give 1, or hide the GPUs: CUDA_VISIBLE"),
    ],
)
def test_the_machine_is_shared_out(cores, gpus, visible, expected, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(cores))
    monkeypatch.setattr(shares.gpu, "visible", lambda: gpus)
    monkeypatch.setattr(shares, "own_cores", lambda places, rank: own_cores(places, rank, in_order=sorted))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    if isinstance(expected, str):
        with pytest.raises(SettingsError, match=expected):
            shares.shares(2)
    else:
        assert [(set(share.cores), share.gpu) for share in shares.shares(2)] == expected
    assert shares.shares(1) == [Share()]


def test_a_run_that_another_job_is_at_is_waited_for(study, image_folder, tmp_path, capsys):
    """It ends there with a result; here, the others are trained meanwhile."""
    folder = prepared(tmp_path, image_folder)
    lock = RunLock(folder.path / "small" / "seed-0" / "lock")
    lock.acquire(print)
    waits = f"until grep -q 'end large/seed-1' {tmp_path}/noted; do sleep 0.05; done; "
    result = tmp_path / "out" / "small" / "seed-0" / "result.json"
    outcome = json.dumps(dict.fromkeys(("val_top1", "best_top1", "median5_top1"), 0.9))
    other = subprocess.Popen(["bash", "-c", waits + f"echo '{outcome}' >{result}"])
    status, lines = study()
    lock.release()
    assert other.wait() == 0
    assert (status, begun(lines)) == (0, NAMES[1:])
    said = capsys.readouterr().out
    assert said.count("small/seed-0: is in use by another job; waiting for it") == 1
    assert "small/seed-0: error 10.00 %; 4 of 4 runs done" in said
    assert (tmp_path / "out" / "table.md").read_text().startswith(TABLE)


def test_two_starts_at_once_share_the_runs(started, tmp_path):
    """Trained in earnest, so that it is the runs' own locks that keep them apart."""
    text = STUDY.replace("[0, 1]", "[0]")
    jobs = [started(text=text) for _ in range(2)]
    assert [job.end(PATIENCE) for job in jobs] == [0, 0], [job.log() for job in jobs]
    for name in NAMES[:2]:
        steps = [event["step"] for event in metrics(tmp_path / "out" / name, "step")]
        assert steps == list(range(1, 9 if "small" in name else 5))


def test_how_far_it_is_shows_on_a_terminal(image_folder, tmp_path, monkeypatch):
    """Of 4 runs of 160 samples each, 160 + 80 are seen after 10 s: the other 400 take 16.67 s."""
    folder = prepared(tmp_path, image_folder)
    clock = [100.0]
    monkeypatch.setattr("hvd_imagenet.study.display.time.monotonic", lambda: clock[0])
    with (tmp_path / "shown").open("w") as file:
        console = Console(file=file, force_terminal=True, width=100, color_system=None)
        with Display(folder, console) as display:
            runs = folder.study.runs()
            display.begin(runs[0])
            display.begin(runs[1])
            for run, seen in ((runs[0], 160), (runs[1], 80)):
                folder.run(run).mkdir()
                lines = f'{{"event": "step", "samples_seen": {seen}}}\n{{"event": "eval"}}\n{{"event": "st'
                (folder.run(run) / "metrics.jsonl").write_text(lines)
            clock[0] += 10
            display.end(runs[0], "error 9.00 %", done=True)
            display.update()
            display._bars.refresh()
    shown = (tmp_path / "shown").read_text()
    assert "small/seed-0: error 9.00 %; 1 of 4 runs done; 0:00:17 left" in shown
    assert "epoch 1.6 of 3" in shown


def table_and_losses(out):
    losses = [[event["loss"] for event in metrics(out / name, "eval")] for name in ("small/seed-0", "small/seed-1")]
    return (out / "table.md").read_text(), losses


@pytest.mark.long
def test_killed_in_the_middle_and_interrupted_it_ends_with_the_same_table(started, tmp_path):
    """In earnest: first killed with all of its processes in the first run, then asked to stop in the second."""
    # Long enough for a request to stop, which is looked for once in a second, to come before the end.
    more = "settings: {epochs: 80, checkpoint.every_steps: 5, evaluate.every_epochs: 8, lr.reference: 0.0005}\n"
    text = STUDY.replace("  large", "#") + more
    (tmp_path / "whole").mkdir()
    assert started(folder=tmp_path / "whole", text=text).end(PATIENCE) == 0
    one, two = (tmp_path / "out" / name for name in ("small/seed-0", "small/seed-1"))

    def in_the_middle(run):
        return lambda _: any(step >= 10 for step in steps_saved(run)) and not (run / "result.json").exists()

    job = started(text=text).until(in_the_middle(one), PATIENCE)
    below = psutil.Process(job.process.pid).children(recursive=True)
    job.process.kill()
    for process in below:
        process.kill()
    job.end()
    job = started(text=text).until(in_the_middle(two), PATIENCE)
    job.process.send_signal(signal.SIGINT)
    assert job.end() == 75, job.log()
    assert "with 1 of 2 runs done" in job.log()
    assert started(text=text).end(PATIENCE) == 0
    (table, losses), (other, others) = table_and_losses(tmp_path / "whole" / "out"), table_and_losses(tmp_path / "out")
    assert table == other and "2 of 2" in table
    assert losses == [pytest.approx(run, rel=1e-9) for run in others] and len(losses[0]) == 10
    for run in (one, two):
        assert len(metrics(run, "restart")) == 1


def test_each_run_on_two_workers_by_a_launcher(started, tmp_path):
    text = STUDY.replace("[0, 1]", "[0]").replace("  large", "#")
    launcher = shlex.join(map(str, gloo(2)))
    job = started("--launcher", launcher, text=text)
    assert job.end(PATIENCE) == 0, job.log() + (tmp_path / "out" / "small" / "seed-0.log").read_text()
    assert '"workers": 2' in (tmp_path / "out" / "small" / "seed-0" / "result.json").read_text()
    assert "1 of 1" in (tmp_path / "out" / "table.md").read_text()
