/*
 * Reading one value of the command line: whole numbers, times, rates, lists of percentiles.
 *
 * Each function returns false when @text is not such a value; *@out is then untouched.
 */
#ifndef TRAFFIC_VALUES_H
#define TRAFFIC_VALUES_H

#include "options.h"

bool read_number(const char *text, uint64_t lowest, uint64_t highest, uint64_t *out);

/* Seconds with a fraction, up to a year. */
bool read_seconds(const char *text, nanos *out);

/* A length of time: nanoseconds, or with a suffix ns, us, ms, s. */
bool read_duration(const char *text, nanos *out);

/* Bytes per second, or bits per second with a suffix kbit, mbit, gbit. */
bool read_rate(const char *text, uint64_t *out);

/* "50,99,99.9": between 0 and 100; neper's 999 and 9999 stand for 99.9 and 99.99. */
bool read_percentiles(const char *text, struct percentiles *out);

#endif
