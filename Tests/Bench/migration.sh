# A disk that is written to at 50 MiB/s moves over SSH on the loopback, against the limit that was asked for. Sourced.

bench_migration() {
    local disk=$work/moving target=$work/far/moved uri writer run report=$work/migrate.json
    local limit=300 rate=50
    local -a downs=()
    heading "Migration under a random writer of $rate MiB/s in 64 KiB, over sshd on the loopback, limit $limit ms"
    mkdir -p "$work/far/run"
    . "$here/../Demo/sshd.sh"
    start_sshd "$work/ssh" "GODWIT_RUN_DIR=$work/far/run" "GODWIT_CONFIG=$GODWIT_CONFIG"
    servers=("$SSHD_PID")
    export GODWIT_SSH_CONFIG=$SSHD_CLIENT_CONFIG GODWIT_REMOTE_COMMAND="$godwit agent --stdio"
    for ((run = 0; run < runs; run++)); do
        "$godwit" disk create "$disk" --size 4G --quiet
        uri=$("$godwit" disk attach "$disk" --json | jq -r .uri)
        fio --name=fill --ioengine=nbd --uri="$uri" --rw=write --bs=1M --iodepth=4 --size=2G \
            --buffer_compress_percentage=50 --refill_buffers > /dev/null 2> "$work/err"
        # It ends with the source: its next write fails. It looks whether it writes before the move begins.
        mkfifo "$work/started"
        fio --name=writer --ioengine=nbd --uri="$uri" --rw=randwrite --bs=64k --iodepth=8 --size=2G --rate="${rate}M" \
            --time_based --runtime=600 --refill_buffers --buffer_compress_percentage=50 --norandommap \
            --randrepeat=0 --status-interval=1 > "$work/started" 2>&1 &
        writer=$!
        exec 8< "$work/started"
        grep -q 'IOPS=' <&8
        cat <&8 > /dev/null &
        exec 8<&-
        "$godwit" migrate "$disk" "root@127.0.0.1:$SSHD_PORT:$target" --max-downtime "${limit}ms" --json > "$report"
        kill "$writer" 2> /dev/null || true
        wait "$writer" 2> /dev/null || true
        jq -r '"  rounds \(.rounds | length), downtime \(.downtimeMilliseconds | floor) ms (predicted " +
            "\(.predictedDowntimeMilliseconds | floor) ms), last dirty rate " +
            "\(.rounds[-1].dirtyBytesPerSecond / 1048576 | floor) MiB/s, goodput " +
            "\(.rounds[-1].goodputBytesPerSecond / 1048576 | floor) MiB/s, equal digests: " +
            "\(.sourceDigest == .targetDigest)"' "$report"
        [ "$(jq -r .sourceDigest "$report")" = "$(jq -r .targetDigest "$report")" ]
        downs+=("$(jq .downtimeMilliseconds "$report")")
        # The target has it, but nobody there has asked for it to be served.
        rm -rf "$disk" "$target" "$work/started"
    done
    stop_sshd
    servers=()
    printf '  median downtime %s ms of %s ms\n' "$(median "${downs[@]}")" "$limit"
    record migration "writer ${rate} MiB/s" godwit "downtimeMilliseconds=$(median "${downs[@]}")" "limitMilliseconds=$limit"
}
