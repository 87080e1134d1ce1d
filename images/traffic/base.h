/*
 * What every part of the traffic tools uses: time in nanoseconds, messages to the user, checked memory.
 */
#ifndef TRAFFIC_BASE_H
#define TRAFFIC_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A point on CLOCK_MONOTONIC, or a length of time, in nanoseconds. */
typedef int64_t nanos;

#define NANOS_PER_SECOND INT64_C(1000000000)
#define NANOS_PER_MILLI INT64_C(1000000)
#define NEVER INT64_MAX

/* What the programs exit with. */
enum exit_code {
	EXIT_RUN_OK = 0,
	EXIT_RUN_FAILED = 1, /* the run broke: the peer was lost, no flow connected, a deadline passed */
	EXIT_BAD_USAGE = 2,  /* the command line cannot be carried out here */
};

nanos now_ns(void);
double to_seconds(nanos length);
nanos from_seconds(double seconds);

/* Sleep for @length, on through signals. */
void sleep_for(nanos length);

/* Print a line "PROGRAM: ..." to standard error. */
__attribute__((format(printf, 1, 2))) void complain(const char *format, ...);

/* Complain and end the program at once with @code. */
__attribute__((format(printf, 2, 3), noreturn)) void die(enum exit_code code, const char *format, ...);

/* Zeroed memory for @count things of @size bytes; ends the program when there is none. */
void *allocate(size_t count, size_t size);

/* Grow @memory to @count things of @size bytes; ends the program when there is no memory. */
void *reallocate(void *memory, size_t count, size_t size);

/* A number that depends on @seed and @index alone, evenly spread over all 64 bits. */
uint64_t scramble(uint64_t seed, uint64_t index);

extern const char *program_name;

#endif
