// SPDX-License-Identifier: GPL-2.0
/*
 * What ../recorder has recorded. Runs on the host.
 *   writelog LOG count            the number of events, and of flushes after the first note
 *   writelog LOG build SEED TOTAL FIRST COUNT BEFORE IMAGE NOTES
 *
 * SEED chooses TOTAL moments after the first note at which the power may be cut; COUNT of them from number FIRST on become
 * disks, one behind the other in IMAGE, each what BEFORE, the disk from before the log, would be after that cut. NOTES gets
 * NOTES_BYTES for each, what was noted by then.
 *
 * Up to half of the moments, each once if they are enough, are ends of flushes, with nothing on the disk but what had to be
 * there. The others are anywhere; of the writes then begun but not yet made durable a random part is there, whole or some
 * of their 4 KiB blocks.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../recorder/recorder.h"
#include "tap.h"

#define TEAR 4096u

struct event {
	struct record record;
	uint64_t data;		/* where it is in the log */
	uint64_t durable;	/* of a write: the event before which it may be lost */
};

struct point {
	uint64_t event;		/* so many events have happened */
	unsigned int keep;	/* percent */
	bool mark;
};

static struct event *events;
static uint64_t count, first_note;
static int log_fd;

static void load(const char *path)
{
	uint64_t magic = 0, at = sizeof(magic), room = 0;
	struct record r;

	log_fd = open(path, O_RDONLY | O_CLOEXEC);
	if (log_fd < 0 || pread(log_fd, &magic, sizeof(magic), 0) != sizeof(magic) || magic != RECORD_MAGIC)
		die("%s is no log", path);
	/* The last record may be cut short. */
	while (pread(log_fd, &r, sizeof(r), at) == sizeof(r)) {
		if (count == room) {
			room = room ? 2 * room : 65536;
			events = realloc(events, room * sizeof(*events));
			if (!events)
				die("memory");
		}
		events[count] = (struct event){ .record = r, .data = at + sizeof(r) };
		/* Zeros wipe out what was noted before. */
		if (r.kind == RECORD_NOTE && !first_note && pread(log_fd, &magic, sizeof(magic), at + sizeof(r)) == sizeof(magic) &&
		    magic)
			first_note = count;
		at += sizeof(r) + r.length;
		count++;
	}
	if (!first_note)
		die("%s: nothing was noted", path);
}

/* Which flush makes each write durable: the first to end of those that began after the write was answered. */
static void find_durable(void)
{
	uint64_t ids = 0, earliest = UINT64_MAX, *flushed, *durable;

	for (uint64_t i = 0; i < count; i++)
		if (events[i].record.id > ids)
			ids = events[i].record.id;
	flushed = malloc((ids + 1) * sizeof(*flushed));
	durable = malloc((ids + 1) * sizeof(*durable));
	if (!flushed || !durable)
		die("memory");
	memset(flushed, 0xff, (ids + 1) * sizeof(*flushed));
	memset(durable, 0xff, (ids + 1) * sizeof(*durable));
	for (uint64_t i = count; i-- > 0;) {
		const struct record *r = &events[i].record;

		if (r->kind == RECORD_FLUSHED)
			flushed[r->id] = i;
		else if (r->kind == RECORD_FLUSH && flushed[r->id] < earliest)
			earliest = flushed[r->id];
		else if (r->kind == RECORD_WRITTEN)
			durable[r->id] = earliest;
		else if (r->kind == RECORD_WRITE)
			events[i].durable = durable[r->id];
	}
	free(flushed);
	free(durable);
}

static uint64_t count_flushes(void)
{
	uint64_t flushes = 0;

	for (uint64_t i = first_note; i < count; i++)
		flushes += events[i].record.kind == RECORD_FLUSHED;
	return flushes;
}

/* The @number-th end of a flush. */
static uint64_t flush_end(uint64_t number)
{
	for (uint64_t i = first_note; i < count; i++)
		if (events[i].record.kind == RECORD_FLUSHED && number-- == 0)
			return i + 1;
	die("no such flush");
}

/* Even numbers are ends of flushes, as long as there are any not yet taken. */
static struct point choose(uint64_t number, uint64_t total, uint64_t seed)
{
	uint64_t flushes = count_flushes(), marks = (total + 1) / 2;
	struct random r = { seed + number * 0x9e3779b9u };
	struct point p = { .mark = number % 2 == 0 && (flushes >= marks || number / 2 < flushes) };

	if (p.mark) {
		uint64_t step = flushes >= marks ? flushes / marks : 1;

		p.event = flush_end(number / 2 * step + random_below(&r, step));
	} else {
		p.event = first_note + 1 + random_below(&r, count - first_note);
		p.keep = random_below(&r, 101);
	}
	return p;
}

static void put(int fd, const struct event *e, uint64_t offset, uint64_t length, uint64_t base)
{
	static uint8_t *data;
	static uint64_t room;

	if (length > room) {
		free(data);
		room = length;
		data = malloc(room);
		if (!data)
			die("memory");
	}
	if (pread(log_fd, data, length, e->data + offset) != (ssize_t)length)
		die("short log");
	if (pwrite(fd, data, length, base + e->record.offset + offset) != (ssize_t)length)
		die("write image");
}

static void replay(const struct point *p, uint64_t seed, int image, uint64_t disk, int notes, uint64_t note)
{
	struct random r = { seed };

	for (uint64_t i = 0; i < p->event; i++) {
		const struct event *e = &events[i];
		uint64_t length = e->record.length;

		if (e->record.kind == RECORD_NOTE)
			put(notes, e, 0, length, note);
		if (e->record.kind != RECORD_WRITE)
			continue;
		if (e->durable < p->event) {
			put(image, e, 0, length, disk);
		} else if (random_below(&r, 100) < p->keep) {
			bool torn = random_below(&r, 4) == 0;

			for (uint64_t at = 0; at < length && torn; at += TEAR)
				if (random_below(&r, 2))
					put(image, e, at, length - at < TEAR ? length - at : TEAR, disk);
			if (!torn)
				put(image, e, 0, length, disk);
		}
	}
}

/* All of @before that is not a hole. */
static void copy(const char *before, int image, uint64_t disk, uint64_t *size)
{
	int fd = open(before, O_RDONLY | O_CLOEXEC);
	off_t at = 0, end;
	struct stat st;

	if (fd < 0 || fstat(fd, &st))
		die("%s", before);
	*size = st.st_size;
	while ((at = lseek(fd, at, SEEK_DATA)) >= 0) {
		off_t to = disk + at;

		end = lseek(fd, at, SEEK_HOLE);
		while (at < end) {
			ssize_t done = copy_file_range(fd, &at, image, &to, end - at, 0);

			if (done <= 0)
				die("copy %s", before);
		}
	}
	close(fd);
}

static int build(char **argv)
{
	uint64_t seed = strtoull(argv[0], NULL, 0), total = strtoull(argv[1], NULL, 0);
	uint64_t first = strtoull(argv[2], NULL, 0), disks = strtoull(argv[3], NULL, 0), size;
	int image = open(argv[5], O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);
	int notes = open(argv[6], O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);
	struct stat st;

	if (image < 0 || notes < 0 || stat(argv[4], &st))
		die("%s", argv[5]);
	find_durable();
	if (ftruncate(image, disks * st.st_size) || ftruncate(notes, disks * NOTES_BYTES))
		die("%s", argv[5]);
	for (uint64_t i = 0; i < disks; i++) {
		struct point p = choose(first + i, total, seed);

		if (p.mark)
			printf("# point %llu: event %llu, the end of a flush\n", (unsigned long long)(first + i),
			       (unsigned long long)p.event);
		else
			printf("# point %llu: event %llu, with %u%% of what need not be there\n",
			       (unsigned long long)(first + i), (unsigned long long)p.event, p.keep);
		copy(argv[4], image, i * st.st_size, &size);
		replay(&p, seed + first + i, image, i * st.st_size, notes, i * NOTES_BYTES);
	}
	return close(image) || close(notes) ? 1 : 0;
}

int writelog_main(int argc, char **argv)
{
	if (argc < 3)
		return 2;
	load(argv[1]);
	if (strcmp(argv[2], "count") == 0) {
		printf("%llu %llu\n", (unsigned long long)count, (unsigned long long)count_flushes());
		return 0;
	}
	return strcmp(argv[2], "build") == 0 && argc == 10 ? build(argv + 3) : 2;
}
