// SPDX-License-Identifier: GPL-2.0
/*
 * Discards: whole clusters of the top that nothing lies below are given up.
 *
 * The map shows a hole at once; the cluster of the file is free for others when the
 * table without it is durable.  What a lower level has stays as it is, since the
 * table has no entry that says "hole here": a discard is a hint.  The request may
 * be as large as the device, so it gives way now and then.  It does not sleep for a
 * cluster's lock, whose holder may need a worker of the same queue: it waits in a list
 * as other requests do, and goes on where it was.
 */
#include "core.h"

#define WAIT_ROOM	1	/* it has to wait in dev->full */
#define WAIT_LOCK	2	/* it waits for the cluster's lock, and is not counted in */

static int lower_has(struct ploop_device *dev, struct ploop_delta *above, u32 cluster, bool *has)
{
	int ret = 0;
	s64 level;

	*has = false;
	mutex_lock(&dev->bat_lock);
	for (level = (s64)above->level - 1; level >= 0 && ret == 0 && !*has; level--) {
		u32 iblock;

		ret = ploop_bat_lookup(dev->levels[level], cluster, &iblock);
		*has = iblock != PLOOP_IBLOCK_NONE;
	}
	mutex_unlock(&dev->bat_lock);
	return ret;
}

/* Return: WAIT_*, 0, or an errno. */
static int discard_cluster(struct ploop_request *req, u32 cluster)
{
	struct ploop_device *dev = req->dev;
	struct ploop_delta *delta = dev->alloc;
	struct ploop_map_page *page;
	atomic64_t *at;
	bool has;
	u64 slot;
	int ret;

	page = ploop_map_get(dev, cluster);
	if (IS_ERR(page))
		return PTR_ERR(page);
	slot = atomic64_read(ploop_map_slot(page, cluster));
	/*
	 * Who waits for the lock is not counted in, and must not have a page: the map may be
	 * dropped.
	 */
	ploop_map_put(page);
	if (!slot_is_mapped(slot) || slot_level(slot) != delta->level || delta->rdonly)
		return 0;
	ret = lower_has(dev, delta, cluster, &has);
	if (ret || has)
		return ret;
	if (!ploop_pending_room(dev))
		return WAIT_ROOM;
	if (!ploop_cluster_trylock(dev, req, cluster))
		return WAIT_LOCK;
	page = ploop_map_get(dev, cluster);
	ret = PTR_ERR_OR_ZERO(page);
	if (ret)
		goto unlock;
	at = ploop_map_slot(page, cluster);
	slot = atomic64_read(at);
	if (slot_is_mapped(slot) && slot_level(slot) == delta->level && !(slot & SLOT_BUSY)) {
		ploop_map_pin_again(page);
		ploop_pending_add(dev, page, cluster, PLOOP_IBLOCK_NONE, slot_iblock(slot));
		atomic64_set(at, SLOT_HOLE | SLOT_PENDING);
	}
	ploop_map_put(page);
unlock:
	req->locked = false;
	ploop_cluster_unlock(dev, &req->lock);
	return ret;
}

static bool discard_possible(struct ploop_device *dev)
{
	return !dev->identity && (dev->alloc->fmt->flags & PLOOP_FMTF_TABLE) &&
		READ_ONCE(dev->maintenance) < PLOOP_MNTN_MERGE;
}

/**
 * ploop_discard() - do a discard
 * @req: the request
 *
 * Context: Process context; sleeps.
 */
void ploop_discard(struct ploop_request *req)
{
	struct ploop_device *dev = req->dev;
	struct request *rq = ploop_rq(req);
	u32 shift = dev->cluster_shift - SECTOR_SHIFT;
	u64 first = max_t(u64, req->cluster, (blk_rq_pos(rq) + (1u << shift) - 1) >> shift);
	u64 end = (blk_rq_pos(rq) + blk_rq_sectors(rq)) >> shift;
	u64 cluster;
	int ret = 0;

	for (cluster = first; cluster < end && ret == 0; cluster++) {
		/* Where it goes on if it has to wait. */
		req->cluster = cluster;
		while (!ploop_enter(dev, req))
			if (ploop_park(&dev->gate, req))
				return;
		if (!dev->running || dev->aborted || ploop_write_refused(req)) {
			ret = -EIO;
			break;
		}
		if (READ_ONCE(dev->held.closed)) {
			ploop_leave(dev, req);
			if (ploop_wait(&dev->held, req))
				return;
			cluster--;
			continue;
		}
		if (!discard_possible(dev) || cluster >= dev->alloc->geo.clusters)
			break;
		ret = discard_cluster(req, cluster);
		if (ret == WAIT_LOCK)
			return;
		ploop_leave(dev, req);
		if (ret == WAIT_ROOM) {
			if (ploop_space_wait(req, READ_ONCE(dev->commit_stuck)) ||
			    ploop_park(&dev->full, req))
				return;
			ret = 0;
			cluster--;
		}
		cond_resched();
	}
	ploop_written(req);
	ploop_end_errno(req, ret == -ENOMEM ? 0 : ret);
}
