// SPDX-License-Identifier: GPL-2.0
/*
 * guest-tests writelog LOG: what QEMU's blklogwrites driver recorded. Runs on the host.
 *   writelog LOG count            the number of entries, and of flushes
 *   writelog LOG replay N SEED IMAGE   brings IMAGE, a copy of the disk from before the log, to where a power cut after
 *                                 entry N may leave it: all up to the last flush before, and of the writes since then
 *                                 those that SEED picks, in any number. SEED 0 keeps all of them: a plain prefix.
 */
#include <endian.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tap.h"

#define LOG_MAGIC 0x6a736677736872ull
enum { LOG_FLUSH = 1, LOG_FUA = 2, LOG_DISCARD = 4 };

struct entry {
	uint64_t sector, sectors, flags, data;	/* data: where it is in the log */
};

static struct entry *entries;
static uint64_t count;
static uint32_t sector_size;
static int log_fd;

static void load(const char *path)
{
	uint64_t head[4], at;

	log_fd = open(path, O_RDONLY);
	if (log_fd < 0 || pread(log_fd, head, sizeof(head), 0) != sizeof(head) || le64toh(head[0]) != LOG_MAGIC)
		die("%s is no write log", path);
	count = le64toh(head[2]);
	sector_size = le64toh(head[3]);
	entries = calloc(count + 1, sizeof(*entries));
	at = sector_size;
	for (uint64_t i = 0; i < count; i++) {
		uint64_t disk[4];

		if (pread(log_fd, disk, sizeof(disk), at) != sizeof(disk)) {
			count = i;
			break;
		}
		at += sector_size;
		entries[i] = (struct entry){ le64toh(disk[0]), le64toh(disk[1]), le64toh(disk[2]), at };
		if (!(entries[i].flags & LOG_DISCARD))
			at += entries[i].sectors * sector_size;
	}
}

static void apply(const struct entry *e, int fd)
{
	size_t size = e->sectors * sector_size;
	uint8_t *data = calloc(1, size ?: 1);

	/* A discarded range may read as anything; zeros are the worst for who relies on it. */
	if (!(e->flags & LOG_DISCARD) && pread(log_fd, data, size, e->data) != (ssize_t)size)
		die("short log");
	if (size && pwrite(fd, data, size, e->sector * sector_size) != (ssize_t)size)
		die("write image");
	free(data);
}

int writelog_main(int argc, char **argv)
{
	uint64_t end, flush = 0, flushes = 0;
	struct random r;
	int fd;

	if (argc < 3)
		return 2;
	load(argv[1]);
	if (strcmp(argv[2], "count") == 0) {
		for (uint64_t i = 0; i < count; i++)
			flushes += entries[i].flags & LOG_FLUSH;
		printf("%llu %llu\n", (unsigned long long)count, (unsigned long long)flushes);
		return 0;
	}
	if (argc < 6)
		return 2;
	end = strtoull(argv[3], NULL, 0);
	r.state = strtoull(argv[4], NULL, 0);
	fd = open(argv[5], O_RDWR);
	if (fd < 0 || end > count)
		die("%s", argv[5]);
	for (uint64_t i = 0; i < end; i++)
		if (entries[i].flags & LOG_FLUSH)
			flush = i + 1;
	uint64_t keep = r.state ? random_below(&r, 101) : 100;

	for (uint64_t i = 0; i < end; i++)
		if (i < flush || (entries[i].flags & LOG_FUA) || random_below(&r, 100) < keep)
			apply(&entries[i], fd);
	return close(fd) ? 1 : 0;
}
