// SPDX-License-Identifier: GPL-2.0
/* Reads and writes of one delta, and of several: what is in the file afterwards, and snapshot, merge, deletion, replacement. */
#include "abi.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "tap.h"

static uint32_t entry(const char *path, unsigned int cluster)
{
	return image_read32(path, IMAGE_BAT + 4 * cluster);
}

/* Where the data of a virtual cluster is in the file. */
static off_t place(const char *path, unsigned int cluster, int version)
{
	return (off_t)entry(path, cluster) * (version == 1 ? 512 : CLUSTER);
}

static void one_delta(int version)
{
	const char *path = abi_path("data.hdd");
	uint8_t byte[8];
	struct device d;
	off_t before;

	abi_running(&d, "data.hdd", version);
	ok(abi_holds(&d, 0, CLUSTER, 0) && abi_holds(&d, DISK - 4096, 4096, 0), "v%d: a hole reads as zeros", version);
	is(image_size(path), CLUSTER, "v%d: reading allocates nothing", version);
	is(abi_fill(&d, 5 * CLUSTER + 1024, 512, 0x5a), 512, "v%d: write a sector", version);
	ok(abi_holds(&d, 5 * CLUSTER + 1024, 512, 0x5a), "v%d: it reads back", version);
	ok(abi_holds(&d, 5 * CLUSTER, 1024, 0) && abi_holds(&d, 5 * CLUSTER + 1536, CLUSTER - 1536, 0),
	   "v%d: the rest of its cluster is zeros", version);
	is(fsync(d.rw), 0, "v%d: flush", version);
	ok(entry(path, 5) != 0, "v%d: after the flush the entry is in the file", version);
	is(entry(path, 4), 0, "v%d: its neighbour's is not", version);
	is(image_read32(path, IMAGE_MAGIC), version == 1 ? 0x68746957 : 0x68746957, "v%d: the header stays", version);
	before = image_size(path);
	is(abi_fill(&d, 5 * CLUSTER + 8192, 4096, 0x5b), 4096, "v%d: write again", version);
	is(image_size(path), before, "v%d: overwriting allocates nothing", version);
	is(abi_fill(&d, 7 * CLUSTER - 4096, 8192, 0x77), 8192, "v%d: write across a border", version);
	ok(abi_holds(&d, 7 * CLUSTER - 4096, 8192, 0x77), "v%d: it reads back", version);
	is(abi_fill(&d, DISK - 4096, 4096, 0x99), 4096, "v%d: write the last page", version);
	is(abi_fill(&d, DISK, 4096, 0x99), -ENOSPC, "v%d: write behind the end", version);
	is(device_stop(&d), 0, "v%d: STOP", version);
	ok(image_sound(path), "v%d: the image is sound", version);
	image_pread(path, byte, 1, place(path, 5, version) + 1024);
	is(byte[0], 0x5a, "v%d: the bytes are where the entry says", version);
	is((image_size(path) - CLUSTER) / CLUSTER, 4, "v%d: four clusters were allocated", version);
	device_put(&d);
}

static void raw(void)
{
	const char *path = abi_path("data.raw");
	uint8_t byte;
	struct device d;

	abi_running(&d, "data.raw", 0);
	is(device_bytes(&d), DISK, "raw: size of the file");
	is(abi_fill(&d, 3 * CLUSTER + 512, 512, 0x42), 512, "raw: write");
	ok(abi_holds(&d, 3 * CLUSTER + 512, 512, 0x42), "raw: read");
	is(device_snapshot(&d, abi_image("raw-top.hdd", 2), 0), 0, "raw: an expandable delta goes on top");
	is(abi_fill(&d, 1024, 512, 0x43), 512, "raw: write to cluster 0 above it");
	ok(abi_holds(&d, 0, 1024, 0) && abi_holds(&d, 1024, 512, 0x43) && abi_holds(&d, 3 * CLUSTER + 512, 512, 0x42),
	   "raw: cluster 0 is copied up like any other");
	is(device_stop(&d), 0, "raw: STOP");
	image_pread(path, &byte, 1, 1024);
	is(byte, 0, "raw: the base is not written");
	is(device_start(&d), 0, "raw: START");
	is(device_ioctl(&d, PLOOP_IOC_MERGE, NULL), 0, "raw: MERGE");
	ok(abi_holds(&d, 1024, 512, 0x43) && abi_holds(&d, 3 * CLUSTER + 512, 512, 0x42), "raw: the data after it");
	device_nodata(&d);
	is(device_stop(&d), 0, "raw: STOP");
	image_pread(path, &byte, 1, 1024);
	is(byte, 0x43, "raw: merged into its place");
	is(image_size(path), DISK, "raw: the file did not grow");
	device_put(&d);
}

void abi_data(void)
{
	one_delta(1);
	one_delta(2);
	raw();
}

static void snapshots(int version)
{
	const char *base = abi_path("s0.hdd");
	struct device d;

	abi_running(&d, "s0.hdd", version);
	abi_fill(&d, 0, 2 * CLUSTER, 0x10);
	is(device_snapshot(&d, abi_image("s1.hdd", version), PLOOP_CTLF_FS_SYNC), 0, "v%d: SNAPSHOT", version);
	is(atoi(device_sysfs(&d, "pstate/top")), 1, "v%d: a level more", version);
	is(image_read32(base, IMAGE_IN_USE), 0, "v%d: the old top is closed", version);
	is(image_read32(abi_path("s1.hdd"), IMAGE_IN_USE), IN_USE, "v%d: the new one is in use", version);
	ok(image_sound(base), "v%d: the old top is sound", version);
	ok(abi_holds(&d, 0, 2 * CLUSTER, 0x10), "v%d: data shows through", version);
	is(abi_fill(&d, CLUSTER + 4096, 4096, 0x11), 4096, "v%d: write above", version);
	ok(abi_holds(&d, CLUSTER, 4096, 0x10) && abi_holds(&d, CLUSTER + 4096, 4096, 0x11) &&
	   abi_holds(&d, CLUSTER + 8192, CLUSTER - 8192, 0x10), "v%d: copied from below around the write", version);
	is(abi_fill(&d, 0, CLUSTER, 0), (int)CLUSTER, "v%d: write a cluster of zeros above", version);
	ok(abi_holds(&d, 0, CLUSTER, 0), "v%d: zeros hide what is below", version);
	is(device_snapshot(&d, abi_image("s2.hdd", version), PLOOP_CTLF_FS_SYNC), 0, "v%d: SNAPSHOT again", version);
	is(device_snapshot(&d, abi_image("s3.hdd", 3 - version), PLOOP_CTLF_FS_SYNC), -EINVAL,
	   "v%d: SNAPSHOT with the other version", version);
	is(image_read32(abi_path("s3.hdd"), IMAGE_IN_USE), 0, "v%d: the refused one is clean", version);
	is(device_snapshot(&d, base, PLOOP_CTLF_FS_SYNC), -EBUSY, "v%d: SNAPSHOT with a file that is in the chain", version);
	is(abi_fill(&d, 6 * CLUSTER, 4096, 0x12), 4096, "v%d: write above", version);
	device_nodata(&d);
	is(device_delete(&d, 0), -EBUSY, "v%d: DEL_DELTA of the base while running", version);
	is(device_ioctl(&d, PLOOP_IOC_MERGE, NULL), 0, "v%d: MERGE of the top", version);
	is(atoi(device_sysfs(&d, "pstate/top")), 1, "v%d: a level less", version);
	is(image_read32(abi_path("s1.hdd"), IMAGE_IN_USE), IN_USE, "v%d: the lower one is the writable top", version);
	ok(abi_holds(&d, 6 * CLUSTER, 4096, 0x12) && abi_holds(&d, CLUSTER + 4096, 4096, 0x11) && abi_holds(&d, 0, CLUSTER, 0),
	   "v%d: all data after it", version);
	is(abi_fill(&d, 6 * CLUSTER + 4096, 4096, 0x13), 4096, "v%d: write after it", version);
	is(device_ioctl(&d, PLOOP_IOC_MERGE, NULL), 0, "v%d: MERGE into the base", version);
	is(device_ioctl(&d, PLOOP_IOC_MERGE, NULL), -ENOENT, "v%d: MERGE of a single delta", version);
	ok(abi_holds(&d, 6 * CLUSTER, 4096, 0x12) && abi_holds(&d, 6 * CLUSTER + 4096, 4096, 0x13) &&
	   abi_holds(&d, CLUSTER + 4096, 4096, 0x11) && abi_holds(&d, 0, CLUSTER, 0), "v%d: all data in the base", version);
	is(device_stop(&d), 0, "v%d: STOP", version);
	ok(image_sound(base), "v%d: the base is sound", version);
	device_put(&d);
	device_get(&d);
	is(device_add(&d, base, PLOOP_FMT_PLOOP1, PLOOP_CTLF_RDONLY), 0, "v%d: the base alone", version);
	is(device_start(&d), 0, "v%d: START", version);
	ok(abi_holds(&d, 6 * CLUSTER, 4096, 0x12) && abi_holds(&d, CLUSTER + 4096, 4096, 0x11) && abi_holds(&d, 0, CLUSTER, 0),
	   "v%d: has everything", version);
	device_put(&d);
}

/* What libploop does to a lower delta: it merges files in user space, then deletes the level. */
static void lower_changes(void)
{
	const char *paths[3] = { abi_path("l0.hdd"), abi_path("l1.hdd"), abi_path("l2.hdd") };
	uint8_t *data = aligned(CLUSTER);
	bool same = true;
	struct device d;
	off_t end;

	abi_running(&d, "l0.hdd", 2);
	abi_fill(&d, 0, CLUSTER, 0x20);
	device_snapshot(&d, abi_image("l1.hdd", 2), 0);
	abi_fill(&d, 0, CLUSTER, 0x21);
	abi_fill(&d, 2 * CLUSTER, CLUSTER, 0x22);
	device_snapshot(&d, abi_image("l2.hdd", 2), 0);
	is(abi_fill(&d, 4 * CLUSTER, CLUSTER, 0x24), (int)CLUSTER, "lower: three levels");

	/* Level 1 into level 0: cluster 0 over the old one, cluster 2 appended. */
	memset(data, 0x21, CLUSTER);
	image_pwrite(paths[0], data, CLUSTER, (off_t)entry(paths[0], 0) * CLUSTER);
	end = image_size(paths[0]);
	memset(data, 0x22, CLUSTER);
	image_pwrite(paths[0], data, CLUSTER, end);
	image_write32(paths[0], IMAGE_BAT + 4 * 2, end / CLUSTER);
	device_nodata(&d);
	is(device_delete(&d, 1), 0, "DEL_DELTA of a middle level while running");
	is(atoi(device_sysfs(&d, "pstate/top")), 1, "levels are renumbered");
	ok(strcmp(device_sysfs(&d, "pdelta/1/image"), paths[2]) == 0, "sysfs shows the top as level 1");
	ok(abi_holds(&d, 0, CLUSTER, 0x21) && abi_holds(&d, 2 * CLUSTER, CLUSTER, 0x22) && abi_holds(&d, 4 * CLUSTER, CLUSTER, 0x24),
	   "the changed lower delta is read anew");

	/* A cluster of the base is moved; the driver is told with a wrong cluster number, as libploop does. */
	end = image_size(paths[0]);
	image_pwrite(paths[0], data, CLUSTER, end);
	image_write32(paths[0], IMAGE_BAT + 4 * 2, end / CLUSTER);
	struct {
		struct ploop_index_update_ctl head;
		uint32_t map[2];
	} update = { { .n_maps = 1, .level = 0 }, { 2, (uint32_t)(end / CLUSTER) } };
	is(device_ioctl(&d, PLOOP_IOC_UPDATE_INDEX, &update), 0, "UPDATE_INDEX");
	memset(data, 0xee, CLUSTER);
	image_pwrite(paths[0], data, CLUSTER, end - CLUSTER);
	ok(abi_holds(&d, 2 * CLUSTER, CLUSTER, 0x22), "the cluster is read from its new place");
	/* The thread of a read that is over must not hold what the driver forgets now. */
	for (int i = 0; i < 500 && same; i++) {
		image_write32(paths[0], IMAGE_BAT + 4 * 2, end / CLUSTER - (i + 1) % 2);
		same = device_ioctl(&d, PLOOP_IOC_UPDATE_INDEX, &update) == 0 &&
		       abi_holds(&d, 2 * CLUSTER, 4096, i % 2 ? 0x22 : 0xee);
	}
	ok(same, "the cluster is read from its place, 500 times moved");

	/* An identical file in place of the base. */
	char command[1024];

	snprintf(command, sizeof(command), "cp %s %s", paths[0], abi_path("l0copy.hdd"));
	if (system(command))
		die("cp");
	is(device_replace(&d, abi_path("l0copy.hdd"), 0, 0), -EINVAL, "REPLACE_DELTA: a writable for a read-only one");
	is(device_replace(&d, abi_path("l0copy.hdd"), 7, PLOOP_CTLF_RDONLY), -ENOENT, "REPLACE_DELTA: no such level");
	is(device_replace(&d, abi_path("l0copy.hdd"), 0, PLOOP_CTLF_RDONLY), 0, "REPLACE_DELTA");
	ok(strcmp(device_sysfs(&d, "pdelta/0/image"), abi_path("l0copy.hdd")) == 0, "sysfs shows the new file");
	ok(abi_holds(&d, 2 * CLUSTER, CLUSTER, 0x22) && abi_holds(&d, 0, CLUSTER, 0x21), "data is read from it");
	device_nodata(&d);
	is(device_stop(&d), 0, "lower: STOP");
	device_put(&d);
	free(data);
}

void abi_levels(void)
{
	snapshots(1);
	snapshots(2);
	lower_changes();
}
