// SPDX-License-Identifier: GPL-2.0
/* guest-tests control FOLDER [PART...]: versions, attaching, status, bitmaps. See control_*.c for the rest. */
#include "control.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tap.h"

int control_open(void)
{
	int fd = open("/dev/ploop-control", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		die("/dev/ploop-control");
	return fd;
}

int control_call(int fd, unsigned long request, void *argument)
{
	int result = ioctl(fd, request, argument);

	return result < 0 ? -errno : result;
}

static int attach(int fd, const char *const *paths, unsigned int count, struct ploop_attach *a, bool read_only)
{
	struct ploop_attach_delta deltas[PLOOP_LEVELS_MAX + 1] = { 0 };
	int result;

	for (unsigned int i = 0; i < count; i++) {
		int mode = i == count - 1 && !read_only ? O_RDWR : O_RDONLY;

		deltas[i].fd = open(paths[i], mode | O_CLOEXEC);
		deltas[i].format = strstr(paths[i], ".raw") ? PLOOP_FMT_RAW : PLOOP_FMT_PLOOP1;
		/* A raw file does not say what its clusters are. */
		if (i == 0 && deltas[i].format == PLOOP_FMT_RAW && !a->cluster_log)
			a->cluster_log = 11;
	}
	a->nr_deltas = count;
	a->deltas = (uintptr_t)deltas;
	result = control_call(fd, PLOOP_CTL_ATTACH, a);
	for (unsigned int i = 0; i < count; i++)
		close(deltas[i].fd);
	return result;
}

int control_attach(int fd, const char *const *paths, unsigned int count, uint32_t flags)
{
	struct ploop_attach a = { .size = sizeof(a), .flags = flags, .index = PLOOP_INDEX_ANY, .cookie = "control" };
	int result = attach(fd, paths, count, &a, flags & PLOOP_ATTACH_RDONLY);

	return result < 0 ? result : (int)a.index;
}

int control_detach(int fd, int index)
{
	struct ploop_ref d = { .size = sizeof(d), .index = index };

	return control_call(fd, PLOOP_CTL_DETACH, &d);
}

void control_device(struct device *d, int index)
{
	char path[64];

	memset(d, 0, sizeof(*d));
	d->index = index;
	d->cluster_log = 7;
	d->rw = d->lock = -1;
	snprintf(path, sizeof(path), "/dev/ploop%d", index);
	d->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (d->fd < 0)
		die("open %s", path);
}

static int write_aborted(int index, const char *value)
{
	char path[64];
	int fd, result;

	snprintf(path, sizeof(path), "/sys/block/ploop%d/pstate/aborted", index);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		die("%s", path);
	result = write(fd, value, 1) == 1 ? 0 : -errno;
	close(fd);
	return result;
}

void control_abort(int index)
{
	if (write_aborted(index, "1"))
		die("pstate/aborted");
}

int control_unabort(int index)
{
	return write_aborted(index, "0");
}

void control_close(struct device *d)
{
	device_nodata(d);
	close(d->fd);
}

/* What holds for every structure. */
static void rules(int fd, int index)
{
	struct ploop_version v = { .size = sizeof(v) };
	struct ploop_status s = { .size = sizeof(s), .index = 0x7ffffff };
	struct {
		struct ploop_version v;
		uint64_t later[2];
	} longer = { .v = { .size = sizeof(longer) } };

	is(control_call(fd, PLOOP_CTL_VERSION, &v), 0, "VERSION");
	is(v.version, PLOOP_CONTROL_VERSION, "VERSION: as in the header");
	is(control_call(fd, PLOOP_CTL_VERSION, &longer), 0, "a longer structure with a zero tail is taken");
	longer.later[1] = 1;
	is(control_call(fd, PLOOP_CTL_VERSION, &longer), -E2BIG, "one with something unknown in it is not");
	v.size = 4;
	ok(control_call(fd, PLOOP_CTL_VERSION, &v) <= 0, "a shorter structure");
	v.size = 0;
	is(control_call(fd, PLOOP_CTL_VERSION, &v), -EINVAL, "size 0");
	is(control_call(fd, PLOOP_CTL_VERSION, (void *)8), -EFAULT, "bad pointer");
	is(control_call(fd, PLOOP_CTL_STATUS, &s), -ENODEV, "no such device");
	s = (struct ploop_status){ .size = sizeof(s), .index = index };
	s.reserved[7] = 1;
	is(control_call(fd, PLOOP_CTL_STATUS, &s), -EINVAL, "a reserved field that is not zero");
	is(control_call(fd, PLOOP_CTL_DETACH, &(struct ploop_ref){ .size = 16, .index = index, .flags = 0x80 }), -EINVAL,
	   "an unknown flag");
	is(control_call(fd, _IO(PLOOP_CTL, 0xff), NULL), -ENOTTY, "an unknown call");
	if (setegid(65534) || seteuid(65534))
		die("seteuid");
	v.size = sizeof(v);
	is(control_call(fd, PLOOP_CTL_VERSION, &v), -EPERM, "no call without CAP_SYS_ADMIN");
	if (seteuid(0) || setegid(0))
		die("seteuid 0");
}

void control_attaching(int fd)
{
	const char *paths[3] = { abi_image("k0.hdd", 2), abi_image("k1.hdd", 2), abi_image("k2.hdd", 2) };
	struct ploop_attach a = { .size = sizeof(a), .index = PLOOP_INDEX_ANY };
	struct ploop_status s = { .size = sizeof(s) }, before;
	struct ploop_attach_delta none[1] = { { .fd = -1, .format = PLOOP_FMT_PLOOP1 } };
	struct device d;
	int index, second;

	index = control_attach(fd, paths, 3, 0);
	if (!ok(index >= 0, "ATTACH: three levels (%d)", index))
		return;
	rules(fd, index);
	control_device(&d, index);
	/* The counters are those of the device since the driver was loaded. */
	before = (struct ploop_status){ .size = sizeof(before), .index = index };
	is(control_call(fd, PLOOP_CTL_STATUS, &before), 0, "STATUS: of an idle device");
	is(device_bytes(&d), DISK, "ATTACH: the device has its size at once");
	is(image_read32(paths[2], IMAGE_IN_USE), IN_USE, "ATTACH: the top is in use");
	is(image_read32(paths[1], IMAGE_IN_USE), 0, "ATTACH: the others are not");
	is(abi_fill(&d, 0, CLUSTER, 7), (int)CLUSTER, "ATTACH: writes");
	abi_holds(&d, 0, CLUSTER, 7);
	fsync(d.rw);
	s.index = index;
	is(control_call(fd, PLOOP_CTL_STATUS, &s), 0, "STATUS");
	is(s.state, PLOOP_STATE_RUNNING, "STATUS: running");
	is(s.nr_levels, 3, "STATUS: levels");
	is(s.cluster_log, 7, "STATUS: cluster size");
	is(s.format_version, 2, "STATUS: format version");
	is(s.device_bytes, DISK, "STATUS: size");
	is(s.file_bytes, 2 * CLUSTER, "STATUS: used part of the top's file");
	is(s.maintenance, PLOOP_MNTN_OFF, "STATUS: no maintenance");
	ok(s.writes > before.writes && s.written_bytes - before.written_bytes == CLUSTER && s.reads > before.reads &&
	   s.read_bytes - before.read_bytes >= CLUSTER, "STATUS: counts transfers");
	ok(s.flushes >= 1 && s.host_syncs >= 1, "STATUS: counts flushes (%llu, to the host %llu)",
	   (unsigned long long)s.flushes, (unsigned long long)s.host_syncs);
	is(s.allocations - before.allocations, 1, "STATUS: counts allocations");
	ok(strcmp(s.cookie, "control") == 0, "STATUS: cookie");
	is(control_detach(fd, index), -EBUSY, "DETACH: an open device");
	is(control_attach(fd, paths, 3, 0), -EBUSY, "ATTACH: images in use");
	control_close(&d);
	is(control_detach(fd, index), 0, "DETACH");
	ok(image_sound(paths[2]), "DETACH: the top is closed");

	is(control_call(fd, PLOOP_CTL_ATTACH, &a), -EINVAL, "ATTACH: no deltas");
	a.nr_deltas = PLOOP_LEVELS_MAX + 1;
	is(control_call(fd, PLOOP_CTL_ATTACH, &a), -EINVAL, "ATTACH: too many");
	a.nr_deltas = 1;
	a.deltas = 8;
	is(control_call(fd, PLOOP_CTL_ATTACH, &a), -EFAULT, "ATTACH: bad array");
	a.deltas = (uintptr_t)none;
	is(control_call(fd, PLOOP_CTL_ATTACH, &a), -EBADF, "ATTACH: bad descriptor");
	a = (struct ploop_attach){ .size = sizeof(a), .index = PLOOP_INDEX_ANY };
	memset(a.cookie, 'x', sizeof(a.cookie));
	is(attach(fd, paths, 3, &a, false), -EINVAL, "ATTACH: a cookie without an end");
	a = (struct ploop_attach){ .size = sizeof(a), .index = PLOOP_INDEX_ANY, .cluster_log = 9 };
	is(attach(fd, paths, 3, &a, false), -EINVAL, "ATTACH: another cluster size");
	image_write32(paths[1], IMAGE_TYPE, 9);
	a = (struct ploop_attach){ .size = sizeof(a), .index = PLOOP_INDEX_ANY };
	ok(attach(fd, paths, 3, &a, false) < 0, "ATTACH: a broken level");
	image_write32(paths[1], IMAGE_TYPE, 2);
	is(image_read32(paths[2], IMAGE_IN_USE), 0, "ATTACH: all or nothing: the top is as it was");
	a = (struct ploop_attach){ .size = sizeof(a), .index = 777 };
	is(attach(fd, paths, 3, &a, false), 0, "ATTACH: a wanted index");
	is(a.index, 777, "ATTACH: it is that");
	a = (struct ploop_attach){ .size = sizeof(a), .index = 777 };
	is(attach(fd, paths, 3, &a, true), -EBUSY, "ATTACH: it is taken");
	is(control_detach(fd, 777), 0, "DETACH");
	index = control_attach(fd, paths, 3, PLOOP_ATTACH_RDONLY);
	second = control_attach(fd, paths, 3, PLOOP_ATTACH_RDONLY);
	ok(index >= 0 && second >= 0 && index != second, "ATTACH: read-only, twice");
	control_device(&d, second);
	ok(abi_holds(&d, 0, CLUSTER, 7), "ATTACH: reads");
	control_close(&d);
	is(control_detach(fd, index), 0, "DETACH one");
	is(control_detach(fd, second), 0, "DETACH the other");
}

static int bitmap(int fd, int index, unsigned long request, const char *name, uint32_t granule)
{
	struct ploop_bitmap b = { .size = sizeof(b), .index = index, .granule_log = granule };

	strncpy(b.name, name, sizeof(b.name) - 1);
	return control_call(fd, request, &b);
}

/* Number of ranges, or -errno. */
static int marked(int fd, int index, const char *name, uint32_t flags, struct ploop_range *ranges, uint32_t room)
{
	struct ploop_bitmap_read r = {
		.size = sizeof(r), .index = index, .flags = flags, .nr_ranges = room, .bytes = DISK, .ranges = (uintptr_t)ranges,
	};
	int result;

	strncpy(r.name, name, sizeof(r.name) - 1);
	result = control_call(fd, PLOOP_CTL_BITMAP_READ, &r);
	return result < 0 ? result : (int)r.nr_ranges;
}

struct load {
	struct device *d;
	atomic_bool over;
	unsigned int number;
};

static void *write_randomly(void *argument)
{
	struct load *l = argument;
	struct random r = { l->number + 99 };
	uint8_t *data = aligned(16384);

	while (!l->over) {
		uint64_t at = random_below(&r, (DISK - 16384) / 4096) * 4096;

		memset(data, random_next(&r), 16384);
		if (pwrite(l->d->rw, data, 4096 << random_below(&r, 3), at) < 0)
			die("write");
	}
	free(data);
	return NULL;
}

/* Read-and-clear, then copy what was read, while threads write: in the end the copy equals the device. */
static void nothing_lost(int fd, struct device *d)
{
	static struct ploop_range ranges[64];
	static uint8_t copy[DISK];
	struct load loads[3];
	pthread_t ids[3];
	uint8_t *now = aligned(DISK);
	int rounds, count;

	is(bitmap(fd, d->index, PLOOP_CTL_BITMAP_CREATE, "copy", 14), 0, "BITMAP: for a copy under load");
	device_pread(d, now, DISK, 0);
	memcpy(copy, now, DISK);
	for (int i = 0; i < 3; i++) {
		loads[i] = (struct load){ .d = d, .number = i };
		if (pthread_create(&ids[i], NULL, write_randomly, &loads[i]))
			die("pthread_create");
	}
	for (rounds = 0; rounds < 200; rounds++) {
		if (rounds == 150) {
			for (int i = 0; i < 3; i++) {
				loads[i].over = true;
				pthread_join(ids[i], NULL);
			}
		}
		count = marked(fd, d->index, "copy", PLOOP_BITMAP_CLEAR, ranges, 64);
		for (int i = 0; i < count; i++) {
			if (device_pread(d, now, ranges[i].bytes, ranges[i].start) != (int)ranges[i].bytes)
				die("read");
			memcpy(copy + ranges[i].start, now, ranges[i].bytes);
		}
		if (count < 0 || (rounds > 150 && count == 0))
			break;
	}
	is(count, 0, "BITMAP: nothing is marked once the writers have stopped");
	device_pread(d, now, DISK, 0);
	ok(memcmp(now, copy, DISK) == 0, "BITMAP: no write was lost between reading and clearing");
	free(now);
}

/* A page, and none behind it. */
static uint8_t *edge(void)
{
	long page = sysconf(_SC_PAGESIZE);
	uint8_t *memory = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED || munmap(memory + page, page))
		die("mmap");
	return memory + page;
}

/* What a caller cannot be told, or did not say in whole, changes nothing, and takes no time. */
static void across_the_edge(int fd, int index)
{
	struct ploop_bitmap_read *cut = (void *)(edge() - offsetof(struct ploop_bitmap_read, name));
	struct ploop_bitmap_read whole = {
		.size = sizeof(whole), .index = index, .flags = PLOOP_BITMAP_CLEAR, .nr_ranges = 16, .bytes = DISK,
		.ranges = (uintptr_t)(edge() - sizeof(struct ploop_range)), .name = "a",
	};
	struct ploop_snapshot *snapshot = (void *)(edge() - offsetof(struct ploop_snapshot, name));
	struct ploop_range r[16];
	uint64_t start = now_ns();

	*(uint32_t *)&cut->size = sizeof(*cut);
	cut->index = index;
	cut->flags = PLOOP_BITMAP_CLEAR;
	cut->nr_ranges = 16;
	cut->start = 0;
	cut->next = UINT64_MAX - 1023;
	cut->bytes = DISK;
	is(control_call(fd, PLOOP_CTL_BITMAP_READ, cut), -EFAULT, "BITMAP_READ: a structure across unmapped memory");
	is(control_call(fd, PLOOP_CTL_BITMAP_READ, &whole), -EFAULT, "BITMAP_READ: ranges across unmapped memory");
	snapshot->size = sizeof(*snapshot);
	is(control_call(fd, PLOOP_CTL_SNAPSHOT, snapshot), -EFAULT, "SNAPSHOT: a structure across unmapped memory");
	ok(now_ns() - start < 5000000000ull, "EFAULT: at once (%llu ms)", (unsigned long long)(now_ns() - start) / 1000000);
	is(marked(fd, index, "a", 0, r, 16), 2, "EFAULT: what was marked is, and nothing else");
}

void control_bitmaps(int fd)
{
	const char *path = abi_image("b.hdd", 2);
	struct ploop_bitmap_info infos[PLOOP_BITMAPS_MAX];
	struct ploop_bitmap_list list = { .size = sizeof(list), .nr = PLOOP_BITMAPS_MAX, .infos = (uintptr_t)infos };
	struct ploop_range r[16];
	uint64_t discard[2] = { 12 * CLUSTER, CLUSTER };
	char name[16];
	struct device d;
	int index = control_attach(fd, &path, 1, 0), made;

	if (!ok(index >= 0, "BITMAP: a device"))
		return;
	control_device(&d, index);
	abi_fill(&d, 0, CLUSTER, 1);
	is(bitmap(fd, index, PLOOP_CTL_BITMAP_CREATE, "a", 12), 0, "BITMAP_CREATE: 4 KiB");
	is(bitmap(fd, index, PLOOP_CTL_BITMAP_CREATE, "b", 20), 0, "BITMAP_CREATE: 1 MiB");
	is(bitmap(fd, index, PLOOP_CTL_BITMAP_CREATE, "a", 12), -EEXIST, "BITMAP_CREATE: the name is taken");
	is(bitmap(fd, index, PLOOP_CTL_BITMAP_CREATE, "c", 11), -EINVAL, "BITMAP_CREATE: granule too small");
	is(bitmap(fd, index, PLOOP_CTL_BITMAP_CREATE, "c", 21), -EINVAL, "BITMAP_CREATE: granule too large");
	is(bitmap(fd, index, PLOOP_CTL_BITMAP_CREATE, "", 12), -EINVAL, "BITMAP_CREATE: no name");
	is(marked(fd, index, "a", 0, r, 16), 0, "BITMAP_READ: empty at first");
	is(marked(fd, index, "none", 0, r, 16), -ENOENT, "BITMAP_READ: no such bitmap");
	abi_fill(&d, 8192, 4096, 2);
	abi_fill(&d, 3 << 20, 512, 2);
	is(marked(fd, index, "a", 0, r, 16), 2, "BITMAP_READ: two writes");
	ok(r[0].start == 8192 && r[0].bytes == 4096 && r[1].start == 3 << 20 && r[1].bytes == 4096,
	   "BITMAP_READ: exactly where they were");
	is(marked(fd, index, "b", 0, r, 16), 2, "BITMAP_READ: the coarse one");
	ok(r[0].start == 0 && r[0].bytes == 1 << 20, "BITMAP_READ: in its granules");
	is(marked(fd, index, "a", PLOOP_BITMAP_CLEAR, (void *)8, 16), -EFAULT, "BITMAP_READ: bad array");
	across_the_edge(fd, index);
	is(marked(fd, index, "a", PLOOP_BITMAP_CLEAR, r, 1), 1, "BITMAP_READ: room for one range");
	is(marked(fd, index, "a", PLOOP_BITMAP_CLEAR, r, 16), 1, "BITMAP_READ: the other is still marked");
	is(marked(fd, index, "a", PLOOP_BITMAP_CLEAR, r, 16), 0, "BITMAP_READ: cleared");
	is(marked(fd, index, "b", 0, r, 16), 2, "BITMAP_READ: bitmaps are independent");
	ioctl(d.rw, BLKDISCARD, discard);
	is(marked(fd, index, "a", 0, r, 16), 1, "BITMAP_READ: a discard is a write");
	ok(r[0].start == discard[0] && r[0].bytes == discard[1], "BITMAP_READ: of that range");
	device_nodata(&d);
	is(device_snapshot(&d, abi_image("b1.hdd", 2), 0), 0, "BITMAP: a snapshot between");
	is(marked(fd, index, "a", 0, r, 16), 1, "BITMAP_READ: the snapshot changed nothing");
	is(bitmap(fd, index, PLOOP_CTL_BITMAP_CLEAR, "a", 0), 0, "BITMAP_CLEAR");
	is(marked(fd, index, "a", 0, r, 16), 0, "BITMAP_READ: empty again");
	list.index = index;
	is(control_call(fd, PLOOP_CTL_BITMAP_LIST, &list), 0, "BITMAP_LIST");
	ok(list.nr == 2 && infos[0].granule_log + infos[1].granule_log == 32, "BITMAP_LIST: both");
	for (made = 2; made < 64; made++) {
		snprintf(name, sizeof(name), "n%d", made);
		if (bitmap(fd, index, PLOOP_CTL_BITMAP_CREATE, name, 16))
			break;
	}
	is(made, PLOOP_BITMAPS_MAX, "BITMAP_CREATE: as many as the header says");
	for (made--; made >= 2; made--) {
		snprintf(name, sizeof(name), "n%d", made);
		if (bitmap(fd, index, PLOOP_CTL_BITMAP_DELETE, name, 0))
			break;
	}
	is(made, 1, "BITMAP_DELETE");
	is(bitmap(fd, index, PLOOP_CTL_BITMAP_DELETE, "n2", 0), -ENOENT, "BITMAP_DELETE: gone");
	device_data(&d);
	nothing_lost(fd, &d);
	control_close(&d);
	is(control_detach(fd, index), 0, "BITMAP: DETACH");
}

static const struct {
	const char *name;
	void (*run)(int fd);
} parts[] = {
	{ "attaching", control_attaching }, { "bitmaps", control_bitmaps }, { "snapshots", control_snapshots },
	{ "jobs", control_jobs }, { "events", control_events }, { "limits", control_limits }, { "depth", control_depth },
	{ "resume", control_resume }, { "holding", control_holding }, { "records", control_records },
	{ "doubt", control_doubt },
};

int control_main(int argc, char **argv)
{
	int fd;

	if (argc < 2)
		return 2;
	abi_use(argv[1]);
	fd = control_open();
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		bool wanted = argc == 2;

		for (int j = 2; j < argc; j++)
			wanted |= strcmp(argv[j], parts[i].name) == 0;
		if (wanted)
			parts[i].run(fd);
	}
	return tap_failures != 0;
}
