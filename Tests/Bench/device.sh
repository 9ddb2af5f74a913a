# The user-space device against qemu-nbd on a qcow2 of the same cluster size, both with direct I/O. Sourced.

device_size=4G

# fio_rate URI NAME ARGUMENT...: sets rate to bytes a second.
fio_rate() {
    local uri=$1 name=$2
    shift 2
    # Into a file: fio says "connected" on standard output, in the middle of the JSON.
    fio --name="$name" --ioengine=nbd --uri="$uri" --output-format=json --output="$work/fio.json" --time_based \
        --runtime="$seconds" --randrepeat=0 --norandommap "$@" > "$work/err" 2>&1 || { cat "$work/err" >&2; return 1; }
    rate=$(jq '.jobs[0] | .read.bw_bytes + .write.bw_bytes' "$work/fio.json")
}

# start_peer CLUSTER: a fresh qcow2 behind qemu-nbd; sets peer_uri.
start_peer() {
    rm -f "$work/peer.qcow2" "$work/peer.sock" "$work/peer.pid"
    qemu-img create -q -f qcow2 -o "cluster_size=$1" "$work/peer.qcow2" "$device_size"
    qemu-nbd --fork --persistent --shared=16 --cache=none --aio=native --discard=unmap --socket="$work/peer.sock" \
        --pid-file="$work/peer.pid" --format=qcow2 "$work/peer.qcow2"
    servers=("$(cat "$work/peer.pid")")
    peer_uri="nbd+unix:///?socket=$work/peer.sock"
}

stop_peer() {
    kill "${servers[0]}"
    timeout 60 tail --pid="${servers[0]}" -f /dev/null
    servers=()
}

# start_own CLUSTER: a fresh disk; sets own_uri and own_pid.
start_own() {
    rm -rf "$work/own"
    "$godwit" disk create "$work/own" --size "$device_size" --cluster "$1" --quiet
    read -r own_uri own_pid < <("$godwit" disk attach "$work/own" --json | jq -r '.uri + " " + (.pid | tostring)')
}

stop_own() { "$godwit" disk detach "$work/own" --quiet; }

# compare CLUSTER WHAT FIO-ARGUMENT...: both in turn, `runs` times; prints a row.
compare() {
    local cluster=$1 what=$2 run
    local own=() peer=()
    shift 2
    for ((run = 0; run < runs; run++)); do
        if [ "$what" = "first writes 4K" ]; then
            stop_own; start_own "$cluster"; stop_peer; start_peer "$cluster"
        fi
        fio_rate "$own_uri" own "$@"
        own+=("$rate")
        fio_rate "$peer_uri" peer "$@"
        peer+=("$rate")
    done
    local a b
    a=$(median "${own[@]}")
    b=$(median "${peer[@]}")
    printf '  %-8s %-20s %10.1f MiB/s %10.1f MiB/s   %s\n' "$cluster" "$what" "$(ratio "$a" 1048576)" \
        "$(ratio "$b" 1048576)" "$(ratio "$a" "$b")"
    record device "$what $cluster" godwit "bytesPerSecond=$a" "ratio=$(ratio "$a" "$b")"
    record device "$what $cluster" qemu-nbd "bytesPerSecond=$b"
}

bench_device() {
    heading "User-space device, $device_size, direct I/O, fio over a unix socket, median of $runs runs of $seconds s"
    printf '  %-8s %-20s %16s %16s   %s\n' cluster pattern godwit qemu-nbd ratio
    local cluster
    for cluster in 1M 64K; do
        start_own "$cluster"
        start_peer "$cluster"
        compare "$cluster" "first writes 4K" --rw=randwrite --bs=4k --iodepth=16 --size="$device_size"
        # Every cluster in place before the rest.
        local uri
        for uri in "$own_uri" "$peer_uri"; do
            fio --name=fill --ioengine=nbd --uri="$uri" --rw=write --bs=1M --iodepth=4 --size="$device_size" \
                > /dev/null 2> "$work/err"
        done
        compare "$cluster" "random read 4K" --rw=randread --bs=4k --iodepth=16 --size="$device_size"
        compare "$cluster" "random write 4K" --rw=randwrite --bs=4k --iodepth=16 --size="$device_size"
        compare "$cluster" "sequential read 1M" --rw=read --bs=1M --iodepth=4 --size="$device_size"
        compare "$cluster" "sequential write 1M" --rw=write --bs=1M --iodepth=4 --size="$device_size"
        printf '  %-8s %-20s %10.1f MiB   %10.1f MiB\n' "$cluster" "peak memory" "$(ratio "$(peak "$own_pid")" 1048576)" \
            "$(ratio "$(peak "${servers[0]}")" 1048576)"
        record device "peak memory $cluster" godwit "peakBytes=$(peak "$own_pid")"
        record device "peak memory $cluster" qemu-nbd "peakBytes=$(peak "${servers[0]}")"
        stop_own
        stop_peer
        rm -rf "$work/own" "$work/peer.qcow2"
    done
}
