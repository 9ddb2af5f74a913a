// SPDX-License-Identifier: GPL-2.0
/*
 * Moving clusters of a running device to other places, some at a time.
 *
 * The clusters' locks are taken and their slots marked busy: requests that come now
 * wait.  Then ploop_drain() waits for those that came before.  What follows (copy,
 * sync, table, sync) has the clusters for itself; in the end the slots show the new
 * place and the locks are given up.  Nothing else is held up meanwhile.
 */
#include "core.h"

/**
 * ploop_move_init() - begin with an empty batch
 * @batch: what
 * @dev: the device
 * @rate: bytes per second, 0 for no limit: a batch is a quarter of a second then
 */
void ploop_move_init(struct ploop_batch *batch, struct ploop_device *dev, u64 rate)
{
	u64 bytes = rate ? min_t(u64, rate / 4, PLOOP_BATCH_BYTES) : PLOOP_BATCH_BYTES;

	batch->dev = dev;
	batch->count = 0;
	batch->max = clamp_t(u64, bytes >> dev->cluster_shift, 1, PLOOP_BATCH);
}

/**
 * ploop_move_add() - take one more cluster
 * @batch: not full
 * @cluster: which
 *
 * Context: The job's thread; sleeps.  Not counted in.
 * Return: 0 or an errno; then it was not taken.
 */
int ploop_move_add(struct ploop_batch *batch, u32 cluster)
{
	struct ploop_move *move = &batch->moves[batch->count];
	struct ploop_device *dev = batch->dev;

	ploop_cluster_lock(dev, &move->lock, cluster);
	move->page = ploop_map_get(dev, cluster);
	if (IS_ERR(move->page)) {
		ploop_cluster_unlock(dev, &move->lock);
		return PTR_ERR(move->page);
	}
	move->cluster = cluster;
	move->place = atomic64_fetch_or(SLOT_BUSY, ploop_map_slot(move->page, cluster));
	move->fresh = false;
	batch->count++;
	return 0;
}

/**
 * ploop_move_release() - give all clusters up
 * @batch: with the places they are at now, in move->place
 *
 * Context: The job's thread.
 */
void ploop_move_release(struct ploop_batch *batch)
{
	u32 i;

	for (i = 0; i < batch->count; i++) {
		struct ploop_move *move = &batch->moves[i];
		atomic64_t *slot = ploop_map_slot(move->page, move->cluster);

		/* The flags of a place that stays may have changed meanwhile. */
		if (!ploop_slot_change(slot, move->place, SLOT_BUSY, 0))
			atomic64_set(slot, move->place & ~SLOT_BUSY);
		ploop_map_put(move->page);
		ploop_cluster_unlock(batch->dev, &move->lock);
	}
	batch->count = 0;
}

static int relocate_tables(struct ploop_batch *batch, struct ploop_delta *delta)
{
	struct ploop_device *dev = batch->dev;
	int ret = 0;
	u32 i;

	mutex_lock(&dev->bat_lock);
	for (i = 0; i < batch->count && ret == 0; i++)
		ret = ploop_bat_set(delta, batch->moves[i].cluster, batch->moves[i].target);
	if (ret == 0)
		ret = ploop_bat_write(delta);
	mutex_unlock(&dev->bat_lock);
	return ret ? ret : ploop_delta_sync(delta);
}

/**
 * ploop_relocate() - move clusters of one file within it
 * @batch: drained; each move->old is where @delta has it, move->target is where to, of
 *         ploop_alloc() or ploop_alloc_at().  All changes of the table for them are
 *         committed
 * @delta: writable
 *
 * Where a higher level hides the cluster, its slot stays as it is.  The old clusters
 * are neither punched nor reused here.
 *
 * Context: The job's thread; sleeps.
 * Return: 0 or an errno; the places are right in both cases.
 */
int ploop_relocate(struct ploop_batch *batch, struct ploop_delta *delta)
{
	struct ploop_device *dev = batch->dev;
	int ret = 0;
	u32 i;

	for (i = 0; i < batch->count && ret == 0; i++) {
		struct ploop_move *move = &batch->moves[i];

		ret = ploop_copy(delta, move->old, delta, move->target, 0,
				 ploop_cluster_bytes(dev));
		ploop_track_file(delta, (u64)move->target << dev->cluster_shift,
				 ploop_cluster_bytes(dev));
	}
	if (ret == 0)
		ret = ploop_delta_sync(delta);
	if (ret) {
		if (READ_ONCE(delta->doubtful))
			ploop_abort(dev, ret);
		return ret;
	}
	do {
		ret = relocate_tables(batch, delta);
	} while (ploop_job_passes(dev, ret));
	if (ret) {
		/* Which of both is durable is not known. */
		ploop_fail(delta, ret);
		return ret;
	}
	for (i = 0; i < batch->count; i++) {
		struct ploop_move *move = &batch->moves[i];

		if (slot_is_mapped(move->place) && slot_level(move->place) == delta->level)
			move->place = slot_make(move->target, delta->level);
	}
	return 0;
}
