#!/usr/bin/env bash
# Trains on several hosts under mpirun (Open MPI).
#
#   HOSTS=node1:8,node2:8 bash launch/mpirun.sh --config resnet50_8k --data.path /data --run runs/a
#
# The options are those of hvd-imagenet train. Everything else is set by environment:
#
#   HOSTS              host:workers of each host, with a comma between; one worker per GPU
#   HOSTFILE           in its place, a file with one "host slots=workers" to a line
#   NETWORK_INTERFACE  its name, or its network, such as 10.0.0.0/24 (default: as the hosts are reached from here)
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
ssh="-o BatchMode=yes -o StrictHostKeyChecking=accept-new ${SSH_PORT:+-p $SSH_PORT} ${SSH_KEY:+-i $SSH_KEY}"
options=(-np "$workers" -H "$hosts" --bind-to "${BIND_TO:-none}" --map-by "${MAP_BY:-slot}")
options+=(--mca plm_rsh_args "$ssh" --mca oob_tcp_if_include "$interface" --mca btl_tcp_if_include "$interface")

wanted='(LD_LIBRARY_)?PATH|PYTHON.*|(HVD_IMAGENET|HOROVOD|NCCL|UCX|OMP|MKL|TF|MALLOC|AWS|HF|FSSPEC|GOOGLE|KERAS)_.*'
for name in $(compgen -e | grep -xE "$wanted") HVD_IMAGENET_STATUS ${FORWARD:-}; do options+=(-x "$name"); done

# On a host that is cut off, Open MPI's daemon would outlive the workers until TCP gives up, a quarter of an hour later.
end='timeout 20 tail --pid=$DAEMON -f /dev/null; [ $? = 124 ] && [ "$(</proc/$DAEMON/comm)" = orted ] && kill -9 $DAEMON'
worker='trap : TERM INT HUP USR1; "$@"; code=$?; [ $code = 0 ] || { DAEMON=$PPID setsid bash -c "$0" & } &>/dev/null; exit $code'
exec bash "$here/job.sh" "$(command -v mpirun)" "${options[@]}" bash -c "$worker" "$end" hvd-imagenet train "$@"
