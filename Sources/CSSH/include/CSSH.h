// SPDX-License-Identifier: Apache-2.0
// A command on another host over libssh. Nothing here is thread-safe: one thread owns a connection.
#ifndef GODWIT_CSSH_H
#define GODWIT_CSSH_H

#include <stdint.h>

// Strings may be NULL where it says so.
struct cssh_target {
	const char *host;
	const char *user;	  // NULL: the configuration's, else this user
	uint16_t port;		  // 0: the configuration's, else 22
	const char *config_file;  // NULL: ~/.ssh/config and the system's
	const char *identity_file; // NULL: the configuration's and the usual ones
	const char *command;
	uint32_t timeout_ms;
	// What libssh does not take from the configuration itself.
	const char *known_files;  // files of known hosts, a path a line; NULL: libssh's
	const char *alias;	  // the name by which they know the host; NULL: its own
	const char *revoked_file; // keys never to be trusted; NULL: none
	int32_t is_jump;	  // the connection goes through ProxyJump's hosts
	const char *proxy_log;	  // where the command that makes the connection writes its errors; NULL: nowhere
};

enum cssh_outcome {
	CSSH_OK = 0,
	CSSH_UNREACHABLE = 1,
	CSSH_HOST_UNKNOWN = 2,
	CSSH_HOST_CHANGED = 3,
	CSSH_NOT_ALLOWED = 4,
	CSSH_NO_COMMAND = 5,
	CSSH_BAD_CONFIG = 6,
	CSSH_SYSTEM = 7,
	CSSH_HOST_REVOKED = 8,
	CSSH_HOST_BY_AUTHORITY = 9, // only a certificate authority vouches for it, which libssh does not know of
};

struct cssh_report {
	int32_t outcome;
	uint16_t port;		   // where it really went
	char host[256];
	char user[128];
	char detail[512];	   // libssh's words
	char key_type[32];	   // of the host
	char fingerprint[128];	   // of the host's key, "SHA256:..."
	char methods[64];	   // of authentication that the host offers
	char known_hosts[512];	   // the file that was looked into
	char proxy[512];	   // the command that was to make the connection, if it is not made directly
};

struct cssh_connection;

// Connects, checks the host's key, logs in by agent or key file, starts the command. Blocks, each step for timeout_ms at
// most. NULL on failure; the report is filled in either way.
struct cssh_connection *cssh_open(const struct cssh_target *target, struct cssh_report *report);

// From here on nothing blocks but cssh_wait.

// Sleeps until something happened on the connection or wake_fd became readable, and takes it in; timeout_ms < 0: for
// ever. Returns -1 when the connection is lost, else 0.
int32_t cssh_wait(struct cssh_connection *connection, int32_t wake_fd, int32_t timeout_ms);
// Takes what has come, at most count bytes: 0 = nothing now, -1 = nothing ever again (end or loss).
int64_t cssh_read(struct cssh_connection *connection, void *bytes, uint64_t count);
// The same for the command's standard error; 0 = nothing now.
int64_t cssh_read_errors(struct cssh_connection *connection, void *bytes, uint64_t count);
// Hands over bytes; returns how many were taken, 0 = not now, -1 = never again.
int64_t cssh_write(struct cssh_connection *connection, const void *bytes, uint64_t count);
// Whether all that was handed over is with the kernel.
int32_t cssh_is_flushed(struct cssh_connection *connection);
// Whether the far side closed the channel: after that no exit status comes any more.
int32_t cssh_is_closed(struct cssh_connection *connection);
// -1 = not known (yet), 128 + n when a signal ended it and n is not known: 255.
int32_t cssh_exit_status(struct cssh_connection *connection);
// Why the connection was lost; valid until the next call.
const char *cssh_error(struct cssh_connection *connection);
const char *cssh_cipher(struct cssh_connection *connection);
// Closes the channel and the connection without waiting, and frees.
void cssh_free(struct cssh_connection *connection);

#endif
