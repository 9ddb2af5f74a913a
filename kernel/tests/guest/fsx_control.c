// SPDX-License-Identifier: GPL-2.0
/* What happens to the device under the random tester's feet. One letter of actions= stands for each. */
#include "fsx.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool fsx_snapshot(struct fsx *f)
{
	struct image image = { .version = f->version ?: 2, .cluster = f->cluster, .bytes = f->bytes };
	char *name = f->names[f->levels];
	int result;

	if (f->levels == FSX_LEVELS)
		return false;
	snprintf(name, sizeof(f->names[0]), "%s/fsx-%d", f->folder, f->files++);
	image_create(name, &image);
	result = device_snapshot(&f->device, name, PLOOP_CTLF_FS_SYNC);
	if (result) {
		fsx_fault(f, "SNAPSHOT: %s", strerror(-result));
		return false;
	}
	f->levels++;
	f->done[DID_SNAPSHOT]++;
	return true;
}

static void snapshot(struct fsx *f)
{
	fsx_snapshot(f);
}

static void merge(struct fsx *f)
{
	int result;

	/* Into a smaller one, too, which grows first. */
	if (f->levels == 1)
		return;
	result = device_ioctl(&f->device, PLOOP_IOC_MERGE, NULL);
	if (result) {
		fsx_fault(f, "MERGE: %s", strerror(-result));
		return;
	}
	f->levels--;
	if (!image_sound(f->names[f->levels]))
		fsx_fault(f, "the merged top %s is not sound", f->names[f->levels]);
	unlink(f->names[f->levels]);
	f->done[DID_MERGE]++;
}

static void grow(struct fsx *f)
{
	uint64_t bytes = f->bytes + f->bytes_step;
	int result;

	if (bytes > f->bytes_max || (f->levels == 1 && f->version == 0))
		return;
	result = device_grow(&f->device, bytes);
	if (result) {
		fsx_fault(f, "GROW: %s", strerror(-result));
		return;
	}
	/* The model has zeros there; from now on the threads go there, too. */
	pthread_rwlock_wrlock(&f->rest);
	f->bytes = bytes;
	pthread_rwlock_unlock(&f->rest);
	if (f->lengthen && image_read32(f->names[0], IMAGE_FIRST) > f->first)
		f->longer = true;
	f->done[DID_GROW]++;
}

static void restart(struct fsx *f)
{
	int result;

	pthread_rwlock_wrlock(&f->rest);
	result = device_stop(&f->device);
	if (result)
		fsx_fault(f, "STOP: %s", strerror(-result));
	device_put(&f->device);
	for (int i = 0; i < f->levels; i++)
		if ((i > 0 || f->version) && !image_sound(f->names[i]))
			fsx_fault(f, "%s is not sound after a stop", f->names[i]);
	fsx_attach(f);
	pthread_rwlock_unlock(&f->rest);
	f->done[DID_RESTART]++;
}

static bool copy_range(int in, int out, uint64_t start, uint64_t end, uint32_t piece)
{
	uint8_t *buffer = aligned(piece);
	bool good = true;

	for (uint64_t at = start; good && at < end; at += piece) {
		ssize_t got = pread(in, buffer, end - at < piece ? end - at : piece, at);

		good = got > 0 && pwrite(out, buffer, got, at) == got;
	}
	free(buffer);
	return good;
}

/* The table, but for the header, which the tool writes itself, and each cluster that an entry names. */
static void compare_copy(struct fsx *f, int in, int out)
{
	const char *path = f->names[f->levels - 1];
	uint32_t clusters = image_read32(path, IMAGE_CLUSTERS), unit = f->version == 1 ? f->cluster / 512 : 1;
	uint8_t *a = aligned(f->cluster), *b = aligned(f->cluster);
	uint32_t *table = calloc(clusters, 4);

	image_pread(path, table, 4ull * clusters, IMAGE_BAT);
	for (uint32_t i = 0; i < clusters && !f->over; i++) {
		uint64_t at = (uint64_t)table[i] / unit * f->cluster;
		uint32_t entry = ~0u;

		if (pread(out, b, 4096, (IMAGE_BAT + 4ull * i) & ~4095ull) == 4096)
			memcpy(&entry, b + ((IMAGE_BAT + 4ull * i) & 4095), 4);
		if (entry != table[i])
			fsx_fault(f, "tracked copy: entry %u is %#x instead of %#x", i, entry, table[i]);
		else if (entry && (pread(in, a, f->cluster, at) != f->cluster || pread(out, b, f->cluster, at) != f->cluster ||
				   memcmp(a, b, f->cluster)))
			fsx_fault(f, "tracked copy: cluster %u, at %llu of the file, differs", i, (unsigned long long)at);
	}
	free(table);
	free(a);
	free(b);
}

/* `ploop copy`: a copy of the top's file, made while it changes, equals the file once all extents are read. */
static void track(struct fsx *f)
{
	struct device *d = &f->device;
	struct ploop_track_extent all, e;
	char name[300];
	uint64_t at;
	int in, out, result;

	result = device_ioctl(d, PLOOP_IOC_TRACK_INIT, &all);
	if (result) {
		fsx_fault(f, "TRACK_INIT: %s", strerror(-result));
		return;
	}
	snprintf(name, sizeof(name), "%s/fsx-copy", f->folder);
	in = open(f->names[f->levels - 1], O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (in < 0)
		in = open(f->names[f->levels - 1], O_RDONLY | O_CLOEXEC);
	out = open(name, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);
	if (in < 0 || out < 0)
		die("copy");
	for (at = 0; at < all.end; at += f->cluster) {
		uint64_t position = at + f->cluster;

		if (device_ioctl(d, PLOOP_IOC_TRACK_SETPOS, &position) || !copy_range(in, out, at, position, f->cluster))
			fsx_fault(f, "tracked copy fails at %llu", (unsigned long long)at);
	}
	for (int round = 0; round < 2; round++) {
		if (round)	/* the freeze */
			pthread_rwlock_wrlock(&f->rest);
		if (round && (fdatasync(d->rw) || device_ioctl(d, PLOOP_IOC_SYNC, NULL)))
			fsx_fault(f, "SYNC");
		/* The first round must not chase the writers for ever. */
		for (int i = 0; i < (round ? 100000 : 64) && !f->over; i++) {
			result = device_ioctl(d, PLOOP_IOC_TRACK_READ, &e);
			if (result)
				break;
			device_ioctl(d, PLOOP_IOC_TRACK_SETPOS, &e.end);
			if (!copy_range(in, out, e.start, e.end, f->cluster))
				fsx_fault(f, "tracked extent cannot be copied");
		}
	}
	if (result != -EAGAIN)
		fsx_fault(f, "TRACK_READ ends with %d", result);
	result = device_ioctl(d, PLOOP_IOC_TRACK_STOP, NULL);
	if (result)
		fsx_fault(f, "TRACK_STOP: %s", strerror(-result));
	compare_copy(f, in, out);
	pthread_rwlock_unlock(&f->rest);
	close(in);
	close(out);
	unlink(name);
	f->done[DID_TRACK]++;
}

static const struct {
	char letter;
	int did;
	void (*run)(struct fsx *f);
	const char *name;
} kinds[] = {
	{ 's', DID_SNAPSHOT, snapshot, "snapshots" }, { 's', DID_SNAPSHOT, snapshot, "snapshots" },
	{ 'm', DID_MERGE, merge, "merges" }, { 'm', DID_MERGE, merge, "merges" }, { 'g', DID_GROW, grow, "growths" },
	{ 't', DID_TRACK, track, "tracked copies" }, { 'r', DID_RESTART, restart, "restarts" },
	{ 'b', DID_BITMAP, fsx_bitmap, "bitmaps" }, { 'c', DID_COMPACT, fsx_compact, "compactions" },
	{ 'c', DID_COMPACT, fsx_compact, "compactions" }, { 'h', DID_HOLD, fsx_hold, "held writes" },
	{ 'l', DID_READER, fsx_reader, "readers of lower levels" },
};

/* A growth may have to go so far that the table gets longer. */
static bool happened(const struct fsx *f, int did)
{
	return f->done[did] && (did != DID_GROW || !f->lengthen || f->longer);
}

/* For so long, and on a slow kernel until there was enough to look at, but not for ever. */
static bool goes_on(struct fsx *f, uint64_t begin)
{
	uint64_t seconds = (now_ns() - begin) / 1000000000ull;

	return seconds < f->seconds ||
	       ((f->operations < fsx_enough(f) || fsx_missing(f)) && seconds < 20 * f->seconds);
}

/* What is done next, an index of kinds; -1: nothing, it is a pause. */
static int choose(struct fsx *f, struct random *r, bool in_time)
{
	/* Some letters are of no kind; a few draws without luck are but a longer pause. */
	for (int draw = 0; draw < 40; draw++) {
		int i = random_below(r, sizeof(kinds) / sizeof(kinds[0]));

		if (!strchr(f->actions, kinds[i].letter))
			continue;
		/* The time is over: what has not happened, and snapshots, which others need. */
		if (in_time || !happened(f, kinds[i].did) || kinds[i].did == DID_SNAPSHOT)
			return i;
	}
	return -1;
}

const char *fsx_missing(struct fsx *f)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (strchr(f->actions, kinds[i].letter) && !happened(f, kinds[i].did))
			return kinds[i].name;
	return NULL;
}

void *fsx_control(void *argument)
{
	struct fsx *f = argument;
	struct random r = { f->seed ^ 0x5555 };
	uint64_t begin = now_ns();

	while (!f->over && goes_on(f, begin)) {
		uint64_t until = f->operations + 50 + random_below(&r, 400);
		bool in_time = now_ns() - begin < f->seconds * 1000000000ull;
		int i = choose(f, &r, in_time);

		if (i >= 0)
			kinds[i].run(f);
		if (!in_time)
			until = f->operations;
		while (!f->over && f->operations < until && goes_on(f, begin))
			usleep(2000);
	}
	f->over = true;
	return NULL;
}
