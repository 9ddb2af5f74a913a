// SPDX-License-Identifier: GPL-2.0
/* ADD_DELTA, START, STOP, CLEAR: what is refused, and what the header says after each step. */
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

static int add_raw(struct device *d, struct ploop_ctl ctl, struct ploop_ctl_chunk chunk)
{
	struct {
		struct ploop_ctl ctl;
		struct ploop_ctl_chunk chunk;
	} add = { ctl, chunk };

	return device_ioctl(d, PLOOP_IOC_ADD_DELTA, &add);
}

static void arguments(void)
{
	const char *path = abi_image("args.hdd", 2);
	struct ploop_ctl good = { .format = PLOOP_FMT_PLOOP1, .cluster_log = 7, .chunks = 1 };
	struct ploop_ctl_chunk chunk = { .fd = open(path, O_RDWR | O_CLOEXEC) };
	struct ploop_ctl_chunk reader = { .fd = open(path, O_RDONLY | O_CLOEXEC) };
	struct ploop_ctl_chunk bad;
	struct ploop_ctl ctl;
	struct device d;

	device_get(&d);
#define REFUSES(field, value, error, what) \
	(ctl = good, ctl.field = value, is(add_raw(&d, ctl, chunk), error, "ADD_DELTA: " what))
	REFUSES(chunks, 0, -EINVAL, "no chunk");
	REFUSES(chunks, 2, -EINVAL, "two chunks");
	REFUSES(format, 0, -EINVAL, "format 0");
	REFUSES(format, 7, -EINVAL, "unknown format");
	REFUSES(cluster_log, 8, -EINVAL, "cluster size differs from the header's");
	REFUSES(cluster_log, 31, -EINVAL, "cluster size out of range");
	REFUSES(flags, PLOOP_CTLF_RDONLY, -EINVAL, "read-only flag on a writable descriptor");
#undef REFUSES
	is(add_raw(&d, good, reader), -EINVAL, "ADD_DELTA: read-only descriptor without the flag");
	bad = chunk;
	bad.start = 512;
	is(add_raw(&d, good, bad), -EINVAL, "ADD_DELTA: chunk start");
	bad = chunk;
	bad.len = 512;
	is(add_raw(&d, good, bad), -EINVAL, "ADD_DELTA: chunk length");
	bad = chunk;
	bad.offset = 512;
	is(add_raw(&d, good, bad), -EINVAL, "ADD_DELTA: chunk offset");
	bad = chunk;
	bad.fd = 999;
	is(add_raw(&d, good, bad), -EBADF, "ADD_DELTA: not a descriptor");
	bad.fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ctl = good;
	ctl.flags = PLOOP_CTLF_RDONLY;
	ok(add_raw(&d, ctl, bad) < 0, "ADD_DELTA: a folder is refused");
	close(bad.fd);
	bad.fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	ok(add_raw(&d, ctl, bad) < 0, "ADD_DELTA: a character device is refused");
	close(bad.fd);
	is(device_ioctl(&d, PLOOP_IOC_ADD_DELTA, (void *)8), -EFAULT, "ADD_DELTA: bad pointer");
	is(device_clear(&d), 0, "CLEAR: without deltas");
	is(image_read32(path, IMAGE_IN_USE), 0, "ADD_DELTA: a refused image is not marked");
	is(add_raw(&d, good, chunk), 0, "ADD_DELTA: plain");
	close(chunk.fd);
	close(reader.fd);
	device_put(&d);
}

static void life(int version)
{
	const char *path = abi_image("life.hdd", version);
	struct device d, other;
	static const char zeros[512];
	char node[64];
	int extra, probe;

	device_get(&d);
	is(device_bytes(&d), 0, "v%d: no deltas: size 0", version);
	is(device_add(&d, path, PLOOP_FMT_PLOOP1, PLOOP_CTLF_COOKIE), 0, "v%d: ADD_DELTA", version);
	is(image_read32(path, IMAGE_IN_USE), IN_USE, "v%d: ADD_DELTA marks the image in use", version);
	is(device_bytes(&d), 0, "v%d: stopped: size 0", version);
	is(device_stop(&d), -EINVAL, "v%d: STOP of a stopped device", version);
	is(device_start(&d), 0, "v%d: START", version);
	is(device_start(&d), -EBUSY, "v%d: START again", version);
	is(device_bytes(&d), DISK, "v%d: running: full size", version);
	is(device_clear(&d), -EBUSY, "v%d: CLEAR of a running device", version);
	is(device_add(&d, abi_image("life2.hdd", version), PLOOP_FMT_PLOOP1, 0), -EBUSY, "v%d: ADD_DELTA while running",
	   version);
	is(device_pread(&d, aligned(4096), 4096, DISK), 0, "v%d: read at the end", version);
	snprintf(node, sizeof(node), "/dev/ploop%d", d.index);
	extra = open(node, O_RDONLY | O_CLOEXEC);
	is(device_stop(&d), -EBUSY, "v%d: STOP with a second opener", version);
	close(extra);
	is(abi_fill(&d, CLUSTER, 4096, 0xaa), 4096, "v%d: write", version);
	device_nodata(&d);
	extra = open(node, O_RDONLY | O_EXCL | O_CLOEXEC);
	is(device_stop(&d), -EBUSY, "v%d: STOP with an exclusive holder", version);
	close(extra);
	device_get(&other);
	ok(other.index != d.index, "v%d: a busy device is not given out", version);
	device_put(&other);
	is(device_stop(&d), 0, "v%d: STOP", version);
	is(image_read32(path, IMAGE_IN_USE), 0, "v%d: STOP clears the mark", version);
	is(image_read32(path, IMAGE_FLAGS) & 1, 0, "v%d: STOP clears the empty flag once there is data", version);
	ok(image_sound(path), "v%d: the image is sound", version);
	is(device_bytes(&d), 0, "v%d: STOP: size 0", version);
	probe = ioctl(d.fd, PLOOP_IOC_STOP);
	is(probe < 0 ? -errno : 0, -EINVAL, "v%d: STOP twice", version);
	is(device_start(&d), 0, "v%d: START again", version);
	ok(abi_holds(&d, CLUSTER, 4096, 0xaa), "v%d: the data is there", version);
	device_nodata(&d);
	is(device_stop(&d), 0, "v%d: STOP again", version);
	is(device_clear(&d), 0, "v%d: CLEAR", version);
	is(device_clear(&d), 0, "v%d: CLEAR twice", version);
	is(device_start(&d), -ENOENT, "v%d: START without deltas", version);
	is(image_read32(path, IMAGE_IN_USE), 0, "v%d: clean after all", version);

	is(device_add(&d, path, PLOOP_FMT_PLOOP1, PLOOP_CTLF_RDONLY), 0, "v%d: ADD_DELTA read-only", version);
	is(image_read32(path, IMAGE_IN_USE), 0, "v%d: read-only leaves the header alone", version);
	is(device_start(&d), 0, "v%d: START read-only", version);
	probe = 0;
	ioctl(d.fd, BLKROGET, &probe);
	is(probe, 1, "v%d: the disk is read-only", version);
	extra = open(node, O_RDWR | O_CLOEXEC);
	ok(extra >= 0, "v%d: a read-only disk opens for writing", version);
	ok(write(extra, zeros, sizeof(zeros)) < 0, "v%d: a write to it fails", version);
	close(extra);
	ok(abi_holds(&d, CLUSTER, 4096, 0xaa), "v%d: it reads", version);
	device_nodata(&d);
	device_put(&d);
}

/* One field of a good image changed: refused, unharmed, and the device is as free as before. */
static void broken(const char *what, int version, off_t offset, uint32_t value, int error)
{
	const char *path = abi_image("broken.hdd", version);
	struct device d;

	image_write32(path, offset, value);
	device_get(&d);
	is(device_add(&d, path, PLOOP_FMT_PLOOP1, 0), error, "v%d image: %s", version, what);
	is(image_read32(path, offset), value, "v%d image: %s: untouched", version, what);
	is(device_start(&d), -ENOENT, "v%d image: %s: nothing attached", version, what);
	device_put(&d);
}

void abi_images(void)
{
	struct device d;
	const char *path;

	for (int version = 1; version <= 2; version++) {
		broken("magic", version, IMAGE_MAGIC, 0x41414141, -EINVAL);
		broken("type", version, IMAGE_TYPE, 3, -EINVAL);
		broken("cluster size", version, IMAGE_CLUSTER, 256, -EINVAL);
		broken("cluster size 0", version, IMAGE_CLUSTER, 0, -EINVAL);
		broken("in use", version, IMAGE_IN_USE, IN_USE, -EBUSY);
		broken("device size not of whole clusters", version, IMAGE_SECTORS, DISK / 512 - 1, -EINVAL);
	}
	device_get(&d);
	path = abi_image("short.hdd", 2);
	image_truncate(path, CLUSTER + 512);
	is(device_add(&d, path, PLOOP_FMT_PLOOP1, 0), -EINVAL, "file size not of whole clusters");
	image_truncate(path, 512);
	ok(device_add(&d, path, PLOOP_FMT_PLOOP1, 0) < 0, "file shorter than a page");
	image_truncate(path, 0);
	ok(device_add(&d, path, PLOOP_FMT_PLOOP1, 0) < 0, "empty file");
	path = abi_image("ext.hdd", 2);
	image_write32(path, IMAGE_IN_USE, 0x312e3276);
	is(device_add(&d, path, PLOOP_FMT_PLOOP1, 0), 0, "closed by software that knows the extension: not in use");
	is(device_clear(&d), 0, "CLEAR");
	device_put(&d);
}

void abi_sharing(void)
{
	struct device a, b;
	const char *path = abi_image("shared.hdd", 2);

	device_get(&a);
	is(device_add(&a, path, PLOOP_FMT_PLOOP1, 0), 0, "sharing: a writer");
	is(device_start(&a), 0, "sharing: START");
	device_get(&b);
	is(device_add(&b, path, PLOOP_FMT_PLOOP1, 0), -EBUSY, "sharing: a second writer");
	is(device_add(&b, path, PLOOP_FMT_PLOOP1, PLOOP_CTLF_RDONLY), -ETXTBSY, "sharing: a reader beside a writer");
	device_put(&a);
	is(device_add(&b, path, PLOOP_FMT_PLOOP1, PLOOP_CTLF_RDONLY), 0, "sharing: a reader");
	device_get(&a);
	is(device_add(&a, path, PLOOP_FMT_PLOOP1, PLOOP_CTLF_RDONLY), 0, "sharing: two readers");
	is(device_start(&a), 0, "sharing: the second starts");
	is(device_start(&b), 0, "sharing: the first starts");
	ok(abi_holds(&a, 0, 4096, 0) && abi_holds(&b, 0, 4096, 0), "sharing: both read");
	device_put(&a);
	device_get(&a);
	is(device_add(&a, path, PLOOP_FMT_PLOOP1, 0), -EBUSY, "sharing: a writer beside a reader");
	device_put(&a);
	device_put(&b);
}

static void chains(void)
{
	struct device d;
	struct image small = { .version = 2, .cluster = CLUSTER, .bytes = DISK / 2 };
	struct image wide = { .version = 2, .cluster = 2 * CLUSTER, .bytes = DISK };
	const char *base = abi_image("c0.hdd", 2), *top = abi_image("c1.hdd", 2), *path;

	device_get(&d);
	is(device_add(&d, base, PLOOP_FMT_PLOOP1, 0), 0, "chain: writable base");
	is(device_add(&d, top, PLOOP_FMT_PLOOP1, 0), -EINVAL, "chain: nothing stands on a writable delta");
	is(device_clear(&d), 0, "chain: CLEAR");
	is(device_add(&d, base, PLOOP_FMT_PLOOP1, PLOOP_CTLF_RDONLY), 0, "chain: read-only base");
	is(device_add(&d, abi_image("c2.hdd", 1), PLOOP_FMT_PLOOP1, 0), -EINVAL, "chain: versions don't mix");
	is(device_add(&d, abi_image("c3.raw", 0), PLOOP_FMT_RAW, 0), -EINVAL, "chain: raw only at level 0");
	path = abi_path("c4.hdd");
	image_create(path, &small);
	is(device_add(&d, path, PLOOP_FMT_PLOOP1, 0), -EINVAL, "chain: smaller than what is below");
	path = abi_path("c5.hdd");
	image_create(path, &wide);
	d.cluster_log = 8;
	is(device_add(&d, path, PLOOP_FMT_PLOOP1, 0), -EINVAL, "chain: another cluster size");
	d.cluster_log = 7;
	is(device_add(&d, top, PLOOP_FMT_PLOOP1, 0), 0, "chain: a top");
	is(atoi(device_sysfs(&d, "pstate/top")), 1, "chain: two levels");
	is(device_delete(&d, 5), -ENOENT, "DEL_DELTA: no such level");
	is(device_delete(&d, 1), 0, "DEL_DELTA: the top of a stopped device");
	is(image_read32(top, IMAGE_IN_USE), 0, "DEL_DELTA: closes it");
	is(device_delete(&d, 0), 0, "DEL_DELTA: the last");
	is(device_delete(&d, 0), -ENOENT, "DEL_DELTA: none left");
	is(device_add(&d, abi_image("c6.hdd", 1), PLOOP_FMT_PLOOP1, 0), 0, "chain: another version after all are gone");
	device_put(&d);
}

static void depth(void)
{
	struct device d;
	int level;

	device_get(&d);
	for (level = 0; level < 128; level++) {
		char name[32];

		snprintf(name, sizeof(name), "deep%d.hdd", level);
		if (device_add(&d, abi_image(name, 2), PLOOP_FMT_PLOOP1, level < 127 ? PLOOP_CTLF_RDONLY : 0))
			break;
	}
	is(level, 128, "128 deltas attach");
	is(device_add(&d, abi_image("deep128.hdd", 2), PLOOP_FMT_PLOOP1, 0), -EINVAL, "a 129th is refused");
	is(device_start(&d), 0, "128 deltas start");
	ok(abi_fill(&d, 3 * CLUSTER + 512, 4096, 0x11) == 4096 && abi_holds(&d, 3 * CLUSTER + 512, 4096, 0x11) &&
	   abi_holds(&d, 3 * CLUSTER, 512, 0) && abi_holds(&d, 8 * CLUSTER, CLUSTER, 0), "128 deltas read and write");
	is(device_snapshot(&d, abi_image("deep129.hdd", 2), 0), -EINVAL, "a snapshot of 128 deltas is refused");
	ok(abi_holds(&d, 3 * CLUSTER + 512, 4096, 0x11), "it left them as they were");
	is(device_stop(&d), 0, "128 deltas stop");
	device_put(&d);
	for (level = 0; level < 130; level++) {
		char name[32];

		snprintf(name, sizeof(name), "deep%d.hdd", level);
		unlink(abi_path(name));
	}
}

void abi_attach(void)
{
	arguments();
	life(1);
	life(2);
	chains();
	depth();
}
