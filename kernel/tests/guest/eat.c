// SPDX-License-Identifier: GPL-2.0
/*
 * guest-tests eat MIB ROUNDS [SPARE]: fills so much memory with a pattern and checks it, again and again. With SPARE, all memory
 * but so many MiB is held locked meanwhile: that makes a large machine small.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "tap.h"

/* Memory that can be had without swap, in MiB. */
static size_t available_mib(void)
{
	FILE *file = fopen("/proc/meminfo", "r");
	char line[128];
	size_t kib = 0;

	if (!file)
		die("/proc/meminfo");
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "MemAvailable: %zu kB", &kib) == 1)
			break;
	fclose(file);
	return kib >> 10;
}

static void hold_all_but(size_t spare)
{
	size_t available = available_mib();
	size_t bytes = available > spare ? (available - spare) << 20 : 0;

	if (bytes && mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED | MAP_POPULATE, -1, 0) == MAP_FAILED)
		die("mmap of the memory to hold");
	printf("# %zu MiB held\n", bytes >> 20);
}

int eat_main(int argc, char **argv)
{
	size_t words = argc > 1 ? strtoull(argv[1], NULL, 0) * (1 << 20) / 8 : 0;
	int rounds = argc > 2 ? atoi(argv[2]) : 1;
	uint64_t *memory;

	if (!words)
		return 2;
	if (argc > 3)
		hold_all_but(strtoull(argv[3], NULL, 0));
	memory = mmap(NULL, words * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED)
		die("mmap");
	for (int round = 1; round <= rounds; round++) {
		for (size_t i = 0; i < words; i += 64)
			for (int j = 0; j < 64; j++)
				memory[i + j] = (i + j) * 0x9e3779b97f4a7c15ull + round;
		for (size_t i = 0; i < words; i++) {
			if (memory[i] != i * 0x9e3779b97f4a7c15ull + round) {
				printf("word %zu is damaged\n", i);
				return 1;
			}
		}
	}
	return 0;
}
