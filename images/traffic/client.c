/*
 * The client: connects to the server's control port, opens the flows, sets start and end of the test.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "net.h"
#include "session.h"

#define RETRY_AFTER (100 * NANOS_PER_MILLI)

/* Connect to the control port, again and again until it works or @deadline. */
static bool connect_control(struct session *session, nanos deadline)
{
	struct run *run = session->run;
	struct endpoint to = run->remote;
	int error = 0;

	set_port(&to, (uint16_t)run->options->control_port);
	for (; now_ns() < deadline; sleep_for(RETRY_AFTER)) {
		int fd = socket(to.address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		struct pollfd files[2] = {{.fd = fd, .events = POLLOUT}, {.fd = run->signal_fd, .events = POLLIN}};
		socklen_t length = sizeof(error);
		nanos left;

		if (fd == -1)
			die(EXIT_RUN_FAILED, "socket: %s", strerror(errno));
		if (connect(fd, (struct sockaddr *)&to.address, to.length) == -1 && errno != EINPROGRESS) {
			error = errno;
			close(fd);
			continue;
		}
		left = deadline - now_ns();
		poll(files, 2, left > 0 ? (int)(left / NANOS_PER_MILLI) + 1 : 0);
		if (files[1].revents) {
			close(fd);
			run_fail(run, "interrupted while connecting");
			return false;
		}
		error = ETIMEDOUT;
		if (files[0].revents)
			getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
		if (!error) {
			int one = 1;

			setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
			session->control.fd = fd;
			return true;
		}
		close(fd);
	}
	run_fail(run, "no server at %s, control port %llu: %s", run->options->host,
		 (unsigned long long)run->options->control_port, strerror(error));
	return false;
}

/* Tell the server what is coming; false when it does not agree. */
static bool greet(struct session *session, nanos deadline)
{
	struct run *run = session->run;
	const struct options *options = run->options;
	char message[MESSAGE_MAX];

	snprintf(message, sizeof(message),
		 "hello version=%d tool=%s flows=%u seconds=%.9f connect_timeout=%.9f num_ports=%llu port=%llu "
		 "reads=%d writes=%d request_size=%llu response_size=%llu",
		 PROTOCOL_VERSION, run->tool->name, run->flow_count, to_seconds(options->test_length),
		 to_seconds(options->connect_timeout), (unsigned long long)options->num_ports,
		 (unsigned long long)options->port, run->reading, run->writing,
		 (unsigned long long)options->request_size, (unsigned long long)options->response_size);
	if (!channel_send(&session->control, message, deadline)) {
		run_fail(run, "the server hung up at once");
		return false;
	}
	switch (session_wait(session, deadline, message)) {
	case WAITED_MESSAGE:
		if (message_is(message, "ready"))
			return true;
		run_fail(run, "the server does not agree: %s", message);
		return false;
	case WAITED_END:
		run_fail(run, "the server hung up instead of getting ready");
		return false;
	case WAITED_TIMEOUT:
	case WAITED_WOKEN:
		run_fail(run, "the server does not answer");
		return false;
	case WAITED_ABORT:
		break;
	}
	return false;
}

/* Wait until the flows are connected, or time is up and some are. */
static bool connect_flows(struct session *session)
{
	struct run *run = session->run;
	nanos deadline = now_ns() + run->options->connect_timeout;
	char message[MESSAGE_MAX];

	while (atomic_load(&run->connected) < run->flow_count) {
		enum waited waited = session_wait(session, deadline, message);

		if (waited == WAITED_ABORT)
			return false;
		if (waited == WAITED_END) {
			run_fail(run, "lost the server while connecting");
			return false;
		}
		if (waited == WAITED_TIMEOUT)
			break;
	}
	if (atomic_load(&run->connected))
		return true;
	run_fail(run, "none of %u flows connected within %g seconds", run->flow_count,
		 to_seconds(run->options->connect_timeout));
	return false;
}

/* Let the flows run for the test's length. */
static bool move_data(struct session *session)
{
	struct run *run = session->run;
	char message[MESSAGE_MAX];
	nanos end;

	if (!channel_send(&session->control, "start", now_ns() + run->options->control_timeout)) {
		run_fail(run, "lost the server before the start");
		return false;
	}
	atomic_store(&run->started_at, now_ns());
	end = atomic_load(&run->started_at) + run->length;
	run_set_phase(run, PHASE_DATA);
	for (;;) {
		switch (session_wait(session, end, message)) {
		case WAITED_TIMEOUT:
			return true;
		case WAITED_END:
			run_fail(run, "lost the server after %.1f of %g seconds",
				 to_seconds(now_ns() - atomic_load(&run->started_at)),
				 to_seconds(run->options->test_length));
			return false;
		case WAITED_ABORT:
			return false;
		case WAITED_MESSAGE:
		case WAITED_WOKEN:
			break;
		}
	}
}

/* Tell the server that it is over, and what was measured here; take what was measured there. */
static bool exchange_results(struct session *session)
{
	struct run *run = session->run;
	nanos deadline = now_ns() + run->options->control_timeout;
	char message[MESSAGE_MAX];

	figures_message(&session->local, "stop", message);
	if (!channel_send(&session->control, message, deadline)) {
		run_fail(run, "lost the server at the end of the test");
		return false;
	}
	for (;;) {
		switch (session_wait(session, deadline, message)) {
		case WAITED_MESSAGE:
			session->remote_known = message_is(message, "result") &&
						figures_from_message(&session->remote, message);
			if (!session->remote_known)
				run_fail(run, "the server's result is unreadable");
			return session->remote_known;
		case WAITED_END:
			run_fail(run, "lost the server before it told its result");
			return false;
		case WAITED_TIMEOUT:
			run_fail(run, "the server did not tell its result within %g seconds",
				 to_seconds(run->options->control_timeout));
			return false;
		case WAITED_ABORT:
			return false;
		case WAITED_WOKEN:
			break;
		}
	}
}

int run_client(struct run *run)
{
	struct pollfd files[OWN_FILES];
	struct session session = {.run = run, .control = {.fd = -1}, .files = files};
	nanos deadline = now_ns() + run->options->control_timeout;
	bool began = false;

	if (connect_control(&session, deadline) && greet(&session, now_ns() + run->options->control_timeout)) {
		began = true;
		run->begun_at = now_ns();
		run->length = run->options->test_length;
		run_start_workers(run);
		if (connect_flows(&session))
			move_data(&session);
		run_freeze(run);
		correlation_note(&session.correlation, run, atomic_load(&run->frozen_at));
		session.local = figures_of(run);
		if (!run->failure[0])
			exchange_results(&session);
		session_close_flows(&session);
	}
	channel_close(&session.control);
	if (began) {
		if (!write_files(run))
			run_fail(run, "a result file could not be written");
		print_results(run, &session.local, session.remote_known ? &session.remote : NULL,
			      &session.correlation);
	}
	free(session.correlation.points);
	return run->failure[0] ? EXIT_RUN_FAILED : EXIT_RUN_OK;
}
