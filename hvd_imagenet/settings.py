"""Reading settings: a recipe or YAML file by --config, then --dotted.key value; every mistake named in one line.

The parsing is jsonargparse's. Added here: recipes by name, the nearest key for a typo, and messages that name the key,
the value and what would be right.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from argparse import SUPPRESS
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any

import jsonargparse
import yaml

from hvd_imagenet.config import Config
from hvd_imagenet.errors import SettingsError

RECIPES = Path(__file__).parent / "recipes"
SHOW = "--print_config"


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML would silently take the last."""

    def construct_mapping(self, node, deep=False):
        keys_given = [key.value for key, _ in node.value]
        for key in keys_given:
            if keys_given.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def parser(command: str, description: str) -> jsonargparse.ArgumentParser:
    """A parser for `parse`, which adds all settings; a command adds its own options before."""
    made = jsonargparse.ArgumentParser(
        prog=f"hvd-imagenet {command}", description=description, exit_on_error=False, allow_abbrev=False
    )
    made.add_argument(
        "--config",
        action="config",
        metavar="NAME|FILE",
        help=f"a recipe ({', '.join(recipe_names())}) or a YAML file of settings; later settings override earlier ones",
    )
    return made


def parse(made: jsonargparse.ArgumentParser, arguments: list[str]) -> tuple[Config, jsonargparse.Namespace]:
    """The settings that the arguments describe, and the command's own options beside them.

    Raises:
        SettingsError: an unknown key, a wrong type, or a value out of range.
        SystemExit: they were to be shown, for a file of one's own.
    """
    made.add_class_arguments(Config, fail_untyped=True)
    for group in _groups():
        made._option_string_actions[f"--{group}"].help = SUPPRESS  # refused below: settings are given one by one
    arguments = _checked(made, arguments)
    rest = [argument for argument in arguments if argument != SHOW]
    try:
        options = made.instantiate(made.parse_args(rest))
        names = [field.name for field in dataclasses.fields(Config)]
        config = Config(**{name: options[name] for name in names})
    except jsonargparse.ArgumentError as error:
        raise SettingsError(_in_one_line(str(error))) from None
    except ValueError as error:
        raise SettingsError(str(error)) from None
    if rest != arguments:  # by the parser, the command's own options would be among them, which --config refuses
        print(dump(config), end="")
        raise SystemExit(0)
    return config, options


def load(path: Path) -> Config:
    """The settings of a run, as written to its ``config.yaml``."""
    return parse(parser("", ""), ["--config", str(path)])[0]


def dump(config: Config) -> str:
    """All settings as YAML, to be read by ``load``."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)


def recipe(name: str, key: str = "--config", folder: Path = Path()) -> tuple[Path, dict[str, Any]]:
    """The file of a recipe, and its settings by their dotted keys.

    Args:
        name: of a recipe that comes with the package, or of a file.
        key: what is to be blamed for a name that is none.
        folder: that the file's name begins at.

    Raises:
        SettingsError: there is no such recipe, or it is not right.
    """
    path = RECIPES / f"{name}.yaml" if name in recipe_names() else folder / name
    try:
        return path, dict(leaves(read_yaml(path, f"{key}: {name}"), name))
    except FileNotFoundError:
        raise SettingsError(
            f"{key}: {name}; no such file or recipe{nearest(name, recipe_names())}; "
            f"the recipes are {', '.join(recipe_names())}"
        ) from None


def read_yaml(path: Path, what: str) -> Any:
    """What stands in a YAML file, in which no key may be given twice.

    Args:
        what: begins the message of an error.

    Raises:
        SettingsError: it cannot be read.
        FileNotFoundError: there is no such file.
    """
    try:
        return yaml.load(path.read_text(), _UniqueKeys)
    except IsADirectoryError:
        raise FileNotFoundError(path) from None
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{what}; cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{what}; not valid YAML ({_in_one_line(str(error))})") from None


def leaves(settings: Any, where: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of each of some settings, which are nested, have dotted keys, or both.

    Args:
        where: they stand, such as a file's name.

    Raises:
        SettingsError: an unknown key, a group that is none, or no value.
    """
    known = dict(keys())
    if settings is None:
        raise SettingsError(f"{where}: {prefix.rstrip('.') or 'the file'}: is empty; give settings, key: value")
    if not isinstance(settings, Mapping):
        raise SettingsError(f"{where}: {prefix.rstrip('.') or 'the file'}: {settings!r}; give a mapping, key: value")
    for key, value in settings.items():
        dotted = f"{prefix}{key}"
        if dotted not in known:
            raise SettingsError(f"{where}: {dotted}: unknown setting{nearest(dotted, known)}")
        if dataclasses.is_dataclass(known[dotted]):
            yield from leaves(value, where, f"{dotted}.")
        elif value is None and NoneType not in typing.get_args(known[dotted]):
            raise SettingsError(f"{where}: {dotted}: has no value; give {_described(known[dotted])}")
        else:
            yield dotted, value


def given(arguments: list[str], others: Iterable[str] = ()) -> dict[str, Any]:
    """The settings that a command line gives as --dotted.key value, by their keys; no defaults.

    Args:
        others: options of the command itself, one of which may be meant by a mistyped one.

    Raises:
        SettingsError: an unknown key, or a wrong type.
    """
    made = jsonargparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    made.add_class_arguments(Config, fail_untyped=True)
    for argument in arguments:
        if argument.startswith("--"):
            _check_option(made, argument.partition("=")[0], others)
    try:
        return vars(made.parse_args(arguments, defaults=False).as_flat())
    except jsonargparse.ArgumentError as error:
        raise SettingsError(_in_one_line(str(error))) from None


def combiner() -> Callable[..., Config]:
    """A function from layers, {dotted key: value}, to the settings that they make, the later ones before the earlier.

    It raises SettingsError for a wrong type, or a value out of range.
    """
    made = jsonargparse.ArgumentParser(exit_on_error=False)
    made.add_class_arguments(Config, fail_untyped=True)

    def combined(*layers: Mapping[str, Any]) -> Config:
        try:
            options = made.instantiate(made.parse_object({key: layer[key] for layer in layers for key in layer}))
            return Config(**{field.name: options[field.name] for field in dataclasses.fields(Config)})
        except jsonargparse.ArgumentError as error:
            raise SettingsError(_in_one_line(str(error))) from None
        except ValueError as error:
            raise SettingsError(str(error)) from None

    return combined


def keys(kind: type = Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and type of every setting; groups included, with their dataclass as the type."""
    for name, field_type in typing.get_type_hints(kind).items():
        yield prefix + name, field_type
        if dataclasses.is_dataclass(field_type):
            yield from keys(field_type, f"{prefix}{name}.")


def _checked(made: jsonargparse.ArgumentParser, arguments: list[str]) -> list[str]:
    """The arguments with recipe names as files, after a check of all keys in them and in the files."""
    checked = []
    previous = ""
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if previous == "--config":
            argument = str(recipe(argument)[0])
        elif option == "--config" and equals:
            argument = f"--config={recipe(value)[0]}"
        elif option.startswith("--"):
            _check_option(made, option)
        checked.append(argument)
        previous = argument
    return checked


def _check_option(made: jsonargparse.ArgumentParser, option: str, others: Iterable[str] = ()) -> None:
    known = [*others, *made._option_string_actions]
    if option[2:] in _groups():
        raise SettingsError(f"{option}: a group of settings; give them one by one, such as {option}.{_first(option)}")
    if option not in known:
        raise SettingsError(f"{option}: unknown option{nearest(option, known)}; --help lists all")


def _groups() -> list[str]:
    return [key for key, kind in keys() if dataclasses.is_dataclass(kind)]


def _first(group: str) -> str:
    return next(key for key, _ in keys() if key.startswith(f"{group[2:]}.")).split(".")[-1]


def nearest(word: str, known: Iterable[str]) -> str:
    """ "; did you mean ...?" for the known word nearest to a mistyped one, by the whole name or its last part."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
    if not near:
        last_parts = {name.split(".")[-1].lstrip("-"): name for name in known}
        match = difflib.get_close_matches(word.split(".")[-1].lstrip("-"), last_parts, n=1, cutoff=0.7)
        near = [last_parts[part] for part in match]
    return f"; did you mean {near[0]}?" if near else ""


def _in_one_line(message: str) -> str:
    """jsonargparse's message about a wrong type as "key: value; what would be right"; others on one line."""
    key = re.search(r'Parser key "([\w.]+)"', message)
    value = re.search(r"(?:Got|Given) value: (.*)", message)
    kind = dict(keys()).get(key[1]) if key else None
    if kind is None or value is None:
        return " ".join(message.split())
    return f"{key[1]}: {value[1]}; give {_described(kind)}"


def _described(kind: Any) -> str:
    """A type in words: "a whole number, or null"."""
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if typing.get_origin(kind) is list:
        return "a list of numbers, such as [1, 2]"
    if typing.get_origin(kind) is dict:
        return "a table {epoch: samples}, with a space after each colon"
    if arguments:
        return ", or ".join(map(_described, arguments))
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", NoneType: "null"}
    return {**words, dict: "a table {name: value}, with a space after each colon"}[kind]
