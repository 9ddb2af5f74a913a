// SPDX-License-Identifier: GPL-2.0
/* Holding back the writes of whoever has the device open. */
#include "control.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "tap.h"

/* More than two queues have requests. */
#define WRITERS 400

static atomic_int ended, failed;
static atomic_bool over;

static int hold(int fd, uint32_t index, uint32_t deadline_ms)
{
	struct ploop_freeze f = {
		.size = sizeof(f), .nr = 1, .flags = PLOOP_FREEZE_HOLD, .deadline_ms = deadline_ms, .indices = (uintptr_t)&index,
	};

	return control_call(fd, PLOOP_CTL_FREEZE, &f);
}

static int thaw(int fd)
{
	return control_call(fd, PLOOP_CTL_THAW, NULL);
}

/* Ever new content, in the last cluster. */
static void *write_on(void *argument)
{
	for (int i = 0; !over; i++)
		if (abi_fill(argument, DISK - CLUSTER, CLUSTER, i) != (int)CLUSTER)
			failed++;
	return NULL;
}

static void *write_one(void *argument)
{
	static atomic_int number;
	int i = number++ % WRITERS;
	void *data = aligned_alloc(4096, 4096);
	struct device *d = argument;

	if (!data)
		die("memory");
	memset(data, 0x51, 4096);
	failed += pwrite(d->rw, data, 4096, (i % 2) * 8 * CLUSTER + i * 4096) != 4096;
	ended++;
	free(data);
	return NULL;
}

static void start(pthread_t *threads, int count, void *(*body)(void *), struct device *d)
{
	pthread_attr_t attributes;

	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, 64 << 10);
	for (int i = 0; i < count; i++)
		if (pthread_create(&threads[i], &attributes, body, d))
			die("pthread_create");
	pthread_attr_destroy(&attributes);
}

static struct ploop_status status_now(int fd, int index)
{
	struct ploop_status s = { .size = sizeof(s), .index = index };

	if (control_call(fd, PLOOP_CTL_STATUS, &s))
		die("STATUS");
	return s;
}

/* Nobody changes anything while writes are held, however often one looks. */
static void nothing_changes(int fd, struct device *d)
{
	static uint8_t first[CLUSTER] __attribute__((aligned(4096))), again[CLUSTER] __attribute__((aligned(4096)));
	uint64_t syncs = status_now(fd, d->index).host_syncs;
	pthread_t writer;
	bool same = true;

	over = false;
	start(&writer, 1, write_on, d);
	for (int round = 0; round < 10; round++) {
		is(hold(fd, d->index, 30000), 0, "HOLD: while somebody writes");
		same &= pread(d->rw, first, CLUSTER, DISK - CLUSTER) == CLUSTER;
		for (int i = 0; i < 20; i++)
			same &= pread(d->rw, again, CLUSTER, DISK - CLUSTER) == CLUSTER && memcmp(first, again, CLUSTER) == 0;
		/* A write is whole or not begun. */
		same &= memcmp(first, first + 1, CLUSTER - 1) == 0;
		is(thaw(fd), 0, "HOLD: THAW");
	}
	over = true;
	pthread_join(writer, NULL);
	ok(same, "HOLD: what is there stays as it is");
	is(failed, 0, "HOLD: no write failed");
	ok(status_now(fd, d->index).host_syncs >= syncs + 10, "HOLD: each made durable what was acknowledged");
}

/* All requests that the queues have could be held; it shall be possible to read all the same. */
static void many(int fd, struct device *d)
{
	static pthread_t threads[WRITERS];
	uint64_t discard[2] = { 0, 4 * CLUSTER }, parked = 0;
	int other = control_open();

	is(abi_fill(d, 0, 4 * CLUSTER, 0x50), (int)(4 * CLUSTER), "HOLD: some content");
	ended = 0;
	is(hold(fd, d->index, 60000), 0, "HOLD: with a deadline");
	is(status_now(fd, d->index).state, PLOOP_STATE_RUNNING | PLOOP_STATE_FROZEN, "HOLD: the state says so");
	is(hold(other, d->index, 1000), -EBUSY, "HOLD: by one at a time");
	start(threads, WRITERS, write_one, d);
	for (int i = 0; i < 30000 && parked < WRITERS; i++, usleep(1000))
		parked = status_now(fd, d->index).parked;
	is(parked, WRITERS, "HOLD: all writes wait");
	ok(abi_holds(d, 0, 4 * CLUSTER, 0x50), "HOLD: reads go on");
	is(fsync(d->rw), 0, "HOLD: flushes go on");
	is(ended, 0, "HOLD: no write has ended");
	is(control_detach(fd, d->index), -EBUSY, "HOLD: the device is in use");
	is(thaw(fd), 0, "HOLD: THAW");
	for (int i = 0; i < WRITERS; i++)
		pthread_join(threads[i], NULL);
	is(failed, 0, "HOLD: %d writes went on", WRITERS);
	ok(abi_holds(d, 0, 4096, 0x51) && abi_holds(d, 8 * CLUSTER + 4096, 4096, 0x51), "HOLD: they are there");
	/* The deadline ends it, if nobody else does; a discard waits as a write does. */
	is(hold(fd, d->index, 1000), 0, "HOLD: for a second");
	is(ioctl(d->rw, BLKDISCARD, discard), 0, "HOLD: a discard waits for the deadline");
	is(thaw(fd), -ETIMEDOUT, "HOLD: it was first");
	/* So does the end of the holder. */
	is(hold(other, d->index, 60000), 0, "HOLD: by another file");
	close(other);
	is(abi_fill(d, 0, CLUSTER, 0x52), (int)CLUSTER, "HOLD: a closed file holds nothing");
}

/* What a migration does at its source: the writes that were held fail, and none comes between. */
static void failing(int fd, struct device *d)
{
	pthread_t threads[8];

	ended = failed = 0;
	is(hold(fd, d->index, 60000), 0, "HOLD: before it is made to fail");
	start(threads, 8, write_one, d);
	control_abort(d->index);
	is(thaw(fd), 0, "HOLD: THAW of a device that fails");
	for (int i = 0; i < 8; i++)
		pthread_join(threads[i], NULL);
	is(failed, 8, "HOLD: the writes that were held fail");
}

void control_holding(int fd)
{
	const char *path = abi_image("hold.hdd", 2);
	int index = control_attach(fd, &path, 1, 0);
	struct device d;

	if (!ok(index >= 0, "HOLD: a device"))
		return;
	control_device(&d, index);
	device_data(&d);
	nothing_changes(fd, &d);
	many(fd, &d);
	failing(fd, &d);
	control_close(&d);
	ok(control_detach(fd, index) != 0, "HOLD: DETACH says that it failed");
}
