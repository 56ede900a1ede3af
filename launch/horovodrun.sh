#!/usr/bin/env bash
# Trains on several hosts under horovodrun, over Gloo (NCCL on GPUs).
#
#   HOSTS=node1:8,node2:8 bash launch/horovodrun.sh --config resnet50_8k --data.path /data --run runs/a
#
# The options are those of hvd-imagenet train. Everything else is set by environment:
#
#   HOSTS              host:workers of each host, with a comma between; one worker per GPU
#   HOSTFILE           in its place, a file with one "host slots=workers" to a line
#   NETWORK_INTERFACE  its name, the same on all hosts and here (default: as the hosts are reached from here)
#   SSH_PORT, SSH_KEY  of the hosts (default: as ssh itself has it)
#   START_SECONDS      how long the hosts may take to begin (120)
#
# All hosts need this environment at the same path, be let in by ssh with no password, and see the run's folder. Hosts
# and versions are looked at before anything begins. TERM, INT, HUP and USR1 save and end the job: launch/job.sh.
set -euo pipefail

case ${1:-} in
-h | --help)
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"
    exit
    ;;
esac
here=$(dirname "$0")
command -v hvd-imagenet >/dev/null || {
    echo "horovodrun.sh: hvd-imagenet is not on the PATH; run: source .venv/bin/activate" >&2
    exit 2
}
plan=$(python -m hvd_imagenet.hosts gloo) || exit
read -r workers hosts interface <<<"$plan"
options=(-np "$workers" -H "$hosts" --gloo --network-interface "$interface" --start-timeout "${START_SECONDS:-120}")
options+=(${SSH_PORT:+--ssh-port "$SSH_PORT"} ${SSH_KEY:+--ssh-identity-file "$SSH_KEY"})

# horovodrun looks at every framework, and TensorFlow talks. Its cache would forget that hosts change.
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-3}
exec bash "$here/job.sh" horovodrun --disable-cache "${options[@]}" hvd-imagenet train "$@"
