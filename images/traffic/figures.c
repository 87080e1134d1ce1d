/*
 * What one end has measured: computed once nothing counts any more, sent to the other end, printed.
 */
#include "figures.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "samples.h"

/* The figures by name, as they go over the control connection and into the output. */
static const struct {
	const char *name;
	size_t offset;
	const char *format;
} named[] = {
	{"bytes_read", offsetof(struct figures, bytes_read), "%.0f"},
	{"bytes_written", offsetof(struct figures, bytes_written), "%.0f"},
	{"transactions", offsetof(struct figures, transactions), "%.0f"},
	{"flows_connected", offsetof(struct figures, flows_connected), "%.0f"},
	{"flows_without_data", offsetof(struct figures, flows_without_data), "%.0f"},
	{"flows_reset", offsetof(struct figures, flows_reset), "%.0f"},
	{"jain_index", offsetof(struct figures, jain_index), "%.6f"},
	{"longest_gap", offsetof(struct figures, longest_gap), "%.6f"},
	{"test_seconds", offsetof(struct figures, test_seconds), "%.6f"},
	{"throughput", offsetof(struct figures, throughput), "%.2f"},
};

#define NAMED (sizeof(named) / sizeof(named[0]))

static double value_of(const struct figures *figures, size_t i)
{
	return *(const double *)(const void *)((const char *)figures + named[i].offset);
}

void correlation_note(struct correlation *correlation, const struct run *run, nanos now)
{
	uint64_t total = 0;

	for (uint32_t i = 0; i < run->worker_count; i++)
		total += atomic_load_explicit(&run->workers[i].total, memory_order_relaxed);
	if (correlation->count == correlation->space) {
		correlation->space = correlation->space ? 2 * correlation->space : 64;
		correlation->points =
			reallocate(correlation->points, correlation->space, sizeof(*correlation->points));
	}
	correlation->points[correlation->count++] = (struct progress){now, total};
}

/* Pearson's coefficient of amount and time: 1 when the rate never changed. */
static double coefficient(const struct correlation *correlation)
{
	double n = (double)correlation->count, mean_x = 0, mean_y = 0, xx = 0, yy = 0, xy = 0;
	const struct progress *points = correlation->points;

	for (size_t i = 0; i < correlation->count; i++) {
		mean_x += to_seconds(points[i].at - points[0].at) / n;
		mean_y += (double)points[i].total / n;
	}
	for (size_t i = 0; i < correlation->count; i++) {
		double x = to_seconds(points[i].at - points[0].at) - mean_x, y = (double)points[i].total - mean_y;

		xx += x * x;
		yy += y * y;
		xy += x * y;
	}
	return xx > 0 && yy > 0 ? xy / sqrt(xx * yy) : 0;
}

/* What a flow of this run moves: transactions, bytes read, or where it only writes, bytes written. */
static double amount(const struct run *run, const struct flow *flow)
{
	if (run->options->tool == TOOL_RR)
		return (double)flow->transactions;
	return (double)(run->reading ? flow->bytes_read : flow->bytes_written);
}

struct figures figures_of(const struct run *run)
{
	nanos started = atomic_load(&run->started_at), frozen = atomic_load(&run->frozen_at);
	nanos length = started && frozen > started ? frozen - started : 0;
	struct figures figures = {.test_seconds = to_seconds(length)};
	double sum = 0, squares = 0;

	for (uint32_t id = 0; id < run->flow_count; id++) {
		const struct flow *flow = &run->flows[id];
		double moved = amount(run, flow), gap = to_seconds(flow->first_at ? flow->longest_gap : length);

		sum += moved;
		squares += moved * moved;
		figures.bytes_read += (double)flow->bytes_read;
		figures.bytes_written += (double)flow->bytes_written;
		figures.transactions += (double)flow->transactions;
		figures.flows_connected += flow->connected_at != 0;
		figures.flows_without_data += !flow->first_at;
		figures.flows_reset += flow->reset;
		if (gap > figures.longest_gap)
			figures.longest_gap = gap;
	}
	if (squares > 0)
		figures.jain_index = sum * sum / ((double)run->flow_count * squares);
	if (length)
		figures.throughput = (run->options->tool == TOOL_RR ? figures.transactions : 8 * figures.bytes_read) /
				     figures.test_seconds;
	return figures;
}

void figures_message(const struct figures *figures, const char *word, char message[MESSAGE_MAX])
{
	int length = snprintf(message, MESSAGE_MAX, "%s", word);

	for (size_t i = 0; i < NAMED && length < MESSAGE_MAX; i++)
		length += snprintf(message + length, (size_t)(MESSAGE_MAX - length), " %s=%.17g", named[i].name,
				   value_of(figures, i));
}

bool figures_from_message(struct figures *figures, const char *message)
{
	for (size_t i = 0; i < NAMED; i++)
		if (!message_number(message, named[i].name, (double *)(void *)((char *)figures + named[i].offset)))
			return false;
	return true;
}

static void print_usage(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	printf("utime_end=%ld.%06ld\n", (long)usage.ru_utime.tv_sec, (long)usage.ru_utime.tv_usec);
	printf("stime_end=%ld.%06ld\n", (long)usage.ru_stime.tv_sec, (long)usage.ru_stime.tv_usec);
	printf("maxrss_end=%ld\n", usage.ru_maxrss);
	printf("minflt_end=%ld\nmajflt_end=%ld\n", usage.ru_minflt, usage.ru_majflt);
	printf("nvcsw_end=%ld\nnivcsw_end=%ld\n", usage.ru_nvcsw, usage.ru_nivcsw);
}

static void print_time(const char *name, nanos at)
{
	printf("%s=%lld.%09lld\n", name, (long long)(at / NANOS_PER_SECOND), (long long)(at % NANOS_PER_SECOND));
}

static void print_latencies(const struct run *run)
{
	const struct percentiles *percentiles = &run->options->percentiles;
	struct histogram *all = allocate(1, sizeof(*all));

	for (uint32_t i = 0; i < run->worker_count; i++)
		histogram_merge(all, run->workers[i].latency);
	if (all->moments.count) {
		printf("latency_min=%.9f\n", to_seconds(all->moments.lowest));
		printf("latency_max=%.9f\n", to_seconds(all->moments.highest));
		printf("latency_mean=%.9f\n", moments_mean(&all->moments));
		printf("latency_stddev=%.9f\n", moments_stddev(&all->moments));
		for (unsigned int i = 0; i < percentiles->count; i++)
			printf("latency_p%g=%.9f\n", percentiles->value[i],
			       histogram_percentile(all, percentiles->value[i]));
	}
	free(all);
}

static void print_connects(const struct run *run)
{
	nanos last = run->begun_at;
	uint64_t retries = 0;
	int error = 0;

	for (uint32_t id = 0; id < run->flow_count; id++) {
		retries += run->flows[id].connect_retries;
		if (run->flows[id].connected_at > last)
			last = run->flows[id].connected_at;
	}
	for (uint32_t i = 0; i < run->worker_count; i++)
		error = run->workers[i].connect_error ? run->workers[i].connect_error : error;
	printf("connect_retries=%llu\n", (unsigned long long)retries);
	printf("connect_seconds=%.6f\n", to_seconds(last - run->begun_at));
	if (error)
		printf("connect_error=%s\n", strerror(error));
}

static void print_figures(const struct figures *figures, const char *prefix)
{
	/* Throughput comes last in the table: it has its own place and form in the output. */
	for (size_t i = 0; i + 1 < NAMED; i++) {
		printf("%s%s=", prefix, named[i].name);
		printf(named[i].format, value_of(figures, i));
		putchar('\n');
	}
}

void print_results(const struct run *run, const struct figures *local, const struct figures *remote,
		   const struct correlation *correlation)
{
	bool rr = run->options->tool == TOOL_RR;

	print_time("time_start", atomic_load(&run->started_at));
	print_time("time_end", atomic_load(&run->frozen_at));
	print_usage();
	if (rr)
		printf("num_transactions=%.0f\n", local->transactions);
	if (rr && run->options->client)
		print_latencies(run);
	if (run->options->client)
		print_connects(run);
	print_figures(local, "");
	if (remote)
		print_figures(remote, "remote_");
	if (run->reading || rr) {
		printf("correlation_coefficient=%.2f\n", coefficient(correlation));
		printf("throughput=%.2f\n", rr ? local->throughput : local->throughput / 1e6);
		if (!rr)
			printf("throughput_units=Mbit/s\n");
	}
	printf("local_throughput=%.0f\n", local->throughput);
	if (remote)
		printf("remote_throughput=%.0f\n", remote->throughput);
	if (run->failure[0])
		printf("error=%s\n", run->failure);
	fflush(stdout);
}

bool write_files(const struct run *run)
{
	bool good = true;

	if (run->sampling)
		good = write_samples(run, run->options->all_samples);
	if (run->options->flow_summary)
		good = write_flow_summary(run, run->options->flow_summary) && good;
	return good;
}
