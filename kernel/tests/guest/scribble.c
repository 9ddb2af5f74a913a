// SPDX-License-Identifier: GPL-2.0
/*
 * scribble FILE SECONDS: changes pages of a mapped file without a pause, while they are being written. Who makes checksums of
 * what it writes finds damage later, unless it was promised that pages stay as they are meanwhile.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tap.h"

#define PAGES 64

static uint64_t *words;
static atomic_bool over;

static void *scribble(void *argument)
{
	struct random r = { (uintptr_t)argument };

	while (!over)
		words[random_below(&r, PAGES * 512)] = random_next(&r);
	return NULL;
}

int scribble_main(int argc, char **argv)
{
	uint64_t end, syncs = 0;
	pthread_t ids[2];
	int fd;

	if (argc < 3)
		return 2;
	fd = open(argv[1], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, PAGES * 4096))
		die("%s", argv[1]);
	words = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (words == MAP_FAILED)
		die("mmap");
	for (uintptr_t i = 0; i < 2; i++)
		if (pthread_create(&ids[i], NULL, scribble, (void *)(i + 1)))
			die("pthread_create");
	for (end = now_ns() + strtoull(argv[2], NULL, 10) * 1000000000ull; now_ns() < end; syncs++)
		if (fdatasync(fd))
			die("fdatasync");
	over = true;
	for (int i = 0; i < 2; i++)
		pthread_join(ids[i], NULL);
	printf("# %llu times written\n", (unsigned long long)syncs);
	return close(fd) != 0;
}
