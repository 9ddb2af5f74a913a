# The steps that both demos take. Sourced; each ends the demo when a proof fails. What differs between the demo on this host
# (local.sh) and the one on virtual machines (vm-steps.sh) is there.

scale=20        # of pgbench: 16 MB each
partition=      # of the disk, that has the file system; empty if it is the whole disk

# g COMMAND...: godwit as on the source host.
g() { "$godwit" "$@"; }

# mount_disk FOLDER MOUNTPOINT
mount_disk() { g disk mount "$1" "$2" --quiet ${partition:+--partition "$partition"}; }

# The names of what there is on a host.
name_state() {
    acks=${acks:-$work/acks}
    export GODWIT_RUN_DIR=$work/run GODWIT_CONFIG=$work/godwit.toml
    disk=$work/a/disk
    store=$work/a/store
    accounts=$((scale * 100000))
}

start_state() {
    name_state
    mkdir -p "$work"/{log,run,a,mnt,mnt-b,mnt-r}
    install -d -o postgres -g postgres -m 711 "$work/pg"
    : >> "$acks"
    mkfifo "$work/held" "$work/go"
    cat > "$GODWIT_CONFIG" <<CONFIG
[hooks]
stop = "$here/hook.sh $work stop"
CONFIG
    # Only the second backup holds the writer.
    cat > "$work/hold.toml" <<CONFIG
[hooks]
pre-freeze = "$here/hook.sh $work hold"
post-thaw = "$here/hook.sh $work release"
CONFIG
    say "godwit $(g --version), work in $work"
}

# What hook.sh has to know.
save_state() {
    { declare -p acks pg_bin; printf 'pg_data=%q\n' "${pg_data:-}"; } > "$work/state"
    echo "$writer_pid" > "$work/writer.pid"
}

step_database() {
    heading "PostgreSQL and a writer on it"
    pg_create "$work/mnt/pg"
    pg_start "$work/mnt/pg"
    pg_fill "$scale"
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
    figure "clusters changed" "$clusters of $((bytes / 1024)) KiB"
    figure "bytes read" "$(mebibytes "$(jq .readBytes "$1")")"
    figure "bytes new, stored as" "$(mebibytes "$(jq .newBytes "$1")"), $(mebibytes "$(jq .storedBytes "$1")")"
    figure "freeze time" "$(milliseconds "$(jq .freezeNanoseconds "$1")")"
    figure "time, throughput" \
        "$(milliseconds "$(jq .durationNanoseconds "$1")"), $(mebibytes "$(jq .readBytesPerSecond "$1")")/s"
}

step_backups() {
    heading "Two backups while it writes"
    local before
    g store init "$store" --quiet
    before=$(acknowledged)
    g backup "$disk" --store "$store" --json > "$work/log/backup1.json"
    backup_figures "$work/log/backup1.json"
    [ "$(jq -r .mode "$work/log/backup1.json")" = full ] || fail "the first backup is not a full one"
    [ "$(acknowledged)" -gt "$before" ] || fail "the writer stood still during the backup"
    proof "full, and $(($(acknowledged) - before)) commits were acknowledged during the backup"
    writer_advance 300
    g backup "$disk" --store "$store" --config "$work/hold.toml" --json > "$work/log/backup2.json"
    backup_figures "$work/log/backup2.json"
    [ "$(jq -r .mode "$work/log/backup2.json")" = incremental ] || fail "the second backup is not incremental"
    [ "$(jq .readBytes "$work/log/backup2.json")" -le \
        "$(jq '.changedClusters * .clusterBytes' "$work/log/backup2.json")" ] || fail "more was read than had changed"
    proof "incremental: it read no more than the changed clusters"
    step_done
}

# database_recovered LAST: after a crash that followed the acknowledged commit LAST.
database_recovered() {
    pg_start "$work/mnt/pg"
    check_commits "$1" $(($1 + 1))
    proof "ext4 and PostgreSQL recovered; none of $1 acknowledged commits is missing"
    writer_start
    save_state
    writer_advance 100
}

# The third backup is of a disk that stands still, so that it can be compared. read_disk FILE is the demo's own.
backup_after_crash() {
    local raw=$work/a/point3.raw
    writer_stop
    pg_stop fast
    g disk umount "$disk" --quiet
    g backup "$disk" --store "$store" --json > "$work/log/backup3.json"
    backup_figures "$work/log/backup3.json"
    [ "$(jq -r .mode "$work/log/backup3.json")" = incremental ] || fail "the third backup is not incremental"
    g restore "$(jq -r .point "$work/log/backup3.json")" --store "$store" --raw "$raw" --quiet
    read_disk "$work/a/disk.raw"
    cmp "$raw" "$work/a/disk.raw" || fail "the third point differs from the disk"
    rm -f "$raw" "$work/a/disk.raw"
    proof "still incremental after the crash, and equal to the disk as another program reads it"
    mount_disk "$disk" "$work/mnt"
    pg_start "$work/mnt/pg"
    writer_start
    save_state
}

# migration_figures JSON
migration_figures() {
    jq -r 'def mib: . / 104857.6 | floor / 10 | tostring + " MiB";
        .rounds[] | "   round \(.round): \(.bytes | mib), sent \(.sentBytes | mib), then dirty \(.dirtyBytes | mib), "
        + "dirty rate \(.dirtyBytesPerSecond | mib)/s, goodput \(.goodputBytesPerSecond | mib)/s"' "$1"
    figure "downtime predicted, measured" \
        "$(jq -r '"\(.predictedDowntimeMilliseconds | floor) ms, \(.downtimeMilliseconds | floor) ms"' "$1")"
    figure "of it: stop, rest, proof, start" "$(jq -r '[.stopMilliseconds, .finalCopyMilliseconds, .verifyMilliseconds,
        .startMilliseconds] | map("\(floor) ms") | join(", ")' "$1")"
    figure "digest of the source" "$(jq -r .sourceDigest "$1")"
    figure "digest of the target" "$(jq -r .targetDigest "$1")"
    [ "$(jq -r .sourceDigest "$1")" = "$(jq -r .targetDigest "$1")" ] || fail "the digests differ"
}

# open_target makes the target host reachable as $far (USER@HOST[:PORT]); on_target FUNCTION ARGUMENT... calls one there.
step_migration() {
    heading "Live migration over SSH"
    local last
    open_target
    writer_advance 100
    g migrate "$disk" "$far:$target" "${migrate_options[@]}" --json > "$work/log/migrate.json"
    migration_figures "$work/log/migrate.json"
    last=$(acknowledged)
    writer_stop
    pg_data=
    if g disk attach "$disk" --quiet 2> "$work/log/source"; then fail "the source still gives the disk away"; fi
    proof "the digests are equal; the source is released"
    on_target goes_on_at_target "$last"
    close_target
    step_done
}

# goes_on_at_target LAST
goes_on_at_target() {
    mount_disk "$target" "$work/mnt-b"
    pg_start "$work/mnt-b/pg"
    check_commits "$1" $(($1 + 1))
    proof "PostgreSQL runs on the target; none of $1 acknowledged commits is missing"
    writer_start
    save_state
    writer_advance 50
    proof "and it goes on writing there: commit $(acknowledged)"
    writer_stop
    pg_stop fast
    g disk detach "$target" --quiet
}

step_restore() {
    heading "Restore of the second point"
    local point exact disk_r=$work/a/restored device
    point=$(g points --store "$store" --json | jq -r '.points | sort_by(.timeNanoseconds) | .[1].id')
    [ "$point" = "$(jq -r .point "$work/log/backup2.json")" ] || fail "the second point in the list is not the second backup"
    g restore "$point" --store "$store" --to "$disk_r" --json > "$work/log/restore.json"
    figure "restored" "$(mebibytes "$(jq .restoredBytes "$work/log/restore.json")") in $(
        milliseconds "$(jq .durationNanoseconds "$work/log/restore.json")")"
    ploop check -r "$disk_r/root.hds" > "$work/log/ploop" 2>&1 || true
    g disk attach "$disk_r" --device --json > "$work/log/attach-r.json"
    device=$(jq -r .device "$work/log/attach-r.json")
    e2fsck -fn "$device${partition:+p$partition}" > "$work/log/e2fsck" 2>&1 || fail "e2fsck: $(tail -n 3 "$work/log/e2fsck")"
    proof "e2fsck -fn finds nothing to mend"
    g disk umount "$disk_r" --quiet
    mount_disk "$disk_r" "$work/mnt-r"
    pg_start "$work/mnt-r/pg"
    exact=$(cat "${acks%/*}/exact")
    check_commits "$exact" "$exact"
    proof "it holds exactly the $exact commits acknowledged before the freeze"
    pg_stop fast
    g disk detach "$disk_r" --quiet
    step_done
}
