// SPDX-License-Identifier: GPL-2.0
/*
 * Which cluster of the file is handed out next.
 *
 * Freed clusters come first, then the end of the file, which is reserved ahead in
 * whole clusters that read as zeros: so a small first write is a small
 * transfer, and the file's size changes seldom.  All of it is given back when
 * the delta is closed.
 *
 * Who gets a cluster gets it without a record of earlier, partial writes (partial.c): a
 * record belongs to one use of a cluster.  The places where a use begins, or
 * the cluster stops to be one, are here: ploop_alloc(), ploop_alloc_at(), ploop_alloc_cut()
 * and ploop_alloc_table().
 */
#include "core.h"

#define RESERVE_BYTES_MAX	(128ull << 20)
#define RESERVE_BYTES_MIN	(16ull << 20)

/* So much ahead, the more the larger the file is. */
static u64 reserve_clusters(const struct ploop_delta *delta)
{
	u32 shift = delta->geo.cluster_shift;
	u64 bytes = clamp_t(u64, (delta->next << shift) / 4, RESERVE_BYTES_MIN,
			    RESERVE_BYTES_MAX);
	u64 limit = READ_ONCE(delta->dev->max_delta_bytes);
	u64 count = max_t(u64, bytes >> shift, 1);

	if (limit)
		count = clamp_t(u64, count, 1, max_t(s64, (s64)(limit >> shift) - delta->next, 1));
	return count;
}

/* Called with alloc_lock held; gives it up meanwhile. */
static int reserve_ahead(struct ploop_delta *delta)
	__must_hold(&delta->alloc_lock)
{
	u64 next, count;
	int ret;

	spin_unlock(&delta->alloc_lock);
	mutex_lock(&delta->reserve_lock);
	spin_lock(&delta->alloc_lock);
	ret = 0;
	if (delta->next < delta->reserved_end || !delta->can_reserve)
		goto out;
	next = delta->next;
	count = reserve_clusters(delta);
	spin_unlock(&delta->alloc_lock);
	for (;;) {
		u32 shift = delta->geo.cluster_shift;

		ret = delta->file->io->reserve(delta->file, next << shift, count << shift, 0);
		if (ret != -ENOSPC || count == 1)
			break;
		count = max_t(u64, count / 4, 1);
	}
	spin_lock(&delta->alloc_lock);
	if (ret == -EOPNOTSUPP) {
		delta->can_reserve = false;
		ret = 0;
	} else if (ret == 0) {
		delta->reserved_end = next + count;
		delta->file_clusters = max(delta->file_clusters, next + count);
	}
out:
	mutex_unlock(&delta->reserve_lock);
	return ret;
}

/* A freed cluster, if there is one. */
static bool alloc_freed(struct ploop_delta *delta, u32 *iblock, bool *zero)
{
	u32 shift = delta->geo.cluster_shift;

	spin_lock(&delta->alloc_lock);
	if (delta->nr_free == 0) {
		spin_unlock(&delta->alloc_lock);
		return false;
	}
	*iblock = delta->free[--delta->nr_free];
	*zero = delta->can_reserve;
	spin_unlock(&delta->alloc_lock);
	if (*zero && delta->file->io->reserve(delta->file, (u64)*iblock << shift,
					      1ull << shift, PLOOP_RESERVE_ZERO))
		*zero = false;
	return true;
}

static int alloc_end(struct ploop_delta *delta, u32 *iblock, bool *zero)
{
	u32 shift = delta->geo.cluster_shift;
	u64 limit = atomic_read(&delta->dev->unlimited) ? 0 :
		READ_ONCE(delta->dev->max_delta_bytes);
	int ret = 0;

	spin_lock(&delta->alloc_lock);
	for (;;) {
		if (delta->next > delta->fmt->iblock_max(&delta->geo))
			ret = -EFBIG;
		else if (limit && (delta->next + 1) << shift > limit)
			ret = -E2BIG;
		if (ret || !delta->can_reserve || delta->next < delta->reserved_end)
			break;
		ret = reserve_ahead(delta);
	}
	if (ret == 0) {
		*zero = delta->next < delta->reserved_end;
		*iblock = (u32)delta->next++;
		delta->reserved_end = max(delta->reserved_end, delta->next);
		delta->file_clusters = max(delta->file_clusters, delta->next);
	}
	spin_unlock(&delta->alloc_lock);
	return ret;
}

/**
 * ploop_alloc() - get a cluster of the file
 * @delta: writable
 * @iblock: out; without a record
 * @zero: out: all of it reads as zeros; else nobody knows
 *
 * Context: Process context; sleeps.
 * Return: 0, -ENOSPC (the host), -E2BIG (the device's limit), -EFBIG (the
 * format's), -EROFS, or what the host said.
 */
int ploop_alloc(struct ploop_delta *delta, u32 *iblock, bool *zero)
{
	int ret;

	/* Each merge of a level below the top opens its file for writing first. */
	if (WARN_ON_ONCE(!delta->file->writable))
		return -EROFS;
	if (!alloc_freed(delta, iblock, zero)) {
		ret = alloc_end(delta, iblock, zero);
		if (ret)
			return ret;
	}
	ploop_partial_drop(delta, *iblock);
	return 0;
}

/**
 * ploop_alloc_at() - get one particular cluster
 * @delta: writable
 * @iblock: of no use to anybody; all of it is about to be written
 *
 * Context: Process context.
 */
void ploop_alloc_at(struct ploop_delta *delta, u32 iblock)
{
	ploop_partial_drop(delta, iblock);
}

/**
 * ploop_alloc_free() - a cluster may be used again
 * @delta: writable
 * @iblock: nothing on disk and no request under way names it
 *
 * What does not fit into the list is left to compaction.
 *
 * Context: Process context.
 */
void ploop_alloc_free(struct ploop_delta *delta, u32 iblock)
{
	spin_lock(&delta->alloc_lock);
	if (delta->free && delta->nr_free < PLOOP_FREE_MAX && iblock >= delta->floor)
		delta->free[delta->nr_free++] = iblock;
	spin_unlock(&delta->alloc_lock);
}

/**
 * ploop_alloc_cut() - shorten the file; its clusters from @end on are nobody's
 * @delta: writable; the device is quiesced, no freed cluster is listed
 * @end: no more than delta->next
 *
 * Context: Process context; sleeps.
 * Return: 0 or an errno; then the clusters stay, out of use until one of the next cuts.
 */
int ploop_alloc_cut(struct ploop_delta *delta, u64 end)
{
	int ret = delta->file->io->truncate(delta->file, end << delta->geo.cluster_shift);

	spin_lock(&delta->alloc_lock);
	/* Also after a failure: how much of the reserve is left is not known. */
	if (ret == 0)
		delta->next = end;
	delta->reserved_end = delta->next;
	delta->file_clusters = delta->next;
	spin_unlock(&delta->alloc_lock);
	if (ret == 0)
		ploop_partial_drop_range(delta, end, U32_MAX);
	return ret;
}

/**
 * ploop_alloc_table() - the clusters below @first are table now
 * @delta: writable; the device is quiesced, nothing uses these clusters
 * @first: as the new header says
 *
 * Context: Process context.
 */
void ploop_alloc_table(struct ploop_delta *delta, u32 first)
{
	if (first > 0)
		ploop_partial_drop_range(delta, 0, first - 1);
}

/**
 * ploop_alloc_open() - begin to hand out clusters of a file
 * @delta: its file was just opened or refreshed
 *
 * Context: Process context; sleeps.
 * Return: 0 or -ENOMEM.
 */
int ploop_alloc_open(struct ploop_delta *delta)
{
	if (!delta->free) {
		delta->free = kvmalloc_array(PLOOP_FREE_MAX, sizeof(u32), GFP_KERNEL);
		if (!delta->free)
			return -ENOMEM;
	}
	spin_lock(&delta->alloc_lock);
	delta->nr_free = 0;
	delta->next = delta->file_clusters;
	delta->reserved_end = delta->next;
	delta->can_reserve = delta->file->flags & PLOOP_IOF_RESERVE;
	spin_unlock(&delta->alloc_lock);
	return 0;
}

/**
 * ploop_alloc_close() - end it: cut the file behind its last used cluster
 * @delta: no request allocates
 *
 * Context: Process context; sleeps.
 * Return: 0 or an errno.
 */
int ploop_alloc_close(struct ploop_delta *delta)
{
	u64 next;

	spin_lock(&delta->alloc_lock);
	next = delta->next;
	delta->reserved_end = next;
	delta->file_clusters = next;
	spin_unlock(&delta->alloc_lock);
	return delta->file->io->truncate(delta->file, next << delta->geo.cluster_shift);
}
