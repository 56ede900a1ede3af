"""The report's file, and the command that writes it."""

import hashlib
import json
import os
import re
import subprocess
import sys
from base64 import b64encode
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_runs import make_run, write_evaluation
from runs import train

from hvd_imagenet import cli, report
from hvd_imagenet.errors import SettingsError

HOSTILE = [
    "<b>bold</b>",
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "<a href='javascript:alert(1)'>here</a>",
    "'\" onmouseover=alert(1) x='",
    "%{x} {{7*7}} {% raw %} $\\alpha$ \\u003c",
    "two\nlines\u2028and \u202ebackwards",
    "&lt;i&gt; & _this_",
]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    """A report in which everything that can be a text is a hostile one."""
    root = tmp_path_factory.mktemp("hostile")
    folders = []
    for number, text in enumerate(HOSTILE):
        name = text.replace("/", "∕")
        happened = [{"step": 100, "workers": 3, "reason": text, "time": text}]
        folder = make_run(
            root / name, epochs=4, seed=number, status="failed", restarts=happened, **{"model.name": text}
        )
        (folder / "status.json").write_text(json.dumps({"status": "failed", "reason": text}))
        write_evaluation(folder, HOSTILE)
        folders.append(folder)
    report.write(folders, root / "report.html", title=HOSTILE[2], names=HOSTILE)
    return root / "report.html"


class Parsed(HTMLParser):
    """Elements, their attributes, and the text outside of scripts and styles."""

    def __init__(self, file: Path):
        super().__init__()
        self.elements, self.attributes, self.texts, self.scripts = [], [], [], []
        self._inside = ""
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)
        self.attributes += attributes
        self._inside = tag

    def handle_data(self, data):
        {"script": self.scripts, "style": []}.get(self._inside, self.texts).append(data)


# The file


def test_texts_stay_texts(hostile):
    page = Parsed(hostile)
    assert page.elements.count("script") == 3 and not {"img", "b", "a", "i", "iframe"} & set(page.elements)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    shown = "".join(page.texts)
    assert all(text in shown for text in HOSTILE if text.isprintable())
    assert "two\\nlines\\u2028and \\u202ebackwards" in shown and "\u2028" not in hostile.read_text()


def test_only_the_pages_own_scripts_may_run(hostile):
    page = Parsed(hostile)
    policy = next(value for _, value in page.attributes if "default-src" in (value or ""))
    data, *scripts = (script for script in page.scripts if script.strip())
    assert json.loads(data)["error"]["data"]
    prints = [f"'sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts]
    assert len(prints) == 2 and re.search("script-src ([^;]*)", policy)[1].split() == prints
    assert "default-src 'none'" in policy and "http" not in policy


def test_a_table_has_a_caption_and_headings(hostile):
    page = Parsed(hostile)
    assert page.elements.count("caption") == page.elements.count("table") >= 4
    labelled = [value for name, value in page.attributes if name == "aria-label"]
    assert sum(label.endswith("epochs.") or "percent" in label for label in labelled) >= 6


# The command


def run_of(folder, **how):
    return make_run(folder, epochs=6, lines_per_epoch=2, **how)


def said(capsys, *arguments):
    status = cli.main(["report", *map(str, arguments)])
    return status, capsys.readouterr()


def test_a_run_has_its_report_in_its_folder_and_several_in_the_current_one(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = run_of(tmp_path / "runs/a"), run_of(tmp_path / "runs/b", seed=1)
    assert said(capsys, first)[0] == 0 and (first / "report.html").exists()
    status, told = said(capsys, first, second, first)
    assert (status, told.out) == (0, "report.html: 2 runs in 1 arm\n")
    status, told = said(capsys, "runs")  # a folder of runs, one of which holds a report by now
    assert (status, told.out, told.err) == (0, "runs/report.html: 2 runs in 1 arm\n", "")
    assert "<title>runs</title>" in (tmp_path / "runs/report.html").read_text()


def test_a_report_is_written_over_and_nothing_else(tmp_path, capsys):
    folder, file, picture = run_of(tmp_path / "a"), tmp_path / "r.html", tmp_path / "r.png"
    for _ in range(2):
        assert said(capsys, folder, "-o", file, "--png", picture)[0] == 0
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 20_000
    for path, option in ((file, "-o"), (picture, "--png")):
        path.write_text("my thesis, with figures of hvd-imagenet report")
        status, told = said(capsys, folder, "-o", file, "--png", picture)
        assert status == 2 and f"{option}: {path}; is there and no report" in told.err
        assert path.read_text().startswith("my thesis")
        path.unlink()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["nowhere"], 2, "report: nowhere; there is no such folder"),
        (
            ["empty"],
            2,
            "report: empty; no run in there (neither events in metrics.jsonl nor config.yaml and checkpoints); give",
        ),
        ([""], 2, "RUN: is empty; give the folder of a run"),
        (["a", "-o", "r.png"], 2, "-o: r.png; give a file that ends in .html"),
        (["a", "-o", ""], 2, "-o: is empty; give a file that ends in .html"),
        (["a", "--png", "r.html"], 2, "--png: r.html; give a file that ends in .png"),
        (["a", "-o", "no/where.html"], 2, "-o: no/where.html; cannot be written (No such file or directory)"),
        (["a", "-o", "folder.html"], 2, "-o: folder.html; cannot be written (Is a directory)"),
        ([], 2, "the following arguments are required: RUN"),
        (["a", "--pgn", "x"], 2, "unrecognized arguments: --pgn"),
        (["a", "other"], 3, "report: a and other are of different data sets (1,281,167 training images and 60,000)"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(tmp_path, capsys, monkeypatch, arguments, status, message):
    monkeypatch.chdir(tmp_path)
    run_of(tmp_path / "a")
    run_of(tmp_path / "other", **{"data.train_samples": 60_000})
    for name in ("empty", "folder.html"):
        (tmp_path / name).mkdir()
    found, told = said(capsys, *arguments)
    assert found == status and message in told.err and told.err.count("\n") == 1 and told.out == ""
    assert not (tmp_path / "report.html").exists()


def test_what_is_no_run_is_left_out_and_told(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_of(tmp_path / "a")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "b").mkdir()
    status, told = said(capsys, "a", "b", "notes.txt")
    assert (
        status == 0
        and told.err.startswith("warning: left out, since no run is in there (")
        and "b, notes.txt" in told.err
    )
    assert "b, notes.txt" in (tmp_path / "report.html").read_text()
    with pytest.raises(SettingsError):
        report.write([tmp_path / "b"], tmp_path / "r.html")


def test_a_run_that_has_only_begun(tmp_path, capsys):
    """As it is before the first line is logged, and while lines and checkpoints come."""
    folder = run_of(tmp_path / "a", status="running")
    (folder / "metrics.jsonl").unlink()
    assert said(capsys, folder, "-o", tmp_path / "r.html", "--png", tmp_path / "r.png")[0] == 0
    text = " ".join(Parsed(tmp_path / "r.html").texts)
    assert "a is still running: what is shown is up to epoch 0 of 6" in text and "a has not been evaluated yet" in text
    assert "Nothing has been logged yet" in text


def test_a_run_of_the_trainer(tmp_path, recipe, image_folder, capsys):
    assert train(recipe, image_folder, tmp_path / "a") == 0
    capsys.readouterr()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*") if path.is_file()}
    status, told = said(capsys, tmp_path / "a", "-o", tmp_path / "r.html")
    assert (status, told.err) == (0, "")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*") if path.is_file()} == before
    result = json.loads((tmp_path / "a/result.json").read_text())
    (row,) = report.table([tmp_path / "a"])
    assert row.mean == pytest.approx(100 * (1 - result["median5_top1"])) and row.name == "a"
    text = " ".join(Parsed(tmp_path / "r.html").texts)
    assert f"{row.mean:.2f}" in text and "To know beforehand" not in text
    data = json.loads(Parsed(tmp_path / "r.html").scripts[0])
    training, validation = data["error"]["data"]
    assert validation["x"] == pytest.approx([1.2, 2, 3.2]) and len(training["x"]) == 3


# Size and time


def cpu_seconds(*command):
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-m", "hvd_imagenet.cli", *map(str, command)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def twenty(root, arms, lines_per_epoch):
    """20 runs of 90 epochs in so many arms; those of an arm share their steps' lines."""
    for number in range(20):
        batch = 256 * (1 + number % arms)
        folder = make_run(root / f"run-{number}", seed=number, batch=batch, lines_per_epoch=min(lines_per_epoch, 8))
        if lines_per_epoch > 8 and number == 0:
            make_run(folder, seed=number, batch=batch, lines_per_epoch=lines_per_epoch)
        elif lines_per_epoch > 8:
            (folder / "metrics.jsonl").unlink()
            os.link(root / "run-0/metrics.jsonl", folder / "metrics.jsonl")
        write_evaluation(folder, [f"class {n}" for n in range(1000)], seed=number)
    return root


@pytest.mark.parametrize("arms", [4, 10, 20])
def test_twenty_runs_of_ninety_epochs_are_quick_and_small(tmp_path, arms):
    twenty(tmp_path / "runs", arms, lines_per_epoch=8)
    assert cpu_seconds("report", tmp_path / "runs", "-o", tmp_path / "r.html") < 3
    assert (tmp_path / "r.html").stat().st_size < 6e6


@pytest.mark.long
def test_twenty_runs_with_half_a_million_lines_are_quick_and_small(tmp_path):
    """5,000 steps per epoch, every 20th logged. Two cores share what is asked for: 3 seconds."""
    twenty(tmp_path / "runs", 10, lines_per_epoch=250)
    assert min(cpu_seconds("report", tmp_path / "runs", "-o", tmp_path / "r.html") for _ in range(2)) < 2 * 3
    assert (tmp_path / "r.html").stat().st_size < 6e6
