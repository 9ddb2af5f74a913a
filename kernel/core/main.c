// SPDX-License-Identifier: GPL-2.0
/*
 * ploop: block devices from stacks of image files.
 *
 * Where things are
 *
 *	../include/uapi/	the interfaces: ploop_ioctl.h is what ploop 1.15 uses,
 *				ploop_control.h what new programs use
 *	../include/		between the core and its modules: ploop_format.h (what
 *				bytes mean), ploop_io.h (how they get to a file)
 *	../format/		raw and expandable images; pure functions, also built in
 *				user space
 *	../io/			direct, NFS, through the page cache
 *	../compat.h		differences between kernel versions, all of them
 *
 *	device.c, procfs.c	devices, their indices, the module's memory of them
 *	queue.c			requests in and out, the fast path
 *	lane.c			deep queues
 *	swap.c			requests that make memory free
 *	slow.c, discard.c	requests that need a thread
 *	map.c, bat.c		where clusters are: the whole stack, one file
 *	alloc.c, partial.c	new clusters in the top's file
 *	commit.c		flushes: data before table
 *	epoch.c			what is under way; waiting for it; cluster locks
 *	waiting.c, space.c	writes that wait for long; the host is full
 *	delta.c, file.c		levels and their files
 *	state.c, stack.c	start and stop; changes of the stack
 *	ioctl.c, sysfs.c, pdelta.c	the old interface
 *	control*.c		the new one
 *	freeze.c, snapshot.c	freezing file systems, holding writes, switching to a new top
 *	job.c, move.c, merge.c, grow.c, compact.c	maintenance in the background
 *	track.c, bitmap.c	what was written
 *	event.c			telling
 *	walk.c			a check of all of the above, for tests
 *	call.c			work on files in threads that get no signals
 *
 * How a write gets to the disk
 *
 * The block layer cuts requests at cluster borders.  If the map knows the cluster
 * and the top has it, the request is sent to the host's file at once.  Else a
 * worker reads the map's page, or gets a new cluster, fills what the
 * request doesn't write (from below, or with zeros, or not at all where the space reads
 * as zeros), sends the data, and once that is written shows the cluster in the map.  The
 * table on disk follows with the next flush.
 *
 * Decisions, and what lost
 *
 *  - Requests go to read_iter/write_iter of the host's file, not as bios to its
 *    disk: works on every file system, and nothing has to be told when the
 *    host moves blocks.
 *  - They are sent in the caller's context as long as few are under way: a thread
 *    costs the lone request its latency.  From a deep queue, a worker sends many
 *    in one go; the single thread of the old driver was its bottleneck.
 *  - First writes that need no copy are sent by one thread: file systems take their file's
 *    lock for such a write, and several threads spent their time on getting it.
 *  - Table changes wait for a flush, as in the user-space engine; the old driver synced
 *    the host's file for each group of first writes.
 *  - One map for the whole stack, cached page by page, not all tables in memory: a
 *    64 TiB image has 256 MiB of table.
 *  - Moving clusters (merge, grow, compact) marks slots busy and waits until the
 *    requests that may use the old place are over; the queue is not frozen.
 *  - While the top is merged into the level below, both are writable: what the
 *    top still has is written there, new clusters go below, and an entry of the top
 *    is cleared durably before anything can be written to its copy.  The old driver
 *    copied on each write and kept a second map.
 *  - At a snapshot little is written between freeze and thaw: what was acknowledged is
 *    committed before the freeze, and what came since then before the switch, which
 *    is one in memory.  The old top is closed after the thaw.
 *  - A condition that can pass (no space, no memory, a server that does not answer)
 *    ends nothing: requests wait, and are tried again (space.c).  A sync that failed is
 *    final, since the kernel tells of lost data once.
 *  - Nobody waits without an end for requests or a commit while holding ctl_lock, but
 *    for a job; a job gives it up between two attempts.  Limits, status, and
 *    the end of waiting writes by force need no lock that is held over I/O.
 *
 * Order of locks: ctl_lock, disk->open_mutex, commit_lock, bat_lock, then spin locks.
 * Freezing and thawing is done without any.
 */
#include <linux/module.h>
#include "core.h"

static bool large_disk_support = true;
module_param(large_disk_support, bool, 0444);
MODULE_PARM_DESC(large_disk_support, "images of version 2 are supported; ploop 1.15 looks for it");

static int __init ploop_init(void)
{
	int ret;

	ploop_sysfs_init();
	ret = ploop_call_init();
	if (ret)
		return ret;
	ret = ploop_swap_init();
	if (ret)
		goto call;
	ret = ploop_map_init();
	if (ret)
		goto swap;
	ret = ploop_devices_init();
	if (ret)
		goto map;
	ret = ploop_proc_init();
	if (ret)
		goto devices;
	ret = ploop_control_init();
	if (ret)
		goto proc;
	return 0;
proc:
	ploop_proc_exit();
devices:
	ploop_devices_exit();
map:
	ploop_map_exit();
swap:
	ploop_swap_exit();
call:
	ploop_call_exit();
	return ret;
}
module_init(ploop_init);

static void __exit ploop_exit(void)
{
	ploop_control_exit();
	ploop_proc_exit();
	ploop_devices_exit();
	ploop_map_exit();
	ploop_swap_exit();
	ploop_call_exit();
}
module_exit(ploop_exit);

MODULE_DESCRIPTION("ploop: block devices from stacks of image files");
MODULE_LICENSE("GPL");
MODULE_ALIAS_BLOCKDEV_MAJOR(PLOOP_MAJOR);
