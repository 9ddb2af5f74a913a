#!/bin/bash
# The demo on the driver: two virtual machines, PostgreSQL on a partition of the driver's device in one of them. It is backed
# up while it writes, the machine's power is cut, it recovers, moves to the other machine over SSH, and is restored. Ends
# with 0 only if every proof holds: those that the machines make, and those of this host about what they report.
#
#   demo-vm.sh                       uses the private installation that `make stage` made
#   KERNEL=6.12 demo-vm.sh           on another kernel of kernel/tests/vm
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
godwit=${GODWIT:-$top/.build/stage/usr/bin/godwit}
tests=$top/kernel/tests
kernel=${KERNEL:-6.1}

. "$here/report.sh"
. "$here/cleanup.sh"
. "$here/vm-host.sh"

[ "$(id -u)" -eq 0 ] || fail "the machines share this one's files: run it as root"
[ -x "$godwit" ] || fail "there is no $godwit: run 'make demo-vm', which builds it"

begin godwit-demo-vm

modules=$("$tests/build" "$kernel" 2> "$work/build") || fail "the driver does not build: $(tail -n 20 "$work/build")"
mkdir "$work"/{source,target,wire}
make_disk source
make_disk target

serve_disk source
boot source -v -b cache=none -d "nbd:$work/socket" -- until-cut
wait_for source cut-me
step=3
cut_power

rm "$work/source/cut-me"
serve_disk source
boot source -v -b cache=none -d "nbd:$work/socket" -n "1:$work/wire" -- after-cut
boot target -d "$work/target.disk" -n "2:$work/wire" -- target "$limit"
wait_for target far
cp -r "$work/target/far" "$work/source/far.new"
mv "$work/source/far.new" "$work/source/far"
end_of source
touch "$work/target/done"
end_of target
stop_disk

step=7
check_reports
clean_up
trap - EXIT
proof "no process and no file of the demo is left on this host"
say "the demo took $SECONDS s"
