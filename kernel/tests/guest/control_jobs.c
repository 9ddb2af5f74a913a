// SPDX-License-Identifier: GPL-2.0
/* The new interface: snapshots of several devices, freezes, jobs, block status, events. */
#include "control.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tap.h"

static int snapshot(int fd, const int *indices, const char *const *paths, unsigned int count, uint32_t flags)
{
	struct ploop_snapshot_item items[4] = { 0 };
	struct ploop_snapshot s = {
		.size = sizeof(s), .flags = flags, .nr_items = count, .items = (uintptr_t)items, .granule_log = 16,
	};
	int result;

	if (flags & PLOOP_SNAPSHOT_BITMAP)
		strcpy(s.name, "since");
	else
		s.granule_log = 0;
	for (unsigned int i = 0; i < count; i++) {
		items[i].index = indices[i];
		items[i].fd = open(paths[i], O_RDWR | O_CLOEXEC);
	}
	result = control_call(fd, PLOOP_CTL_SNAPSHOT, &s);
	for (unsigned int i = 0; i < count; i++)
		close(items[i].fd);
	return result;
}

static int levels(int fd, int index)
{
	struct ploop_status s = { .size = sizeof(s), .index = index };
	int result = control_call(fd, PLOOP_CTL_STATUS, &s);

	return result < 0 ? result : (int)s.nr_levels;
}

void control_snapshots(int fd)
{
	const char *bases[2] = { abi_image("m0.hdd", 2), abi_image("m1.hdd", 2) }, *tops[2];
	struct ploop_range range[2];
	struct ploop_bitmap_read r = { .size = sizeof(r), .nr_ranges = 2, .bytes = DISK, .ranges = (uintptr_t)range, .name = "since" };
	int indices[2], twice[2];
	struct device d[2];

	for (int i = 0; i < 2; i++) {
		indices[i] = control_attach(fd, &bases[i], 1, 0);
		if (!ok(indices[i] >= 0, "SNAPSHOT: device %d", i))
			return;
		control_device(&d[i], indices[i]);
		abi_fill(&d[i], 0, CLUSTER, 0x60 + i);
		device_nodata(&d[i]);
	}
	tops[0] = abi_image("m2.hdd", 2);
	tops[1] = abi_image("m3.hdd", 2);
	is(snapshot(fd, indices, tops, 2, PLOOP_SNAPSHOT_BITMAP), 0, "SNAPSHOT: two devices");
	is(levels(fd, indices[0]), 2, "SNAPSHOT: the first has a new top");
	is(levels(fd, indices[1]), 2, "SNAPSHOT: the second has a new top");
	ok(image_sound(bases[0]) && image_sound(bases[1]), "SNAPSHOT: both old tops are closed");
	abi_fill(&d[0], 5 * CLUSTER, 4096, 0x62);
	r.index = indices[0];
	is(control_call(fd, PLOOP_CTL_BITMAP_READ, &r), 0, "SNAPSHOT: it started a bitmap");
	ok(r.nr_ranges == 1 && range[0].start == 5 * CLUSTER, "SNAPSHOT: with what was written since");
	ok(abi_holds(&d[0], 0, CLUSTER, 0x60) && abi_holds(&d[1], 0, CLUSTER, 0x61), "SNAPSHOT: the data shows through");
	device_nodata(&d[0]);
	device_nodata(&d[1]);

	/* The second one's file is no image of its kind: neither is switched. */
	tops[0] = abi_image("m4.hdd", 2);
	tops[1] = abi_image("m5.hdd", 1);
	ok(snapshot(fd, indices, tops, 2, 0) < 0, "SNAPSHOT: a bad file for one of two");
	is(levels(fd, indices[0]), 2, "SNAPSHOT: all or none");
	is(image_read32(tops[0], IMAGE_IN_USE), 0, "SNAPSHOT: the good file is clean");
	twice[0] = twice[1] = indices[0];
	tops[1] = abi_image("m6.hdd", 2);
	ok(snapshot(fd, twice, tops, 2, 0) < 0, "SNAPSHOT: a device twice");
	is(levels(fd, indices[0]), 2, "SNAPSHOT: it is not switched");
	is(control_call(fd, PLOOP_CTL_SNAPSHOT, &(struct ploop_snapshot){ .size = sizeof(struct ploop_snapshot) }), -EINVAL,
	   "SNAPSHOT: of nothing");
	for (int i = 0; i < 2; i++) {
		control_close(&d[i]);
		is(control_detach(fd, indices[i]), 0, "SNAPSHOT: DETACH");
	}
}

int control_job(int fd, int index, uint32_t op, uint32_t kind, uint64_t argument, struct ploop_job *job)
{
	*job = (struct ploop_job){ .size = sizeof(*job), .index = index, .op = op, .kind = kind, .arg = argument };
	return control_call(fd, PLOOP_CTL_JOB, job);
}

static void block_status(int fd, int index)
{
	struct ploop_block_extent e[16];
	struct ploop_block_status s = {
		.size = sizeof(s), .index = index, .nr_extents = 16, .bytes = 16 * CLUSTER, .extents = (uintptr_t)e,
	};
	uint64_t at = 0;

	is(control_call(fd, PLOOP_CTL_BLOCK_STATUS, &s), 0, "BLOCK_STATUS");
	for (uint32_t i = 0; i < s.nr_extents; i++) {
		if (e[i].start != at)
			break;
		at += e[i].bytes;
	}
	is(at, 16 * CLUSTER, "BLOCK_STATUS: the extents cover what was asked for");
	is(s.next, 16 * CLUSTER, "BLOCK_STATUS: and nothing is left");
	ok(s.nr_extents >= 4 && e[0].level == 0 && e[1].level == 1, "BLOCK_STATUS: levels (%u extents)", s.nr_extents);
	is(e[s.nr_extents - 1].level, PLOOP_LEVEL_NONE, "BLOCK_STATUS: the end is held by nobody");
}

void control_jobs(int fd)
{
	const char *paths[3] = { abi_image("j0.hdd", 2), abi_image("j1.hdd", 2), abi_image("j2.hdd", 2) };
	uint64_t discard[2] = { 0, 100 * CLUSTER };
	struct ploop_job job;
	struct device d;
	off_t before;
	int index = control_attach(fd, paths, 1, 0);

	if (!ok(index >= 0, "JOB: a device"))
		return;
	control_device(&d, index);
	abi_fill(&d, 0, 4 * CLUSTER, 0x71);
	device_nodata(&d);
	device_snapshot(&d, paths[1], 0);
	abi_fill(&d, CLUSTER, CLUSTER, 0x72);
	device_nodata(&d);
	device_snapshot(&d, paths[2], 0);
	abi_fill(&d, 2 * CLUSTER + 4096, 4096, 0x73);
	block_status(fd, index);
	is(control_job(fd, index, PLOOP_JOB_OP_QUERY, 0, 0, &job), 0, "JOB: query without a job");
	is(control_job(fd, index, PLOOP_JOB_OP_START, PLOOP_JOB_MERGE, 0, &job), -EINVAL, "JOB: level 0 has none below");
	ok(control_job(fd, index, PLOOP_JOB_OP_START, PLOOP_JOB_MERGE, 3, &job) < 0, "JOB: no such level");
	ok(control_job(fd, index, PLOOP_JOB_OP_START, 99, 1, &job) < 0, "JOB: no such kind");
	is(control_job(fd, index, PLOOP_JOB_OP_START, PLOOP_JOB_MERGE, 1, &job), 0, "JOB: merge a middle level");
	is(control_job(fd, index, PLOOP_JOB_OP_WAIT, 0, 0, &job), 0, "JOB: wait");
	is(job.state, PLOOP_JOB_DONE, "JOB: done");
	ok(job.total > 0 && job.done == job.total, "JOB: progress is complete");
	is(levels(fd, index), 2, "JOB: a level less");
	ok(abi_holds(&d, 0, CLUSTER, 0x71) && abi_holds(&d, CLUSTER, CLUSTER, 0x72) && abi_holds(&d, 2 * CLUSTER + 4096, 4096, 0x73) &&
	   abi_holds(&d, 3 * CLUSTER, CLUSTER, 0x71), "JOB: the data after it");
	is(control_job(fd, index, PLOOP_JOB_OP_START, PLOOP_JOB_MERGE, 1, &job), 0, "JOB: merge the top");
	is(control_job(fd, index, PLOOP_JOB_OP_WAIT, 0, 0, &job), 0, "JOB: wait");
	is(levels(fd, index), 1, "JOB: one level");
	ok(abi_holds(&d, CLUSTER, CLUSTER, 0x72) && abi_holds(&d, 2 * CLUSTER + 4096, 4096, 0x73), "JOB: the data after that");

	is(control_job(fd, index, PLOOP_JOB_OP_START, PLOOP_JOB_GROW, 2 * DISK, &job), 0, "JOB: grow");
	is(control_job(fd, index, PLOOP_JOB_OP_WAIT, 0, 0, &job), 0, "JOB: wait");
	is(device_bytes(&d), 2 * DISK, "JOB: the size");

	/* Everything written, most of it freed: the file gets as small as what is left. */
	for (unsigned int i = 0; i < 128; i++)
		abi_fill(&d, i * CLUSTER, CLUSTER, i + 1);
	ioctl(d.rw, BLKDISCARD, discard);
	fsync(d.rw);
	before = image_size(paths[0]);
	is(control_job(fd, index, PLOOP_JOB_OP_START, PLOOP_JOB_COMPACT, 256 << 10, &job), 0, "JOB: compact, slowly");
	is(control_job(fd, index, PLOOP_JOB_OP_PAUSE, 0, 0, &job), 0, "JOB: pause");
	is(job.state, PLOOP_JOB_PAUSED, "JOB: paused");
	is(control_job(fd, index, PLOOP_JOB_OP_START, PLOOP_JOB_COMPACT, 0, &job), -EBUSY, "JOB: one at a time");
	is(device_snapshot(&d, abi_image("j3.hdd", 2), 0), -EBUSY, "JOB: no snapshot meanwhile");
	is(control_job(fd, index, PLOOP_JOB_OP_RESUME, 0, 0, &job), 0, "JOB: resume");
	is(control_job(fd, index, PLOOP_JOB_OP_CANCEL, 0, 0, &job), 0, "JOB: cancel");
	control_job(fd, index, PLOOP_JOB_OP_WAIT, 0, 0, &job);
	is(job.state, PLOOP_JOB_CANCELLED, "JOB: cancelled");
	bool same = true;
	for (unsigned int i = 100; i < 128; i++)
		same &= abi_holds(&d, i * CLUSTER, CLUSTER, i + 1);
	ok(same, "JOB: the data after that");
	is(control_job(fd, index, PLOOP_JOB_OP_START, PLOOP_JOB_COMPACT, 0, &job), 0, "JOB: compact, fast");
	is(control_job(fd, index, PLOOP_JOB_OP_WAIT, 0, 0, &job), 0, "JOB: wait");
	is(job.state, PLOOP_JOB_DONE, "JOB: done");
	same = true;
	for (unsigned int i = 100; i < 128; i++)
		same &= abi_holds(&d, i * CLUSTER, CLUSTER, i + 1);
	ok(same && abi_holds(&d, 0, CLUSTER, 0), "JOB: the data after it");
	control_close(&d);
	is(control_detach(fd, index), 0, "JOB: DETACH");
	ok(image_size(paths[0]) <= 30 * (off_t)CLUSTER, "JOB: the file shrank from %lld to %lld", (long long)before,
	   (long long)image_size(paths[0]));
	ok(image_sound(paths[0]), "JOB: the image is sound");
}

int control_event(int fd, uint32_t index, uint32_t type)
{
	struct pollfd p = { fd, POLLIN, 0 };
	struct ploop_event e;

	while (poll(&p, 1, 20000) == 1) {
		if (read(fd, &e, sizeof(e)) != sizeof(e))
			return -errno;
		if (e.index == index && e.type == type)
			return e.arg;
	}
	return -ETIMEDOUT;
}

void control_events(int fd)
{
	const char *path = abi_image("e.hdd", 2);
	struct ploop_watch all = { .size = sizeof(all), .index = PLOOP_INDEX_ANY };
	struct ploop_watch one = { .size = sizeof(one), .index = PLOOP_INDEX_ANY, .mask = 1ull << PLOOP_EV_STOPPED };
	int watcher = control_open(), picky = open("/dev/ploop-control", O_RDWR | O_NONBLOCK | O_CLOEXEC), index;
	struct pollfd p = { picky, POLLIN, 0 };
	struct ploop_event e;
	struct ploop_job job;
	struct device d;

	is(control_call(watcher, PLOOP_CTL_WATCH, &all), 0, "WATCH: everything");
	is(control_call(picky, PLOOP_CTL_WATCH, &one), 0, "WATCH: one type");
	ok(read(picky, &e, sizeof(e)) < 0 && errno == EAGAIN, "read: nothing yet");
	is(poll(&p, 1, 0), 0, "poll: nothing yet");
	index = control_attach(fd, &path, 1, 0);
	is(control_event(watcher, index, PLOOP_EV_STARTED), 0, "event: started");
	control_device(&d, index);
	abi_fill(&d, 0, CLUSTER, 1);
	device_nodata(&d);
	is(device_snapshot(&d, abi_image("e1.hdd", 2), 0), 0, "event: a snapshot");
	is(control_event(watcher, index, PLOOP_EV_SNAPSHOT), 1, "event: snapshot, with its level");
	control_job(fd, index, PLOOP_JOB_OP_START, PLOOP_JOB_MERGE, 1, &job);
	is(control_event(watcher, index, PLOOP_EV_JOB), PLOOP_JOB_DONE, "event: the job ended");
	is(poll(&p, 1, 0), 0, "poll: what was not asked for is not reported");
	control_close(&d);
	is(control_detach(fd, index), 0, "event: DETACH");
	is(poll(&p, 1, 20000), 1, "poll: stopped");
	is(control_event(picky, index, PLOOP_EV_STOPPED), 0, "event: stopped");
	is(control_event(watcher, index, PLOOP_EV_STOPPED), 0, "event: stopped, for the other watcher, too");
	/* One that cannot be stored is told of. */
	index = control_attach(fd, &path, 1, 0);
	ok(syscall(SYS_read, watcher, 8, sizeof(e)) < 0 && errno == EFAULT, "read: to where there is no memory");
	is(control_event(watcher, PLOOP_INDEX_ANY, PLOOP_EV_LOST), 1, "event: one was lost");
	is(control_detach(fd, index), 0, "event: DETACH again");
	close(watcher);
	close(picky);
}
