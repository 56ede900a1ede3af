"""hvd-imagenet bench: how fast a part of a run is on this machine."""

from __future__ import annotations

from hvd_imagenet.bench import allreduce, loader, scaling, step
from hvd_imagenet.errors import SettingsError

KINDS = {"loader": loader.main, "step": step.main, "scaling": scaling.main, "allreduce": allreduce.main}
SUMMARY = """usage: hvd-imagenet bench KIND [OPTION ...]

How fast a part of a run is on this machine, beside what else there is for it. The contestants take turns, each in
processes of its own; the others are stopped meanwhile. Shown are medians with their 95 % intervals.

  loader     images per second, from files to arrays, against other loaders
  step       images per second of a training step, against a loop by hand and the rate of matrix products
  scaling    images per second of several workers, against one, uncoupled ones, and other ways to train together
  allreduce  seconds of a sum over workers, by size, over each transport, against other libraries

  hvd-imagenet bench KIND --help says more about each.
"""


def main(arguments: list[str]) -> None:
    """Run ``hvd-imagenet bench`` with these arguments.

    Raises:
        RunError: see the kinds.
    """
    kind, *rest = arguments or [""]
    if kind in ("", "-h", "--help"):
        print(SUMMARY, end="")
        return
    if kind not in KINDS:
        raise SettingsError(f"bench: {kind}; known: {', '.join(KINDS)}")
    KINDS[kind](rest)
