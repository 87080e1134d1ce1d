/*
 * Sockets: addresses, listeners, connecting, closing, and how many the computer allows.
 */
#include "net.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Files that are not flows: standard streams, listeners, epoll, timers; with room to spare. */
#define OTHER_FILES 4096

static int wanted_family(const struct options *options)
{
	return options->ipv4 ? AF_INET : options->ipv6 ? AF_INET6 : AF_UNSPEC;
}

struct endpoint resolve(const struct options *options, const char *host)
{
	struct addrinfo hints = {.ai_family = wanted_family(options), .ai_socktype = SOCK_STREAM};
	struct addrinfo *found;
	struct endpoint endpoint = {.length = 0};
	int error;

	/* A numeric address must do without the name service, which a small guest may not have. */
	hints.ai_flags = AI_NUMERICHOST;
	error = getaddrinfo(host, NULL, &hints, &found);
	if (error) {
		hints.ai_flags = 0;
		error = getaddrinfo(host, NULL, &hints, &found);
	}
	if (error)
		die(EXIT_BAD_USAGE, "no %saddress of '%s': %s",
		    options->ipv4   ? "IPv4 "
		    : options->ipv6 ? "IPv6 "
				    : "",
		    host, gai_strerror(error));
	memcpy(&endpoint.address, found->ai_addr, found->ai_addrlen);
	endpoint.length = found->ai_addrlen;
	freeaddrinfo(found);
	return endpoint;
}

void set_port(struct endpoint *endpoint, uint16_t port)
{
	if (endpoint->address.ss_family == AF_INET6)
		((struct sockaddr_in6 *)&endpoint->address)->sin6_port = htons(port);
	else
		((struct sockaddr_in *)&endpoint->address)->sin_port = htons(port);
}

static struct endpoint wildcard(const struct options *options)
{
	struct endpoint endpoint = {.length = 0};
	int probe = options->ipv4 ? -1 : socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (probe == -1 && options->ipv6)
		die(EXIT_BAD_USAGE, "this computer has no IPv6: %s", strerror(errno));
	if (probe == -1) {
		endpoint.address.ss_family = AF_INET;
		endpoint.length = sizeof(struct sockaddr_in);
		return endpoint;
	}
	close(probe);
	endpoint.address.ss_family = AF_INET6;
	endpoint.length = sizeof(struct sockaddr_in6);
	return endpoint;
}

void find_local(struct run *run)
{
	const struct options *options = run->options;
	char *list, *rest, *host;

	if (!options->local_hosts) {
		if (options->client)
			return;
		run->local = allocate(1, sizeof(*run->local));
		run->local[run->local_count++] = wildcard(options);
		return;
	}
	list = rest = strdup(options->local_hosts);
	if (!list)
		die(EXIT_RUN_FAILED, "out of memory");
	while ((host = strsep(&rest, ","))) {
		run->local = reallocate(run->local, run->local_count + 1, sizeof(*run->local));
		run->local[run->local_count++] = resolve(options, host);
	}
	free(list);
	for (unsigned int i = 0; options->client && i < run->local_count; i++)
		if (run->local[i].address.ss_family != run->remote.address.ss_family)
			die(EXIT_BAD_USAGE, "--local-hosts and --host mix IPv4 and IPv6");
}

static bool set_int(int fd, int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof(value)) == 0;
}

int listen_on(const struct options *options, struct endpoint endpoint, uint16_t port)
{
	int family = endpoint.address.ss_family;
	int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	set_port(&endpoint, port);
	if (fd == -1)
		die(EXIT_RUN_FAILED, "socket: %s", strerror(errno));
	/* A server starts again while connections of the run before are still in TIME_WAIT. */
	set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (family == AF_INET6)
		set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, options->ipv6);
	if (bind(fd, (struct sockaddr *)&endpoint.address, endpoint.length) == -1 ||
	    listen(fd, (int)options->listen_backlog) == -1)
		die(EXIT_RUN_FAILED, "cannot listen on port %u: %s", port, strerror(errno));
	return fd;
}

void prepare_socket(const struct options *options, int fd)
{
	struct linger abort_on_close = {.l_onoff = 1, .l_linger = 0};

	/*
	 * Set from the start rather than at the end: if this process is killed, thousands of connections vanish
	 * at once instead of draining their buffers for minutes.
	 */
	if (!options->time_wait)
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &abort_on_close, sizeof(abort_on_close));
	if (options->tool == TOOL_RR)
		set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	if (options->max_pacing_rate)
		setsockopt(fd, SOL_SOCKET, SO_MAX_PACING_RATE, &options->max_pacing_rate,
			   sizeof(options->max_pacing_rate));
}

/* Bind a client's socket to the address and port that flow @id shall come from. */
static bool bind_local(const struct run *run, int fd, uint32_t id)
{
	const struct options *options = run->options;
	struct endpoint from = {.length = run->remote.length};

	if (!run->local_count && !options->source_port)
		return true;
	from.address.ss_family = run->remote.address.ss_family;
	/* Flows go round the ports first, so that each address sees every port. */
	if (run->local_count)
		from = run->local[(id / options->num_ports) % run->local_count];
	if (options->source_port)
		set_port(&from, (uint16_t)(options->source_port + id));
	else
		/* Leaves the choice of a port to connect(), which knows the whole four-tuple. */
		set_int(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
	return bind(fd, (struct sockaddr *)&from.address, from.length) == 0;
}

int begin_connect(const struct run *run, uint32_t id, bool *done)
{
	const struct options *options = run->options;
	struct endpoint to = run->remote;
	int fd = socket(to.address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int error;

	*done = false;
	if (fd == -1)
		return -1;
	prepare_socket(options, fd);
	if (options->reuseaddr || options->source_port)
		set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (options->mark && !set_int(fd, SOL_SOCKET, SO_MARK, (int)options->mark))
		goto fail;
	if (!bind_local(run, fd, id))
		goto fail;
	set_port(&to, (uint16_t)(options->port + id % options->num_ports));
	if (connect(fd, (struct sockaddr *)&to.address, to.length) == 0)
		*done = true;
	else if (errno != EINPROGRESS)
		goto fail;
	return fd;
fail:
	error = errno;
	close(fd);
	errno = error;
	return -1;
}

bool allow_open_files(uint64_t flows, char *reason, size_t size)
{
	struct rlimit limit;
	uint64_t needed = flows + OTHER_FILES;

	if (getrlimit(RLIMIT_NOFILE, &limit) == -1 || limit.rlim_cur >= needed)
		return true;
	if (limit.rlim_max < needed) {
		/* Only a privileged process may; the limit of the kernel itself is fs.nr_open. */
		struct rlimit more = {.rlim_cur = needed, .rlim_max = needed};

		if (setrlimit(RLIMIT_NOFILE, &more) == 0)
			return true;
	}
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_cur >= flows + 256)
		return true;
	snprintf(reason, size,
		 "%llu flows need more open files than the %llu this process may have; raise the limit (ulimit -n)",
		 (unsigned long long)flows, (unsigned long long)limit.rlim_max);
	return false;
}

bool enough_source_ports(const struct run *run, char *reason, size_t size)
{
	const struct options *options = run->options;
	FILE *file = fopen("/proc/sys/net/ipv4/ip_local_port_range", "re");
	uint64_t places = options->num_ports * (run->local_count ? run->local_count : 1);
	unsigned int low = 0, high = 0;
	bool known;

	if (!file)
		return true;
	known = fscanf(file, "%u %u", &low, &high) == 2 && high >= low;
	fclose(file);
	if (!known || options->source_port || run->flow_count <= places * (high - low + 1))
		return true;
	snprintf(reason, size,
		 "%u flows need more source ports than %u (ip_local_port_range) for each of %llu pairs of own "
		 "address and server port; use --num-ports or several --local-hosts",
		 run->flow_count, high - low + 1, (unsigned long long)places);
	return false;
}
