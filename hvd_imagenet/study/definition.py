"""What a study is: read from a YAML file, checked as a whole, and told as the runs that it consists of."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hvd_imagenet import settings
from hvd_imagenet.config import Config
from hvd_imagenet.errors import SettingsError
from hvd_imagenet.policy import LargeBatchPolicy

STUDIES = Path(__file__).parents[1] / "studies"
FILES = STUDY, TABLE, REPORT, LOCK = "study.yaml", "table.md", "report.html", "lock"  # of a study's own, in its folder
KEYS = ("title", "base", "settings", "arms", "grid", "seeds")
FOR_A_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=,+-]{0,99}")  # what shells, launchers and file systems all bear
HEAD = "# A study as it was resolved; its runs are beside it. To go on with it, give the command that began it again.\n"

Settings = dict[str, Any]  # values by their dotted keys


@dataclass(frozen=True)
class Run:
    """One run of a study: an arm with a seed, and all settings that follow."""

    arm: str
    seed: int
    config: Config

    @property
    def name(self) -> str:
        """Where it is, below the study's folder."""
        return f"{self.arm}/seed-{self.seed}"


@dataclass(frozen=True)
class Study:
    """A study with nothing left to check but its data.

    Attributes:
        name: to call its folder by.
        title: for people; above its table.
        settings: that all arms begin with.
        arms: what each arm changes of them, by its name.
        configs: all settings of each arm.
        seeds: of the runs of each arm.
    """

    name: str
    title: str
    settings: Settings
    arms: dict[str, Settings]
    configs: dict[str, Config]
    seeds: list[int]

    def runs(self) -> list[Run]:
        """All runs in their order: every arm with the first seed, then with the second, ..."""
        pairs = itertools.product(self.seeds, self.configs.items())
        return [Run(arm, seed, dataclasses.replace(config, seed=seed)) for seed, (arm, config) in pairs]

    def policy(self, arm: str) -> LargeBatchPolicy:
        """The plan of an arm's runs, whose data is known."""
        config = self.configs[arm]
        return config.policy(config.data.train_samples)

    def dump(self) -> str:
        """As YAML that `read` reads as the same study."""
        plain = {"title": self.title, "settings": self.settings, "arms": self.arms, "seeds": self.seeds}
        return HEAD + yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120)


def is_own(name: str) -> bool:
    """Whether something in a study's folder is one of its own files, or what one is made of."""
    return name in FILES or name.startswith(tuple(f"{file}." for file in FILES))


def study_names() -> list[str]:
    """The studies that come with the package."""
    return sorted(path.stem for path in STUDIES.glob("*.yaml"))


def titles() -> dict[str, str]:
    """What the studies are about that come with the package."""
    return {name: _given(name)[1]["title"] for name in study_names()}


def read(name: str, overrides: Settings) -> Study:
    """The study of that name or in that file.

    Args:
        overrides: settings of all its runs, by their dotted keys, that come after the study's own.

    Raises:
        SettingsError: there is none, or it is not right, in whatever arm.
    """
    path, given = _given(name)
    common = {**_base(given, name, path.parent), **_changes(given.get("settings"), f"{name}: settings")}
    arms = _arms(given, name)
    _check_overrides(overrides, arms)
    seeds = _seeds(given.get("seeds"), name)
    common |= overrides
    configs = _configs(common, arms, name)
    _require_different(configs, name)
    return Study(path.stem, str(given.get("title", path.stem)), common, arms, configs, seeds)


def _given(name: str) -> tuple[Path, Mapping[str, Any]]:
    """A study's file, and what stands in it, as far as it is a study."""
    path = STUDIES / f"{name}.yaml" if name in study_names() else Path(name)
    try:
        given = settings.read_yaml(path, name)
    except FileNotFoundError:
        near = settings.nearest(name, study_names())
        known = ", ".join(study_names())
        raise SettingsError(f"{name}: no such file or study{near}; the studies are {known}") from None
    if not isinstance(given, Mapping):
        raise SettingsError(f"{name}: holds no study; give base, arms and seeds, as hvd-imagenet study --help shows")
    for key in given:
        if key not in KEYS:
            near = settings.nearest(str(key), KEYS)
            raise SettingsError(f"{name}: {key}: unknown key of a study{near}; a study has {', '.join(KEYS)}")
    return path, given


def _base(given: Mapping[str, Any], name: str, folder: Path) -> Settings:
    if "base" not in given:
        return {}
    if not isinstance(given["base"], str):
        raise SettingsError(f"{name}: base: {given['base']}; give the name of a recipe or of a file")
    return _without_seed(settings.recipe(given["base"], f"{name}: base", folder)[1], f"{name}: base")


def _changes(given: Any, where: str) -> Settings:
    """Settings by their dotted keys, however they were given."""
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise SettingsError(f"{where}: {given}; give settings, {{key: value}}")
    pairs = list(settings.leaves(given, where))
    for key, _ in pairs:
        if sum(other == key for other, _ in pairs) > 1:
            raise SettingsError(f"{where}: {key}: is given twice")
    return _without_seed(dict(pairs), where)


def _without_seed(changes: Settings, where: str) -> Settings:
    if "seed" in changes:
        raise SettingsError(f"{where}: seed: {changes['seed']}; give seeds, a list, beside arms and grid")
    return changes


def _arms(given: Mapping[str, Any], name: str) -> dict[str, Settings]:
    """What each arm changes: those of `arms`, those of `grid`, or each of the one with each of the other."""
    named, grid = given.get("arms"), given.get("grid")
    if named is None and grid is None:
        raise SettingsError(f"{name}: arms: missing; give {{name: {{key: value}}}}, or grid: {{key: [value, value]}}")
    if not isinstance(named, Mapping | None) or not isinstance(grid, Mapping | None):
        key = "grid" if isinstance(named, Mapping | None) else "arms"
        raise SettingsError(f"{name}: {key}: {given[key]}; give a mapping, key: value")
    if not named and not grid:
        raise SettingsError(f"{name}: arms: is empty; give {{name: {{key: value}}}}")
    arms: dict[str, Settings] = {}
    for arm, changes in (named or {"": {}}).items():
        own = _changes(changes, f"{name}: arm {arm}" if arm else name)
        for key in own:
            if key in (grid or {}):
                raise SettingsError(f"{name}: arm {arm}: {key}: {own[key]}; is in the grid, too; leave one of them out")
        for point in _points(grid or {}, name):
            full_name = ",".join(filter(None, [str(arm), *(f"{part}={value}" for part, (_, value) in point.items())]))
            if not FOR_A_FOLDER.fullmatch(full_name):
                raise SettingsError(
                    f"{name}: arm {full_name}: is to name a folder; give letters, digits and . _ = , + - of them, "
                    "at most 100, beginning with a letter or digit"
                )
            if is_own(full_name):
                raise SettingsError(
                    f"{name}: arm {full_name}: is how a file of the study's own is called; give another name"
                )
            if full_name in arms:
                raise SettingsError(f"{name}: arm {full_name}: is there twice")
            arms[full_name] = own | dict(point.values())
    return arms


def _points(grid: Mapping[str, Any], name: str) -> list[dict[str, tuple[str, Any]]]:
    """All combinations of a grid's values, each as {how the key is called in a name: (key, value)}."""
    axes = []
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise SettingsError(f"{name}: grid: {key}: {values}; give a list of values")
        for value in values:
            _changes({key: value}, f"{name}: grid")
            if isinstance(value, list | dict):
                raise SettingsError(f"{name}: grid: {key}: {value}; cannot name a folder: make it an arm, with a name")
        axes.append([(key, value) for value in values])
    last_parts = [key.split(".")[-1] for key in grid]
    called = {key: part if last_parts.count(part) == 1 else key for key, part in zip(grid, last_parts, strict=True)}
    return [{called[key]: (key, value) for key, value in point} for point in itertools.product(*axes)]


def _check_overrides(overrides: Settings, arms: dict[str, Settings]) -> None:
    for key in overrides:
        if key == "seed":
            raise SettingsError("--seed: is what the runs of an arm differ in; change seeds in the study's file")
        for arm, changes in arms.items():
            if key in changes:
                raise SettingsError(f"--{key}: is what arms differ in (arm {arm}); change it in the study's file")


def _seeds(given: Any, name: str) -> list[int]:
    what = "give a list of different whole numbers from 0, such as [0, 1, 2]"
    if given is None:
        raise SettingsError(f"{name}: seeds: missing; {what}")
    numbers = isinstance(given, list) and all(isinstance(seed, int) and not isinstance(seed, bool) for seed in given)
    if not numbers or not given or min(given) < 0 or len(set(given)) < len(given):
        raise SettingsError(f"{name}: seeds: {given}; {what}")
    return given


def _configs(common: Settings, arms: dict[str, Settings], name: str) -> dict[str, Config]:
    combined = settings.combiner()
    configs = {}
    for arm, changes in arms.items():
        try:
            configs[arm] = combined(common, changes)
        except SettingsError as error:
            raise SettingsError(f"{name}: arm {arm}: {error}") from None
    return configs


def _require_different(configs: dict[str, Config], name: str) -> None:
    for (arm, config), (other, same) in itertools.combinations(configs.items(), 2):
        if config == same:
            raise SettingsError(f"{name}: arms {arm} and {other}: have the same settings; leave one out")
