// SPDX-License-Identifier: GPL-2.0
/*
 * Power cuts. `guest-tests crash run FOLDER [OUT]` makes a disk in FOLDER and changes it until somebody cuts the power;
 * `guest-tests crash verify FOLDER [OUT]` then looks at what is left:
 *
 * Each thread writes 4 KiB blocks in an order that its seed gives, and flushes now and then. After a flush it notes how far
 * it has got: in OUT, which no power cut reaches, and in FOLDER/marks by one direct write, so that a replayed log of the
 * disk has the note in its place. Whatever was written before the note must be there; a block may be newer, never older,
 * never half, never somebody else's. Meanwhile the stack of images is snapshot, merged and grown, and clusters are freed
 * and used again. FOLDER/stack lists the files, renamed into place as a descriptor would be.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "crash.h"

struct crash crash;

static uint64_t block_of(unsigned int thread, uint64_t sequence)
{
	struct random r = { crash.seed + thread * 0x1234567ull + sequence * 0x9e3779b9ull };

	return random_below(&r, BLOCKS_PER_THREAD) * THREADS + thread;
}

static void fill_block(uint64_t *words, unsigned int thread, uint64_t sequence, uint64_t block)
{
	for (int i = 0; i < 512; i += 4) {
		words[i] = CRASH_MAGIC ^ crash.seed;
		words[i + 1] = sequence;
		words[i + 2] = block;
		words[i + 3] = thread;
	}
}

static void note(unsigned int thread, uint64_t sequence)
{
	uint64_t *sector = aligned(4096);
	char line[64];
	int size;

	sector[0] = sequence;
	sector[1] = ~sequence;
	if (pwrite(crash.marks, sector, 4096, thread * 4096) != 4096)
		die("write marks");
	free(sector);
	if (crash.out < 0)
		return;
	size = snprintf(line, sizeof(line), "%u %llu\n", thread, (unsigned long long)sequence);
	if (write(crash.out, line, size) != size)
		die("write the log");
}

static void *writer(void *argument)
{
	unsigned int thread = (uintptr_t)argument;
	struct random r = { crash.seed ^ thread };
	uint64_t *block = aligned(4096);

	for (uint64_t sequence = 1;; sequence++) {
		uint64_t where = block_of(thread, sequence);

		fill_block(block, thread, sequence, where);
		if (pwrite(crash.device.rw, block, 4096, where * 4096) != 4096)
			die("write block %llu", (unsigned long long)where);
		if (random_below(&r, 24))
			continue;
		if (fdatasync(crash.device.rw))
			die("flush");
		note(thread, sequence);
	}
	return NULL;
}

/* Notes of before the cut. */
static void read_notes(uint64_t *durable, const char *out)
{
	uint64_t *sector = aligned(4096), value;
	unsigned int thread;
	FILE *file;

	for (thread = 0; thread < THREADS; thread++) {
		if (pread(crash.marks, sector, 4096, thread * 4096) != 4096)
			die("read marks");
		if (sector[0] == ~sector[1])
			durable[thread] = sector[0];
	}
	free(sector);
	file = out ? fopen(out, "r") : NULL;
	if (!file)
		return;
	while (fscanf(file, "%u %llu", &thread, (unsigned long long *)&value) == 2)
		if (thread < THREADS && value > durable[thread])
			durable[thread] = value;
	fclose(file);
}

static bool check_block(const uint64_t *words, uint64_t block, uint64_t wanted)
{
	static const uint64_t zeros[512];
	uint64_t expected[512], sequence = words[1];
	unsigned int thread = block % THREADS;

	if (memcmp(words, zeros, 4096) == 0) {
		if (!wanted)
			return true;
		printf("# block %llu is zero, should have write %llu\n", (unsigned long long)block, (unsigned long long)wanted);
		return false;
	}
	fill_block(expected, thread, sequence, block);
	if (memcmp(words, expected, 4096) || block_of(thread, sequence) != block) {
		printf("# block %llu is damaged: %#llx %llu %llu %llu\n", (unsigned long long)block, (unsigned long long)words[0],
		       (unsigned long long)words[1], (unsigned long long)words[2], (unsigned long long)words[3]);
		return false;
	}
	if (sequence < wanted) {
		printf("# block %llu has write %llu, should have %llu\n", (unsigned long long)block,
		       (unsigned long long)sequence, (unsigned long long)wanted);
		return false;
	}
	return true;
}

static bool repair(void)
{
	bool good = true;

	for (int i = 0; i < crash.levels; i++)
		good &= image_repair(crash.files[i]);
	return good;
}

static int verify(const char *out)
{
	uint64_t durable[THREADS] = { 0 }, *wanted = calloc(BLOCKS, 8), *words = aligned(4096), bad = 0, notes = 0;
	bool sound = true;
	int result;

	if (!crash_load()) {
		ok(true, "crash: cut before there was a disk");
		return 0;
	}
	read_notes(durable, out);
	for (unsigned int thread = 0; thread < THREADS; thread++) {
		for (uint64_t s = 1; s <= durable[thread]; s++)
			wanted[block_of(thread, s)] = s;
		notes += durable[thread];
	}
	ok(repair(), "crash: the images of %d levels pass ploop's check", crash.levels);
	result = crash_attach();
	if (!is(result, 0, "crash: the stack attaches"))
		return 1;
	for (uint64_t block = 0; block < BLOCKS && bad < 20; block++) {
		if (device_pread(&crash.device, words, 4096, block * 4096) != 4096)
			bad++;
		else
			bad += !check_block(words, block, wanted[block]);
	}
	is(bad, 0, "crash: nothing flushed is lost (%llu writes, seed %llu, %d levels)", (unsigned long long)notes,
	   (unsigned long long)crash.seed, crash.levels);
	is(device_stop(&crash.device), 0, "crash: stops");
	device_put(&crash.device);
	for (int i = 0; i < crash.levels; i++)
		sound &= image_sound(crash.files[i]);
	ok(sound, "crash: all images are sound afterwards");
	printf("# durable writes: %llu\n", (unsigned long long)notes);
	free(wanted);
	free(words);
	return tap_failures != 0;
}

static void run(const char *out)
{
	char name[300];
	pthread_t id;

	crash_create();
	if (crash_attach())
		die("attach");
	crash.out = -1;
	if (out) {
		unlink(out);
		crash.out = open(out, O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
		if (crash.out < 0)
			die("open %s", out);
	}
	for (uintptr_t i = 0; i < THREADS; i++)
		if (pthread_create(&id, NULL, writer, (void *)i))
			die("pthread_create");
	if (out) {
		snprintf(name, sizeof(name), "%s.started", out);
		close(open(name, O_CREAT | O_WRONLY, 0600));
	}
	crash_control();
}

int crash_main(int argc, char **argv)
{
	const char *out = argc > 3 ? argv[3] : NULL;

	if (argc < 3)
		return 2;
	snprintf(crash.folder, sizeof(crash.folder), "%s", argv[2]);
	if (strcmp(argv[1], "verify") == 0)
		return verify(out);
	if (argc > 4)
		crash.seconds = atoi(argv[4]);
	run(out);
	return 0;
}
