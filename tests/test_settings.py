"""Reading settings: recipes, files, overrides, and one clear line for every mistake."""

import re

import pytest
import yaml

from hvd_imagenet import cli, settings
from hvd_imagenet.config import Config
from hvd_imagenet.errors import SettingsError


def read(*arguments):
    return settings.parse(settings.parser("test", "a test"), list(arguments))[0]


def error(*arguments):
    with pytest.raises(SettingsError) as caught:
        read(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_defaults_are_the_papers_baseline():
    config = read()
    assert config == Config()
    assert (config.batch.global_size, config.batch.micro_size, config.lr.reference, config.epochs) == (256, 32, 0.1, 90)


@pytest.mark.parametrize("name", settings.recipe_names())
def test_every_recipe_is_read_back_as_it_was_written(name, tmp_path):
    config = read("--config", name)
    (tmp_path / "config.yaml").write_text(settings.dump(config))
    assert settings.load(tmp_path / "config.yaml") == config


def test_the_papers_recipes():
    small, large, deep = (read("--config", name) for name in ("resnet50_256", "resnet50_8k", "resnet101_8k"))
    for config in (small, large, deep):
        assert (config.data.train_samples, config.batch.micro_size, config.epochs) == (1_281_167, 32, 90)
        assert (config.lr.reference, config.lr.reference_batch, config.lr.scaling) == (0.1, 256, "linear")
        assert (config.lr.warmup.kind, config.lr.warmup.epochs) == ("gradual", 5)
        assert (config.lr.schedule.milestones, config.lr.schedule.factor) == ([30, 60, 80], 0.1)
        assert (config.optimizer.momentum, config.optimizer.nesterov, config.optimizer.weight_decay) == (
            0.9,
            True,
            1e-4,
        )
    assert [c.batch.global_size for c in (small, large, deep)] == [256, 8192, 8192]
    assert [c.model.name for c in (small, large, deep)] == ["resnet50", "resnet50", "resnet101"]


def test_later_settings_win():
    config = read("--config", "resnet50_8k", "--batch.global_size", "4096", "--lr.warmup.epochs=2.5")
    assert (config.batch.global_size, config.lr.warmup.epochs, config.model.classes) == (4096, 2.5, 1000)
    assert read("--epochs", "3", "--config=fashion_mnist").model.name == "resnet8"


def test_a_batch_ramp():
    config = read("--config", "resnet50_8k", "--batch.global_size", "{0: 256, 2.5: 8192}")
    assert config.batch.ramp() == [(0, 256), (2.5, 8192)]


def test_settings_that_fit_only_together_may_come_in_any_order():
    for arguments in (
        (["--batch.micro_size", "7"], ["--batch.global_size", "70"]),
        (
            ["--batch.global_size", "70"],
            ["--batch.micro_size", "7"],
        ),
    ):
        assert read(*arguments[0], *arguments[1]).batch.global_size == 70


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--batch.global_sizee", "64"], "--batch.global_sizee: unknown option; did you mean --batch.global_size?"),
        (["--global_size", "64"], "--global_size: unknown option; did you mean --batch.global_size?"),
        (["--batch.global_siz", "64"], "--batch.global_siz: unknown option; did you mean --batch.global_size?"),
        (["--batch", "64"], "--batch: a group of settings; give them one by one, such as --batch.global_size"),
        (["--xyzzy", "1"], "--xyzzy: unknown option; --help"),
        (["--epochs", "many"], "epochs: many; give a number"),
        (["--epochs", "nan"], "epochs: nan; give a number"),
        (["--seed", "1.5"], "seed: 1.5; give a whole number"),
        (["--epochs"], "--epochs: expected one argument"),
        (["--batch.global_size", "big"], "batch.global_size: big; give a whole number, or a table {epoch: samples}"),
        (["--batch.global_size", "100"], "batch.global_size: 100; must be a multiple of batch.micro_size (32)"),
        (["--lr.warmup.kind", "slow"], "lr.warmup.kind: slow; give one of gradual, constant, none"),
        (["--optimizer.nesterov", "maybe"], "optimizer.nesterov: maybe; give true or false"),
        (["--optimizer.momentum", "1"], "optimizer.momentum: 1"),
        (["--optimizer.momentum", "0"], "optimizer.nesterov: True; needs optimizer.momentum above 0"),
        (["--data.mean", "[1, 2]"], "data.mean: [1.0, 2.0]; give three numbers"),
        (["--data.std", "[1, 0, 1]"], "data.std: [1.0, 0.0, 1.0]; give three numbers above 0"),
        (["--data.evaluation_resize", "200"], "data.evaluation_resize: 200; must be at least data.image_size (224)"),
        (["--model.name", "resnet_50"], "model.name: resnet_50; did you mean resnet50? known: resnet18"),
        (["--model.classes", "1"], "model.classes: 1; give 2 or more"),
        (["--checkpoint.keep", "0"], "checkpoint.keep: 0; give a number above 0"),
        (["--stream.shuffle", "none"], "stream.shuffle: none; give one of global, blocked"),
        (["--stream.window", "0"], "stream.window: 0; give a number of shards above 0"),
        (["--config", "resnet50_8kk"], "--config: resnet50_8kk; no such file or recipe; did you mean resnet50_8k?"),
        (["--config=nowhere/x.yaml"], "--config: nowhere/x.yaml; no such file or recipe; the recipes are"),
        (["--batch.global_size", "{0: 256, a: 8192}"], "batch.global_size: "),
        (["--batch.global_size", "{0:256,5:8192}"], "with a space after each colon"),
        (["--checkpoint.every_epochs", ".inf"], "checkpoint.every_epochs: inf; give a number above 0"),
        (["--data.mean", "[.nan, 0, 0]"], "data.mean: [nan, 0.0, 0.0]; give three numbers"),
        (["--data.path", ""], "data.path: empty"),
        (["--data.decoder.hw_decoder_load", "1.1"], "data.decoder.hw_decoder_load: 1.1; give a number from 0 to 1"),
        (["--data.decoder.hw_decoder_load", "-0.1"], "data.decoder.hw_decoder_load: -0.1; give a number from 0 to 1"),
        (["--data.decoder.preallocate_width_hint", "-1"], "data.decoder.preallocate_width_hint: -1; give a number of"),
        (["--data.decoder.preallocate_height_hint", "-1"], "data.decoder.preallocate_height_hint: -1; give a number"),
        (["--data.decoder.device_memory_padding", "-1"], "data.decoder.device_memory_padding: -1; give a number of"),
        (["--data.decoder.host_memory_padding", "-1"], "data.decoder.host_memory_padding: -1; give a number of bytes"),
        (["--lr.reference", "1e200"], "lr.reference: 1e+200; give a number above 0, at most 1e+30"),
        (["--batch.micro_size", "1", "--data.image_size", "32"], "batch.micro_size: 1; batch normalisation needs"),
        (["stray"], "unrecognized arguments: stray"),
    ],
)
def test_mistakes_on_the_command_line(arguments, expected):
    assert expected in error(*arguments)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("batch: {global_siz: 64}", "batch.global_siz: unknown setting; did you mean batch.global_size?"),
        ("bach: {global_size: 64}", "bach: unknown setting; did you mean batch?"),
        ("global_size: 64", "global_size: unknown setting; did you mean batch.global_size?"),
        ("batch: 64", "batch: 64; give a mapping"),
        ("batch: {global_size: [64]}", "batch.global_size: [64]; give a whole number"),
        ("lr: {warmup: {epochs: soon}}", "lr.warmup.epochs: soon; give a number"),
        ("batch: [64", "not valid YAML"),
        ("", "the file: is empty; give settings"),
        ("epochs:", "epochs: has no value; give a number"),
        ("batch:", "batch: is empty; give settings"),
        ("batch: {global_size: }", "batch.global_size: has no value; give a whole number"),
        ("batch: {global_size: {0: 256, a: 512}}", "batch.global_size: "),
        ("epochs: 3\nepochs: 4", "epochs is given twice"),
        ("batch: {micro_size: 4, micro_size: 8}", "micro_size is given twice"),
        ("- 1", "the file: [1]; give a mapping"),
        ("data: {train_samples: 0}", "data.train_samples: 0"),
    ],
)
def test_mistakes_in_a_file(text, expected, tmp_path):
    (tmp_path / "my.yaml").write_text(text)
    assert expected in error("--config", str(tmp_path / "my.yaml"))


def test_a_file_that_is_not_text(tmp_path):
    (tmp_path / "my.yaml").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in error("--config", str(tmp_path / "my.yaml"))
    assert "no such file" in error("--config", str(tmp_path))


def test_print_config_shows_the_result(capsys):
    with pytest.raises(SystemExit) as ended:
        read("--config", "resnet50_8k", "--epochs", "7", "--print_config")
    assert ended.value.code == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["epochs"] == 7 and shown["batch"]["global_size"] == 8192


def test_what_print_config_shows_can_be_given_back(tmp_path, capsys):
    """By commands that have options of their own, too, which are no settings."""
    for command in (["train", "--run", "runs/a"], ["schedule", "--csv"], ["plan", "--workers", "8"]):
        with pytest.raises(SystemExit) as ended:
            cli.main([*command, "--config", "fashion_mnist", "--epochs", "7", "--print_config"])
        assert ended.value.code == 0
        (tmp_path / "my.yaml").write_text(capsys.readouterr().out)
        assert read("--config", str(tmp_path / "my.yaml")) == read("--config", "fashion_mnist", "--epochs", "7")


def test_every_setting_says_what_it_means(capsys):
    with pytest.raises(SystemExit):
        read("--help")
    shown = " ".join(capsys.readouterr().out.split())
    for key, kind in dict(settings.keys()).items():
        if not hasattr(kind, "__dataclass_fields__"):
            option = rf" --{re.escape(key)} \S+(, --\S+ \S+)* (?P<meaning>[^-]((?! --).)+)\(type:"
            found = re.search(option, shown)
            assert found and len(found["meaning"].split()) > 2, key
