/*
 * The way into both programs: command line, limits, then client or server.
 */
#include "traffic.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>

#include "net.h"
#include "session.h"

/* Signals arrive as a file the main thread polls, so that a run that is interrupted still tells its results. */
static int take_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	return signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
}

int traffic_main(const struct tool *tool, int argc, char **argv)
{
	struct options options;
	struct run run = {.options = &options, .tool = tool, .give_up_at = NEVER};
	char reason[256];
	int code;

	program_name = tool->name;
	parse_options(&options, tool->kind, argc, argv);
	print_options(&options);
	if (options.dry_run)
		return EXIT_RUN_OK;
	run.begun_at = now_ns();
	if (options.suicide_length)
		run.give_up_at = run.begun_at + options.suicide_length;
	run.reading = options.enable_read;
	run.writing = options.enable_write;
	run.sampling = options.all_samples && options.enable_read;
	run.flow_count = (uint32_t)options.num_flows;
	run.wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	run.signal_fd = take_signals();
	if (run.wake_fd == -1 || run.signal_fd == -1)
		die(EXIT_RUN_FAILED, "cannot start: %s", strerror(errno));
	if (!allow_open_files(run.flow_count, reason, sizeof(reason)))
		die(EXIT_BAD_USAGE, "%s", reason);
	if (options.client)
		run.remote = resolve(&options, options.host);
	find_local(&run);
	if (options.client && !enough_source_ports(&run, reason, sizeof(reason)))
		die(EXIT_BAD_USAGE, "%s", reason);
	code = options.client ? run_client(&run) : run_server(&run);
	if (run.failure[0])
		complain("%s", run.failure);
	run_free(&run);
	return code;
}
