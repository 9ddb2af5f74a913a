/* SPDX-License-Identifier: GPL-2.0 */
/* The disk of a power-cut test: its files, what is written to it, and what happens to them. See crash.c. */
#ifndef CRASH_H
#define CRASH_H

#include <pthread.h>

#include "device.h"
#include "image.h"
#include "tap.h"

#define CRASH_THREADS 4u
#define CRASH_BLOCK 4096u
/* Of one thread; less in a file, which is backed up each time. */
#define THREAD_BLOCKS (crash.file ? 512u : 2048u)
#define CRASH_BLOCKS (CRASH_THREADS * THREAD_BLOCKS)
#define CRASH_CLUSTER 65536u
#define CLUSTER_BLOCKS (CRASH_CLUSTER / CRASH_BLOCK)
/* Behind the blocks: clusters that are written and discarded in turn, by nobody noted. */
#define SCRATCH_CLUSTERS 64u
#define SCRATCH_BYTE 0xd1
#define DATA_BYTES ((uint64_t)CRASH_BLOCKS * CRASH_BLOCK)
#define CRASH_BYTES (DATA_BYTES + SCRATCH_CLUSTERS * (uint64_t)CRASH_CLUSTER)
#define CRASH_LEVELS 8

/* What a thread does at one step; the seed tells all of them. */
enum crash_kind { CRASH_WRITE, CRASH_ZERO, CRASH_DISCARD };
struct crash_op {
	enum crash_kind kind;
	uint32_t first, count;	/* in the blocks of the thread */
	bool flush;		/* and then it flushes, and notes it */
	bool fua;		/* the write itself is asked to be durable */
};

/* One page of the notes for each thread, one for the size, one for who else notes. */
enum { NOTE_SIZE = CRASH_THREADS, NOTES, NOTE_OTHER = NOTES };
struct crash_note {
	uint64_t seed, value, check;
};

struct crash {
	char folder[200];
	char files[CRASH_LEVELS][300];
	int levels, next, version;
	uint64_t seed, bytes;
	unsigned int seconds;	/* 0: until the power is cut */
	int notes;		/* where what is durable is noted; no power cut reaches that */
	int control;		/* /dev/ploop-control */
	bool by_control;	/* attached by the new interface */
	pthread_rwlock_t use;	/* held for each request; for writing while the device goes and comes */
	struct device device;
	bool file;		/* device.rw is a file */
};
extern struct crash crash;

struct crash_op crash_op(unsigned int thread, uint64_t step);
/* On the device, in blocks. */
uint64_t crash_place(unsigned int thread, uint32_t block);
void crash_fill(uint64_t *words, unsigned int thread, uint64_t step, uint64_t place);
void crash_note(unsigned int page, uint64_t value);

/* Reads FOLDER/stack; false if there is none. */
bool crash_load(void);
/* A new disk in place of an old one; durable when it returns. */
void crash_create(void);
/* 0 or -errno */
int crash_attach(bool by_control);
int crash_detach(void);
/* Changes the stack and maintains it, for ever or crash.seconds; what it did, on standard output. */
void crash_control(void);

/* Of what a cut left in crash.folder, with what was noted at @offset. */
bool crash_verify(int notes, off_t offset, bool by_tools, bool merge);
/* Of a file that `crash app` has written. */
bool crash_verify_file(const char *path, int notes, off_t offset);
int crash_disks(int argc, char **argv);

#endif
