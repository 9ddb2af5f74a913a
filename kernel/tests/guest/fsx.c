// SPDX-License-Identifier: GPL-2.0
/*
 * guest-tests fsx FOLDER [name=value...]: random reads and writes against a model.
 *
 * Each thread owns the stripes with its number; a stripe is no multiple of the cluster, so all threads meet in every
 * cluster. A write fills its sectors with words that tell where and when, so a misplaced or stale sector is seen as such.
 * After a discard a sector may read as before or as zeros, but from then on always the same.
 */
#include "fsx.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define STRIPE (44u << 10)
#define TRANSFER_MAX (256u << 10)

void fsx_fault(struct fsx *f, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	if (f->faults++ < 20) {
		printf("# ");
		vprintf(format, args);
		putchar('\n');
		fflush(stdout);
	}
	va_end(args);
	f->over = true;
}

bool fsx_compare(struct fsx *f, int fd, uint64_t offset, uint32_t size)
{
	uint8_t *buffer = aligned(size);
	ssize_t got = pread(fd, buffer, size, offset);
	uint64_t words[2];

	if (got != (ssize_t)size) {
		fsx_fault(f, "read of %u at %llu: %zd %s", size, (unsigned long long)offset, got, strerror(errno));
	} else if (memcmp(buffer, f->model + offset, size)) {
		uint32_t at = 0;

		while (buffer[at] == f->model[offset + at])
			at++;
		at &= ~511u;
		memcpy(words, buffer + at, 8);
		memcpy(words + 1, f->model + offset + at, 8);
		fsx_fault(f, "sector at %llu: %#llx instead of %#llx", (unsigned long long)offset + at,
			  (unsigned long long)words[0], (unsigned long long)words[1]);
	} else {
		free(buffer);
		return true;
	}
	free(buffer);
	return false;
}

static void fill(struct fsx *f, uint64_t offset, uint32_t size, uint64_t stamp)
{
	for (uint32_t at = 0; at < size; at += 512) {
		uint64_t word = stamp ? (offset + at) << 24 ^ stamp : 0;

		for (int i = 0; i < 64; i++)
			memcpy(f->model + offset + at + 8 * i, &word, 8);
	}
}

/* What a discard left is known only after reading: old or zero, sector by sector. */
static void discarded(struct fsx *f, int fd, uint64_t offset, uint32_t size)
{
	static const uint8_t zeros[512];
	uint8_t *buffer = aligned(size);

	if (pread(fd, buffer, size, offset) != (ssize_t)size)
		fsx_fault(f, "read after discard at %llu", (unsigned long long)offset);
	for (uint32_t at = 0; at < size; at += 512) {
		if (memcmp(buffer + at, f->model + offset + at, 512) == 0)
			continue;
		if (memcmp(buffer + at, zeros, 512))
			fsx_fault(f, "discarded sector at %llu is neither old nor zero", (unsigned long long)offset + at);
		memset(f->model + offset + at, 0, 512);
	}
	free(buffer);
}

struct thread {
	pthread_t id;
	struct fsx *f;
	unsigned int number;
};

static void step(struct fsx *f, struct random *r, unsigned int number, int fd)
{
	uint64_t stripe, offset, range[2];
	uint32_t span = f->threads == 1 ? TRANSFER_MAX : STRIPE, size;
	unsigned int kind = random_below(r, 100);

	stripe = random_below(r, f->bytes / STRIPE / f->threads) * f->threads + number;
	offset = stripe * STRIPE;
	if (offset + span > f->bytes)
		span = f->bytes - offset;
	/* Half of all in 4 KiB, some in odd sectors, some as large as may be. */
	if (random_below(r, 2)) {
		size = 4096;
		offset += random_below(r, (span - size) / 4096 + 1) * 4096;
	} else {
		uint32_t start = random_below(r, span / 512);

		size = (random_below(r, span / 512 - start) + 1) * 512;
		offset += start * 512;
	}
	if (kind < 40) {
		fsx_compare(f, fd, offset, size);
	} else if (kind < 85) {
		uint8_t *buffer = aligned(size);

		fill(f, offset, size, random_below(r, 12) ? random_next(r) | 1 : 0);
		memcpy(buffer, f->model + offset, size);
		if (pwrite(fd, buffer, size, offset) != (ssize_t)size)
			fsx_fault(f, "write of %u at %llu: %s", size, (unsigned long long)offset, strerror(errno));
		free(buffer);
	} else if (kind < 88) {
		if (fdatasync(fd))
			fsx_fault(f, "flush: %s", strerror(errno));
	} else if (kind < 91) {
		range[0] = offset;
		range[1] = size;
		if (ioctl(fd, BLKZEROOUT, range))
			fsx_fault(f, "zeroing at %llu: %s", (unsigned long long)offset, strerror(errno));
		memset(f->model + offset, 0, size);
	} else if (strchr(f->actions, 'd') && kind < 96) {
		range[0] = offset;
		range[1] = size;
		if (ioctl(fd, BLKDISCARD, range)) {
			if (errno != EOPNOTSUPP)
				fsx_fault(f, "discard at %llu: %s", (unsigned long long)offset, strerror(errno));
		} else {
			discarded(f, fd, offset, size);
		}
	} else {
		fsx_compare(f, fd, offset, size);
	}
	f->operations++;
}

static void *work(void *argument)
{
	struct thread *t = argument;
	struct fsx *f = t->f;
	struct random r = { f->seed * 1000003 + t->number };

	while (!f->over) {
		pthread_rwlock_rdlock(&f->rest);
		for (int i = 0; i < 16 && !f->over; i++)
			step(f, &r, t->number, f->device.rw);
		pthread_rwlock_unlock(&f->rest);
	}
	return NULL;
}

void fsx_attach(struct fsx *f)
{
	int result = 0;

	device_get(&f->device);
	f->device.cluster_log = __builtin_ctz(f->cluster) - 9;
	for (int i = 0; !result && i < f->levels; i++) {
		int format = i == 0 && f->version == 0 ? PLOOP_FMT_RAW : PLOOP_FMT_PLOOP1;

		result = device_add(&f->device, f->names[i], format, i < f->levels - 1 ? PLOOP_CTLF_RDONLY : 0);
	}
	if (!result)
		result = device_start(&f->device);
	if (result)
		die("attach: %s", strerror(-result));
	device_data(&f->device);
}

static void parse(struct fsx *f, int argc, char **argv)
{
	for (int i = 0; i < argc; i++) {
		char *value = strchr(argv[i], '=');
		unsigned long long number;

		if (!value)
			die("what is %s?", argv[i]);
		*value++ = 0;
		number = strtoull(value, NULL, 0);
		if (!strcmp(argv[i], "seed"))
			f->seed = number;
		else if (!strcmp(argv[i], "seconds"))
			f->seconds = number;
		else if (!strcmp(argv[i], "threads"))
			f->threads = number;
		else if (!strcmp(argv[i], "version"))
			f->version = number;
		else if (!strcmp(argv[i], "cluster"))
			f->cluster = number;
		else if (!strcmp(argv[i], "mib"))
			f->bytes = number << 20;
		else if (!strcmp(argv[i], "actions"))
			f->actions = value;
		else
			die("what is %s?", argv[i]);
	}
}

int fsx_main(int argc, char **argv)
{
	static struct fsx f = {
		.seconds = 10, .threads = 4, .version = 2, .cluster = 65536, .bytes = 32 << 20, .actions = "d",
	};
	pthread_rwlockattr_t writers_first;
	struct image image;
	pthread_t control;
	struct thread *threads;
	char what[128];
	bool same = true, sound = true;

	if (argc < 2)
		return 2;
	f.folder = argv[1];
	f.seed = now_ns();
	parse(&f, argc - 2, argv + 2);
	snprintf(what, sizeof(what), "fsx: v%u, %u KiB clusters, %u threads, actions %s, seed %llu", f.version,
		 f.cluster >> 10, f.threads, f.actions, (unsigned long long)f.seed);
	printf("# %s\n", what);
	f.bytes_max = f.bytes * 2;
	f.model = calloc(1, f.bytes_max);
	threads = calloc(f.threads, sizeof(*threads));
	if (!f.model || !threads)
		die("memory");
	/* The default lets readers that come and go keep a writer out for ever. */
	pthread_rwlockattr_init(&writers_first);
	pthread_rwlockattr_setkind_np(&writers_first, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&f.rest, &writers_first);
	snprintf(f.names[0], sizeof(f.names[0]), "%s/fsx-0", f.folder);
	f.levels = f.files = 1;
	image = (struct image){ .version = f.version, .cluster = f.cluster, .bytes = f.bytes };
	image_create(f.names[0], &image);
	fsx_attach(&f);

	for (unsigned int i = 0; i < f.threads; i++) {
		threads[i] = (struct thread){ .f = &f, .number = i };
		if (pthread_create(&threads[i].id, NULL, work, &threads[i]))
			die("pthread_create");
	}
	if (pthread_create(&control, NULL, fsx_control, &f))
		die("pthread_create");
	pthread_join(control, NULL);
	for (unsigned int i = 0; i < f.threads; i++)
		pthread_join(threads[i].id, NULL);

	for (uint64_t at = 0; same && at < f.bytes; at += TRANSFER_MAX)
		same = fsx_compare(&f, f.device.rw, at, TRANSFER_MAX);
	is(device_stop(&f.device), 0, "%s: stops", what);
	device_put(&f.device);
	for (int i = 0; i < f.levels; i++)
		if (i > 0 || f.version)
			sound &= image_sound(f.names[i]);
	ok(sound, "%s: %d images are sound", what, f.levels);
	fsx_attach(&f);
	for (uint64_t at = 0; same && at < f.bytes; at += TRANSFER_MAX)
		same = fsx_compare(&f, f.device.rw, at, TRANSFER_MAX);
	device_put(&f.device);
	printf("# %lu transfers; snapshots %lu, merges %lu, growths %lu, tracked copies %lu, restarts %lu, bitmaps %lu, "
	       "compactions %lu\n", f.operations, f.done[DID_SNAPSHOT], f.done[DID_MERGE], f.done[DID_GROW],
	       f.done[DID_TRACK], f.done[DID_RESTART], f.done[DID_BITMAP], f.done[DID_COMPACT]);
	for (int i = 0; i < f.levels; i++)
		unlink(f.names[i]);
	ok(same && !f.faults, "%s: every byte as written", what);
	ok(f.operations >= fsx_enough(&f), "%s: enough of them", what);
	return tap_failures != 0;
}
