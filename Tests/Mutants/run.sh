#!/bin/bash
# run.sh [PATTERN...]: puts one fault back at a time and sees to it that the tests notice.
#
# Each file below faults/ is one mutant: see apply.pl for its form. Some workers, each with a copy of the tree, take one
# after the other: apply it, build, run the tests that it names; when those pass, the whole suite. A mutant that does
# not apply or does not build is an error and no success. The last line counts; status 0 only when all were caught.
#
# MUTANT_WORKERS: how many at a time. MUTANT_FALLBACK=0: only the first of the tests that it names, a missed one counts as
# such at once.
set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
workers=${MUTANT_WORKERS:-2}
fallback=${MUTANT_FALLBACK:-1}
swift=${SWIFT:-swift}
scratch=$(mktemp -d "${TMPDIR:-/tmp}/godwit-mutants.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

[ "$(id -u)" -eq 0 ] || { echo "mutants: must be root, as the tests are, to mount a copy over the tree" >&2; exit 1; }

mutants=()
for file in "$here"/faults/*.mutant; do
    isMeant=$(( $# == 0 ))
    for pattern in "$@"; do [[ ${file##*/} == *$pattern* ]] && isMeant=1; done
    [ "$isMeant" -eq 1 ] && mutants+=("$file")
done
[ ${#mutants[@]} -gt 0 ] || { echo "mutants: none of that name" >&2; exit 1; }

# A copy stands in the place of the tree in a mount namespace of its own: the build in it stays warm.
within=(unshare -m --propagation private bash -c 'mount --bind "$1" "$2" && cd "$2" && shift 2 && exec "$@"' _)
inCopy() { "${within[@]}" "$scratch/copy$1" "$root" "${@:2}"; }

# The programs, which some tests run, and the tests.
build() {
    inCopy "$1" "$swift" build ${MUTANT_SWIFT_FLAGS:-} && inCopy "$1" "$swift" build --build-tests ${MUTANT_SWIFT_FLAGS:-}
}

copy() {
    mkdir -p "$scratch/copy$1"
    tar -C "$root" --exclude=./.build/release --exclude='./.build/*/release' --exclude=./.build/stage \
        --exclude=./.git --exclude='./.build-*' -cf - . | tar -C "$scratch/copy$1" -xf -
}

# Runs tests until the first of them has failed: that is enough to know.
untilItFails() {
    local output tests status
    output=$(mktemp "$scratch/output.XXXXXX")
    # A session of its own, so that what the tests have started ends with them.
    setsid "${within[@]}" "$scratch/copy$1" "$root" timeout -k 10 1800 .build/debug/godwitPackageTests.xctest \
        --testing-library swift-testing --filter "$2" > "$output" 2>&1 &
    tests=$!
    tail -n +1 -f --pid="$tests" "$output" | grep -m 1 -q '✘ Test .* \(failed after\|recorded an issue\)' && kill -- -"$tests" 2> /dev/null
    wait "$tests"
    status=$?
    sed 's/\x1b\[[0-9;]*m//g' "$output"
    rm -f "$output"
    return "$status"
}

# Its tests and, where they pass, all. Prints what noticed it.
examine() {
    local worker=$1 tests=$2 log=$3 filter status first
    [ -n "$FALLBACK" ] && tests="$tests ." || tests=${tests%% *}
    for filter in $tests; do
        if [ "${filter#simulate:}" != "$filter" ]; then
            inCopy "$worker" env SWIFT_DETERMINISTIC_HASHING=1 SWIFT_BACKTRACE=enable=no WORKERS=1 \
                Tests/Simulate/soak.sh .build/debug/simulate "${filter#simulate:}" > "$log" 2>&1
        else
            untilItFails "$worker" "$filter" > "$log" 2>&1
        fi
        status=$?
        if grep -q 'Test run with 0 tests' "$log"; then
            echo "mutants: no test matches $filter" >&2
            continue
        fi
        if [ "$status" -ne 0 ]; then
            if [ "${filter#simulate:}" != "$filter" ] && ! grep -q '^FAILED\|ended by signal' "$log"; then
                echo "mutants: the simulation did not run: $(tail -n 1 "$log")" >&2
                continue
            fi
            # Of the whole run that says nothing: a loaded machine takes as long.
            if [ "$status" -eq 124 ] && [ "$filter" = . ]; then
                echo "mutants: all tests took too long" >&2
                continue
            fi
            [ "$status" -eq 124 ] && echo "$filter: does not end" && return 0
            first=$(sed -n 's/^✘ Test \(.*\) \(failed after\|recorded an issue\).*/\1/p; s/^FAILED \(seed.*\)/\1/p' "$log" | head -n 1)
            echo "$filter: ${first:-ended with $status}"
            return 0
        fi
    done
    return 1
}

# One mutant, in a worker's copy, which is as it was afterwards.
try() {
    local worker=$1 file=$2 name log tests noticed started=$SECONDS
    name=$(basename "$file" .mutant)
    log=$scratch/$name.log
    tests=$(sed -n 's/^tests: *//p' "$file")
    [ -n "$tests" ] || { echo "error  $name: names no tests"; return; }
    if ! perl "$here/apply.pl" "$file" "$scratch/copy$worker" "$scratch/undo$worker" 2> "$log"; then
        echo "error  $name: $(tail -n 1 "$log")"
        return
    fi
    if ! build "$worker" > "$log" 2>&1; then
        echo "error  $name: does not build: $(grep -m 1 'error:' "$log")"
    elif noticed=$(FALLBACK=${fallback#0} examine "$worker" "$tests" "$log"); then
        echo "caught $name by $noticed ($((SECONDS - started)) s)"
    else
        echo "missed $name ($((SECONDS - started)) s)"
    fi
    perl "$here/apply.pl" --undo "$scratch/undo$worker" "$scratch/copy$worker"
}

work() {
    local worker=$1 index=$1
    copy "$worker"
    if ! build "$worker" > "$scratch/build$worker.log" 2>&1; then
        echo "error  the tree itself does not build: $(grep -m 1 'error:' "$scratch/build$worker.log")"
        return
    fi
    while [ "$index" -lt ${#mutants[@]} ]; do
        try "$worker" "${mutants[$index]}"
        index=$((index + workers))
    done
}

for worker in $(seq 0 $((workers - 1))); do work "$worker" & done | tee "$scratch/results"
wait
caught=$(grep -c '^caught' "$scratch/results")
missed=$(grep -c '^missed' "$scratch/results")
errors=$(grep -c '^error' "$scratch/results")
echo "mutants: $caught caught, $missed missed, $errors errors, of ${#mutants[@]}"
[ "$caught" -eq ${#mutants[@]} ]
