/*
 * What client and server have in common in the main thread: waiting with deadlines, and closing.
 */
#include "session.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "net.h"

#define ACCEPT_BURST 128

/* Take new data connections and hand them to the workers in turn. */
static void accept_flows(struct session *session, int listener)
{
	struct run *run = session->run;

	for (int i = 0; i < ACCEPT_BURST; i++) {
		uint32_t id = atomic_load(&run->accepted);
		struct epoll_event wanted = {.events = EPOLLOUT};
		struct flow *flow;
		int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd == -1) {
			if (errno == EMFILE || errno == ENFILE || errno == ENOMEM)
				run_fail(run, "cannot accept connection %u: %s", id + 1, strerror(errno));
			return;
		}
		if (id == run->flow_count) {
			close(fd); /* not one of the client's flows */
			continue;
		}
		prepare_socket(run->options, fd);
		flow = &run->flows[id];
		flow->fd = fd;
		flow->state = FLOW_READY;
		flow->events = wanted.events;
		flow->connected_at = now_ns();
		wanted.data.ptr = flow;
		/* Writable at once, so that its worker takes note of it. */
		if (epoll_ctl(run->workers[id % run->worker_count].epoll_fd, EPOLL_CTL_ADD, fd, &wanted) == -1)
			run_fail(run, "epoll_ctl: %s", strerror(errno));
		atomic_store(&run->accepted, id + 1);
	}
}

static void note_progress(struct session *session, nanos now)
{
	if (atomic_load(&session->run->phase) != PHASE_DATA || now < session->next_note)
		return;
	correlation_note(&session->correlation, session->run, now);
	session->next_note = now + session->run->options->interval;
}

static nanos earliest(nanos a, nanos b)
{
	return a < b ? a : b;
}

enum waited session_wait(struct session *session, nanos deadline, char *message)
{
	struct run *run = session->run;
	bool accepting = session->accepting && atomic_load(&run->phase) < PHASE_FROZEN;
	nfds_t count = OWN_FILES + (accepting ? session->listener_count : 0);
	struct pollfd *files = session->files;

	for (;;) {
		nanos now = now_ns(), until = earliest(deadline, run->give_up_at);
		struct timespec left;
		uint64_t ignored;

		switch (channel_receive(&session->control, message)) {
		case RECEIVED_MESSAGE:
			return WAITED_MESSAGE;
		case RECEIVED_END:
			return WAITED_END;
		case RECEIVED_NOTHING:
			break;
		}
		note_progress(session, now);
		if (now >= run->give_up_at) {
			run_fail(run, "still running after the --suicide-length of %g seconds",
				 to_seconds(run->options->suicide_length));
			return WAITED_ABORT;
		}
		if (now >= until)
			return WAITED_TIMEOUT;
		if (atomic_load(&run->phase) == PHASE_DATA)
			until = earliest(until, session->next_note);
		until = until > now ? until - now : 0;
		left = (struct timespec){.tv_sec = until / NANOS_PER_SECOND, .tv_nsec = until % NANOS_PER_SECOND};
		files[0] = (struct pollfd){.fd = session->control.fd, .events = POLLIN};
		files[1] = (struct pollfd){.fd = run->wake_fd, .events = POLLIN};
		files[2] = (struct pollfd){.fd = run->signal_fd, .events = POLLIN};
		if (ppoll(files, count, &left, NULL) <= 0)
			continue;
		if (files[2].revents) {
			struct signalfd_siginfo signal = {.ssi_signo = 0};

			if (read(run->signal_fd, &signal, sizeof(signal)) == (ssize_t)sizeof(signal))
				run_fail(run, "interrupted by signal %u", signal.ssi_signo);
			return WAITED_ABORT;
		}
		for (nfds_t i = OWN_FILES; i < count; i++)
			if (files[i].revents)
				accept_flows(session, files[i].fd);
		if (run->failure[0])
			return WAITED_ABORT;
		if (files[1].revents && read(run->wake_fd, &ignored, sizeof(ignored)) > 0)
			return WAITED_WOKEN;
	}
}

void session_close_flows(struct session *session)
{
	struct run *run = session->run;
	const struct options *options = run->options;
	bool only_reads = run->reading && !run->writing, only_writes = run->writing && !run->reading;
	bool first = options->time_wait ? only_writes || (!only_reads && options->client)
					: only_reads || (!only_writes && !options->client);
	uint32_t open = 0;
	char message[MESSAGE_MAX];

	for (uint32_t id = 0; id < run->flow_count; id++)
		open += run->flows[id].connected_at != 0 && !run->flows[id].reset;
	if (!first && !run->failure[0]) {
		/* At the pace at which the other end closes, and then some. */
		nanos deadline = now_ns() + 2 * NANOS_PER_SECOND + (nanos)open * NANOS_PER_MILLI / 10;

		while (atomic_load(&run->gone) < open) {
			enum waited waited = session_wait(session, deadline, message);

			if (waited == WAITED_TIMEOUT || waited == WAITED_ABORT || waited == WAITED_END)
				break;
		}
	}
	run_join_workers(run);
	run_close_flows(run);
}
