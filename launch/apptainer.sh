#!/usr/bin/env bash
# Trains in an Apptainer image: mpirun, outside, starts the workers of all hosts, each in a container.
#
#   HOSTS=node1:8,node2:8 BIND=/data bash launch/apptainer.sh --config resnet50_8k --data.path /data/imagenet --run runs/a
#
# The arguments are those of hvd-imagenet train. A signal, or Ctrl-C, saves and ends the job: see launch/job.sh.
# Environment:
#   IMAGE      the image, on a path that all hosts have (default hvd_imagenet.sif); docker/README.md says how to make it
#   HOSTS      hosts, each with its number of workers (default: this host, or those of the Slurm job)
#   WORKERS    how many (default: all that HOSTS names; without HOSTS the Slurm job's tasks, or 1)
#   BIND       folders to show inside, separated by commas; home, this folder and /tmp are there
#   NETWORK_INTERFACE  that between the hosts, such as ib0 (default: MPI's and NCCL's own choice)
#   APPTAINER  the command (default apptainer)
#   FORWARD, SSH_PORT, SSH_KEY  as for mpirun.sh
# mpirun must be of the Open MPI series of the image: `apptainer exec IMAGE mpirun --version` tells.
set -euo pipefail
case ${1:-} in
-h | --help)
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"
    exit
    ;;
esac
image=${IMAGE:-hvd_imagenet.sif}
if [ ! -e "$image" ]; then
    echo "apptainer.sh: IMAGE: $image; is not there; docker/README.md says how to make it" >&2
    exit 2
fi

options=(--bind-to none --map-by slot)
workers=${SLURM_NTASKS:-1}
if [ -n "${HOSTS:-}" ]; then
    options+=(-H "$HOSTS")
    workers=$(tr , '\n' <<<"$HOSTS" | awk -F: '{ sum += NF > 1 ? $2 : 1 } END { print sum }')
fi
interface=${NETWORK_INTERFACE:-}
. "$(dirname "$0")/mpirun/options"

# Each host says for itself whether it has a GPU. --pwd: runs are written where this script was started.
# shellcheck disable=SC2016
in_container='nv=; [ ! -e /dev/nvidiactl ] || nv=--nv; exec "$0" exec $nv "$@"'
exec bash "$(dirname "$0")/job.sh" mpirun -np "${WORKERS:-$workers}" "${options[@]}" bash -c "$in_container" "${APPTAINER:-apptainer}" \
    --bind "$PWD${BIND:+,$BIND}" --pwd "$PWD" "$image" hvd-imagenet train "$@"
