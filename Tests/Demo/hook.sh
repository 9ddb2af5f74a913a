#!/bin/bash
# The demo's hooks, as the configuration calls them: hook.sh WORK-FOLDER WHAT.
set -euo pipefail
work=$1
. "$work/state"

case "$2" in
hold)
    # The writer stands still between two commits while the disk is frozen, so that what the state holds is known exactly.
    touch "$work/hold"
    read -r _ < "$work/held"
    tail -n 1 "$acks" > "${acks%/*}/exact"
    ;;
release)
    rm -f "$work/hold"
    echo go > "$work/go"
    ;;
stop)
    # The guest of the demo is a writer, a PostgreSQL server and a mounted file system.
    kill "$(cat "$work/writer.pid")" 2>/dev/null || true
    cd / && exec runuser -u postgres -- "$pg_bin/pg_ctl" stop -w -t 180 -s -m immediate -D "$pg_data"
    ;;
esac
