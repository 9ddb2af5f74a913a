# What this host does for the demo on virtual machines: disks, machines, the power cut, what it checks. Sourced.
#
# A machine is called source or target; $work/NAME is the folder that it shares with this host, as its /out.

# Seconds for each of the source's two lives, several times what they take.
limit=1800
nbdkit=
declare -A machines=()

make_disk() {
    truncate -s 1G "$work/$1.disk"
    mkfs.ext4 -q -F -E lazy_itable_init=1 "$work/$1.disk"
}

# serve_disk NAME: with a volatile cache, as a disk has one. What was not flushed is in nbdkit's memory only.
serve_disk() {
    rm -f "$work/socket"
    nbdkit -f -U "$work/socket" --filter=cache file "$work/$1.disk" cache=writeback cache-min-block-size=4K &
    nbdkit=$!
    local deadline=$((SECONDS + 30))
    until [ -S "$work/socket" ]; do
        kill -0 "$nbdkit" 2>/dev/null && [ "$SECONDS" -lt "$deadline" ] || fail "nbdkit does not start"
        sleep 0.05
    done
}

stop_disk() {
    [ -n "$nbdkit" ] || return 0
    kill "$nbdkit" 2>/dev/null || true
    wait "$nbdkit" 2>/dev/null || true
    nbdkit=
}

# boot NAME OPTION... -- PART ARGUMENT...
boot() {
    local name=$1 options=()
    shift
    while [ "$1" != -- ]; do options+=("$1"); shift; done
    shift
    "$tests/vm" -k "$kernel" -M "$modules" -c 1 -m 2G -t "$limit" -o "$work/$name" -p "$work/$name.pid" \
        -e "GODWIT=$godwit" -e "TESTS=$tests" "${options[@]}" "$here/vm-guest.sh" "$@" > >(tee "$work/$name.log" |
            if [ "$name" = source ]; then cat; else cat > /dev/null; fi) 2>&1 &
    machines[$name]=$!
}

# wait_for NAME FILE: until the machine has made FILE.
wait_for() {
    local deadline=$((SECONDS + limit))
    until [ -e "$work/$1/$2" ]; do
        kill -0 "${machines[$1]}" 2>/dev/null || failed_machine "$1"
        [ "$SECONDS" -lt "$deadline" ] || failed_machine "$1"
        sleep 0.2
    done
}

failed_machine() {
    [ "$1" = source ] || tail -n 60 "$work/$1.log" >&2
    fail "the $1 machine ended, or hangs"
}

end_of() {
    wait "${machines[$1]}" || failed_machine "$1"
    unset "machines[$1]"
}

# cut_power: stops the machine at a moment when it has written what it has not flushed, and kills it and its disk. Killing
# QEMU alone would lose nothing that the disk was given.
cut_power() {
    heading "The power is cut"
    local qemu try lost=0
    qemu=$(cat "$work/source.pid")
    for ((try = 0; try < 50 && lost == 0; try++)); do
        # Any moment will do, and it must differ. A machine that was just stopped needs a while to write again, the more the
        # busier the host is.
        sleep "$((try / 5)).$((RANDOM % 10))"
        kill -STOP "$qemu"
        nbdcopy --no-extents "nbd+unix:///?socket=$work/socket" "$work/given"
        lost=$({ cmp -l "$work/given" "$work/source.disk" || true; } | wc -l)
        [ "$lost" -gt 0 ] || kill -CONT "$qemu"
    done
    [ "$lost" -gt 0 ] || fail "there was no moment with something not flushed"
    # The stopped machine is killed by its own runner.
    kill -KILL "$nbdkit"
    kill "${machines[source]}"
    wait "${machines[source]}" 2>/dev/null || true
    unset "machines[source]"
    wait "$nbdkit" 2>/dev/null || true
    nbdkit=
    lost=$({ cmp -l "$work/given" "$work/source.disk" || true; } | wc -l)
    [ "$lost" -gt 0 ] || fail "the disk has what was not flushed"
    rm "$work/given"
    figure "killed" "the machine and its disk, after $(tail -n 1 "$work/source/acks") acknowledged commits"
    proof "$lost bytes that the machine had written and not flushed are gone"
}

# report FILE FILTER: of what the source reported.
report() { jq -r "$2" "$work/source/reports/$1.json"; }

# What this host can tell from the reports, whatever the machines said about them.
check_reports() {
    heading "What the host finds in the reports"
    [ "$(report backup1 .mode) $(report backup2 .mode) $(report backup3 .mode)" = "full incremental incremental" ] ||
        fail "the modes of the backups are wrong"
    [ "$(report migrate '.sourceDigest == .targetDigest and (.sourceDigest | length) == 64')" = true ] || fail "the digests differ"
    [ "$(report migrate '.downtimeMilliseconds > 0')" = true ] || fail "no downtime was measured"
    [ "$(report restore '.restoredBytes > 0')" = true ] || fail "nothing was restored"
    proof "backups full, incremental, incremental after the power cut; equal digests; a downtime of $(
        report migrate '.downtimeMilliseconds | floor') ms"
    step_done
}

# Takes everything away, whatever state it is in.
clean_up() {
    local status=$? name found
    trap '' INT TERM HUP
    for name in "${!machines[@]}"; do
        kill "${machines[$name]}" 2>/dev/null || true
        wait "${machines[$name]}" 2>/dev/null || true
    done
    machines=()
    stop_disk
    if [ "$status" -ne 0 ] && [ -n "${GODWIT_DEMO_KEEP_LOGS:-}" ]; then
        mkdir -p "$GODWIT_DEMO_KEEP_LOGS"
        cp -r "$work"/{source,target} "$work"/*.log "$GODWIT_DEMO_KEEP_LOGS" 2>/dev/null || true
    fi
    # What shows the machines' output ends with it.
    for found in $(demo_processes); do timeout 10 tail --pid="$found" -f /dev/null; done
    found=$(demo_processes)
    rm -rf --one-file-system "$work"
    [ -z "$found" ] && [ ! -e "$work" ] || fail "something is left behind: processes $found, $work"
    return "$status"
}
