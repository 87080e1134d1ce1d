/*
 * The state of one run: its flows, the threads that serve them, and the phase all of them are in.
 *
 * The main thread talks to the other end, accepts connections, keeps the deadlines and sets the phase. Each
 * worker thread owns every flow whose id is its own index modulo the number of threads; nobody else touches
 * a flow between the phases PHASE_CONNECT and PHASE_QUIT, except the main thread until it hands a new one over.
 */
#ifndef TRAFFIC_RUN_H
#define TRAFFIC_RUN_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "histogram.h"
#include "options.h"

enum phase {
	PHASE_CONNECT, /* flows connect and then stand still */
	PHASE_DATA,    /* flows move data, and it counts */
	PHASE_FROZEN,  /* nothing counts any more: writers are silent, readers drain */
	PHASE_QUIT,    /* threads end; flows stay open */
};

enum flow_state {
	FLOW_UNUSED,
	FLOW_CONNECTING,
	FLOW_READY, /* connected, not started */
	FLOW_RUNNING,
	FLOW_CLOSED,
};

struct flow {
	int fd;
	uint32_t id;
	enum flow_state state;
	uint32_t events;     /* what epoll watches for */
	uint32_t heap_index; /* place among its worker's timers, from 1; 0: no timer */
	nanos wake_at;

	uint64_t bytes_read;
	uint64_t bytes_written;
	uint64_t transactions;
	nanos connected_at;
	nanos first_at; /* first progress; 0: none */
	nanos last_at;  /* last progress */
	nanos longest_gap;
	uint32_t connect_retries;
	nanos connect_began_at;
	bool overdue; /* its connect no longer counts as under way */
	bool reset;   /* the other end or the network broke it while it counted */

	/* tcp_rr */
	uint64_t message_left;
	nanos request_at;
	struct moments latency; /* since the last sample */
};

struct sample {
	uint32_t flow;
	uint32_t tick;
	uint64_t bytes_read;
	uint64_t transactions;
	struct moments latency;
};

/* One moment at which a worker took samples of its flows. */
struct tick {
	nanos at;
	struct rusage usage;
};

/* How many connects a worker has under way at a time; see pace.c. */
struct pace {
	double window;
	double limit;
	uint32_t under_way;
	nanos quickest; /* connect so far; 0: none yet */
};

struct worker {
	struct run *run;
	pthread_t thread;
	uint32_t index;
	int epoll_fd;
	int wake_fd;
	int timer_fd;
	nanos timer_at; /* what timer_fd is set to; NEVER: off */
	enum phase seen;
	char *buffer;

	struct flow **heap; /* timers, earliest first; from index 1 */
	uint32_t heap_count;

	uint32_t next_connect; /* id of the next flow to connect */
	struct pace pace;
	int connect_error; /* errno of the last connect that failed; 0: none */

	struct histogram *latency; /* tcp_rr client */
	_Atomic uint64_t total;    /* bytes or transactions of its flows; only the worker writes it */

	struct sample *samples;
	size_t sample_count, sample_space;
	struct tick *ticks;
	uint32_t tick_count, tick_space;
	nanos next_tick;
};

struct endpoint {
	struct sockaddr_storage address;
	socklen_t length;
};

struct run {
	const struct options *options;
	const struct tool *tool;
	nanos begun_at;
	nanos give_up_at; /* --suicide-length */
	nanos length;     /* of the test; a server takes the client's */

	struct flow *flows;
	uint32_t flow_count;
	struct worker *workers;
	uint32_t worker_count;
	bool reading, writing;
	bool sampling;

	struct endpoint *local;
	unsigned int local_count;
	struct endpoint remote;

	_Atomic int phase;
	_Atomic int64_t started_at; /* 0: no data yet */
	_Atomic int64_t frozen_at;
	_Atomic uint32_t accepted;       /* server: flows handed over to workers */
	_Atomic uint32_t connected;      /* flows that ever connected */
	_Atomic uint32_t gone;           /* flows closed after the test by the other end */
	_Atomic uint32_t frozen_workers; /* workers that have reached PHASE_FROZEN */

	int wake_fd;   /* wakes the main thread */
	int signal_fd; /* SIGINT, SIGTERM */
	char failure[512];
};

/*
 * What tcp_stream and tcp_rr do differently with a connected flow. All run in the flow's worker.
 */
struct tool {
	enum tool_kind kind;
	const char *name;
	/* The flow may move data from now on. */
	void (*start)(struct worker *worker, struct flow *flow);
	/* epoll reports @events (EPOLLIN, EPOLLOUT) on a running flow. */
	void (*ready)(struct worker *worker, struct flow *flow, uint32_t events, nanos now);
	/* The pause of the flow is over. */
	void (*resume)(struct worker *worker, struct flow *flow);
};

extern const struct tool stream_tool;
extern const struct tool rr_tool;

/* Remember why the run failed; the first reason counts. Main thread only. */
__attribute__((format(printf, 2, 3))) void run_fail(struct run *run, const char *format, ...);

/* Make and start the workers, in PHASE_CONNECT. */
void run_start_workers(struct run *run);

/* Set the phase and tell every worker. */
void run_set_phase(struct run *run, enum phase phase);

/* End the test: set the time it ended, PHASE_FROZEN, and wait until every worker has stopped counting. */
void run_freeze(struct run *run);

/* End the workers and wait for them. */
void run_join_workers(struct run *run);

/* Close every flow that is still open. */
void run_close_flows(struct run *run);

/* Give everything back. */
void run_free(struct run *run);

void wake(int event_fd);

/* For the tools, in a worker. */
void flow_watch(struct worker *worker, struct flow *flow, uint32_t events);
void flow_progress(struct worker *worker, struct flow *flow, nanos now);
void count_things(struct worker *worker, uint64_t things);
void flow_broken(struct worker *worker, struct flow *flow);
void flow_pause(struct worker *worker, struct flow *flow, nanos until);
bool flow_counts(const struct worker *worker);

#endif
