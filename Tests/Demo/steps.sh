# The steps of the demo. Sourced; each ends the demo when a proof fails.

# g COMMAND...: godwit as on the source host; at COMMAND...: as on the target host.
g() { "$godwit" "$@"; }
at() { GODWIT_RUN_DIR=$work/b/run GODWIT_CONFIG=$work/b/godwit.toml "$godwit" "$@"; }

start_state() {
    mkdir -p "$work"/{log,a/run,b/run,mnt,mnt-b,mnt-r}
    install -d -o postgres -g postgres -m 711 "$work/pg"
    acks=$work/acks
    : > "$acks"
    mkfifo "$work/held" "$work/go"
    export GODWIT_RUN_DIR=$work/a/run GODWIT_CONFIG=$work/a/godwit.toml
    : > "$work/b/godwit.toml"
    disk=$work/a/disk
    store=$work/store
    cat > "$GODWIT_CONFIG" <<CONFIG
[hooks]
stop = "$here/hook.sh $work stop"
CONFIG
    # Only the second backup holds the writer.
    cat > "$work/a/hold.toml" <<CONFIG
[hooks]
pre-freeze = "$here/hook.sh $work hold"
post-thaw = "$here/hook.sh $work release"
CONFIG
    say "godwit $(g --version), work in $work"
    if [ -e /sys/module/nbd ] || modprobe -q nbd 2>/dev/null; then
        say "this host has the nbd module: block devices go through nbd-client"
    else
        say "this host has no nbd module: block devices go through nbdfuse and a loop device"
    fi
}

# What hook.sh has to know.
save_state() {
    { declare -p acks pg_bin; printf 'pg_data=%q\n' "${pg_data:-}"; } > "$work/state"
    echo "$writer_pid" > "$work/writer.pid"
}

# attach_mount FOLDER MOUNTPOINT
attach_mount() {
    g disk attach "$1" --json > "$work/log/attach.json"
    g disk mount "$1" "$2" --quiet
}

step_create() {
    heading 1 "A disk in user space"
    g disk create "$disk" --size 8G --quiet
    g disk attach "$disk" --device --json > "$work/log/attach.json"
    local device
    device=$(jq -r .device "$work/log/attach.json")
    mkfs.ext4 -q -F "$device"
    g disk umount "$disk" --quiet
    g disk mount "$disk" "$work/mnt" --quiet
    figure "virtual size" "$(mebibytes "$(g disk info "$disk" --json | jq .sizeBytes)")"
    figure "space taken on the host" "$(mebibytes "$(du -s -B1 "$disk" | cut -f1)")"
    figure "device" "$device, $(jq -r .uri "$work/log/attach.json")"
    step_done
}

step_database() {
    heading 2 "PostgreSQL and a writer on it"
    pg_create "$work/mnt/pg"
    pg_start "$work/mnt/pg"
    pg_fill 20
    writer_start
    save_state
    writer_advance 200
    figure "server" "$("$pg_bin/postgres" --version), $(mebibytes "$(du -s -B1 "$work/mnt/pg" | cut -f1)")"
    figure "acknowledged commits so far" "$(acknowledged)"
    step_done
}

# backup_figures JSON
backup_figures() {
    local clusters bytes
    clusters=$(jq .changedClusters "$1")
    bytes=$(jq .clusterBytes "$1")
    figure "mode, point" "$(jq -r '.mode + ", " + .point' "$1")"
    figure "clusters changed" "$clusters of $(mebibytes "$bytes")"
    figure "bytes read" "$(mebibytes "$(jq .readBytes "$1")")"
    figure "bytes new, stored as" "$(mebibytes "$(jq .newBytes "$1")"), $(mebibytes "$(jq .storedBytes "$1")")"
    figure "freeze time" "$(milliseconds "$(jq .freezeNanoseconds "$1")")"
    figure "time, throughput" \
        "$(milliseconds "$(jq .durationNanoseconds "$1")"), $(mebibytes "$(jq .readBytesPerSecond "$1")")/s"
}

step_backups() {
    heading 3 "Two backups while it writes"
    local before
    g store init "$store" --quiet
    before=$(acknowledged)
    g backup "$disk" --store "$store" --json > "$work/log/backup1.json"
    backup_figures "$work/log/backup1.json"
    [ "$(jq -r .mode "$work/log/backup1.json")" = full ] || fail "the first backup is not a full one"
    [ "$(acknowledged)" -gt "$before" ] || fail "the writer stood still during the backup"
    proof "full, and $(($(acknowledged) - before)) commits were acknowledged during the backup"
    writer_advance 300
    g backup "$disk" --store "$store" --config "$work/a/hold.toml" --json > "$work/log/backup2.json"
    backup_figures "$work/log/backup2.json"
    [ "$(jq -r .mode "$work/log/backup2.json")" = incremental ] || fail "the second backup is not incremental"
    [ "$(jq .readBytes "$work/log/backup2.json")" -le \
        "$(jq '.changedClusters * .clusterBytes' "$work/log/backup2.json")" ] || fail "more was read than had changed"
    proof "incremental: it read no more than the changed clusters"
    step_done
}

step_crash() {
    heading 4 "SIGKILL to the device server, recovery, and a third backup"
    local pid last raw=$work/point3.raw
    writer_advance 200
    pid=$(jq -r .pid "$work/log/attach.json")
    kill -KILL "$pid"
    last=$(acknowledged)
    writer_stop
    pg_stop immediate
    last=$(acknowledged)
    figure "killed" "process $pid, after $last acknowledged commits"
    g disk detach "$disk" --quiet
    attach_mount "$disk" "$work/mnt"
    figure "repaired when opened" "$(jq .repairedOnOpen "$work/log/attach.json")"
    pg_start "$work/mnt/pg"
    check_commits "$last" $((last + 1))
    proof "ext4 and PostgreSQL recovered; none of $last acknowledged commits is missing"
    writer_start
    save_state
    writer_advance 100
    writer_stop
    pg_stop fast
    g disk umount "$disk" --quiet
    g backup "$disk" --store "$store" --json > "$work/log/backup3.json"
    backup_figures "$work/log/backup3.json"
    [ "$(jq -r .mode "$work/log/backup3.json")" = incremental ] || fail "the third backup is not incremental"
    g restore "$(jq -r .point "$work/log/backup3.json")" --store "$store" --raw "$raw" --quiet
    # What the disk is comes from the server by other people's tool.
    nbdcopy "$(jq -r .uri "$work/log/attach.json")" "$work/disk.raw"
    cmp "$raw" "$work/disk.raw" || fail "the third point differs from the disk"
    rm -f "$raw" "$work/disk.raw"
    proof "still incremental after the crash, and equal to the disk as nbdcopy reads it"
    g disk mount "$disk" "$work/mnt" --quiet
    pg_start "$work/mnt/pg"
    writer_start
    save_state
    step_done
}

step_migration() {
    heading 5 "Live migration over SSH"
    local report=$work/log/migrate.json last target=$work/b/disk
    start_sshd "$work/ssh" "GODWIT_RUN_DIR=$work/b/run" "GODWIT_CONFIG=$work/b/godwit.toml"
    export GODWIT_SSH_CONFIG=$SSHD_CLIENT_CONFIG GODWIT_REMOTE_COMMAND="$godwit agent --stdio"
    writer_advance 100
    g migrate "$disk" "root@127.0.0.1:$SSHD_PORT:$target" --json > "$report"
    jq -r 'def mib: . / 104857.6 | floor / 10 | tostring + " MiB";
        .rounds[] | "   round \(.round): \(.bytes | mib), sent \(.sentBytes | mib), then dirty \(.dirtyBytes | mib), "
        + "dirty rate \(.dirtyBytesPerSecond | mib)/s, goodput \(.goodputBytesPerSecond | mib)/s"' "$report"
    figure "downtime predicted, measured" \
        "$(jq -r '"\(.predictedDowntimeMilliseconds | floor) ms, \(.downtimeMilliseconds | floor) ms"' "$report")"
    figure "of it: stop, rest, proof, start" "$(jq -r '[.stopMilliseconds, .finalCopyMilliseconds, .verifyMilliseconds,
        .startMilliseconds] | map("\(floor) ms") | join(", ")' "$report")"
    figure "digest of the source" "$(jq -r .sourceDigest "$report")"
    figure "digest of the target" "$(jq -r .targetDigest "$report")"
    [ "$(jq -r .sourceDigest "$report")" = "$(jq -r .targetDigest "$report")" ] || fail "the digests differ"
    last=$(acknowledged)
    writer_stop
    pg_data=
    if g disk attach "$disk" --quiet 2> "$work/log/source"; then fail "the source still gives the disk away"; fi
    at disk mount "$target" "$work/mnt-b" --quiet
    pg_start "$work/mnt-b/pg"
    check_commits "$last" $((last + 1))
    proof "PostgreSQL runs on the target; none of $last acknowledged commits is missing; the source is released"
    writer_start
    save_state
    writer_advance 50
    proof "and it goes on writing there: commit $(acknowledged)"
    writer_stop
    pg_stop fast
    at disk detach "$target" --quiet
    stop_sshd
    step_done
}

step_restore() {
    heading 6 "Restore of the second point"
    local point exact disk_r=$work/a/restored device
    point=$(g points --store "$store" --json | jq -r '.points | sort_by(.timeNanoseconds) | .[1].id')
    [ "$point" = "$(jq -r .point "$work/log/backup2.json")" ] || fail "the second point in the list is not the second backup"
    g restore "$point" --store "$store" --to "$disk_r" --json > "$work/log/restore.json"
    figure "restored" "$(mebibytes "$(jq .restoredBytes "$work/log/restore.json")") in $(
        milliseconds "$(jq .durationNanoseconds "$work/log/restore.json")")"
    ploop check -r "$disk_r/root.hds" > "$work/log/ploop" 2>&1 || true
    g disk attach "$disk_r" --device --json > "$work/log/attach-r.json"
    device=$(jq -r .device "$work/log/attach-r.json")
    e2fsck -fn "$device" > "$work/log/e2fsck" 2>&1 || fail "e2fsck: $(tail -n 3 "$work/log/e2fsck")"
    proof "e2fsck -fn finds nothing to mend"
    g disk umount "$disk_r" --quiet
    g disk mount "$disk_r" "$work/mnt-r" --quiet
    pg_start "$work/mnt-r/pg"
    exact=$(cat "$work/exact")
    check_commits "$exact" "$exact"
    proof "it holds exactly the $exact commits acknowledged before the freeze"
    pg_stop fast
    g disk detach "$disk_r" --quiet
    step_done
}

step_cleanup() {
    heading 7 "Nothing is left"
    clean_up
    trap - EXIT
    proof "no process, mount, loop device or file of the demo is left"
    step_done
}
