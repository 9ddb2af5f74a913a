# Sourced by groups that record a disk's writes and flushes and look at what power cuts would have left of it (see recorder/).
# Gives $work, a temporary folder, and $work/out, the guests' /out.

work=$(mktemp -d "${TMPDIR:-/tmp}/godwit-record.XXXXXX")
# Some 3 GiB for a moment, and thrown away: in memory where there is plenty of it. A guest sees its own /dev/shm.
disks=$work
available=$(awk '/^MemAvailable/ { print int($2 / 1048576) }' /proc/meminfo)
if [ "$available" -ge 10 ] && [ "$(stat -f -c %T /dev/shm)" = tmpfs ]; then
    disks=$(mktemp -d /dev/shm/godwit-record.XXXXXX)
fi
mkdir "$work/out"
nbdkit='' vm=''
cleanup() {
    [ -z "$vm" ] || kill "$vm" 2>/dev/null
    [ -z "$vm" ] || wait "$vm" 2>/dev/null
    [ -z "$nbdkit" ] || kill "$nbdkit" 2>/dev/null
    [ -z "$nbdkit" ] || wait "$nbdkit" 2>/dev/null
    rm -rf "$work" "$disks"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# guest OPTION... COMMAND...: as of vm; it can be stopped while it waits.
guest() {
    "$VM" -k "$KERNEL" -M "$MODULES" -o "$work/out" -e "GUEST_TESTS=$GUEST_TESTS" -e "TESTS=$(dirname "$VM")" "$@" \
        > "$work/vm.log" 2>&1 &
    vm=$!
    wait "$vm"
    local status=$?
    vm=''
    return "$status"
}

# give_up WHAT: the last guest's output, kept, too.
give_up() {
    tail -n 60 "$work/vm.log"
    cp "$work/vm.log" "$work/out/console" "$OUT/" 2>/dev/null
    echo "not ok - $*"
    exit 1
}

# record BYTES OPTION... COMMAND...: runs it in a guest whose /dev/vda, with an empty file system, is recorded; /dev/vdb takes
# notes. Sets $events and $flushes, those after the first note.
record() {
    local deadline=$((SECONDS + 30))
    disk_bytes=$1
    shift
    truncate -s "$disk_bytes" "$disks/disk"
    truncate -s 64K "$disks/notes"
    mkfs.ext4 -q -F -E lazy_itable_init=1 -J size=8 "$disks/disk" || exit 1
    cp --sparse=always "$disks/disk" "$disks/before"
    nbdkit -f -U "$work/socket" "$MODULES/recorder.so" disk="$disks/disk" notes="$disks/notes" log="$disks/log" &
    nbdkit=$!
    until nbdinfo --size "nbd+unix:///?socket=$work/socket" > /dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || { echo "not ok - nbdkit does not start"; exit 1; }
        sleep 0.05
    done
    guest -b cache=none -d "nbd:$work/socket" -d "nbd:$work/socket:notes" "$@" || give_up "the run to record"
    grep -a '^#' "$work/out/log"
    kill "$nbdkit" && wait "$nbdkit"
    nbdkit=''
    rm -f "$disks/disk"
    read -r events flushes < <("$GUEST_TESTS" writelog "$disks/log" count)
    echo "# $events events, $flushes flushes"
    [ "${flushes:-0}" -gt 20 ] || { echo "not ok - enough flushes to cut between"; exit 1; }
}

# look POINTS PER-BOOT SECONDS OPTION... COMMAND...: rebuilds the disk as so many power cuts would have left it and runs the
# command in guests with PER-BOOT of them, one behind the other in /dev/vda, notes in /dev/vdb, COUNT and SIZE in the
# environment. It prints a line `# disk ...` for each that is as it should be. SECONDS is the most that one may take. Sets
# $marks, how many were at the end of a flush.
look() {
    local points=$1 per_boot=$2 seconds=$3 seed=$RANDOM looked=0 count disk
    shift 3
    marks=0
    while [ "$looked" -lt "$points" ]; do
        count=$((points - looked < per_boot ? points - looked : per_boot))
        "$GUEST_TESTS" writelog "$disks/log" build "$seed" "$points" "$looked" "$count" "$disks/before" "$disks/image" \
            "$disks/noted" > "$work/built" || { cat "$work/built"; give_up "the disks are built"; }
        marks=$((marks + $(grep -c 'end of a flush' "$work/built")))
        guest -t $((60 + seconds * count)) -d "$disks/image" -d "$disks/noted" -e "COUNT=$count" -e "SIZE=$disk_bytes" "$@" ||
            { cat "$work/built"; give_up "points $looked to $((looked + count - 1)) of seed $seed"; }
        grep -aE '^not ok|^# disk' "$work/out/log"
        [ "$(grep -ac '^# disk' "$work/out/log")" -eq "$count" ] || give_up "all disks were looked at"
        # What the guest has left is closed.
        for ((disk = 0; disk < count; disk++)); do
            e2fsck -fn "$disks/image?offset=$((disk * disk_bytes))" > "$work/fsck" 2>&1 ||
                { cat "$work/fsck"; give_up "the lower file system of point $((looked + disk)) is sound"; }
        done
        looked=$((looked + count))
    done
}
