/*
 * How fast a worker opens its flows: quickly where the path is long, gently where a queue or a slow server fills up.
 */
#ifndef TRAFFIC_PACE_H
#define TRAFFIC_PACE_H

#include "run.h"

void pace_init(struct pace *pace, const struct options *options, uint32_t workers);

/* May another connect begin now? */
bool pace_allows(const struct pace *pace);

/* A connect began. */
void pace_began(struct pace *pace);

/* It came to an end in time, connected after @took or failed. */
void pace_connected(struct pace *pace, nanos took);
void pace_failed(struct pace *pace);

/* After how long a connect is overdue: it is then no longer waited for. */
nanos pace_patience(const struct pace *pace);
void pace_overdue(struct pace *pace);

#endif
