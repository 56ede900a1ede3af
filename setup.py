"""Installation of hvd_imagenet; the metadata is in pyproject.toml."""

from setuptools import Extension, setup

# A library that is opened through ctypes: it needs a C compiler, as Horovod does, but no headers of Python.
RESAMPLE = Extension(
    "hvd_imagenet.data._resample",
    ["hvd_imagenet/data/resample.c"],
    extra_compile_args=["-O3", "-ffp-contract=off"],  # the weights, too, are the same on every CPU
)

setup(ext_modules=[RESAMPLE])
