// SPDX-License-Identifier: GPL-2.0
/*
 * What a power cut has left: repaired, attached, read, closed.
 *   guest-tests crash disks FOLDER DISK NOTES COUNT BYTES [SAMPLE [COMMAND...]]
 * DISK holds COUNT file systems, one every BYTES; each is mounted on FOLDER, with its notes every NOTES_BYTES of NOTES. Every
 * SAMPLE-th is repaired by Debian's tools, the others here: an image is repaired if nothing but its marks and its size
 * changes. With a COMMAND that looks instead; it gets FOLDER as an argument and the place in NOTES as $NOTES.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/blkpg.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../recorder/recorder.h"
#include "control.h"
#include "crash.h"

/* What may be in a block. */
struct expected {
	uint64_t step;		/* the last write that is durable, unless ->zeroed came after it */
	bool zeroed;
	bool zero;		/* zeros are fine, too */
};

static uint64_t noted(int notes, off_t offset, unsigned int page)
{
	struct crash_note note;

	if (pread(notes, &note, sizeof(note), offset + page * CRASH_BLOCK) != sizeof(note))
		die("read the notes");
	return note.seed == crash.seed && note.check == (crash.seed ^ ~note.value) ? note.value : 0;
}

/* The disk that the notes are about is not the one that is there, if any. */
static bool is_another(int notes, off_t offset)
{
	struct crash_note note;

	for (unsigned int page = 0; page < NOTES; page++) {
		if (pread(notes, &note, sizeof(note), offset + page * CRASH_BLOCK) != sizeof(note))
			die("read the notes");
		if (note.seed && note.seed != crash.seed)
			return true;
	}
	return false;
}

/* Up to @durable all was done; what follows up to the next flush may be there or not. Returns the last such step. */
static uint64_t expect(unsigned int thread, uint64_t durable, struct expected *expected)
{
	for (uint64_t step = 1;; step++) {
		struct crash_op op = crash_op(thread, step);

		for (uint32_t i = op.first; i < op.first + op.count; i++) {
			struct expected *e = &expected[crash_place(thread, i)];

			if (op.kind != CRASH_WRITE)
				e->zero = true;
			if (step <= durable && op.kind == CRASH_WRITE)
				*e = (struct expected){ .step = step };
			else if (step <= durable && op.kind == CRASH_ZERO)
				*e = (struct expected){ .zeroed = true, .zero = true };
		}
		if (step > durable && op.flush)
			return step;
	}
}

static bool covers(const struct crash_op *op, unsigned int thread, uint64_t place)
{
	uint64_t first = crash_place(thread, op->first);

	return op->kind == CRASH_WRITE && place >= first && place < first + op->count;
}

static bool check_block(const uint64_t *words, uint64_t place, const struct expected *e, uint64_t durable, uint64_t last)
{
	unsigned int thread = place < 2 * THREAD_BLOCKS ? place % 2 : place / THREAD_BLOCKS;
	uint64_t expected[512], step = words[1];
	struct crash_op op;

	if (words[0] == 0 && memcmp(words, words + 1, CRASH_BLOCK - 8) == 0) {
		if (e->zero || !e->step)
			return true;
		printf("# block %llu is zero, should have step %llu\n", (unsigned long long)place, (unsigned long long)e->step);
		return false;
	}
	crash_fill(expected, thread, step, place);
	op = crash_op(thread, step);
	if (memcmp(words, expected, CRASH_BLOCK) || !covers(&op, thread, place)) {
		printf("# block %llu is damaged: %#llx %llu %llu %llu, should have step %llu\n", (unsigned long long)place,
		       (unsigned long long)words[0], (unsigned long long)words[1], (unsigned long long)words[2],
		       (unsigned long long)words[3], (unsigned long long)e->step);
		return false;
	}
	if ((step == e->step && !e->zeroed) || (step > durable && step <= last))
		return true;
	printf("# block %llu has step %llu, should have %s%llu or one of %llu to %llu\n", (unsigned long long)place,
	       (unsigned long long)step, e->zeroed ? "zeros, no more " : "", (unsigned long long)e->step,
	       (unsigned long long)durable + 1, (unsigned long long)last);
	return false;
}

/* Zeros or what is written there, block by block. */
static bool check_scratch(const uint8_t *block)
{
	return (block[0] == 0 || block[0] == SCRATCH_BYTE) && memcmp(block, block + 1, CRASH_BLOCK - 1) == 0;
}

/* @bytes of @fd, blocks first. */
static bool check_content(int fd, uint64_t bytes, int notes, off_t offset)
{
	uint64_t durable[CRASH_THREADS], last[CRASH_THREADS];
	struct expected *expected = calloc(CRASH_BLOCKS, sizeof(*expected));
	uint8_t *buffer = aligned(1 << 20);
	unsigned int bad = 0;

	for (unsigned int thread = 0; thread < CRASH_THREADS; thread++) {
		durable[thread] = noted(notes, offset, thread);
		last[thread] = expect(thread, durable[thread], expected);
	}
	for (uint64_t at = 0; at < bytes && bad < 20; at += 1 << 20) {
		if (pread(fd, buffer, 1 << 20, at) != 1 << 20) {
			printf("# cannot read at %llu\n", (unsigned long long)at);
			bad++;
			continue;
		}
		for (unsigned int i = 0; i < (1 << 20) / CRASH_BLOCK && bad < 20; i++) {
			const uint8_t *block = buffer + i * CRASH_BLOCK;
			uint64_t place = at / CRASH_BLOCK + i;
			unsigned int thread = place < 2 * THREAD_BLOCKS ? place % 2 : place / THREAD_BLOCKS;

			if (place >= CRASH_BLOCKS)
				bad += !check_scratch(block);
			else
				bad += !check_block((const uint64_t *)block, place, &expected[place], durable[thread],
						    last[thread]);
		}
	}
	free(expected);
	free(buffer);
	return bad == 0;
}

static bool check_data(int notes, off_t offset)
{
	uint64_t bytes = device_bytes(&crash.device), wanted = noted(notes, offset, NOTE_SIZE);

	if (bytes < wanted) {
		printf("# the device has %llu bytes, had %llu\n", (unsigned long long)bytes, (unsigned long long)wanted);
		return false;
	}
	return check_content(device_data(&crash.device), CRASH_BYTES, notes, offset);
}

bool crash_verify_file(const char *path, int notes, off_t offset)
{
	struct crash_note note;
	bool good;
	int fd;

	if (pread(notes, &note, sizeof(note), offset) != sizeof(note))
		die("read the notes");
	crash.seed = note.seed;
	crash.file = true;
	if (!note.seed) {
		printf("# cut before there was a file\n");
		return true;
	}
	fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (fd < 0)
		die("open %s", path);
	good = check_content(fd, DATA_BYTES, notes, offset);
	close(fd);
	return good;
}

static bool repair(const char *path, bool by_tools)
{
	off_t whole;

	if (by_tools)
		return image_repair(path);
	if (image_read32(path, IMAGE_IN_USE) == IN_USE) {
		whole = (image_size(path) + CRASH_CLUSTER - 1) / CRASH_CLUSTER * CRASH_CLUSTER;
		image_truncate(path, whole);
		/* The mark of emptiness belongs to closed images. */
		image_write32(path, IMAGE_FLAGS, image_read32(path, IMAGE_FLAGS) & ~1u);
		image_write32(path, IMAGE_IN_USE, 0);
	}
	return image_sound(path);
}

static bool merge_all(void)
{
	while (crash.levels > 1) {
		struct ploop_job job;
		int result = control_job(crash.control, crash.device.index, PLOOP_JOB_OP_START, PLOOP_JOB_MERGE, crash.levels - 1,
					 &job);

		if (!result)
			result = control_job(crash.control, crash.device.index, PLOOP_JOB_OP_WAIT, 0, 0, &job);
		if (result || job.state != PLOOP_JOB_DONE) {
			printf("# a merge of level %d: %d, state %u, error %u\n", crash.levels - 1, result, job.state, job.error);
			return false;
		}
		crash.levels--;
	}
	return true;
}

bool crash_verify(int notes, off_t offset, bool by_tools, bool merge)
{
	bool good = true;
	int levels, result;

	crash.seed = 0;
	if (!crash_load())
		printf("# there is no disk\n");
	if (is_another(notes, offset)) {
		printf("# the notes are about another disk\n");
		return false;
	}
	if (!crash.seed)
		return true;
	levels = crash.levels;
	for (int i = 0; i < levels; i++)
		good &= repair(crash.files[i], by_tools);
	result = crash_attach(true);
	if (result) {
		printf("# the stack of %d levels does not attach: %s\n", levels, strerror(-result));
		return false;
	}
	good &= check_data(notes, offset);
	if (good && merge)
		good = merge_all() && check_data(notes, offset);
	result = crash_detach();
	if (result)
		printf("# detaching: %s\n", strerror(-result));
	for (int i = 0; i < levels; i++)
		good &= image_sound(crash.files[i]);
	return good && !result;
}

/* Another program looks. */
static bool look_by(char **command, off_t offset)
{
	char text[32];
	int status = -1;
	pid_t pid;

	snprintf(text, sizeof(text), "%lld", (long long)offset);
	setenv("NOTES", text, 1);
	pid = fork();
	if (pid == 0) {
		execvp(command[0], command);
		_exit(127);
	}
	return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

static int partition(int disk, int op, uint64_t start, uint64_t bytes)
{
	struct blkpg_partition p = { .start = start, .length = bytes, .pno = 1 };
	struct blkpg_ioctl_arg arg = { .op = op, .datalen = sizeof(p), .data = &p };

	return ioctl(disk, BLKPG, &arg);
}

/* What used it may take a moment to go. */
static void unmount(void)
{
	uint64_t deadline = now_ns() + 20000000000ull;

	while (umount(crash.folder)) {
		if (errno != EBUSY || now_ns() > deadline)
			die("umount");
		usleep(10000);
	}
}

static bool look_at(int notes, int i, int sample, char **command)
{
	off_t offset = i * (off_t)NOTES_BYTES;
	uint64_t begin = now_ns(), steps = 0;

	crash.levels = 0;
	if (command[0] ? !look_by(command, offset) : !crash_verify(notes, offset, i % sample == 0, i % 4 == 1))
		return false;
	for (unsigned int thread = 0; thread < CRASH_THREADS && !command[0]; thread++)
		steps += noted(notes, offset, thread);
	printf("# disk %d: %d levels of version %d, %llu steps, %llu ms\n", i, crash.levels, crash.version,
	       (unsigned long long)steps, (unsigned long long)(now_ns() - begin) / 1000000);
	return true;
}

int crash_disks(int argc, char **argv)
{
	char path[64], *command[32] = { 0 };
	int disk, notes, disks;
	uint64_t bytes;

	if (argc < 6 || argc > 36)
		return 2;
	snprintf(crash.folder, sizeof(crash.folder), "%s", argv[1]);
	snprintf(path, sizeof(path), "%s1", argv[2]);
	disk = open(argv[2], O_RDONLY | O_CLOEXEC);
	notes = open(argv[3], O_RDONLY | O_CLOEXEC);
	crash.control = control_open();
	if (disk < 0 || notes < 0)
		die("open %s and %s", argv[2], argv[3]);
	disks = atoi(argv[4]);
	bytes = strtoull(argv[5], NULL, 0);
	for (int i = 7; i < argc; i++)
		command[i - 7] = argv[i];
	if (argc > 7)
		command[argc - 7] = argv[1];
	for (int i = 0; i < disks; i++) {
		bool good;

		if (partition(disk, BLKPG_ADD_PARTITION, i * bytes, bytes))
			die("partition %d", i);
		fflush(stdout);
		good = mount(path, crash.folder, "ext4", 0, NULL) == 0;
		if (good) {
			good = look_at(notes, i, argc > 6 ? atoi(argv[6]) : 1, command);
			if (!good)
				ok(false, "crash: disk %d, seed %#llx, %d levels", i, (unsigned long long)crash.seed, crash.levels);
			/* Who failed may have left something behind. */
			if (!good && command[0])
				return 1;
			unmount();
		} else {
			ok(false, "crash: the lower file system of disk %d mounts: %s", i, strerror(errno));
		}
		if (partition(disk, BLKPG_DEL_PARTITION, 0, 0))
			die("delete partition %d", i);
	}
	fflush(stdout);
	return tap_failures != 0;
}
