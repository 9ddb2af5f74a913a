/* SPDX-License-Identifier: GPL-2.0 */
/* Results as TAP lines on standard output. */
#ifndef TAP_H
#define TAP_H

#include <stdbool.h>
#include <stdint.h>

extern int tap_failures;

/* One case; @format names it. Returns @condition. */
bool ok(bool condition, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The same for a result against the expected one: values >= 0 or -errno. */
bool is(int64_t got, int64_t wanted, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Cannot go on: a broken set-up is a failed run. */
void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* The commands of the program: argv[1], arguments behind it. They return the exit status. */
struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *usage;
};
int abi_main(int argc, char **argv);
int control_main(int argc, char **argv);
int fsx_main(int argc, char **argv);
int hostile_main(int argc, char **argv);
int fuzz_main(int argc, char **argv);
int image_main(int argc, char **argv);
int crash_main(int argc, char **argv);
int faults_main(int argc, char **argv);
int faults_load_main(int argc, char **argv);
int freeze_main(int argc, char **argv);
int eat_main(int argc, char **argv);
int scribble_main(int argc, char **argv);
int stack_main(int argc, char **argv);
int writelog_main(int argc, char **argv);

/* A small random generator whose every run can be repeated. */
struct random {
	uint64_t state;
};
uint64_t random_next(struct random *r);
/* 0 <= result < @bound */
uint64_t random_below(struct random *r, uint64_t bound);
uint64_t now_ns(void);

#endif
