/*
 * tcp_rr: each flow has one request or one response under way; the client measures how long a pair takes.
 */
#include <errno.h>
#include <sys/epoll.h>

#include "run.h"

/*
 * Send what is left of the message, as much as fits. Returns true when all of it is sent; otherwise the flow
 * waits for room, or is no more.
 */
static bool send_message(struct worker *worker, struct flow *flow)
{
	const struct options *options = worker->run->options;

	while (flow->message_left) {
		bool all = flow->message_left <= options->buffer_size;
		size_t length = all ? flow->message_left : options->buffer_size;
		ssize_t n = send(flow->fd, worker->buffer, length,
				 MSG_DONTWAIT | MSG_NOSIGNAL | (all ? 0 : MSG_MORE));

		if (n == -1 && errno == EINTR)
			continue;
		if (n == -1 && errno == EAGAIN) {
			flow_watch(worker, flow, EPOLLOUT);
			return false;
		}
		if (n == -1) {
			flow_broken(worker, flow);
			return false;
		}
		flow->bytes_written += (uint64_t)n;
		flow->message_left -= (uint64_t)n;
	}
	return true;
}

/* Receive once; true when that completes the message. */
static bool receive_message(struct worker *worker, struct flow *flow)
{
	const struct options *options = worker->run->options;
	size_t length = flow->message_left < options->buffer_size ? flow->message_left : options->buffer_size;
	ssize_t n = recv(flow->fd, worker->buffer, length, MSG_DONTWAIT);

	if (n > 0) {
		flow->bytes_read += (uint64_t)n;
		flow->message_left -= (uint64_t)n;
		return !flow->message_left;
	}
	if (n == 0 || (errno != EAGAIN && errno != EINTR))
		flow_broken(worker, flow);
	return false;
}

static void expect(struct worker *worker, struct flow *flow, uint64_t size)
{
	flow->message_left = size;
	flow_watch(worker, flow, EPOLLIN);
}

static void complete(struct worker *worker, struct flow *flow, nanos now)
{
	flow->transactions++;
	count_things(worker, 1);
	flow_progress(worker, flow, now);
}

static void begin_request(struct worker *worker, struct flow *flow)
{
	flow->message_left = worker->run->options->request_size;
	flow->request_at = now_ns();
	if (send_message(worker, flow))
		expect(worker, flow, worker->run->options->response_size);
}

static void rr_start(struct worker *worker, struct flow *flow)
{
	if (worker->run->options->client)
		begin_request(worker, flow);
	else
		expect(worker, flow, worker->run->options->request_size);
}

static void client_ready(struct worker *worker, struct flow *flow, uint32_t events)
{
	const struct options *options = worker->run->options;
	nanos now;

	if (events & EPOLLOUT) {
		if (send_message(worker, flow))
			expect(worker, flow, options->response_size);
		return;
	}
	if (!receive_message(worker, flow))
		return;
	now = now_ns();
	histogram_add(worker->latency, now - flow->request_at);
	if (worker->run->sampling)
		moments_add(&flow->latency, now - flow->request_at);
	complete(worker, flow, now);
	if (options->delay) {
		flow_watch(worker, flow, 0);
		flow_pause(worker, flow, now + options->delay);
	} else {
		begin_request(worker, flow);
	}
}

static void server_ready(struct worker *worker, struct flow *flow, uint32_t events, nanos now)
{
	if (!(events & EPOLLOUT)) {
		if (!receive_message(worker, flow))
			return;
		flow->message_left = worker->run->options->response_size;
	}
	if (!send_message(worker, flow))
		return;
	complete(worker, flow, now);
	expect(worker, flow, worker->run->options->request_size);
}

static void rr_ready(struct worker *worker, struct flow *flow, uint32_t events, nanos now)
{
	if (worker->run->options->client)
		client_ready(worker, flow, events);
	else
		server_ready(worker, flow, events, now);
}

const struct tool rr_tool = {
	.kind = TOOL_RR,
	.name = "tcp_rr",
	.start = rr_start,
	.ready = rr_ready,
	.resume = rr_start,
};
