// SPDX-License-Identifier: GPL-2.0
/*
 * guest-tests hostile FOLDER [SEED]: images that lie. Each is refused with an error and untouched, or works; a cluster
 * whose entry is impossible never reads as data. The group looks at the kernel's log afterwards.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "device.h"
#include "image.h"
#include "tap.h"

#define CLUSTER 65536u
#define CLUSTERS 64u
#define PAGE 4096u

static const char *folder;
static char path[256];
static uint8_t *good, *now;	/* the whole file */
static size_t good_size;

static void base_image(int version)
{
	struct image image = { .version = version, .cluster = CLUSTER, .bytes = CLUSTER * CLUSTERS };
	struct device d;

	image_create(path, &image);
	device_get(&d);
	if (device_add(&d, path, PLOOP_FMT_PLOOP1, 0) || device_start(&d))
		die("a good image does not attach");
	for (unsigned int i = 0; i < 8; i++) {
		uint8_t *data = aligned(CLUSTER);

		memset(data, 0x80 + i, CLUSTER);
		if (device_pwrite(&d, data, CLUSTER, i * 2 * CLUSTER) != (int)CLUSTER)
			die("write");
		free(data);
	}
	if (device_stop(&d))
		die("stop");
	device_put(&d);
	good_size = image_size(path);
	good = realloc(good, good_size);
	now = realloc(now, good_size);
	image_pread(path, good, good_size, 0);
}

static void put(const uint8_t *bytes, size_t size)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0 || write(fd, bytes, size) != (ssize_t)size)
		die("write %s", path);
	close(fd);
}

struct outcome {
	int attached;		/* errno of the first step that failed, or 0 */
	bool touched;		/* a refused image was changed */
	int bad_reads;		/* of the cluster asked for: 0 it read, else errno */
};

/* Attaches, reads every cluster, writes some, stops. */
static struct outcome try(size_t size, uint32_t flags, int cluster, struct random *r)
{
	struct outcome o = { 0 };
	uint8_t *data = aligned(CLUSTER);
	struct device d;
	int result;

	device_get(&d);
	result = device_add(&d, path, PLOOP_FMT_PLOOP1, flags);
	if (!result)
		result = device_start(&d);
	o.attached = result;
	if (!result) {
		uint64_t clusters = device_bytes(&d) / CLUSTER;

		for (uint64_t i = 0; i < clusters && i < 2 * CLUSTERS; i++) {
			result = device_pread(&d, data, PAGE, i * CLUSTER);
			if ((int)i == cluster)
				o.bad_reads = result < 0 ? result : 0;
		}
		if (clusters > 2 * CLUSTERS)
			device_pread(&d, data, PAGE, (clusters - 1) * CLUSTER);
		for (int i = 0; i < 4 && !flags && clusters; i++)
			device_pwrite(&d, data, PAGE, random_below(r, clusters < CLUSTERS ? clusters : CLUSTERS) * CLUSTER);
		if (!flags)
			fsync(d.rw);
	}
	device_put(&d);
	if (o.attached) {
		o.touched = image_size(path) != (off_t)size;
		if (!o.touched) {
			uint8_t *after = malloc(size + 1);

			image_pread(path, after, size, 0);
			o.touched = memcmp(after, now, size) != 0;
			free(after);
		}
	}
	free(data);
	return o;
}

static void headers(int version, uint32_t flags, struct random *r)
{
	unsigned int refused = 0, accepted = 0, touched = 0;
	static const uint32_t values[] = { 0, 1, 2, 0x7f, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff };
	const char *mode = flags ? "read-only" : "writable";

#define TRY() do { struct outcome o; put(now, good_size); o = try(good_size, flags, -1, r); \
	if (o.attached) refused++; else accepted++; touched += o.touched; } while (0)
	for (unsigned int bit = 0; bit < 64 * 8; bit++) {
		memcpy(now, good, good_size);
		now[bit / 8] ^= 1 << bit % 8;
		TRY();
	}
	is(touched, 0, "v%d %s: every single bit of the header flipped: what is refused is untouched", version, mode);
	/* CHS, the flags, the mark and the extension's place mean nothing; all else must be noticed. */
	ok(refused >= 200, "v%d %s: of 512 such headers %u are refused, %u work", version, mode, refused, accepted);
	touched = 0;
	for (unsigned int field = 16; field < 64; field += 4) {
		for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
			memcpy(now, good, good_size);
			memcpy(now + field, &values[i], 4);
			TRY();
		}
	}
	is(touched, 0, "v%d %s: every field of the header at its limits: what is refused is untouched", version, mode);
#undef TRY
}

static void tables(int version, uint32_t flags, struct random *r)
{
	uint32_t unit = version == 1 ? CLUSTER / 512 : 1;
	uint32_t end = good_size / CLUSTER;
	const struct {
		const char *what;
		uint32_t value;
	} cases[] = {
		{ "the header's cluster", 0 * unit + (version == 1 ? 1 : 0) },
		{ "the first cluster behind the end", end * unit },
		{ "far behind the end", 0x00fffff0 / unit * unit },
		{ "the largest value", 0xffffffff },
		{ "the largest value but one", 0xfffffffe },
		{ "the sign bit", 0x80000000 },
		{ "an unaligned place", unit + 1 },
	};
	const char *mode = flags ? "read-only" : "writable";

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct outcome o;

		if (version == 2 && (i == 0 || i == 6))
			continue;	/* 0 is a hole, and there is no alignment */
		memcpy(now, good, good_size);
		memcpy(now + IMAGE_BAT + 4 * 6, &cases[i].value, 4);
		put(now, good_size);
		o = try(good_size, flags, 6, r);
		ok(o.attached ? !o.touched : o.bad_reads == -EIO || o.bad_reads == -EUCLEAN,
		   "v%d %s: an entry with %s is not read through (attach %d, read %d)", version, mode, cases[i].what,
		   o.attached, o.bad_reads);
	}
}

static void truncations(int version, uint32_t flags, struct random *r)
{
	unsigned int touched = 0, wrong = 0;

	for (size_t size = 0; size <= good_size; size += size < 8192 ? 512 : CLUSTER - size % CLUSTER) {
		struct outcome o;

		memcpy(now, good, good_size);
		put(now, size);
		o = try(size, flags, -1, r);
		touched += o.attached && o.touched;
		wrong += !o.attached && (size < CLUSTER || size % CLUSTER);
	}
	is(touched, 0, "v%d %s: truncated anywhere: what is refused is untouched", version, flags ? "read-only" : "writable");
	is(wrong, 0, "v%d %s: a file not of whole clusters is refused", version, flags ? "read-only" : "writable");
}

static void noise(int version, struct random *r, unsigned int rounds)
{
	unsigned int accepted = 0;

	for (unsigned int i = 0; i < rounds; i++) {
		unsigned int changes = 1 + random_below(r, 24);
		struct outcome o;

		memcpy(now, good, good_size);
		/* Mostly the table and the fields, so that many get past the first checks. */
		while (changes--)
			now[random_below(r, 4) ? IMAGE_BAT + random_below(r, 4 * CLUSTERS) : 28 + random_below(r, 36)] =
				random_next(r);
		put(now, good_size);
		o = try(good_size, random_below(r, 2) ? PLOOP_CTLF_RDONLY : 0, -1, r);
		accepted += !o.attached;
	}
	ok(accepted > rounds / 20, "v%d: %u images with random damage; %u attached", version, rounds, accepted);
}

int hostile_main(int argc, char **argv)
{
	struct random r = { argc > 2 ? strtoull(argv[2], NULL, 0) : now_ns() };

	if (argc < 2)
		return 2;
	folder = argv[1];
	printf("# seed %llu\n", (unsigned long long)r.state);
	snprintf(path, sizeof(path), "%s/hostile.hdd", folder);
	for (int version = 1; version <= 2; version++) {
		for (uint32_t flags = 0; flags <= PLOOP_CTLF_RDONLY; flags += PLOOP_CTLF_RDONLY) {
			base_image(version);
			headers(version, flags, &r);
			tables(version, flags, &r);
			truncations(version, flags, &r);
		}
		noise(version, &r, 200);
	}
	unlink(path);
	return tap_failures != 0;
}
