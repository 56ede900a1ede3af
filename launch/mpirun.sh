#!/usr/bin/env bash
# Trains on several hosts under mpirun (of Open MPI 4.1).
#
#   HOSTS=node1:8,node2:8 bash launch/mpirun.sh --config resnet50_8k --data.path /data --run runs/a
#
# The options are those of hvd-imagenet train. Everything else is set by environment:
#
#   HOSTS              host:workers of each host, with a comma between; one worker per GPU
#   HOSTFILE           in its place, a file with one "host slots=workers" to a line
#   NETWORK_INTERFACE  its name, or its network, such as 10.0.0.0/24, of which NCCL is not told (default: as the hosts
#                      are reached from here); an MPI that goes over UCX has UCX_NET_DEVICES
#   BIND_TO, MAP_BY    cores that a worker keeps to: none, core, numa, socket (none); how hosts are filled (slot)
#   FORWARD            names of further variables for the workers, with a space between
#   SSH_PORT, SSH_KEY  of the hosts (default: as ssh itself has it)
#   OMPI_MCA_...       any other setting of Open MPI, in its own way
#
# All hosts need this environment and Open MPI at the same paths, be let in by ssh with no password, and see the run's
# folder. Hosts and versions are looked at before anything begins. TERM, INT, HUP and USR1 save and end: launch/job.sh.
set -euo pipefail

case ${1:-} in
-h | --help)
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"
    exit
    ;;
esac
here=$(dirname "$0")
command -v hvd-imagenet >/dev/null || {
    echo "mpirun.sh: hvd-imagenet is not on the PATH; run: source .venv/bin/activate" >&2
    exit 2
}
plan=$(python -m hvd_imagenet.hosts mpi) || exit
read -r workers hosts interface <<<"$plan"
options=(-np "$workers" -H "$hosts" --bind-to "${BIND_TO:-none}" --map-by "${MAP_BY:-slot}")
. "$here/mpirun/options"

# The worker's script goes as text: other hosts may not see this folder.
exec bash "$here/job.sh" "$(command -v mpirun)" "${options[@]}" \
    bash -c "$(<"$here/mpirun/worker")" worker hvd-imagenet train "$@"
