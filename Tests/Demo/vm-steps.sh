# What the demo does its own way in a virtual machine with the driver. Sourced.

# start_machine: the driver, and the file system for images on the machine's disk. What has to outlast the machine, which
# is what the host knows of it, is in the share /out.
start_machine() {
    work=/run/demo
    mkdir -p -m 711 "$work"
    mkdir -p /out/reports "$work/a"
    ln -s /out/reports "$work/log"
    modprobe ploop
    mount /dev/vda "$work/a"
    start_state
}

# name_machine: the same for a command that comes later.
name_machine() {
    work=/run/demo
    scale=1
    partition=1
    pg_segment=1
    acks=/out/acks
    target=$work/a/moved
    # Emulated, everything takes its time: what is paid for a program's start alone is seconds.
    migrate_options=(--max-downtime 10s)
    name_state
}

step_create() {
    heading "A disk on the driver, with a partition"
    local device
    g disk create "$disk" --size 256M --cluster 64K --quiet
    g disk attach "$disk" --backend kernel --json > "$work/log/attach.json"
    device=$(jq -r .device "$work/log/attach.json")
    echo 'type=83' | sfdisk -q "$device"
    until_there "${device}p1" 30
    mkfs.ext4 -q -F "${device}p1"
    mount_disk "$disk" "$work/mnt"
    findmnt -n -o SOURCE "$work/mnt" | grep -qx "/dev/ploop[0-9]*p1" || fail "the file system is not on the driver's partition"
    figure "kernel, driver" "$(uname -r), $(modinfo -F vermagic ploop | cut -d' ' -f1)"
    figure "virtual size" "$(mebibytes "$(g disk info "$disk" --json | jq .sizeBytes)")"
    figure "mounted" "$(findmnt -n -o SOURCE,FSTYPE "$work/mnt")"
    step_done
}

# until_there FILE SECONDS
until_there() {
    local deadline=$((SECONDS + $2))
    until [ -e "$1" ]; do
        [ "$SECONDS" -lt "$deadline" ] || fail "there is no $1"
        sleep 0.2
    done
}

# The host cuts the power whenever it likes from here on.
step_wait_for_cut() {
    writer_advance 100
    touch /out/cut-me
    wait "$writer_pid" || true
    fail "the writer ended: $(tail -n 3 "$work/log/writer")"
}

step_recover() {
    heading "A new boot, recovery, and a third backup"
    local last
    last=$(acknowledged)
    mount_disk "$disk" "$work/mnt"
    figure "repaired when opened" "$(g status "$disk" --json | jq .disks[0].attachment.repairedOnOpen)"
    database_recovered "$last"
    backup_after_crash
    step_done
}

read_disk() { cp --sparse=always "$(g status "$disk" --json | jq -r .disks[0].attachment.device)" "$1"; }

# The host puts the target's keys and address there.
open_target() {
    until_there /out/far 300
    cp -r /out/far /run/far
    export GODWIT_SSH_CONFIG=/run/far/ssh_config GODWIT_REMOTE_COMMAND="$godwit agent --stdio"
    far=far
    ssh -F "$GODWIT_SSH_CONFIG" -fN -o ControlMaster=yes far
}

on_target() { ssh -F "$GODWIT_SSH_CONFIG" far "$(printf '%q ' "$here/vm-guest.sh" call "$@")"; }

close_target() { ssh -F "$GODWIT_SSH_CONFIG" -O exit far 2>/dev/null; }

# The target: its keys are made in the share, so that the host finds them.
serve() {
    # shellcheck disable=SC2034
    SSHD_ADDRESS=$NETWORK
    start_sshd /run/sshd-far "GODWIT=$godwit" "TESTS=$TESTS" "PATH=$PATH" "GODWIT_RUN_DIR=$GODWIT_RUN_DIR" \
        "GODWIT_CONFIG=$GODWIT_CONFIG"
    cat >> "$SSHD_CLIENT_CONFIG" <<CONFIG
Host *
  KexAlgorithms curve25519-sha256
  Ciphers aes128-gcm@openssh.com
  ControlPath /run/far/master
CONFIG
    sed -i 's|/run/sshd-far/|/run/far/|' "$SSHD_CLIENT_CONFIG"
    mkdir /out/far.new
    cp /run/sshd-far/{client_key,known_hosts,ssh_config} /out/far.new/
    mv /out/far.new /out/far
    until_there /out/done "$1"
    stop_sshd
}

# Nothing of the story is left in the machine, and its kernel has nothing to complain about.
step_leave() {
    [ -z "$(find /sys/block/ploop*/pdelta -mindepth 1 2>/dev/null)" ] || fail "a device is left"
    umount "$work/a"
    (
        . "$TESTS/guest/lib.sh"
        unload || exit 1
        log_is_clean
    ) || fail "the driver does not unload, or the kernel's log is not clean"
    proof "no device is left, the driver unloads, the kernel's log is clean"
}
