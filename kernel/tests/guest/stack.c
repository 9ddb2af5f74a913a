// SPDX-License-Identifier: GPL-2.0
/*
 * For groups that are shell scripts.
 *   stack attach FILE...       base first, the last one writable; prints /dev/ploopN
 *   stack attach-ro FILE...    all of them read-only
 *   stack detach DEVICE        by the new interface
 *   stack snapshot DEVICE FILE   FILE is made: an empty delta of the right kind
 *   stack merge DEVICE         the top into the one below
 *   stack track DEVICE NAME | untrack DEVICE NAME   a bitmap of 64 KiB granules
 *   stack limit DEVICE BYTES   how long the top's file may get; 0: no limit
 *   stack status DEVICE FIELD
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

static int snapshot(int fd, const struct ploop_status *s, const char *path)
{
	struct image image = { .version = s->format_version ?: 2, .cluster = 512u << s->cluster_log, .bytes = s->device_bytes };
	struct ploop_snapshot_item item = { .index = s->index };
	struct ploop_snapshot call = { .size = sizeof(call), .nr_items = 1, .items = (uintptr_t)&item };

	image_create(path, &image);
	item.fd = open(path, O_RDWR | O_CLOEXEC);
	return control_call(fd, PLOOP_CTL_SNAPSHOT, &call);
}

static int merge(int fd, const struct ploop_status *s)
{
	struct ploop_job job;
	int result = control_job(fd, s->index, PLOOP_JOB_OP_START, PLOOP_JOB_MERGE, s->nr_levels - 1, &job);

	if (!result)
		result = control_job(fd, s->index, PLOOP_JOB_OP_WAIT, 0, 0, &job);
	return result ?: job.state == PLOOP_JOB_DONE ? 0 : -EIO;
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
	s.index = b.index = number(argv[2]);
	if (strcmp(argv[1], "detach") == 0)
		return fail("detach", control_detach(fd, s.index));
	result = control_call(fd, PLOOP_CTL_STATUS, &s);
	if (result)
		return fail("status", result);
	if (strcmp(argv[1], "merge") == 0)
		return fail("merge", merge(fd, &s));
	if (argc < 4)
		return 2;
	if (strcmp(argv[1], "limit") == 0) {
		limits.index = s.index;
		limits.reserve_bytes = s.reserve_bytes;
		limits.max_delta_bytes = strtoull(argv[3], NULL, 10);
		return fail("limit", control_call(fd, PLOOP_CTL_LIMITS, &limits));
	}
	strncpy(b.name, argv[3], sizeof(b.name) - 1);
	if (strcmp(argv[1], "snapshot") == 0)
		return fail("snapshot", snapshot(fd, &s, argv[3]));
	if (strcmp(argv[1], "track") == 0)
		return fail("track", control_call(fd, PLOOP_CTL_BITMAP_CREATE, &b));
	if (strcmp(argv[1], "untrack") == 0) {
		b.granule_log = 0;
		return fail("untrack", control_call(fd, PLOOP_CTL_BITMAP_DELETE, &b));
	}
	return strcmp(argv[1], "status") == 0 ? status(&s, argv[3]) : 2;
}
