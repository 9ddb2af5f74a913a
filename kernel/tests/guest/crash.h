/* SPDX-License-Identifier: GPL-2.0 */
/* The disk of a power-cut test: its files and what happens to them. */
#ifndef CRASH_H
#define CRASH_H

#include "device.h"
#include "image.h"
#include "tap.h"

#define THREADS 4u
#define BLOCKS_PER_THREAD 1024u
#define BLOCKS (THREADS * BLOCKS_PER_THREAD)
/* Behind the blocks: clusters that are written and discarded in turn. */
#define SCRATCH_CLUSTERS 64u
#define CRASH_CLUSTER 65536u
#define CRASH_LEVELS 12
#define CRASH_MAGIC 0x70776f6666756c6cull

struct crash {
	char folder[200];
	char files[CRASH_LEVELS][300];
	int levels, next, version;
	uint64_t seed, bytes;
	unsigned int seconds;	/* 0: until the power is cut */
	int marks, out;
	struct device device;
};
extern struct crash crash;

/* Reads FOLDER/stack; false if there is none. */
bool crash_load(void);
/* A new disk in place of an old one; durable when it returns. */
void crash_create(void);
/* 0 or -errno */
int crash_attach(void);
/* Snapshots, merges, grows, frees, for ever or crash.seconds. */
void crash_control(void);

#endif
