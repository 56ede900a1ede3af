"""What a study's file says: the arms and runs that it makes, the shipped ones against the paper, and every mistake."""

import functools
import shlex

import pytest
import yaml
from studies import STUDY, write_study
from test_readme import README

from hvd_imagenet import cli
from hvd_imagenet.errors import SettingsError
from hvd_imagenet.report import Row
from hvd_imagenet.study import definition, outcome


def read(folder, text=STUDY, **overrides):
    given = {key.replace("__", "."): value for key, value in overrides.items()}
    return definition.read(str(write_study(folder, text)), given)


@functools.cache
def shipped(name):
    return definition.read(name, {})


def test_every_arm_is_trained_with_every_seed(tmp_path):
    study = read(tmp_path, epochs=4)
    runs = study.runs()
    assert [run.name for run in runs] == ["small/seed-0", "large/seed-0", "small/seed-1", "large/seed-1"]
    assert [run.config.seed for run in runs] == [0, 0, 1, 1]
    sizes = [(run.config.batch.global_size, run.config.lr.warmup.kind, run.config.epochs) for run in runs[:2]]
    assert sizes == [(20, "gradual", 4), (40, "none", 4)]  # of the base, the arm and the command line
    assert (study.name, study.title, runs[0].config.lr.reference_batch) == ("study", "A tiny study", 8)


def test_settings_come_after_the_base_and_before_the_arms(tmp_path):
    text = STUDY + "settings: {lr: {warmup.kind: constant, reference: 0.25}, batch.micro_size: 10}\n"
    small, large = read(tmp_path, text).configs.values()
    assert (small.lr.warmup.kind, large.lr.warmup.kind) == ("constant", "none")
    assert small.lr.reference == large.lr.reference == 0.25 and small.batch.micro_size == 10
    assert small.lr.warmup.epochs == 1  # of the base: groups of settings do not replace each other


GRID = """
base: recipe.yaml
grid: {lr.reference: [0.1, 0.05], batch.global_size: [20, 40], lr.warmup.epochs: [1]}
seeds: [5]
"""


def test_a_grid_makes_an_arm_of_each_combination(tmp_path):
    configs = read(tmp_path, GRID).configs
    rates = {name: (config.lr.reference, config.batch.global_size) for name, config in configs.items()}
    assert rates == {
        "reference=0.1,global_size=20,epochs=1": (0.1, 20),
        "reference=0.1,global_size=40,epochs=1": (0.1, 40),
        "reference=0.05,global_size=20,epochs=1": (0.05, 20),
        "reference=0.05,global_size=40,epochs=1": (0.05, 40),
    }


def test_a_grid_names_keys_whole_where_their_last_parts_are_the_same(tmp_path):
    text = "grid: {lr.warmup.epochs: [1, 2], epochs: [3]}\nseeds: [0]"
    assert list(read(tmp_path, text).arms) == ["lr.warmup.epochs=1,epochs=3", "lr.warmup.epochs=2,epochs=3"]


def test_arms_and_a_grid_are_combined(tmp_path):
    study = read(tmp_path, STUDY + "grid: {framework: [torch, keras]}\n")
    assert list(study.arms) == [f"{arm},framework={name}" for arm in ("small", "large") for name in ("torch", "keras")]
    assert study.arms["large,framework=keras"] == {
        "batch.global_size": 40,
        "lr.warmup.kind": "none",
        "framework": "keras",
    }


@pytest.mark.parametrize("text", [STUDY, GRID])
def test_a_study_is_read_back_as_it_was_written(text, tmp_path):
    study = read(tmp_path, text, data__path="/data", model__kwargs={})
    (tmp_path / "other.yaml").write_text(study.dump())
    again = definition.read(str(tmp_path / "other.yaml"), {})
    assert (again.configs, again.arms, again.seeds, again.title) == (
        study.configs,
        study.arms,
        study.seeds,
        study.title,
    )


@pytest.mark.parametrize("name", definition.study_names())
def test_every_study_that_comes_with_the_package_is_right(name):
    study = shipped(name)
    assert len(study.seeds) >= 3 and study.title != name
    small = name.endswith("_small")
    for arm, config in study.configs.items():
        assert config.batch.micro_size == 32
        assert study.policy(arm).total_steps > 100
        assert (config.model.name, config.data.train_samples) == (
            ("resnet8", 60_000) if small else ("resnet50", 1_281_167)
        )
        assert small or config.epochs == 90
    assert small or len(study.seeds) == 5


def test_each_study_is_there_for_imagenet_and_for_two_cores():
    names = {"warmup", "scaling_rule", "gamma_init", "batch_size", "batch_ramp"}
    assert set(definition.study_names()) == names | {f"{name}_small" for name in names}


# Of each arm: global batch, learning rate of the first step and after the warmup, and gamma at the beginning.
PAPER = {
    "warmup": {
        "baseline": (256, 0.1, 0.1, 0),
        "none": (8192, 3.2, 3.2, 0),
        "constant": (8192, 0.1, 3.2, 0),
        "gradual": (8192, 0.1, 3.2, 0),
    },
    "scaling_rule": {
        "256-0.05": (256, 0.05, 0.05, 0),
        "256-0.1": (256, 0.1, 0.1, 0),
        "256-0.2": (256, 0.2, 0.2, 0),
        "8k-linear-0.05": (8192, 0.05, 1.6, 0),
        "8k-linear-0.1": (8192, 0.1, 3.2, 0),
        "8k-linear-0.2": (8192, 0.2, 6.4, 0),
        "8k-fixed-0.1": (8192, 0.1, 0.1, 0),
        "8k-sqrt-0.1": (8192, 0.1, 0.1 * 32**0.5, 0),
    },
    "gamma_init": {
        "256-gamma-1": (256, 0.1, 0.1, 1),
        "256-gamma-0": (256, 0.1, 0.1, 0),
        "8k-gamma-1": (8192, 0.1, 3.2, 1),
        "8k-gamma-0": (8192, 0.1, 3.2, 0),
    },
    "batch_size": {
        "global_size=128": (128, 0.05, 0.05, 0),
        "global_size=256": (256, 0.1, 0.1, 0),
        "global_size=512": (512, 0.1, 0.2, 0),
        "global_size=1024": (1024, 0.1, 0.4, 0),
        "global_size=2048": (2048, 0.1, 0.8, 0),
        "global_size=4096": (4096, 0.1, 1.6, 0),
        "global_size=8192": (8192, 0.1, 3.2, 0),
        "global_size=16384": (16384, 0.1, 6.4, 0),
        "global_size=32768": (32768, 0.1, 12.8, 0),
        "global_size=65536": (65536, 0.1, 25.6, 0),
    },
}
IMAGENET = 1_281_167


@pytest.mark.parametrize("name", PAPER)
def test_the_studies_for_imagenet_have_the_papers_values(name):
    study = shipped(name)
    assert list(study.configs) == list(PAPER[name])
    for arm, (batch, first, peak, gamma) in PAPER[name].items():
        config, policy = study.configs[arm], study.policy(arm)
        after = 5 * IMAGENET
        assert policy.global_batch(0) == policy.global_batch(after) == batch, arm
        assert (policy.learning_rate(0), policy.learning_rate(after)) == pytest.approx((first, peak)), arm
        for epoch, factor in ((29.99, 1), (30.01, 0.1), (59.99, 0.1), (60.01, 0.01), (79.99, 0.01), (80.01, 0.001)):
            assert policy.learning_rate(int(epoch * IMAGENET)) == pytest.approx(factor * peak), arm
        assert config.model.zero_last_gamma == (gamma == 0)
        assert (config.optimizer.momentum, config.optimizer.weight_decay) == (0.9, 1e-4)
        assert (config.data.augment, config.data.image_size) == ("random_resized_crop", 224)


def test_the_warmup_is_what_tables_arms_differ_in():
    """Half way through the five epochs: the reference, or half of the way to the target."""
    study = shipped("warmup")
    half = {arm: study.policy(arm).learning_rate(5 * IMAGENET // 2) for arm in study.arms}
    expected = {"baseline": 0.1, "none": 3.2, "constant": 0.1, "gradual": (0.1 + 3.2) / 2}
    assert half == pytest.approx(expected, rel=1e-6)


def test_the_two_ways_in_which_a_batch_grows():
    study = shipped("batch_ramp")
    assert list(study.arms) == ["fixed", "early", "decay"]
    early, decay = study.policy("early"), study.policy("decay")
    # Of the epoch: batch and rate. The linear rule: 0.1 for each 256.
    expected = [(0.01, 256, 0.1), (1.01, 512, 0.2), (2.01, 1024, 0.4), (3.01, 2048, 0.8), (4.01, 4096, 1.6)]
    expected += [(5.01, 8192, 3.2), (29.9, 8192, 3.2), (30.1, 8192, 0.32)]
    for epoch, batch, rate in expected:
        samples = int(epoch * IMAGENET)
        assert early.global_batch(samples) == batch
        assert early.learning_rate(samples) == pytest.approx(rate)
    # Twice the batch in the place of half of the rate; the rest of the factor 10 from the rate.
    for epoch, batch, rate in [(5.01, 8192, 3.2), (29.9, 8192, 3.2), (30.1, 16384, 0.64), (60.1, 16384, 0.064)]:
        samples = int(epoch * IMAGENET)
        assert decay.global_batch(samples) == batch
        assert decay.learning_rate(samples) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3", "study.yaml: holds no study; give base, arms and seeds"),
        ("[base", "study.yaml; not valid YAML ("),
        (
            STUDY + "seed: 3\n",
            "study.yaml: seed: unknown key of a study; did you mean seeds?; a study has title, base,",
        ),
        (STUDY + "arm: {}\n", "study.yaml: arm: unknown key of a study; did you mean arms?"),
        (STUDY + "seeds: [3]\n", "study.yaml; not valid YAML (seeds is given twice"),
        (STUDY.replace("recipe.yaml", "recipes.yaml"), "study.yaml: base: recipes.yaml; no such file or recipe"),
        (
            STUDY.replace("recipe.yaml", "resnet50_8kk"),
            "base: resnet50_8kk; no such file or recipe; did you mean resnet",
        ),
        (STUDY.replace("recipe.yaml", "[1]"), "study.yaml: base: [1]; give the name of a recipe or of a file"),
        (STUDY.replace("[0, 1]", "[]"), "study.yaml: seeds: []; give a list of different whole numbers from 0"),
        (STUDY.replace("[0, 1]", "[0, 0]"), "study.yaml: seeds: [0, 0]; give a list of different"),
        (STUDY.replace("[0, 1]", "[0, -1]"), "study.yaml: seeds: [0, -1]; give"),
        (STUDY.replace("[0, 1]", "[0.5]"), "study.yaml: seeds: [0.5]; give"),
        (STUDY.replace("[0, 1]", "[true]"), "study.yaml: seeds: [True]; give"),
        (STUDY.replace("[0, 1]", "5"), "study.yaml: seeds: 5; give"),
        ("arms: {a: {epochs: 3}}", "study.yaml: seeds: missing; give a list of different whole numbers"),
        ("seeds: [0]", "study.yaml: arms: missing; give {name: {key: value}}, or grid: {key: [value, value]}"),
        ("seeds: [0]\narms: {}", "study.yaml: arms: is empty; give {name: {key: value}}"),
        ("seeds: [0]\narms: [1]", "study.yaml: arms: [1]; give a mapping"),
        ("seeds: [0]\ngrid: 3", "study.yaml: grid: 3; give a mapping"),
        ("seeds: [0]\narms: {a: 3}", "study.yaml: arm a: 3; give settings, {key: value}"),
        ("seeds: [0]\nsettings: 3\narms: {a: }", "study.yaml: settings: 3; give settings, {key: value}"),
        (
            "seeds: [0]\narms: {a: {lr.warmpu.kind: none}}",
            "arm a: lr.warmpu.kind: unknown setting; did you mean lr.warmup.",
        ),
        (
            "seeds: [0]\ngrid: {lr.refrence: [1, 2]}",
            "study.yaml: grid: lr.refrence: unknown setting; did you mean lr.reference?",
        ),
        (
            "seeds: [0]\nsettings: {epoch: 3}\narms: {a: }",
            "study.yaml: settings: epoch: unknown setting; did you mean epochs?",
        ),
        ("seeds: [0]\narms: {a: {epochs: many}}", "study.yaml: arm a: epochs: many; give a number"),
        ("seeds: [0]\ngrid: {epochs: [3, many]}", "study.yaml: arm epochs=many: epochs: many; give a number"),
        ("seeds: [0]\narms: {a: {batch.global_size: 100}}", "arm a: batch.global_size: 100; must be a multiple of"),
        ("seeds: [0]\narms: {a: {lr.reference: }}", "study.yaml: arm a: lr.reference: has no value; give a number"),
        (
            "seeds: [0]\narms: {a: {lr: {reference: 1}, lr.reference: 2}}",
            "study.yaml: arm a: lr.reference: is given twice",
        ),
        ("seeds: [0]\narms: {a: {seed: 1}}", "study.yaml: arm a: seed: 1; give seeds, a list, beside arms and grid"),
        ("seeds: [0]\ngrid: {seed: [1, 2]}", "study.yaml: grid: seed: 1; give seeds, a list"),
        ("seeds: [0]\nsettings: {seed: 1}\narms: {a: }", "study.yaml: settings: seed: 1; give seeds, a list"),
        ("seeds: [0]\ngrid: {epochs: 3}", "study.yaml: grid: epochs: 3; give a list of values"),
        ("seeds: [0]\ngrid: {epochs: []}", "study.yaml: grid: epochs: []; give a list of values"),
        ("seeds: [0]\ngrid: {epochs: [3, 3]}", "study.yaml: arm epochs=3: is there twice"),
        (STUDY + "grid: {lr.warmup.kind: [none]}", "arm large: lr.warmup.kind: none; is in the grid, too; leave"),
        ("seeds: [0]\ngrid: {lr.schedule.milestones: [[1]]}", "milestones: [1]; cannot name a folder: make it an arm"),
        ("seeds: [0]\ngrid: {data.path: [a/b]}", "study.yaml: arm path=a/b: is to name a folder; give letters, digits"),
        ("seeds: [0]\narms: {../a: {epochs: 3}}", "study.yaml: arm ../a: is to name a folder; give letters"),
        ("seeds: [0]\narms: {.a: {epochs: 3}}", "study.yaml: arm .a: is to name a folder"),
        ("seeds: [0]\narms: {'a b': {epochs: 3}}", "study.yaml: arm a b: is to name a folder"),
        ("seeds: [0]\narms: {-a: {epochs: 3}}", "study.yaml: arm -a: is to name a folder"),
        (f"seeds: [0]\narms: {{{'a' * 101}: {{epochs: 3}}}}", "is to name a folder; give"),
        ("seeds: [0]\narms: {a: {epochs: 3}, a: {epochs: 4}}", "study.yaml; not valid YAML (a is given twice"),
        ("seeds: [0]\narms: {5: {epochs: 3}, '5': {epochs: 4}}", "study.yaml; not valid YAML (5 is given twice"),
        ("seeds: [0]\narms: {a: {epochs: 3}, b: {epochs: 3.0}}", "study.yaml: arms a and b: have the same settings"),
    ],
)
def test_mistakes_in_a_file(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        definition.read("study.yaml", {})
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "NAME|FILE: missing; give a file or one of batch_ramp, "),
        (["warmupp"], "warmupp: no such file or study; did you mean warmup?; the studies are batch_ramp, "),
        (["."], ".: no such file or study"),
        (["warmup"], "data.path: null; give the folder or URL of the data set: --data.path FOLDER"),
        (["warmup", "--data.path", "nowhere"], "nowhere: "),
        (["warmup", "--seed", "3"], "--seed: is what the runs of an arm differ in; change seeds in the study's file"),
        (["warmup", "--lr.warmup.kind=none"], "--lr.warmup.kind: is what arms differ in (arm none); change it in"),
        (["warmup", "--paralel", "2"], "--paralel: unknown option; did you mean --parallel?"),
        (["warmup", "--epoch", "2"], "--epoch: unknown option; did you mean --epochs?"),
        (["warmup", "--epochs"], "--epochs: expected one argument"),
        (["warmup", "--epochs", "two"], "epochs: two; give a number"),
        (["warmup", "--epochs", "-1"], "warmup: arm baseline: epochs: -1.0; give a number above 0"),
        (["warmup", "-o", ""], "-o: is empty; give the name of a folder"),
        (["warmup", "more"], "unrecognized arguments: more; see hvd-imagenet study --help"),
        (["warmup", "--parallel", "0"], "--parallel: 0; give a number of runs, 1 or more"),
        (["warmup", "--parallel", "two"], "argument --parallel: invalid int value: 'two'"),
        (["warmup", "--parallel", "4097"], " cores for as many runs; give "),
        (
            ["warmup", "--launcher", "no-such-launcher -np 2"],
            "--launcher: no-such-launcher -np 2; there is no such command",
        ),
        (["warmup", "--launcher", ""], "--launcher: ; there is no such command on the PATH"),
        (["warmup", "--launcher", "'"], "--launcher: '; is no command (No closing quotation)"),
        (
            ["warmup", "--launcher", "bash", "--parallel", "2"],
            "--parallel: 2; is for runs of one worker; with --launch",
        ),
    ],
)
def test_mistakes_on_the_command_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status = cli.main(["study", *arguments])
    said = capsys.readouterr().err
    assert status == (3 if "nowhere" in arguments else 2)
    assert message in said and len(said.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_what_there_is_can_be_listed(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["study", "--list"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in definition.study_names()) and "table 2b" in said
    assert cli.main(["study", "batch_ramp", "--list"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == ["0", "fixed", "0", "8,192", "3.2", "14,076"]
    assert lines[5] == ["4", "early", "1", "256", "to", "8,192", "3.2", "22,992"]
    assert len(lines) == 16 and not list(tmp_path.iterdir())


def test_the_help_shows_a_study_that_is_right(capsys, tmp_path):
    with pytest.raises(SystemExit):
        cli.main(["study", "--help"])
    shown = capsys.readouterr().out
    example = shown.partition("a study's file:\n")[2].partition("\n\n")[0]
    (tmp_path / "example.yaml").write_text(example)
    study = definition.read(str(tmp_path / "example.yaml"), {})
    assert list(study.arms) == [f"{arm},reference={rate}" for arm in ("small", "large") for rate in (0.05, 0.1)]
    assert yaml.safe_load(example)["seeds"] == study.seeds and study.configs["small,reference=0.1"].epochs == 45


def test_the_table_says_what_each_arm_does_and_has_come_to(tmp_path):
    study = definition.read("warmup_small", {})
    rows = [Row("baseline", 3, 12.0, 7**0.5, [10, 11, 15]), Row("gradual", 1, 50.0, None, [50])]
    arms = {name: study.policy(name) for name in ("baseline", "gradual", "none")}
    found = outcome.lines(arms, rows, 5)
    assert [(line[0], *line[-2:]) for line in found] == [
        ("baseline", "3 of 5", "12.00 ± 2.65"),
        ("gradual", "1 of 5", "50.00"),
        ("none", "0 of 5", "–"),
    ]


def test_the_readmes_study_is_right(tmp_path):
    text = README.read_text().partition("```yaml\ntitle: ")[2].partition("```")[0]
    (tmp_path / "my.yaml").write_text(f"title: {text}")
    study = definition.read(str(tmp_path / "my.yaml"), {})
    assert list(study.arms)[0] == "paper,reference=0.05" and len(study.arms) == 6


def test_the_readmes_study_of_cifar_10_is_right(capsys, tmp_path, monkeypatch):
    """50,000 images 24 times, 1,024 at a time, are 1,172 steps."""
    monkeypatch.chdir(tmp_path)
    command = README.read_text().partition("hvd-imagenet study warmup_small --data.path data/cifar10")[2]
    options = shlex.split(command.partition("\n\n")[0].replace("\\\n", ""))
    assert cli.main(["study", "warmup_small", *options, "--list"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[4] == ["3", "gradual", "0", "1,024", "1.6", "1,172"]
