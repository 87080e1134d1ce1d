/*
 * The control connection: one line of text is one message, a word followed by key=value fields.
 *
 *   client: hello version=1 tool=tcp_stream flows=N seconds=S ...   server: ready, or refuse reason
 *   client: start                                                   (data moves from here on)
 *   client: stop FIGURES                                            server: result FIGURES
 *
 * The connection shares the path with the traffic it talks about, so every wait has a deadline of its own.
 */
#ifndef TRAFFIC_CONTROL_H
#define TRAFFIC_CONTROL_H

#include "base.h"

#define MESSAGE_MAX 2048

struct channel {
	int fd; /* -1: closed */
	size_t length;
	char input[MESSAGE_MAX];
};

enum received {
	RECEIVED_NOTHING, /* not yet */
	RECEIVED_MESSAGE,
	RECEIVED_END, /* the other end closed, or the connection broke */
};

/* Send @message and a newline; false when it is not all on its way by @deadline. */
bool channel_send(struct channel *channel, const char *message, nanos deadline);

/* The next message if there is one, without its newline. */
enum received channel_receive(struct channel *channel, char message[MESSAGE_MAX]);

void channel_close(struct channel *channel);

/* Is @word the first word of @message? */
bool message_is(const char *message, const char *word);

/* The value of @key; false when the message has none or it is no number. */
bool message_number(const char *message, const char *key, double *out);

/* The value of @key, as text up to the next space; false when there is none. */
bool message_text(const char *message, const char *key, char *out, size_t size);

#endif
