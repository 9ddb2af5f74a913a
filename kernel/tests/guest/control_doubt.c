// SPDX-License-Identifier: GPL-2.0
/* Devices whose writes fail: when they may go on, and when only a check of the image helps; taking the top away. */
#include "control.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tap.h"

/* Somebody said so, and takes it back. */
static void taken_back(int fd)
{
	const char *path = abi_image("q0.hdd", 2);
	int index = control_attach(fd, &path, 1, 0);
	struct device d;

	if (!ok(index >= 0, "taken back: a device"))
		return;
	control_device(&d, index);
	abi_fill(&d, 0, 4 * CLUSTER, 0x61);
	control_abort(index);
	is(abi_fill(&d, 0, CLUSTER, 0x62), -EIO, "taken back: a write fails");
	is(fsync(d.rw) ? -errno : 0, -EIO, "taken back: a flush fails");
	is(control_unabort(index), 0, "taken back: 0 is taken");
	is(abi_fill(&d, 2 * CLUSTER, CLUSTER, 0x63), CLUSTER, "taken back: a write succeeds");
	is(fsync(d.rw), 0, "taken back: a flush succeeds");
	device_nodata(&d);
	is(device_snapshot(&d, abi_image("q1.hdd", 2), 0), 0, "taken back: a snapshot");
	control_close(&d);
	is(control_detach(fd, index), 0, "taken back: DETACH");
	ok(image_sound(path), "taken back: the image is sound");
	index = control_attach(fd, &path, 1, PLOOP_ATTACH_RDONLY);
	if (!ok(index >= 0, "taken back: it is attached again"))
		return;
	control_device(&d, index);
	d.rw = d.fd;
	ok(abi_holds(&d, 0, 2 * CLUSTER, 0x61) && abi_holds(&d, 2 * CLUSTER, CLUSTER, 0x63), "taken back: the data");
	d.rw = -1;
	control_close(&d);
	is(control_detach(fd, index), 0, "taken back: DETACH");
}

/* In the middle of a merge of the top two levels are open for writing: there is no way to go on but a check. */
static void half_merged(int fd)
{
	const char *paths[2] = { abi_image("q2.hdd", 2), abi_image("q3.hdd", 2) };
	struct ploop_job job = { .size = sizeof(job), .op = PLOOP_JOB_OP_START, .kind = PLOOP_JOB_MERGE, .arg = 1, .rate = CLUSTER / 4 };
	int index = control_attach(fd, paths, 1, 0);
	struct device d;
	int ret;

	if (!ok(index >= 0, "half merged: a device"))
		return;
	control_device(&d, index);
	abi_fill(&d, 0, 32 * CLUSTER, 0x64);
	device_nodata(&d);
	is(device_snapshot(&d, paths[1], 0), 0, "half merged: a snapshot");
	abi_fill(&d, 0, 32 * CLUSTER, 0x65);
	job.index = index;
	is(control_call(fd, PLOOP_CTL_JOB, &job), 0, "half merged: the merge starts");
	for (int i = 0; i < 20000 && job.done == 0; i++) {
		usleep(1000);
		control_job(fd, index, PLOOP_JOB_OP_QUERY, 0, 0, &job);
	}
	ok(job.done > 0 && job.state == PLOOP_JOB_RUNNING, "half merged: it is at work");
	control_abort(index);
	/* It may have met the abort, and be gone, by now. */
	ret = control_unabort(index);
	ok(ret == -EBUSY || ret == -EUCLEAN, "half merged: not while the job is there");
	control_job(fd, index, PLOOP_JOB_OP_WAIT, 0, 0, &job);
	is(job.state, PLOOP_JOB_FAILED, "half merged: it fails");
	is(control_unabort(index), -EUCLEAN, "half merged: nor afterwards");
	is(abi_fill(&d, 0, 4096, 0x66), -EIO, "half merged: writes fail");
	ok(abi_holds(&d, 0, 32 * CLUSTER, 0x65), "half merged: reads do not");
	device_nodata(&d);
	is(device_snapshot(&d, abi_image("q4.hdd", 2), 0), -EIO, "half merged: no snapshot of that");
	is(device_ioctl(&d, PLOOP_IOC_STOP, NULL), -EIO, "half merged: STOP says that it is not closed");
	is(device_ioctl(&d, PLOOP_IOC_START, NULL), -EUCLEAN, "half merged: START is refused");
	control_close(&d);
	is(control_detach(fd, index), 0, "half merged: DETACH");
	is(image_read32(paths[0], IMAGE_IN_USE), IN_USE, "half merged: the lower level is marked in use");
	is(image_read32(paths[1], IMAGE_IN_USE), IN_USE, "half merged: so is the top");
	ok(image_repair(paths[0]) && image_repair(paths[1]), "half merged: ploop's check repairs both");
	index = control_attach(fd, paths, 2, 0);
	if (!ok(index >= 0, "half merged: they are attached again"))
		return;
	control_device(&d, index);
	ok(abi_holds(&d, 0, 32 * CLUSTER, 0x65), "half merged: the data");
	control_close(&d);
	is(control_detach(fd, index), 0, "half merged: DETACH");
}

/* The old interface: the top of a running device goes, if nobody uses it; from then on nothing is written. */
static void top_goes(void)
{
	const char *base = abi_image("q5.hdd", 2), *top = abi_image("q6.hdd", 2);
	struct device d;
	int user, ro = 0;

	device_get(&d);
	is(device_add(&d, base, PLOOP_FMT_PLOOP1, 0), 0, "the top goes: a device");
	is(device_start(&d), 0, "the top goes: it runs");
	abi_fill(&d, 0, 4 * CLUSTER, 0x67);
	device_nodata(&d);
	is(device_snapshot(&d, top, 0), 0, "the top goes: a snapshot");
	abi_fill(&d, 0, 4 * CLUSTER, 0x68);
	user = d.rw;
	is(device_delete(&d, 1), -EBUSY, "the top goes: not while somebody uses the device");
	ok(abi_holds(&d, 0, 4 * CLUSTER, 0x68), "the top goes: it is still there");
	close(user);
	d.rw = -1;
	is(device_delete(&d, 1), 0, "the top goes: DEL_DELTA");
	d.rw = d.fd;
	ok(abi_holds(&d, 0, 4 * CLUSTER, 0x67), "the top goes: what is below shows");
	d.rw = -1;
	ok(ioctl(d.fd, BLKROGET, &ro) == 0 && ro, "the top goes: the device is read-only");
	device_put(&d);
	ok(image_sound(base) && image_sound(top), "the top goes: both images are sound");
}

/* A merge would write to files that somebody wants to stay as they are. */
static void merge_read_only(int fd)
{
	const char *paths[2] = { abi_image("q8.hdd", 2), abi_image("q9.hdd", 2) };
	struct ploop_job job;
	int index = control_attach(fd, paths, 2, PLOOP_ATTACH_RDONLY);

	if (!ok(index >= 0, "read-only: two levels"))
		return;
	is(control_job(fd, index, PLOOP_JOB_OP_START, PLOOP_JOB_MERGE, 1, &job), -EROFS, "read-only: no merge");
	is(control_detach(fd, index), 0, "read-only: DETACH");
	is(image_read32(paths[0], IMAGE_IN_USE), 0, "read-only: the lower image is as it was");
}

/* Whoever looks for files that changed finds an image that was written. */
static void time_stamp(int fd)
{
	/* Of which no cluster is new, so that nothing but the data changes. */
	struct image image = { .version = 2, .cluster = CLUSTER, .bytes = DISK, .filled = true };
	const char *path = abi_path("q7.hdd");
	struct timespec old[2] = { { .tv_sec = 1000000000 }, { .tv_sec = 1000000000 } };
	struct stat st;
	struct device d;
	int index;

	image_create(path, &image);
	utimensat(AT_FDCWD, path, old, 0);
	index = control_attach(fd, &path, 1, 0);
	if (!ok(index >= 0, "time stamp: a device"))
		return;
	ok(stat(path, &st) == 0 && st.st_mtim.tv_sec > 1000000000, "time stamp: attaching sets it");
	control_device(&d, index);
	abi_fill(&d, 0, CLUSTER, 1);
	fsync(device_data(&d));
	utimensat(AT_FDCWD, path, old, 0);
	abi_fill(&d, 0, CLUSTER, 2);
	control_close(&d);
	is(control_detach(fd, index), 0, "time stamp: DETACH");
	ok(stat(path, &st) == 0 && st.st_mtim.tv_sec > 1000000000, "time stamp: so does closing, after writes in place");
}

void control_doubt(int fd)
{
	taken_back(fd);
	half_merged(fd);
	top_goes();
	merge_read_only(fd);
	time_stamp(fd);
}
