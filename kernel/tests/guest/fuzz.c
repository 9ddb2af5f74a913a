// SPDX-License-Identifier: GPL-2.0
/*
 * guest-tests fuzz FOLDER [SECONDS [SEED]]: processes throw ioctls with half-sensible arguments at two devices that are
 * also written to, old interface and new. Afterwards nobody hangs, both devices can be taken down, and a new one works.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <ploop_control.h>

#include "device.h"
#include "image.h"
#include "tap.h"

#define CLUSTER 65536u
#define CHILDREN 6

static char files[8][256];
static int indices[2];

static uint64_t interesting(struct random *r, const int *fds)
{
	static const uint64_t values[] = {
		0, 1, 2, 7, 8, 12, 16, 127, 128, 4096, 65536, 1 << 20, 0x7fffffff, 0x80000000, 0xffffffff, 1ull << 32,
		0x7fffffffffffffff, 0x8000000000000000, 0xffffffffffffffff,
	};

	switch (random_below(r, 4)) {
	case 0: return random_next(r);
	case 1: return fds[random_below(r, 8)];
	case 2: return indices[random_below(r, 2)];
	default: return values[random_below(r, sizeof(values) / sizeof(values[0]))];
	}
}

/* An argument of the right size whose fields are mostly plausible. */
static void argument(struct random *r, unsigned int request, uint8_t *bytes, size_t room, const int *fds)
{
	size_t size = _IOC_SIZE(request), words = random_below(r, 6);
	struct ploop_ctl ctl = { .format = PLOOP_FMT_PLOOP1, .cluster_log = 7, .chunks = 1 };
	struct ploop_ctl_chunk chunk = { .fd = fds[random_below(r, 8)] };
	uint32_t head[4] = { size, indices[random_below(r, 2)], random_below(r, 4), random_below(r, 4) };

	memset(bytes, 0, room);
	if (_IOC_NR(request) >= 0x80) {
		memcpy(bytes, head, sizeof(head));
		/* Pointers to an array inside the argument. */
		for (size_t at = 16; at + 8 <= size; at += 8) {
			uint64_t pointer = (uintptr_t)bytes + room / 2;

			if (random_below(r, 4) == 0)
				memcpy(bytes + at, &pointer, 8);
		}
	} else if (size == sizeof(ctl)) {
		ctl.flags = random_below(r, 2) ? PLOOP_CTLF_RDONLY : random_below(r, 16);
		memcpy(bytes, &ctl, sizeof(ctl));
		memcpy(bytes + sizeof(ctl), &chunk, sizeof(chunk));
	}
	while (words--) {
		uint64_t value = interesting(r, fds);
		size_t at = random_below(r, room / 8) * 8;

		if (random_below(r, 3))
			at = random_below(r, (size ?: 8) / 4 + 1) * 4;
		memcpy(bytes + at, &value, random_below(r, 2) ? 4 : 8);
	}
}

static void tick(int signal)
{
	(void)signal;
}

static void child(uint64_t seed, unsigned int number)
{
	static uint8_t bytes[4096];
	struct sigaction action = { .sa_handler = tick };	/* without SA_RESTART: waits are interrupted */
	struct itimerval timer = { { 0, 50000 }, { 0, 50000 } };
	struct random r = { seed + number };
	int fds[8], nodes[2], control = open("/dev/ploop-control", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	uint8_t *data = aligned(CLUSTER);
	char node[64];

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &timer, NULL);
	for (int i = 0; i < 8; i++)
		fds[i] = open(files[i], i % 2 ? O_RDONLY : O_RDWR);
	for (;;) {
		unsigned int request;

		for (int i = 0; i < 2; i++) {
			snprintf(node, sizeof(node), "/dev/ploop%d", indices[i]);
			nodes[i] = open(node, number % 2 ? O_RDONLY : O_RDWR | O_DIRECT);
		}
		for (int i = 0; i < 64; i++) {
			int fd = nodes[random_below(&r, 2)];

			if (random_below(&r, 4) == 0) {
				off_t at = random_below(&r, 256) * CLUSTER / 4;

				if (random_below(&r, 2) ? pwrite(fd, data, 4096, at) : pread(fd, data, CLUSTER, at))
					continue;
			}
			if (random_below(&r, 2) && control >= 0) {
				static const unsigned int known[] = {
					PLOOP_CTL_VERSION, PLOOP_CTL_ATTACH, PLOOP_CTL_DETACH, PLOOP_CTL_STATUS, PLOOP_CTL_LIMITS,
					PLOOP_CTL_BITMAP_CREATE, PLOOP_CTL_BITMAP_DELETE, PLOOP_CTL_BITMAP_CLEAR,
					PLOOP_CTL_BITMAP_READ, PLOOP_CTL_BITMAP_LIST, PLOOP_CTL_SNAPSHOT, PLOOP_CTL_FREEZE,
					PLOOP_CTL_THAW, PLOOP_CTL_JOB, PLOOP_CTL_BLOCK_STATUS, PLOOP_CTL_WATCH,
				};
				size_t which = random_below(&r, sizeof(known) / sizeof(known[0]));

				request = known[which];
				argument(&r, request, bytes, sizeof(bytes), fds);
				ioctl(control, request, bytes);
				continue;
			}
			request = _IOC(random_below(&r, 4), PLOOP_IOC, random_below(&r, 30), 0);
			static const unsigned int old[] = {
				PLOOP_IOC_ADD_DELTA, PLOOP_IOC_CLEAR, PLOOP_IOC_STOP, PLOOP_IOC_START, PLOOP_IOC_SNAPSHOT,
				PLOOP_IOC_DEL_DELTA, PLOOP_IOC_TRACK_INIT, PLOOP_IOC_TRACK_STOP, PLOOP_IOC_TRACK_ABORT,
				PLOOP_IOC_TRACK_SETPOS, PLOOP_IOC_TRACK_READ, PLOOP_IOC_SYNC, PLOOP_IOC_MERGE,
				PLOOP_IOC_REPLACE_DELTA, PLOOP_IOC_TRUNCATE, PLOOP_IOC_UPDATE_INDEX, PLOOP_IOC_GROW,
				PLOOP_IOC_FBGET, PLOOP_IOC_BALLOON, PLOOP_IOC_FREEBLKS, PLOOP_IOC_RELOCBLKS,
				PLOOP_IOC_GETDEVICE, PLOOP_IOC_DISCARD_INIT, PLOOP_IOC_DISCARD_FINI, PLOOP_IOC_DISCARD_WAIT,
				PLOOP_IOC_FBDROP, PLOOP_IOC_FBFILTER, PLOOP_IOC_MAX_DELTA_SIZE, BLKRRPART, BLKFLSBUF,
			};
			if (random_below(&r, 8))
				request = old[random_below(&r, sizeof(old) / sizeof(old[0]))];
			argument(&r, request, bytes, sizeof(bytes), fds);
			ioctl(fd, request, random_below(&r, 32) ? (void *)bytes : (void *)(uintptr_t)interesting(&r, fds));
		}
		close(nodes[0]);
		close(nodes[1]);
	}
}

int fuzz_main(int argc, char **argv)
{
	struct image image = { .version = 2, .cluster = CLUSTER, .bytes = 16 << 20 };
	uint64_t seed = argc > 3 ? strtoull(argv[3], NULL, 0) : now_ns(), end;
	unsigned int seconds = argc > 2 ? atoi(argv[2]) : 10, reaped = 0;
	struct device d[2], fresh;
	int control = open("/dev/ploop-control", O_RDWR | O_CLOEXEC);
	pid_t pids[CHILDREN];

	if (argc < 2)
		return 2;
	printf("# seed %llu\n", (unsigned long long)seed);
	for (int i = 0; i < 8; i++) {
		snprintf(files[i], sizeof(files[i]), "%s/fuzz-%d.hdd", argv[1], i);
		image.version = i < 7 ? 2 : 1;
		image_create(files[i], &image);
	}
	for (int i = 0; i < 2; i++) {
		device_get(&d[i]);
		indices[i] = d[i].index;
		if (device_add(&d[i], files[2 * i], PLOOP_FMT_PLOOP1, 0) || device_start(&d[i]))
			die("attach");
	}
	for (unsigned int i = 0; i < CHILDREN; i++) {
		pids[i] = fork();
		if (pids[i] < 0)
			die("fork");
		if (!pids[i])
			child(seed, i);
	}
	sleep(seconds);
	for (unsigned int i = 0; i < CHILDREN; i++)
		kill(pids[i], SIGKILL);
	/* A freeze by a fuzzer ends at its deadline, a minute at most. */
	for (end = now_ns() + 90000000000ull; reaped < CHILDREN && now_ns() < end; usleep(10000))
		while (waitpid(-1, NULL, WNOHANG) > 0)
			reaped++;
	is(reaped, CHILDREN, "fuzz: every process could be killed");
	if (reaped < CHILDREN)
		return 1;
	for (int i = 0; i < 2; i++) {
		struct ploop_job job = { .size = sizeof(job), .index = indices[i], .op = PLOOP_JOB_OP_CANCEL };
		int result;

		/* A fuzzer may have left a job paused. */
		if (control >= 0 && !ioctl(control, PLOOP_CTL_JOB, &job)) {
			job = (struct ploop_job){ .size = sizeof(job), .index = indices[i], .op = PLOOP_JOB_OP_WAIT };
			ioctl(control, PLOOP_CTL_JOB, &job);
		}
		device_nodata(&d[i]);
		ioctl(d[i].fd, PLOOP_IOC_TRACK_ABORT);
		ioctl(d[i].fd, PLOOP_IOC_DISCARD_FINI);
		result = device_stop(&d[i]);
		if (!ok(result == 0 || result == -EINVAL, "fuzz: device %d stops (%d)", i, result))
			printf("# maintenance %d, openers %s\n", device_maintenance(&d[i]),
			       device_sysfs(&d[i], "pstate/open_count"));
		is(device_clear(&d[i]), 0, "fuzz: device %d is cleared", i);
		device_put(&d[i]);
	}
	image.version = 2;
	image_create(files[0], &image);
	device_get(&fresh);
	ok(!device_add(&fresh, files[0], PLOOP_FMT_PLOOP1, 0) && !device_start(&fresh) &&
	   device_pwrite(&fresh, aligned(CLUSTER), CLUSTER, 0) == (int)CLUSTER, "fuzz: a new device works");
	device_put(&fresh);
	for (int i = 0; i < 8; i++)
		unlink(files[i]);
	return tap_failures != 0;
}
