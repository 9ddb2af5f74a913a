// SPDX-License-Identifier: GPL-2.0
/* The limits of a device: how large its top may get, and what the host must have free before a snapshot. */
#include "control.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tap.h"

static int limits(int fd, int index, uint64_t max_delta_bytes, uint64_t reserve_bytes)
{
	struct ploop_limits l = {
		.size = sizeof(l), .index = index, .max_delta_bytes = max_delta_bytes, .reserve_bytes = reserve_bytes,
	};

	return control_call(fd, PLOOP_CTL_LIMITS, &l);
}

static struct ploop_status status(int fd, int index)
{
	struct ploop_status s = { .size = sizeof(s), .index = index };

	is(control_call(fd, PLOOP_CTL_STATUS, &s), 0, "LIMITS: STATUS");
	return s;
}

static void *write_beyond(void *argument)
{
	return (void *)(intptr_t)abi_fill(argument, 3 * CLUSTER, CLUSTER, 0x42);
}

/* Beyond the limit writes wait, everything else goes on, and a higher limit lets them through. */
static void max_delta(int fd, struct device *d, const char *path)
{
	struct ploop_watch all = { .size = sizeof(all), .index = d->index };
	int watcher = control_open();
	struct ploop_status s;
	pthread_t thread;
	void *result;

	is(control_call(watcher, PLOOP_CTL_WATCH, &all), 0, "LIMITS: WATCH");
	is(limits(fd, d->index, 4 * CLUSTER, 0), 0, "LIMITS: the top may have four clusters");
	is(abi_fill(d, 0, 3 * CLUSTER, 0x41), (int)(3 * CLUSTER), "LIMITS: up to there it is written");
	if (pthread_create(&thread, NULL, write_beyond, d))
		die("pthread_create");
	is(control_event(watcher, d->index, PLOOP_EV_ENOSPC), 1, "LIMITS: the write beyond raises an event, of the limit");
	s = status(fd, d->index);
	ok(s.state & PLOOP_STATE_NOSPACE, "LIMITS: the state says so");
	ok(!(s.state & PLOOP_STATE_ABORTED), "LIMITS: nothing failed");
	is(atoi(device_sysfs(d, "pstate/event")), PLOOP_EVENT_ENOSPC, "LIMITS: the old event, too");
	ok(abi_holds(d, 0, 3 * CLUSTER, 0x41) && abi_holds(d, 3 * CLUSTER, CLUSTER, 0), "LIMITS: reads go on");
	is(abi_fill(d, CLUSTER, CLUSTER, 0x43), (int)CLUSTER, "LIMITS: writes that need no space go on");
	is(fsync(d->rw), 0, "LIMITS: flushes go on");
	ok(image_size(path) <= 4 * (off_t)CLUSTER, "LIMITS: the file is within the limit (%lld)", (long long)image_size(path));
	is(limits(fd, d->index, 5 * CLUSTER, 0), 0, "LIMITS: one cluster more");
	is(control_event(watcher, d->index, PLOOP_EV_SPACE), 0, "LIMITS: there is space again");
	pthread_join(thread, &result);
	is((intptr_t)result, CLUSTER, "LIMITS: the write ends well");
	ok(abi_holds(d, 3 * CLUSTER, CLUSTER, 0x42), "LIMITS: it is there");
	s = status(fd, d->index);
	ok(s.parked == 0 && !(s.state & PLOOP_STATE_NOSPACE), "LIMITS: nothing waits any more");
	close(watcher);
}

static void reserve(int fd, struct device *d)
{
	const char *top = abi_image("l1.hdd", 2);
	struct ploop_snapshot_item item = { .index = d->index, .fd = open(top, O_RDWR | O_CLOEXEC) };
	struct ploop_snapshot s = { .size = sizeof(s), .nr_items = 1, .items = (uintptr_t)&item };

	device_nodata(d);
	is(limits(fd, d->index, 0, 1ull << 60), 0, "RESERVE: more than any host has");
	is(control_call(fd, PLOOP_CTL_SNAPSHOT, &s), -ENOSPC, "RESERVE: SNAPSHOT is refused");
	is(device_snapshot(d, top, 0), -ENOSPC, "RESERVE: the old SNAPSHOT, too");
	is(status(fd, d->index).nr_levels, 1, "RESERVE: the stack is as it was");
	is(image_read32(top, IMAGE_IN_USE), 0, "RESERVE: the new file is clean");
	is(limits(fd, d->index, 0, 1 << 20), 0, "RESERVE: what the host has");
	is(control_call(fd, PLOOP_CTL_SNAPSHOT, &s), 0, "RESERVE: SNAPSHOT");
	is(status(fd, d->index).nr_levels, 2, "RESERVE: there is a new top");
	close(item.fd);
}

void control_limits(int fd)
{
	const char *path = abi_image("l0.hdd", 2);
	int index = control_attach(fd, &path, 1, 0);
	struct device d;

	if (!ok(index >= 0, "LIMITS: a device"))
		return;
	control_device(&d, index);
	device_data(&d);
	max_delta(fd, &d, path);
	reserve(fd, &d);
	control_close(&d);
	is(control_detach(fd, index), 0, "LIMITS: DETACH");
	ok(image_sound(path), "LIMITS: the image is sound");
}

/* As many levels as there can be, each with something only it has; then back to one. */
void control_depth(int fd)
{
	static char paths[PLOOP_LEVELS_MAX + 1][256];
	const char *list[PLOOP_LEVELS_MAX];
	struct random r = { 128 };
	struct ploop_job job;
	struct device d;
	bool same = true;
	int levels, index, result = 0;

	for (int i = 0; i <= PLOOP_LEVELS_MAX; i++) {
		char name[32];

		snprintf(name, sizeof(name), "depth-%d.hdd", i);
		strcpy(paths[i], abi_image(name, 2));
		if (i < PLOOP_LEVELS_MAX)
			list[i] = paths[i];
	}
	index = control_attach(fd, list, 1, 0);
	if (!ok(index >= 0, "DEPTH: a device"))
		return;
	control_device(&d, index);
	for (levels = 1;; levels++) {
		/* Its own cluster, and a part of one that all write to. */
		abi_fill(&d, levels * CLUSTER, CLUSTER, levels);
		abi_fill(&d, levels % 16 * 4096, 4096, levels);
		device_nodata(&d);
		if (levels == PLOOP_LEVELS_MAX)
			break;
		result = device_snapshot(&d, paths[levels], 0);
		if (result)
			break;
	}
	is(levels, PLOOP_LEVELS_MAX, "DEPTH: 128 levels by snapshots (%d)", result);
	is(device_snapshot(&d, paths[PLOOP_LEVELS_MAX], 0), -EINVAL, "DEPTH: one more is refused");
	is(image_read32(paths[PLOOP_LEVELS_MAX], IMAGE_IN_USE), 0, "DEPTH: its file is clean");
	control_close(&d);
	is(control_detach(fd, index), 0, "DEPTH: DETACH");
	index = control_attach(fd, list, PLOOP_LEVELS_MAX, 0);
	if (!ok(index >= 0, "DEPTH: attached in one call"))
		return;
	control_device(&d, index);
	for (int round = 0; round < 2; round++) {
		for (int i = 1; i <= PLOOP_LEVELS_MAX; i++)
			same &= abi_holds(&d, i * CLUSTER, CLUSTER, i);
		for (int i = PLOOP_LEVELS_MAX - 15; i <= PLOOP_LEVELS_MAX; i++)
			same &= abi_holds(&d, i % 16 * 4096, 4096, i);
		ok(same, "DEPTH: every level's data, %s", round ? "merged" : "in 128 levels");
		if (round)
			break;
		device_nodata(&d);
		for (; levels > 1 && !result; levels--) {
			result = control_job(fd, index, PLOOP_JOB_OP_START, PLOOP_JOB_MERGE, 1 + random_below(&r, levels - 1), &job);
			if (!result)
				result = control_job(fd, index, PLOOP_JOB_OP_WAIT, 0, 0, &job);
			if (!result && job.state != PLOOP_JOB_DONE)
				result = -(int)job.error;
		}
		is(levels, 1, "DEPTH: merged in any order (%d)", result);
	}
	control_close(&d);
	is(control_detach(fd, index), 0, "DEPTH: DETACH");
	ok(image_sound(paths[0]), "DEPTH: the image is sound");
	for (int i = 0; i <= PLOOP_LEVELS_MAX; i++)
		unlink(paths[i]);
}
