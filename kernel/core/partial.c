// SPDX-License-Identifier: GPL-2.0
/*
 * Clusters of which only a part was written.
 *
 * The rest is reserved space that reads as zeros.  Debian's `ploop check`
 * wants each cluster of a closed image wholly written or wholly reserved (on ext4),
 * so the blocks that were written are recorded while the delta is writable,
 * and the others are filled with zeros before it is closed.  After a crash the
 * record is gone; the repair that such an image needs anyway does it then.
 *
 * A record that outlived its cluster's use would have zeros written over whatever is
 * there now.  So alloc.c drops it where the next use begins; a cluster that
 * was freed keeps its record until then, as it may be in the file when that is closed.
 */
#include "core.h"

struct ploop_partial {
	u32 left;
	unsigned long bits[];
};

static u32 partial_blocks(const struct ploop_delta *delta)
{
	return (1u << delta->geo.cluster_shift) / delta->file->block_bytes;
}

static size_t partial_size(const struct ploop_delta *delta)
{
	return sizeof(struct ploop_partial) + BITS_TO_LONGS(partial_blocks(delta)) * sizeof(long);
}

/**
 * ploop_partial_add() - a reserved cluster is about to be written in part
 * @delta: writable
 * @iblock: from ploop_alloc()
 *
 * Context: Process context; sleeps.
 * Return: false if there is no room for the record: write the whole cluster.
 */
bool ploop_partial_add(struct ploop_delta *delta, u32 iblock)
{
	size_t size = partial_size(delta);
	struct ploop_partial *partial;
	int ret;

	if (READ_ONCE(delta->partial_bytes) + size > PLOOP_PARTIAL_BYTES_MAX)
		return false;
	partial = kzalloc(size, GFP_NOIO | __GFP_NOWARN);
	if (!partial)
		return false;
	partial->left = partial_blocks(delta);
	ret = xa_insert(&delta->partial, iblock, partial, GFP_NOIO);
	if (ret) {
		kfree(partial);
		/* Of an earlier use: it knows nothing of this one. */
		if (WARN_ON_ONCE(ret == -EBUSY))
			ploop_partial_drop(delta, iblock);
		return false;
	}
	spin_lock(&delta->alloc_lock);
	delta->partial_bytes += size;
	spin_unlock(&delta->alloc_lock);
	return true;
}

static void partial_remove_locked(struct ploop_delta *delta, u32 iblock)
{
	struct ploop_partial *partial = xa_erase(&delta->partial, iblock);

	lockdep_assert_held(&delta->alloc_lock);
	if (!partial)
		return;
	kfree(partial);
	delta->partial_bytes -= partial_size(delta);
}

static void partial_remove(struct ploop_delta *delta, u32 iblock)
{
	spin_lock(&delta->alloc_lock);
	partial_remove_locked(delta, iblock);
	spin_unlock(&delta->alloc_lock);
}

/**
 * ploop_partial_has() - is a cluster in the record?
 * @delta: which
 * @iblock: which
 *
 * Context: Any context.
 * Return: true if so.
 */
bool ploop_partial_has(struct ploop_delta *delta, u32 iblock)
{
	return !xa_empty(&delta->partial) && xa_load(&delta->partial, iblock);
}

/**
 * ploop_partial_mark() - a part of a cluster is about to be written
 * @delta: writable
 * @iblock: in the record, or not
 * @offset: in the cluster
 * @len: bytes
 *
 * Context: Process context.
 * Return: true if nothing is left to be filled.
 */
bool ploop_partial_mark(struct ploop_delta *delta, u32 iblock, u32 offset, u32 len)
{
	u32 block = offset / delta->file->block_bytes;
	u32 last = (offset + len - 1) / delta->file->block_bytes;
	struct ploop_partial *partial;
	bool full;

	spin_lock(&delta->alloc_lock);
	partial = xa_load(&delta->partial, iblock);
	if (partial)
		for (; block <= last; block++)
			if (!__test_and_set_bit(block, partial->bits))
				partial->left--;
	full = !partial || partial->left == 0;
	if (full)
		partial_remove_locked(delta, iblock);
	spin_unlock(&delta->alloc_lock);
	return full;
}

/**
 * ploop_partial_drop() - a cluster is wholly reserved, written, or a hole
 * @delta: which
 * @iblock: in the record, or not
 *
 * Context: Process context; nobody writes the cluster.
 */
void ploop_partial_drop(struct ploop_delta *delta, u32 iblock)
{
	partial_remove(delta, iblock);
}

/**
 * ploop_partial_drop_range() - the same for many
 * @delta: which
 * @first: cluster of the file
 * @last: the last one
 *
 * Context: Process context; nobody writes the clusters.
 */
void ploop_partial_drop_range(struct ploop_delta *delta, u32 first, u32 last)
{
	struct ploop_partial *partial;
	unsigned long iblock;

	xa_for_each_range(&delta->partial, iblock, partial, first, last)
		partial_remove(delta, iblock);
}

static int partial_fill_one(struct ploop_delta *delta, u32 iblock, struct ploop_partial *partial)
{
	u32 blocks = partial_blocks(delta), shift = delta->geo.cluster_shift;
	u32 bytes = delta->file->block_bytes;
	u32 start, end;

	for (start = find_first_zero_bit(partial->bits, blocks); start < blocks;
	     start = find_next_zero_bit(partial->bits, blocks, end)) {
		int ret;

		end = find_next_bit(partial->bits, blocks, start);
		ret = ploop_file_zero(delta->file, ((u64)iblock << shift) + (u64)start * bytes,
				      (u64)(end - start) * bytes);
		if (ret)
			return ret;
	}
	return 0;
}

/**
 * ploop_partial_fill() - fill the rest of all clusters with zeros
 * @delta: nobody writes to it
 *
 * Context: Process context; sleeps.
 * Return: 0 or an errno; then those not filled stay in the record.
 */
int ploop_partial_fill(struct ploop_delta *delta)
{
	struct ploop_partial *partial;
	unsigned long iblock;

	xa_for_each(&delta->partial, iblock, partial) {
		int ret = 0;

		/* What is behind the end is cut off. */
		if (iblock < delta->next)
			ret = partial_fill_one(delta, iblock, partial);
		if (ret)
			return ret;
		partial_remove(delta, iblock);
		cond_resched();
	}
	return 0;
}

/**
 * ploop_partial_forget() - free the record
 * @delta: nobody writes to it
 *
 * Context: Process context.
 */
void ploop_partial_forget(struct ploop_delta *delta)
{
	ploop_partial_drop_range(delta, 0, U32_MAX);
}
