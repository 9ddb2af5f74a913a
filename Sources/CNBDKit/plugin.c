// SPDX-License-Identifier: Apache-2.0
#include "CNBDKit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

// Defined in Swift (Sources/GodwitPlugin). Results are 0 or a positive errno, unless said otherwise.
int32_t godwit_plugin_configure(const char *key, const char *value);
int32_t godwit_plugin_check_configuration(void);
int32_t godwit_plugin_start(void);
int32_t godwit_plugin_stop(void);
// A client has come, whose process is given or -1: a number for its connection, not 0. And one has gone.
uint64_t godwit_plugin_connected(int32_t process);
void godwit_plugin_disconnected(uint64_t client);
int32_t godwit_plugin_is_read_only(void);
int64_t godwit_plugin_size(void);
int32_t godwit_plugin_read(void *buffer, uint64_t count, uint64_t offset);
int32_t godwit_plugin_write(const void *buffer, uint64_t count, uint64_t offset, int32_t durable);
int32_t godwit_plugin_flush(void);
int32_t godwit_plugin_discard(uint64_t count, uint64_t offset, int32_t durable);
int32_t godwit_plugin_zero(uint64_t count, uint64_t offset, int32_t may_discard, int32_t durable);
int32_t godwit_plugin_extents(uint64_t count, uint64_t offset, int32_t first_only, struct cnbdkit_extents *extents);

int32_t cnbdkit_add_extent(struct cnbdkit_extents *extents, uint64_t offset, uint64_t count, int32_t is_hole,
			   int32_t is_zero)
{
	uint32_t type = (is_hole ? NBDKIT_EXTENT_HOLE : 0) | (is_zero ? NBDKIT_EXTENT_ZERO : 0);

	return nbdkit_add_extent((struct nbdkit_extents *)extents, offset, count, type);
}

void cnbdkit_error(const char *message) { nbdkit_error("%s", message); }
void cnbdkit_end(void) { _exit(0); }
void cnbdkit_outlive_parent(void) { prctl(PR_SET_PDEATHSIG, 0); }

// 0, or -1 with nbdkit told which errno the client gets.
static int answer(int32_t error)
{
	if (!error)
		return 0;
	nbdkit_set_error(error);
	return -1;
}

static int plugin_config(const char *key, const char *value)
{
	char *absolute;
	int32_t error;

	// nbdkit may change its folder when it goes to the background.
	if (strcmp(key, "disk") && strcmp(key, "control"))
		return answer(godwit_plugin_configure(key, value));
	absolute = nbdkit_absolute_path(value);
	if (!absolute)
		return -1;
	error = godwit_plugin_configure(key, absolute);
	free(absolute);
	return answer(error);
}

static int plugin_config_complete(void) { return answer(godwit_plugin_check_configuration()); }

// Threads and rings do not survive a fork, so the disk is opened behind it.
static int plugin_after_fork(void) { return answer(godwit_plugin_start()); }

static void plugin_cleanup(void)
{
	// nbdkit itself would end with 0.
	if (godwit_plugin_stop())
		_exit(1);
}

static void *plugin_open(int readonly)
{
	int64_t process = nbdkit_peer_pid();

	(void)readonly;
	return (void *)(uintptr_t)godwit_plugin_connected(process > 0 && process <= INT32_MAX ? (int32_t)process : -1);
}

static void plugin_close(void *handle) { godwit_plugin_disconnected((uint64_t)(uintptr_t)handle); }

static int64_t plugin_get_size(void *handle)
{
	int64_t size = godwit_plugin_size();

	(void)handle;
	return size < 0 ? answer((int32_t)-size) : size;
}

static int plugin_block_size(void *handle, uint32_t *minimum, uint32_t *preferred, uint32_t *maximum)
{
	(void)handle;
	*minimum = 512;
	*preferred = 4096;
	*maximum = 32 * 1024 * 1024;
	return 0;
}

static int yes(void *handle)
{
	(void)handle;
	return 1;
}

static int no(void *handle)
{
	(void)handle;
	return 0;
}

static int plugin_can_write(void *handle)
{
	(void)handle;
	return !godwit_plugin_is_read_only();
}

static int plugin_can_fua(void *handle)
{
	(void)handle;
	return NBDKIT_FUA_NATIVE;
}

static int plugin_can_cache(void *handle)
{
	(void)handle;
	return NBDKIT_CACHE_NONE;
}

static int plugin_pread(void *handle, void *buffer, uint32_t count, uint64_t offset, uint32_t flags)
{
	(void)handle, (void)flags;
	return answer(godwit_plugin_read(buffer, count, offset));
}

static int plugin_pwrite(void *handle, const void *buffer, uint32_t count, uint64_t offset, uint32_t flags)
{
	(void)handle;
	return answer(godwit_plugin_write(buffer, count, offset, !!(flags & NBDKIT_FLAG_FUA)));
}

static int plugin_flush(void *handle, uint32_t flags)
{
	(void)handle, (void)flags;
	return answer(godwit_plugin_flush());
}

static int plugin_trim(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
	(void)handle;
	return answer(godwit_plugin_discard(count, offset, !!(flags & NBDKIT_FLAG_FUA)));
}

static int plugin_zero(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
	(void)handle;
	return answer(godwit_plugin_zero(count, offset, !!(flags & NBDKIT_FLAG_MAY_TRIM), !!(flags & NBDKIT_FLAG_FUA)));
}

static int plugin_extents(void *handle, uint32_t count, uint64_t offset, uint32_t flags, struct nbdkit_extents *extents)
{
	(void)handle;
	return answer(godwit_plugin_extents(count, offset, !!(flags & NBDKIT_FLAG_REQ_ONE),
					    (struct cnbdkit_extents *)extents));
}

static struct nbdkit_plugin plugin = {
	.name = "godwit",
	.longname = "Godwit disk",
	.description = "Serves a disk of ploop images.",
	.config = plugin_config,
	.config_complete = plugin_config_complete,
	.config_help = "disk=DIR|IMAGE      (required) The disk's folder, or one image file.\n"
		       "control=SOCKET      Where to listen for godwit(1).\n"
		       "readonly=true       Refuse all changes.\n"
		       "cache=none|host     Past the host's page cache (the default), or through it.\n"
		       "outlive-parent=true Serve on when who started nbdkit ends.\n"
		       "ready-fd=N          Report the outcome of the start to this descriptor.\n",
	.magic_config_key = "disk",
	.after_fork = plugin_after_fork,
	.cleanup = plugin_cleanup,
	.open = plugin_open,
	.close = plugin_close,
	.get_size = plugin_get_size,
	.block_size = plugin_block_size,
	.can_write = plugin_can_write,
	.can_flush = yes,
	.is_rotational = no,
	.can_trim = yes,
	.can_zero = yes,
	.can_fast_zero = no,
	.can_fua = plugin_can_fua,
	// One disk serves all connections, so a flush on any covers the writes of all.
	.can_multi_conn = yes,
	.can_extents = yes,
	.can_cache = plugin_can_cache,
	.pread = plugin_pread,
	.pwrite = plugin_pwrite,
	.flush = plugin_flush,
	.trim = plugin_trim,
	.zero = plugin_zero,
	.extents = plugin_extents,
};

NBDKIT_REGISTER_PLUGIN(plugin)
