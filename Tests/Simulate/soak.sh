#!/bin/bash
# soak.sh PROGRAM SECONDS [FIRST]: runs the simulation with seeds from FIRST on, in as many processes as there are
# processors, until the time is over. A process that traps or hangs costs its seed, which is told, and the next one
# goes on behind it. The closing line counts the seeds; status 1 when one failed.
set -u
program=$1 seconds=$2 first=${3:-1}
workers=${WORKERS:-$(nproc)}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export SWIFT_DETERMINISTIC_HASHING=1 SWIFT_BACKTRACE=enable=no
# One thread runs at a time and much memory comes and goes: neither is worth a call of the kernel's. Twice the seeds.
export MALLOC_ARENA_MAX=1 MALLOC_TOP_PAD_=$((64 << 20)) MALLOC_TRIM_THRESHOLD_=$((512 << 20)) \
    MALLOC_MMAP_THRESHOLD_=$((512 << 20))

# One of the processes, and those that come after it.
work() {
    local number=$1 next=$2 end=$3 status seed passed failed left pin=()
    if taskset -c "$number" true 2> /dev/null; then
        pin=(taskset -c "$number")
    fi
    while left=$((end - SECONDS)); [ "$left" -gt 0 ]; do
        "${pin[@]}" "$program" --first "$next" --step "$workers" --seconds "$left" --progress "$folder/seed$number" \
            > "$folder/out" 2>&1
        status=$?
        cat "$folder/out"
        read -r seed passed failed < "$folder/seed$number"
        if [ "$status" -le 1 ]; then
            return
        fi
        echo "seeds $next to $seed by $workers: $passed passed, $((failed + 1)) failed"
        echo "seed $seed ended by signal $((status - 128))"
        timeout 300 "$program" --seed "$seed" --brief || true
        next=$((seed + workers))
    done
}

for number in $(seq 0 $((workers - 1))); do
    mkdir "$folder/$number"
    (folder=$folder/$number; work "$number" $((first + number)) $((SECONDS + seconds))) > "$folder/log$number" &
done
wait
cat "$folder"/log*
awk '/^seeds .* passed, .* failed$/ { passed += $7; failed += $9 }
    /^done: / { sub("^done: ", ""); count = split($0, parts, ", ")
        for (part = 1; part <= count; part++) {
            number = parts[part] + 0; sub("^[0-9]+ ", "", parts[part]); done[parts[part]] += number } }
    END { for (kind in done) printf "%d %s\n", done[kind], kind | "sort -k2"; close("sort -k2")
        printf "simulation: %d passed, %d failed\n", passed, failed; exit failed > 0 || passed == 0 }' "$folder"/log*
