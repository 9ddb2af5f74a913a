// SPDX-License-Identifier: GPL-2.0
/*
 * guest-tests fsx FOLDER [name=value...]: random reads and writes against a model.
 *
 * Each thread owns the stripes with its number. A stripe is no multiple of the cluster, so all threads meet in every
 * cluster, unless stripe= makes it so large that it has whole clusters, which are then written in one piece. A write
 * fills its sectors with words that tell where and when, so a misplaced or stale sector is seen as such.
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

/* A piece of what the thread owns. */
static uint32_t piece(struct fsx *f, struct random *r, unsigned int number, uint64_t *offset)
{
	uint64_t stripes = f->bytes / f->stripe / f->threads, near = f->window / f->stripe / f->threads + 1;
	uint64_t row = random_below(r, stripes), start, first;
	uint32_t span = f->threads == 1 ? TRANSFER_MAX : f->stripe, size;

	if (f->window && near < stripes)
		row = random_below(r, 2) ? random_below(r, near) : stripes - 1 - random_below(r, near);
	start = (row * f->threads + number) * f->stripe;
	if (start + span > f->bytes)
		span = f->bytes - start;
	/* A whole cluster, if there is one; half of the rest in 4 KiB, some in odd sectors, some as large as may be. */
	first = (start + f->cluster - 1) / f->cluster * f->cluster;
	if (first + f->cluster <= start + span && random_below(r, 3) == 0) {
		size = f->cluster;
		start = first + random_below(r, (start + span - first) / f->cluster) * f->cluster;
	} else if (random_below(r, 2)) {
		size = 4096;
		start += random_below(r, (span - size) / 4096 + 1) * 4096;
	} else {
		uint32_t at = random_below(r, span / 512);

		size = (random_below(r, span / 512 - at) + 1) * 512;
		start += at * 512;
	}
	*offset = start;
	return size;
}

static void step(struct fsx *f, struct random *r, unsigned int number, int fd)
{
	uint64_t offset, range[2];
	uint32_t size = piece(f, r, number, &offset);
	unsigned int kind = random_below(r, 100);

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
		else if (!strcmp(argv[i], "stripe"))
			f->stripe = number << 10;
		else if (!strcmp(argv[i], "sectors"))
			f->stripe = number * 512;
		else if (!strcmp(argv[i], "mib"))
			f->bytes = number << 20;
		else if (!strcmp(argv[i], "max"))
			f->bytes_max = number << 20;
		else if (!strcmp(argv[i], "step"))
			f->bytes_step = number << 20;
		else if (!strcmp(argv[i], "window"))
			f->window = number << 20;
		else if (!strcmp(argv[i], "lengthen"))
			f->lengthen = number;
		else if (!strcmp(argv[i], "actions"))
			f->actions = value;
		else
			die("what is %s?", argv[i]);
	}
}

static bool same_to(struct fsx *f, bool same)
{
	for (uint64_t at = 0; same && at < f->bytes; at += TRANSFER_MAX)
		same = fsx_compare(f, f->device.rw, at, f->bytes - at < TRANSFER_MAX ? f->bytes - at : TRANSFER_MAX);
	return same;
}

static void run_threads(struct fsx *f)
{
	struct thread *threads = calloc(f->threads, sizeof(*threads));
	pthread_t control;

	if (!threads)
		die("memory");
	for (unsigned int i = 0; i < f->threads; i++) {
		threads[i] = (struct thread){ .f = f, .number = i };
		if (pthread_create(&threads[i].id, NULL, work, &threads[i]))
			die("pthread_create");
	}
	if (pthread_create(&control, NULL, fsx_control, f))
		die("pthread_create");
	pthread_join(control, NULL);
	for (unsigned int i = 0; i < f->threads; i++)
		pthread_join(threads[i].id, NULL);
	free(threads);
}

static unsigned long parameter(const char *name)
{
	unsigned long value = 0;
	char path[64];
	FILE *file;

	snprintf(path, sizeof(path), "/sys/module/ploop/parameters/%s", name);
	file = fopen(path, "r");
	if (!file || fscanf(file, "%lu", &value) < 0)
		die("%s", path);
	fclose(file);
	return value;
}

static void report(struct fsx *f, const char *what, bool same)
{
	const char *missing = fsx_missing(f);

	printf("# %lu transfers; snapshots %lu, merges %lu, growths %lu, tracked copies %lu, restarts %lu, bitmaps %lu, "
	       "compactions %lu, held %lu, readers %lu\n", f->operations, f->done[DID_SNAPSHOT], f->done[DID_MERGE],
	       f->done[DID_GROW], f->done[DID_TRACK], f->done[DID_RESTART], f->done[DID_BITMAP], f->done[DID_COMPACT],
	       f->done[DID_HOLD], f->done[DID_READER]);
	ok(same && !f->faults, "%s: every byte as written", what);
	ok(f->operations >= fsx_enough(f), "%s: enough of them", what);
	ok(!missing, "%s: every action happened%s%s", what, missing ? ", but for " : "", missing ?: "");
	ok(!parameter("walk_faults"), "%s: nothing for the walker to find", what);
}

int fsx_main(int argc, char **argv)
{
	static struct fsx f = {
		.seconds = 10, .threads = 4, .version = 2, .cluster = 65536, .stripe = 44 << 10, .bytes = 32 << 20, .actions = "d",
	};
	pthread_rwlockattr_t writers_first;
	struct image image;
	unsigned long walks;
	char what[128];
	bool same, sound = true;

	if (argc < 2)
		return 2;
	f.folder = argv[1];
	f.seed = now_ns();
	parse(&f, argc - 2, argv + 2);
	walks = parameter("walks");
	snprintf(what, sizeof(what), "fsx: v%u, %u KiB clusters, %u threads, actions %s, seed %llu", f.version,
		 f.cluster >> 10, f.threads, f.actions, (unsigned long long)f.seed);
	printf("# %s\n", what);
	f.bytes_max = f.bytes_max ?: f.bytes * 2;
	f.bytes_step = f.bytes_step ?: f.bytes_max / 16;
	f.model = calloc(1, f.bytes_max);
	f.control = open("/dev/ploop-control", O_RDWR | O_CLOEXEC);
	if (!f.model || f.control < 0)
		die("memory, or no /dev/ploop-control");
	/* The default lets readers that come and go keep a writer out for ever. */
	pthread_rwlockattr_init(&writers_first);
	pthread_rwlockattr_setkind_np(&writers_first, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&f.rest, &writers_first);
	snprintf(f.names[0], sizeof(f.names[0]), "%s/fsx-0", f.folder);
	f.levels = f.files = 1;
	image = (struct image){ .version = f.version, .cluster = f.cluster, .bytes = f.bytes };
	image_create(f.names[0], &image);
	if (f.lengthen)
		f.first = image_read32(f.names[0], IMAGE_FIRST);
	fsx_attach(&f);
	run_threads(&f);
	same = same_to(&f, true);
	is(device_stop(&f.device), 0, "%s: stops", what);
	device_put(&f.device);
	for (int i = 0; i < f.levels; i++)
		if (i > 0 || f.version)
			sound &= image_sound(f.names[i]);
	ok(sound, "%s: %d images are sound", what, f.levels);
	fsx_attach(&f);
	same = same_to(&f, same);
	device_put(&f.device);
	report(&f, what, same);
	/* A run without such actions has but its start and its end. */
	ok(parameter("walks") > walks, "%s: the walker walked", what);
	if (f.lengthen)
		ok(image_read32(f.names[0], IMAGE_FIRST) > f.first, "%s: the table got longer", what);
	for (int i = 0; i < f.levels; i++)
		unlink(f.names[i]);
	return tap_failures != 0;
}
