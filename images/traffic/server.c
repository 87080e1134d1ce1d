/*
 * The server: waits for one client, accepts its flows, serves one run, and ends.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "net.h"
#include "session.h"

#define MOST_FLOWS 1000000
#define HELLO_TIMEOUT (10 * NANOS_PER_SECOND)

struct listeners {
	struct pollfd *control;
	nfds_t control_count;
};

static void open_listeners(struct session *session, struct listeners *listeners)
{
	const struct run *run = session->run;
	const struct options *options = run->options;
	size_t count = (size_t)run->local_count * options->num_ports;

	listeners->control = allocate(run->local_count + 1, sizeof(struct pollfd));
	session->files = allocate(OWN_FILES + count, sizeof(struct pollfd));
	for (unsigned int i = 0; i < run->local_count; i++) {
		listeners->control[listeners->control_count++] = (struct pollfd){
			.fd = listen_on(options, run->local[i], (uint16_t)options->control_port),
			.events = POLLIN,
		};
		for (uint64_t port = 0; port < options->num_ports; port++)
			session->files[OWN_FILES + session->listener_count++] = (struct pollfd){
				.fd = listen_on(options, run->local[i], (uint16_t)(options->port + port)),
				.events = POLLIN,
			};
	}
	/* Whoever started this server can now start the client. */
	printf("listening=%llu\n", (unsigned long long)options->control_port);
	fflush(stdout);
}

static void close_listeners(struct session *session, struct listeners *listeners)
{
	for (nfds_t i = 0; i < listeners->control_count; i++)
		close(listeners->control[i].fd);
	for (nfds_t i = 0; i < session->listener_count; i++)
		close(session->files[OWN_FILES + i].fd);
	free(listeners->control);
	free(session->files);
}

/* Wait for somebody at the control port; false when interrupted. */
static bool accept_control(struct session *session, struct listeners *listeners)
{
	struct run *run = session->run;

	listeners->control[listeners->control_count] = (struct pollfd){.fd = run->signal_fd, .events = POLLIN};
	for (;;) {
		nanos left = run->give_up_at == NEVER ? -1 : run->give_up_at - now_ns();

		if (run->give_up_at != NEVER && left <= 0) {
			run_fail(run, "no client within the --suicide-length");
			return false;
		}
		if (poll(listeners->control, listeners->control_count + 1,
			 left < 0 ? -1 : (int)(left / NANOS_PER_MILLI) + 1) <= 0)
			continue;
		if (listeners->control[listeners->control_count].revents) {
			run_fail(run, "interrupted while waiting for a client");
			return false;
		}
		for (nfds_t i = 0; i < listeners->control_count; i++) {
			if (!listeners->control[i].revents)
				continue;
			session->control.fd = accept4(listeners->control[i].fd, NULL, NULL, SOCK_CLOEXEC);
			if (session->control.fd != -1)
				return true;
		}
	}
}

static double number_or(const char *message, const char *key, double otherwise)
{
	double value;

	return message_number(message, key, &value) ? value : otherwise;
}

/* Why this server cannot serve the client that said @hello; NULL when it can. */
static const char *objection(struct session *session, const char *hello)
{
	struct run *run = session->run;
	const struct options *options = run->options;
	static char reason[256];
	char tool[32] = "";
	double flows = number_or(hello, "flows", 0);

	message_text(hello, "tool", tool, sizeof(tool));
	if (number_or(hello, "version", 0) != PROTOCOL_VERSION)
		return "another version of the tool";
	if (strcmp(tool, run->tool->name))
		return "another tool";
	if (!(flows >= 1 && flows <= MOST_FLOWS))
		return "an impossible number of flows";
	if (number_or(hello, "num_ports", 0) > (double)options->num_ports ||
	    number_or(hello, "port", 0) != (double)options->port)
		return "other data ports (--port, --num-ports)";
	if (number_or(hello, "reads", -1) != run->writing || number_or(hello, "writes", -1) != run->reading)
		return "one end would send what the other does not read (-r, -w, -M)";
	if (number_or(hello, "request_size", 0) != (double)options->request_size ||
	    number_or(hello, "response_size", 0) != (double)options->response_size)
		return "other sizes of request or response";
	if (!(number_or(hello, "seconds", 0) > 0) || !(number_or(hello, "connect_timeout", -1) >= 0))
		return "no test length";
	if (!allow_open_files((uint64_t)flows, reason, sizeof(reason)))
		return reason;
	run->flow_count = (uint32_t)flows;
	return NULL;
}

/* Find a client that this server can serve; its hello is left in @message. */
static bool meet_client(struct session *session, struct listeners *listeners, char message[MESSAGE_MAX])
{
	bool met = false;

	while (!met && accept_control(session, listeners)) {
		const char *reason;
		char refusal[MESSAGE_MAX];
		nanos deadline = now_ns() + HELLO_TIMEOUT;

		if (session_wait(session, deadline, message) == WAITED_MESSAGE && message_is(message, "hello")) {
			reason = objection(session, message);
			if (!reason) {
				met = true;
			} else {
				snprintf(refusal, sizeof(refusal), "refuse %s", reason);
				channel_send(&session->control, refusal, deadline);
				run_fail(session->run, "refused the client: %s", reason);
			}
		}
		/* Whoever does not speak our language may have come by chance. */
		if (!met)
			channel_close(&session->control);
		if (session->run->failure[0])
			return false;
	}
	return met;
}

/* Note what a message of the client says; true when it is the last. */
static bool is_stop(struct session *session, const char *message)
{
	struct run *run = session->run;
	int64_t unset = 0;

	if (message_is(message, "start")) {
		atomic_compare_exchange_strong(&run->started_at, &unset, now_ns());
		if (atomic_load(&run->phase) == PHASE_CONNECT)
			run_set_phase(run, PHASE_DATA);
		return false;
	}
	session->remote_known = message_is(message, "stop") && figures_from_message(&session->remote, message);
	if (!session->remote_known)
		run_fail(run, "the client said something unreadable");
	return true;
}

/*
 * Serve until the client says stop. Counting ends after the test's length by this end's own clock, however
 * long the "stop" takes to come through.
 */
static void serve(struct session *session, nanos connect_timeout)
{
	struct run *run = session->run;
	nanos patience = run->options->control_timeout;
	nanos begin_by = now_ns() + connect_timeout + patience;
	char message[MESSAGE_MAX];
	bool over = false;

	while (!over) {
		nanos started = atomic_load(&run->started_at);
		bool frozen = atomic_load(&run->phase) == PHASE_FROZEN;
		nanos deadline = !started ? begin_by : frozen ? started + run->length + patience : started + run->length;

		switch (session_wait(session, deadline, message)) {
		case WAITED_MESSAGE:
			over = is_stop(session, message);
			break;
		case WAITED_TIMEOUT:
			if (!started)
				run_fail(run, "the client never started");
			else if (frozen)
				run_fail(run, "the client never said stop");
			else
				run_freeze(run);
			over = run->failure[0] != '\0';
			break;
		case WAITED_END:
			run_fail(run, "lost the client");
			over = true;
			break;
		case WAITED_ABORT:
			over = true;
			break;
		case WAITED_WOKEN:
			break;
		}
	}
	if (atomic_load(&run->phase) != PHASE_FROZEN)
		run_freeze(run);
}

/* Keep the control connection open until the client has read the result and hangs up. */
static void say_goodbye(struct session *session)
{
	nanos deadline = now_ns() + session->run->options->control_timeout;
	char message[MESSAGE_MAX];

	for (;;) {
		enum waited waited = session_wait(session, deadline, message);

		if (waited == WAITED_END || waited == WAITED_TIMEOUT || waited == WAITED_ABORT)
			return;
	}
}

int run_server(struct run *run)
{
	struct session session = {.run = run, .control = {.fd = -1}};
	struct listeners listeners = {.control_count = 0};
	char message[MESSAGE_MAX];

	open_listeners(&session, &listeners);
	if (meet_client(&session, &listeners, message)) {
		nanos connect_timeout = from_seconds(number_or(message, "connect_timeout", 0));

		run->begun_at = now_ns();
		run->length = from_seconds(number_or(message, "seconds", 0));
		run_start_workers(run);
		/* Until now data connections waited in the listeners' queues: the flows had no place. */
		session.accepting = true;
		/* A server that only answers or reads need not wait for the client's "start". */
		if (!run->writing || run->options->tool == TOOL_RR)
			run_set_phase(run, PHASE_DATA);
		if (channel_send(&session.control, "ready", now_ns() + run->options->control_timeout))
			serve(&session, connect_timeout);
		else
			run_freeze(run);
		correlation_note(&session.correlation, run, atomic_load(&run->frozen_at));
		session.local = figures_of(run);
		if (!run->failure[0]) {
			figures_message(&session.local, "result", message);
			channel_send(&session.control, message, now_ns() + run->options->control_timeout);
		}
		session_close_flows(&session);
		if (!run->failure[0])
			say_goodbye(&session);
		channel_close(&session.control);
		if (!write_files(run))
			run_fail(run, "a result file could not be written");
		print_results(run, &session.local, session.remote_known ? &session.remote : NULL,
			      &session.correlation);
	}
	close_listeners(&session, &listeners);
	free(session.correlation.points);
	return run->failure[0] ? EXIT_RUN_FAILED : EXIT_RUN_OK;
}
