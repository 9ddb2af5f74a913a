/* SPDX-License-Identifier: GPL-2.0 */
/* A ploop device and its old ioctls. Results are >= 0 or -errno. */
#ifndef DEVICE_H
#define DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <ploop_ioctl.h>

struct device {
	int index;
	int fd;		/* the block device, read-only, as the old tools open it */
	int rw;		/* the same for data, O_DIRECT; -1 until device_data() */
	int cluster_log;
	int lock;	/* /proc/vz/ploop_minor */
};

/* A free device, locked for us. Dies when there is none. */
void device_get(struct device *d);
/* Stops, clears and closes whatever is still there. */
void device_put(struct device *d);

int device_ioctl(struct device *d, unsigned long request, void *argument);
/* ADD_DELTA and the like with a file opened the usual way; @flags: PLOOP_CTLF_*. */
int device_add(struct device *d, const char *path, int format, uint32_t flags);
int device_snapshot(struct device *d, const char *path, uint32_t flags);
int device_replace(struct device *d, const char *path, int level, uint32_t flags);
int device_grow(struct device *d, uint64_t bytes);
int device_delete(struct device *d, uint32_t level);
int device_start(struct device *d);
int device_stop(struct device *d);
int device_clear(struct device *d);
int device_maintenance(struct device *d);
/* Opens ->rw when that is not done; dies when it cannot. */
int device_data(struct device *d);
void device_nodata(struct device *d);
uint64_t device_bytes(struct device *d);
/* /sys/block/ploopN/@attribute without the newline; "-" and the errno's name when it cannot be read. */
const char *device_sysfs(struct device *d, const char *attribute);
int device_pread(struct device *d, void *buffer, size_t size, off_t offset);
int device_pwrite(struct device *d, const void *buffer, size_t size, off_t offset);
/* Aligned memory for direct transfers. */
void *aligned(size_t size);

#endif
