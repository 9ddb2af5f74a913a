// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "CSystemShims.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define RESULT(call)                                                                                                     \
	do {                                                                                                             \
		__typeof__(call) r_;                                                                                     \
		do                                                                                                       \
			r_ = (call);                                                                                     \
		while (r_ < 0 && errno == EINTR);                                                                        \
		return r_ < 0 ? -errno : r_;                                                                             \
	} while (0)

int32_t shim_open(const char *path, int32_t flags, uint32_t mode) { RESULT(open(path, flags | O_CLOEXEC, mode)); }

// What it is that could not be opened: a socket says no such device or address.
static int32_t open_error(const char *path, int32_t error)
{
	struct stat st;

	return error == -ENXIO && !stat(path, &st) && S_ISSOCK(st.st_mode) ? -ESPIPE : error;
}

int32_t shim_open_file(const char *path, uint32_t flags, uint32_t mode)
{
	// A pipe is opened at once, whoever is at its other end; it is refused afterwards.
	int32_t native = (flags & SHIM_OPEN_WRITE ? O_RDWR : O_RDONLY) | O_NONBLOCK, fd, settings;
	struct stat st;

	native |= flags & SHIM_OPEN_CREATE ? O_CREAT : 0;
	native |= flags & SHIM_OPEN_EXCLUSIVE ? O_EXCL : 0;
	native |= flags & SHIM_OPEN_TRUNCATE ? O_TRUNC : 0;
	native |= flags & SHIM_OPEN_DIRECT ? O_DIRECT : 0;
	native |= flags & SHIM_OPEN_FOLDER ? O_DIRECTORY : 0;
	native |= flags & SHIM_OPEN_APPEND ? O_APPEND : 0;
	native |= flags & SHIM_OPEN_NO_LINK ? O_NOFOLLOW : 0;
	fd = shim_open(path, native, mode);
	if (fd < 0)
		return open_error(path, fd);
	if (fstat(fd, &st) < 0 || (settings = fcntl(fd, F_GETFL)) < 0 || fcntl(fd, F_SETFL, settings & ~O_NONBLOCK) < 0) {
		int error = errno;

		close(fd);
		return -error;
	}
	if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode) && !S_ISBLK(st.st_mode)) {
		close(fd);
		return -ESPIPE;
	}
	return fd;
}

int32_t shim_flags_write_cached(uint64_t flags) { return (flags & O_ACCMODE) != O_RDONLY && !(flags & O_DIRECT); }

int32_t shim_close(int32_t fd) { return close(fd) < 0 ? -errno : 0; }
int64_t shim_pread(int32_t fd, void *buffer, uint64_t count, uint64_t offset) { RESULT(pread(fd, buffer, count, (off_t)offset)); }

int64_t shim_pwrite(int32_t fd, const void *buffer, uint64_t count, uint64_t offset, int32_t durable)
{
	struct iovec iov = {(void *)buffer, count};

	RESULT(pwritev2(fd, &iov, 1, (off_t)offset, durable ? RWF_DSYNC : 0));
}

int64_t shim_read(int32_t fd, void *buffer, uint64_t count) { RESULT(read(fd, buffer, count)); }
int64_t shim_write(int32_t fd, const void *buffer, uint64_t count) { RESULT(write(fd, buffer, count)); }
int32_t shim_fsync(int32_t fd) { RESULT(fsync(fd)); }
int32_t shim_fdatasync(int32_t fd) { RESULT(fdatasync(fd)); }
int32_t shim_ftruncate(int32_t fd, uint64_t size) { RESULT(ftruncate(fd, (off_t)size)); }

int32_t shim_fallocate(int32_t fd, int32_t mode, uint64_t offset, uint64_t count)
{
	RESULT(fallocate(fd, mode, (off_t)offset, (off_t)count));
}

int64_t shim_seek_data(int32_t fd, uint64_t offset) { RESULT(lseek(fd, (off_t)offset, SEEK_DATA)); }
int64_t shim_seek_hole(int32_t fd, uint64_t offset) { RESULT(lseek(fd, (off_t)offset, SEEK_HOLE)); }

_Static_assert(SHIM_FALLOC_KEEP_SIZE == FALLOC_FL_KEEP_SIZE && SHIM_FALLOC_PUNCH == FALLOC_FL_PUNCH_HOLE &&
		       SHIM_FALLOC_ZERO == FALLOC_FL_ZERO_RANGE, "modes of fallocate");
_Static_assert(SHIM_EXTENT_LAST == FIEMAP_EXTENT_LAST && SHIM_EXTENT_UNWRITTEN == FIEMAP_EXTENT_UNWRITTEN,
	       "flags of fiemap");

static int32_t fill_stat(int result, const struct stat *st, struct shim_stat *out)
{
	if (result < 0)
		return -errno;
	memset(out, 0, sizeof(*out));
	out->size = (uint64_t)st->st_size;
	out->allocated_bytes = (uint64_t)st->st_blocks * 512;
	out->device = st->st_dev;
	out->inode = st->st_ino;
	out->modified_ns = (uint64_t)st->st_mtim.tv_sec * 1000000000u + (uint64_t)st->st_mtim.tv_nsec;
	out->links = st->st_nlink;
	out->owner = st->st_uid;
	out->mode = st->st_mode;
	out->block_size = (uint32_t)st->st_blksize;
	return 0;
}

int32_t shim_fstat(int32_t fd, struct shim_stat *result)
{
	struct stat st;
	int32_t error = fill_stat(fstat(fd, &st), &st, result);

	// The kernel tells no size of a block device here.
	if (!error && S_ISBLK(st.st_mode)) {
		off_t end = lseek(fd, 0, SEEK_END);

		if (end < 0)
			return -errno;
		result->size = (uint64_t)end;
	}
	return error;
}

int32_t shim_stat(const char *path, struct shim_stat *result)
{
	struct stat st;

	return fill_stat(stat(path, &st), &st, result);
}

int32_t shim_stat_in(int32_t folder, const char *name, struct shim_stat *result)
{
	struct stat st;

	return fill_stat(fstatat(folder, name, &st, 0), &st, result);
}

int32_t shim_device_of(int32_t fd, uint32_t *major_number, uint32_t *minor_number)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	*major_number = major(st.st_dev);
	*minor_number = minor(st.st_dev);
	return 0;
}

int32_t shim_block_number(const char *path, uint32_t *major, uint32_t *minor)
{
	struct statx st;

	if (statx(AT_FDCWD, path, AT_STATX_DONT_SYNC, STATX_TYPE, &st) < 0)
		return -errno;
	*major = st.stx_rdev_major;
	*minor = st.stx_rdev_minor;
	return S_ISBLK(st.stx_mode);
}

int32_t shim_take_attributes(int32_t fd, const char *path)
{
	struct stat st;
	mode_t mode;

	if (stat(path, &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	mode = st.st_mode & 0777;
	// What was for that group is not for another one.
	if (fchown(fd, st.st_uid, st.st_gid) < 0 && fchown(fd, (uid_t)-1, st.st_gid) < 0)
		mode &= ~070u;
	RESULT(fchmod(fd, mode));
}

int32_t shim_lstat(const char *path, struct shim_stat *result)
{
	struct stat st;

	return fill_stat(lstat(path, &st), &st, result);
}

int32_t shim_rename(const char *from, const char *to) { RESULT(rename(from, to)); }
int32_t shim_rename_exclusive(const char *from, const char *to) { RESULT(renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE)); }
int32_t shim_unlink(const char *path) { RESULT(unlink(path)); }
int32_t shim_rmdir(const char *path) { RESULT(rmdir(path)); }
int32_t shim_mkdir(const char *path, uint32_t mode) { RESULT(mkdir(path, mode)); }

int32_t shim_flock(int32_t fd, int32_t exclusive, int32_t wait)
{
	RESULT(flock(fd, (exclusive ? LOCK_EX : LOCK_SH) | (wait ? 0 : LOCK_NB)));
}

int32_t shim_unflock(int32_t fd)
{
	RESULT(flock(fd, LOCK_UN));
}

int32_t shim_drop_cache(int32_t fd)
{
	return -posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
}

/*
 * flock(2) on a folder is what scripts and systemd-tmpfiles do, so this is a record lock of the open file. A folder is
 * never open for writing, which an exclusive one needs: everybody takes a shared one, and then looks for another.
 */
int32_t shim_claim_folder(int32_t fd)
{
	struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 0x676f64, .l_len = 1 };
	int32_t failure;

	if (fcntl(fd, F_OFD_SETLK, &lock) < 0) {
		if (errno == EBADF || errno == EINVAL || errno == ENOLCK || errno == EOPNOTSUPP || errno == ENOSYS)
			return 0;
		return errno == EAGAIN || errno == EACCES ? -EWOULDBLOCK : -errno;
	}
	lock.l_type = F_WRLCK;
	failure = fcntl(fd, F_OFD_GETLK, &lock) < 0 ? -errno : lock.l_type == F_UNLCK ? 0 : -EWOULDBLOCK;
	if (failure < 0)
		shim_unclaim_folder(fd);
	return failure;
}

int32_t shim_unclaim_folder(int32_t fd)
{
	struct flock lock = { .l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = 0x676f64, .l_len = 1 };

	RESULT(fcntl(fd, F_OFD_SETLK, &lock));
}

int32_t shim_statfs(const char *path, uint64_t *free_bytes, uint64_t *total_bytes, uint64_t *fs_type)
{
	struct statfs fs;

	if (statfs(path, &fs) < 0)
		return -errno;
	*free_bytes = (uint64_t)fs.f_bavail * (uint64_t)fs.f_frsize;
	*total_bytes = (uint64_t)fs.f_blocks * (uint64_t)fs.f_frsize;
	*fs_type = (uint64_t)(unsigned long)fs.f_type;
	return 0;
}

int64_t shim_list(const char *path, char *names, uint64_t capacity)
{
	DIR *dir = opendir(path);
	struct dirent *entry;
	uint64_t used = 0;

	if (!dir)
		return -errno;
	for (;;) {
		errno = 0;
		entry = readdir(dir);
		if (!entry)
			break;
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		size_t length = strlen(entry->d_name) + 1;
		if (length > capacity - used) {
			closedir(dir);
			return -ERANGE;
		}
		memcpy(names + used, entry->d_name, length);
		used += length;
	}
	int error = errno;
	closedir(dir);
	return error ? -error : (int64_t)used;
}

int32_t shim_fiemap(int32_t fd, uint64_t offset, uint64_t count, struct shim_extent *extents, uint32_t capacity)
{
	struct fiemap *map = calloc(1, sizeof(*map) + capacity * sizeof(struct fiemap_extent));
	int32_t result;

	if (!map)
		return -ENOMEM;
	map->fm_start = offset;
	map->fm_length = count;
	map->fm_flags = FIEMAP_FLAG_SYNC;
	map->fm_extent_count = capacity;
	if (ioctl(fd, FS_IOC_FIEMAP, map) < 0) {
		result = -errno;
	} else {
		result = (int32_t)map->fm_mapped_extents;
		for (int32_t i = 0; i < result; i++) {
			extents[i].logical = map->fm_extents[i].fe_logical;
			extents[i].length = map->fm_extents[i].fe_length;
			extents[i].flags = map->fm_extents[i].fe_flags;
		}
	}
	free(map);
	return result;
}

int32_t shim_syncfs(int32_t fd) { return syncfs(fd) < 0 ? -errno : 0; }
int32_t shim_freeze(int32_t fd) { return ioctl(fd, FIFREEZE, 0) < 0 ? -errno : 0; }
int32_t shim_thaw(int32_t fd) { return ioctl(fd, FITHAW, 0) < 0 ? -errno : 0; }

const char *shim_getenv(const char *name) { return getenv(name); }
const char *shim_environment_entry(uint32_t index)
{
	for (uint32_t i = 0; environ && environ[i]; i++)
		if (i == index)
			return environ[i];
	return NULL;
}

int32_t shim_kill(int32_t pid, int32_t signal) { return kill(pid, signal) < 0 ? -errno : 0; }
int32_t shim_getpid(void) { return getpid(); }
int32_t shim_pidfd_open(int32_t pid) { RESULT((int)syscall(SYS_pidfd_open, pid, 0)); }

int32_t shim_pidfd_signal(int32_t pidfd, int32_t signal)
{
	return syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0) < 0 ? -errno : 0;
}

int32_t shim_pipe(int32_t fds[2]) { return pipe2(fds, O_CLOEXEC) < 0 ? -errno : 0; }
int32_t shim_readlink(const char *path, char *target, uint64_t capacity) { RESULT((int)readlink(path, target, capacity)); }

int32_t shim_realpath(const char *path, char *target, uint64_t capacity)
{
	char *resolved = realpath(path, NULL);
	int32_t result = 0;

	if (!resolved)
		return -errno;
	if (strlen(resolved) < capacity)
		strcpy(target, resolved);
	else
		result = -ERANGE;
	free(resolved);
	return result;
}

int32_t shim_poll_wait(struct shim_poll *fds, uint32_t count, int32_t timeout_ms)
{
	const struct shim_scheduler *scheduler = shim_scheduler();

	_Static_assert(sizeof(struct shim_poll) == sizeof(struct pollfd), "layout of pollfd");
	if (scheduler) {
		uint64_t deadline = timeout_ms < 0 ? UINT64_MAX : scheduler->now(0) + (uint64_t)timeout_ms * 1000000u;
		int ready;

		while (!(ready = poll((struct pollfd *)fds, count, 0)) && scheduler->idle(deadline))
			;
		RESULT(ready);
	}
	RESULT(poll((struct pollfd *)fds, count, timeout_ms));
}

static int32_t unix_address(const char *path, struct sockaddr_un *address)
{
	memset(address, 0, sizeof(*address));
	address->sun_family = AF_UNIX;
	if (strlen(path) >= sizeof(address->sun_path))
		return -ENAMETOOLONG;
	strcpy(address->sun_path, path);
	return 0;
}

static int32_t unix_socket(const char *path, int32_t backlog)
{
	struct sockaddr_un address;
	const struct timeval patience = {.tv_sec = 15};
	int32_t error = unix_address(path, &address);
	int fd, result;

	if (error)
		return error;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (backlog > 0) {
		// What the socket's file will have as its mode, from its first instant on.
		fchmod(fd, 0600);
		result = bind(fd, (struct sockaddr *)&address, sizeof(address));
		if (!result)
			result = listen(fd, backlog);
	} else {
		// A server that takes no connections holds nobody up for ever.
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
		result = connect(fd, (struct sockaddr *)&address, sizeof(address));
	}
	if (result < 0) {
		error = -errno;
		close(fd);
		return error;
	}
	return fd;
}

int32_t shim_unix_listen(const char *path, int32_t backlog) { return unix_socket(path, backlog); }
int32_t shim_unix_connect(const char *path) { return unix_socket(path, 0); }
int32_t shim_unix_accept(int32_t fd) { RESULT(accept4(fd, NULL, NULL, SOCK_CLOEXEC)); }

void shim_limit_sending(int32_t fd, int32_t seconds)
{
	const struct timeval patience = {.tv_sec = seconds};

	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
}

int32_t shim_shutdown_receiving(int32_t fd) { return shutdown(fd, SHUT_RD) < 0 ? -errno : 0; }
int32_t shim_shutdown(int32_t fd) { return shutdown(fd, SHUT_RDWR) < 0 ? -errno : 0; }

uint32_t shim_effective_user(void) { return geteuid(); }

int32_t shim_peer_uid(int32_t fd, uint32_t *uid)
{
	struct ucred peer;
	socklen_t length = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0)
		return -errno;
	*uid = peer.uid;
	return 0;
}

int32_t shim_peer_process(int32_t fd)
{
	struct ucred peer;
	socklen_t length = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0)
		return -errno;
	return peer.pid;
}

int32_t shim_mount(const char *source, const char *target, const char *type, uint64_t flags, const char *options)
{
	return mount(source, target, type, flags, options) < 0 ? -errno : 0;
}

int32_t shim_block_node(const char *path, uint32_t major, uint32_t minor)
{
	return mknod(path, S_IFBLK | 0600, makedev(major, minor)) < 0 ? -errno : 0;
}

int32_t shim_umount(const char *target, int32_t flags) { return umount2(target, flags) < 0 ? -errno : 0; }

struct thread_start {
	void (*body)(void *);
	void *context;
	char name[16];
	// Of the scheduler that the maker runs under, and what that calls the thread.
	const struct shim_scheduler *scheduler;
	void *scheduled;
};

static void *thread_main(void *argument)
{
	struct thread_start start = *(struct thread_start *)argument;

	free(argument);
	pthread_setname_np(pthread_self(), start.name);
	if (start.scheduler)
		start.scheduler->begin(start.scheduled);
	start.body(start.context);
	if (start.scheduler)
		start.scheduler->end(start.scheduled);
	return NULL;
}

int32_t shim_thread_start(void (*body)(void *), void *context, uint64_t stack_bytes, const char *name, uint64_t *handle)
{
	const struct shim_scheduler *scheduler = shim_scheduler();
	struct thread_start *start = malloc(sizeof(*start));
	void *scheduled = NULL;
	pthread_attr_t attributes;
	pthread_t thread;
	int error;

	_Static_assert(sizeof(thread) <= sizeof(*handle), "a handle holds a pthread_t");
	if (!start)
		return -ENOMEM;
	start->body = body;
	start->context = context;
	snprintf(start->name, sizeof(start->name), "%s", name);
	if (scheduler)
		scheduled = scheduler->make(name);
	start->scheduler = scheduler;
	start->scheduled = scheduled;
	pthread_attr_init(&attributes);
	error = pthread_attr_setstacksize(&attributes, stack_bytes);
	if (!error)
		error = pthread_create(&thread, &attributes, thread_main, start);
	pthread_attr_destroy(&attributes);
	if (scheduler)
		scheduler->made(scheduled, error ? 0 : (uint64_t)thread);
	if (error) {
		free(start);
		return -error;
	}
	*handle = (uint64_t)thread;
	return 0;
}


int32_t shim_thread_join(uint64_t handle)
{
	const struct shim_scheduler *scheduler = shim_scheduler();

	if (scheduler)
		scheduler->join(handle);
	return -pthread_join((pthread_t)handle, NULL);
}

int32_t shim_thread_detach(uint64_t handle) { return -pthread_detach((pthread_t)handle); }

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t shim_monotonic_ns(void)
{
	const struct shim_scheduler *scheduler = shim_scheduler();

	return scheduler ? scheduler->now(0) : clock_ns(CLOCK_MONOTONIC);
}

uint64_t shim_realtime_ns(void)
{
	const struct shim_scheduler *scheduler = shim_scheduler();

	return scheduler ? scheduler->now(1) : clock_ns(CLOCK_REALTIME);
}

int32_t shim_random(void *buffer, uint64_t count)
{
	const struct shim_scheduler *scheduler = shim_scheduler();
	uint8_t *next = buffer;

	if (scheduler) {
		scheduler->random(buffer, count);
		return 0;
	}
	while (count > 0) {
		ssize_t got = getrandom(next, count, 0);
		if (got < 0 && errno != EINTR)
			return -errno;
		if (got > 0) {
			next += got;
			count -= (uint64_t)got;
		}
	}
	return 0;
}

void shim_exit_now(int32_t status) { _exit(status); }

int32_t shim_isatty(int32_t fd) { return isatty(fd); }

uint64_t shim_peak_memory(void)
{
	struct rusage usage;

	return getrusage(RUSAGE_SELF, &usage) < 0 ? 0 : (uint64_t)usage.ru_maxrss * 1024;
}

int32_t shim_processors(void)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	return sched_getaffinity(0, sizeof(set), &set) < 0 || CPU_COUNT(&set) < 1 ? 1 : CPU_COUNT(&set);
}

void shim_ignore_sigpipe(void)
{
	signal(SIGPIPE, SIG_IGN);
	shim_ignore_sigxfsz();
}

void shim_ignore_sigxfsz(void) { signal(SIGXFSZ, SIG_IGN); }

static struct rlimit open_files_before;

void shim_raise_open_files(uint64_t wanted)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted)
		return;
	open_files_before = limit;
	limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
	setrlimit(RLIMIT_NOFILE, &limit);
}

void shim_restore_open_files(void)
{
	if (open_files_before.rlim_cur != 0)
		setrlimit(RLIMIT_NOFILE, &open_files_before);
}

int32_t shim_signal_descriptor(const int32_t *signals, uint32_t count)
{
	sigset_t set;

	sigemptyset(&set);
	for (uint32_t i = 0; i < count; i++)
		sigaddset(&set, signals[i]);
	int error = pthread_sigmask(SIG_BLOCK, &set, NULL);
	if (error)
		return -error;
	RESULT(signalfd(-1, &set, SFD_CLOEXEC));
}
