/*
 * tcp_stream: bulk data, each flow sending or receiving as fast as it can.
 */
#include <errno.h>
#include <sys/epoll.h>

#include "run.h"

static uint32_t wanted_events(const struct run *run)
{
	return (run->reading ? (uint32_t)EPOLLIN : 0) | (run->writing ? (uint32_t)EPOLLOUT : 0);
}

static void stream_start(struct worker *worker, struct flow *flow)
{
	flow_watch(worker, flow, wanted_events(worker->run));
}

/* False when the flow is no more. */
static bool receive(struct worker *worker, struct flow *flow, nanos now)
{
	const struct options *options = worker->run->options;
	ssize_t n = recv(flow->fd, worker->buffer, options->buffer_size,
			 MSG_DONTWAIT | (options->skip_rx_copy ? MSG_TRUNC : 0));

	if (n > 0) {
		flow->bytes_read += (uint64_t)n;
		count_things(worker, (uint64_t)n);
		flow_progress(worker, flow, now);
		return true;
	}
	if (n == -1 && (errno == EAGAIN || errno == EINTR))
		return true;
	flow_broken(worker, flow);
	return false;
}

static void transmit(struct worker *worker, struct flow *flow, nanos now)
{
	const struct run *run = worker->run;
	int cork = run->options->no_cork ? 0 : MSG_MORE;
	ssize_t n = send(flow->fd, worker->buffer, run->options->buffer_size, MSG_DONTWAIT | MSG_NOSIGNAL | cork);

	if (n == -1) {
		if (errno != EAGAIN && errno != EINTR)
			flow_broken(worker, flow);
		return;
	}
	flow->bytes_written += (uint64_t)n;
	if (!run->reading)
		flow_progress(worker, flow, now);
	if (run->options->delay) {
		flow_watch(worker, flow, wanted_events(run) & ~(uint32_t)EPOLLOUT);
		flow_pause(worker, flow, now_ns() + run->options->delay);
	}
}

static void stream_ready(struct worker *worker, struct flow *flow, uint32_t events, nanos now)
{
	if (events & EPOLLIN && !receive(worker, flow, now))
		return;
	if (events & EPOLLOUT)
		transmit(worker, flow, now);
}

const struct tool stream_tool = {
	.kind = TOOL_STREAM,
	.name = "tcp_stream",
	.start = stream_start,
	.ready = stream_ready,
	.resume = stream_start,
};
