// SPDX-License-Identifier: Apache-2.0
// An io_uring that does batches of reads and writes, for one thread at a time. Results are >= 0 or -errno.
#ifndef GODWIT_CRING_H
#define GODWIT_CRING_H

#include <stdint.h>

struct cring;

// A ring with room for entries transfers under way. fixed: memory that is registered with it, so that transfers in it
// need not be pinned one by one; where the limit on locked memory forbids that, it is used like any other.
int32_t cring_create(uint32_t entries, void *fixed, uint64_t fixed_bytes, struct cring **result);
void cring_destroy(struct cring *ring);
// Whether `fixed` is registered.
int32_t cring_has_fixed(const struct cring *ring);

struct cring_transfer {
	uint64_t offset;
	uint8_t *memory;
	uint64_t count;
	int32_t is_write;
	// Out: 0 or -errno. Reads fill what lies beyond the end of the file with zeros.
	int32_t result;
};
// Does all transfers on fd and returns when each has ended, in whatever way. alignment: what direct I/O on fd needs,
// else 1. A negative result means that the ring failed: it is to be destroyed, any transfer may or may not have been
// done, and none is under way.
int32_t cring_perform(struct cring *ring, int32_t fd, uint32_t alignment, struct cring_transfer *transfers, uint32_t count);

#endif
