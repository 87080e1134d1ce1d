/*
 * The main thread's side of a run, as client and as server.
 */
#ifndef TRAFFIC_SESSION_H
#define TRAFFIC_SESSION_H

#include <poll.h>

#include "control.h"
#include "figures.h"
#include "run.h"

#define PROTOCOL_VERSION 1
#define OWN_FILES 3

struct session {
	struct run *run;
	struct channel control;
	struct correlation correlation;
	nanos next_note;
	struct pollfd *files; /* OWN_FILES for session_wait(), then the listeners of the data ports */
	nfds_t listener_count;
	bool accepting;
	struct figures local, remote;
	bool remote_known;
};

enum waited {
	WAITED_TIMEOUT,
	WAITED_WOKEN,   /* a worker has news */
	WAITED_MESSAGE, /* in the caller's buffer */
	WAITED_END,     /* the control connection ended */
	WAITED_ABORT,   /* a signal, or --suicide-length; run->failure says which */
};

/*
 * Wait for the next thing to happen, at most until @deadline, serving new connections and the correlation's
 * points meanwhile. @message has room for MESSAGE_MAX.
 */
enum waited session_wait(struct session *session, nanos deadline, char *message);

/*
 * Close the data connections. Who only reads closes first: its resets go the way that is not congested,
 * and stop the writer's queues from refilling. With --time-wait it is the other way round, so that nothing is
 * lost. A run that failed does not wait for the other end.
 */
void session_close_flows(struct session *session);

/* Both return what the program exits with. */
int run_client(struct run *run);
int run_server(struct run *run);

#endif
