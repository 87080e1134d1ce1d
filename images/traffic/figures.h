/*
 * What one end has measured: computed once nothing counts any more, sent to the other end, printed.
 */
#ifndef TRAFFIC_FIGURES_H
#define TRAFFIC_FIGURES_H

#include "control.h"
#include "run.h"

struct figures {
	double throughput; /* what was read, in bit/s; for tcp_rr transactions per second */
	double bytes_read;
	double bytes_written;
	double transactions;
	double flows_connected;
	double flows_without_data;
	double flows_reset;
	double jain_index;  /* fairness over flows, 1: all moved the same; 0: none moved anything */
	double longest_gap; /* seconds without progress of the flow that stood still longest */
	double test_seconds;
};

/* The totals at one moment, for the correlation of amount and time. */
struct progress {
	nanos at;
	uint64_t total;
};

struct correlation {
	struct progress *points;
	size_t count, space;
};

void correlation_note(struct correlation *correlation, const struct run *run, nanos now);

struct figures figures_of(const struct run *run);

/* Write @figures behind @word as a message for the control connection. */
void figures_message(const struct figures *figures, const char *word, char message[MESSAGE_MAX]);

/* Read them back; false when one is missing. */
bool figures_from_message(struct figures *figures, const char *message);

/* Print everything that is known at the end; @remote is NULL when the other end did not say. */
void print_results(const struct run *run, const struct figures *local, const struct figures *remote,
		   const struct correlation *correlation);

/* Write the files the command line asked for; false when one cannot be written. */
bool write_files(const struct run *run);

#endif
