/*
 * Reading one value of the command line: whole numbers, times, rates, lists of percentiles.
 */
#include "values.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LONGEST_TIME (366.0 * 86400.0)

bool read_number(const char *text, uint64_t lowest, uint64_t highest, uint64_t *out)
{
	unsigned long long value;
	char *end;

	/* strtoull() takes "-1" for a huge number. */
	if (!isdigit((unsigned char)*text))
		return false;
	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno || *end || value < lowest || value > highest)
		return false;
	*out = value;
	return true;
}

/* A finite decimal number that is not negative; *@end is what follows it. */
static bool read_decimal(const char *text, double *out, char **end)
{
	double value;

	if (!isdigit((unsigned char)*text) && *text != '.')
		return false;
	errno = 0;
	value = strtod(text, end);
	if (*end == text || errno || !isfinite(value) || value < 0)
		return false;
	*out = value;
	return true;
}

bool read_seconds(const char *text, nanos *out)
{
	double value;
	char *end;

	if (!read_decimal(text, &value, &end) || *end || value > LONGEST_TIME)
		return false;
	*out = from_seconds(value);
	return true;
}

/* What a suffix stands for. */
struct unit {
	const char *suffix;
	double scale;
};

/* Read a number and one of a list of suffixes that ends with a NULL. */
static bool read_scaled(const char *text, const struct unit *units, double *out)
{
	char *end;

	if (!read_decimal(text, out, &end))
		return false;
	for (; units->suffix; units++) {
		if (!strcmp(end, units->suffix)) {
			*out *= units->scale;
			return true;
		}
	}
	return false;
}

bool read_duration(const char *text, nanos *out)
{
	static const struct unit units[] = {{"", 1}, {"ns", 1}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}, {NULL, 0}};
	double value;

	if (!read_scaled(text, units, &value) || value > LONGEST_TIME * 1e9)
		return false;
	*out = (nanos)(value + 0.5);
	return true;
}

bool read_rate(const char *text, uint64_t *out)
{
	static const struct unit units[] = {{"", 1}, {"kbit", 125}, {"mbit", 125e3}, {"gbit", 125e6}, {NULL, 0}};
	double value;

	if (!read_scaled(text, units, &value) || value >= 1e18)
		return false;
	*out = (uint64_t)value;
	return true;
}

bool read_percentiles(const char *text, struct percentiles *out)
{
	struct percentiles list = {.count = 0};
	char *end;

	for (;; text = end + 1) {
		double value;

		if (list.count == MAX_PERCENTILES || !read_decimal(text, &value, &end) || (*end && *end != ','))
			return false;
		if (value == 999 || value == 9999)
			value = value == 999 ? 99.9 : 99.99;
		if (value > 100)
			return false;
		list.value[list.count++] = value;
		if (!*end)
			break;
	}
	*out = list;
	return true;
}
