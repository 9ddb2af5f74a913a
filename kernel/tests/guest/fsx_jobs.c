// SPDX-License-Identifier: GPL-2.0
/* More of what happens under the random tester's feet: by the new interface. */
#include "fsx.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control.h"

#define PIECE (256u << 10)

static uint8_t *model_now(struct fsx *f)
{
	uint8_t *copy = malloc(f->bytes);

	if (!copy)
		die("memory");
	memcpy(copy, f->model, f->bytes);
	return copy;
}

static void wait_for_transfers(struct fsx *f, unsigned long count)
{
	unsigned long until = f->operations + count;
	uint64_t end = now_ns() + 10 * 1000000000ull;

	while (!f->over && f->operations < until && now_ns() < end)
		usleep(2000);
}

/* Some are cancelled at work. */
void fsx_compact(struct fsx *f)
{
	bool cancel = f->done[DID_COMPACT] % 4 == 3;
	struct ploop_job job = {
		.size = sizeof(job), .index = f->device.index, .op = PLOOP_JOB_OP_START, .kind = PLOOP_JOB_COMPACT,
		.rate = cancel ? 16ull * f->cluster : 0,
	};
	int result;

	if (f->levels == 1 && f->version == 0)
		return;
	result = control_call(f->control, PLOOP_CTL_JOB, &job);
	if (!result && cancel) {
		wait_for_transfers(f, 20);
		/* It may be over by now. */
		control_job(f->control, f->device.index, PLOOP_JOB_OP_CANCEL, 0, 0, &job);
	}
	if (!result)
		result = control_job(f->control, f->device.index, PLOOP_JOB_OP_WAIT, 0, 0, &job);
	if (result)
		fsx_fault(f, "COMPACT: %s", strerror(-result));
	else if (job.state != PLOOP_JOB_DONE && !(cancel && job.state == PLOOP_JOB_CANCELLED))
		fsx_fault(f, "COMPACT ends with state %u, %s", job.state, strerror(job.error));
	else
		f->done[DID_COMPACT]++;
}

/* Every granule that differs from what it was when the bitmap began has to be marked. */
static void check_marks(struct fsx *f, const uint8_t *before, uint64_t bytes)
{
	enum { GRANULE = 65536 };
	uint64_t at = 0, marked_to = 0;
	struct ploop_range ranges[64];

	while (at < bytes && !f->over) {
		struct ploop_bitmap_read r = {
			.size = sizeof(r), .index = f->device.index, .flags = PLOOP_BITMAP_CLEAR, .nr_ranges = 64, .start = at,
			.bytes = bytes - at, .ranges = (uintptr_t)ranges, .name = "fsx",
		};
		int result = control_call(f->control, PLOOP_CTL_BITMAP_READ, &r);

		if (result || r.next <= at) {
			fsx_fault(f, "BITMAP_READ at %llu: %s", (unsigned long long)at, strerror(-result));
			return;
		}
		for (uint32_t i = 0; i <= r.nr_ranges; i++) {
			uint64_t end = i < r.nr_ranges ? ranges[i].start : r.next;

			for (uint64_t g = marked_to; g < end; g += GRANULE) {
				uint64_t size = end - g < GRANULE ? end - g : GRANULE;

				if (memcmp(before + g, f->model + g, size))
					fsx_fault(f, "the write at %llu is not marked", (unsigned long long)g);
			}
			if (i < r.nr_ranges)
				marked_to = ranges[i].start + ranges[i].bytes;
		}
		if (marked_to < r.next)
			marked_to = r.next;
		at = r.next;
	}
}

void fsx_bitmap(struct fsx *f)
{
	struct ploop_bitmap b = { .size = sizeof(b), .index = f->device.index, .granule_log = 16, .name = "fsx" };
	uint8_t *before;
	int result;

	pthread_rwlock_wrlock(&f->rest);
	result = control_call(f->control, PLOOP_CTL_BITMAP_CREATE, &b);
	before = model_now(f);
	pthread_rwlock_unlock(&f->rest);
	wait_for_transfers(f, 60);
	pthread_rwlock_wrlock(&f->rest);
	if (!result)
		check_marks(f, before, f->bytes);
	b.granule_log = 0;
	result = result ?: control_call(f->control, PLOOP_CTL_BITMAP_DELETE, &b);
	pthread_rwlock_unlock(&f->rest);
	free(before);
	if (result)
		fsx_fault(f, "BITMAP: %s", strerror(-result));
	else
		f->done[DID_BITMAP]++;
}

static uint64_t sum(struct fsx *f, int fd)
{
	uint8_t *buffer = aligned(PIECE);
	uint64_t sum = 14695981039346656037ull;

	for (uint64_t at = 0; at < f->bytes && !f->over; at += PIECE) {
		ssize_t got = pread(fd, buffer, f->bytes - at < PIECE ? f->bytes - at : PIECE, at);

		if (got <= 0)
			fsx_fault(f, "read at %llu: %s", (unsigned long long)at, strerror(errno));
		for (ssize_t i = 0; i + 8 <= got; i += 8) {
			uint64_t word;

			memcpy(&word, buffer + i, 8);
			sum = (sum ^ word) * 1099511628211ull;
		}
	}
	free(buffer);
	return sum;
}

/* While writes are held the device does not change, however many there are. */
void fsx_hold(struct fsx *f)
{
	uint32_t index = f->device.index;
	struct ploop_freeze freeze = {
		.size = sizeof(freeze), .flags = PLOOP_FREEZE_HOLD, .nr = 1, .deadline_ms = PLOOP_DEADLINE_MS_MAX,
		.indices = (uintptr_t)&index,
	};
	char path[64];
	int fd, result = control_call(f->control, PLOOP_CTL_FREEZE, &freeze);

	if (result) {
		fsx_fault(f, "FREEZE: %s", strerror(-result));
		return;
	}
	snprintf(path, sizeof(path), "/dev/ploop%u", index);
	fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (fd < 0)
		die("open %s", path);
	if (sum(f, fd) != sum(f, fd))
		fsx_fault(f, "the device changes while its writes are held");
	close(fd);
	result = control_call(f->control, PLOOP_CTL_THAW, NULL);
	/* A slow kernel may have taken longer than the deadline; then it was no proof. */
	if (result && result != -ETIMEDOUT)
		fsx_fault(f, "THAW: %s", strerror(-result));
	else if (!result)
		f->done[DID_HOLD]++;
}

static void compare_with(struct fsx *f, struct device *d, const uint8_t *wanted, uint64_t bytes, const char *when)
{
	uint8_t *buffer = aligned(PIECE);

	for (uint64_t at = 0; at < bytes && !f->over; at += PIECE) {
		size_t size = bytes - at < PIECE ? bytes - at : PIECE;
		ssize_t got = pread(d->fd, buffer, size, at);

		if (got != (ssize_t)size || memcmp(buffer, wanted + at, size))
			fsx_fault(f, "lower levels, %s: %zd bytes at %llu are not as they were frozen", when, got,
				  (unsigned long long)at);
	}
	free(buffer);
}

/* A second device reads what a snapshot froze, while the first one goes on; nobody can merge into it meanwhile. */
void fsx_reader(struct fsx *f)
{
	const char *paths[FSX_LEVELS];
	uint64_t bytes = f->bytes;
	struct device reader;
	uint8_t *frozen;
	int index, count, result;
	bool good;

	if (f->version == 0 || f->levels == FSX_LEVELS)
		return;
	pthread_rwlock_wrlock(&f->rest);
	frozen = model_now(f);
	good = fsx_snapshot(f);
	pthread_rwlock_unlock(&f->rest);
	count = f->levels - 1;
	for (int i = 0; i < count; i++)
		paths[i] = f->names[i];
	index = good ? control_attach(f->control, paths, count, PLOOP_ATTACH_RDONLY) : -EIO;
	if (index < 0) {
		fsx_fault(f, "lower levels cannot be attached: %s", strerror(-index));
		free(frozen);
		return;
	}
	control_device(&reader, index);
	compare_with(f, &reader, frozen, bytes, "at first");
	result = device_ioctl(&f->device, PLOOP_IOC_MERGE, NULL);
	if (result != -EBUSY)
		fsx_fault(f, "MERGE into a level that is read: %d", result);
	wait_for_transfers(f, 50);
	compare_with(f, &reader, frozen, bytes, "later");
	control_close(&reader);
	result = control_detach(f->control, index);
	if (result)
		fsx_fault(f, "lower levels cannot be detached: %s", strerror(-result));
	free(frozen);
	f->done[DID_READER]++;
}
