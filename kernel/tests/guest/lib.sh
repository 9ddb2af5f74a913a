# Sourced by groups in the guest: results as TAP, scratch disks, images, the kernel's log.

images=/srv/images     # where the lower file system is mounted
failures=0

pass() { echo "ok - $*"; }
fail() { echo "not ok - $*"; failures=$((failures + 1)); }
skip() { echo "ok - $1 # SKIP $2"; }

# t NAME COMMAND...: the command succeeds. Its output is shown when it does not.
t() {
    local name=$1 output
    shift
    if output=$("$@" 2>&1); then pass "$name"; else
        local status=$?
        fail "$name"
        echo "$output" | tail -n 40
        echo "  status $status of: $*"
        return 1
    fi
}

# t_status NAME STATUS COMMAND...: it exits with exactly that status.
t_status() {
    local name=$1 wanted=$2 output status=0
    shift 2
    output=$("$@" 2>&1) || status=$?
    if [ "$status" = "$wanted" ]; then pass "$name"; else
        fail "$name"
        echo "$output" | tail -n 40
        echo "  status $status instead of $wanted of: $*"
        return 1
    fi
}

# equal NAME WANTED GOT
equal() {
    if [ "$2" = "$3" ]; then pass "$1"; else
        fail "$1"
        printf '  wanted: %s\n  got: %s\n' "$2" "$3"
        return 1
    fi
}

# until_true SECONDS COMMAND...: polls for what has no event of its own.
until_true() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" 2>/dev/null; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.1
    done
}

# lower FSTYPE [DEVICE]: makes and mounts the file system that holds the images.
lower() {
    local type=$1 device=${2:-/dev/vda}
    mkdir -p "$images"
    case "$type" in
    ext4) mkfs.ext4 -q -F -E lazy_itable_init=1 "$device" && mount "$device" "$images" ;;
    xfs) mkfs.xfs -q -f "$device" && mount "$device" "$images" ;;
    btrfs) mkfs.btrfs -q -f "$device" > /dev/null && mount "$device" "$images" ;;
    tmpfs) mount -t tmpfs -o size=80% tmpfs "$images" ;;
    overlay)
        mkdir -p /mnt/l /mnt/u
        mkfs.ext4 -q -F -E lazy_itable_init=1 "$device" && mount "$device" /mnt/u && mkdir -p /mnt/u/files /mnt/u/work &&
            mount -t overlay -o lowerdir=/mnt/l,upperdir=/mnt/u/files,workdir=/mnt/u/work overlay "$images"
        ;;
    esac
}

unlower() {
    umount "$images"
    if mountpoint -q /mnt/u; then umount /mnt/u; fi
}

load() { modprobe ploop; }

# The driver's own check of its tables found nothing. Its words about a fault are in the log, as a warning.
walk_is_clean() {
    local parameters=/sys/module/ploop/parameters
    [ ! -d "$parameters" ] || [ "$(cat "$parameters/walk_faults")" = 0 ]
}

# Formats and engines hold the core; it goes with the last of them.
unload() {
    local module
    walk_is_clean || return 1
    for module in pfmt_ploop1 pfmt_raw pio_direct pio_nfs pio_buffered ploop; do
        [ ! -d "/sys/module/$module" ] || modprobe -r "$module" || return 1
    done
}

# What no test may leave in the kernel's log.
bad_log='BUG:|WARNING:|Oops|general protection|KASAN|UBSAN|possible (recursive|circular) locking|suspicious RCU'
bad_log="$bad_log|INFO: task .* blocked|soft lockup|rcu.*stall|sleeping function|unreferenced object|refcount_t|Call Trace"

log_is_clean() { ! dmesg | grep -E "$bad_log" | grep -v 'bdi-.* not registered'; }

# Runs when a group ends, however it ends.
finish() {
    local status=$?
    if [ "$status" -ne 0 ]; then fail "$group ended early with status $status"; fi
    if log_is_clean > /dev/null; then pass "$group leaves the kernel's log clean"; else
        fail "$group leaves the kernel's log clean"
        dmesg | tail -n 60
    fi
    if walk_is_clean; then :; else fail "$group leaves nothing for the walker to find"; fi
    if [ -e /sys/kernel/debug/kmemleak ] && [ -d /sys/module/ploop ]; then
        # Young objects are not reported; the second scan finds them old enough.
        echo scan > /sys/kernel/debug/kmemleak
        sleep 6
        echo scan > /sys/kernel/debug/kmemleak
        if grep -q ploop /sys/kernel/debug/kmemleak; then
            fail "$group leaks no memory"
            cat /sys/kernel/debug/kmemleak
        else pass "$group leaks no memory"; fi
    fi
    exit $((failures > 0))
}
