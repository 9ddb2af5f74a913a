// SPDX-License-Identifier: GPL-2.0
/*
 * Freezing the file system on a device. All subcommands get the device's INDEX and the folder its file system is mounted on.
 *   freeze killed INDEX MOUNT FOLDER TRIES   callers of freeze and snapshot are killed or stopped at random instants; the
 *                                            file system takes writes again, at the deadline at the latest
 *   freeze count INDEX MOUNT FOLDER TRIES    snapshots under load: how much I/O the driver issues between freeze and thaw
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "control.h"
#include "tap.h"

#define DEADLINE_MS 400

static const char *mount_point, *folder;
static int target, control;
static atomic_bool over;
static atomic_ulong written;

static const char *new_top(int number)
{
	static char path[300];
	struct ploop_status s = { .size = sizeof(s), .index = target };
	struct image image = { .version = 2 };

	if (control_call(control, PLOOP_CTL_STATUS, &s))
		die("STATUS");
	image.cluster = 512u << s.cluster_log;
	image.bytes = s.device_bytes;
	image.version = s.format_version ?: 2;
	snprintf(path, sizeof(path), "%s/frozen-%d", folder, number);
	image_create(path, &image);
	return path;
}

static int snapshot_to(const char *path, uint32_t deadline)
{
	struct ploop_snapshot_item item = { .index = target, .fd = open(path, O_RDWR | O_CLOEXEC) };
	struct ploop_snapshot s = {
		.size = sizeof(s), .nr_items = 1, .items = (uintptr_t)&item, .deadline_ms = deadline,
	};
	int result = control_call(control, PLOOP_CTL_SNAPSHOT, &s);

	close(item.fd);
	return result;
}

/* Back to one level. */
static int merge_all(void)
{
	struct ploop_status s = { .size = sizeof(s), .index = target };
	struct ploop_job job;
	int result;

	while (!(result = control_call(control, PLOOP_CTL_STATUS, &s)) && s.nr_levels > 1) {
		result = control_job(control, target, PLOOP_JOB_OP_START, PLOOP_JOB_MERGE, s.nr_levels - 1, &job);
		if (!result)
			result = control_job(control, target, PLOOP_JOB_OP_WAIT, 0, 0, &job);
		if (result || job.state != PLOOP_JOB_DONE)
			return result ?: -(int)job.error;
	}
	return result;
}

/* Time for a durable write to the file system. */
static uint64_t write_ms(void)
{
	uint64_t start = now_ns();
	char path[300], text[512] = "a line";
	int fd;

	snprintf(path, sizeof(path), "%s/proof", mount_point);
	fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, text, sizeof(text)) != sizeof(text) || fsync(fd))
		die("write to %s", mount_point);
	close(fd);
	return (now_ns() - start) / 1000000;
}

static void victim(int kind, const char *path)
{
	uint32_t index = target;
	struct ploop_freeze f = {
		.size = sizeof(f), .nr = 1, .deadline_ms = DEADLINE_MS, .indices = (uintptr_t)&index,
	};
	struct device d;

	control = control_open();	/* nobody else keeps this one open */
	switch (kind) {
	case 0:
		control_call(control, PLOOP_CTL_FREEZE, &f);
		pause();
		break;
	case 1:
		snapshot_to(path, DEADLINE_MS);
		break;
	default:
		control_device(&d, target);
		d.cluster_log = 0;
		for (uint32_t c = image_read32(path, IMAGE_CLUSTER); c > 1; c >>= 1)
			d.cluster_log++;
		device_snapshot(&d, path, PLOOP_CTLF_FS_SYNC);
	}
	_exit(0);
}

static int killed(int tries)
{
	struct random r = { now_ns() };
	uint64_t worst = 0, slow = 0;
	int freezes = 0;

	printf("# seed %llu\n", (unsigned long long)r.state);
	for (int i = 0; i < tries; i++) {
		const char *path = new_top(i);
		int kind = i % 4;	/* 3: a freezer that is stopped, not killed */
		pid_t pid = fork();
		uint64_t took;

		if (pid < 0)
			die("fork");
		if (!pid)
			victim(kind == 3 ? 0 : kind, path);
		usleep(random_below(&r, 30000));
		kill(pid, kind == 3 ? SIGSTOP : SIGKILL);
		if (kind != 3)
			waitpid(pid, NULL, 0);
		took = write_ms();
		if (took > worst)
			worst = took;
		freezes += took > DEADLINE_MS / 2;
		/* Under emulation a flush alone takes its time. */
		if (took > DEADLINE_MS + 3000)
			slow++;
		if (kind == 3) {
			kill(pid, SIGKILL);
			waitpid(pid, NULL, 0);
		}
		if (i % 20 == 19 && merge_all())
			die("merge");
		unlink(path);
	}
	is(slow, 0, "freeze: of %d callers killed or stopped none left the file system frozen (worst %llu ms)", tries,
	   (unsigned long long)worst);
	ok(tries < 40 || freezes > 0, "freeze: some were stopped inside the freeze (%d)", freezes);
	is(merge_all(), 0, "freeze: the levels merge afterwards");
	return tap_failures != 0;
}

static void *writer(void *argument)
{
	char path[300];
	uint8_t *data = aligned(16384);
	struct random r = { (uintptr_t)argument };
	int fd;

	snprintf(path, sizeof(path), "%s/load-%d", mount_point, (int)(uintptr_t)argument);
	fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC | ((uintptr_t)argument % 2 ? O_DIRECT : 0), 0600);
	if (fd < 0)
		die("%s", path);
	while (!over) {
		if (pwrite(fd, data, 16384, random_below(&r, 512) * 16384) != 16384)
			die("write %s", path);
		if (random_below(&r, 16) == 0 && fdatasync(fd))
			die("flush %s", path);
		written++;
	}
	close(fd);
	free(data);
	return NULL;
}

static int count(int tries)
{
	struct ploop_status s = { .size = sizeof(s), .index = target };
	uint64_t most = 0, longest = 0, before;
	pthread_t ids[4];

	for (uintptr_t i = 0; i < 4; i++)
		if (pthread_create(&ids[i], NULL, writer, (void *)i))
			die("pthread_create");
	for (int i = 0; i < tries; i++) {
		for (before = written; written < before + 50;)
			usleep(1000);
		if (snapshot_to(new_top(i), 30000))
			die("SNAPSHOT under load");
		if (control_call(control, PLOOP_CTL_STATUS, &s))
			die("STATUS");
		printf("# snapshot %d: %llu I/Os, %llu us frozen\n", i, (unsigned long long)s.frozen_ios,
		       (unsigned long long)s.frozen_us);
		if (s.frozen_ios > most)
			most = s.frozen_ios;
		if (s.frozen_us > longest)
			longest = s.frozen_us;
		if (i % 10 == 9 && merge_all())
			die("merge");
	}
	over = true;
	for (int i = 0; i < 4; i++)
		pthread_join(ids[i], NULL);
	ok(most <= 4, "snapshot: at most 4 I/Os of the driver between freeze and thaw, under load (%llu, %llu us)",
	   (unsigned long long)most, (unsigned long long)longest);
	is(merge_all(), 0, "snapshot: the levels merge afterwards");
	return tap_failures != 0;
}

int freeze_main(int argc, char **argv)
{
	if (argc < 6)
		return 2;
	target = atoi(argv[2]);
	mount_point = argv[3];
	folder = argv[4];
	control = control_open();
	return strcmp(argv[1], "killed") == 0 ? killed(atoi(argv[5])) : count(atoi(argv[5]));
}
