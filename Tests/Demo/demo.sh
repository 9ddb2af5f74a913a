#!/bin/bash
# The whole way once, with real programs: a disk under PostgreSQL is backed up while it writes, survives a crash of its
# server, moves to another host over SSH, and is restored. Ends with 0 only if every proof holds.
#
#   demo.sh                       uses the private installation that `make stage` made
#   GODWIT=/usr/bin/godwit demo.sh
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
godwit=${GODWIT:-$top/.build/stage/usr/bin/godwit}

. "$here/report.sh"
. "$here/postgres.sh"
. "$here/sshd.sh"
. "$here/cleanup.sh"
. "$here/steps.sh"
. "$here/local.sh"

[ "$(id -u)" -eq 0 ] || fail "the demo mounts file systems: run it as root"
[ -x "$godwit" ] || fail "there is no $godwit: run 'make demo', which builds it"

begin godwit-demo
chmod 711 "$work"   # PostgreSQL runs as its own user, and has to get to its folder
start_state
start_local

step_create
step_database
step_backups
step_crash
step_migration
step_restore
step_cleanup
