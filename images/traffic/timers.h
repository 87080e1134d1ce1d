/*
 * The timers of one worker: a heap of flows ordered by when they want to be woken.
 */
#ifndef TRAFFIC_TIMERS_H
#define TRAFFIC_TIMERS_H

#include "run.h"

/* Wake @flow at @at; a flow has one timer at most, the new one replaces the old. */
void timer_set(struct worker *worker, struct flow *flow, nanos at);

void timer_cancel(struct worker *worker, struct flow *flow);

/* The flow whose time has come, taken off the heap; NULL when there is none. */
struct flow *timer_due(struct worker *worker, nanos now);

/* When the earliest timer is due, or NEVER. */
nanos timer_next(const struct worker *worker);

#endif
