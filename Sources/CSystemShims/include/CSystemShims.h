// SPDX-License-Identifier: Apache-2.0
// Linux system calls as plain functions: fixed-width types only, results are >= 0 or -errno.
#ifndef GODWIT_CSYSTEMSHIMS_H
#define GODWIT_CSYSTEMSHIMS_H

#include <stdint.h>

#include "monitor.h"
#include "scheduler.h"
#include "stream.h"

struct shim_stat {
	uint64_t size;
	uint64_t allocated_bytes;
	uint64_t device;
	uint64_t inode;
	uint64_t modified_ns;
	uint64_t links;
	uint32_t mode;
	uint32_t owner;
	uint32_t block_size;
};

// Files.
int32_t shim_open(const char *path, int32_t flags, uint32_t mode);
#define SHIM_OPEN_WRITE 1u
#define SHIM_OPEN_CREATE 2u
#define SHIM_OPEN_EXCLUSIVE 4u
#define SHIM_OPEN_TRUNCATE 8u
#define SHIM_OPEN_DIRECT 16u
#define SHIM_OPEN_FOLDER 32u
#define SHIM_OPEN_APPEND 64u
// A symbolic link at the end of the path is an error.
#define SHIM_OPEN_NO_LINK 128u
// A regular file, a folder or a block device. Anything else (a pipe, a socket, a terminal) is -ESPIPE, at once: a pipe is
// not waited for.
int32_t shim_open_file(const char *path, uint32_t flags, uint32_t mode);
// Do the flags of an open file, as /proc has them, let it write through the page cache?
int32_t shim_flags_write_cached(uint64_t flags);
// What direct I/O on the open file must be aligned to; 0 = it has none; -EOPNOTSUPP = the kernel doesn't say.
int32_t shim_direct_alignment(int32_t fd);
int32_t shim_close(int32_t fd);
int64_t shim_pread(int32_t fd, void *buffer, uint64_t count, uint64_t offset);
// durable != 0: the data is on the medium when the call returns (RWF_DSYNC).
int64_t shim_pwrite(int32_t fd, const void *buffer, uint64_t count, uint64_t offset, int32_t durable);
int64_t shim_read(int32_t fd, void *buffer, uint64_t count);
int64_t shim_write(int32_t fd, const void *buffer, uint64_t count);
int32_t shim_fsync(int32_t fd);
int32_t shim_fdatasync(int32_t fd);
int32_t shim_ftruncate(int32_t fd, uint64_t size);
#define SHIM_FALLOC_KEEP_SIZE 1
#define SHIM_FALLOC_PUNCH 2
#define SHIM_FALLOC_ZERO 16
int32_t shim_fallocate(int32_t fd, int32_t mode, uint64_t offset, uint64_t count);
int64_t shim_seek_data(int32_t fd, uint64_t offset);
int64_t shim_seek_hole(int32_t fd, uint64_t offset);
int32_t shim_fstat(int32_t fd, struct shim_stat *result);
// Gives the open file owner, group and permissions of what is at path, as far as this process may; nothing there: 0.
int32_t shim_take_attributes(int32_t fd, const char *path);
int32_t shim_stat(const char *path, struct shim_stat *result);
// Of what has that name in an open folder.
int32_t shim_stat_in(int32_t folder, const char *name, struct shim_stat *result);
// The number of a block device: 1; 0 = the path leads to something else. Asks no server of a network file system.
int32_t shim_block_number(const char *path, uint32_t *major, uint32_t *minor);
// Of the file system that an open file lies on.
int32_t shim_device_of(int32_t fd, uint32_t *major, uint32_t *minor);
// Of a link itself.
int32_t shim_lstat(const char *path, struct shim_stat *result);
int32_t shim_rename(const char *from, const char *to);
int32_t shim_rename_exclusive(const char *from, const char *to);
int32_t shim_unlink(const char *path);
// Has the page cache forget what it has of the file and need not write.
int32_t shim_drop_cache(int32_t fd);
int32_t shim_rmdir(const char *path);
int32_t shim_mkdir(const char *path, uint32_t mode);
int32_t shim_flock(int32_t fd, int32_t exclusive, int32_t wait);
int32_t shim_unflock(int32_t fd);
// Has the open folder for this process until it is closed; -EWOULDBLOCK: another one has. 0 also where folders can't be
// had.
int32_t shim_claim_folder(int32_t fd);
int32_t shim_unclaim_folder(int32_t fd);
// Free bytes for this user and all bytes of the file system at path; fs_type gets its magic number.
int32_t shim_statfs(const char *path, uint64_t *free_bytes, uint64_t *total_bytes, uint64_t *fs_type);
// Names of a folder, NUL-separated, "." and ".." left out; returns bytes used or -ERANGE when capacity is too small.
int64_t shim_list(const char *path, char *names, uint64_t capacity);

// Extents of a file (FIEMAP with sync). Returns how many were filled in; flags are the kernel's.
#define SHIM_EXTENT_LAST 1u
#define SHIM_EXTENT_UNWRITTEN 0x800u
struct shim_extent {
	uint64_t logical;
	uint64_t length;
	uint32_t flags;
};
int32_t shim_fiemap(int32_t fd, uint64_t offset, uint64_t count, struct shim_extent *extents, uint32_t capacity);

// File-system freeze.
int32_t shim_syncfs(int32_t fd);
int32_t shim_freeze(int32_t fd);
int32_t shim_thaw(int32_t fd);

// The process's environment; NULL where there is none of that name or index. Owned by the C library.
const char *shim_getenv(const char *name);
const char *shim_environment_entry(uint32_t index);

// 1 = a file that may be run.
int32_t shim_is_program(const char *path);
// Opens those of descriptors 0 to 2 that are closed, on /dev/null.
void shim_open_standard_streams(void);
// Processes. argv and envp end with NULL; a descriptor of -1 gives the child /dev/null. It gets no other descriptors.
#define SHIM_SPAWN_GROUP 1u	// it leads a process group of its own
#define SHIM_SPAWN_SESSION 2u	// it leads a session of its own, and so a group
#define SHIM_SPAWN_BOUND 4u	// it is killed when the thread that starts it ends; excludes the others
int32_t shim_spawn(const char *path, char *const argv[], char *const envp[], int32_t in, int32_t out, int32_t err,
		   uint32_t flags);
// Waits; 0 = still running (only with wait == 0), else fills exit_code (128 + signal for a killed child) and returns pid.
int32_t shim_wait(int32_t pid, int32_t wait, int32_t *exit_code);
int32_t shim_kill(int32_t pid, int32_t signal);
int32_t shim_getpid(void);
// Ends the process without running exit handlers.
_Noreturn void shim_exit_now(int32_t status);
int32_t shim_pidfd_open(int32_t pid);
int32_t shim_pidfd_signal(int32_t pidfd, int32_t signal);
int32_t shim_pipe(int32_t fds[2]);
int32_t shim_readlink(const char *path, char *target, uint64_t capacity);
// The absolute path without symbolic links, NUL-terminated; -ERANGE when capacity is too small.
int32_t shim_realpath(const char *path, char *target, uint64_t capacity);

// Waits until one of the descriptors is ready; events as in poll(2). timeout_ms < 0: for ever.
struct shim_poll {
	int32_t fd;
	int16_t events;
	int16_t revents;
};
int32_t shim_poll_wait(struct shim_poll *fds, uint32_t count, int32_t timeout_ms);

// Unix stream sockets. A listening one is for its user only (0600). shim_peer_uid: who is at the other end of a connected
// one; shim_peer_process: his process when he connected, 0 where that is out of sight.
int32_t shim_unix_listen(const char *path, int32_t backlog);
int32_t shim_unix_accept(int32_t fd);
int32_t shim_unix_connect(const char *path);
int32_t shim_peer_uid(int32_t fd, uint32_t *uid);
int32_t shim_peer_process(int32_t fd);
// Ends both directions, also for threads that wait in a read, a write or an accept.
int32_t shim_shutdown(int32_t fd);
// The same for what comes: what is sent still gets through.
// Writes to a socket fail with EAGAIN after that time without progress.
void shim_limit_sending(int32_t fd, int32_t seconds);
int32_t shim_shutdown_receiving(int32_t fd);
uint32_t shim_effective_user(void);

// Mounts and loop devices.
int32_t shim_mount(const char *source, const char *target, const char *type, uint64_t flags, const char *options);
int32_t shim_umount(const char *target, int32_t flags);
int32_t shim_block_node(const char *path, uint32_t major, uint32_t minor);

// Threads. The handle is for one join or one detach.
int32_t shim_thread_start(void (*body)(void *), void *context, uint64_t stack_bytes, const char *name, uint64_t *handle);
int32_t shim_thread_join(uint64_t handle);
int32_t shim_thread_detach(uint64_t handle);

// Time and chance.
uint64_t shim_monotonic_ns(void);
uint64_t shim_realtime_ns(void);
int32_t shim_random(void *buffer, uint64_t count);

int32_t shim_isatty(int32_t fd);
// Largest resident set of this process so far, in bytes.
uint64_t shim_peak_memory(void);
// Processors that this process may use; at least 1.
int32_t shim_processors(void);
// Ignores SIGPIPE in the process, so that a closed peer is an EPIPE; and SIGXFSZ.
void shim_ignore_sigpipe(void);
// Lets the process have so many files open at a time, or as many as it may, at least as many as before.
void shim_raise_open_files(uint64_t wanted);
// The limit of before, for the programs that it starts. Async-signal-safe.
void shim_restore_open_files(void);
// Ignores SIGXFSZ in the process, so that a file at the limit of its size (RLIMIT_FSIZE) is an EFBIG.
void shim_ignore_sigxfsz(void);
// Routes these signals to a descriptor that becomes readable; returns the descriptor.
int32_t shim_signal_descriptor(const int32_t *signals, uint32_t count);

#endif
