#!/usr/bin/env bash
# In a container on each host but the first: lets the launcher on the first one in, to start workers here.
#
#   docker run --network host --volume $PWD/ssh:/home/trainer/.ssh:ro ... hvd_imagenet sshd.sh
#
# An ssh server for the container's own user and nobody else, by key only: the keys of ~/.ssh/authorized_keys.
# Environment: SSH_PORT (default 2222). It runs until it is ended, as by docker stop.
set -euo pipefail

port=${SSH_PORT:-2222}
if [ ! -s ~/.ssh/authorized_keys ]; then
    echo "sshd.sh: ~/.ssh/authorized_keys: is missing or empty; mount the folder that docker/README.md makes" >&2
    exit 2
fi
keys=$(mktemp -d)
ssh-keygen -q -t ed25519 -N '' -f "$keys/host" # of this container; it is nobody's for longer
exec /usr/sbin/sshd -D -e -f /dev/null -p "$port" -h "$keys/host" -o PidFile=none -o UsePAM=no \
    -o PasswordAuthentication=no -o KbdInteractiveAuthentication=no -o "AllowUsers=$(id -un)" -o "SetEnv=PATH=$PATH"
