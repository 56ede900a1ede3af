"""Each class in an evaluation: counts by hand, the same from any number of workers, written and shown."""

import json
import math

import numpy as np
import pytest

from hvd_imagenet.evaluation.classes import Answers, Classes
from hvd_imagenet.evaluation.outcome import NAME, Outcome
from hvd_imagenet.report import accounts
from hvd_imagenet.stream import share
from hvd_imagenet.totals import Totals

NAMES = ["ant", "bee", "cat", "dog", "eel", "fox"]  # no image is of an eel
# Label and the first three answers.
ANSWERED = [
    (0, [0, 1, 2]),
    (0, [1, 0, 2]),  # among the first answers
    (0, [1, 2, 3]),  # nowhere
    (0, [2, 1, 3]),
    (1, [1, 0, 2]),
    (1, [1, 2, 3]),
    (2, [3, 4, 5]),
    (2, [2, 4, 5]),
    (3, [4, 3, 5]),
    (3, [3, 0, 1]),
    (3, [4, 0, 1]),
    (3, [3, 5, 1]),
    (5, [4, 5, 0]),
]


def classes(workers=1, batch=5):
    """What these answers make, shared out among workers, who get them batch by batch."""
    labels = np.array([label for label, _ in ANSWERED], np.int32)
    best = np.array([answers for _, answers in ANSWERED], np.int32)
    parts = []
    for rank in range(workers):
        start, end = share(len(labels), rank, workers)
        answers = Answers(labels[start:end], len(NAMES))
        for first in range(start, end, batch):
            answers.add(best[first : min(first + batch, end)])
        parts.append(answers.counts())
    return Classes(NAMES, parts)


def outcome(found, split="val"):
    totals = Totals(13 * 0.5, 6, 9, 13)
    return Outcome("best", 7, split, None, totals, found)


@pytest.mark.parametrize("shared_by", [1, 2, 3, 15])
def test_counts_by_hand(shared_by):
    found = classes(shared_by)
    assert list(found) == [
        ("ant", 4, 1, 2),
        ("bee", 2, 2, 2),
        ("cat", 2, 1, 1),
        ("dog", 4, 2, 3),
        ("fox", 1, 0, 1),
    ]
    worst = found.worst(20)
    assert [one.name for one, _ in worst] == ["fox", "ant", "dog", "cat"]  # dog and cat half each: more images first
    assert [one for _, of in worst for one in of] == [
        ("fox", "eel", 1, 1.0),
        ("ant", "bee", 2, 0.5),
        ("ant", "cat", 1, 0.25),
        ("dog", "eel", 2, 0.5),
        ("cat", "dog", 1, 0.5),
    ]
    assert found.worst(2) == worst[:2]


def test_of_many_confusions_the_most_frequent_are_told():
    labels = np.zeros(10, np.int32)
    answers = Answers(labels, 6)
    answers.add(np.array([[5], [5], [4], [3], [3], [2], [2], [2], [1], [0]]))
    [(ant, confusions)] = Classes(NAMES, [answers.counts()]).worst(20)
    assert (ant.count, ant.right) == (10, 1)
    assert [(one.taken_for, one.count) for one in confusions] == [("cat", 3), ("dog", 2), ("fox", 2)]


def test_the_table_is_what_the_report_reads(tmp_path):
    text = json.dumps(outcome(classes()).table(), allow_nan=False)
    said = json.loads(text)
    assert [said[key] for key in ("checkpoint", "step", "split", "loss", "count")] == ["best", 7, "val", 0.5, 13]
    assert (said["top1"], said["top5"]) == (6 / 13, 9 / 13)
    assert said["classes"][0] == {"name": "ant", "count": 4, "top1": 0.25, "top5": 0.5} and len(said["classes"]) == 5
    (tmp_path / "evaluation.json").write_text(text)
    found = accounts.read(tmp_path)
    assert [(one.name, one.top1) for one in found.evaluation.classes][:2] == [("ant", 0.25), ("bee", 1.0)]
    assert found.evaluation.confusions[1] == ("ant", "bee", 2, 0.5)
    assert (found.evaluation.checkpoint, found.evaluation.step, found.evaluation.split) == ("best", 7, "val")
    assert not any("evaluation" in note for note in found.notes)


def test_a_loss_that_is_not_finite_makes_no_broken_file():
    found = Outcome("last", 7, "val", None, Totals(math.nan, 6, 9, 13), classes())
    assert json.loads(json.dumps(found.table(), allow_nan=False))["loss"] is None


def test_the_text_by_hand():
    assert outcome(classes()).text(100).splitlines() == [
        "step 7  loss 0.5000  top1 46.15%  top5 69.23%  of 13 images",
        "",
        "worst classes  images   top1    top5  taken for",
        "fox                 1   0.0%  100.0%  eel 100.0%",
        "ant                 4  25.0%   50.0%  bee 50.0%, cat 25.0%",
        "dog                 4  50.0%   75.0%  eel 50.0%",
        "cat                 2  50.0%   50.0%  dog 50.0%",
    ]
    assert outcome(classes(), "train").text(100).splitlines()[0].endswith("of 13 training images")


def test_nothing_follows_where_every_image_is_recognised():
    answers = Answers(np.array([0, 1]), 6)
    answers.add(np.array([[0], [1]]))
    found = Outcome("last", 7, "val", None, Totals(1.0, 2, 2, 2), Classes(NAMES, [answers.counts()]))
    assert found.text(80) == "step 7  loss 0.5000  top1 100.00%  top5 100.00%  of 2 images"
    assert found.table()["confusions"] == []


@pytest.mark.parametrize("width", [40, 80, 120])
def test_names_that_would_do_harm_on_a_terminal(width):
    names = ["[bold red]x[/]", "\x1b[2J\nnext", "long " * 40, "深い海の魚" * 10, "\udc80", ":smile: \u202eabc"]
    found = Classes(names, [answers_of_all_wrong(6)])
    text = outcome(found).text(width)
    table = text.splitlines()[2:]
    assert "\x1b" not in text and "\u202e" not in text and "[bold red]" in text
    assert max(map(len, table)) <= width
    assert not [line for line in table if "next" in line and "\\x1b" not in line and "taken" in line]
    if width == 120:
        assert len(table) == 7  # a line for each
        assert f"{'long ' * 40}"[: NAME - 1] + "…" in text
        assert r"\udc80" in text and ":smile:" in text
    text.encode()
    json.dumps(outcome(found).table()).encode()


def answers_of_all_wrong(classes):
    answers = Answers(np.arange(classes), classes)
    answers.add(np.roll(np.arange(classes), 1)[:, None])
    return answers.counts()
