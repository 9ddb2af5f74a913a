/* SPDX-License-Identifier: GPL-2.0 */
/* Image files, made and inspected without the driver: an independent reading of the format. */
#ifndef IMAGE_H
#define IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { IMAGE_MAGIC = 0, IMAGE_TYPE = 16, IMAGE_HEADS = 20, IMAGE_CYLINDERS = 24, IMAGE_CLUSTER = 28, IMAGE_CLUSTERS = 32,
	IMAGE_SECTORS = 36, IMAGE_SECTORS_HIGH = 40, IMAGE_IN_USE = 44, IMAGE_FIRST = 48, IMAGE_FLAGS = 52, IMAGE_EXT = 56,
	IMAGE_BAT = 64 };
#define IN_USE 0x746f6e59u

struct image {
	int version;		/* 1, 2; 0 raw */
	uint32_t cluster;	/* bytes */
	uint64_t bytes;		/* of the virtual device */
	bool filled;		/* all clusters allocated, in order */
};

/* Creates the file, every byte written. Dies when it cannot. */
void image_create(const char *path, const struct image *image);
uint32_t image_read32(const char *path, off_t offset);
void image_write32(const char *path, off_t offset, uint32_t value);
void image_pread(const char *path, void *buffer, size_t size, off_t offset);
void image_pwrite(const char *path, const void *buffer, size_t size, off_t offset);
off_t image_size(const char *path);
void image_truncate(const char *path, off_t size);
/* A closed image obeys the rules of the format; says on standard output what it does not. */
bool image_sound(const char *path);
/* `ploop check` of a file that was not closed, without any licence to throw away entries. */
bool image_repair(const char *path);

#endif
