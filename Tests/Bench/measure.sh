# Running, timing and tabulating. Sourced.

clean_up() {
    local status=$? disk pid
    set +e
    for disk in "$work"/*/DiskDescriptor.xml; do
        [ ! -e "$disk" ] || "$godwit" disk detach "$(dirname "$disk")" --quiet 2> /dev/null
    done
    for pid in "${servers[@]}"; do
        kill "$pid" 2> /dev/null && timeout 20 tail --pid="$pid" -f /dev/null
    done
    rm -rf --one-file-system "$work"
    return "$status"
}

# median NUMBER...
median() {
    printf '%s\n' "$@" | sort -g \
        | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}

# peak PID: the most memory that a process has had so far, in bytes.
peak() { awk '/^VmHWM:/ { print $2 * 1024 }' "/proc/$1/status"; }

# timed COMMAND...: sets t_wall and t_cpu (seconds) and t_memory (KiB, of the largest process).
timed() {
    sync
    /usr/bin/time -o "$work/time" -f '%e %U %S %M' "$@" > "$work/out" 2> "$work/err" || {
        echo "failed: $*" >&2
        tail -n 5 "$work/err" "$work/out" >&2
        return 1
    }
    read -r t_wall t_user t_system t_memory < <(tail -n 1 "$work/time")
    t_cpu=$(awk -v u="$t_user" -v s="$t_system" 'BEGIN { print u + s }')
}

# record PART WHAT WHO KEY=NUMBER...: one result, as a line of JSON.
record() {
    local part=$1 what=$2 who=$3 pair
    shift 3
    local json
    json=$(jq -cn --arg part "$part" --arg what "$what" --arg who "$who" '{part: $part, what: $what, who: $who}')
    for pair; do json=$(jq -c --arg k "${pair%%=*}" --argjson v "${pair#*=}" '.[$k] = $v' <<< "$json"); done
    echo "$json" >> "$results"
}

# ratio A B: A/B with two decimals.
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { if (b > 0) printf "%.2f", a / b; else print "-" }'; }
heading() { printf '\n%s\n' "$1"; }
