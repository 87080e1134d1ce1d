/*
 * The control connection: one line of text is one message, a word followed by key=value fields.
 */
#include "control.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

bool channel_send(struct channel *channel, const char *message, nanos deadline)
{
	char line[MESSAGE_MAX + 1];
	size_t length = strlen(message), sent = 0;

	if (channel->fd == -1 || length >= MESSAGE_MAX)
		return false;
	memcpy(line, message, length);
	line[length++] = '\n';
	while (sent < length) {
		ssize_t n = send(channel->fd, line + sent, length - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
		struct pollfd writable = {.fd = channel->fd, .events = POLLOUT};

		if (n >= 0) {
			sent += (size_t)n;
			continue;
		}
		if (errno != EAGAIN && errno != EINTR)
			return false;
		if (now_ns() >= deadline)
			return false;
		poll(&writable, 1, 50);
	}
	return true;
}

enum received channel_receive(struct channel *channel, char message[MESSAGE_MAX])
{
	for (;;) {
		char *newline = memchr(channel->input, '\n', channel->length);
		ssize_t n;

		if (newline) {
			size_t length = (size_t)(newline - channel->input);

			memcpy(message, channel->input, length);
			message[length] = '\0';
			channel->length -= length + 1;
			memmove(channel->input, newline + 1, channel->length);
			return RECEIVED_MESSAGE;
		}
		if (channel->fd == -1 || channel->length == sizeof(channel->input))
			return RECEIVED_END;
		n = recv(channel->fd, channel->input + channel->length, sizeof(channel->input) - channel->length,
			 MSG_DONTWAIT);
		if (n == -1 && errno == EINTR)
			continue;
		if (n == -1 && errno == EAGAIN)
			return RECEIVED_NOTHING;
		if (n <= 0)
			return RECEIVED_END;
		channel->length += (size_t)n;
	}
}

void channel_close(struct channel *channel)
{
	if (channel->fd != -1)
		close(channel->fd);
	channel->fd = -1;
	channel->length = 0;
}

bool message_is(const char *message, const char *word)
{
	size_t length = strlen(word);

	return !strncmp(message, word, length) && (message[length] == ' ' || !message[length]);
}

static const char *find_value(const char *message, const char *key)
{
	size_t length = strlen(key);

	for (const char *at = message; (at = strchr(at, ' ')); at++)
		if (!strncmp(at + 1, key, length) && at[1 + length] == '=')
			return at + 2 + length;
	return NULL;
}

bool message_number(const char *message, const char *key, double *out)
{
	const char *value = find_value(message, key);
	double number;
	char *end;

	if (!value)
		return false;
	number = strtod(value, &end);
	if (end == value || (*end && *end != ' ') || !isfinite(number))
		return false;
	*out = number;
	return true;
}

bool message_text(const char *message, const char *key, char *out, size_t size)
{
	const char *value = find_value(message, key);

	if (!value)
		return false;
	snprintf(out, size, "%.*s", (int)strcspn(value, " "), value);
	return true;
}
