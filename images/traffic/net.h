/*
 * Sockets: addresses, listeners, connecting, closing, and how many the computer allows.
 */
#ifndef TRAFFIC_NET_H
#define TRAFFIC_NET_H

#include "run.h"

/* Find the address of @host; ends the program when it has none. */
struct endpoint resolve(const struct options *options, const char *host);

void set_port(struct endpoint *endpoint, uint16_t port);

/* Own addresses as --local-hosts names them; for a server without them the wildcard address. */
void find_local(struct run *run);

/* Listen on @port of @endpoint; ends the program when that is not possible. */
int listen_on(const struct options *options, struct endpoint endpoint, uint16_t port);

/*
 * Begin to connect flow @id to the server's data port. Returns the socket, with *@done set when it is
 * connected already, or -1 with errno.
 */
int begin_connect(const struct run *run, uint32_t id, bool *done);

/* Set what every data socket has, connected or accepted. */
void prepare_socket(const struct options *options, int fd);

/*
 * Make sure @flows sockets can be open at once; false when not, with the reason in @reason.
 */
bool allow_open_files(uint64_t flows, char *reason, size_t size);

/* Make sure a client has source ports enough for all its flows; false when not, with the reason. */
bool enough_source_ports(const struct run *run, char *reason, size_t size);

#endif
