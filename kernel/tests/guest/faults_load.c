// SPDX-License-Identifier: GPL-2.0
/*
 * guest-tests faults-load FOLDER: memory allocations of the kernel's workers fail at random while a device is written, read
 * and flushed. Errors are allowed; what was acknowledged has to be there, and what was flushed after the image was opened again.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control.h"
#include "tap.h"

#define ROUNDS 3
#define PASSES 3
#define BLOCK 4096
#define TIMES 1000000
#define CLUSTERS ((int)(DISK / CLUSTER))
#define PLACES (CLUSTERS * PASSES)

enum state { UNKNOWN, ACKNOWLEDGED, FLUSHED };

static const char *const kinds[] = { "failslab", "fail_page_alloc" };
static enum state states[PLACES];
static char *data;

/* Return: false if the file is not there any more. */
static bool put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool done;

	if (fd < 0)
		return false;
	done = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
	close(fd);
	return done;
}

static void set(const char *kind, const char *name, const char *text)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/kernel/debug/%s/%s", kind, name);
	if (!put(path, text))
		die("%s", path);
}

/* Those that exist, and by their parent those to come. */
static void mark_workers(const char *text)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	char path[300], comm[32];

	if (!proc)
		die("/proc");
	while ((entry = readdir(proc))) {
		FILE *file;

		if (!isdigit(entry->d_name[0]))
			continue;
		snprintf(path, sizeof(path), "/proc/%s/comm", entry->d_name);
		file = fopen(path, "re");
		if (!file)
			continue;
		if (fgets(comm, sizeof(comm), file) && (!strncmp(comm, "kworker", 7) || !strncmp(comm, "kthreadd", 8))) {
			snprintf(path, sizeof(path), "/proc/%s/make-it-fail", entry->d_name);
			/* A worker may have ended meanwhile. */
			put(path, text);
		}
		fclose(file);
	}
	closedir(proc);
}

static void faults_on(void)
{
	char times[16];

	snprintf(times, sizeof(times), "%d", TIMES);
	mark_workers("1");
	for (size_t i = 0; i < 2; i++) {
		set(kinds[i], "task-filter", "Y");
		set(kinds[i], "interval", "1");
		set(kinds[i], "times", times);
		set(kinds[i], "probability", "4");
	}
}

/* Return: how many there were. */
static int faults_off(void)
{
	int met = 0;

	for (size_t i = 0; i < 2; i++) {
		char path[128], text[32] = "";
		int fd;

		set(kinds[i], "probability", "0");
		snprintf(path, sizeof(path), "/sys/kernel/debug/%s/times", kinds[i]);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
			die("%s", path);
		close(fd);
		met += TIMES - atoi(text);
		set(kinds[i], "task-filter", "N");
	}
	mark_workers("0");
	return met;
}

static off_t place_offset(int place)
{
	return (off_t)(place % CLUSTERS) * CLUSTER + (off_t)(place / CLUSTERS) * 5 * BLOCK;
}

static uint8_t place_byte(int place)
{
	return place % 251 + 1;
}

/* What is acknowledged is flushed by a flush that succeeds. */
static bool flush(struct device *d)
{
	if (fsync(d->rw))
		return false;
	for (int i = 0; i < PLACES; i++)
		if (states[i] == ACKNOWLEDGED)
			states[i] = FLUSHED;
	return true;
}

static bool all_there(struct device *d, enum state least)
{
	for (int i = 0; i < PLACES; i++)
		if (states[i] >= least && !abi_holds(d, place_offset(i), BLOCK, place_byte(i))) {
			printf("# the write at %lld is not there\n", (long long)place_offset(i));
			return false;
		}
	return true;
}

static void open_device(struct device *d, int fd, const char *path)
{
	int index = control_attach(fd, &path, 1, 0);

	if (index < 0)
		die("attach: %s", strerror(-index));
	control_device(d, index);
	device_data(d);
}

/* It may fail to close the image, and yet has to be gone. */
static void close_device(struct device *d, int fd)
{
	struct ploop_status s = { .size = sizeof(s), .index = d->index };
	int result;

	control_close(d);
	result = control_detach(fd, d->index);
	if (result < 0 && (control_call(fd, PLOOP_CTL_STATUS, &s) || s.nr_levels != 0))
		die("detach: %s", strerror(-result));
}

static void one_round(int fd, int round, int *met, int *failed)
{
	const char *path = abi_image("load.hdd", 2);
	struct device device;

	memset(states, 0, sizeof(states));
	open_device(&device, fd, path);
	faults_on();
	for (int i = 0; i < PLACES; i++) {
		memset(data, place_byte(i), BLOCK);
		if (device_pwrite(&device, data, BLOCK, place_offset(i)) == BLOCK)
			states[i] = ACKNOWLEDGED;
		else
			++*failed;
		if (i % 16 == 15 && !flush(&device))
			++*failed;
		if (i % 5 == 4 && device_pread(&device, data, BLOCK, place_offset(i / 2)) < 0)
			++*failed;
	}
	*met += faults_off();
	ok(all_there(&device, ACKNOWLEDGED), "faults-load: round %d: all that was acknowledged is there", round);
	flush(&device);
	close_device(&device, fd);
	if (image_read32(path, IMAGE_IN_USE))
		ok(image_repair(path), "faults-load: round %d: an image that was not closed is repaired", round);
	ok(image_sound(path), "faults-load: round %d: the image is sound", round);
	open_device(&device, fd, path);
	ok(all_there(&device, FLUSHED), "faults-load: round %d: all that was flushed is there", round);
	close_device(&device, fd);
}

int faults_load_main(int argc, char **argv)
{
	int fd, met = 0, failed = 0;

	if (argc < 2)
		return 2;
	abi_use(argv[1]);
	data = aligned(BLOCK);
	fd = control_open();
	for (int round = 1; round <= ROUNDS; round++)
		one_round(fd, round, &met, &failed);
	ok(met > 0, "faults-load: %d faults, %d requests failed", met, failed);
	return tap_failures > 0;
}
