// SPDX-License-Identifier: GPL-2.0
/* The tracker of writes, growing, discard, the limit of a delta's size, and sysfs. */
#include "abi.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "tap.h"

static int read_extent(struct device *d, struct ploop_track_extent *e)
{
	e->start = e->end = 0;
	return device_ioctl(d, PLOOP_IOC_TRACK_READ, e);
}

static int set_position(struct device *d, uint64_t position)
{
	return device_ioctl(d, PLOOP_IOC_TRACK_SETPOS, &position);
}

/* Copies the top's file the way `ploop copy` does while it is written to; the copy must be the image as frozen. */
static void copy(void)
{
	const char *path = abi_path("t.hdd"), *target = abi_path("t-copy.hdd");
	struct ploop_track_extent all, e;
	uint8_t *buffer = aligned(CLUSTER), *other = aligned(CLUSTER);
	struct random r = { 7 };
	struct device d, second;
	uint64_t done = 0;
	int result, in, out;
	bool same = true;

	abi_running(&d, "t.hdd", 2);
	for (int i = 0; i < 40; i++)
		abi_fill(&d, i * 4 * CLUSTER, CLUSTER, i + 1);
	is(device_ioctl(&d, PLOOP_IOC_TRACK_INIT, &all), 0, "copy: TRACK_INIT");
	is(all.start, 0, "copy: from the start");
	/* The file may be longer: space reserved ahead is nobody's data. */
	ok(all.end == 41 * CLUSTER && all.end <= (uint64_t)image_size(path), "copy: to the end of what is used");
	in = open(path, O_RDONLY | O_CLOEXEC);
	unlink(target);
	out = open(target, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	for (; done < all.end; done += CLUSTER) {
		if (set_position(&d, done + CLUSTER) || posix_fadvise(in, 0, 0, POSIX_FADV_DONTNEED) ||
		    pread(in, buffer, CLUSTER, done) != CLUSTER || pwrite(out, buffer, CLUSTER, done) != CLUSTER)
			die("copy");
		/* Overwrites and allocations, behind and before the position. */
		for (int i = 0; i < 2; i++)
			abi_fill(&d, random_below(&r, DISK / 4096) * 4096, 4096, random_next(&r) | 1);
	}
	fsync(d.rw);
	is(device_ioctl(&d, PLOOP_IOC_SYNC, NULL), 0, "copy: SYNC");
	for (done = 0; (result = read_extent(&d, &e)) == 0; done++) {
		if (e.start >= e.end || e.end > (uint64_t)image_size(path)) {
			printf("# extent %llu..%llu\n", (unsigned long long)e.start, (unsigned long long)e.end);
			break;
		}
		if (done > 10000)
			break;
		set_position(&d, e.end);
		for (uint64_t at = e.start; at < e.end; at += 4096)
			if (pread(in, buffer, 4096, at) != 4096 || pwrite(out, buffer, 4096, at) != 4096)
				die("copy again");
	}
	is(result, -EAGAIN, "copy: TRACK_READ ends with EAGAIN");
	is(device_ioctl(&d, PLOOP_IOC_TRACK_STOP, NULL), 0, "copy: TRACK_STOP when nothing is dirty");
	is(device_maintenance(&d), PLOOP_MNTN_OFF, "copy: tracking is off");
	close(in);
	close(out);
	image_write32(target, IMAGE_IN_USE, 0);
	device_get(&second);
	is(device_add(&second, target, PLOOP_FMT_PLOOP1, PLOOP_CTLF_RDONLY), 0, "copy: attaches");
	is(device_start(&second), 0, "copy: starts");
	for (off_t at = 0; same && at < DISK; at += CLUSTER) {
		device_pread(&d, buffer, CLUSTER, at);
		device_pread(&second, other, CLUSTER, at);
		same = memcmp(buffer, other, CLUSTER) == 0;
	}
	ok(same, "copy: equals the device");
	device_put(&second);
	device_nodata(&d);
	device_put(&d);
	free(buffer);
	free(other);
}

void abi_track(void)
{
	struct ploop_track_extent e;
	struct device d;
	uint64_t end;

	abi_running(&d, "track.hdd", 2);
	/* One by one: clusters of one large write get their places in any order. */
	for (int i = 0; i < 4; i++)
		abi_fill(&d, i * CLUSTER, CLUSTER, 1);
	fsync(d.rw);
	is(device_ioctl(&d, PLOOP_IOC_TRACK_INIT, &e), 0, "TRACK_INIT");
	is(device_maintenance(&d), PLOOP_MNTN_TRACK, "the type is TRACK");
	end = e.end;
	is(read_extent(&d, &e), 0, "TRACK_READ: the whole file is not yet copied");
	is(e.start, 0, "TRACK_READ: from the position");
	is(e.end, end, "TRACK_READ: to the end");
	is(set_position(&d, end), 0, "TRACK_SETPOS: up");
	is(set_position(&d, CLUSTER), -EINVAL, "TRACK_SETPOS: down");
	is(read_extent(&d, &e), -EAGAIN, "TRACK_READ: nothing dirty");
	abi_fill(&d, 2 * CLUSTER, 4096, 2);
	is(device_ioctl(&d, PLOOP_IOC_TRACK_STOP, NULL), -EBUSY, "TRACK_STOP with a dirty extent");
	is(read_extent(&d, &e), 0, "TRACK_READ: the write");
	ok(e.start <= 3 * CLUSTER && e.end >= 3 * CLUSTER + 4096, "TRACK_READ: covers where it went (%llu..%llu)",
	   (unsigned long long)e.start, (unsigned long long)e.end);
	is(read_extent(&d, &e), -EAGAIN, "TRACK_READ: once");
	is(set_position(&d, 0), 0, "TRACK_SETPOS: back to 0");
	is(read_extent(&d, &e), 0, "TRACK_READ: everything again");
	is(device_ioctl(&d, PLOOP_IOC_TRACK_ABORT, NULL), 0, "TRACK_ABORT");
	is(device_maintenance(&d), PLOOP_MNTN_OFF, "the type is OFF");

	/* The last close of the disk ends tracking. */
	is(device_ioctl(&d, PLOOP_IOC_TRACK_INIT, &e), 0, "TRACK_INIT again");
	device_nodata(&d);
	close(d.fd);
	char path[64];
	snprintf(path, sizeof(path), "/dev/ploop%d", d.index);
	d.fd = open(path, O_RDONLY | O_CLOEXEC);
	is(device_maintenance(&d), PLOOP_MNTN_OFF, "the last close aborts tracking");
	device_put(&d);
	copy();
}

void abi_grow(void)
{
	const char *path = abi_path("grow.hdd");
	struct device d;

	for (int version = 1; version <= 2; version++) {
		uint64_t bytes = 4096ull << 20;	/* the table needs more than one cluster */
		struct ploop_ctl odd = { .cluster_log = 7, .size = (bytes >> 9) + 1 };

		abi_running(&d, "grow.hdd", version);
		for (int i = 0; i < 32; i++)
			abi_fill(&d, i * CLUSTER, CLUSTER, i + 1);
		is(device_grow(&d, DISK / 2), -EINVAL, "v%d: GROW to less", version);
		is(device_grow(&d, DISK), 0, "v%d: GROW to the same", version);
		is(device_ioctl(&d, PLOOP_IOC_GROW, &odd), -EINVAL, "v%d: GROW to a size not of whole clusters", version);
		odd.cluster_log = 8;
		odd.size = bytes >> 9;
		is(device_ioctl(&d, PLOOP_IOC_GROW, &odd), -EINVAL, "v%d: GROW with another cluster size", version);
		is(device_bytes(&d), DISK, "v%d: the size is as before", version);
		is(device_grow(&d, bytes), 0, "v%d: GROW", version);
		is(device_bytes(&d), bytes, "v%d: an open descriptor sees it", version);
		bool same = true;
		for (int i = 0; i < 32; i++)
			same &= abi_holds(&d, i * CLUSTER, CLUSTER, i + 1);
		ok(same, "v%d: the data is where it was", version);
		ok(abi_holds(&d, DISK, CLUSTER, 0) && abi_holds(&d, bytes - CLUSTER, CLUSTER, 0), "v%d: the new part is zeros",
		   version);
		is(abi_fill(&d, bytes - 4096, 4096, 0x44), 4096, "v%d: its end can be written", version);
		is(device_stop(&d), 0, "v%d: STOP", version);
		is(image_read32(path, IMAGE_CLUSTERS), bytes / CLUSTER, "v%d: the header says so", version);
		ok(image_sound(path), "v%d: the image is sound", version);
		is(device_clear(&d), 0, "v%d: CLEAR", version);
		is(device_add(&d, path, PLOOP_FMT_PLOOP1, PLOOP_CTLF_RDONLY), 0, "v%d: attaches again", version);
		is(device_start(&d), 0, "v%d: starts again", version);
		ok(abi_holds(&d, 31 * CLUSTER, CLUSTER, 32) && abi_holds(&d, bytes - 4096, 4096, 0x44), "v%d: data is there", version);
		is(device_grow(&d, 2 * bytes) < 0, 1, "v%d: GROW of a read-only device is refused", version);
		device_put(&d);
	}
}

static void *wait_discard(void *argument)
{
	struct device *d = argument;

	return (void *)(intptr_t)device_ioctl(d, PLOOP_IOC_DISCARD_WAIT, NULL);
}

void abi_space(void)
{
	const char *path = abi_path("space.hdd");
	uint64_t limit = 4 * CLUSTER / 512, range[2] = { 0, 4 * CLUSTER };
	struct device d;
	pthread_t thread;
	void *result;
	off_t size;

	/* Discarded clusters are used again before the file grows. */
	abi_running(&d, "space.hdd", 2);
	abi_fill(&d, 0, 8 * CLUSTER, 0x31);
	fsync(device_data(&d));
	size = image_size(path);
	is(ioctl(d.rw, BLKDISCARD, range) ? -errno : 0, 0, "a discard is accepted");
	ok(abi_holds(&d, 4 * CLUSTER, 4 * CLUSTER, 0x31), "it takes no more than it says");
	ok(abi_holds(&d, 0, 4 * CLUSTER, 0), "what was discarded reads as zeros");
	is(fsync(d.rw), 0, "flush");
	abi_fill(&d, 64 * CLUSTER, 4 * CLUSTER, 0x32);
	is(image_size(path), size, "freed clusters are used again");
	ok(abi_holds(&d, 0, 4 * CLUSTER, 0) && abi_holds(&d, 64 * CLUSTER, 4 * CLUSTER, 0x32), "and only by the new data");
	range[0] = 64 * CLUSTER + 512;
	range[1] = CLUSTER;
	ioctl(d.rw, BLKDISCARD, range);
	ok(abi_holds(&d, 65 * CLUSTER + 512, CLUSTER - 512, 0x32), "the tail behind an unaligned discard stays");
	ok(abi_holds(&d, 64 * CLUSTER, 512, 0x32), "the head before it, too");

	/* The protocol of `ploop balloon discard`. */
	is(device_ioctl(&d, PLOOP_IOC_DISCARD_INIT, NULL), 0, "DISCARD_INIT");
	is(device_maintenance(&d), PLOOP_MNTN_DISCARD, "the type is DISCARD");
	if (pthread_create(&thread, NULL, wait_discard, &d))
		die("pthread_create");
	is(device_ioctl(&d, PLOOP_IOC_DISCARD_FINI, NULL), 0, "DISCARD_FINI");
	pthread_join(thread, &result);
	is((intptr_t)result, 0, "DISCARD_WAIT ends with it");
	is(device_maintenance(&d), PLOOP_MNTN_OFF, "the type is OFF");
	is(device_stop(&d), 0, "STOP");
	ok(image_sound(path), "the image is sound");
	device_put(&d);

	/* A file beyond its limit: not one byte more, and no lie about it. */
	device_get(&d);
	device_add(&d, abi_image("limit.hdd", 2), PLOOP_FMT_PLOOP1, 0);
	is(device_ioctl(&d, PLOOP_IOC_MAX_DELTA_SIZE, &limit), 0, "MAX_DELTA_SIZE");
	is(device_start(&d), 0, "START");
	is(abi_fill(&d, 0, 3 * CLUSTER, 0x33), (int)(3 * CLUSTER), "writes up to the limit");
	ok(image_size(abi_path("limit.hdd")) <= 4 * (off_t)CLUSTER, "the file is within the limit");
	device_put(&d);
}

void abi_sysfs(void)
{
	static const char *const numbers[] = {
		"pstate/block_size", "pstate/fmt_version", "pstate/running", "pstate/locked", "pstate/aborted", "pstate/top",
		"pstate/open_count", "pdelta/0/level", "pdelta/0/ro", "pdelta/0/transparent", "pstat/bio_in", "pstat/bio_fsync",
		"pstat/bio_alloc", "pstat/bio_cows", "pstat/map_reads", "pstat/bio_flush_skip", "ptune/max_requests",
		"ptune/fsync_max", "ptune/fsync_delay", "ptune/check_zeros", "ptune/pass_flushes", "ptune/batch_entry_qlen",
	};
	struct device d;
	char want[64];

	device_get(&d);
	ok(strcmp(device_sysfs(&d, "pstate/top"), "4294967295") == 0, "sysfs: no deltas: top is -1");
	is(atoi(device_sysfs(&d, "pstate/block_size")), 1, "sysfs: no deltas: block_size 1");
	is(atoi(device_sysfs(&d, "pstate/fmt_version")), 0, "sysfs: no deltas: fmt_version 0");
	is(atoi(device_sysfs(&d, "pstate/locked")), 1, "sysfs: locked while ploop_minor is open");
	ok(strcmp(device_sysfs(&d, "pstate/cookie"), "") == 0, "sysfs: no cookie is an empty line");
	ok(strcmp(device_sysfs(&d, "pdelta/0/image"), "-ENOENT") == 0, "sysfs: no deltas: no pdelta/0");
	snprintf(want, sizeof(want), "182:%d", d.index * 16);
	ok(strcmp(device_sysfs(&d, "dev"), want) == 0, "sysfs: dev is %s", want);
	device_add(&d, abi_image("sys.hdd", 1), PLOOP_FMT_PLOOP1, PLOOP_CTLF_COOKIE);
	is(device_start(&d), 0, "sysfs: START");
	close(d.lock);
	d.lock = -1;
	is(atoi(device_sysfs(&d, "pstate/locked")), 0, "sysfs: unlocked");
	ok(strcmp(device_sysfs(&d, "pstate/cookie"), "cookie of a test") == 0, "sysfs: cookie");
	ok(strcmp(device_sysfs(&d, "pdelta/0/image"), abi_path("sys.hdd")) == 0, "sysfs: image");
	ok(strcmp(device_sysfs(&d, "pdelta/0/format"), "ploop1") == 0, "sysfs: format");
	is(atoi(device_sysfs(&d, "pstate/block_size")), 128, "sysfs: block_size");
	is(atoi(device_sysfs(&d, "pstate/fmt_version")), 1, "sysfs: fmt_version");
	is(atoi(device_sysfs(&d, "pstate/running")), 1, "sysfs: running");
	is(atoi(device_sysfs(&d, "pstate/top")), 0, "sysfs: top");
	is(atoi(device_sysfs(&d, "pstate/open_count")), 1, "sysfs: open_count");
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		const char *text = device_sysfs(&d, numbers[i]);
		char *end;

		strtoul(text, &end, 10);
		ok(*text && !*end, "sysfs: %s is a number (%s)", numbers[i], text);
	}
	is(access("/sys/module/ploop/parameters/large_disk_support", R_OK), 0, "sysfs: large_disk_support is readable");
	d.lock = open("/proc/vz/ploop_minor", O_RDONLY | O_CLOEXEC);
	device_put(&d);
}
