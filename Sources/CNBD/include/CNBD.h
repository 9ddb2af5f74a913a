// SPDX-License-Identifier: Apache-2.0
// An NBD client over libnbd. One thread at a time uses a connection. Results are >= 0 or -errno; cnbd_message() then has
// libnbd's sentence.
#ifndef GODWIT_CNBD_H
#define GODWIT_CNBD_H

#include <stdint.h>

struct cnbd;

struct cnbd *cnbd_new(void);
void cnbd_free(struct cnbd *nbd);
// Why the last call on this thread failed; valid until the next call.
const char *cnbd_message(void);

// How long to wait. A call fails with -ETIMEDOUT when nothing at all arrives for silence_ms, and with -ECANCELED when
// stopped() says so, which it is asked some times a second. The connection is of no use after that.
struct cnbd_patience {
	int32_t silence_ms;
	int32_t (*stopped)(const void *context);
	const void *context;
};

// Connects and negotiates; asks for the base:allocation context.
int32_t cnbd_connect_unix(struct cnbd *nbd, const char *path, struct cnbd_patience patience);
int32_t cnbd_connect_uri(struct cnbd *nbd, const char *uri, struct cnbd_patience patience);

struct cnbd_export {
	uint64_t size;
	// 0: not said.
	uint32_t block_minimum, block_preferred, block_maximum;
	uint8_t read_only, can_flush, can_zero, can_trim, can_fua, can_multi_conn, can_block_status;
};
int32_t cnbd_export_info(struct cnbd *nbd, struct cnbd_export *info);

enum { CNBD_READ = 0, CNBD_WRITE = 1 };

struct cnbd_transfer {
	uint64_t offset;
	uint64_t count;
	uint8_t *memory;
};

// Does all transfers in requests of at most request_max bytes, at most depth of them in flight. The connection is of no
// use after a failure.
int32_t cnbd_transfer_all(struct cnbd *nbd, int32_t direction, const struct cnbd_transfer *transfers, uint32_t count,
			  uint32_t request_max, uint32_t depth, struct cnbd_patience patience);

int32_t cnbd_flush(struct cnbd *nbd, struct cnbd_patience patience);
int32_t cnbd_zero(struct cnbd *nbd, uint64_t offset, uint64_t count, int32_t may_trim, struct cnbd_patience patience);
int32_t cnbd_trim(struct cnbd *nbd, uint64_t offset, uint64_t count, struct cnbd_patience patience);

// The state of the device from offset on: up to capacity runs. flags are base:allocation's (1 hole, 2 zero).
struct cnbd_extent {
	uint64_t count;
	uint32_t flags;
};
int32_t cnbd_block_status(struct cnbd *nbd, uint64_t offset, uint64_t count, struct cnbd_extent *extents,
			  uint32_t capacity, struct cnbd_patience patience);

#endif
