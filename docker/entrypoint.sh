#!/bin/sh
# The first process of a container: says so where its shared memory is small, then becomes the command.
mebibytes=$(df -m --output=size /dev/shm 2>/dev/null | tail -n 1 | tr -d ' ')
if [ "${mebibytes:-0}" -lt 512 ]; then
    echo "hvd_imagenet: /dev/shm has ${mebibytes:-0} MiB; the workers of a host exchange data through it, by NCCL or by MPI:" \
        "start the container with --shm-size=1g, or --ipc=host" >&2
fi
exec "$@"
