// SPDX-License-Identifier: Apache-2.0
// Starting other programs, and their end.
#define _GNU_SOURCE
#include "CSystemShims.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

int32_t shim_is_program(const char *path)
{
	struct stat st;

	return !stat(path, &st) && S_ISREG(st.st_mode) && !access(path, X_OK);
}

// The child of a vfork: shares our memory, and calls nothing but the kernel until it has become its program.
static void become_bound(const char *path, char *const argv[], char *const envp[], const int32_t fds[3], pid_t parent)
{
	struct sigaction standard = {.sa_handler = SIG_DFL};
	sigset_t none;

	// The parent may have ended before it was asked for.
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
		return;
	for (int i = 0; i < 3; i++) {
		int fd = fds[i] < 0 ? open("/dev/null", (i ? O_WRONLY : O_RDONLY) | O_CLOEXEC) : fds[i];

		if (fd < 0 || (fd == i ? fcntl(fd, F_SETFD, 0) : dup2(fd, i)) < 0)
			return;
	}
	// As in shim_spawn; where a kernel has no such call it stays as it is.
	close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
	sigaction(SIGPIPE, &standard, NULL);
	sigaction(SIGXFSZ, &standard, NULL);
	shim_restore_open_files();
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execve(path, argv, envp);
}

static int32_t spawn_bound(const char *path, char *const argv[], char *const envp[], const int32_t fds[3])
{
	pid_t parent = getpid(), pid;
	volatile int error = 0;
	sigset_t all, before;

	// No handler of ours may run in the child while it shares our memory.
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pid = vfork();
	if (!pid) {
		become_bound(path, argv, envp, fds, parent);
		error = errno ? errno : ECHILD;
		_exit(127);
	}
	if (pid < 0)
		error = errno;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (pid > 0 && error)
		waitpid(pid, NULL, 0);
	return error ? -error : pid;
}

int32_t shim_spawn(const char *path, char *const argv[], char *const envp[], int32_t in, int32_t out, int32_t err,
		   uint32_t spawn_flags)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	const int32_t fds[3] = {in, out, err};
	sigset_t none, standard;
	short flags = POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF;
	pid_t pid;
	int error;

	if (spawn_flags & SHIM_SPAWN_BOUND)
		return spawn_bound(path, argv, envp, fds);
	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attributes);
	for (int i = 0; i < 3; i++) {
		if (fds[i] < 0)
			posix_spawn_file_actions_addopen(&actions, i, "/dev/null", i ? O_WRONLY : O_RDONLY, 0);
		else
			posix_spawn_file_actions_adddup2(&actions, fds[i], i);
	}
	// Whoever started us may have left it open for us only: a lock of a script, the end of a pipe.
	posix_spawn_file_actions_addclosefrom_np(&actions, 3);
	sigemptyset(&none);
	sigfillset(&standard);
	sigdelset(&standard, SIGKILL);
	sigdelset(&standard, SIGSTOP);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setsigdefault(&attributes, &standard);
	if (spawn_flags & SHIM_SPAWN_GROUP) {
		posix_spawnattr_setpgroup(&attributes, 0);
		flags |= POSIX_SPAWN_SETPGROUP;
	}
	if (spawn_flags & SHIM_SPAWN_SESSION)
		flags |= POSIX_SPAWN_SETSID;
	posix_spawnattr_setflags(&attributes, flags);
	error = posix_spawn(&pid, path, &actions, &attributes, argv, envp);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attributes);
	return error ? -error : pid;
}

void shim_open_standard_streams(void)
{
	for (int i = 0; i < 3; i++) {
		// The lowest that is free is what open takes. The wrong way round: to write to it fails, as before.
		if (fcntl(i, F_GETFD) < 0 && errno == EBADF && open("/dev/null", i ? O_RDONLY : O_WRONLY) != i)
			return;
	}
}

int32_t shim_wait(int32_t pid, int32_t wait, int32_t *exit_code)
{
	int status = 0;
	pid_t result;

	do
		result = waitpid(pid, &status, wait ? 0 : WNOHANG);
	while (result < 0 && errno == EINTR);
	if (result < 0)
		return -errno;
	if (result > 0)
		*exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	return result;
}
