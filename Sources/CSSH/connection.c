// SPDX-License-Identifier: Apache-2.0
// Decisions:
// - The session is made in blocking mode with a timeout, then switched to non-blocking and driven by ssh_event_dopoll,
//   the one place that sleeps. ssh_channel_write and _read in blocking mode would wait for each other's packets.
// - What comes is taken through ssh_channel_read, which grants the window for the whole size of the caller's buffer; a
//   consuming data callback would leave libssh's window of 1.28 MB, too small for fast links with some delay.
// - libssh queues written packets without bound: writes stop at OUT_MAX until the queue has gone to the kernel.
#define _GNU_SOURCE
#include "CSSH.h"
#include "known_hosts.h"

#include <libssh/callbacks.h>
#include <libssh/libssh.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OUT_MAX (512u << 10)
#define ERRORS_MAX 8192u

struct cssh_connection {
	ssh_session session;
	ssh_channel channel;
	ssh_event event;
	struct ssh_channel_callbacks_struct callbacks;
	int32_t wake_fd;	// in the event, or -1
	int32_t is_lost;
	int32_t exit_status;
	uint64_t buffered;	// stdout bytes that libssh holds for us
	uint64_t in_flight;	// handed over since the queue was empty
	uint32_t errors_count;
	char errors[ERRORS_MAX];
};

static int on_data(ssh_session session, ssh_channel channel, void *data, uint32_t length, int is_stderr, void *context)
{
	struct cssh_connection *connection = context;

	(void)session;
	(void)channel;
	if (!is_stderr) {
		connection->buffered = length;
		return 0;
	}
	// More than fits before somebody looks is dropped: it is chatter.
	uint32_t room = ERRORS_MAX - connection->errors_count;
	uint32_t kept = length < room ? length : room;
	memcpy(connection->errors + connection->errors_count, data, kept);
	connection->errors_count += kept;
	return (int)length;
}

static void on_exit_status(ssh_session session, ssh_channel channel, int status, void *context)
{
	(void)session;
	(void)channel;
	((struct cssh_connection *)context)->exit_status = status;
}

static void on_exit_signal(ssh_session session, ssh_channel channel, const char *signal, int core, const char *message,
			   const char *language, void *context)
{
	(void)session;
	(void)channel;
	(void)core;
	(void)message;
	(void)language;
	((struct cssh_connection *)context)->exit_status = !strcmp(signal, "KILL") ? 137 : !strcmp(signal, "TERM") ? 143 : 255;
}

static int on_wake(socket_t fd, int revents, void *context)
{
	(void)fd;
	(void)revents;
	(void)context;
	return 0;
}

static void keep(char *to, size_t capacity, const char *from) { snprintf(to, capacity, "%s", from ? from : ""); }

static int fail(struct cssh_connection *connection, struct cssh_report *report, int32_t outcome)
{
	report->outcome = outcome;
	if (!report->detail[0])
		keep(report->detail, sizeof(report->detail), ssh_get_error(connection->session));
	return -1;
}

static void describe_endpoint(ssh_session session, struct cssh_report *report)
{
	char *value = NULL;
	unsigned int port = 0;

	if (ssh_options_get(session, SSH_OPTIONS_HOST, &value) == SSH_OK) {
		keep(report->host, sizeof(report->host), value);
		ssh_string_free_char(value);
		value = NULL;
	}
	if (ssh_options_get(session, SSH_OPTIONS_USER, &value) == SSH_OK) {
		keep(report->user, sizeof(report->user), value);
		ssh_string_free_char(value);
		value = NULL;
	}
	if (ssh_options_get(session, SSH_OPTIONS_KNOWNHOSTS, &value) == SSH_OK) {
		keep(report->known_hosts, sizeof(report->known_hosts), value);
		ssh_string_free_char(value);
	}
	if (ssh_options_get_port(session, &port) == SSH_OK)
		report->port = (uint16_t)port;
}

// A command that makes the connection, of ProxyCommand or of ProxyJump: has it keep what it says of a failure, and has a
// jump read the same configuration.
static int use_proxy(ssh_session session, const struct cssh_target *target, struct cssh_report *report)
{
	char command[2048], *configured = NULL;
	const char *rest;
	int length;

	if (ssh_options_get(session, SSH_OPTIONS_PROXYCOMMAND, &configured) != SSH_OK || !configured)
		return 0;
	keep(report->proxy, sizeof(report->proxy), configured);
	rest = configured;
	// So begins what libssh makes of ProxyJump.
	if (target->is_jump && target->config_file && !strncmp(rest, "ssh ", 4) && !strchr(target->config_file, '\'')) {
		rest += 4;
		length = snprintf(command, sizeof(command), "ssh -F '%s' %s", target->config_file, rest);
	} else {
		length = snprintf(command, sizeof(command), "%s", rest);
	}
	if (target->proxy_log && length > 0 && (size_t)length < sizeof(command))
		length += snprintf(command + length, sizeof(command) - (size_t)length, " 2>>'%s'", target->proxy_log);
	if (length > 0 && (size_t)length < sizeof(command))
		ssh_options_set(session, SSH_OPTIONS_PROXYCOMMAND, command);
	ssh_string_free_char(configured);
	return 0;
}

static int configure(struct cssh_connection *connection, const struct cssh_target *target, struct cssh_report *report)
{
	ssh_session session = connection->session;
	// Where the CPUs have AES instructions, and all of ours do, this one is the fastest; the configuration overrules.
	const char *ciphers = "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes256-ctr,"
			      "aes192-ctr,aes128-ctr";
	const int off = 0, on = 1, log = SSH_LOG_NOLOG;
	long seconds = (target->timeout_ms + 999) / 1000;

	ssh_options_set(session, SSH_OPTIONS_LOG_VERBOSITY, &log);
	if (ssh_options_set(session, SSH_OPTIONS_HOST, target->host) < 0)
		return fail(connection, report, CSSH_BAD_CONFIG);
	ssh_options_set(session, SSH_OPTIONS_TIMEOUT, &seconds);
	ssh_options_set(session, SSH_OPTIONS_NODELAY, &on);
	ssh_options_set(session, SSH_OPTIONS_CIPHERS_C_S, ciphers);
	ssh_options_set(session, SSH_OPTIONS_CIPHERS_S_C, ciphers);
	// Read it here and now, so that what the caller names can overrule it.
	ssh_options_set(session, SSH_OPTIONS_PROCESS_CONFIG, &off);
	// libssh takes a file that it can't open for an empty one.
	if ((target->config_file && access(target->config_file, R_OK) < 0) ||
	    ssh_options_parse_config(session, target->config_file) < 0) {
		snprintf(report->detail, sizeof(report->detail), "cannot read the SSH configuration %s",
			 target->config_file ? target->config_file : "~/.ssh/config");
		return fail(connection, report, CSSH_BAD_CONFIG);
	}
	if (target->user)
		ssh_options_set(session, SSH_OPTIONS_USER, target->user);
	if (target->port) {
		unsigned int port = target->port;
		ssh_options_set(session, SSH_OPTIONS_PORT, &port);
	}
	if (target->identity_file)
		ssh_options_set(session, SSH_OPTIONS_ADD_IDENTITY, target->identity_file);
	return use_proxy(session, target, report);
}

static void describe_host_key(ssh_session session, struct cssh_report *report)
{
	unsigned char *hash = NULL;
	size_t length = 0;
	ssh_key key = NULL;

	if (ssh_get_server_publickey(session, &key) != SSH_OK)
		return;
	keep(report->key_type, sizeof(report->key_type), ssh_key_type_to_char(ssh_key_type(key)));
	if (ssh_get_publickey_hash(key, SSH_PUBLICKEY_HASH_SHA256, &hash, &length) == SSH_OK) {
		char *text = ssh_get_fingerprint_hash(SSH_PUBLICKEY_HASH_SHA256, hash, length);
		keep(report->fingerprint, sizeof(report->fingerprint), text);
		ssh_string_free_char(text);
		ssh_clean_pubkey_hash(&hash);
	}
	ssh_key_free(key);
}

// Beside its own word, what libssh's files say that it passes over.
static void look_into_files(struct cssh_connection *connection, const struct cssh_target *target,
			    struct cssh_report *report, struct known_hosts_answer *answer)
{
	ssh_session session = connection->session;
	ssh_key key = NULL;
	char name[300], *system = NULL;

	if (ssh_get_server_publickey(session, &key) != SSH_OK) {
		// A key that can't be had can't be found in any file.
		answer->is_revoked = 1;
		return;
	}
	if (target->alias)
		keep(name, sizeof(name), target->alias);
	else if (report->port == 22 || report->port == 0)
		keep(name, sizeof(name), report->host);
	else
		snprintf(name, sizeof(name), "[%s]:%u", report->host, report->port);
	known_hosts_look(report->known_hosts, name, key, answer);
	if (target->known_files)
		known_hosts_look(target->known_files, name, key, answer);
	if (ssh_options_get(session, SSH_OPTIONS_GLOBAL_KNOWNHOSTS, &system) == SSH_OK && system) {
		known_hosts_look(system, name, key, answer);
		ssh_string_free_char(system);
	}
	if (target->revoked_file && known_hosts_is_in(target->revoked_file, key))
		answer->is_revoked = 1;
	ssh_key_free(key);
}

static int check_host(struct cssh_connection *connection, const struct cssh_target *target, struct cssh_report *report)
{
	struct known_hosts_answer answer = {0};
	int strict = 1;

	describe_host_key(connection->session, report);
	look_into_files(connection, target, report, &answer);
	if (answer.is_revoked)
		return fail(connection, report, CSSH_HOST_REVOKED);
	if (answer.is_known)
		return 0;
	// By an alias libssh does not know the host: what it says is of its own name.
	if (target->alias)
		return fail(connection, report,
			    answer.has_other	   ? CSSH_HOST_CHANGED
			    : answer.has_authority ? CSSH_HOST_BY_AUTHORITY
						   : CSSH_HOST_UNKNOWN);
	// Without this the library takes any key where the user's settings are not strict: nobody is there to be asked.
	if (ssh_options_set(connection->session, SSH_OPTIONS_STRICTHOSTKEYCHECK, &strict) < 0)
		return fail(connection, report, CSSH_BAD_CONFIG);
	switch (ssh_session_is_known_server(connection->session)) {
	case SSH_KNOWN_HOSTS_OK:
		return 0;
	case SSH_KNOWN_HOSTS_CHANGED:
	case SSH_KNOWN_HOSTS_OTHER:
		return fail(connection, report, CSSH_HOST_CHANGED);
	case SSH_KNOWN_HOSTS_UNKNOWN:
	case SSH_KNOWN_HOSTS_NOT_FOUND:
		return fail(connection, report,
			    answer.has_other	   ? CSSH_HOST_CHANGED
			    : answer.has_authority ? CSSH_HOST_BY_AUTHORITY
						   : CSSH_HOST_UNKNOWN);
	default:
		return fail(connection, report, CSSH_BAD_CONFIG);
	}
}

static int log_in(struct cssh_connection *connection, struct cssh_report *report)
{
	ssh_session session = connection->session;
	int result = ssh_userauth_none(session, NULL);

	if (result == SSH_AUTH_SUCCESS)
		return 0;
	if (result == SSH_AUTH_ERROR)
		return fail(connection, report, ssh_is_connected(session) ? CSSH_NOT_ALLOWED : CSSH_UNREACHABLE);
	int methods = ssh_userauth_list(session, NULL);
	snprintf(report->methods, sizeof(report->methods), "%s%s%s%s", methods & SSH_AUTH_METHOD_PUBLICKEY ? " publickey" : "",
		 methods & SSH_AUTH_METHOD_PASSWORD ? " password" : "",
		 methods & SSH_AUTH_METHOD_INTERACTIVE ? " keyboard-interactive" : "",
		 methods & SSH_AUTH_METHOD_GSSAPI_MIC ? " gssapi-with-mic" : "");
	// Agent first, then key files; without a callback for passphrases nothing is ever asked.
	if (methods & SSH_AUTH_METHOD_PUBLICKEY && ssh_userauth_publickey_auto(session, NULL, NULL) == SSH_AUTH_SUCCESS)
		return 0;
	return fail(connection, report, CSSH_NOT_ALLOWED);
}

static int start_command(struct cssh_connection *connection, const char *command, struct cssh_report *report)
{
	connection->channel = ssh_channel_new(connection->session);
	if (!connection->channel || ssh_channel_open_session(connection->channel) != SSH_OK)
		return fail(connection, report, CSSH_NO_COMMAND);
	connection->callbacks.userdata = connection;
	connection->callbacks.channel_data_function = on_data;
	connection->callbacks.channel_exit_status_function = on_exit_status;
	connection->callbacks.channel_exit_signal_function = on_exit_signal;
	ssh_callbacks_init(&connection->callbacks);
	ssh_set_channel_callbacks(connection->channel, &connection->callbacks);
	if (ssh_channel_request_exec(connection->channel, command) != SSH_OK)
		return fail(connection, report, CSSH_NO_COMMAND);
	ssh_set_blocking(connection->session, 0);
	connection->event = ssh_event_new();
	if (!connection->event || ssh_event_add_session(connection->event, connection->session) != SSH_OK)
		return fail(connection, report, CSSH_SYSTEM);
	return 0;
}

struct cssh_connection *cssh_open(const struct cssh_target *target, struct cssh_report *report)
{
	struct cssh_connection *connection = calloc(1, sizeof(*connection));

	memset(report, 0, sizeof(*report));
	report->outcome = CSSH_SYSTEM;
	if (!connection)
		return NULL;
	connection->wake_fd = -1;
	connection->exit_status = -1;
	connection->session = ssh_new();
	if (!connection->session) {
		free(connection);
		return NULL;
	}
	int result = configure(connection, target, report);
	describe_endpoint(connection->session, report);
	if (!result && ssh_connect(connection->session) != SSH_OK)
		result = fail(connection, report, CSSH_UNREACHABLE);
	// Only now has libssh put in what the configuration left open.
	describe_endpoint(connection->session, report);
	if (!result)
		result = check_host(connection, target, report);
	if (!result)
		result = log_in(connection, report);
	if (!result)
		result = start_command(connection, target->command, report);
	if (result) {
		cssh_free(connection);
		return NULL;
	}
	report->outcome = CSSH_OK;
	return connection;
}

int32_t cssh_wait(struct cssh_connection *connection, int32_t wake_fd, int32_t timeout_ms)
{
	if (connection->wake_fd != wake_fd) {
		if (ssh_event_add_fd(connection->event, wake_fd, POLLIN, on_wake, NULL) != SSH_OK)
			return -1;
		connection->wake_fd = wake_fd;
	}
	if (ssh_event_dopoll(connection->event, timeout_ms) == SSH_ERROR || !ssh_is_connected(connection->session))
		connection->is_lost = 1;
	return connection->is_lost ? -1 : 0;
}

int64_t cssh_read(struct cssh_connection *connection, void *bytes, uint64_t count)
{
	if (connection->buffered == 0) {
		int ended = cssh_is_closed(connection) || ssh_channel_is_eof(connection->channel);
		return ended ? -1 : 0;
	}
	uint32_t part = count > 0x40000000u ? 0x40000000u : (uint32_t)count;
	// With something buffered this neither waits nor takes in packets, so `buffered` stays true.
	int got = ssh_channel_read_timeout(connection->channel, bytes, part, 0, 0);
	if (got < 0)
		return -1;
	connection->buffered -= (uint64_t)got < connection->buffered ? (uint64_t)got : connection->buffered;
	return got;
}

int64_t cssh_read_errors(struct cssh_connection *connection, void *bytes, uint64_t count)
{
	uint32_t part = connection->errors_count < count ? connection->errors_count : (uint32_t)count;

	memcpy(bytes, connection->errors, part);
	memmove(connection->errors, connection->errors + part, connection->errors_count - part);
	connection->errors_count -= part;
	return part;
}

int64_t cssh_write(struct cssh_connection *connection, const void *bytes, uint64_t count)
{
	uint64_t room;

	if (connection->is_lost || ssh_channel_is_closed(connection->channel))
		return -1;
	if (cssh_is_flushed(connection))
		connection->in_flight = 0;
	if (connection->in_flight >= OUT_MAX)
		return 0;
	room = ssh_channel_window_size(connection->channel);
	if (room > OUT_MAX - connection->in_flight)
		room = OUT_MAX - connection->in_flight;
	if (count > room)
		count = room;
	if (count == 0)
		return 0;
	int written = ssh_channel_write(connection->channel, bytes, (uint32_t)count);
	if (written < 0)
		return -1;
	connection->in_flight += (uint64_t)written;
	return written;
}

int32_t cssh_is_flushed(struct cssh_connection *connection)
{
	return (ssh_get_poll_flags(connection->session) & SSH_WRITE_PENDING) == 0;
}

int32_t cssh_is_closed(struct cssh_connection *connection)
{
	return connection->is_lost || ssh_channel_is_closed(connection->channel);
}

int32_t cssh_exit_status(struct cssh_connection *connection) { return connection->exit_status; }

const char *cssh_error(struct cssh_connection *connection)
{
	const char *text = ssh_get_error(connection->session);

	return text && text[0] ? text : "the far side closed it";
}

const char *cssh_cipher(struct cssh_connection *connection)
{
	const char *name = ssh_get_cipher_out(connection->session);

	return name ? name : "";
}

void cssh_free(struct cssh_connection *connection)
{
	if (connection->event) {
		if (connection->wake_fd >= 0)
			ssh_event_remove_fd(connection->event, connection->wake_fd);
		ssh_event_remove_session(connection->event, connection->session);
		ssh_event_free(connection->event);
	}
	if (connection->channel) {
		ssh_remove_channel_callbacks(connection->channel, &connection->callbacks);
		ssh_channel_free(connection->channel);
	}
	ssh_disconnect(connection->session);
	ssh_free(connection->session);
	free(connection);
}
