// SPDX-License-Identifier: GPL-2.0
/* Which ioctl is legal in which state: a table of what each must return. Every probe gets a device of its own. */
#include "abi.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "tap.h"

enum state { EMPTY, STOPPED, RUNNING, BALLOON, FBLOADED, TRACK, DISCARD, STATES };

static const char *const state_names[STATES] = {
	"no deltas", "stopped", "running", "balloon", "fbloaded", "track", "discard",
};

/* Brings a fresh device into the state. */
static void enter(struct device *d, enum state state)
{
	struct ploop_balloon_ctl balloon = { .inflate = 1 };
	struct ploop_freeblks_ctl none = { .n_extents = 0 };
	struct ploop_track_extent extent;
	int result = 0;

	device_get(d);
	if (state == EMPTY)
		return;
	result = device_add(d, abi_image("state.hdd", 2), PLOOP_FMT_PLOOP1, 0);
	if (!result && state != STOPPED)
		result = device_start(d);
	if (!result && (state == BALLOON || state == FBLOADED))
		result = device_ioctl(d, PLOOP_IOC_BALLOON, &balloon);
	if (!result && state == FBLOADED)
		result = device_ioctl(d, PLOOP_IOC_FREEBLKS, &none);
	if (!result && state == TRACK)
		result = device_ioctl(d, PLOOP_IOC_TRACK_INIT, &extent);
	if (!result && state == DISCARD)
		result = device_ioctl(d, PLOOP_IOC_DISCARD_INIT, NULL);
	is(result, 0, "state %s: reached", state_names[state]);
}

static int call_add(struct device *d)
{
	/* On a stopped device with a writable top only the check for that is left. */
	return device_add(d, abi_image("second.hdd", 2), PLOOP_FMT_PLOOP1, 0);
}

static int call_snapshot(struct device *d) { return device_snapshot(d, abi_image("second.hdd", 2), 0); }
static int call_delete(struct device *d) { return device_delete(d, 0); }
static int call_replace(struct device *d) { return device_replace(d, abi_image("second.hdd", 2), 0, 0); }
static int call_grow(struct device *d) { return device_grow(d, DISK); }
static int call_merge(struct device *d) { return device_ioctl(d, PLOOP_IOC_MERGE, NULL); }
static int call_sync(struct device *d) { return device_ioctl(d, PLOOP_IOC_SYNC, NULL); }
static int call_query(struct device *d) { int type = device_maintenance(d); return type < 0 ? type : 0; }
static int call_track_stop(struct device *d) { return device_ioctl(d, PLOOP_IOC_TRACK_STOP, NULL); }
static int call_track_abort(struct device *d) { return device_ioctl(d, PLOOP_IOC_TRACK_ABORT, NULL); }
static int call_discard_init(struct device *d) { return device_ioctl(d, PLOOP_IOC_DISCARD_INIT, NULL); }
static int call_discard_fini(struct device *d) { return device_ioctl(d, PLOOP_IOC_DISCARD_FINI, NULL); }
static int call_drop(struct device *d) { return device_ioctl(d, PLOOP_IOC_FBDROP, NULL); }
static int call_filter(struct device *d) { return device_ioctl(d, PLOOP_IOC_FBFILTER, NULL); }

static int call_track_init(struct device *d)
{
	struct ploop_track_extent e;

	return device_ioctl(d, PLOOP_IOC_TRACK_INIT, &e);
}

static int call_track_read(struct device *d)
{
	struct ploop_track_extent e;
	int result = device_ioctl(d, PLOOP_IOC_TRACK_READ, &e);

	return result == -EAGAIN ? 0 : result;
}

static int call_setpos(struct device *d)
{
	uint64_t position = 0;

	return device_ioctl(d, PLOOP_IOC_TRACK_SETPOS, &position);
}

static int call_freeblks(struct device *d)
{
	struct ploop_freeblks_ctl c = { .n_extents = 0 };

	return device_ioctl(d, PLOOP_IOC_FREEBLKS, &c);
}

static int call_fbget(struct device *d)
{
	struct ploop_freeblks_ctl c = { .n_extents = 0 };

	return device_ioctl(d, PLOOP_IOC_FBGET, &c);
}

static int call_relocblks(struct device *d)
{
	struct ploop_relocblks_ctl c = { .n_extents = 0 };
	struct ploop_balloon_ctl balloon = { .keep_intact = 1 };

	if (!device_ioctl(d, PLOOP_IOC_BALLOON, &balloon))
		c.alloc_head = balloon.alloc_head;
	return device_ioctl(d, PLOOP_IOC_RELOCBLKS, &c);
}

static int call_update(struct device *d)
{
	struct ploop_index_update_ctl c = { .n_maps = 0 };

	return device_ioctl(d, PLOOP_IOC_UPDATE_INDEX, &c);
}

static int call_max_size(struct device *d)
{
	uint64_t sectors = 1 << 20;

	return device_ioctl(d, PLOOP_IOC_MAX_DELTA_SIZE, &sectors);
}

static int call_unknown(struct device *d) { return device_ioctl(d, 0x503c, NULL); }

#define B (-EBUSY)
#define I (-EINVAL)
#define N (-ENOENT)

static const struct {
	const char *name;
	int (*call)(struct device *d);
	int wanted[STATES];	/* EMPTY, STOPPED, RUNNING, BALLOON, FBLOADED, TRACK, DISCARD */
} table[] = {
	{ "ADD_DELTA", call_add, { 0, I, B, B, B, B, B } },
	{ "START", device_start, { N, 0, B, B, B, B, B } },
	{ "STOP", device_stop, { I, I, 0, 0, 0, 0, 0 } },
	{ "CLEAR", device_clear, { 0, 0, B, B, B, B, B } },
	{ "SNAPSHOT", call_snapshot, { N, I, 0, B, B, B, B } },
	{ "DEL_DELTA 0", call_delete, { N, 0, B, B, B, B, B } },
	{ "REPLACE_DELTA", call_replace, { N, 0, 0, B, B, B, B } },
	{ "MERGE of one delta", call_merge, { N, N, N, B, B, B, B } },
	{ "GROW to the same size", call_grow, { N, 0, 0, B, B, B, B } },
	{ "TRACK_INIT", call_track_init, { N, 0, 0, B, B, B, B } },
	{ "TRACK_SETPOS", call_setpos, { I, I, I, I, I, 0, I } },
	{ "TRACK_READ", call_track_read, { I, I, I, I, I, 0, I } },
	{ "TRACK_STOP", call_track_stop, { 0, 0, 0, 0, 0, 0, 0 } },
	{ "TRACK_ABORT", call_track_abort, { 0, 0, 0, 0, 0, 0, 0 } },
	{ "BALLOON query", call_query, { N, 0, 0, 0, 0, 0, 0 } },
	{ "FREEBLKS", call_freeblks, { N, I, I, 0, B, B, B } },
	{ "FBGET", call_fbget, { N, I, I, I, 0, I, I } },
	{ "RELOCBLKS", call_relocblks, { N, I, I, I, 0, I, I } },
	{ "DISCARD_INIT", call_discard_init, { I, 0, 0, B, B, B, B } },
	{ "DISCARD_FINI", call_discard_fini, { 0, 0, 0, 0, 0, 0, 0 } },
	{ "FBDROP", call_drop, { I, I, I, I, I, I, I } },
	{ "FBFILTER", call_filter, { I, I, I, I, I, I, I } },
	{ "SYNC", call_sync, { N, 0, 0, 0, 0, 0, 0 } },
	{ "UPDATE_INDEX", call_update, { N, 0, 0, 0, 0, 0, 0 } },
	{ "MAX_DELTA_SIZE", call_max_size, { I, 0, 0, 0, 0, 0, 0 } },
	{ "unknown ioctl", call_unknown, { I, I, I, I, I, I, I } },
};

/* Where the old driver allowed what makes no sense on a stopped device, EINVAL is as good. */
static bool loose(const char *name, enum state state)
{
	return state == STOPPED && (!strcmp(name, "GROW to the same size") || !strcmp(name, "MERGE of one delta") ||
				    !strcmp(name, "DISCARD_INIT") || !strcmp(name, "TRACK_INIT"));
}

void abi_states(void)
{
	struct device d;

	for (int state = 0; state < STATES; state++) {
		for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
			int got;

			enter(&d, state);
			got = table[i].call(&d);
			if (got == -EINVAL && loose(table[i].name, state))
				got = table[i].wanted[state];
			is(got, table[i].wanted[state], "%s: %s", state_names[state], table[i].name);
			device_put(&d);
		}
	}

	device_get(&d);
	is(device_ioctl(&d, PLOOP_IOC_TRUNCATE, &(struct ploop_truncate_ctl){ .fd = -1 }), -EBADF, "TRUNCATE: bad fd");
	is(device_ioctl(&d, PLOOP_IOC_DISCARD_WAIT, NULL), 0, "DISCARD_WAIT: outside discard mode");
	is(device_ioctl(&d, PLOOP_IOC_DEL_DELTA, (void *)8), -EFAULT, "DEL_DELTA: bad pointer");
	device_put(&d);
	abi_running(&d, "ptr.hdd", 2);
	is(device_ioctl(&d, PLOOP_IOC_SNAPSHOT, (void *)8), -EFAULT, "SNAPSHOT: bad pointer");
	is(device_ioctl(&d, PLOOP_IOC_TRACK_INIT, (void *)8), -EFAULT, "TRACK_INIT: bad pointer");
	is(device_maintenance(&d), PLOOP_MNTN_OFF, "TRACK_INIT with a bad pointer does not start tracking");
	is(device_ioctl(&d, PLOOP_IOC_BALLOON, (void *)8), -EFAULT, "BALLOON: bad pointer");
	is(device_ioctl(&d, PLOOP_IOC_BALLOON, &(struct ploop_balloon_ctl){ .inflate = 1, .keep_intact = 1 }), -EINVAL,
	   "BALLOON: inflate and only ask");
	is(device_ioctl(&d, PLOOP_IOC_GROW, (void *)8), -EFAULT, "GROW: bad pointer");
	if (setegid(65534) || seteuid(65534))
		die("seteuid");
	ok(device_maintenance(&d) == -EPERM || device_maintenance(&d) == -EACCES, "no ioctl without CAP_SYS_ADMIN");
	if (seteuid(0) || setegid(0))
		die("seteuid 0");
	device_put(&d);
}
