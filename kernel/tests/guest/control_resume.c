// SPDX-License-Identifier: GPL-2.0
/* Jobs that do not end: cut off, the images repaired as after a crash, the job is begun again and goes on. */
#include "control.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "tap.h"

#define USED 96u	/* clusters */

struct resume {
	const char *name;
	const char *paths[2];
	unsigned int levels;
	uint32_t kind;
	uint64_t argument;
	int index;
	struct device d;
	uint8_t bytes[USED];	/* each cluster's content */
};

static void fill(struct resume *r, unsigned int cluster, uint8_t byte)
{
	if (abi_fill(&r->d, cluster * CLUSTER, CLUSTER, byte) != (int)CLUSTER)
		die("write");
	r->bytes[cluster] = byte;
}

static bool holds(struct resume *r)
{
	bool same = true;

	for (unsigned int i = 0; i < USED; i++)
		same &= abi_holds(&r->d, i * CLUSTER, CLUSTER, r->bytes[i]);
	device_nodata(&r->d);
	return same;
}

static bool attach(int fd, struct resume *r)
{
	r->index = control_attach(fd, r->paths, r->levels, 0);
	if (r->index >= 0)
		control_device(&r->d, r->index);
	return ok(r->index >= 0, "%s: a device (%d)", r->name, r->index);
}

/* Started so slowly that it can be met at work, even if this thread sleeps for seconds: a cluster in four of them. */
static bool begin(int fd, struct resume *r, const char *when)
{
	uint64_t end = now_ns() + 30000000000ull;
	struct ploop_job job = {
		.size = sizeof(job), .index = r->index, .op = PLOOP_JOB_OP_START, .kind = r->kind, .arg = r->argument,
		.rate = CLUSTER / 4,
	};

	is(control_call(fd, PLOOP_CTL_JOB, &job), 0, "%s: the job starts, %s", r->name, when);
	do {
		usleep(1000);
		if (control_job(fd, r->index, PLOOP_JOB_OP_QUERY, 0, 0, &job))
			die("JOB");
	} while (job.state == PLOOP_JOB_RUNNING && job.done == 0 && now_ns() < end);
	return ok(job.state == PLOOP_JOB_RUNNING && job.done > 0, "%s: it is at work, %s (%llu of %llu)",
		  r->name, when, (unsigned long long)job.done, (unsigned long long)job.total);
}

static int wait_for(int fd, struct resume *r)
{
	struct ploop_job job;

	if (control_job(fd, r->index, PLOOP_JOB_OP_WAIT, 0, 0, &job))
		die("JOB");
	return job.state;
}

/* Cancelled, then aborted, each time at work; then to the end. */
static void interrupted(int fd, struct resume *r)
{
	struct ploop_job job;
	bool good = true;

	if (begin(fd, r, "first")) {
		is(control_job(fd, r->index, PLOOP_JOB_OP_CANCEL, 0, 0, &job), 0, "%s: cancel", r->name);
		is(wait_for(fd, r), PLOOP_JOB_CANCELLED, "%s: cancelled", r->name);
		ok(holds(r), "%s: the data after that", r->name);
	}
	if (begin(fd, r, "again")) {
		control_abort(r->index);
		is(wait_for(fd, r), PLOOP_JOB_FAILED, "%s: it ends with the device", r->name);
		ok(holds(r), "%s: an aborted device is still read", r->name);
	}
	control_close(&r->d);
	is(control_detach(fd, r->index), -EIO, "%s: DETACH says that the images are not closed", r->name);
	for (unsigned int i = 0; i < r->levels; i++)
		good &= image_repair(r->paths[i]);
	ok(good, "%s: ploop's check repairs the images", r->name);
	if (!attach(fd, r))
		return;
	ok(holds(r), "%s: the data after the repair", r->name);
	is(control_job(fd, r->index, PLOOP_JOB_OP_START, r->kind, r->argument, &job), 0, "%s: the job starts, after the repair",
	   r->name);
	is(wait_for(fd, r), PLOOP_JOB_DONE, "%s: and ends well", r->name);
	ok(holds(r), "%s: the data in the end", r->name);
}

static void end(int fd, struct resume *r)
{
	control_close(&r->d);
	is(control_detach(fd, r->index), 0, "%s: DETACH", r->name);
	ok(image_sound(r->paths[0]), "%s: the image is sound", r->name);
}

static void level(struct resume *r, const char *path, unsigned int step)
{
	is(device_snapshot(&r->d, path, 0), 0, "%s: a snapshot", r->name);
	for (unsigned int i = 0; i < USED; i += step)
		fill(r, i, 0xff - i - step);
	device_nodata(&r->d);
	r->levels++;
}

static void levels_left(int fd, struct resume *r, unsigned int count)
{
	struct ploop_status s = { .size = sizeof(s), .index = r->index };

	is(control_call(fd, PLOOP_CTL_STATUS, &s), 0, "%s: STATUS", r->name);
	is(s.nr_levels, count, "%s: what is left are %u levels", r->name, count);
}

/* The table gets so long that clusters have to make room. */
#define GROWN (8ull << 30)

static void run(int fd, struct resume *r, uint32_t kind, uint64_t argument)
{
	struct ploop_job job;

	is(control_job(fd, r->index, PLOOP_JOB_OP_START, kind, argument, &job), 0, "%s: job %u starts", r->name, kind);
	is(wait_for(fd, r), PLOOP_JOB_DONE, "%s: job %u ends", r->name, kind);
}

static void merge(int fd, bool grown)
{
	struct resume r = {
		.name = grown ? "interrupted merge into a smaller level" : "interrupted merge",
		.paths = { abi_image("r0.hdd", 2), abi_image("r1.hdd", 2) }, .levels = 1,
		.kind = PLOOP_JOB_MERGE, .argument = 1,
	};

	if (!attach(fd, &r))
		return;
	for (unsigned int i = 0; i < USED; i++)
		fill(&r, i, i + 1);
	device_nodata(&r.d);
	level(&r, r.paths[1], 2);
	if (grown)
		run(fd, &r, PLOOP_JOB_GROW, GROWN);
	interrupted(fd, &r);
	levels_left(fd, &r, 1);
	if (grown)
		is(device_bytes(&r.d), GROWN, "%s: the size in the end", r.name);
	end(fd, &r);
}

/* Neither of them is the top. */
static void merge_below(int fd)
{
	struct resume r = { .name = "merge into a smaller level, below", .paths = { abi_image("r4.hdd", 2) }, .levels = 1 };

	if (!attach(fd, &r))
		return;
	for (unsigned int i = 0; i < USED; i++)
		fill(&r, i, i + 1);
	device_nodata(&r.d);
	level(&r, abi_image("r5.hdd", 2), 2);
	run(fd, &r, PLOOP_JOB_GROW, GROWN);
	if (abi_fill(&r.d, GROWN - CLUSTER, CLUSTER, 0x77) != (int)CLUSTER)
		die("write");
	device_nodata(&r.d);
	image_create(abi_path("r6.hdd"), &(struct image){ .version = 2, .cluster = CLUSTER, .bytes = GROWN });
	level(&r, abi_path("r6.hdd"), 3);
	run(fd, &r, PLOOP_JOB_MERGE, 1);
	levels_left(fd, &r, 2);
	ok(image_sound(r.paths[0]), "%s: the lower image is closed and sound", r.name);
	ok(holds(&r), "%s: the data", r.name);
	run(fd, &r, PLOOP_JOB_MERGE, 1);
	levels_left(fd, &r, 1);
	ok(holds(&r) && abi_holds(&r.d, GROWN - CLUSTER, CLUSTER, 0x77), "%s: the data, with the top merged, too", r.name);
	device_nodata(&r.d);
	end(fd, &r);
}

static void grow(int fd)
{
	struct resume r = {
		.name = "interrupted grow", .paths = { abi_image("r2.hdd", 2) }, .levels = 1,
		.kind = PLOOP_JOB_GROW, .argument = GROWN,
	};

	if (!attach(fd, &r))
		return;
	for (unsigned int i = 0; i < USED; i++)
		fill(&r, i, i + 1);
	device_nodata(&r.d);
	interrupted(fd, &r);
	is(device_bytes(&r.d), r.argument, "%s: the size in the end", r.name);
	ok(abi_holds(&r.d, r.argument - CLUSTER, CLUSTER, 0), "%s: the new end is zeros", r.name);
	device_nodata(&r.d);
	end(fd, &r);
}

static void compact(int fd)
{
	struct resume r = {
		.name = "interrupted compact", .paths = { abi_image("r3.hdd", 2) }, .levels = 1,
		.kind = PLOOP_JOB_COMPACT,
	};
	uint64_t discard[2] = { 0, USED / 2 * CLUSTER };

	if (!attach(fd, &r))
		return;
	for (unsigned int i = 0; i < USED; i++)
		fill(&r, i, i + 1);
	if (ioctl(device_data(&r.d), BLKDISCARD, discard) || fsync(r.d.rw))
		die("discard");
	memset(r.bytes, 0, USED / 2);
	device_nodata(&r.d);
	interrupted(fd, &r);
	end(fd, &r);
	ok(image_size(r.paths[0]) <= (off_t)(USED / 2 + 1) * CLUSTER, "%s: the file has no hole left (%lld)", r.name,
	   (long long)image_size(r.paths[0]));
}

void control_resume(int fd)
{
	merge(fd, false);
	merge(fd, true);
	merge_below(fd);
	grow(fd);
	compact(fd);
}
