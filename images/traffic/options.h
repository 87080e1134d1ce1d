/*
 * The command line: neper's flags for tcp_stream and tcp_rr, and a few of our own.
 */
#ifndef TRAFFIC_OPTIONS_H
#define TRAFFIC_OPTIONS_H

#include "base.h"

enum tool_kind {
	TOOL_STREAM = 1,
	TOOL_RR = 2,
};

#define MAX_PERCENTILES 32

struct percentiles {
	double value[MAX_PERCENTILES];
	unsigned int count;
};

struct options {
	enum tool_kind tool;

	bool client;
	bool ipv4;
	bool ipv6;
	bool help;
	bool dry_run;
	bool pin_cpu;
	bool nolog;
	bool logtostderr;
	bool nonblocking;
	bool async_connect;
	bool time_wait;
	bool no_cork;
	bool reuseaddr;
	bool skip_rx_copy;
	bool enable_read;
	bool enable_write;
	bool enable_tcp_maerts;

	uint64_t num_flows;
	uint64_t num_threads;
	uint64_t num_ports;
	uint64_t control_port;
	uint64_t port;
	uint64_t source_port; /* 0: the kernel chooses */
	uint64_t maxevents;
	uint64_t listen_backlog;
	uint64_t mark;
	uint64_t buffer_size;
	uint64_t request_size;
	uint64_t response_size;
	uint64_t max_pacing_rate; /* bytes per second, 0: none */
	uint64_t connect_window;
	uint64_t seed;

	nanos test_length;
	nanos interval;
	nanos suicide_length; /* 0: none */
	nanos delay;
	nanos start_jitter;
	nanos connect_timeout;
	nanos control_timeout;

	const char *host;
	const char *local_hosts;
	const char *all_samples;
	const char *flow_summary;
	struct percentiles percentiles;
};

/*
 * Fill @options from the command line. Ends the program on --help and on anything that is not understood.
 */
void parse_options(struct options *options, enum tool_kind tool, int argc, char **argv);

/* Print every option as key=value, as they were understood. */
void print_options(const struct options *options);

#endif
