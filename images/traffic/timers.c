/*
 * The timers of one worker: a heap of flows ordered by when they want to be woken.
 */
#include "timers.h"

static void put(struct worker *worker, uint32_t index, struct flow *flow)
{
	worker->heap[index] = flow;
	flow->heap_index = index;
}

static void sift_up(struct worker *worker, uint32_t index, struct flow *flow)
{
	for (; index > 1 && worker->heap[index / 2]->wake_at > flow->wake_at; index /= 2)
		put(worker, index, worker->heap[index / 2]);
	put(worker, index, flow);
}

static void sift_down(struct worker *worker, uint32_t index, struct flow *flow)
{
	for (uint32_t child; (child = 2 * index) <= worker->heap_count; index = child) {
		if (child < worker->heap_count &&
		    worker->heap[child + 1]->wake_at < worker->heap[child]->wake_at)
			child++;
		if (worker->heap[child]->wake_at >= flow->wake_at)
			break;
		put(worker, index, worker->heap[child]);
	}
	put(worker, index, flow);
}

void timer_cancel(struct worker *worker, struct flow *flow)
{
	uint32_t index = flow->heap_index;
	struct flow *last;

	if (!index)
		return;
	flow->heap_index = 0;
	last = worker->heap[worker->heap_count--];
	if (last == flow)
		return;
	if (index > 1 && worker->heap[index / 2]->wake_at > last->wake_at)
		sift_up(worker, index, last);
	else
		sift_down(worker, index, last);
}

void timer_set(struct worker *worker, struct flow *flow, nanos at)
{
	timer_cancel(worker, flow);
	flow->wake_at = at;
	sift_up(worker, ++worker->heap_count, flow);
}

struct flow *timer_due(struct worker *worker, nanos now)
{
	struct flow *flow;

	if (!worker->heap_count || worker->heap[1]->wake_at > now)
		return NULL;
	flow = worker->heap[1];
	timer_cancel(worker, flow);
	return flow;
}

nanos timer_next(const struct worker *worker)
{
	return worker->heap_count ? worker->heap[1]->wake_at : NEVER;
}
