"""A network of the user's own, in both frameworks: named, found, made and tried; and every way to get it wrong."""

import json

import numpy as np
import pytest
import yaml
from own_job import both, made, mine  # noqa: F401
from runs import train, weights
from steps import micro_batches, plan

from hvd_imagenet import backend as backends
from hvd_imagenet import cli, settings
from hvd_imagenet.config import ModelSettings
from hvd_imagenet.errors import SettingsError


def refused(framework, name, **kwargs):
    with pytest.raises(SettingsError) as caught:
        made(framework, name, **kwargs)
    assert caught.value.everywhere and "\n" not in str(caught.value)
    return str(caught.value)


# What a person types.


def read(*arguments):
    return settings.parse(settings.parser("test", "a test"), list(arguments))[0]


KWARGS = {"width": 8, "deep": {"a": [1, {"b": None}], "c": 2.5}, "text": "1", "truth": True, "name": "x"}


def test_kwargs_come_from_a_file_and_go_back_into_one(tmp_path, capsys):
    text = yaml.safe_dump({"model": {"name": "my.models:net", "kwargs": KWARGS}})
    (tmp_path / "my.yaml").write_text(text)
    config = read("--config", str(tmp_path / "my.yaml"))
    assert config.model.kwargs == KWARGS
    (tmp_path / "config.yaml").write_text(settings.dump(config))
    assert settings.load(tmp_path / "config.yaml") == config
    with pytest.raises(SystemExit):
        read("--config", str(tmp_path / "my.yaml"), "--print_config")
    assert yaml.safe_load(capsys.readouterr().out)["model"]["kwargs"] == KWARGS


def test_kwargs_come_from_the_command_line():
    config = read("--model.name", "my:net", "--model.kwargs", '{"width": 8, "text": "1", "rate": 1e-3}')
    assert config.model.kwargs == {"width": 8, "text": "1", "rate": 1e-3}
    assert (config.model.own, config.model.short_name) == (True, "net")
    assert (read().model.own, read().model.short_name, read().model.kwargs) == (False, "resnet50", {})


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--model.kwargs", '{"width": 8}'], "model.kwargs: {'width': 8}; resnet50 takes none; they are for a model."),
        (
            ["--model.name", "my:net", "--model.kwargs", "8"],
            "model.kwargs: 8; give a table {name: value}, with a",
        ),
        (["--model.name", "my:net", "--model.kwargs.width", "8"], "unknown option; did you mean --model.kwargs?"),
        (["--model.name", "my:net", "--model.kwargs", "{a: .nan}"], "model.kwargs: {'a': nan}; give texts, numbers"),
        (["--model.name", "my/models.py:net"], "model.name: my/models.py:net; give package.module:function"),
        (["--model.name", "my:"], "model.name: my:; give package.module:function"),
        (["--model.name", "my:a:b"], "model.name: my:a:b; give package.module:function"),
        (["--model.name", "resnet_50"], "did you mean resnet50? known: resnet18, "),
        (["--model.name", "net"], "resnet56, or package.module:function of your own"),
        (
            ["--model.name", "keras.applications:VGG16"],
            "framework: torch; keras.applications:VGG16 is a network of Keras",
        ),
        (["--model.name", "my:net", "--batch.micro_size", "1"], "batch.micro_size: 1; batch normalisation needs more"),
    ],
)
def test_mistakes_on_the_command_line(arguments, expected):
    with pytest.raises(SettingsError) as caught:
        read(*arguments)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


# The network.


@both
@pytest.mark.parametrize(
    ("name", "kwargs", "expected"),
    [
        ("mien:net", {}, "model.name: mien:net; there is no module mien, did you mean mine?; start in the folder that"),
        ("mine.nets:net", {}, "there is no module mine.nets, did you mean mine?; start in"),
        ("mine:nte", {}, "mine.py, did you mean net?; name a function that returns a network"),
        ("mine:number", {}, "mine.py is no function; name a function"),
        ("broken:net", {}, "broken cannot be imported: SyntaxError: "),
        ("needy:net", {}, "needy cannot be imported: ModuleNotFoundError: No module named 'nowhere' (needy.py, line"),
        ("script:net", {}, "script cannot be imported: SystemExit: 3 (script.py, line 1); correct it there"),
        ("mine:net", {"widht": 2}, "model.kwargs: {'widht': 2}; mine:net cannot be called with them: got an unexpected "
         "keyword argument 'widht', did you mean width?; it takes width, classes, dropout"),
        ("mine:layer", {"a": 1}, "it takes none"),
        ("mine:fails", {}, "model.name: mine:fails; fails with model.kwargs {}: RuntimeError: there is no such file ("),
        ("mine:layer", {}, "model.name: mine:layer; returns a "),
        ("mine:no_norm", {"classes": 3}, "no_norm cannot be called with them"),
        ("mine:net", {"classes": 7}, "model.name: mine:net; gives a tensor (2, 7) for 2 images, and model.classes is"),
        ("mine:maps", {}, "gives a tensor (2, "),
        ("mine:pair", {}, "gives a tuple for 2 images"),  # in training only
        ("mine:probabilities", {}, "gives probabilities, but scores before the softmax are needed: leave the softmax"),
        ("mine:too_small", {}, "model.name: mine:too_small; fails on float images (2, "),
        ("mine:frozen", {}, "has no parameter to train"),
    ],
)  # fmt: skip
def test_mistakes_in_a_network(framework, name, kwargs, expected, tmp_path):
    (tmp_path / "broken.py").write_text("def net(:\n")
    (tmp_path / "needy.py").write_text("\nimport nowhere\n")
    (tmp_path / "script.py").write_text("raise SystemExit(3)\n")
    assert expected in refused(framework, name, **kwargs)


def test_what_pytorch_alone_has_is_refused():
    assert "has lazy layers: call it on an image before it is returned" in refused("torch", "mine:lazy")
    assert "its 1 averages all that it has seen (momentum=None)" in refused("torch", "mine:cumulative")


@pytest.mark.parametrize("framework", ["keras"])
def test_what_keras_alone_has_is_refused(framework):
    said = refused(framework, "mine:half_precision")
    assert "half/kernel is bfloat16: parameters are float64 in every precision; leave its layer's dtype" in said


@both
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_other_precisions(framework, precision):
    backend = made(framework, precision=precision, dropout=0.5)
    backend.train_step(plan(2), list(micro_batches(2)))
    [(_, totals)] = backend.take_totals(wait=True)
    assert totals.count == 16 and np.isfinite(totals.loss_sum)
    assert {array.dtype for array in backend.state().model.values()} == {np.dtype(np.float32)}
    assert "gives probabilities" in refused(framework, "mine:probabilities", precision=precision)


def test_a_network_of_keras():
    from hvd_imagenet.keras.model import build
    from hvd_imagenet.keras.names import named_parameters

    backends.load("keras")
    name = "keras.applications:MobileNetV2"
    model = build(ModelSettings(name, 4, {"alpha": 0.35}), 32)
    assert (model.input_shape, model.output_shape) == ((None, 32, 32, 3), (None, 4))
    assert len(named_parameters(model)) == len(model.trainable_variables) == 158
    weights = [parameter for key, parameter in named_parameters(model).items() if "weight" in key]
    assert sum(not weight.numpy().any() for weight in weights) == 10
    with pytest.raises(SettingsError, match=r"gives a tensor \(2, 3\) for 2 images, and model.classes is 4"):
        build(ModelSettings(name, 4, {"alpha": 0.35, "classes": 3}), 32)
    with pytest.raises(SettingsError, match="gives probabilities"):
        build(ModelSettings(name, 4, {"alpha": 0.35, "classifier_activation": "softmax"}), 32)
    with pytest.raises(SettingsError, match="MobileNetV2 cannot be called with them: .* 'alhpa', did you mean alpha?"):
        build(ModelSettings(name, 4, {"alhpa": 0.35}), 32)
    with pytest.raises(SettingsError, match="is not in .*, did you mean MobileNetV2?"):
        build(ModelSettings("keras.applications:MobilNetV2", 4), 32)


# The command.


@both
def test_a_run_of_ones_own(framework, recipe, image_folder, tmp_path, capsys):
    run = tmp_path / "run"
    options = ["--framework", framework, "--model.name", "mine:net", "--epochs", "2"]
    kwargs = ["--model.kwargs", '{"width": 4, "classes": 2, "dropout": 0.1}']
    assert train(recipe, image_folder, run, *options, *kwargs) == 0
    assert "mine:net in" in capsys.readouterr().out
    assert json.loads((run / "result.json").read_text())["steps"] == 5
    assert cli.main(["evaluate", "--run", str(run)]) == 0
    more = ["train", "--run", str(run), "--resume", "--epochs", "3"]
    for other in ("{'width': 5, 'classes': 2}", "{'classes': 2}"):
        assert cli.main([*more, "--model.kwargs", other]) == 2
        before = "{'width': 4, 'classes': 2, 'dropout': 0.1}"
        assert f"--resume: model.kwargs was {before} and is {other}; go on with" in capsys.readouterr().err
    assert cli.main(more) == 0
    whole = tmp_path / "whole"
    assert train(recipe, image_folder, whole, *options, "--epochs", "3", *kwargs) == 0
    ones, others = weights(run, 8), weights(whole, 8)
    for kind in ones:
        assert all(np.array_equal(ones[kind][name], others[kind][name]) for name in others[kind])


def test_a_run_is_named_after_the_function(recipe, image_folder, tmp_path):
    options = ["--model.name", "mine:net", "--model.kwargs", "{classes: 2}", "--epochs", "1"]
    assert cli.main(["train", "--config", recipe, "--data.path", str(image_folder), *options]) == 0
    [run] = (tmp_path / "runs").iterdir()
    assert run.name.startswith("net-2")
