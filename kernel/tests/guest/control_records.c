// SPDX-License-Identifier: GPL-2.0
/*
 * Clusters of the file that change their use: what was known of their earlier one must not touch the next. A cluster
 * that was written in part is recorded, and what was not written of it is filled with zeros when its level is closed.
 */
#include "control.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "tap.h"

static void discard(struct device *d, uint64_t cluster, uint64_t count)
{
	uint64_t range[2] = { cluster * CLUSTER, count * CLUSTER };

	if (ioctl(device_data(d), BLKDISCARD, range) || fsync(d->rw))
		die("discard: %s", strerror(errno));
}

static int job(int fd, int index, uint32_t kind, uint64_t argument, struct ploop_job *job)
{
	int result = control_job(fd, index, PLOOP_JOB_OP_START, kind, argument, job);

	return result ?: control_job(fd, index, PLOOP_JOB_OP_WAIT, 0, 0, job) ?: (int)job->state;
}

/* How the cluster with the record gets out of use, how the next use begins, and who looks at the records. */
struct reuse {
	const char *name;
	bool moved, copied, stopped;
};

static bool attach(int fd, struct device *d, const char *const *paths, unsigned int count, const char *name)
{
	int index = control_attach(fd, paths, count, 0);

	if (!ok(index >= 0, "%s: %u levels are attached", name, count))
		return false;
	control_device(d, index);
	return true;
}

static bool filled(struct device *d, const struct reuse *r)
{
	if (!r->copied)
		return abi_holds(d, 20 * CLUSTER, CLUSTER, 0x33);
	return abi_holds(d, 20 * CLUSTER, CLUSTER / 2, 0x11) && abi_holds(d, 20 * CLUSTER + CLUSTER / 2, 4096, 0x33) &&
	       abi_holds(d, 20 * CLUSTER + CLUSTER / 2 + 4096, CLUSTER / 2 - 4096, 0x11);
}

static void compaction(int fd, const struct reuse *r)
{
	const char *paths[3] = { abi_image("p0.hdd", 2), abi_image("p1.hdd", 2), abi_image("p2.hdd", 2) };
	unsigned int count = 1;
	struct ploop_job j;
	struct device d;

	if (!attach(fd, &d, paths, 1, r->name))
		return;
	if (r->copied) {
		abi_fill(&d, 20 * CLUSTER, CLUSTER, 0x11);
		device_nodata(&d);
		is(device_snapshot(&d, paths[count++], 0), 0, "%s: there is something to copy", r->name);
	}
	/* A record, of a cluster that compaction moves, or that is free when the file is cut. */
	if (r->moved)
		abi_fill(&d, 0, CLUSTER, 0x22);
	abi_fill(&d, CLUSTER, 4096, 0x22);
	fsync(device_data(&d));
	discard(&d, r->moved ? 0 : 1, 1);
	is(job(fd, d.index, PLOOP_JOB_COMPACT, 0, &j), PLOOP_JOB_DONE, "%s: compaction", r->name);
	/* The file gets as long as it was. */
	if (r->copied)
		abi_fill(&d, 20 * CLUSTER + CLUSTER / 2, 4096, 0x33);
	else
		abi_fill(&d, 20 * CLUSTER, CLUSTER, 0x33);
	fsync(device_data(&d));
	ok(filled(&d, r), "%s: what was written is there", r->name);
	device_nodata(&d);
	if (!r->stopped) {
		is(device_snapshot(&d, paths[count++], 0), 0, "%s: a snapshot", r->name);
		ok(filled(&d, r), "%s: after it, too", r->name);
	}
	control_close(&d);
	is(control_detach(fd, d.index), 0, "%s: DETACH", r->name);
	if (!attach(fd, &d, paths, count, r->name))
		return;
	ok(filled(&d, r), "%s: and when it is attached again", r->name);
	if (r->moved)
		ok(abi_holds(&d, CLUSTER, 4096, 0x22) && abi_holds(&d, CLUSTER + 4096, CLUSTER - 4096, 0),
		   "%s: so is what was moved", r->name);
	control_close(&d);
	is(control_detach(fd, d.index), 0, "%s: DETACH", r->name);
}

/* The table takes the place of a free cluster that has a record. */
static void growth(int fd)
{
	const char *path = abi_path("p3.hdd");
	struct image image = { .version = 2, .cluster = CLUSTER, .bytes = 512u << 20 };
	off_t low = 100ll * CLUSTER, high = 20000ll * CLUSTER;
	struct ploop_job j;
	struct device d;
	uint32_t entry;

	image_create(path, &image);
	if (!attach(fd, &d, &path, 1, "longer table"))
		return;
	abi_fill(&d, 0, 4096, 0x44);
	fsync(device_data(&d));
	discard(&d, 0, 1);
	is(job(fd, d.index, PLOOP_JOB_GROW, 2ull << 30, &j), PLOOP_JOB_DONE, "longer table: growth");
	abi_fill(&d, low, CLUSTER, 0x45);
	abi_fill(&d, high, CLUSTER, 0x46);
	fsync(device_data(&d));
	entry = image_read32(path, IMAGE_BAT + 4 * 20000);
	ok(entry, "longer table: the new part has an entry (%u)", entry);
	control_close(&d);
	is(control_detach(fd, d.index), 0, "longer table: DETACH");
	is(image_read32(path, IMAGE_BAT + 4 * 20000), entry, "longer table: the closed image has it, too");
	ok(image_sound(path), "longer table: the image is sound");
	if (!attach(fd, &d, &path, 1, "longer table"))
		return;
	ok(abi_holds(&d, low, CLUSTER, 0x45) && abi_holds(&d, high, CLUSTER, 0x46), "longer table: the data");
	control_close(&d);
	is(control_detach(fd, d.index), 0, "longer table: DETACH");
}

static void append_only(const char *path, bool set)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), flags = 0;

	if (fd < 0 || ioctl(fd, FS_IOC_GETFLAGS, &flags))
		die("FS_IOC_GETFLAGS");
	flags = set ? flags | FS_APPEND_FL : flags & ~FS_APPEND_FL;
	if (ioctl(fd, FS_IOC_SETFLAGS, &flags))
		die("FS_IOC_SETFLAGS");
	close(fd);
}

/* The file cannot be cut: what is in its end does not show up in clusters that are new. */
static void cut_fails(int fd)
{
	const char *path = abi_image("p4.hdd", 2);
	struct ploop_job j;
	struct device d;

	if (!attach(fd, &d, &path, 1, "failed cut"))
		return;
	abi_fill(&d, 0, 8 * CLUSTER, 0x55);
	fsync(device_data(&d));
	discard(&d, 0, 8);
	append_only(path, true);
	is(job(fd, d.index, PLOOP_JOB_COMPACT, 0, &j), PLOOP_JOB_FAILED, "failed cut: compaction ends");
	append_only(path, false);
	is(j.error, EPERM, "failed cut: and says why");
	for (int i = 0; i < 8; i++)
		abi_fill(&d, (50 + i) * CLUSTER + 8192, 4096, 0x56);
	ok(abi_holds(&d, 50 * CLUSTER + 12288, CLUSTER - 4096, 0), "failed cut: a new cluster is zeros around what was written");
	is(job(fd, d.index, PLOOP_JOB_COMPACT, 0, &j), PLOOP_JOB_DONE, "failed cut: the next one succeeds");
	ok(abi_holds(&d, 57 * CLUSTER + 8192, 4096, 0x56) && abi_holds(&d, 57 * CLUSTER + 12288, 4096, 0), "failed cut: the data");
	control_close(&d);
	is(control_detach(fd, d.index), 0, "failed cut: DETACH");
	ok(image_sound(path), "failed cut: the image is sound");
}

void control_records(int fd)
{
	static const struct reuse reuses[] = {
		{ "cut off, then written, snapshot", false, false, false }, { "cut off, then written, stop", false, false, true },
		{ "cut off, then copied to, snapshot", false, true, false }, { "cut off, then copied to, stop", false, true, true },
		{ "moved, then written, snapshot", true, false, false }, { "moved, then written, stop", true, false, true },
		{ "moved, then copied to, snapshot", true, true, false },
	};

	for (size_t i = 0; i < sizeof(reuses) / sizeof(reuses[0]); i++)
		compaction(fd, &reuses[i]);
	growth(fd);
	cut_fails(fd);
}
