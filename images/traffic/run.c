/*
 * A run as a whole: starting the threads, moving them from phase to phase, closing what is left.
 */
#include "run.h"

#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "pace.h"
#include "worker.h"

#define WORKER_STACK (256 * 1024)

/* Closing thousands of connections at once would throw a burst of resets into the network's queues. */
#define CLOSE_BURST 64
#define CLOSE_PAUSE NANOS_PER_MILLI

void run_fail(struct run *run, const char *format, ...)
{
	va_list arguments;

	if (run->failure[0])
		return;
	va_start(arguments, format);
	vsnprintf(run->failure, sizeof(run->failure), format, arguments);
	va_end(arguments);
}

void wake(int event_fd)
{
	uint64_t one = 1;

	/* The only failure is a full counter, and then the reader is woken anyway. */
	if (write(event_fd, &one, sizeof(one)) == -1)
		return;
}

static void watch_own(const struct worker *worker, int fd, const void *mark)
{
	struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = (void *)(uintptr_t)mark};

	if (epoll_ctl(worker->epoll_fd, EPOLL_CTL_ADD, fd, &wanted) == -1)
		die(EXIT_RUN_FAILED, "epoll_ctl: %s", strerror(errno));
}

static void prepare_worker(struct run *run, uint32_t index)
{
	struct worker *worker = &run->workers[index];
	const struct options *options = run->options;

	worker->run = run;
	worker->index = index;
	worker->next_connect = index;
	worker->timer_at = NEVER;
	pace_init(&worker->pace, options, run->worker_count);
	worker->heap = allocate(run->flow_count / run->worker_count + 2, sizeof(struct flow *));
	worker->buffer = allocate(options->buffer_size, 1);
	for (size_t i = 0; i < options->buffer_size; i++)
		worker->buffer[i] = (char)scramble(options->seed, i);
	if (options->tool == TOOL_RR && options->client)
		worker->latency = allocate(1, sizeof(*worker->latency));
	worker->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	worker->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	worker->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (worker->epoll_fd == -1 || worker->wake_fd == -1 || worker->timer_fd == -1)
		die(EXIT_RUN_FAILED, "cannot prepare a thread: %s", strerror(errno));
	watch_own(worker, worker->wake_fd, &worker->wake_fd);
	watch_own(worker, worker->timer_fd, &worker->timer_fd);
}

/* Pin the thread to one of the processors this process may use, in turn. */
static void pin(const struct worker *worker)
{
	cpu_set_t allowed, one;
	uint32_t skip;

	if (sched_getaffinity(0, sizeof(allowed), &allowed) == -1)
		return;
	skip = worker->index % (uint32_t)CPU_COUNT(&allowed);
	for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &allowed) || skip--)
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		pthread_setaffinity_np(worker->thread, sizeof(one), &one);
		return;
	}
}

void run_start_workers(struct run *run)
{
	const struct options *options = run->options;
	pthread_attr_t attributes;

	run->flows = allocate(run->flow_count, sizeof(*run->flows));
	for (uint32_t id = 0; id < run->flow_count; id++)
		run->flows[id] = (struct flow){.fd = -1, .id = id};
	run->worker_count = options->num_threads < run->flow_count ? (uint32_t)options->num_threads : run->flow_count;
	run->workers = allocate(run->worker_count, sizeof(*run->workers));
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, WORKER_STACK);
	for (uint32_t i = 0; i < run->worker_count; i++)
		prepare_worker(run, i);
	for (uint32_t i = 0; i < run->worker_count; i++) {
		struct worker *worker = &run->workers[i];
		int error = pthread_create(&worker->thread, &attributes, worker_main, worker);

		if (error)
			die(EXIT_RUN_FAILED, "cannot start a thread: %s", strerror(error));
		if (options->pin_cpu)
			pin(worker);
	}
	pthread_attr_destroy(&attributes);
}

void run_set_phase(struct run *run, enum phase phase)
{
	atomic_store(&run->phase, phase);
	for (uint32_t i = 0; i < run->worker_count; i++)
		wake(run->workers[i].wake_fd);
}

void run_freeze(struct run *run)
{
	atomic_store(&run->frozen_at, now_ns());
	run_set_phase(run, PHASE_FROZEN);
	while (atomic_load(&run->frozen_workers) < run->worker_count)
		sleep_for(NANOS_PER_MILLI / 5);
}

void run_join_workers(struct run *run)
{
	run_set_phase(run, PHASE_QUIT);
	for (uint32_t i = 0; i < run->worker_count; i++)
		pthread_join(run->workers[i].thread, NULL);
}

void run_close_flows(struct run *run)
{
	uint32_t burst = 0;

	for (uint32_t id = 0; id < run->flow_count; id++) {
		struct flow *flow = &run->flows[id];

		if (flow->fd == -1)
			continue;
		close(flow->fd);
		flow->fd = -1;
		if (++burst % CLOSE_BURST == 0)
			sleep_for(CLOSE_PAUSE);
	}
}

void run_free(struct run *run)
{
	for (uint32_t i = 0; i < run->worker_count; i++) {
		struct worker *worker = &run->workers[i];

		close(worker->epoll_fd);
		close(worker->wake_fd);
		close(worker->timer_fd);
		free(worker->heap);
		free(worker->buffer);
		free(worker->latency);
		free(worker->samples);
		free(worker->ticks);
	}
	free(run->workers);
	free(run->flows);
	free(run->local);
	close(run->wake_fd);
	close(run->signal_fd);
}
