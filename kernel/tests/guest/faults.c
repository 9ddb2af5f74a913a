// SPDX-License-Identifier: GPL-2.0
/*
 * guest-tests faults FOLDER: each call of both interfaces, again and again, with the first, second, third... memory
 * allocation inside it failing, until it needs no more of them. A call that failed must have left things so that the same
 * call then succeeds. Writes and flushes are the work of workers: faults_load.c. Needs a kernel with fault injection; the
 * group switches the kinds of faults on.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "control.h"
#include "tap.h"

#define INJECTIONS_MAX 2000

static int control, fail_nth;
/* What the steps work on. */
static struct device device;
static int index_, file = -1;

static void arm(int n)
{
	char text[16];
	int length = snprintf(text, sizeof(text), "%d", n);

	/* The call that disarms may be the one that fails; then nothing is armed any more. */
	if (pwrite(fail_nth, text, length, 0) != length &&
	    (errno != EFAULT || pwrite(fail_nth, text, length, 0) != length))
		die("fail-nth");
}

/* Whether the fault was met. */
static bool disarm(void)
{
	char text[16] = "";

	ssize_t length = pread(fail_nth, text, sizeof(text) - 1, 0);
	bool here = length < 0 && errno == EFAULT;

	/* The answer's own way to us may be what failed. */
	if (length <= 0 && !here)
		die("fail-nth");
	arm(0);
	return !here && atoi(text) == 0;
}

/* One kind of call: before() and after() are done without faults. */
struct step {
	const char *name;
	void (*before)(void);
	int (*call)(void);
	void (*after)(void);
	bool job;
};

static void sweep(const struct step *step)
{
	int n, failed = 0;
	bool whole = true, met = true;

	for (n = 1; met && n <= INJECTIONS_MAX; n++) {
		int result, again = 0;

		step->before();
		arm(n);
		result = step->call();
		met = disarm();
		if (result < 0) {
			failed++;
			again = step->call();
			/* The job runs; only the answer was lost. */
			if (result == -EFAULT && again == -EBUSY && step->job)
				again = 0;
			if (again < 0 || !met) {
				printf("# %s, fault %d: %s, then %s\n", step->name, n, strerror(-result), strerror(-again));
				whole = false;
			}
		}
		step->after();
	}
	ok(whole && !met, "faults: %s: %d faults, %d of them made it fail", step->name, n - 2, failed);
}

static void nothing(void)
{
}

static int attach(void)
{
	struct ploop_attach_delta deltas[2] = { { .format = PLOOP_FMT_PLOOP1 }, { .format = PLOOP_FMT_PLOOP1 } };
	struct ploop_attach a = {
		.size = sizeof(a), .index = PLOOP_INDEX_ANY, .cookie = "faults", .nr_deltas = 2, .deltas = (uintptr_t)deltas,
	};
	int result;

	deltas[0].fd = open(abi_path("f0.hdd"), O_RDONLY | O_CLOEXEC);
	deltas[1].fd = open(abi_path("f1.hdd"), O_RDWR | O_CLOEXEC);
	if (deltas[0].fd < 0 || deltas[1].fd < 0) {
		/* The fault was the system's, not ours. */
		result = -errno;
	} else {
		result = control_call(control, PLOOP_CTL_ATTACH, &a);
		index_ = a.index;
	}
	close(deltas[0].fd);
	close(deltas[1].fd);
	return result;
}

static void attached(void)
{
	if (attach() < 0)
		die("attach");
	control_device(&device, index_);
	device_data(&device);
}

static int detach(void)
{
	struct ploop_status s = { .size = sizeof(s), .index = index_ };
	int result = control_detach(control, index_);

	/* It may fail to close an image and yet be gone. */
	if (result < 0 && !control_call(control, PLOOP_CTL_STATUS, &s) && s.nr_levels == 0)
		return 0;
	return result;
}

static void detached(void)
{
	control_close(&device);
	if (detach() < 0)
		die("detach");
}

static void fresh(void)
{
	abi_image("f0.hdd", 2);
	abi_image("f1.hdd", 2);
}

static void fresh_attached(void)
{
	fresh();
	attached();
}

static void only_detach(void)
{
	if (detach() < 0)
		die("detach");
}

static void closed_attached(void)
{
	/* What failed to close an image has left it marked in use. */
	fresh_attached();
	abi_fill(&device, 0, 4096, 1);
	control_close(&device);
}

static void new_file(void)
{
	file = open(abi_image("f2.hdd", 2), O_RDWR | O_CLOEXEC);
	abi_fill(&device, 0, CLUSTER, 7);
}

static int snapshot(void)
{
	struct ploop_snapshot_item item = { .index = index_, .fd = file };
	struct ploop_snapshot s = { .size = sizeof(s), .nr_items = 1, .items = (uintptr_t)&item };

	return control_call(control, PLOOP_CTL_SNAPSHOT, &s);
}

static int job(uint32_t kind, uint64_t argument)
{
	struct ploop_job j;

	return control_job(control, index_, PLOOP_JOB_OP_START, kind, argument, &j);
}

static void job_ended(void)
{
	struct ploop_job j;

	if (control_job(control, index_, PLOOP_JOB_OP_WAIT, 0, 0, &j) || j.state != PLOOP_JOB_DONE)
		ok(false, "faults: the job ends well (state %u, %d)", j.state, j.error);
}

static int start_merge(void)
{
	return job(PLOOP_JOB_MERGE, 2);
}

static void merged(void)
{
	close(file);
	if (start_merge())
		die("merge");
	job_ended();
	if (!abi_holds(&device, 0, CLUSTER, 7))
		ok(false, "faults: the data is there after the merge");
}

static void with_snapshot(void)
{
	new_file();
	if (snapshot())
		die("snapshot");
	close(file);
	file = -1;
}

static int start_grow(void)
{
	return job(PLOOP_JOB_GROW, 2 * DISK);
}

static int start_compact(void)
{
	return job(PLOOP_JOB_COMPACT, 0);
}

static void job_ended_detached(void)
{
	job_ended();
	detached();
}

static int bitmap(unsigned long request, uint32_t granule_log)
{
	struct ploop_bitmap b = { .size = sizeof(b), .index = index_, .granule_log = granule_log, .name = "faults" };

	return control_call(control, request, &b);
}

static int bitmap_create(void)
{
	return bitmap(PLOOP_CTL_BITMAP_CREATE, 16);
}

static void bitmap_delete(void)
{
	if (bitmap(PLOOP_CTL_BITMAP_DELETE, 0))
		die("bitmap delete");
}

static int bitmap_read(void)
{
	struct ploop_range range[4];
	struct ploop_bitmap_read r = {
		.size = sizeof(r), .index = index_, .nr_ranges = 4, .bytes = DISK, .ranges = (uintptr_t)range, .name = "faults",
	};

	return control_call(control, PLOOP_CTL_BITMAP_READ, &r);
}

static void bitmap_there(void)
{
	if (bitmap_create())
		die("bitmap create");
	abi_fill(&device, 0, 4096, 8);
}

static int block_status(void)
{
	struct ploop_block_extent e[16];
	struct ploop_block_status s = {
		.size = sizeof(s), .index = index_, .nr_extents = 16, .bytes = 16 * CLUSTER, .extents = (uintptr_t)e,
	};

	return control_call(control, PLOOP_CTL_BLOCK_STATUS, &s);
}

static int track_init(void)
{
	struct ploop_track_extent e;

	return device_ioctl(&device, PLOOP_IOC_TRACK_INIT, &e);
}

static void track_abort(void)
{
	if (device_ioctl(&device, PLOOP_IOC_TRACK_ABORT, NULL))
		die("track abort");
}

int faults_main(int argc, char **argv)
{
	static const struct step steps[] = {
		{ "attach", nothing, attach, only_detach, false },
		{ "detach", closed_attached, detach, nothing, false },
		{ "snapshot", new_file, snapshot, merged, false },
		{ "merge", with_snapshot, start_merge, job_ended, true },
		{ "bitmap", nothing, bitmap_create, bitmap_delete, false },
		{ "bitmap read", bitmap_there, bitmap_read, bitmap_delete, false },
		{ "block status", nothing, block_status, nothing, false },
		{ "tracking", nothing, track_init, track_abort, false },
		{ "grow", fresh_attached, start_grow, job_ended_detached, true },
		{ "compact", attached, start_compact, job_ended_detached, true },
	};
	char path[64];

	if (argc < 2)
		return 2;
	abi_use(argv[1]);
	snprintf(path, sizeof(path), "/proc/self/task/%ld/fail-nth", syscall(SYS_gettid));
	fail_nth = open(path, O_RDWR | O_CLOEXEC);
	if (fail_nth < 0) {
		puts("ok - faults # SKIP the kernel has no fault injection");
		return 0;
	}
	control = control_open();
	fresh();
	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		/* Steps 2 to 7 share a device. */
		if (i == 2)
			fresh_attached();
		if (i == 8)
			detached();
		sweep(&steps[i]);
	}
	ok(image_sound(abi_path("f1.hdd")), "faults: the image is sound");
	return tap_failures > 0;
}
