/*
 * A worker thread: connects its flows, waits for their events, and drives them through the phases.
 */
#ifndef TRAFFIC_WORKER_H
#define TRAFFIC_WORKER_H

#include "run.h"

/* The thread's function; takes a struct worker. */
void *worker_main(void *argument);

#endif
