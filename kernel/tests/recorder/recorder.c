// SPDX-License-Identifier: GPL-2.0
/*
 * An nbdkit plugin: a disk that records what is written to it and when it is flushed.
 *   nbdkit recorder.so disk=FILE notes=FILE log=FILE
 * The export "notes" is a second, small disk whose writes get into the same log, in order: what a guest notes there after a
 * flush has come back was known before anything that follows in the log.
 *
 * QEMU's blklogwrites is not used: it records a flush when it ends and a write when it ends, so a write under way during a
 * flush would pass for durable.
 */
#define NBDKIT_API_VERSION 2
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <nbdkit-plugin.h>

#include "recorder.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

/* A write or flush takes up to so long, as on a disk, or requests would seldom be under way together. */
#define DELAY_NS_MAX 300000u

struct part {
	char *path;
	int fd;
	int64_t size;
};

static struct part disk = { .fd = -1 }, notes = { .fd = -1 };
static char *log_path;
static FILE *log_file;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t last_id;

static int recorder_config(const char *key, const char *value)
{
	char **to = strcmp(key, "disk") == 0 ? &disk.path : strcmp(key, "notes") == 0 ? &notes.path :
		strcmp(key, "log") == 0 ? &log_path : NULL;

	if (!to) {
		nbdkit_error("what is %s?", key);
		return -1;
	}
	*to = nbdkit_absolute_path(value);
	return *to ? 0 : -1;
}

static int open_part(struct part *part)
{
	struct stat st;

	part->fd = open(part->path, O_RDWR | O_CLOEXEC);
	if (part->fd < 0 || fstat(part->fd, &st)) {
		nbdkit_error("%s: %m", part->path);
		return -1;
	}
	part->size = st.st_size;
	return 0;
}

static int recorder_get_ready(void)
{
	uint64_t magic = RECORD_MAGIC;

	if (!disk.path || !notes.path || !log_path) {
		nbdkit_error("disk=, notes= and log= are needed");
		return -1;
	}
	if (open_part(&disk) || open_part(&notes))
		return -1;
	log_file = fopen(log_path, "we");
	if (!log_file || fwrite(&magic, sizeof(magic), 1, log_file) != 1) {
		nbdkit_error("%s: %m", log_path);
		return -1;
	}
	return 0;
}

static void recorder_unload(void)
{
	if (log_file && fclose(log_file))
		nbdkit_error("%s: %m", log_path);
	free(disk.path);
	free(notes.path);
	free(log_path);
}

/* 0 or an errno. */
static int record(uint64_t kind, uint64_t id, uint64_t offset, const void *data, uint32_t length)
{
	struct record r = { kind, id, offset, length };

	if (fwrite(&r, sizeof(r), 1, log_file) != 1 || (length && fwrite(data, length, 1, log_file) != 1))
		return EIO;
	return 0;
}

static int begin(uint64_t kind, uint64_t *id, uint64_t offset, const void *data, uint32_t length)
{
	int error;

	pthread_mutex_lock(&lock);
	*id = ++last_id;
	error = record(kind, *id, offset, data, length);
	pthread_mutex_unlock(&lock);
	return error;
}

static int end(uint64_t kind, uint64_t id)
{
	int error;

	pthread_mutex_lock(&lock);
	error = record(kind, id, 0, NULL, 0);
	pthread_mutex_unlock(&lock);
	return error;
}

static void take_time(uint64_t id)
{
	struct timespec t = { 0, (id * 0x9e3779b97f4a7c15ull >> 40) % (2 * DELAY_NS_MAX) };

	if (t.tv_nsec < (long)DELAY_NS_MAX)
		nanosleep(&t, NULL);
}

static int answer(int error)
{
	if (!error)
		return 0;
	nbdkit_error("%s", strerror(error));
	nbdkit_set_error(error);
	return -1;
}

static void *recorder_open(int readonly)
{
	(void)readonly;
	return strcmp(nbdkit_export_name(), "notes") == 0 ? &notes : &disk;
}

static int64_t recorder_get_size(void *handle)
{
	return ((struct part *)handle)->size;
}

static int recorder_pread(void *handle, void *buffer, uint32_t count, uint64_t offset, uint32_t flags)
{
	struct part *part = handle;

	(void)flags;
	return answer(pread(part->fd, buffer, count, offset) == (ssize_t)count ? 0 : EIO);
}

static int recorder_pwrite(void *handle, const void *buffer, uint32_t count, uint64_t offset, uint32_t flags)
{
	bool noted = handle == &notes;
	struct part *part = handle;
	uint64_t id;
	int error;

	(void)flags;
	error = begin(noted ? RECORD_NOTE : RECORD_WRITE, &id, offset, buffer, count);
	if (!error && !noted)
		take_time(id);
	if (!error && pwrite(part->fd, buffer, count, offset) != (ssize_t)count)
		error = EIO;
	if (!error && !noted)
		error = end(RECORD_WRITTEN, id);
	return answer(error);
}

static int recorder_flush(void *handle, uint32_t flags)
{
	uint64_t id;
	int error;

	(void)flags;
	if (handle == &notes)
		return 0;
	error = begin(RECORD_FLUSH, &id, 0, NULL, 0);
	take_time(id);
	return answer(error ? error : end(RECORD_FLUSHED, id));
}

static struct nbdkit_plugin plugin = {
	.name = "recorder",
	.config = recorder_config,
	.get_ready = recorder_get_ready,
	.unload = recorder_unload,
	.open = recorder_open,
	.get_size = recorder_get_size,
	.pread = recorder_pread,
	.pwrite = recorder_pwrite,
	.flush = recorder_flush,
};

NBDKIT_REGISTER_PLUGIN(plugin)
