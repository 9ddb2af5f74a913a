# What the size of a disk costs when little changed: 100 MiB changed on 16 GiB and on 16 TiB. Sourced.

# changed_backup SIZE: sets t_wall and t_memory to the median incremental's.
changed_backup() {
    local size=$1 disk=$work/meta-$1 store=$work/meta-store-$1 run uri
    local walls=() memories=()
    "$godwit" disk create "$disk" --size "$size" --quiet
    "$godwit" store init "$store" --quiet
    uri=$("$godwit" disk attach "$disk" --json | jq -r .uri)
    "$godwit" backup "$disk" --store "$store" --quiet
    for ((run = 0; run < runs; run++)); do
        # A hundred places of 1 MiB, spread over the whole disk.
        fio --name=change --ioengine=nbd --uri="$uri" --rw=randwrite --bs=1M --iodepth=4 --size="$size" --io_size=100M \
            --norandommap --randseed="$run" --refill_buffers > /dev/null 2> "$work/err"
        timed "$godwit" backup "$disk" --store "$store" --json
        walls+=("$t_wall")
        memories+=("$t_memory")
    done
    "$godwit" disk detach "$disk" --quiet
    rm -rf "$disk" "$store"
    t_wall=$(median "${walls[@]}")
    t_memory=$(median "${memories[@]}")
}

bench_metadata() {
    local size base=
    heading "Incremental backup with 100 MiB changed all over the disk, median of $runs"
    for size in 16G 16T; do
        changed_backup "$size"
        base=${base:-$t_wall}
        printf '  %-6s %8.2f s   peak %5d MiB   time against 16G %s\n' "$size" "$t_wall" "$((t_memory / 1024))" \
            "$(ratio "$t_wall" "$base")"
        record metadata "incremental 100M" "godwit $size" "seconds=$t_wall" "peakBytes=$((t_memory * 1024))" \
            "timeRatio=$(ratio "$t_wall" "$base")"
    done
}
