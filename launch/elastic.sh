#!/usr/bin/env bash
# Trains on hosts that come and go, under horovodrun, over Gloo (NCCL on GPUs).
#
#   HOSTFILE=hosts bash launch/elastic.sh --config resnet50_8k --data.path /data --run runs/a
#
# The options are those of hvd-imagenet train; --run is needed. A host that fails is left out, and one that comes back,
# or is written into HOSTFILE later, is taken in: the workers begin anew in place, from the last state that they keep
# in memory (--faults.commit_every_steps), with the same global batch along the same samples. By environment:
#
#   HOSTFILE           lines of host:workers, read every second; a host counts while it answers on ssh's port
#   DISCOVER           in its place, a command that prints such lines, for the hosts that are there
#   MIN_WORKERS        with fewer, the job waits for more (1), up to HOROVOD_ELASTIC_TIMEOUT seconds (600), then ends
#   MAX_WORKERS        hosts beyond are kept in reserve (default: none)
#   STALL_SECONDS      a host that is cut off for as long is given up, in at most twice the time (60)
#   COOLDOWN           seconds for which a host that failed is left alone, from and to, doubled each time ("10 300")
#   NETWORK_INTERFACE  its name, the same on all hosts and here (default: Horovod looks for one)
#   SSH_PORT           of the hosts (22)
#
# TERM, INT, HUP and USR1 save and end the job: launch/job.sh.
set -euo pipefail

here=$(dirname "$0")
SSH_PORT=${SSH_PORT:-22} STALL_SECONDS=${STALL_SECONDS:-60}
case ${1:-} in
-h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit ;;
--hosts-that-answer)
    while IFS=: read -r host workers; do
        [ -z "$host" ] || { timeout 5 bash -c ": </dev/tcp/$host/$SSH_PORT" 2>/dev/null && echo "$host:$workers"; } &
    done <"$HOSTFILE"
    wait; exit ;;
esac
[ -n "${DISCOVER:-}" ] || [ -r "${HOSTFILE:-}" ] || {
    echo "elastic.sh: give HOSTFILE=FILE, with lines of host:workers, or DISCOVER=COMMAND; --help says more" >&2
    exit 2
}
SSH=$(command -v ssh)
export HOSTFILE SSH SSH_PORT STALL_SECONDS PATH=$(realpath "$here")/elastic:$PATH # where ssh is told to give up
read -ra cooldown <<<"${COOLDOWN:-10 300}"
options=(--min-np "${MIN_WORKERS:-1}" -np "${MIN_WORKERS:-1}" --blacklist-cooldown-range "${cooldown[@]}" --ssh-port "$SSH_PORT")
options+=(${MAX_WORKERS:+--max-np "$MAX_WORKERS"} ${NETWORK_INTERFACE:+--network-interface "$NETWORK_INTERFACE"})
options+=(--host-discovery-script "${DISCOVER:-bash $here/elastic.sh --hosts-that-answer}")
exec bash "$here/job.sh" horovodrun --disable-cache "${options[@]}" \
    hvd-imagenet train --faults.stall_seconds "$STALL_SECONDS" "$@"
