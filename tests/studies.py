"""A tiny study, and a stand-in for what trains its runs, to try in seconds what happens between them."""

from pathlib import Path

from runs import RECIPE

from hvd_imagenet.study import definition
from hvd_imagenet.study.data import with_data
from hvd_imagenet.study.folder import StudyFolder

STUDY = """
title: A tiny study
base: recipe.yaml
arms:
  small: {batch.global_size: 20}
  large: {batch.global_size: 40, lr: {warmup: {kind: none}}}
seeds: [0, 1]
"""
NAMES = ["small/seed-0", "large/seed-0", "small/seed-1", "large/seed-1"]

# In the place of a launcher: it does not start what it is given. Its environment says how it behaves: MEETS, a number
# of runs that are to have begun before it goes on; FAILS, LINGERS, SILENT, the run that does so; LATE, the one that
# another job takes before it; PRETENDED, the file in which it notes what it is told. A run's result is an accuracy of
# 90 % minus its seed.
PRETENDS = """#!/bin/bash
while [ "$1" != --config ]; do shift; done
seed=$4 run=$6
name=$(basename "$(dirname "$run")")/$(basename "$run")
job=$$-$RANDOM
account() { printf '{"status": "%s", "exit_code": %s, "reason": "%s", "job": "%s"}' "$@" "$job" >"$run/status.json"; }
mkdir -p "$run"
sed "s/^seed: .*/seed: $seed/" "$2" >"$run/config.yaml"
echo "begin $name cores=$(taskset -pc $$ | sed 's/.*: //') gpu=$CUDA_VISIBLE_DEVICES $7 $8" >>"$PRETENDED"
if [ "$name" = "$SILENT" ]; then echo "no word of it"; exit 7; fi
if [ "$name" = "$LATE" ]; then
    until [ -s "$run/lock" ]; do sleep 0.05; done
    job=other account running null ""
    echo '{"status": "failed", "exit_code": 2, "reason": "in use", "job": null}' >"$HVD_IMAGENET_STATUS"
    exit 1
fi
account running null ""
until [ "$(grep -c begin "$PRETENDED")" -ge "${MEETS:-0}" ]; do sleep 0.05; done
while [ "$name" = "$LINGERS" ]; do
    if [ -e "$run/STOP" ]; then account stopped 75 "asked to"; echo "saved $name" >>"$PRETENDED"; exit 75; fi
    sleep 0.05
done
if [ "$name" = "$FAILS" ]; then account failed 4 "the loss is [not] finite"; exit 1; fi
echo '{"event": "step", "samples_seen": 160}' >>"$run/metrics.jsonl"
top1=0.$((90 - seed))
printf '{"val_top1": %s, "best_top1": %s, "median5_top1": %s}' $top1 $top1 $top1 >"$run/result.json"
account done 0 ""
echo "end $name" >>"$PRETENDED"
"""


def write_study(folder: Path, text: str = STUDY) -> Path:
    """The file of a study, beside its recipe and the stand-in."""
    (folder / "recipe.yaml").write_text("".join(f"{line}\n" for line in RECIPE.splitlines() if "seed" not in line))
    (folder / "study.yaml").write_text(text)
    (folder / "pretends").write_text(PRETENDS)
    (folder / "pretends").chmod(0o755)
    return folder / "study.yaml"


def prepared(folder: Path, images: Path, text: str = STUDY, **overrides) -> StudyFolder:
    """The study's folder, ready for runs; settings with two underscores in the place of dots."""
    given = {"data.path": str(images), **{key.replace("__", "."): value for key, value in overrides.items()}}
    made = StudyFolder(folder / "out", *with_data(definition.read(str(write_study(folder, text)), given)))
    made.prepare()
    return made
