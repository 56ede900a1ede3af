"""Installation of hvd_imagenet; the metadata is in pyproject.toml."""

from setuptools import setup

setup()
