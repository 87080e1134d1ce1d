/*
 * Latencies: exact count, mean, extremes; percentiles within 1 % from logarithmic buckets.
 */
#ifndef TRAFFIC_HISTOGRAM_H
#define TRAFFIC_HISTOGRAM_H

#include "base.h"

#define STEPS_BITS 7 /* each power of two is cut into this many bits' worth of steps */
#define BUCKETS ((64 - STEPS_BITS + 1) << STEPS_BITS)

/* Count, mean and spread of some times, and their extremes. */
struct moments {
	uint64_t count;
	double sum; /* of seconds */
	double squares;
	nanos lowest;
	nanos highest;
};

void moments_add(struct moments *moments, nanos time);
void moments_merge(struct moments *into, const struct moments *from);
double moments_mean(const struct moments *moments);
double moments_stddev(const struct moments *moments);

struct histogram {
	struct moments moments;
	uint64_t bucket[BUCKETS];
};

void histogram_add(struct histogram *histogram, nanos time);
void histogram_merge(struct histogram *into, const struct histogram *from);

/* The time below or at which @percent of all times are, in seconds; 0 when there is none. */
double histogram_percentile(const struct histogram *histogram, double percent);

#endif
