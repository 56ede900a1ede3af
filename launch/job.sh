#!/usr/bin/env bash
# Runs a training job, lets it end well, says last how it ended, and exits with that status.
#
#   bash launch/job.sh LAUNCHER [OPTION ...] hvd-imagenet train ... --run RUN ...
#   bash launch/job.sh horovodrun -np 8 hvd-imagenet train --config resnet50_8k --data.path /data --run runs/a
#
# TERM, INT, HUP and USR1 become the file RUN/STOP: the job saves after the step at hand and ends with status 75; one that
# has not begun has nothing to save, and ends with that status at once. A second signal ends the launcher, and what it has
# started, at once. Launchers themselves give workers a few seconds at most, and horovodrun turns every status into 1;
# RUN/status.json has the one that the workers ended with. A launcher that goes on for half a minute after its job has
# ended, as mpirun does where it cannot reach a host any more, is ended, too.
set -uo pipefail

stop() {
    local now=${EPOCHREALTIME/[.,]/}
    if [ -z "$asked" ]; then
        asked=$now
        # In the background: where the file server hangs, a second signal is still heard.
        (
            trap "" TERM INT USR1 HUP # which may come to all processes of this one's group
            if [ -n "$training" ] && has_account; then
                echo "job.sh: got $1; the job saves and ends after the step at hand; a second signal ends it at once" >&2
                touch "$run/STOP"
            else
                kill -TERM ${launcher:+"$launcher"} 2>/dev/null
                [ -z "$training" ] || exit 75 # it had not begun
            fi
        ) &
        asking=$!
    elif [ $((now - asked)) -gt 1000000 ]; then # microseconds: within a second it is the same request
        kill -TERM ${launcher:+"$launcher"} 2>/dev/null
    fi
}

# The value of a key in a status file, which has one per line.
value() {
    sed -n "s/^ \"$2\": \"\{0,1\}\(.*[^\",]\)\"\{0,1\},\{0,1\}\$/\1/p" "$1" | sed 's/\\"/"/g; s/\\\\/\\/g'
}

# Whether RUN/status.json is of this job, which has begun then.
has_account() {
    [ "$(cat "$run/status.json" 2>/dev/null)" != "$before" ]
}

# The status file that tells how this job ended, or goes on. In an elastic job, a worker that is lost tells of itself alone.
account() {
    if { [ -n "$elastic" ] || [ ! -s "$HVD_IMAGENET_STATUS" ]; } && has_account; then
        echo "$run/status.json"
    else
        echo "$HVD_IMAGENET_STATUS"
    fi
}

# The exit status in it; nothing while the job goes on.
exit_code() {
    value "$(account)" exit_code 2>/dev/null | grep -xE '[0-9]+'
}

end_launcher_after_job() {
    [ -z "$elastic" ] || return 0 # the end of some workers is not that of the job
    until exit_code >/dev/null; do
        sleep 5
        kill -0 "$launcher" 2>/dev/null || return
    done
    sleep 30
    # With its children, such as the ssh to that host, which may be in groups of their own.
    kill -KILL -- "-$launcher" $(cat "/proc/$launcher/task/$launcher/children" 2>/dev/null)
}

# A function, so that the script is read whole before it begins: it may be replaced while a job runs.
main() {
    case ${1:-} in
    -h | --help)
        sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"
        exit
        ;;
    esac
    run=
    training=
    elastic=
    arguments=("$@")
    for ((i = 0; i < $#; i++)); do
        case ${arguments[i]} in
        --run) run=${arguments[i + 1]:-} ;;
        --run=*) run=${arguments[i]#--run=} ;;
        train) training=yes ;;
        --host-discovery-script) elastic=yes ;;
        esac
    done
    if [ -z "$run" ]; then
        echo "job.sh: --run is missing; give the launcher and all of its command, with --run FOLDER; --help says more" >&2
        exit 2
    fi

    before=$(cat "$run/status.json" 2>/dev/null)
    # Told by a job that ends before it has taken the folder; beside that, since the first worker may be on another host.
    beside=$(realpath -m "$run/..")
    while [ ! -d "$beside" ]; do beside=$(dirname "$beside"); done
    HVD_IMAGENET_STATUS=$(mktemp -p "$beside" .status-XXXXXX 2>/dev/null || mktemp)
    export HVD_IMAGENET_STATUS
    rm "$HVD_IMAGENET_STATUS"
    trap 'rm -f "$HVD_IMAGENET_STATUS"' EXIT

    asked=
    launcher=

    for name in TERM INT USR1 HUP; do
        # shellcheck disable=SC2064 # the name as it is now
        trap "stop $name" "$name"
    done
    set -m # a process group of its own: what the terminal sends to this script should not end the launcher
    "$@" </dev/null &
    launcher=$!
    end_launcher_after_job &
    watcher=$!
    disown
    set +m
    while kill -0 "$launcher" 2>/dev/null; do
        wait "$launcher" 2>/dev/null # a signal to this script ends the waiting, too
    done
    wait "$launcher"
    status=$?
    kill -- "-$watcher" 2>/dev/null
    [ -z "$asked" ] || rm -f "$run/STOP" # it was for this job alone

    account=$(account)
    code=$(exit_code)
    if [ -z "$code" ]; then
        [ -z "$asked" ] || wait "$asking"
        if [ $? -eq 75 ]; then
            echo "job.sh: stopped, exit status 75: asked to before the job had begun; there was nothing to save" >&2
            exit 75
        fi
        if [ "$status" -ne 0 ]; then
            echo "job.sh: the launcher ended with status $status, and no worker has said why; see above" >&2
        fi
        exit "$status"
    fi
    if [ "$code" -ne 0 ]; then
        echo "job.sh: $(value "$account" status), exit status $code: $(value "$account" reason)" >&2
    fi
    exit "$code"
}

main "$@"
