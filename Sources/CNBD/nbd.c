// SPDX-License-Identifier: Apache-2.0
#include "CNBD.h"

#include <errno.h>
#include <libnbd.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define HANDLE(nbd) ((struct nbd_handle *)(nbd))

static int32_t result_of(int result)
{
	int error;

	if (result >= 0)
		return 0;
	error = nbd_get_errno();
	return error > 0 ? -error : -EIO;
}

struct cnbd *cnbd_new(void) { return (struct cnbd *)nbd_create(); }
void cnbd_free(struct cnbd *nbd) { nbd_close(HANDLE(nbd)); }

const char *cnbd_message(void)
{
	const char *message = nbd_get_error();

	return message ? message : "no reason given";
}

static int32_t ask_for_allocation(struct cnbd *nbd)
{
	return result_of(nbd_add_meta_context(HANDLE(nbd), LIBNBD_CONTEXT_BASE_ALLOCATION));
}

// Between two looks whether to stop.
enum { STEP_MS = 200 };

// Waits until something arrives.
static int32_t await_news(struct cnbd *nbd, const struct cnbd_patience *patience)
{
	int32_t left = patience->silence_ms;

	for (;;) {
		int32_t step = left < STEP_MS ? left : STEP_MS;

		switch (nbd_poll(HANDLE(nbd), step)) {
		case 1:
			return 0;
		case -1:
			return result_of(-1);
		}
		left -= step;
		if (patience->stopped(patience->context))
			return -ECANCELED;
		if (left <= 0)
			return -ETIMEDOUT;
	}
}

static int32_t finish_connecting(struct cnbd *nbd, const struct cnbd_patience *patience)
{
	while (nbd_aio_is_connecting(HANDLE(nbd))) {
		int32_t error = await_news(nbd, patience);

		if (error)
			return error;
	}
	return nbd_aio_is_ready(HANDLE(nbd)) == 1 ? 0 : -ENOTCONN;
}

int32_t cnbd_connect_unix(struct cnbd *nbd, const char *path, struct cnbd_patience patience)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int32_t error = ask_for_allocation(nbd);

	if (error)
		return error;
	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, path);
	error = result_of(nbd_aio_connect(HANDLE(nbd), (struct sockaddr *)&address, sizeof(address)));
	return error ? error : finish_connecting(nbd, &patience);
}

int32_t cnbd_connect_uri(struct cnbd *nbd, const char *uri, struct cnbd_patience patience)
{
	int32_t error = ask_for_allocation(nbd);

	if (!error)
		error = result_of(nbd_aio_connect_uri(HANDLE(nbd), uri));
	return error ? error : finish_connecting(nbd, &patience);
}

static uint32_t block_size(struct cnbd *nbd, int which)
{
	int64_t size = nbd_get_block_size(HANDLE(nbd), which);

	return size > 0 ? (uint32_t)size : 0;
}

int32_t cnbd_export_info(struct cnbd *nbd, struct cnbd_export *info)
{
	int64_t size = nbd_get_size(HANDLE(nbd));

	if (size < 0)
		return result_of(-1);
	memset(info, 0, sizeof(*info));
	info->size = (uint64_t)size;
	info->block_minimum = block_size(nbd, LIBNBD_SIZE_MINIMUM);
	info->block_preferred = block_size(nbd, LIBNBD_SIZE_PREFERRED);
	info->block_maximum = block_size(nbd, LIBNBD_SIZE_MAXIMUM);
	info->read_only = nbd_is_read_only(HANDLE(nbd)) == 1;
	info->can_flush = nbd_can_flush(HANDLE(nbd)) == 1;
	info->can_zero = nbd_can_zero(HANDLE(nbd)) == 1;
	info->can_trim = nbd_can_trim(HANDLE(nbd)) == 1;
	info->can_fua = nbd_can_fua(HANDLE(nbd)) == 1;
	info->can_multi_conn = nbd_can_multi_conn(HANDLE(nbd)) == 1;
	info->can_block_status = nbd_can_meta_context(HANDLE(nbd), LIBNBD_CONTEXT_BASE_ALLOCATION) == 1;
	return 0;
}

struct progress {
	uint32_t in_flight;
	int error;
};

// Called by libnbd on this thread, inside nbd_poll; returning 1 retires the command.
static int completed(void *data, int *error)
{
	struct progress *progress = data;

	progress->in_flight--;
	if (*error && !progress->error)
		progress->error = *error;
	return 1;
}

static int64_t start(struct cnbd *nbd, int32_t direction, uint8_t *memory, uint64_t count, uint64_t offset,
		     struct progress *progress)
{
	nbd_completion_callback callback = {.callback = completed, .user_data = progress};

	progress->in_flight++;
	if (direction == CNBD_READ)
		return nbd_aio_pread(HANDLE(nbd), memory, count, offset, callback, 0);
	return nbd_aio_pwrite(HANDLE(nbd), memory, count, offset, callback, 0);
}

int32_t cnbd_transfer_all(struct cnbd *nbd, int32_t direction, const struct cnbd_transfer *transfers, uint32_t count,
			  uint32_t request_max, uint32_t depth, struct cnbd_patience patience)
{
	struct progress progress = {0, 0};
	uint32_t index = 0;
	uint64_t done = 0;

	for (;;) {
		while (index < count && progress.in_flight < depth && !progress.error) {
			const struct cnbd_transfer *transfer = &transfers[index];
			uint64_t part = transfer->count - done;

			if (part > request_max)
				part = request_max;
			if (part > 0 && start(nbd, direction, transfer->memory + done, part, transfer->offset + done,
					      &progress) < 0)
				// The callback is not called for a command that was not taken; the memory of those
				// in flight is not touched once the caller has dropped the connection.
				return result_of(-1);
			done += part;
			if (done == transfer->count) {
				index++;
				done = 0;
			}
		}
		if (progress.in_flight == 0 && (index == count || progress.error))
			return -progress.error;
		int32_t error = await_news(nbd, &patience);

		if (error)
			return error;
	}
}

// Waits for the one command that was begun. Nothing that it points to is touched once the caller has dropped the
// connection.
static int32_t finish(struct cnbd *nbd, int64_t cookie, struct progress *progress, const struct cnbd_patience *patience)
{
	if (cookie < 0)
		return result_of(-1);
	while (progress->in_flight > 0) {
		int32_t error = await_news(nbd, patience);

		if (error)
			return error;
	}
	return -progress->error;
}

int32_t cnbd_flush(struct cnbd *nbd, struct cnbd_patience patience)
{
	struct progress progress = {1, 0};
	nbd_completion_callback callback = {.callback = completed, .user_data = &progress};

	return finish(nbd, nbd_aio_flush(HANDLE(nbd), callback, 0), &progress, &patience);
}

int32_t cnbd_zero(struct cnbd *nbd, uint64_t offset, uint64_t count, int32_t may_trim, struct cnbd_patience patience)
{
	struct progress progress = {1, 0};
	nbd_completion_callback callback = {.callback = completed, .user_data = &progress};
	uint32_t flags = may_trim ? 0 : LIBNBD_CMD_FLAG_NO_HOLE;

	return finish(nbd, nbd_aio_zero(HANDLE(nbd), count, offset, callback, flags), &progress, &patience);
}

int32_t cnbd_trim(struct cnbd *nbd, uint64_t offset, uint64_t count, struct cnbd_patience patience)
{
	struct progress progress = {1, 0};
	nbd_completion_callback callback = {.callback = completed, .user_data = &progress};

	return finish(nbd, nbd_aio_trim(HANDLE(nbd), count, offset, callback, 0), &progress, &patience);
}

struct extents {
	struct cnbd_extent *out;
	uint32_t capacity, used;
};

static int collect(void *data, const char *context, uint64_t offset, uint32_t *entries, size_t count, int *error)
{
	struct extents *extents = data;

	(void)offset;
	(void)error;
	if (strcmp(context, LIBNBD_CONTEXT_BASE_ALLOCATION))
		return 0;
	for (size_t i = 0; i + 1 < count && extents->used < extents->capacity; i += 2) {
		extents->out[extents->used].count = entries[i];
		extents->out[extents->used].flags = entries[i + 1];
		extents->used++;
	}
	return 0;
}

int32_t cnbd_block_status(struct cnbd *nbd, uint64_t offset, uint64_t count, struct cnbd_extent *extents,
			  uint32_t capacity, struct cnbd_patience patience)
{
	struct extents found = {extents, capacity, 0};
	struct progress progress = {1, 0};
	nbd_extent_callback extent = {.callback = collect, .user_data = &found};
	nbd_completion_callback callback = {.callback = completed, .user_data = &progress};
	int32_t error = finish(nbd, nbd_aio_block_status(HANDLE(nbd), count, offset, extent, callback, 0), &progress,
			       &patience);

	return error ? error : (int32_t)found.used;
}
