// SPDX-License-Identifier: GPL-2.0
#include "device.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "tap.h"

void device_get(struct device *d)
{
	char text[64] = "", path[64];
	ssize_t got;

	memset(d, 0, sizeof(*d));
	d->rw = -1;
	d->cluster_log = 7;
	d->lock = open("/proc/vz/ploop_minor", O_RDONLY | O_CLOEXEC);
	if (d->lock < 0)
		die("/proc/vz/ploop_minor");
	got = read(d->lock, text, sizeof(text) - 1);
	if (got <= 0)
		die("read /proc/vz/ploop_minor");
	d->index = atoi(text) / PLOOP_MINORS;
	snprintf(path, sizeof(path), "/dev/ploop%d", d->index);
	d->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (d->fd < 0)
		die("open %s", path);
}

void device_nodata(struct device *d)
{
	if (d->rw >= 0)
		close(d->rw);
	d->rw = -1;
}

void device_put(struct device *d)
{
	device_nodata(d);
	ioctl(d->fd, PLOOP_IOC_TRACK_ABORT);
	ioctl(d->fd, PLOOP_IOC_DISCARD_FINI);
	ioctl(d->fd, PLOOP_IOC_STOP);
	ioctl(d->fd, PLOOP_IOC_CLEAR);
	close(d->fd);
	close(d->lock);
}

int device_ioctl(struct device *d, unsigned long request, void *argument)
{
	int result = ioctl(d->fd, request, argument);

	return result < 0 ? -errno : result;
}

struct add {
	struct ploop_ctl ctl;
	struct ploop_ctl_chunk chunk;
	char cookie[PLOOP_COOKIE_BYTES];
};

static int with_file(struct device *d, unsigned long request, const char *path, int format, int level, uint32_t flags)
{
	struct add add = {
		.ctl = { .format = format, .flags = flags, .cluster_log = d->cluster_log, .chunks = 1, .level = level },
		.cookie = "cookie of a test",
	};
	int mode = flags & PLOOP_CTLF_RDONLY ? O_RDONLY : O_RDWR;
	int result;

	add.chunk.fd = open(path, mode | O_DIRECT | O_CLOEXEC);
	if (add.chunk.fd < 0)	/* a file system without direct I/O */
		add.chunk.fd = open(path, mode | O_CLOEXEC);
	if (add.chunk.fd < 0)
		die("open %s", path);
	result = device_ioctl(d, request, &add);
	close(add.chunk.fd);
	return result;
}

int device_add(struct device *d, const char *path, int format, uint32_t flags)
{
	return with_file(d, PLOOP_IOC_ADD_DELTA, path, format, 0, flags);
}

int device_snapshot(struct device *d, const char *path, uint32_t flags)
{
	return with_file(d, PLOOP_IOC_SNAPSHOT, path, PLOOP_FMT_PLOOP1, 0, flags);
}

int device_replace(struct device *d, const char *path, int level, uint32_t flags)
{
	return with_file(d, PLOOP_IOC_REPLACE_DELTA, path, PLOOP_FMT_PLOOP1, level, flags);
}

int device_grow(struct device *d, uint64_t bytes)
{
	struct ploop_ctl ctl = {
		.flags = PLOOP_CTLF_CLUBLKS, .cluster_log = d->cluster_log, .size = bytes >> (d->cluster_log + 9),
	};

	return device_ioctl(d, PLOOP_IOC_GROW, &ctl);
}

int device_delete(struct device *d, uint32_t level)
{
	return device_ioctl(d, PLOOP_IOC_DEL_DELTA, &level);
}

int device_start(struct device *d)
{
	return device_ioctl(d, PLOOP_IOC_START, NULL);
}

int device_stop(struct device *d)
{
	device_nodata(d);
	return device_ioctl(d, PLOOP_IOC_STOP, NULL);
}

int device_clear(struct device *d)
{
	return device_ioctl(d, PLOOP_IOC_CLEAR, NULL);
}

int device_maintenance(struct device *d)
{
	struct ploop_balloon_ctl ctl = { .keep_intact = 1, .mntn_type = ~0u };
	int result = device_ioctl(d, PLOOP_IOC_BALLOON, &ctl);

	return result < 0 ? result : (int)ctl.mntn_type;
}

int device_data(struct device *d)
{
	char path[64];

	if (d->rw >= 0)
		return d->rw;
	snprintf(path, sizeof(path), "/dev/ploop%d", d->index);
	d->rw = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (d->rw < 0)
		die("open %s for data", path);
	return d->rw;
}

uint64_t device_bytes(struct device *d)
{
	uint64_t bytes = 0;

	if (ioctl(d->fd, BLKGETSIZE64, &bytes))
		die("BLKGETSIZE64");
	return bytes;
}

const char *device_sysfs(struct device *d, const char *attribute)
{
	static char text[4096];
	char path[256];
	ssize_t got;
	int fd;

	snprintf(path, sizeof(path), "/sys/block/ploop%d/%s", d->index, attribute);
	fd = open(path, O_RDONLY);
	got = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (got < 0)
		snprintf(text, sizeof(text), "-%s", strerrorname_np(errno));
	else
		text[got] = 0;
	if (fd >= 0)
		close(fd);
	text[strcspn(text, "\n")] = 0;
	return text;
}

int device_pread(struct device *d, void *buffer, size_t size, off_t offset)
{
	ssize_t got = pread(device_data(d), buffer, size, offset);

	return got < 0 ? -errno : got;
}

int device_pwrite(struct device *d, const void *buffer, size_t size, off_t offset)
{
	ssize_t got = pwrite(device_data(d), buffer, size, offset);

	return got < 0 ? -errno : got;
}

void *aligned(size_t size)
{
	void *memory = NULL;

	if (posix_memalign(&memory, 4096, size))
		die("memory");
	memset(memory, 0, size);
	return memory;
}
