/*
 * A worker thread: connects its flows, waits for their events, and drives them through the phases.
 */
#include "worker.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "net.h"
#include "pace.h"
#include "samples.h"
#include "timers.h"

#define CONNECT_RETRY_AFTER (200 * NANOS_PER_MILLI)

static enum phase phase_of(const struct run *run)
{
	return (enum phase)atomic_load_explicit(&run->phase, memory_order_acquire);
}

bool flow_counts(const struct worker *worker)
{
	return phase_of(worker->run) == PHASE_DATA;
}

void flow_watch(struct worker *worker, struct flow *flow, uint32_t events)
{
	struct epoll_event wanted = {.events = events, .data.ptr = flow};

	if (flow->events == events)
		return;
	epoll_ctl(worker->epoll_fd, EPOLL_CTL_MOD, flow->fd, &wanted);
	flow->events = events;
}

void flow_pause(struct worker *worker, struct flow *flow, nanos until)
{
	timer_set(worker, flow, until);
}

void count_things(struct worker *worker, uint64_t things)
{
	uint64_t before = atomic_load_explicit(&worker->total, memory_order_relaxed);

	atomic_store_explicit(&worker->total, before + things, memory_order_relaxed);
}

void flow_progress(struct worker *worker, struct flow *flow, nanos now)
{
	struct run *run = worker->run;
	int64_t started = atomic_load_explicit(&run->started_at, memory_order_relaxed);
	nanos before = flow->last_at;

	/* A server's test begins with the first byte, should that overtake the client's "start". */
	if (!started) {
		if (atomic_compare_exchange_strong(&run->started_at, &started, now)) {
			started = now;
			wake(run->wake_fd);
		}
	}
	if (!flow->first_at) {
		flow->first_at = now;
		before = started;
	}
	if (now - before > flow->longest_gap)
		flow->longest_gap = now - before;
	flow->last_at = now;
}

static void close_flow(struct worker *worker, struct flow *flow)
{
	timer_cancel(worker, flow);
	close(flow->fd); /* takes it out of the epoll set, too */
	flow->fd = -1;
	flow->state = FLOW_CLOSED;
}

/* The other end closed the flow, or the connection failed for good. */
void flow_broken(struct worker *worker, struct flow *flow)
{
	if (phase_of(worker->run) < PHASE_FROZEN)
		flow->reset = true;
	else
		atomic_fetch_add(&worker->run->gone, 1);
	close_flow(worker, flow);
	if (phase_of(worker->run) >= PHASE_FROZEN)
		wake(worker->run->wake_fd);
}

static void start_flow(struct worker *worker, struct flow *flow)
{
	const struct options *options = worker->run->options;

	flow->state = FLOW_RUNNING;
	if (options->start_jitter && options->client) {
		double share = (double)(scramble(options->seed, flow->id) >> 11) / 0x1p53;

		flow_pause(worker, flow, now_ns() + (nanos)(share * (double)options->start_jitter));
		flow_watch(worker, flow, options->enable_read && options->tool == TOOL_STREAM ? EPOLLIN : 0);
		return;
	}
	worker->run->tool->start(worker, flow);
}

static void flow_connected(struct worker *worker, struct flow *flow)
{
	struct run *run = worker->run;

	flow->state = FLOW_READY;
	flow->connected_at = now_ns();
	timer_cancel(worker, flow);
	if (!flow->overdue)
		pace_connected(&worker->pace, flow->connected_at - flow->connect_began_at);
	if (atomic_fetch_add(&run->connected, 1) + 1 == run->flow_count)
		wake(run->wake_fd);
	if (phase_of(run) == PHASE_DATA)
		start_flow(worker, flow);
	else
		flow_watch(worker, flow, 0);
}

static void connect_failed(struct worker *worker, struct flow *flow, int error)
{
	worker->connect_error = error;
	if (!flow->overdue)
		pace_failed(&worker->pace);
	flow->connect_retries++;
	flow->fd = -1;
	flow->state = FLOW_UNUSED;
	timer_set(worker, flow, now_ns() + CONNECT_RETRY_AFTER);
}

static void connect_flow(struct worker *worker, struct flow *flow)
{
	struct epoll_event wanted = {.events = EPOLLOUT, .data.ptr = flow};
	bool done;

	pace_began(&worker->pace);
	flow->overdue = false;
	flow->connect_began_at = now_ns();
	flow->fd = begin_connect(worker->run, flow->id, &done);
	if (flow->fd == -1) {
		connect_failed(worker, flow, errno);
		return;
	}
	flow->state = FLOW_CONNECTING;
	flow->events = wanted.events;
	if (epoll_ctl(worker->epoll_fd, EPOLL_CTL_ADD, flow->fd, &wanted) == -1) {
		int error = errno;

		close(flow->fd);
		connect_failed(worker, flow, error);
	} else if (done) {
		flow_connected(worker, flow);
	} else {
		timer_set(worker, flow, flow->connect_began_at + pace_patience(&worker->pace));
	}
}

static void connect_finished(struct worker *worker, struct flow *flow)
{
	int error = 0;
	socklen_t length = sizeof(error);

	getsockopt(flow->fd, SOL_SOCKET, SO_ERROR, &error, &length);
	if (!error) {
		flow_connected(worker, flow);
		return;
	}
	close(flow->fd);
	connect_failed(worker, flow, error);
}

/* Is there a flow that has not tried to connect yet, and may it? */
static bool may_connect(const struct worker *worker)
{
	const struct run *run = worker->run;

	return run->options->client && worker->next_connect < run->flow_count && worker->seen < PHASE_FROZEN &&
	       pace_allows(&worker->pace);
}

/* Start as many connects as may start now; a few at a time, so that events are not left waiting. */
static void connect_more(struct worker *worker)
{
	for (int i = 0; i < 64 && may_connect(worker); i++) {
		struct flow *flow = &worker->run->flows[worker->next_connect];

		worker->next_connect += worker->run->worker_count;
		connect_flow(worker, flow);
	}
}

static void wake_flow(struct worker *worker, struct flow *flow)
{
	if (flow->state == FLOW_UNUSED) {
		connect_flow(worker, flow);
	} else if (flow->state == FLOW_CONNECTING) {
		flow->overdue = true;
		pace_overdue(&worker->pace);
	} else if (flow->state == FLOW_RUNNING && flow_counts(worker)) {
		worker->run->tool->resume(worker, flow);
	}
}

/* After the test: take what still comes, without counting it, until the other end closes. */
static void drain_flow(struct worker *worker, struct flow *flow, uint32_t events)
{
	ssize_t n = 1;

	/* Several reads, for the sake of the control connection that waits behind this data. */
	for (int i = 0; i < 16 && n > 0; i++)
		n = recv(flow->fd, worker->buffer, worker->run->options->buffer_size, MSG_DONTWAIT | MSG_TRUNC);
	if (n == 0 || (n == -1 && errno != EAGAIN && errno != EINTR) || (events & (EPOLLERR | EPOLLHUP)))
		flow_broken(worker, flow);
}

static void flow_event(struct worker *worker, struct flow *flow, uint32_t events, nanos now)
{
	switch (flow->state) {
	case FLOW_CONNECTING:
		connect_finished(worker, flow);
		break;
	case FLOW_READY:
		if (events & (EPOLLERR | EPOLLHUP))
			flow_broken(worker, flow);
		else if (flow_counts(worker))
			start_flow(worker, flow);
		else
			flow_watch(worker, flow, 0);
		break;
	case FLOW_RUNNING:
		if (!flow_counts(worker))
			drain_flow(worker, flow, events);
		else if (events & (EPOLLERR | EPOLLHUP) && !(events & EPOLLIN))
			flow_broken(worker, flow);
		else if (events & flow->events) /* else: of a time before it was told what to watch for */
			worker->run->tool->ready(worker, flow, events & flow->events, now);
		break;
	case FLOW_UNUSED:
	case FLOW_CLOSED:
		break;
	}
}

/* How many flows of the run there are so far. */
static uint32_t flows_so_far(const struct run *run)
{
	return run->options->client ? run->flow_count : atomic_load(&run->accepted);
}

static void begin_data(struct worker *worker)
{
	struct run *run = worker->run;

	for (uint32_t id = worker->index; id < flows_so_far(run); id += run->worker_count)
		if (run->flows[id].state == FLOW_READY)
			start_flow(worker, &run->flows[id]);
}

static void freeze(struct worker *worker)
{
	struct run *run = worker->run;
	nanos started = atomic_load(&run->started_at), frozen = atomic_load(&run->frozen_at);

	take_samples(worker, frozen);
	for (uint32_t id = worker->index; id < flows_so_far(run); id += run->worker_count) {
		struct flow *flow = &run->flows[id];
		nanos quiet = frozen - (flow->first_at ? flow->last_at : started);

		if (started && quiet > flow->longest_gap)
			flow->longest_gap = quiet;
		timer_cancel(worker, flow);
		if (flow->state == FLOW_CONNECTING || flow->state == FLOW_UNUSED) {
			if (flow->state == FLOW_CONNECTING)
				close(flow->fd);
			flow->fd = -1;
			flow->state = FLOW_UNUSED;
		} else if (flow->state != FLOW_CLOSED) {
			flow->state = FLOW_RUNNING;
			flow_watch(worker, flow, EPOLLIN);
		}
	}
	atomic_fetch_add(&run->frozen_workers, 1);
	wake(run->wake_fd);
}

/* The end of the test takes the last sample, so none is due shortly before. */
static void schedule_tick(struct worker *worker, nanos now)
{
	const struct run *run = worker->run;
	nanos interval = run->options->interval, started = atomic_load(&run->started_at);

	while (worker->next_tick <= now)
		worker->next_tick += interval;
	if (started && worker->next_tick > started + run->length - interval / 2)
		worker->next_tick = NEVER;
}

static void follow_phase(struct worker *worker)
{
	enum phase now = phase_of(worker->run);

	if (worker->seen < PHASE_DATA && now >= PHASE_DATA) {
		worker->next_tick = now_ns();
		schedule_tick(worker, worker->next_tick);
		if (now == PHASE_DATA)
			begin_data(worker);
	}
	if (worker->seen < PHASE_FROZEN && now >= PHASE_FROZEN)
		freeze(worker);
	worker->seen = now;
}

static void run_due_timers(struct worker *worker)
{
	nanos now = now_ns();
	struct flow *flow;

	while ((flow = timer_due(worker, now)))
		wake_flow(worker, flow);
	connect_more(worker);
	if (worker->run->sampling && worker->seen == PHASE_DATA && now >= worker->next_tick) {
		take_samples(worker, now);
		schedule_tick(worker, now);
	}
}

/* Set the timer to the earliest thing that is to happen without an event. */
static void set_timer(struct worker *worker)
{
	nanos at = may_connect(worker) ? 0 : timer_next(worker);
	struct itimerspec setting = {.it_value.tv_nsec = 0};

	if (worker->run->sampling && worker->seen == PHASE_DATA && worker->next_tick < at)
		at = worker->next_tick;
	if (at == worker->timer_at)
		return;
	worker->timer_at = at;
	if (at != NEVER) {
		setting.it_value.tv_sec = at / NANOS_PER_SECOND;
		setting.it_value.tv_nsec = at % NANOS_PER_SECOND;
		if (at <= 0)
			setting.it_value.tv_nsec = 1; /* at once; all zeros would turn the timer off */
	}
	timerfd_settime(worker->timer_fd, TFD_TIMER_ABSTIME, &setting, NULL);
}

void *worker_main(void *argument)
{
	struct worker *worker = argument;
	int room = (int)worker->run->options->maxevents;
	struct epoll_event *events = allocate((size_t)room, sizeof(*events));

	while (phase_of(worker->run) != PHASE_QUIT) {
		uint64_t ignored;
		nanos now;
		int n;

		set_timer(worker);
		n = epoll_wait(worker->epoll_fd, events, room, -1);
		now = now_ns();
		follow_phase(worker);
		for (int i = 0; i < n; i++) {
			if (events[i].data.ptr == &worker->wake_fd) {
				if (read(worker->wake_fd, &ignored, sizeof(ignored)) == -1)
					continue;
			} else if (events[i].data.ptr == &worker->timer_fd) {
				worker->timer_at = NEVER - 1; /* what is set now has expired */
				if (read(worker->timer_fd, &ignored, sizeof(ignored)) == -1)
					continue;
			} else {
				flow_event(worker, events[i].data.ptr, events[i].events, now);
			}
		}
		run_due_timers(worker);
	}
	follow_phase(worker);
	free(events);
	return NULL;
}
