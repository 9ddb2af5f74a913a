// SPDX-License-Identifier: Apache-2.0
#include "CRing.h"

#include <poll.h>
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

struct cring {
	struct io_uring native;
	uint32_t entries;
	uint8_t *fixed;		// NULL when none is registered
	uint64_t fixed_bytes;
	uint32_t redo_count;
	uint32_t redo[];	// transfers that ended short and go on; none is listed twice, so entries are enough
};

int32_t cring_create(uint32_t entries, void *fixed, uint64_t fixed_bytes, struct cring **result)
{
	struct cring *ring = calloc(1, sizeof(*ring) + entries * sizeof(ring->redo[0]));
	struct iovec memory = {fixed, fixed_bytes};
	int error;

	*result = NULL;
	if (!ring)
		return -ENOMEM;
	// Completions are only looked at in the kernel, while waiting: no need to interrupt the thread for them.
	error = io_uring_queue_init(entries, &ring->native, IORING_SETUP_COOP_TASKRUN);
	if (error == -EINVAL)
		error = io_uring_queue_init(entries, &ring->native, 0);
	if (error < 0) {
		free(ring);
		return error;
	}
	ring->entries = entries;
	if (fixed && !io_uring_register_buffers(&ring->native, &memory, 1)) {
		ring->fixed = fixed;
		ring->fixed_bytes = fixed_bytes;
	}
	*result = ring;
	return 0;
}

void cring_destroy(struct cring *ring)
{
	io_uring_queue_exit(&ring->native);
	free(ring);
}

int32_t cring_has_fixed(const struct cring *ring) { return ring->fixed != NULL; }

// The transfer's memory, offset and count move on with what was done of it.
static void queue(struct cring *ring, int32_t fd, struct cring_transfer *transfer, uint64_t index)
{
	struct io_uring_sqe *entry = io_uring_get_sqe(&ring->native);
	uint32_t count = transfer->count < (1u << 30) ? (uint32_t)transfer->count : 1u << 30;
	int is_fixed = ring->fixed && transfer->memory >= ring->fixed &&
		       transfer->memory + count <= ring->fixed + ring->fixed_bytes;

	if (transfer->is_write && is_fixed)
		io_uring_prep_write_fixed(entry, fd, transfer->memory, count, transfer->offset, 0);
	else if (transfer->is_write)
		io_uring_prep_write(entry, fd, transfer->memory, count, transfer->offset);
	else if (is_fixed)
		io_uring_prep_read_fixed(entry, fd, transfer->memory, count, transfer->offset, 0);
	else
		io_uring_prep_read(entry, fd, transfer->memory, count, transfer->offset);
	io_uring_sqe_set_data64(entry, index);
}

// Takes in one result. Returns whether the transfer has ended.
static int account(struct cring_transfer *transfer, int32_t result, uint32_t alignment)
{
	if (result == -EINTR || result == -EAGAIN)
		return 0;
	if (result < 0) {
		transfer->result = result;
		return 1;
	}
	if (transfer->is_write && !result && transfer->count > 0) {
		transfer->result = -EIO;
		return 1;
	}
	transfer->memory += result;
	transfer->offset += (uint64_t)result;
	transfer->count -= (uint64_t)result;
	// The end of the file; a direct read that stops between blocks has met it and can't go on from there.
	if (!transfer->is_write && (!result || (uint32_t)result % alignment)) {
		memset(transfer->memory, 0, transfer->count);
		transfer->count = 0;
	}
	return !transfer->count;
}

// Waits for what the kernel has accepted, so that nothing is under way when the ring is given up.
static int32_t give_up(struct cring *ring, uint32_t under_way, int32_t error)
{
	under_way -= io_uring_sq_ready(&ring->native);
	while (under_way > 0) {
		struct io_uring_cqe *done;
		int result = io_uring_wait_cqe(&ring->native, &done);
		if (result < 0)
			continue;
		io_uring_cqe_seen(&ring->native, done);
		under_way--;
	}
	return error;
}

// Milliseconds between two attempts at most.
#define AGAIN_PAUSE_MAX 64

int32_t cring_perform(struct cring *ring, int32_t fd, uint32_t alignment, struct cring_transfer *transfers, uint32_t count)
{
	uint32_t next = 0, under_way = 0, ended = 0;
	int pause = 0;

	ring->redo_count = 0;
	for (uint32_t i = 0; i < count; i++)
		transfers[i].result = 0;
	while (ended < count) {
		struct io_uring_cqe *done;
		unsigned head, seen = 0;
		int progressed = 0;

		while (under_way < ring->entries && (ring->redo_count || next < count)) {
			uint32_t index = ring->redo_count ? ring->redo[--ring->redo_count] : next++;
			queue(ring, fd, &transfers[index], index);
			under_way++;
		}
		// With more to queue the ring is kept half full; else one call waits for all that is left.
		int result = io_uring_submit_and_wait(&ring->native, next < count ? (under_way + 1) / 2 : under_way);
		if (result < 0 && result != -EINTR && result != -EAGAIN && result != -EBUSY)
			return give_up(ring, under_way, result);
		io_uring_for_each_cqe(&ring->native, head, done) {
			uint64_t index = io_uring_cqe_get_data64(done);
			seen++;
			progressed |= done->res != -EAGAIN && done->res != -EINTR;
			if (account(&transfers[index], done->res, alignment))
				ended++;
			else
				ring->redo[ring->redo_count++] = (uint32_t)index;
		}
		io_uring_cq_advance(&ring->native, seen);
		under_way -= seen;
		// A device that can't take anything now is asked again, but not all the time.
		pause = progressed ? 0 : pause < AGAIN_PAUSE_MAX / 2 ? 2 * pause + 1 : AGAIN_PAUSE_MAX;
		if (seen && pause)
			poll(NULL, 0, pause);
	}
	return 0;
}
