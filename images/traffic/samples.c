/*
 * The samples of every flow, for --all-samples; and one line for each flow, for --flow-summary.
 */
#include "samples.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* @memory for one more than @count things of @size; doubles when full. */
static void *room_for_one(void *memory, size_t count, size_t *space, size_t size)
{
	if (count < *space)
		return memory;
	*space = *space ? 2 * *space : 256;
	return reallocate(memory, *space, size);
}

void take_samples(struct worker *worker, nanos now)
{
	const struct run *run = worker->run;
	size_t space = worker->tick_space;
	struct tick *tick;

	if (!run->sampling)
		return;
	worker->ticks = room_for_one(worker->ticks, worker->tick_count, &space, sizeof(*worker->ticks));
	worker->tick_space = (uint32_t)space;
	tick = &worker->ticks[worker->tick_count];
	tick->at = now;
	getrusage(RUSAGE_THREAD, &tick->usage);
	for (uint32_t id = worker->index; id < run->flow_count; id += run->worker_count) {
		struct flow *flow = &run->flows[id];

		if (!flow->first_at || (flow->state == FLOW_CLOSED && !flow->latency.count))
			continue;
		worker->samples = room_for_one(worker->samples, worker->sample_count, &worker->sample_space,
					       sizeof(*worker->samples));
		worker->samples[worker->sample_count++] = (struct sample){
			.flow = id,
			.tick = worker->tick_count,
			.bytes_read = flow->bytes_read,
			.transactions = flow->transactions,
			.latency = flow->latency,
		};
		flow->latency = (struct moments){.count = 0};
	}
	worker->tick_count++;
}

static void print_time(FILE *file, nanos at)
{
	fprintf(file, "%lld.%09lld", (long long)(at / NANOS_PER_SECOND), (long long)(at % NANOS_PER_SECOND));
}

static void print_usage(FILE *file, const struct rusage *usage)
{
	fprintf(file, ",%ld.%06ld,%ld.%06ld,%ld,%ld,%ld,%ld,%ld", (long)usage->ru_utime.tv_sec,
		(long)usage->ru_utime.tv_usec, (long)usage->ru_stime.tv_sec, (long)usage->ru_stime.tv_usec,
		usage->ru_maxrss, usage->ru_minflt, usage->ru_majflt, usage->ru_nvcsw, usage->ru_nivcsw);
}

/* What a flow's sample before had, to say its rate. */
struct before {
	nanos at;
	uint64_t things;
};

static void print_sample(FILE *file, const struct worker *worker, const struct sample *sample,
			 struct before *before)
{
	const struct tick *tick = &worker->ticks[sample->tick];
	bool rr = worker->run->options->tool == TOOL_RR;
	uint64_t things = rr ? sample->transactions : sample->bytes_read;
	double rate = 0;

	if (before->at && tick->at > before->at)
		rate = (double)(things - before->things) / to_seconds(tick->at - before->at);
	*before = (struct before){tick->at, things};
	fprintf(file, "%u,%u,", worker->index, sample->flow);
	print_time(file, tick->at);
	fprintf(file, ",%llu,%.2f", (unsigned long long)things, rate);
	print_usage(file, &tick->usage);
	if (rr)
		fprintf(file, ",%.9f,%.9f,%.9f,%.9f", to_seconds(sample->latency.lowest),
			moments_mean(&sample->latency), to_seconds(sample->latency.highest),
			moments_stddev(&sample->latency));
	fputc('\n', file);
}

static FILE *open_for_writing(const char *path)
{
	FILE *file = fopen(path, "we");

	if (!file)
		complain("cannot write %s: %s", path, strerror(errno));
	return file;
}

static bool finish(FILE *file, const char *path)
{
	bool good = !ferror(file);

	if (fclose(file) != 0 || !good) {
		complain("cannot write %s: %s", path, strerror(errno));
		return false;
	}
	return true;
}

bool write_samples(const struct run *run, const char *path)
{
	bool rr = run->options->tool == TOOL_RR;
	struct before *before;
	size_t *at;
	FILE *file = open_for_writing(path);

	if (!file)
		return false;
	before = allocate(run->flow_count, sizeof(*before));
	at = allocate(run->worker_count, sizeof(*at));
	fprintf(file, "tid,flow_id,time,%s,utime,stime,maxrss,minflt,majflt,nvcsw,nivcsw%s\n",
		rr ? "transactions,transactions/s" : "bytes_read,bytes_read/s",
		rr ? ",latency_min,latency_mean,latency_max,latency_stddev" : "");
	for (;;) {
		const struct worker *next = NULL;
		nanos earliest = NEVER;
		uint32_t tick;

		for (uint32_t i = 0; i < run->worker_count; i++) {
			const struct worker *worker = &run->workers[i];

			if (at[i] == worker->sample_count)
				continue;
			if (worker->ticks[worker->samples[at[i]].tick].at < earliest) {
				earliest = worker->ticks[worker->samples[at[i]].tick].at;
				next = worker;
			}
		}
		if (!next)
			break;
		tick = next->samples[at[next->index]].tick;
		while (at[next->index] < next->sample_count && next->samples[at[next->index]].tick == tick) {
			const struct sample *sample = &next->samples[at[next->index]++];

			print_sample(file, next, sample, &before[sample->flow]);
		}
	}
	free(before);
	free(at);
	return finish(file, path);
}

static double since(nanos start, nanos at)
{
	return at ? to_seconds(at - start) : -1;
}

bool write_flow_summary(const struct run *run, const char *path)
{
	nanos start = atomic_load(&run->started_at);
	FILE *file = open_for_writing(path);

	if (!file)
		return false;
	fputs("flow_id,tid,bytes_read,bytes_written,transactions,connect_retries,connected,first_progress,"
	      "last_progress,longest_gap,reset\n",
	      file);
	for (uint32_t id = 0; id < run->flow_count; id++) {
		const struct flow *flow = &run->flows[id];

		fprintf(file, "%u,%u,%llu,%llu,%llu,%u,%d,%.6f,%.6f,%.6f,%d\n", id, id % run->worker_count,
			(unsigned long long)flow->bytes_read, (unsigned long long)flow->bytes_written,
			(unsigned long long)flow->transactions, flow->connect_retries, flow->connected_at != 0,
			since(start, flow->first_at), since(start, flow->last_at), to_seconds(flow->longest_gap),
			flow->reset);
	}
	return finish(file, path);
}
