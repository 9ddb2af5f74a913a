// SPDX-License-Identifier: GPL-2.0
/* guest-tests abi FOLDER [PART...]: the ioctls of ploop 1.15, their preconditions, errors and effects. */
#include "abi.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tap.h"

static const char *abi_folder;

void abi_use(const char *folder)
{
	abi_folder = folder;
}

const char *abi_path(const char *name)
{
	static char paths[8][256];
	static unsigned int next;
	char *path = paths[next++ % 8];

	snprintf(path, sizeof(paths[0]), "%s/%s", abi_folder, name);
	return path;
}

const char *abi_image(const char *name, int version)
{
	const char *path = abi_path(name);
	struct image image = { .version = version, .cluster = CLUSTER, .bytes = DISK };

	image_create(path, &image);
	return path;
}

void abi_running(struct device *d, const char *name, int version)
{
	int result;

	device_get(d);
	result = device_add(d, abi_image(name, version), version ? PLOOP_FMT_PLOOP1 : PLOOP_FMT_RAW, 0);
	if (result)
		die("ADD_DELTA of %s: %s", name, strerror(-result));
	result = device_start(d);
	if (result)
		die("START: %s", strerror(-result));
}

bool abi_holds(struct device *d, off_t offset, size_t size, uint8_t byte)
{
	uint8_t *buffer = aligned(size);
	bool same;
	int got;

	memset(buffer, ~byte, size);
	got = device_pread(d, buffer, size, offset);
	same = got == (int)size && buffer[0] == byte && memcmp(buffer, buffer + 1, size - 1) == 0;
	if (!same)
		printf("# at %lld: read %d, first byte %#x instead of %#x\n", (long long)offset, got, buffer[0], byte);
	free(buffer);
	return same;
}

int abi_fill(struct device *d, off_t offset, size_t size, uint8_t byte)
{
	uint8_t *buffer = aligned(size);
	int result;

	memset(buffer, byte, size);
	result = device_pwrite(d, buffer, size, offset);
	free(buffer);
	return result;
}

static const struct {
	const char *name;
	void (*run)(void);
} parts[] = {
	{ "attach", abi_attach }, { "images", abi_images }, { "sharing", abi_sharing }, { "states", abi_states },
	{ "data", abi_data }, { "levels", abi_levels }, { "grow", abi_grow }, { "track", abi_track },
	{ "space", abi_space }, { "sysfs", abi_sysfs },
};

int abi_main(int argc, char **argv)
{
	if (argc < 2)
		return 2;
	abi_use(argv[1]);
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		bool wanted = argc == 2;

		for (int j = 2; j < argc; j++)
			wanted |= strcmp(argv[j], parts[i].name) == 0;
		if (wanted)
			parts[i].run();
	}
	return tap_failures != 0;
}
