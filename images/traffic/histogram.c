/*
 * Latencies: exact count, mean, extremes; percentiles within 1 % from logarithmic buckets.
 */
#include "histogram.h"

#include <math.h>

void moments_add(struct moments *moments, nanos time)
{
	double seconds = to_seconds(time);

	if (!moments->count || time < moments->lowest)
		moments->lowest = time;
	if (!moments->count || time > moments->highest)
		moments->highest = time;
	moments->count++;
	moments->sum += seconds;
	moments->squares += seconds * seconds;
}

void moments_merge(struct moments *into, const struct moments *from)
{
	if (!from->count)
		return;
	if (!into->count || from->lowest < into->lowest)
		into->lowest = from->lowest;
	if (!into->count || from->highest > into->highest)
		into->highest = from->highest;
	into->count += from->count;
	into->sum += from->sum;
	into->squares += from->squares;
}

double moments_mean(const struct moments *moments)
{
	return moments->count ? moments->sum / (double)moments->count : 0;
}

double moments_stddev(const struct moments *moments)
{
	double mean = moments_mean(moments), variance;

	if (!moments->count)
		return 0;
	variance = moments->squares / (double)moments->count - mean * mean;
	return variance > 0 ? sqrt(variance) : 0; /* rounding can bring it just below zero */
}

/*
 * Below 2^STEPS_BITS every nanosecond has a bucket of its own; above, each power of two has 2^STEPS_BITS
 * buckets, so that a bucket is never wider than 1/128 of its value.
 */
static unsigned int bucket_of(uint64_t value)
{
	unsigned int top, shift;

	if (value < (1u << STEPS_BITS))
		return (unsigned int)value;
	top = 63u - (unsigned int)__builtin_clzll(value);
	shift = top - STEPS_BITS;
	return ((shift + 1) << STEPS_BITS) + ((unsigned int)(value >> shift) & ((1u << STEPS_BITS) - 1));
}

static double middle_of(unsigned int bucket)
{
	unsigned int shift;
	double step;

	if (bucket < (1u << STEPS_BITS))
		return bucket;
	shift = (bucket >> STEPS_BITS) - 1;
	step = (double)((1u << STEPS_BITS) + (bucket & ((1u << STEPS_BITS) - 1)));
	return ldexp(step + 0.5, (int)shift);
}

void histogram_add(struct histogram *histogram, nanos time)
{
	if (time < 0)
		time = 0;
	moments_add(&histogram->moments, time);
	histogram->bucket[bucket_of((uint64_t)time)]++;
}

void histogram_merge(struct histogram *into, const struct histogram *from)
{
	moments_merge(&into->moments, &from->moments);
	for (unsigned int i = 0; i < BUCKETS; i++)
		into->bucket[i] += from->bucket[i];
}

double histogram_percentile(const struct histogram *histogram, double percent)
{
	const struct moments *moments = &histogram->moments;
	uint64_t rank, seen = 0;
	double value = 0;

	if (!moments->count)
		return 0;
	rank = (uint64_t)ceil(percent / 100 * (double)moments->count);
	for (unsigned int i = 0; i < BUCKETS && seen < (rank ? rank : 1); i++) {
		seen += histogram->bucket[i];
		if (histogram->bucket[i])
			value = middle_of(i);
	}
	/* The middle of the outermost buckets may lie beyond what was really seen. */
	if (percent >= 100 || value > (double)moments->highest)
		value = (double)moments->highest;
	if (percent <= 0 || value < (double)moments->lowest)
		value = (double)moments->lowest;
	return value / (double)NANOS_PER_SECOND;
}
