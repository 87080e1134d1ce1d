/*
 * The samples of every flow, for --all-samples; and one line for each flow, for --flow-summary.
 */
#ifndef TRAFFIC_SAMPLES_H
#define TRAFFIC_SAMPLES_H

#include "run.h"

/* Note where each flow of the worker that has ever moved data stands; nothing without --all-samples. */
void take_samples(struct worker *worker, nanos now);

/* Write the samples of all workers, in the order of time; false when the file cannot be written. */
bool write_samples(const struct run *run, const char *path);

/* Write the line for each flow; false when the file cannot be written. */
bool write_flow_summary(const struct run *run, const char *path);

#endif
