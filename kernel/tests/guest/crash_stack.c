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
#include <unistd.h>

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

static void open_marks(void)
{
	crash.marks = open(in_folder("marks"), O_RDWR | O_DIRECT | O_CLOEXEC);
	if (crash.marks < 0)
		die("marks");
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
	open_marks();
	return true;
}

static void new_file(int level, uint64_t bytes)
{
	struct image image = { .version = crash.version, .cluster = CRASH_CLUSTER, .bytes = bytes };
	char name[32];

	snprintf(name, sizeof(name), "delta-%d", crash.next++);
	strcpy(crash.files[level], in_folder(name));
	image_create(crash.files[level], &image);
	sync_folder();
}

void crash_create(void)
{
	char command[512];
	uint8_t *zeros;
	int fd;

	/* First the list, then what it names. */
	unlink(in_folder("stack"));
	sync_folder();
	snprintf(command, sizeof(command), "rm -f %s/delta-* %s/marks", crash.folder, crash.folder);
	if (system(command))
		die("rm");
	crash.seed = now_ns() * 2654435761u;
	crash.version = 1 + crash.seed % 2;
	crash.bytes = BLOCKS * 4096ull + SCRATCH_CLUSTERS * (uint64_t)CRASH_CLUSTER;
	fd = open(in_folder("marks"), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	zeros = calloc(THREADS, 4096);
	if (fd < 0 || write(fd, zeros, THREADS * 4096) != THREADS * 4096 || fsync(fd))
		die("marks");
	free(zeros);
	close(fd);
	new_file(0, crash.bytes);
	crash.levels = 1;
	store();
	open_marks();
}

int crash_attach(void)
{
	int result = 0;

	device_get(&crash.device);
	for (int i = 0; !result && i < crash.levels; i++)
		result = device_add(&crash.device, crash.files[i], PLOOP_FMT_PLOOP1, i < crash.levels - 1 ? PLOOP_CTLF_RDONLY : 0);
	if (!result)
		result = device_start(&crash.device);
	if (!result)
		device_data(&crash.device);
	return result;
}

static void snapshot(void)
{
	int result;

	if (crash.levels == CRASH_LEVELS)
		return;
	/* As a descriptor: the new file is listed before it is used; empty, it changes nothing. */
	new_file(crash.levels, crash.bytes);
	crash.levels++;
	store();
	result = device_snapshot(&crash.device, crash.files[crash.levels - 1], PLOOP_CTLF_FS_SYNC);
	if (result)
		die("SNAPSHOT: %d", result);
}

static void merge(void)
{
	int result;

	if (crash.levels == 1 ||
	    image_read32(crash.files[crash.levels - 2], IMAGE_CLUSTERS) != crash.bytes / CRASH_CLUSTER)
		return;
	result = device_ioctl(&crash.device, PLOOP_IOC_MERGE, NULL);
	if (result)
		die("MERGE: %d", result);
	crash.levels--;
	store();
	unlink(crash.files[crash.levels]);
}

static void grow(void)
{
	int result;

	/* Past what one cluster of the table holds, so data has to make room, once. */
	if (crash.bytes > 1ull << 31)
		return;
	result = device_grow(&crash.device, crash.bytes + (600ull << 20));
	if (result)
		die("GROW: %d", result);
	crash.bytes += 600ull << 20;
}

static void scratch(struct random *r)
{
	uint64_t at = BLOCKS * 4096ull + random_below(r, SCRATCH_CLUSTERS) * CRASH_CLUSTER;
	uint64_t range[2] = { at, CRASH_CLUSTER };
	uint8_t *data = aligned(CRASH_CLUSTER);

	memset(data, 0xd1, CRASH_CLUSTER);
	if (random_below(r, 2))
		ioctl(crash.device.rw, BLKDISCARD, range);
	else if (pwrite(crash.device.rw, data, CRASH_CLUSTER, at) != CRASH_CLUSTER)
		die("write scratch");
	free(data);
}

void crash_control(void)
{
	struct random r = { crash.seed ^ 0xc0ffee };
	uint64_t end = now_ns() + crash.seconds * 1000000000ull;

	while (!crash.seconds || now_ns() < end) {
		switch (random_below(&r, 48)) {
		case 0: snapshot(); break;
		case 1: merge(); break;
		case 2: if (random_below(&r, 8) == 0) grow(); break;
		default: scratch(&r);
		}
	}
}
