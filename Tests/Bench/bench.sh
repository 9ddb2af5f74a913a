#!/bin/bash
# Measures godwit against its peers, each pair in one run: a table on the terminal, JSON in BENCH_OUT.
#
#   bench.sh [device] [backup] [metadata] [migration]      all unless told
#
# BENCH_DIR     where to work (a folder is made in it; its file system is what is measured). Default: /var/tmp
# BENCH_GIB     size of the disk of the backup part, default 10
# BENCH_RUNS    runs of each measurement, whose median counts, default 3
# BENCH_SECONDS length of one fio run, default 8
# BENCH_OUT     the JSON, default bench.json in the current folder
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
godwit=${GODWIT:-$root/.build/stage/usr/bin/godwit}
gib=${BENCH_GIB:-10}
runs=${BENCH_RUNS:-3}
seconds=${BENCH_SECONDS:-8}
out=${BENCH_OUT:-bench.json}
. "$here/measure.sh"
. "$here/device.sh"
. "$here/backup.sh"
. "$here/metadata.sh"
. "$here/migration.sh"

work=$(mktemp -d "${BENCH_DIR:-/var/tmp}/godwit-bench.XXXXXX")
export GODWIT_RUN_DIR=$work/run GODWIT_CONFIG=$work/godwit.toml
mkdir "$work/run"
: > "$GODWIT_CONFIG"
results=$work/results
: > "$results"
servers=()
trap clean_up EXIT
trap 'exit 130' INT TERM

for part in "${@:-device backup metadata migration}"; do
    for name in $part; do "bench_$name"; done
done
jq -s '{machine: {cpus: $cpus, kernel: $kernel}, results: .}' --argjson cpus "$(nproc)" --arg kernel "$(uname -r)" \
    "$results" > "$out"
echo "JSON: $out"
