"""The schedule command: what it prints is the policy's plan, quickly and without a framework."""

import csv
import io
import subprocess
import sys

import pytest

from hvd_imagenet import cli


def rows(capsys, *arguments):
    assert cli.main(["schedule", *arguments, "--csv"]) == 0
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_the_papers_recipe_line_by_line(capsys):
    """eta = 0.1 * 8192 / 256 = 3.2, warmed up over S(5) = 5 * 1281167 = 6,405,835 samples, divided at 30, 60, 80."""
    plan = rows(capsys, "--config", "resnet50_8k")
    assert list(plan[0]) == ["step", "samples_seen", "epoch", "global_batch", "lr", "momentum_correction"]
    assert len(plan) == 14_076  # 90 * 1281167 / 8192 = 14075.3 steps
    assert {row["global_batch"] for row in plan} == {"8192"}
    for step, rate in [
        (0, 0.1),
        (391, 0.1 + 3.1 * 391 * 8192 / 6_405_835),  # mid-warmup
        (781, 0.1 + 3.1 * 781 * 8192 / 6_405_835),  # the last step that starts before epoch 5
        (782, 3.2),
        (4691, 3.2),
        (4692, 0.32),
        (9383, 0.32),
        (9384, 0.032),
        (12511, 0.032),
        (12512, 0.0032),
        (14075, 0.0032),
    ]:
        row = plan[step]
        assert (int(row["step"]), int(row["samples_seen"])) == (step, step * 8192)
        assert float(row["epoch"]) == step * 8192 / 1_281_167
        assert float(row["lr"]) == pytest.approx(rate, rel=1e-14)
    for step, epoch in ((781, 5), (4691, 30), (9383, 60), (12511, 80)):
        assert float(plan[step]["epoch"]) < epoch <= float(plan[step + 1]["epoch"])
    assert [float(plan[k]["momentum_correction"]) for k in (0, 783, 4692)] == pytest.approx([1, 1, 0.1], rel=1e-15)


def test_the_table(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert cli.main(["schedule", "--config", "resnet50_8k"]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert shown[1] == ["0.00", "to", "5.00", "782", "8,192", "256", "0.1", "to", "3.19619"]
    assert shown[2] == ["5.00", "to", "30.00", "3,910", "8,192", "256", "3.2"]
    assert shown[5] == ["80.00", "to", "90.00", "1,564", "8,192", "256", "0.0032"]
    assert shown[6][:2] == ["14,076", "steps"]


@pytest.mark.parametrize(("ending", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_the_picture(tmp_path, ending, magic):
    picture = tmp_path / f"plan{ending}"
    arguments = ["--config", "resnet50_8k", "--batch.global_size", "{0: 256, 5: 8192}", "--plot", str(picture)]
    assert cli.main(["schedule", *arguments]) == 0
    assert picture.read_bytes().startswith(magic) and picture.stat().st_size > 5000


def test_a_picture_that_cannot_be_written(capsys):
    assert cli.main(["schedule", "--config", "resnet50_8k", "--plot", "/nowhere/plan.png"]) == 2
    assert "--plot: /nowhere/plan.png; cannot be written" in capsys.readouterr().err


def test_neither_framework_nor_dali_is_loaded():
    program = "import sys; from hvd_imagenet import cli; cli.main(['schedule', '--config', 'resnet50_256'])"
    program += "; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "tensorflow", "keras", "nvidia.dali", "matplotlib"} & set(done.stdout.split())


def test_a_reader_that_stops_early():
    command = f"{sys.executable} -m hvd_imagenet.cli schedule --config resnet50_256 --csv | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stderr == "" and done.stdout.startswith("step,")
