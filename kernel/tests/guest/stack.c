// SPDX-License-Identifier: GPL-2.0
/*
 * For groups that are shell scripts.
 *   stack attach FILE...       base first, the last one writable; prints /dev/ploopN
 *   stack attach-ro FILE...    all of them read-only
 *   stack detach DEVICE [force]   by the new interface
 *   stack stop DEVICE          by the old one, which has the device open
 *   stack sync DEVICE          by the old one
 *   stack snapshot DEVICE FILE [DEADLINE_MS]   FILE is made: an empty delta of the right kind
 *   stack set DEADLINE_MS DEVICE FILE...   the same, of several devices at once
 *   stack freeze DEVICE        freezes, says what was frozen and what was not, and thaws
 *   stack merge DEVICE         the top into the one below
 *   stack grow DEVICE BYTES
 *   stack track DEVICE NAME | untrack DEVICE NAME   a bitmap of 64 KiB granules
 *   stack limit DEVICE BYTES   how long the top's file may get; 0: no limit
 *   stack status DEVICE FIELD
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "control.h"
#include "tap.h"

static int fail(const char *what, int result)
{
	if (result < 0)
		fprintf(stderr, "%s: %s\n", what, strerror(-result));
	return result < 0;
}

static int number(const char *device)
{
	const char *digits = strpbrk(device, "0123456789");

	return digits ? atoi(digits) : -1;
}

static int status_of(int fd, const char *device, struct ploop_status *s)
{
	*s = (struct ploop_status){ .size = sizeof(*s), .index = number(device) };
	return control_call(fd, PLOOP_CTL_STATUS, s);
}

/* @words: a device and a file for each of @count. */
static int snapshot(int fd, uint32_t deadline_ms, unsigned int count, char **words)
{
	struct ploop_snapshot_item items[PLOOP_SNAPSHOT_MAX] = { 0 };
	struct ploop_snapshot call = {
		.size = sizeof(call), .nr_items = count, .items = (uintptr_t)items, .deadline_ms = deadline_ms,
	};
	uint64_t start;
	int result;

	for (unsigned int i = 0; i < count; i++) {
		struct ploop_status s;
		struct image image;

		result = status_of(fd, words[2 * i], &s);
		if (result)
			return result;
		image = (struct image){ s.format_version ?: 2, 512u << s.cluster_log, s.device_bytes, 0 };
		image_create(words[2 * i + 1], &image);
		items[i].index = s.index;
		items[i].fd = open(words[2 * i + 1], O_RDWR | O_CLOEXEC);
	}
	start = now_ns();
	result = control_call(fd, PLOOP_CTL_SNAPSHOT, &call);
	printf("%llu ms, %u frozen, %u not\n", (unsigned long long)(now_ns() - start) / 1000000, call.frozen, call.unfrozen);
	for (unsigned int i = 0; i < count; i++)
		close(items[i].fd);
	return result;
}

static int freeze(int fd, uint32_t index)
{
	struct ploop_freeze call = { .size = sizeof(call), .nr = 1, .indices = (uintptr_t)&index };
	int result = control_call(fd, PLOOP_CTL_FREEZE, &call);

	if (result)
		return result;
	printf("%u frozen, %u not\n", call.frozen, call.unfrozen);
	return control_call(fd, PLOOP_CTL_THAW, NULL);
}

static int detach(int fd, uint32_t index, bool force)
{
	struct ploop_ref call = { .size = sizeof(call), .flags = force ? PLOOP_DETACH_FORCE : 0, .index = index };

	return control_call(fd, PLOOP_CTL_DETACH, &call);
}

static int old_call(const char *device, unsigned long request)
{
	int fd = open(device, O_RDONLY | O_CLOEXEC), result;

	if (fd < 0)
		return -errno;
	result = ioctl(fd, request) ? -errno : 0;
	close(fd);
	return result;
}

static int job(int fd, uint32_t index, uint32_t kind, uint64_t argument)
{
	struct ploop_job job;
	int result = control_job(fd, index, PLOOP_JOB_OP_START, kind, argument, &job);

	if (!result)
		result = control_job(fd, index, PLOOP_JOB_OP_WAIT, 0, 0, &job);
	return result ?: job.state == PLOOP_JOB_DONE ? 0 : -(int)job.error;
}

static int status(const struct ploop_status *s, const char *field)
{
	const struct {
		const char *name;
		uint64_t value;
	} fields[] = {
		{ "state", s->state }, { "levels", s->nr_levels }, { "parked", s->parked }, { "file_bytes", s->file_bytes },
		{ "free_bytes", s->free_bytes }, { "host_syncs", s->host_syncs }, { "slow", s->slow_requests },
		{ "allocations", s->allocations }, { "frozen_ios", s->frozen_ios }, { "maintenance", s->maintenance },
	};

	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
		if (strcmp(field, fields[i].name) == 0)
			return printf("%llu\n", (unsigned long long)fields[i].value) < 0;
	return 2;
}

int stack_main(int argc, char **argv)
{
	struct ploop_status s = { .size = sizeof(s) };
	struct ploop_bitmap b = { .size = sizeof(b), .granule_log = 16 };
	struct ploop_limits limits = { .size = sizeof(limits) };
	int fd, result;

	if (argc < 3)
		return 2;
	fd = control_open();
	if (strcmp(argv[1], "attach") == 0 || strcmp(argv[1], "attach-ro") == 0) {
		result = control_attach(fd, (const char *const *)argv + 2, argc - 2,
					strcmp(argv[1], "attach") ? PLOOP_ATTACH_RDONLY : 0);
		if (result >= 0)
			printf("/dev/ploop%d\n", result);
		return fail("attach", result);
	}
	if (strcmp(argv[1], "set") == 0)
		return fail("snapshot", snapshot(fd, strtoul(argv[2], NULL, 10), (argc - 3) / 2, argv + 3));
	s.index = b.index = number(argv[2]);
	if (strcmp(argv[1], "detach") == 0)
		return fail("detach", detach(fd, s.index, argc > 3));
	if (strcmp(argv[1], "stop") == 0)
		return fail("stop", old_call(argv[2], PLOOP_IOC_STOP));
	if (strcmp(argv[1], "sync") == 0)
		return fail("sync", old_call(argv[2], PLOOP_IOC_SYNC));
	if (strcmp(argv[1], "freeze") == 0)
		return fail("freeze", freeze(fd, s.index));
	result = control_call(fd, PLOOP_CTL_STATUS, &s);
	if (result)
		return fail("status", result);
	if (strcmp(argv[1], "merge") == 0)
		return fail("merge", job(fd, s.index, PLOOP_JOB_MERGE, s.nr_levels - 1));
	if (argc < 4)
		return 2;
	if (strcmp(argv[1], "grow") == 0)
		return fail("grow", job(fd, s.index, PLOOP_JOB_GROW, strtoull(argv[3], NULL, 10)));
	if (strcmp(argv[1], "limit") == 0) {
		limits.index = s.index;
		limits.reserve_bytes = s.reserve_bytes;
		limits.max_delta_bytes = strtoull(argv[3], NULL, 10);
		return fail("limit", control_call(fd, PLOOP_CTL_LIMITS, &limits));
	}
	strncpy(b.name, argv[3], sizeof(b.name) - 1);
	if (strcmp(argv[1], "snapshot") == 0)
		return fail("snapshot", snapshot(fd, argc > 4 ? strtoul(argv[4], NULL, 10) : 0, 1, argv + 2));
	if (strcmp(argv[1], "track") == 0)
		return fail("track", control_call(fd, PLOOP_CTL_BITMAP_CREATE, &b));
	if (strcmp(argv[1], "untrack") == 0) {
		b.granule_log = 0;
		return fail("untrack", control_call(fd, PLOOP_CTL_BITMAP_DELETE, &b));
	}
	return strcmp(argv[1], "status") == 0 ? status(&s, argv[3]) : 2;
}
