#!/bin/bash
# What demo-vm.sh runs in its machines: vm-guest.sh PART [ARGUMENT...]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
godwit=$GODWIT

. "$here/report.sh"
. "$here/postgres.sh"
. "$here/sshd.sh"
. "$here/steps.sh"
. "$here/vm-steps.sh"

name_machine
case "$1" in
until-cut)
    start_machine
    step_create
    step_database
    step_backups
    step_wait_for_cut
    ;;
after-cut)
    step=4
    start_machine
    step_recover
    step_migration
    step_restore
    step_leave
    ;;
target)
    start_machine
    serve "$2"
    step_leave
    ;;
call) "${@:2}" ;;
*) exit 2 ;;
esac
