// SPDX-License-Identifier: GPL-2.0
/*
 * Power cuts. `guest-tests crash run FOLDER NOTES` makes a disk in FOLDER and changes it until somebody cuts the power;
 * `guest-tests crash verify FOLDER NOTES` and `crash disks` then look at what is left (crash_verify.c):
 *
 * Each thread writes, zeroes and discards blocks in an order that the seed gives, and flushes now and then. After a flush it
 * notes how far it has got in NOTES, a disk that no power cut reaches. Whatever was done before the note must be there; a
 * block may be newer, by no more than was under way; never older, never half, never somebody else's. Two threads share
 * their clusters block by block, one goes over borders of clusters and discards, one asks each write to be durable at once.
 * Meanwhile everything that can happen to a stack of images happens (crash_stack.c). FOLDER/stack lists the files, renamed
 * into place as a descriptor would be.
 *
 * `crash app FILE NOTES` does the same to a file, for who tests what lies below it; `crash app-verify FILE NOTES OFFSET`.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "control.h"
#include "crash.h"

#define CRASH_MAGIC 0x70776f6666756c6cull
#define COUNT_MAX 64u

struct crash crash = { .notes = -1, .control = -1 };

struct crash_op crash_op(unsigned int thread, uint64_t step)
{
	struct random r = { crash.seed + thread * 0x1234567ull + step * 0x9e3779b9ull };
	struct crash_op op = { .kind = CRASH_WRITE, .count = 1 };
	unsigned int chance = random_below(&r, 32);

	op.flush = random_below(&r, 24) == 0;
	if (thread == 2) {
		op.count = 1 + random_below(&r, chance < 8 ? 40 : 3);
		if (chance == 31 || chance == 30) {
			op.kind = chance == 31 ? CRASH_ZERO : CRASH_DISCARD;
			op.count = CLUSTER_BLOCKS * (1 + random_below(&r, COUNT_MAX / CLUSTER_BLOCKS));
			op.first = CLUSTER_BLOCKS * random_below(&r, (THREAD_BLOCKS - op.count) / CLUSTER_BLOCKS + 1);
			return op;
		}
	} else if (thread == 3) {
		op.count = 1 + random_below(&r, 4);
		op.flush = op.fua = true;
	} else if (chance == 31) {
		op.kind = CRASH_ZERO;
	}
	op.first = random_below(&r, THREAD_BLOCKS - op.count + 1);
	return op;
}

uint64_t crash_place(unsigned int thread, uint32_t block)
{
	return thread < 2 ? 2 * block + thread : thread * THREAD_BLOCKS + block;
}

void crash_fill(uint64_t *words, unsigned int thread, uint64_t step, uint64_t place)
{
	for (int i = 0; i < 512; i += 4) {
		words[i] = CRASH_MAGIC ^ crash.seed;
		words[i + 1] = step;
		words[i + 2] = place;
		words[i + 3] = thread;
	}
}

void crash_note(unsigned int page, uint64_t value)
{
	struct crash_note *note = aligned(CRASH_BLOCK);

	*note = (struct crash_note){ crash.seed, value, crash.seed ^ ~value };
	if (pwrite(crash.notes, note, CRASH_BLOCK, page * CRASH_BLOCK) != CRASH_BLOCK)
		die("note");
	free(note);
}

static int perform(const struct crash_op *op, unsigned int thread, uint64_t step, uint8_t *buffer)
{
	uint64_t place = crash_place(thread, op->first);
	uint64_t range[2] = { place * CRASH_BLOCK, (uint64_t)op->count * CRASH_BLOCK };
	struct iovec vector = { buffer, range[1] };

	if (crash.file && op->kind != CRASH_WRITE)
		return fallocate(crash.device.rw, op->kind == CRASH_ZERO ? FALLOC_FL_ZERO_RANGE :
				 FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, range[0], range[1]);
	if (op->kind != CRASH_WRITE)
		return ioctl(crash.device.rw, op->kind == CRASH_ZERO ? BLKZEROOUT : BLKDISCARD, range);
	for (uint32_t i = 0; i < op->count; i++)
		crash_fill((uint64_t *)(buffer + i * CRASH_BLOCK), thread, step, place + i);
	return pwritev2(crash.device.rw, &vector, 1, range[0], op->fua ? RWF_DSYNC : 0) == (ssize_t)range[1] ? 0 : -1;
}

static void *writer(void *argument)
{
	unsigned int thread = (uintptr_t)argument;
	uint8_t *buffer = aligned(COUNT_MAX * CRASH_BLOCK);

	for (uint64_t step = 1;; step++) {
		struct crash_op op = crash_op(thread, step);

		pthread_rwlock_rdlock(&crash.use);
		if (perform(&op, thread, step, buffer))
			die("thread %u, step %llu", thread, (unsigned long long)step);
		if (op.flush && !op.fua && fdatasync(crash.device.rw))
			die("flush");
		pthread_rwlock_unlock(&crash.use);
		if (op.flush)
			crash_note(thread, step);
		/* Others want to get something done, too. */
		if (op.flush && crash.file)
			usleep(50000);
	}
	return NULL;
}

/* Reaches the disk at once, whatever the kernel would like to keep. */
static void open_notes(const char *path)
{
	crash.notes = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (crash.notes < 0)
		die("open %s", path);
}

/* From here on what is on the disk belongs to these notes. */
static void begin(void)
{
	pthread_t id;

	for (unsigned int page = 0; page < NOTES; page++)
		crash_note(page, page == NOTE_SIZE ? crash.bytes : 0);
	printf("# seed %#llx, version %d\n# running\n", (unsigned long long)crash.seed, crash.version);
	fflush(stdout);
	for (uintptr_t i = 0; i < CRASH_THREADS; i++)
		if (pthread_create(&id, NULL, writer, (void *)i))
			die("pthread_create");
}

static void run(const char *notes)
{
	pthread_rwlockattr_t attributes;

	/* The device may go and come however busy it is. */
	pthread_rwlockattr_init(&attributes);
	pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&crash.use, &attributes);
	open_notes(notes);
	/* What was noted of an older disk goes first. */
	for (unsigned int page = 0; page < NOTES; page++)
		crash_note(page, 0);
	crash_create();
	if (crash_attach(crash.seed & 4))
		die("attach");
	begin();
	crash_control();
}

/* Until it is killed. */
static void run_app(const char *path, const char *notes)
{
	open_notes(notes);
	crash.seed = now_ns() * 2654435761u;
	crash.file = true;
	crash.device.rw = open(path, O_CREAT | O_RDWR | O_DIRECT | O_CLOEXEC, 0600);
	if (crash.device.rw < 0 || ftruncate(crash.device.rw, DATA_BYTES) || fsync(crash.device.rw))
		die("create %s", path);
	/* Its name, too. */
	sync();
	begin();
	for (;;)
		pause();
}

static int on_notes(int argc, char **argv)
{
	struct crash_note note;
	int notes;

	if (strcmp(argv[1], "note") == 0) {
		open_notes(argv[2]);
		crash_note(NOTE_OTHER, strtoull(argv[3], NULL, 0));
		return 0;
	}
	notes = open(argv[argc - 2], O_RDONLY | O_CLOEXEC);
	if (notes < 0)
		die("open %s", argv[argc - 2]);
	if (strcmp(argv[1], "app-verify") == 0)
		return !crash_verify_file(argv[2], notes, strtoull(argv[argc - 1], NULL, 0));
	if (pread(notes, &note, sizeof(note), strtoull(argv[argc - 1], NULL, 0) + NOTE_OTHER * CRASH_BLOCK) != sizeof(note))
		die("read the notes");
	printf("%llu\n", (unsigned long long)note.value);
	return 0;
}

int crash_main(int argc, char **argv)
{
	bool good;
	int notes;

	if (argc > 1 && strcmp(argv[1], "disks") == 0)
		return crash_disks(argc - 1, argv + 1);
	if (argc < 4)
		return 2;
	if (strcmp(argv[1], "note") == 0 || strcmp(argv[1], "noted") == 0 || strcmp(argv[1], "app-verify") == 0)
		return on_notes(argc, argv);
	if (strcmp(argv[1], "app") == 0)
		run_app(argv[2], argv[3]);
	snprintf(crash.folder, sizeof(crash.folder), "%s", argv[2]);
	crash.control = control_open();
	if (strcmp(argv[1], "verify") == 0) {
		notes = open(argv[3], O_RDONLY | O_CLOEXEC);
		if (notes < 0)
			die("open %s", argv[3]);
		good = crash_verify(notes, 0, true, true);
		return !ok(good, "crash: seed %#llx of version %d, nothing is lost", (unsigned long long)crash.seed, crash.version);
	}
	if (argc > 4)
		crash.seconds = atoi(argv[4]);
	run(argv[3]);
	return 0;
}
