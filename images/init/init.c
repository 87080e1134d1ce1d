// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * init - the first program of a zdlab guest
 *
 * Mounts what programs expect, lifts the limit on open files, names the guest after its node, starts the agent
 * and reaps orphans. When the agent ends, so does the guest. The console gets a shell for whoever presses Enter
 * there: it is the way in when the agent is not. Linked statically: nothing is mounted yet when it starts, and
 * under emulation the dynamic linker is time.
 *
 * Whatever it has to say on the console starts with "zdlab-init:".
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define OPEN_FILES 1048576

static const char NODE[] = "zdlab.node=";
static const char CAPSULE[] = "zdlab.capsule";

static bool capsule;

static void complain(const char *what)
{
	dprintf(STDERR_FILENO, "zdlab-init: %s: %s\n", what, strerror(errno));
}

static void mount_at(const char *type, const char *path, const char *options)
{
	if (mkdir(path, 0755) && errno != EEXIST)
		complain(path);
	/* The kernel may have mounted devtmpfs itself. */
	if (mount(type, path, type, MS_NOSUID, options) && errno != EBUSY)
		complain(path);
}

/* What not every kernel has, below directories that the kernel makes if it has it. */
static void mount_if_there(const char *type, const char *path)
{
	if (!access(path, F_OK) && mount(type, path, type, MS_NOSUID, NULL) && errno != ENODEV)
		complain(path);
}

static void write_file(const char *path, const char *text)
{
	int descriptor = open(path, O_WRONLY | O_CLOEXEC);

	if (descriptor < 0)
		return;
	if (write(descriptor, text, strlen(text)) < 0)
		complain(path);
	close(descriptor);
}

static void lift_limits(void)
{
	const struct rlimit files = { OPEN_FILES, OPEN_FILES };

	write_file("/proc/sys/fs/nr_open", "1048576");
	write_file("/proc/sys/fs/file-max", "4194304");
	if (setrlimit(RLIMIT_NOFILE, &files))
		complain("open files");
}

static void loopback_up(void)
{
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int descriptor = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (descriptor < 0 || ioctl(descriptor, SIOCSIFFLAGS, &request))
		complain("lo");
	if (descriptor >= 0)
		close(descriptor);
}

/*
 * The words meant for us on the kernel's command line: the host name after "zdlab.node=", and "zdlab.capsule", which
 * has the guest run a whole trial by itself in place of the agent.
 */
static void take_words(void)
{
	char line[4096];
	int descriptor = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
	ssize_t length = descriptor < 0 ? -1 : read(descriptor, line, sizeof(line) - 1);
	char *word;

	if (descriptor >= 0)
		close(descriptor);
	if (length < 0)
		return;
	line[length] = '\0';
	for (word = strtok(line, " \n"); word; word = strtok(NULL, " \n")) {
		if (!strcmp(word, CAPSULE))
			capsule = true;
		if (!strncmp(word, NODE, strlen(NODE)) && sethostname(word + strlen(NODE), strlen(word + strlen(NODE))))
			complain("host name");
	}
}

static pid_t start(char *const argv[])
{
	static char *const environment[] = { "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TERM=linux",
					     "LANG=C.UTF-8", "PYTHONHASHSEED=0", NULL };
	pid_t child = fork();

	if (child)
		return child;
	setsid();
	execve(argv[0], argv, environment);
	complain(argv[0]);
	_exit(127);
}

/* Waits on the console for a line, then becomes a shell there. */
static pid_t offer_shell(void)
{
	static char *const argv[] = { "/bin/bash", "-l", NULL };
	char letter = 0;
	int console;
	pid_t child = fork();

	if (child)
		return child;
	setsid();
	console = open("/dev/console", O_RDWR);
	if (console < 0)
		_exit(1);
	dup2(console, STDIN_FILENO);
	dup2(console, STDOUT_FILENO);
	dup2(console, STDERR_FILENO);
	if (console > STDERR_FILENO)
		close(console);
	/* A terminal of its own, so that Ctrl-C reaches what the shell runs. */
	ioctl(STDIN_FILENO, TIOCSCTTY, 1);
	while (letter != '\n')
		if (read(STDIN_FILENO, &letter, 1) != 1)
			_exit(1);
	if (chdir("/root"))
		complain("/root");
	setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin", 1);
	setenv("HOME", "/root", 1);
	setenv("TERM", "vt100", 1);
	execv(argv[0], argv);
	complain(argv[0]);
	_exit(127);
}

static void end(void)
{
	sync();
	reboot(RB_POWER_OFF);
	/* Without ACPI there is no power to switch off. The machine is not started again after a restart. */
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}

int main(void)
{
	static char *const served[] = { "/usr/bin/python3", "-I", "-S", "-B", "-u", "-X", "utf8",
					"/usr/lib/zdlab/start.py", NULL };
	/* Not isolated from its environment, which has the seed of Python's hashes. */
	static char *const alone[] = { "/usr/bin/python3", "-s", "-P", "-S", "-B", "-u", "-X", "utf8",
				       "/usr/lib/zdlab/capsule.py", NULL };
	pid_t agent, shell, child;
	int status;

	umask(0022);
	mount_at("devtmpfs", "/dev", "mode=0755");
	mount_at("proc", "/proc", NULL);
	mount_at("sysfs", "/sys", NULL);
	mount_at("devpts", "/dev/pts", "mode=0620,ptmxmode=0666");
	mount_at("tmpfs", "/dev/shm", "mode=1777");
	mount_at("tmpfs", "/tmp", "mode=1777");
	mount_at("tmpfs", "/run", "mode=0755");
	mount_if_there("cgroup2", "/sys/fs/cgroup");
	mount_if_there("debugfs", "/sys/kernel/debug");
	mount_if_there("tracefs", "/sys/kernel/tracing");
	if (symlink("/proc/self/fd", "/dev/fd") && errno != EEXIST)
		complain("/dev/fd");
	lift_limits();
	loopback_up();
	take_words();

	agent = start(capsule ? alone : served);
	if (agent < 0)
		complain("fork");
	shell = capsule ? -1 : offer_shell();
	while (agent > 0) {
		child = wait(&status);
		if (child < 0 && errno != EINTR) {
			complain("wait");
			break;
		}
		if (child == shell && !(WIFEXITED(status) && WEXITSTATUS(status) == 1))
			shell = offer_shell();
		if (child != agent)
			continue;
		if (WIFSIGNALED(status))
			dprintf(STDERR_FILENO, "zdlab-init: the agent died of signal %d\n", WTERMSIG(status));
		else if (WEXITSTATUS(status))
			dprintf(STDERR_FILENO, "zdlab-init: the agent ended with status %d\n", WEXITSTATUS(status));
		break;
	}
	end();
}
