// SPDX-License-Identifier: GPL-2.0
/* guest-tests eat MIB ROUNDS: fills so much memory with a pattern and checks it, again and again. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "tap.h"

int eat_main(int argc, char **argv)
{
	size_t words = argc > 1 ? strtoull(argv[1], NULL, 0) * (1 << 20) / 8 : 0;
	int rounds = argc > 2 ? atoi(argv[2]) : 1;
	uint64_t *memory;

	if (!words)
		return 2;
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
