#!/usr/bin/env bash
# Trains on hosts that come and go, under horovodrun, over Gloo (NCCL on GPUs).
#
#   HOSTFILE=hosts bash launch/elastic.sh --config resnet50_8k --data.path /data --run runs/a
#
# The options are those of hvd-imagenet train; --run is needed. A host that fails is left out, and one that comes back,
# or is written into HOSTFILE later, is taken in: the workers begin anew in place, from the last state that they keep
# in memory (--faults.commit_every_steps), with the same global batch along the same samples. By environment:
#
#   HOSTFILE           a file with one "host slots=workers" to a line; a host counts while it answers on ssh's port
#   DISCOVER           in its place, a command that prints host:workers for each host that is there, asked every second
#   MIN_WORKERS        with fewer, the job waits for more (1), up to HOROVOD_ELASTIC_TIMEOUT seconds (600), then ends
#   MAX_WORKERS        hosts beyond are kept in reserve (default: none)
#   STALL_SECONDS      a host that is cut off for as long is given up, in at most twice the time (60)
#   COOLDOWN           seconds for which a host that failed is left alone, from and to, doubled each time ("10 300")
#   NETWORK_INTERFACE  its name, the same on all hosts and here (default: as the hosts are reached from here)
#   SSH_PORT, SSH_KEY  of the hosts (default: 22, and as ssh itself has it)
#
# Hosts that are there, and versions, are looked at before anything begins; a host that comes later and does not fit is
# left out. TERM, INT, HUP and USR1 save and end the job: launch/job.sh.
set -euo pipefail

case ${1:-} in
-h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit ;;
esac
here=$(dirname "$0")
command -v hvd-imagenet >/dev/null || {
    echo "elastic.sh: hvd-imagenet is not on the PATH; run: source .venv/bin/activate" >&2
    exit 2
}
heard=$(mktemp) # when each host has answered: a file that ends with this process, which becomes job.sh's
exec 9<>"$heard"; rm "$heard"
export HEARD=/proc/$$/fd/9 STALL_SECONDS=${STALL_SECONDS:-60} TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-3}
[ -z "${DISCOVER:-}" ] || export HOSTFILE= HOSTS=$($DISCOVER | paste -sd,)
interface=$(python -m hvd_imagenet.hosts elastic) || exit
read -ra cooldown <<<"${COOLDOWN:-10 300}"
options=(--min-np "${MIN_WORKERS:-1}" -np "${MIN_WORKERS:-1}" ${MAX_WORKERS:+--max-np "$MAX_WORKERS"} --network-interface "$interface")
options+=(--blacklist-cooldown-range "${cooldown[@]}" ${SSH_PORT:+--ssh-port "$SSH_PORT"} ${SSH_KEY:+--ssh-identity-file "$SSH_KEY"})
options+=(--host-discovery-script "${DISCOVER:-python -m hvd_imagenet.hosts answering}")
export SSH=$(command -v ssh) PATH=$(realpath "$here")/elastic:$PATH # where ssh is told to give up
exec bash "$here/job.sh" horovodrun --disable-cache "${options[@]}" hvd-imagenet train --faults.stall_seconds "$STALL_SECONDS" "$@"
