// SPDX-License-Identifier: GPL-2.0
/* The files of a power-cut test's disk, and the changes to its stack. See crash.c. */
#include "crash.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "control.h"

#define GROW_BYTES (600ull << 20)
/* Past what one cluster of the table holds, so data has to make room, once. */
#define GROW_MAX (1ull << 31)

static void sync_folder(void)
{
	int fd = open(crash.folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 || fsync(fd))
		die("sync %s", crash.folder);
	close(fd);
}

static const char *in_folder(const char *name)
{
	static char paths[2][300];
	static int turn;

	turn ^= 1;
	snprintf(paths[turn], sizeof(paths[0]), "%s/%s", crash.folder, name);
	return paths[turn];
}

static void store(void)
{
	FILE *file = fopen(in_folder("stack.new"), "w");

	if (!file)
		die("stack.new");
	fprintf(file, "%llu %d %d %d\n", (unsigned long long)crash.seed, crash.version, crash.next, crash.levels);
	for (int i = 0; i < crash.levels; i++)
		fprintf(file, "%s\n", crash.files[i]);
	if (fflush(file) || fsync(fileno(file)) || fclose(file) || rename(in_folder("stack.new"), in_folder("stack")))
		die("stack");
	sync_folder();
}

bool crash_load(void)
{
	FILE *file = fopen(in_folder("stack"), "r");
	unsigned long long seed;

	if (!file)
		return false;
	if (fscanf(file, "%llu %d %d %d\n", &seed, &crash.version, &crash.next, &crash.levels) != 4 ||
	    crash.levels > CRASH_LEVELS)
		die("damaged stack file");
	crash.seed = seed;
	for (int i = 0; i < crash.levels; i++)
		if (fscanf(file, "%299s\n", crash.files[i]) != 1)
			die("short stack file");
	fclose(file);
	return true;
}

static void new_file(int level)
{
	struct image image = { .version = crash.version, .cluster = CRASH_CLUSTER, .bytes = crash.bytes };
	char name[32];

	snprintf(name, sizeof(name), "delta-%d", crash.next++);
	strcpy(crash.files[level], in_folder(name));
	image_create(crash.files[level], &image);
	sync_folder();
}

void crash_create(void)
{
	char command[512];

	/* First the list, then what it names. */
	unlink(in_folder("stack"));
	sync_folder();
	snprintf(command, sizeof(command), "rm -f %s/delta-*", crash.folder);
	if (system(command))
		die("rm");
	crash.seed = now_ns() * 2654435761u;
	crash.version = 1 + crash.seed % 2;
	crash.bytes = CRASH_BYTES;
	new_file(0);
	crash.levels = 1;
	store();
}

int crash_attach(bool by_control)
{
	const char *paths[CRASH_LEVELS];
	int result = 0;

	crash.by_control = by_control;
	if (by_control) {
		for (int i = 0; i < crash.levels; i++)
			paths[i] = crash.files[i];
		result = control_attach(crash.control, paths, crash.levels, crash.seed & 8 ? PLOOP_ATTACH_PUNCH : 0);
		if (result >= 0)
			control_device(&crash.device, result);
	} else {
		device_get(&crash.device);
		for (int i = 0; !result && i < crash.levels; i++)
			result = device_add(&crash.device, crash.files[i], PLOOP_FMT_PLOOP1,
					    i < crash.levels - 1 ? PLOOP_CTLF_RDONLY : 0);
		if (!result)
			result = device_start(&crash.device);
		if (result)
			device_put(&crash.device);
	}
	if (result >= 0)
		device_data(&crash.device);
	return result < 0 ? result : 0;
}

int crash_detach(void)
{
	int result;

	if (crash.by_control) {
		control_close(&crash.device);
		return control_detach(crash.control, crash.device.index);
	}
	result = device_stop(&crash.device);
	device_put(&crash.device);
	return result;
}

static int job(uint32_t op, uint32_t kind, uint64_t argument, struct ploop_job *j)
{
	return control_job(crash.control, crash.device.index, op, kind, argument, j);
}

/* Returns the state it ended in. */
static uint32_t run_job(struct random *r, uint32_t kind, uint64_t argument, bool interrupt)
{
	int result;
	struct ploop_job j;

	result = job(PLOOP_JOB_OP_START, kind, argument, &j);
	if (result)
		die("job %u of %llu: %d", kind, (unsigned long long)argument, result);
	if (interrupt) {
		struct timespec t = { 0, random_below(r, 100) * 1000000 };

		/* When it is interrupted is the one thing that must differ each time. */
		nanosleep(&t, NULL);
		if (random_below(r, 2))
			job(PLOOP_JOB_OP_PAUSE, 0, 0, &j);
		if (random_below(r, 2))
			job(PLOOP_JOB_OP_RESUME, 0, 0, &j);
		job(PLOOP_JOB_OP_CANCEL, 0, 0, &j);
	}
	result = job(PLOOP_JOB_OP_WAIT, 0, 0, &j);
	if (result || (j.state != PLOOP_JOB_DONE && j.state != PLOOP_JOB_CANCELLED))
		die("job %u of %llu ended with %d, state %u, error %u", kind, (unsigned long long)argument, result, j.state, j.error);
	return j.state;
}

static void remove_level(int level)
{
	char gone[300];

	strcpy(gone, crash.files[level]);
	memmove(crash.files[level], crash.files[level + 1], (CRASH_LEVELS - 1 - level) * sizeof(crash.files[0]));
	crash.levels--;
	store();
	unlink(gone);
}

/* One of the levels into the one below it; the old call can do that with the top only. */
static bool merge(struct random *r, bool middle, bool interrupt)
{
	int level = middle ? 1 + (int)random_below(r, crash.levels - 2 > 0 ? crash.levels - 2 : 1) : crash.levels - 1;
	bool same = crash.levels > 1 && image_read32(crash.files[crash.levels - 2], IMAGE_CLUSTERS) == crash.bytes / CRASH_CLUSTER;
	int result;

	if (crash.levels < (middle ? 3 : 2))
		return false;
	if (!middle && !interrupt && same && random_below(r, 2)) {
		result = device_ioctl(&crash.device, PLOOP_IOC_MERGE, NULL);
		if (result)
			die("MERGE: %d", result);
	} else if (run_job(r, PLOOP_JOB_MERGE, level, interrupt) != PLOOP_JOB_DONE) {
		return interrupt;
	}
	remove_level(level);
	return true;
}

static bool merge_top(struct random *r)
{
	return merge(r, false, false);
}

static bool merge_middle(struct random *r)
{
	return merge(r, true, false);
}

static bool merge_part(struct random *r)
{
	return merge(r, random_below(r, 2), true);
}

static int snapshot_new(struct random *r)
{
	struct ploop_snapshot_item item = { .index = crash.device.index };
	struct ploop_snapshot call = { .size = sizeof(call), .nr_items = 1, .items = (uintptr_t)&item };
	int result;

	if (random_below(r, 2))
		call.flags |= PLOOP_SNAPSHOT_NO_FREEZE;
	if (random_below(r, 2)) {
		call.flags |= PLOOP_SNAPSHOT_BITMAP;
		call.granule_log = 16;
		strcpy(call.name, "since");
	}
	item.fd = open(crash.files[crash.levels - 1], O_RDWR | O_DIRECT | O_CLOEXEC);
	result = control_call(crash.control, PLOOP_CTL_SNAPSHOT, &call);
	close(item.fd);
	return result;
}

static bool snapshot(struct random *r)
{
	int result;

	if (crash.levels == CRASH_LEVELS)
		return merge_middle(r);
	/* As a descriptor: the new file is listed before it is used; empty, it changes nothing. */
	new_file(crash.levels);
	crash.levels++;
	store();
	if (random_below(r, 2))
		result = snapshot_new(r);
	else
		result = device_snapshot(&crash.device, crash.files[crash.levels - 1], PLOOP_CTLF_FS_SYNC);
	if (result)
		die("SNAPSHOT: %d", result);
	return true;
}

static bool grow(struct random *r)
{
	uint64_t bytes = crash.bytes + GROW_BYTES;

	if (bytes > GROW_MAX)
		return false;
	if (random_below(r, 2)) {
		int result = device_grow(&crash.device, bytes);

		if (result)
			die("GROW: %d", result);
	} else if (run_job(r, PLOOP_JOB_GROW, bytes, false) != PLOOP_JOB_DONE) {
		die("a grow was cancelled");
	}
	crash.bytes = bytes;
	crash_note(NOTE_SIZE, bytes);
	return true;
}

static bool compact(struct random *r)
{
	run_job(r, PLOOP_JOB_COMPACT, 0, random_below(r, 3) == 0);
	return true;
}

static bool bitmap(struct random *r)
{
	struct ploop_bitmap b = { .size = sizeof(b), .index = crash.device.index, .granule_log = 12 + random_below(r, 9) };
	struct ploop_range ranges[64];
	struct ploop_bitmap_read read = {
		.size = sizeof(read), .index = crash.device.index, .flags = PLOOP_BITMAP_CLEAR, .nr_ranges = 64,
		.bytes = crash.bytes, .ranges = (uintptr_t)ranges,
	};
	int result;

	strcpy(b.name, "changed");
	strcpy(read.name, "changed");
	result = control_call(crash.control, PLOOP_CTL_BITMAP_CREATE, &b);
	if (result == -EEXIST)
		result = control_call(crash.control, PLOOP_CTL_BITMAP_READ, &read);
	if (!result && random_below(r, 3) == 0) {
		b.granule_log = 0;
		result = control_call(crash.control, PLOOP_CTL_BITMAP_DELETE, &b);
	}
	if (result)
		die("bitmap: %d", result);
	return true;
}

/* The old tracker, as `ploop copy` uses it, given up in the end. */
static bool track(struct random *r)
{
	struct ploop_track_extent all, e;
	int result = device_ioctl(&crash.device, PLOOP_IOC_TRACK_INIT, &all);
	uint64_t position = all.end;

	if (result)
		die("TRACK_INIT: %d", result);
	device_ioctl(&crash.device, PLOOP_IOC_TRACK_SETPOS, &position);
	for (uint64_t i = random_below(r, 40); i > 0; i--) {
		e.start = e.end = 0;
		result = device_ioctl(&crash.device, PLOOP_IOC_TRACK_READ, &e);
		if (result && result != -EAGAIN)
			die("TRACK_READ: %d", result);
	}
	device_ioctl(&crash.device, PLOOP_IOC_SYNC, NULL);
	result = device_ioctl(&crash.device, PLOOP_IOC_TRACK_ABORT, NULL);
	if (result)
		die("TRACK_ABORT: %d", result);
	return true;
}

/* Stopped and started, by either interface. */
static bool cycle(struct random *r)
{
	int result;

	pthread_rwlock_wrlock(&crash.use);
	result = crash_detach();
	if (result)
		die("detach: %d", result);
	result = crash_attach(random_below(r, 2));
	if (result)
		die("attach: %d", result);
	pthread_rwlock_unlock(&crash.use);
	return true;
}

static void scratch(struct random *r)
{
	uint64_t at = DATA_BYTES + random_below(r, SCRATCH_CLUSTERS) * CRASH_CLUSTER;
	uint64_t range[2] = { at, CRASH_CLUSTER };
	uint8_t *data = aligned(CRASH_CLUSTER);

	memset(data, SCRATCH_BYTE, CRASH_CLUSTER);
	if (random_below(r, 2))
		ioctl(crash.device.rw, BLKDISCARD, range);
	else if (pwrite(crash.device.rw, data, CRASH_CLUSTER, at) != CRASH_CLUSTER)
		die("write scratch");
	free(data);
}

static const struct action {
	const char *name;
	bool (*run)(struct random *r);
} actions[] = {
	{ "snapshot", snapshot }, { "compact", compact }, { "snapshot", snapshot }, { "top merge", merge_top },
	{ "bitmap", bitmap }, { "snapshot", snapshot }, { "snapshot", snapshot }, { "middle merge", merge_middle },
	{ "tracking", track }, { "grow", grow }, { "broken-off merge", merge_part }, { "compact", compact },
	{ "attaching", cycle }, { "snapshot", snapshot }, { "bitmap", bitmap }, { "top merge", merge_top },
	{ "broken-off merge", merge_part },
};

void crash_control(void)
{
	unsigned int total = sizeof(actions) / sizeof(actions[0]), done[sizeof(actions) / sizeof(actions[0])] = { 0 };
	struct random r = { crash.seed ^ 0xc0ffee };
	uint64_t end = now_ns() + crash.seconds * 1000000000ull;
	unsigned int next = random_below(&r, total);

	while (!crash.seconds || now_ns() < end) {
		for (uint64_t i = random_below(&r, 16); i > 0; i--)
			scratch(&r);
		done[next] += actions[next].run(&r);
		next = (next + 1) % total;
	}
	for (unsigned int i = 0; i < total; i++)
		printf("# %s: %u\n", actions[i].name, done[i]);
	fflush(stdout);
}
