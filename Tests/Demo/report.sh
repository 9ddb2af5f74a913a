# What the demo prints, and how it fails. Sourced.

fail() {
    printf 'demo: FAILED: %s\n' "$*" >&2
    exit 1
}

step=0

heading() {
    step=$((step + 1))
    printf '\n%s. %s\n' "$step" "$1"
    step_started=$EPOCHREALTIME
}

say() { printf '   %s\n' "$*"; }

# A statement that was checked; what it rests on is in the line.
proof() { printf '   proof: %s\n' "$*"; }

# figure NAME VALUE...
figure() { printf '   %-34s %s\n' "$1" "${*:2}"; }

# Microseconds of a time as $EPOCHREALTIME gives it, whatever the locale's decimal sign.
microseconds() { printf '%s' "${1//[.,]/}"; }

seconds_since() {
    local elapsed=$(($(microseconds "$EPOCHREALTIME") - $(microseconds "$1")))
    printf '%d.%02d s' $((elapsed / 1000000)) $((elapsed % 1000000 / 10000))
}

step_done() { figure "step took" "$(seconds_since "$step_started")"; }

# mebibytes BYTES
mebibytes() { printf '%d.%d MiB' $(($1 / 1048576)) $(($1 % 1048576 * 10 / 1048576)); }

milliseconds() { printf '%d.%d ms' $(($1 / 1000000)) $(($1 % 1000000 / 100000)); }
