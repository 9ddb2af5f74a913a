/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The log of a recorded disk: records in the order of events, each a struct record, in this machine's byte order; those of
 * writes and notes are followed by their data.
 *
 * A write counts as begun from its RECORD_WRITE on, and as answered at the RECORD_WRITTEN with the same id. A flush makes
 * durable, at its RECORD_FLUSHED, the writes that were answered before its RECORD_FLUSH: so a guest that does not wait for
 * a write before it flushes is found out.
 */
#ifndef RECORDER_H
#define RECORDER_H

#include <stdint.h>

#define RECORD_MAGIC 0x64726f6365726477ull	/* the whole file begins with it */

/* What a disk's second export holds, in the guest's own words; every write to it is durable at once. */
#define NOTES_BYTES 65536u

enum { RECORD_WRITE = 1, RECORD_WRITTEN, RECORD_FLUSH, RECORD_FLUSHED, RECORD_NOTE };

struct record {
	uint64_t kind, id, offset, length;
};

#endif
