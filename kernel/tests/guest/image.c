// SPDX-License-Identifier: GPL-2.0
#include "image.h"

#include <endian.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tap.h"

static void put32(uint8_t *page, unsigned int at, uint32_t value)
{
	value = htole32(value);
	memcpy(page + at, &value, 4);
}

void image_pwrite(const char *path, const void *buffer, size_t size, off_t offset)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0 || pwrite(fd, buffer, size, offset) != (ssize_t)size || fsync(fd))
		die("write %s", path);
	close(fd);
}

void image_pread(const char *path, void *buffer, size_t size, off_t offset)
{
	int fd = open(path, O_RDONLY);

	if (fd < 0 || pread(fd, buffer, size, offset) != (ssize_t)size)
		die("read %s at %lld", path, (long long)offset);
	close(fd);
}

uint32_t image_read32(const char *path, off_t offset)
{
	uint32_t value;

	image_pread(path, &value, 4, offset);
	return le32toh(value);
}

void image_write32(const char *path, off_t offset, uint32_t value)
{
	value = htole32(value);
	image_pwrite(path, &value, 4, offset);
}

off_t image_size(const char *path)
{
	struct stat st;

	if (stat(path, &st))
		die("stat %s", path);
	return st.st_size;
}

void image_truncate(const char *path, off_t size)
{
	if (truncate(path, size))
		die("truncate %s", path);
}

void image_create(const char *path, const struct image *image)
{
	uint32_t clusters = image->bytes / image->cluster;
	uint64_t table = IMAGE_BAT + 4ull * clusters;
	uint32_t first = (table + image->cluster - 1) / image->cluster;
	uint32_t sectors = image->cluster / 512;
	uint64_t size = (uint64_t)first * image->cluster;
	uint8_t *head;
	int fd;

	unlink(path);
	fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0600);
	if (fd < 0)
		die("create %s", path);
	if (image->version == 0) {
		size = image->bytes;
		first = 0;
	}
	head = calloc(1, image->cluster > size ? image->cluster : size);
	if (!head)
		die("memory");
	if (image->version) {
		memcpy(head, image->version == 1 ? "WithoutFreeSpace" : "WithouFreSpacExt", 16);
		put32(head, IMAGE_TYPE, 2);
		put32(head, IMAGE_HEADS, 16);
		put32(head, IMAGE_CYLINDERS, image->bytes / 512 / 1008);
		put32(head, IMAGE_CLUSTER, sectors);
		put32(head, IMAGE_CLUSTERS, clusters);
		put32(head, IMAGE_SECTORS, image->bytes / 512);
		put32(head, IMAGE_SECTORS_HIGH, image->bytes / 512 >> 32);
		put32(head, IMAGE_FIRST, first * sectors);
		put32(head, IMAGE_FLAGS, image->filled ? 0 : 1);
		for (uint32_t i = 0; image->filled && i < clusters; i++)
			put32(head, IMAGE_BAT + 4 * i, image->version == 1 ? (first + i) * sectors : first + i);
	}
	if (write(fd, head, size) != (ssize_t)size)
		die("fill %s", path);
	if (image->version && image->filled) {
		memset(head, 0, image->cluster);
		for (uint32_t i = 0; i < clusters; i++)
			if (write(fd, head, image->cluster) != (ssize_t)image->cluster)
				die("fill %s", path);
	}
	if (fsync(fd))
		die("sync %s", path);
	close(fd);
	free(head);
}

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

bool image_sound(const char *path)
{
	uint32_t sectors = image_read32(path, IMAGE_CLUSTER), clusters = image_read32(path, IMAGE_CLUSTERS);
	uint32_t first = image_read32(path, IMAGE_FIRST), used = 0;
	off_t size = image_size(path), cluster = 512 * (off_t)sectors;
	char magic[16];
	uint32_t *table;
	bool sound = true;

#define SAY(...) (printf("# %s: ", path), printf(__VA_ARGS__), putchar('\n'), sound = false)
	image_pread(path, magic, 16, 0);
	if (image_read32(path, IMAGE_IN_USE) != 0)
		SAY("in use: %#x", image_read32(path, IMAGE_IN_USE));
	if (!sectors || size % cluster)
		SAY("size %lld is not of whole clusters", (long long)size);
	if (!sectors)
		return false;
	table = malloc(4ull * clusters + 4);
	image_pread(path, table, 4ull * clusters, IMAGE_BAT);
	for (uint32_t i = 0; i < clusters; i++) {
		uint32_t entry = le32toh(table[i]);

		if (!entry)
			continue;
		if (memcmp(magic, "WithoutFreeSpace", 16) == 0) {
			if (entry % sectors)
				SAY("entry %u is not aligned: %u", i, entry);
			entry /= sectors;
		}
		if (entry < first / sectors || (off_t)(entry + 1) * cluster > size)
			SAY("entry %u points to cluster %u, outside", i, entry);
		table[used++] = entry;
	}
	qsort(table, used, 4, compare);
	for (uint32_t i = 1; i < used; i++)
		if (table[i] == table[i - 1])
			SAY("cluster %u is used twice", table[i]);
	if (used && (image_read32(path, IMAGE_FLAGS) & 1))
		SAY("has data and is marked empty");
	free(table);
#undef SAY
	return sound;
}

bool image_repair(const char *path)
{
	pid_t pid = fork();
	int status = -1;

	if (pid == 0) {
		int null = open("/dev/null", O_WRONLY);

		dup2(null, 1);
		setenv("PLOOP_SKIP_EXT4_EXTENTS_CHECK", "1", 1);
		execlp("ploop", "ploop", "check", "-d", "-S", path, NULL);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
		printf("# ploop check of %s: %#x\n", path, status);
	return status == 0;
}

/* image create PATH VERSION CLUSTER-BYTES BYTES [filled] | image sound PATH... */
int image_main(int argc, char **argv)
{
	bool sound = true;

	if (argc >= 6 && strcmp(argv[1], "create") == 0) {
		struct image image = {
			.version = atoi(argv[3]), .cluster = strtoul(argv[4], NULL, 0), .bytes = strtoull(argv[5], NULL, 0),
			.filled = argc > 6,
		};

		image_create(argv[2], &image);
		return 0;
	}
	if (argc < 3 || strcmp(argv[1], "sound") != 0)
		return 2;
	for (int i = 2; i < argc; i++)
		sound &= image_sound(argv[i]);
	return sound ? 0 : 1;
}
