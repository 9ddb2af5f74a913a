/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The random tester: threads read and write a device and compare with a model in memory, while another one snapshots,
 * merges, grows, tracks and restarts it.
 */
#ifndef FSX_H
#define FSX_H

#include <pthread.h>
#include <stdatomic.h>

#include "device.h"
#include "image.h"
#include "tap.h"

#define FSX_LEVELS 24

struct fsx {
	struct device device;
	const char *folder;
	uint64_t seed;
	unsigned int seconds, threads, version;
	uint32_t cluster, stripe;
	uint64_t bytes, bytes_max;	/* bytes: covered by the model now */
	uint64_t bytes_step;		/* growth */
	uint64_t window;		/* transfers are in so much at each end of the device; 0: anywhere */
	bool lengthen;			/* the table has to get longer by growth */
	uint32_t first;			/* where the base's data began at first */
	atomic_bool longer;		/* its table got longer */
	const char *actions;		/* letters, see fsx_control.c */
	uint8_t *model;
	/* Held for reading by each transfer, for writing by who needs the device at rest. */
	pthread_rwlock_t rest;
	atomic_bool over;
	atomic_int faults;
	atomic_ulong operations;
	/* Files of the stack, base first. */
	int levels, files;
	char names[FSX_LEVELS][256];
	int control;			/* /dev/ploop-control */
	atomic_ulong done[16];		/* actions that succeeded, by kind */
};

enum { DID_SNAPSHOT, DID_MERGE, DID_GROW, DID_TRACK, DID_RESTART, DID_BITMAP, DID_COMPACT, DID_HOLD, DID_READER, DID_KINDS };

/* So many transfers are asked for at least. */
static inline unsigned long fsx_enough(const struct fsx *f)
{
	return 40ul * f->seconds;
}

void fsx_fault(struct fsx *f, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Compares [offset, offset + size) with the model; true if equal. */
bool fsx_compare(struct fsx *f, int fd, uint64_t offset, uint32_t size);
void fsx_attach(struct fsx *f);
void *fsx_control(void *argument);
/* Of the kinds of actions= that the run asks for, one that did not happen yet; NULL if there is none. */
const char *fsx_missing(struct fsx *f);

/* A new top. The caller may hold ->rest. */
bool fsx_snapshot(struct fsx *f);
/* Each of these is an action. */
void fsx_compact(struct fsx *f);
void fsx_bitmap(struct fsx *f);
void fsx_hold(struct fsx *f);
void fsx_reader(struct fsx *f);

#endif
