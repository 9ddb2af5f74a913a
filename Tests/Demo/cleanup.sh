# Takes everything away that the demo made, whatever state it is in. Sourced.

# begin NAME: makes the work folder, which goes away with all that is left however the demo ends.
begin() {
    work=$(mktemp -d "${TMPDIR:-/tmp}/$1.XXXXXX")
    trap clean_up EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

# Processes whose command line, working folder or environment-given folder names the work folder.
demo_processes() {
    local entry pid
    for entry in /proc/[0-9]*; do
        pid=${entry#/proc/}
        [ "$pid" != $$ ] && [ "$pid" != "$BASHPID" ] || continue
        if { tr '\0' ' ' < "$entry/cmdline"; } 2>/dev/null | grep -qF "$work"; then echo "$pid"; fi
    done
}

# Mount points below the work folder, the deepest first.
demo_mounts() { awk -v work="$work/" 'index($5, work) == 1 { print $5 }' /proc/self/mountinfo | sort -r; }

demo_loops() { losetup --list --noheadings --output NAME,BACK-FILE 2>/dev/null | awk -v work="$work" 'index($2, work) { print $1 }'; }

clean_up() {
    local status=$? found round
    trap '' INT TERM HUP
    set +e
    [ -n "${work:-}" ] && [ -d "$work" ] || return "$status"
    writer_stop
    rm -f "$work/hold"
    pg_stop immediate 2>/dev/null
    stop_sshd 2>/dev/null
    for found in "$work"/a/disk "$work"/a/restored; do
        [ ! -d "$found" ] || g disk detach "$found" --quiet 2>/dev/null
    done
    [ ! -d "$work/b/disk" ] || at g disk detach "$work/b/disk" --quiet 2>/dev/null

    # What a step that failed half-way may have left behind.
    for round in 1 2; do
        for found in $(demo_processes); do kill "$([ $round = 1 ] && echo -TERM || echo -KILL)" "$found" 2>/dev/null; done
        for found in $(demo_processes); do timeout 10 tail --pid="$found" -f /dev/null; done
        for found in $(demo_mounts); do umount "$found" 2>/dev/null || umount -l "$found" 2>/dev/null; done
        for found in $(demo_loops); do losetup -d "$found" 2>/dev/null; done
    done
    if [ "$status" -ne 0 ] && [ -d "$work/log" ] && [ -n "${GODWIT_DEMO_KEEP_LOGS:-}" ]; then
        cp -r "$work/log" "$GODWIT_DEMO_KEEP_LOGS" 2>/dev/null
        cp "$work/pg/log" "$GODWIT_DEMO_KEEP_LOGS/postgres" 2>/dev/null
    fi
    rm -rf --one-file-system "$work"
    set -e
    found="$(demo_processes)$(demo_mounts)$(demo_loops)"
    [ -z "$found" ] && [ ! -e "$work" ] || fail "something is left behind: $found $(ls -d "$work" 2>/dev/null)"
    return "$status"
}
