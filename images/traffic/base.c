/*
 * What every part of the traffic tools uses: time in nanoseconds, messages to the user, checked memory.
 */
#include "base.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

const char *program_name = "traffic";

nanos now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (nanos)now.tv_sec * NANOS_PER_SECOND + (nanos)now.tv_nsec;
}

double to_seconds(nanos length)
{
	return (double)length / (double)NANOS_PER_SECOND;
}

nanos from_seconds(double seconds)
{
	return (nanos)(seconds * (double)NANOS_PER_SECOND + 0.5);
}

void sleep_for(nanos length)
{
	struct timespec left = {.tv_sec = length / NANOS_PER_SECOND, .tv_nsec = length % NANOS_PER_SECOND};

	while (nanosleep(&left, &left) == -1 && errno == EINTR)
		;
}

__attribute__((format(printf, 1, 0))) static void complain_va(const char *format, va_list arguments)
{
	fflush(stdout);
	fprintf(stderr, "%s: ", program_name);
	vfprintf(stderr, format, arguments);
	fputc('\n', stderr);
}

void complain(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	complain_va(format, arguments);
	va_end(arguments);
}

void die(enum exit_code code, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	complain_va(format, arguments);
	va_end(arguments);
	exit(code);
}

void *allocate(size_t count, size_t size)
{
	void *memory = calloc(count ? count : 1, size);

	if (!memory)
		die(EXIT_RUN_FAILED, "out of memory (%zu x %zu bytes)", count, size);
	return memory;
}

void *reallocate(void *memory, size_t count, size_t size)
{
	void *grown = reallocarray(memory, count, size);

	if (!grown)
		die(EXIT_RUN_FAILED, "out of memory (%zu x %zu bytes)", count, size);
	return grown;
}

/* The splitmix64 generator, entered at its @index-th step. */
uint64_t scramble(uint64_t seed, uint64_t index)
{
	uint64_t z = seed + (index + 1) * UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}
