# Sourced, with lib.sh: results of the unit tests.

# Those that are built: none can be forgotten here.
kunit_suites=$(sed -nE 's/^(\w+)_kunit-y .*/\1/p' "$(dirname "${BASH_SOURCE[0]}")/../kunit/Kbuild")

# kunit_results FILE: prints, as TAP, what the suites wrote to the kernel's log. A case is a line indented by four;
# those of a suite begin at the margin.
kunit_results() {
    local log=$1 suite
    sed -E 's/^\[ *[0-9.]+\] //' "$log" > "$log.plain"
    sed -nE 's/^ +(ok|not ok) [0-9]+ -? ?/\1 - /p' "$log.plain"
    failures=$((failures + $(sed -nE '/^ +not ok [0-9]+/p' "$log.plain" | wc -l)))
    for suite in $kunit_suites; do
        t "$suite has run to its end" grep -aqE "^ok [0-9]+ -? ?$suite" "$log.plain" || true
    done
    [ "$failures" -eq 0 ] || sed "s|^|# |" "$log.plain"
}
