# Full and incremental backup, and restore, of a disk with real content, against other people's tools. Sourced.

export RESTIC_PASSWORD=bench BORG_UNENCRYPTED_REPO_ACCESS_IS_OK=yes BORG_RELOCATED_REPO_ACCESS_IS_OK=yes

# An ext4 of `gib` GiB with this machine's programs and libraries, and a tenth of noise that no one can compress.
make_content() {
    local image=$1 tree=$work/tree budget=$((gib * 1024 * 7 / 10)) used=0 folder size
    mkdir -p "$tree"
    # Hard links where the file system allows: mkfs reads the files, a copy would only cost time.
    for folder in /usr/bin /usr/lib /usr/share /opt /usr/include /usr/sbin /usr/local; do
        [ -d "$folder" ] && [ ! -L "$folder" ] || continue
        size=$(du -sxm "$folder" | cut -f1)
        [ $((used + size)) -le "$budget" ] || continue
        mkdir -p "$tree$(dirname "$folder")"
        cp -al "$folder" "$tree$folder" 2> /dev/null || cp -a "$folder" "$tree$folder"
        used=$((used + size))
    done
    head -c "$((gib * 1024 / 10))M" /dev/urandom > "$tree/noise"
    truncate -s "${gib}G" "$image"
    mkfs.ext4 -q -F -E lazy_itable_init=0 -d "$tree" "$image"
    rm -rf "$tree"
}

bytes_in() { du -s -B1 --apparent-size "$1" | cut -f1; }

# row WHAT WHO WALL SIZE BASE: one line, `BASE` is godwit's wall time.
row() {
    printf '  %-22s %-18s %8.2f s %8.1f MiB cpu %7.2f s  peak %5d MiB  time/godwit %s\n' \
        "$1" "$2" "$3" "$(ratio "$4" 1048576)" "$t_cpu" "$((t_memory / 1024))" "$(ratio "$3" "$5")"
    record backup "$1" "$2" "seconds=$3" "cpuSeconds=$t_cpu" "storedBytes=$4" "peakBytes=$((t_memory * 1024))" \
        "timeRatio=$(ratio "$3" "$5")"
}

bench_backup() {
    local raw=$work/content.raw disk=$work/disk store=$work/store before own
    heading "Backup and restore of a ${gib} GiB disk with real content"
    make_content "$raw"
    "$godwit" disk import "$raw" "$disk" --quiet
    "$godwit" store init "$store" --quiet
    restic init -q -r "$work/restic" > /dev/null
    borg init -e none "$work/borg"
    printf '  content: %s MiB in use of %s GiB\n' "$(du -m "$raw" | cut -f1)" "$gib"

    timed "$godwit" backup "$disk" --store "$store" --json
    own=$t_wall
    before=$(bytes_in "$store")
    row "full backup" godwit "$t_wall" "$before" "$own"
    timed restic -q -r "$work/restic" backup "$raw"
    row "full backup" restic "$t_wall" "$(bytes_in "$work/restic")" "$own"
    timed borg create "$work/borg::full" "$raw"
    row "full backup" borg "$t_wall" "$(bytes_in "$work/borg")" "$own"
    borg init -e none "$work/borg-zstd"
    timed borg create --compression zstd,3 "$work/borg-zstd::full" "$raw"
    row "full backup" "borg zstd,3" "$t_wall" "$(bytes_in "$work/borg-zstd")" "$own"
    rm -rf "$work/borg-zstd"
    timed qemu-img convert -c -f raw -O qcow2 "$raw" "$work/compressed.qcow2"
    row "full backup" "qemu-img -c" "$t_wall" "$(bytes_in "$work/compressed.qcow2")" "$own"
    timed zstd -q -f -1 -T0 "$raw" -o "$work/content.zst"
    row "full backup" "zstd -1 -T0" "$t_wall" "$(bytes_in "$work/content.zst")" "$own"
    rm "$work/content.zst"
    local full=$own

    # One hundredth of the disk, as pieces of 64 KiB all over it.
    local uri
    uri=$("$godwit" disk attach "$disk" --json | jq -r .uri)
    fio --name=change --ioengine=nbd --uri="$uri" --rw=randwrite --bs=64k --iodepth=4 --size="${gib}G" \
        --io_size="$((gib * 1024 / 100))M" --buffer_compress_percentage=50 --refill_buffers --randseed=7 \
        > /dev/null 2> "$work/err"
    timed "$godwit" backup "$disk" --store "$store" --json
    cp "$work/out" "$work/incremental.json"
    own=$t_wall
    row "incremental 1 %" godwit "$t_wall" "$(($(bytes_in "$store") - before))" "$own"
    printf '  %-22s %s of the full backup'"'"'s time; changed clusters and bytes read: %s\n' "" "$(ratio "$own" "$full")" \
        "$(jq -c '{changedClusters, clusterBytes, readBytes}' "$work/incremental.json")"
    "$godwit" disk detach "$disk" --quiet
    "$godwit" disk export "$disk" "$work/changed.raw" --quiet
    mv "$work/changed.raw" "$raw"
    before=$(bytes_in "$work/restic")
    timed restic -q -r "$work/restic" backup "$raw"
    row "incremental 1 %" restic "$t_wall" "$(($(bytes_in "$work/restic") - before))" "$own"
    before=$(bytes_in "$work/borg")
    timed borg create "$work/borg::second" "$raw"
    row "incremental 1 %" borg "$t_wall" "$(($(bytes_in "$work/borg") - before))" "$own"

    local point
    point=$("$godwit" points --store "$store" --json | jq -r '.points[-1].id')
    timed "$godwit" restore "$point" --store "$store" --raw "$work/restored.raw" --quiet
    own=$t_wall
    row "restore" godwit "$t_wall" "$(bytes_in "$work/restored.raw")" "$own"
    cmp "$work/restored.raw" "$raw"
    rm "$work/restored.raw"
    timed qemu-img convert -f qcow2 -O raw "$work/compressed.qcow2" "$work/restored.raw"
    row "restore" "qemu-img convert" "$t_wall" "$(bytes_in "$work/restored.raw")" "$own"
    rm "$work/restored.raw"
    timed restic -q -r "$work/restic" restore latest --target "$work/restic-out"
    row "restore" restic "$t_wall" "$(bytes_in "$raw")" "$own"
    rm -rf "$work/restic-out"
    mkdir "$work/borg-out"
    timed env -C "$work/borg-out" borg extract --sparse "$work/borg::second"
    row "restore" borg "$t_wall" "$(bytes_in "$raw")" "$own"
    rm -rf "$work/borg-out" "$work/borg" "$work/restic" "$store" "$disk" "$raw" "$work/compressed.qcow2"
}
