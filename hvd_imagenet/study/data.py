"""The data of a study: opened, and held against the settings of all arms, before any run begins."""

from __future__ import annotations

import dataclasses

from hvd_imagenet.config import Config
from hvd_imagenet.data.store import Store, open_store
from hvd_imagenet.errors import SettingsError
from hvd_imagenet.inputs import caching, require_data
from hvd_imagenet.startup import check_fit, resolved
from hvd_imagenet.study.definition import Study


def with_data(study: Study) -> tuple[Study, dict[str, str]]:
    """The study with what its data tells, and the checksum of each arm's training set.

    Raises:
        SettingsError, DataError: the data is not there, or does not fit.
    """
    opened: dict[str, Store] = {}
    for config in study.configs.values():
        require_data(config)
        path = config.data.path
        if path not in opened:
            opened[path] = open_store(path, "train", caching(config))
            open_store(path, "val", caching(config))
    sets = {arm: opened[config.data.path] for arm, config in study.configs.items()}
    for arm, config in study.configs.items():
        _check(arm, config, sets[arm])
    configs = {arm: resolved(config, sets[arm]) for arm, config in study.configs.items()}
    common = dict(study.settings)
    for arm, changes in study.arms.items():
        if "data.path" not in changes:
            common["data.path"] = configs[arm].data.path
    contents = {arm: train_set.contents() for arm, train_set in sets.items()}
    return dataclasses.replace(study, settings=common, configs=configs), contents


def _check(arm: str, config: Config, train_set: Store) -> None:
    try:
        check_fit(config, config.policy(len(train_set)), train_set, workers=1)
    except ValueError as error:
        raise SettingsError(f"arm {arm}: {error}") from None
