/*
 * The command line: one table says every flag's name, kind, range and meaning; parsing, --help and the list of
 * options at the start of the output all come from it.
 */
#include "options.h"

#include <ctype.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "values.h"

#define MAX_FLOWS 1000000
#define BOTH (TOOL_STREAM | TOOL_RR)
#define FIRST_LONG_ONLY 256 /* getopt's values for flags without a letter start above all letters */

enum kind { FLAG, NUMBER, SECONDS, DURATION, RATE, TEXT, OPTIONAL_TEXT, PERCENTILES };

struct flag {
	const char *name;
	int letter; /* 0: none */
	int tools;
	enum kind kind;
	size_t offset;
	uint64_t lowest, highest; /* of a NUMBER */
	const char *otherwise;    /* default value, or what an OPTIONAL_TEXT without text means */
	const char *help;
};

#define AT(field) offsetof(struct options, field)

static const struct flag flags[] = {
	{"client", 'c', BOTH, FLAG, AT(client), 0, 0, NULL, "connect to a server (otherwise: be the server)"},
	{"host", 'H', BOTH, TEXT, AT(host), 0, 0, NULL, "server's address or name"},
	{"local-hosts", 'L', BOTH, TEXT, AT(local_hosts), 0, 0, NULL,
	 "own addresses, comma-separated; a client's flows take them in turn"},
	{"control-port", 'C', BOTH, NUMBER, AT(control_port), 1, 65535, "12866", "server's control port"},
	{"port", 'P', BOTH, NUMBER, AT(port), 1, 65535, "12867", "server's first data port"},
	{"num-ports", 0, BOTH, NUMBER, AT(num_ports), 1, 1024, "1", "number of data ports, from --port on"},
	{"source-port", 0, BOTH, NUMBER, AT(source_port), 0, 65535, "0",
	 "client: first flow's own port, the next flows follow (0: the kernel chooses)"},
	{"ipv4", '4', BOTH, FLAG, AT(ipv4), 0, 0, NULL, "IPv4 only"},
	{"ipv6", '6', BOTH, FLAG, AT(ipv6), 0, 0, NULL, "IPv6 only"},
	{"num-flows", 'F', BOTH, NUMBER, AT(num_flows), 1, MAX_FLOWS, "1", "number of TCP connections"},
	{"num-threads", 'T', BOTH, NUMBER, AT(num_threads), 1, 1024, "1", "number of threads"},
	{"test-length", 'l', BOTH, SECONDS, AT(test_length), 0, 0, "10", "seconds of traffic"},
	{"buffer-size", 'B', BOTH, NUMBER, AT(buffer_size), 1, 1 << 30, NULL, "bytes in one send() or recv()"},
	{"request-size", 'Q', TOOL_RR, NUMBER, AT(request_size), 1, 1 << 30, "1", "bytes in a request"},
	{"response-size", 'R', TOOL_RR, NUMBER, AT(response_size), 1, 1 << 30, "1", "bytes in a response"},
	{"percentiles", 'p', TOOL_RR, PERCENTILES, AT(percentiles), 0, 0, NULL,
	 "latencies to print, such as 50,99,99.9"},
	{"enable-read", 'r', TOOL_STREAM, FLAG, AT(enable_read), 0, 0, NULL, "read (a server always does)"},
	{"enable-write", 'w', TOOL_STREAM, FLAG, AT(enable_write), 0, 0, NULL, "write (a client always does)"},
	{"enable-tcp-maerts", 'M', TOOL_STREAM, FLAG, AT(enable_tcp_maerts), 0, 0, NULL,
	 "the server writes and the client reads"},
	{"reuseaddr", 'R', TOOL_STREAM, FLAG, AT(reuseaddr), 0, 0, NULL, "SO_REUSEADDR on a client's sockets"},
	{"no-cork", 0, TOOL_STREAM, FLAG, AT(no_cork), 0, 0, NULL, "send without MSG_MORE"},
	{"skip-rx-copy", 0, TOOL_STREAM, FLAG, AT(skip_rx_copy), 0, 0, NULL, "receive without copying"},
	{"delay", 'D', BOTH, DURATION, AT(delay), 0, 0, "0",
	 "pause of a flow after each send or transaction (ns; or us, ms, s)"},
	{"max-pacing-rate", 'm', BOTH, RATE, AT(max_pacing_rate), 0, 0, "0",
	 "SO_MAX_PACING_RATE of a flow in bytes per second (or kbit, mbit, gbit)"},
	{"mark", 0, BOTH, NUMBER, AT(mark), 0, UINT32_MAX, "0", "SO_MARK"},
	{"time-wait", 0, BOTH, FLAG, AT(time_wait), 0, 0, NULL, "close with FIN rather than RST"},
	{"interval", 'I', BOTH, SECONDS, AT(interval), 0, 0, "1", "seconds between samples"},
	{"all-samples", 'A', BOTH, OPTIONAL_TEXT, AT(all_samples), 0, 0, "samples.csv",
	 "write the samples of every flow to this file (a reader does)"},
	{"maxevents", 0, BOTH, NUMBER, AT(maxevents), 1, 65536, "1000", "events of one epoll_wait()"},
	{"listen-backlog", 0, BOTH, NUMBER, AT(listen_backlog), 1, 1 << 20, "65535", "server: listen() backlog"},
	{"pin-cpu", 'U', BOTH, FLAG, AT(pin_cpu), 0, 0, NULL, "pin each thread to one processor"},
	{"async-connect", 0, BOTH, FLAG, AT(async_connect), 0, 0, NULL, "connect all flows at once"},
	{"nonblocking", 0, BOTH, FLAG, AT(nonblocking), 0, 0, NULL, "accepted; every call is non-blocking"},
	{"nolog", 0, BOTH, FLAG, AT(nolog), 0, 0, NULL, "accepted; there is never a log file"},
	{"logtostderr", 0, BOTH, FLAG, AT(logtostderr), 0, 0, NULL, "accepted; messages always go there"},
	{"suicide-length", 's', BOTH, SECONDS, AT(suicide_length), 0, 0, "0", "give up after this many seconds"},
	{"dry-run", 'n', BOTH, FLAG, AT(dry_run), 0, 0, NULL, "print the options and exit"},
	{"connect-window", 0, BOTH, NUMBER, AT(connect_window), 1, MAX_FLOWS, "1",
	 "zdlab: connects a thread begins with at a time"},
	{"connect-timeout", 0, BOTH, SECONDS, AT(connect_timeout), 0, 0, "30",
	 "zdlab: seconds after which traffic starts on the flows that did connect"},
	{"control-timeout", 0, BOTH, SECONDS, AT(control_timeout), 0, 0, "30",
	 "zdlab: seconds to wait for the other end"},
	{"start-jitter", 0, BOTH, SECONDS, AT(start_jitter), 0, 0, "0",
	 "zdlab: each flow starts up to this many seconds late"},
	{"seed", 0, BOTH, NUMBER, AT(seed), 0, UINT64_MAX, "0", "zdlab: seed of all that is random"},
	{"flow-summary", 0, BOTH, TEXT, AT(flow_summary), 0, 0, NULL,
	 "zdlab: write one line for each flow to this file at the end"},
	{"help", 'h', BOTH, FLAG, AT(help), 0, 0, NULL, "print this and exit"},
};

#define FLAG_COUNT (sizeof(flags) / sizeof(flags[0]))

static void *field(struct options *options, const struct flag *flag)
{
	return (char *)options + flag->offset;
}

/* Store @text as the value of @flag; false when it is not such a value. */
static bool store(struct options *options, const struct flag *flag, const char *text)
{
	void *out = field(options, flag);

	switch (flag->kind) {
	case FLAG:
		*(bool *)out = true;
		return true;
	case NUMBER:
		return read_number(text, flag->lowest, flag->highest, out);
	case SECONDS:
		return read_seconds(text, out);
	case DURATION:
		return read_duration(text, out);
	case RATE:
		return read_rate(text, out);
	case PERCENTILES:
		return read_percentiles(text, out);
	case OPTIONAL_TEXT:
		text = text ? text : flag->otherwise;
		/* fall through */
	case TEXT:
		*(const char **)out = text;
		return *text != '\0';
	}
	return false;
}

static void print_help(enum tool_kind tool)
{
	printf("Usage: %s [-c -H SERVER] [FLAGS]\n", program_name);
	for (size_t i = 0; i < FLAG_COUNT; i++) {
		char name[48];

		if (!(flags[i].tools & (int)tool))
			continue;
		snprintf(name, sizeof(name), "--%s%s", flags[i].name, flags[i].kind == FLAG ? "" : "=VALUE");
		if (flags[i].letter)
			printf("  -%c, %-26s %s\n", flags[i].letter, name, flags[i].help);
		else
			printf("      %-26s %s\n", name, flags[i].help);
	}
}

/* What no single flag's range can say. */
static void check_options(const struct options *options)
{
	if (options->client && !options->host)
		die(EXIT_BAD_USAGE, "a client needs the server's address: -H ADDRESS");
	if (!options->client && options->host)
		die(EXIT_BAD_USAGE, "-H is for a client (-c); a server takes its own addresses with -L");
	if (options->ipv4 && options->ipv6)
		die(EXIT_BAD_USAGE, "-4 and -6 exclude each other");
	if (options->test_length <= 0 || options->interval < NANOS_PER_MILLI)
		die(EXIT_BAD_USAGE, "--test-length must be above 0, --interval at least 0.001 seconds");
	if (options->control_timeout <= 0)
		die(EXIT_BAD_USAGE, "--control-timeout must be above 0");
	if (options->port + options->num_ports - 1 > 65535)
		die(EXIT_BAD_USAGE, "--num-ports=%llu from --port=%llu on goes beyond port 65535",
		    (unsigned long long)options->num_ports, (unsigned long long)options->port);
	if (options->control_port >= options->port && options->control_port < options->port + options->num_ports)
		die(EXIT_BAD_USAGE, "the control port %llu is one of the data ports",
		    (unsigned long long)options->control_port);
	if (options->source_port && options->source_port + options->num_flows - 1 > 65535)
		die(EXIT_BAD_USAGE, "--source-port=%llu with %llu flows goes beyond port 65535",
		    (unsigned long long)options->source_port, (unsigned long long)options->num_flows);
}

static void set_defaults(struct options *options, enum tool_kind tool)
{
	*options = (struct options){.tool = tool};
	for (size_t i = 0; i < FLAG_COUNT; i++)
		if (flags[i].otherwise && flags[i].kind != OPTIONAL_TEXT)
			store(options, &flags[i], flags[i].otherwise);
	options->buffer_size = tool == TOOL_STREAM ? 16384 : 65536;
	/* What the other tool alone can set must still make sense. */
	if (tool == TOOL_STREAM)
		options->request_size = options->response_size = 1;
}

/* Which directions this end moves data in. */
static void settle_direction(struct options *options)
{
	if (options->tool == TOOL_RR) {
		options->enable_read = options->enable_write = true;
	} else if (options->enable_tcp_maerts) {
		options->enable_read = options->client;
		options->enable_write = !options->client;
	} else if (options->client) {
		options->enable_write = true;
	} else {
		options->enable_read = true;
	}
}

void parse_options(struct options *options, enum tool_kind tool, int argc, char **argv)
{
	struct option longs[FLAG_COUNT + 1] = {{0}};
	char shorts[3 * FLAG_COUNT + 1] = "";
	size_t length = 0, known = 0;
	int given;

	set_defaults(options, tool);
	for (size_t i = 0; i < FLAG_COUNT; i++) {
		int wants = flags[i].kind == FLAG            ? no_argument
			    : flags[i].kind == OPTIONAL_TEXT ? optional_argument
							     : required_argument;

		if (!(flags[i].tools & (int)tool))
			continue;
		longs[known++] = (struct option){.name = flags[i].name, .has_arg = wants,
						 .val = FIRST_LONG_ONLY + (int)i};
		if (!flags[i].letter)
			continue;
		shorts[length++] = (char)flags[i].letter;
		for (int colons = 0; colons < wants; colons++)
			shorts[length++] = ':';
	}
	while ((given = getopt_long(argc, argv, shorts, longs, NULL)) != -1) {
		const struct flag *flag = NULL;

		for (size_t i = 0; i < FLAG_COUNT && !flag; i++)
			if ((flags[i].tools & (int)tool) &&
			    (given == FIRST_LONG_ONLY + (int)i || (flags[i].letter && given == flags[i].letter)))
				flag = &flags[i];
		if (!flag)
			die(EXIT_BAD_USAGE, "see %s --help", program_name);
		if (!store(options, flag, optarg))
			die(EXIT_BAD_USAGE, "--%s: '%s' is not a usable value: %s", flag->name, optarg, flag->help);
	}
	if (optind < argc)
		die(EXIT_BAD_USAGE, "'%s' is not a flag", argv[optind]);
	if (options->help) {
		print_help(tool);
		exit(EXIT_RUN_OK);
	}
	check_options(options);
	settle_direction(options);
}

static void print_percentiles(const struct percentiles *list)
{
	for (unsigned int i = 0; i < list->count; i++)
		printf("%s%g", i ? "," : "", list->value[i]);
	putchar('\n');
}

void print_options(const struct options *options)
{
	for (size_t i = 0; i < FLAG_COUNT; i++) {
		const void *value = (const char *)options + flags[i].offset;

		if (!(flags[i].tools & (int)options->tool))
			continue;
		for (const char *c = flags[i].name; *c; c++)
			putchar(*c == '-' ? '_' : *c);
		putchar('=');
		switch (flags[i].kind) {
		case FLAG:
			printf("%d\n", *(const bool *)value);
			break;
		case NUMBER:
		case RATE:
			printf("%llu\n", (unsigned long long)*(const uint64_t *)value);
			break;
		case SECONDS:
			printf("%.10g\n", to_seconds(*(const nanos *)value));
			break;
		case DURATION:
			printf("%lld\n", (long long)*(const nanos *)value);
			break;
		case TEXT:
		case OPTIONAL_TEXT:
			printf("%s\n", *(const char *const *)value ? *(const char *const *)value : "");
			break;
		case PERCENTILES:
			print_percentiles(value);
			break;
		}
	}
	printf("total_run_time=%.10g\n", to_seconds(options->test_length));
	fflush(stdout);
}
