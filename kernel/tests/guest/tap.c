// SPDX-License-Identifier: GPL-2.0
#include "tap.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int tap_failures;

bool ok(bool condition, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs(condition ? "ok - " : "not ok - ", stdout);
	vprintf(format, args);
	putchar('\n');
	fflush(stdout);
	va_end(args);
	if (!condition)
		tap_failures++;
	return condition;
}

static const char *value(int64_t v, char *text, size_t size)
{
	if (v < 0 && v > -4096)
		snprintf(text, size, "%s", strerrorname_np(-(int)v) ?: "?");
	else
		snprintf(text, size, "%lld", (long long)v);
	return text;
}

bool is(int64_t got, int64_t wanted, const char *format, ...)
{
	char a[32], b[32];
	va_list args;

	va_start(args, format);
	fputs(got == wanted ? "ok - " : "not ok - ", stdout);
	vprintf(format, args);
	if (got != wanted)
		printf(" (%s instead of %s)", value(got, a, sizeof(a)), value(wanted, b, sizeof(b)));
	putchar('\n');
	fflush(stdout);
	va_end(args);
	if (got != wanted)
		tap_failures++;
	return got == wanted;
}

void die(const char *format, ...)
{
	int error = errno;
	va_list args;

	va_start(args, format);
	fputs("not ok - set-up: ", stdout);
	vprintf(format, args);
	printf(" (%s)\n", strerror(error));
	fflush(stdout);
	va_end(args);
	exit(1);
}

uint64_t random_next(struct random *r)
{
	uint64_t z = (r->state += 0x9e3779b97f4a7c15ull);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

uint64_t random_below(struct random *r, uint64_t bound)
{
	return random_next(r) % bound;
}

uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + t.tv_nsec;
}
