#!/bin/bash
# Runs each fuzz target for FUZZ_SECONDS (30). FUZZ_TARGETS names some of them; FUZZ_DIR is where everything goes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${FUZZ_DIR:-$here/../../.build/fuzz}
seconds=${FUZZ_SECONDS:-30}
read -r -a targets <<< "${FUZZ_TARGETS:-}"
if [ ${#targets[@]} -eq 0 ]; then
	mapfile -t targets < <(grep -l '^// modules:' "$here"/*.swift | xargs -n 1 basename | sed 's/\.swift$//')
fi
"$here/build.sh" "$out" "${targets[@]}"

status=0
for target in "${targets[@]}"; do
	folder=$out/fuzz-$target
	mkdir -p "$folder/corpus"
	FUZZ_SEEDS=$folder/corpus "$out/fuzz$target"
	echo "fuzz: $target for $seconds s"
	if ! (cd "$folder" && "$out/fuzz$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -max_len=65536 \
		-print_final_stats=1 corpus > log 2>&1); then
		status=1
		tail -n 40 "$folder/log"
		echo "fuzz: $target FAILED; the input is in $folder" >&2
	else
		grep -E 'stat::number_of_executed_units|stat::peak_rss_mb' "$folder/log"
	fi
done
exit $status
