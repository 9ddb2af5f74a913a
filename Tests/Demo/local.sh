# What the demo does its own way where both "hosts" are this one: the other has its own folders. Sourced.

start_local() {
    mkdir -p "$work/b/run"
    : > "$work/b/godwit.toml"
    target=$work/b/disk
    migrate_options=()
    if [ -e /sys/module/nbd ] || modprobe -q nbd 2>/dev/null; then
        say "this host has the nbd module: block devices go through nbd-client"
    else
        say "this host has no nbd module: block devices go through nbdfuse and a loop device"
    fi
}

step_create() {
    heading "A disk in user space"
    g disk create "$disk" --size 8G --quiet
    g disk attach "$disk" --backend user --device --json > "$work/log/attach.json"
    local device
    device=$(jq -r .device "$work/log/attach.json")
    mkfs.ext4 -q -F "$device"
    g disk umount "$disk" --quiet
    mount_disk "$disk" "$work/mnt"
    figure "virtual size" "$(mebibytes "$(g disk info "$disk" --json | jq .sizeBytes)")"
    figure "space taken on the host" "$(mebibytes "$(du -s -B1 "$disk" | cut -f1)")"
    figure "device" "$device, $(jq -r .uri "$work/log/attach.json")"
    step_done
}

step_crash() {
    heading "SIGKILL to the device server, recovery, and a third backup"
    local pid last
    writer_advance 200
    pid=$(jq -r .pid "$work/log/attach.json")
    kill -KILL "$pid"
    writer_stop
    pg_stop immediate
    last=$(acknowledged)
    figure "killed" "process $pid, after $last acknowledged commits"
    g disk detach "$disk" --quiet
    g disk attach "$disk" --backend user --json > "$work/log/attach.json"
    mount_disk "$disk" "$work/mnt"
    figure "repaired when opened" "$(jq .repairedOnOpen "$work/log/attach.json")"
    database_recovered "$last"
    backup_after_crash
    step_done
}

read_disk() { nbdcopy "$(jq -r .uri "$work/log/attach.json")" "$1"; }

open_target() {
    start_sshd "$work/ssh" "GODWIT_RUN_DIR=$work/b/run" "GODWIT_CONFIG=$work/b/godwit.toml"
    export GODWIT_SSH_CONFIG=$SSHD_CLIENT_CONFIG GODWIT_REMOTE_COMMAND="$godwit agent --stdio"
    far=root@127.0.0.1:$SSHD_PORT
}

close_target() { stop_sshd; }

# at COMMAND...: as on the target host. Variables survive the call.
at() {
    local GODWIT_RUN_DIR=$work/b/run GODWIT_CONFIG=$work/b/godwit.toml
    "$@"
}
on_target() { at "$@"; }

step_cleanup() {
    heading "Nothing is left"
    clean_up
    trap - EXIT
    proof "no process, mount, loop device or file of the demo is left"
    step_done
}
