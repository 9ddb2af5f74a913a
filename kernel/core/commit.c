// SPDX-License-Identifier: GPL-2.0
/*
 * Flushes: what makes acknowledged writes durable, and the changes of the table.
 *
 * A new cluster is visible in the map as soon as its data was written, but the
 * table on disk learns of it only in a commit:
 *
 *	sync the data; write the changed pages of the table; sync
 *
 * so an entry on disk never points to data that isn't there, and a flush costs
 * two flushes of the host at most, however many clusters were allocated, and
 * one when there were none.  Flushes that arrive while a commit runs share the
 * next one.  Changes are listed twice: one list is filled while the other
 * is being committed, so a change whose data came after the sync waits for the
 * next round.  A cluster given up becomes free only after the table
 * without it is durable and the requests that may still use it are over.
 *
 * A commit that fails for want of space or memory, or because a server does not answer,
 * has changed nothing: who waits for it waits on, and it is tried again each second (space.c).
 * Any other failure aborts the device, and so does every failed sync: the kernel tells
 * once that it lost something.
 */
#include <linux/sched/mm.h>
#include "core.h"

/* So many may be between the check for room and the addition: all requests, and who moves. */
#define PENDING_MARGIN (PLOOP_QUEUES_MAX * PLOOP_QUEUE_DEPTH + 64u)

/**
 * ploop_pending_room() - may another change be listed?
 * @dev: the device
 *
 * Context: Process context.
 * Return: false if the caller has to wait: while commits are stuck for space, as
 * dev->commit_stuck tells, else in dev->full, which was closed.
 */
bool ploop_pending_room(struct ploop_device *dev)
{
	u32 side = READ_ONCE(dev->pending_side);
	u32 count = READ_ONCE(dev->pending_count[side]);
	bool stuck = READ_ONCE(dev->commit_stuck);

	if (count >= PLOOP_PENDING_KICK && !stuck)
		queue_work(dev->commit_wq, &dev->commit_work);
	/* Of both lists: after a failure they become one. */
	count += READ_ONCE(dev->pending_count[!side]);
	if (count < PLOOP_PENDING_MAX - PENDING_MARGIN)
		return true;
	if (stuck)
		return false;
	ploop_parking_close(&dev->full);
	queue_work(dev->commit_wq, &dev->commit_work);
	return false;
}

/**
 * ploop_pending_add() - list a change of the table
 * @dev: the device
 * @page: page of the map that has the cluster; one reference is taken over
 * @cluster: which
 * @iblock: new place, or PLOOP_IBLOCK_NONE
 * @freed: place given up, or PLOOP_IBLOCK_NONE
 *
 * Context: Any context.  Counted in, holds the cluster's lock, found room.
 */
void ploop_pending_add(struct ploop_device *dev, struct ploop_map_page *page, u32 cluster,
		       u32 iblock, u32 freed)
{
	struct ploop_pending *entry;
	unsigned long irq;
	u32 side;

	spin_lock_irqsave(&dev->pending_lock, irq);
	side = dev->pending_side;
	if (!WARN_ON_ONCE(dev->pending_count[side] >= PLOOP_PENDING_MAX)) {
		entry = &dev->pending[side][dev->pending_count[side]++];
		entry->cluster = cluster;
		entry->iblock = iblock;
		entry->freed = freed;
	}
	spin_unlock_irqrestore(&dev->pending_lock, irq);
}

/**
 * ploop_commit_wait() - end a request once all that was acknowledged is durable
 * @dev: the device
 * @req: not counted in
 *
 * Context: Any context.
 */
void ploop_commit_wait(struct ploop_device *dev, struct ploop_request *req)
{
	unsigned long irq;

	spin_lock_irqsave(&dev->pending_lock, irq);
	list_add_tail(&req->list, &dev->flush_waiters);
	spin_unlock_irqrestore(&dev->pending_lock, irq);
	queue_work(dev->commit_wq, &dev->commit_work);
}

static int sync_writable(struct ploop_device *dev)
{
	u32 level;
	int ret = 0;

	for (level = 0; level < dev->nr_levels && ret == 0; level++) {
		struct ploop_delta *delta = dev->levels[level];

		if (delta->rdonly)
			continue;
		ploop_count(dev, host_syncs);
		ploop_delta_touch(delta);
		ret = ploop_delta_sync(delta);
	}
	return ret;
}

static int apply(struct ploop_device *dev, const struct ploop_pending *entries, u32 count)
{
	struct ploop_delta *delta = dev->alloc;
	int ret = 0;
	u32 i;

	mutex_lock(&dev->bat_lock);
	for (i = 0; i < count && ret == 0; i++)
		ret = ploop_bat_set(delta, entries[i].cluster, entries[i].iblock);
	if (ret == 0)
		ret = ploop_bat_write(delta);
	mutex_unlock(&dev->bat_lock);
	if (ret)
		return ret;
	ploop_count(dev, host_syncs);
	return ploop_delta_sync(delta);
}

static void settle(struct ploop_device *dev, const struct ploop_pending *entries, u32 count)
{
	struct ploop_delta *delta = dev->alloc;
	bool freed = false;
	u32 i;

	for (i = 0; i < count; i++) {
		struct ploop_map_page *page = ploop_map_pinned(dev, entries[i].cluster);

		ploop_slot_change(ploop_map_slot(page, entries[i].cluster),
				  slot_make(entries[i].iblock, delta->level), SLOT_PENDING, 0);
		ploop_map_put(page);
		freed |= entries[i].freed != PLOOP_IBLOCK_NONE;
	}
	if (!freed)
		return;
	ploop_drain(dev);
	for (i = 0; i < count; i++) {
		if (entries[i].freed == PLOOP_IBLOCK_NONE)
			continue;
		if (dev->punch &&
		    delta->file->io->punch(delta->file,
					   (u64)entries[i].freed << dev->cluster_shift,
					   ploop_cluster_bytes(dev)) == 0)
			ploop_partial_drop(delta, entries[i].freed);
		ploop_alloc_free(delta, entries[i].freed);
	}
}

/* After a failure the changes stay listed, in their order, and their pages in memory. */
static void take_back(struct ploop_device *dev, u32 side)
{
	struct ploop_pending *entries = dev->pending[side];
	u32 later;

	spin_lock_irq(&dev->pending_lock);
	later = dev->pending_count[!side];
	if (dev->pending_side != side &&
	    !WARN_ON_ONCE(dev->pending_count[side] + later > PLOOP_PENDING_MAX)) {
		memcpy(&entries[dev->pending_count[side]], dev->pending[!side],
		       later * sizeof(*entries));
		dev->pending_count[side] += later;
		dev->pending_count[!side] = 0;
		dev->pending_side = side;
	}
	spin_unlock_irq(&dev->pending_lock);
}

static void waiters_end(struct list_head *waiters, int error)
{
	struct ploop_request *req, *next;

	list_for_each_entry_safe(req, next, waiters, list) {
		list_del_init(&req->list);
		ploop_end_errno(req, error);
	}
}

/* Return: 0 or an errno; who waited has ended if it went well. */
static int commit_all(struct ploop_device *dev, struct list_head *waiters)
{
	u32 side, count;
	int ret;

	spin_lock_irq(&dev->pending_lock);
	list_splice_init(&dev->flush_waiters, waiters);
	side = dev->pending_side;
	count = dev->pending_count[side];
	dev->pending_side = !side;
	spin_unlock_irq(&dev->pending_lock);

	ret = sync_writable(dev);
	/* After an error a header may be left to be written again. */
	if (ret == 0 && (count > 0 || ploop_bat_dirty(dev->alloc)))
		ret = apply(dev, dev->pending[side], count);
	if (ret) {
		take_back(dev, side);
		return ret;
	}
	waiters_end(waiters, 0);
	if (count > 0) {
		settle(dev, dev->pending[side], count);
		spin_lock_irq(&dev->pending_lock);
		dev->pending_count[side] = 0;
		spin_unlock_irq(&dev->pending_lock);
	}
	return 0;
}

/* It can be made later: who waited waits on.  Writes give their requests back. */
static void commit_put_off(struct ploop_device *dev, struct list_head *waiters, int error)
{
	struct ploop_request *req, *next;

	WRITE_ONCE(dev->commit_stuck, error);
	ploop_space_tell(dev, error);

	list_for_each_entry_safe(req, next, waiters, list) {
		if (!op_is_write(req_op(ploop_rq(req))) || req_op(ploop_rq(req)) == REQ_OP_FLUSH)
			continue;
		list_del_init(&req->list);
		if (!ploop_space_wait(req, error))
			ploop_end_errno(req, -EIO);
	}
	spin_lock_irq(&dev->pending_lock);
	list_splice(waiters, &dev->flush_waiters);
	spin_unlock_irq(&dev->pending_lock);
}

/**
 * ploop_commit() - make durable all that was acknowledged so far
 * @dev: the device
 *
 * Ends the requests that wait for it.
 *
 * Context: Process context; sleeps.  Holds commit_lock; not counted in.
 * Return: 0 or an errno; the device is aborted then, unless ploop_error_passes().
 */
int ploop_commit(struct ploop_device *dev)
{
	LIST_HEAD(waiters);
	int ret = -EIO;

	lockdep_assert_held(&dev->commit_lock);
	if (!dev->aborted && dev->nr_levels > 0) {
		ret = commit_all(dev, &waiters);
	} else {
		spin_lock_irq(&dev->pending_lock);
		list_splice_init(&dev->flush_waiters, &waiters);
		spin_unlock_irq(&dev->pending_lock);
		if (!dev->aborted)
			ret = 0;
	}
	if (ret && !dev->aborted && ploop_error_passes(ret)) {
		commit_put_off(dev, &waiters, ret);
	} else {
		WRITE_ONCE(dev->commit_stuck, 0);
		if (ret && !dev->aborted)
			ploop_abort(dev, ret);
		waiters_end(&waiters, ret);
	}
	ploop_parking_open(dev, &dev->full);
	return ret;
}

/**
 * ploop_commit_for() - the same, by another thread, and waited for no longer than a time
 * @dev: the device; may be quiesced
 * @timeout: in jiffies
 *
 * Context: Process context; sleeps.  Holds no lock that a commit takes.
 * Return: as ploop_commit(); -ETIMEDOUT or -EINTR, then the commit goes on.
 */
int ploop_commit_for(struct ploop_device *dev, long timeout)
{
	u64 asked;

	spin_lock_irq(&dev->pending_lock);
	asked = ++dev->commit_asked;
	spin_unlock_irq(&dev->pending_lock);
	queue_work(dev->commit_wq, &dev->commit_work);
	timeout = wait_event_killable_timeout(dev->commit_wait,
					      READ_ONCE(dev->commit_over) >= asked, timeout);
	if (timeout <= 0)
		return timeout ? -EINTR : -ETIMEDOUT;
	/* Pairs with that in ploop_commit_work().  A later one that went well will do, too. */
	smp_rmb();
	return READ_ONCE(dev->commit_ret);
}

/* Would a commit have to wait until the host's file system is thawed? */
static bool commit_frozen(struct ploop_device *dev)
{
	u32 count;

	spin_lock_irq(&dev->pending_lock);
	count = dev->pending_count[0] + dev->pending_count[1];
	spin_unlock_irq(&dev->pending_lock);
	return count > 0 && !READ_ONCE(dev->aborted) && ploop_host_frozen(dev);
}

static int commit_try(struct ploop_device *dev)
{
	LIST_HEAD(waiters);

	if (!commit_frozen(dev))
		return ploop_commit(dev);
	spin_lock_irq(&dev->pending_lock);
	list_splice_init(&dev->flush_waiters, &waiters);
	spin_unlock_irq(&dev->pending_lock);
	commit_put_off(dev, &waiters, -EBUSY);
	return -EBUSY;
}

/**
 * ploop_commit_work() - the work that commits
 * @work: of the device
 */
void ploop_commit_work(struct work_struct *work)
{
	struct ploop_device *dev = container_of(work, struct ploop_device, commit_work);
	unsigned int noio = memalloc_noio_save();
	u64 asked;

	mutex_lock(&dev->commit_lock);
	spin_lock_irq(&dev->pending_lock);
	asked = dev->commit_asked;
	spin_unlock_irq(&dev->pending_lock);
	/* While the device is quiesced only who quiesced it has it commit. */
	if (!READ_ONCE(dev->gate.closed) || asked != dev->commit_over) {
		WRITE_ONCE(dev->commit_ret, commit_try(dev));
		/* Who sees that it is over sees how. */
		smp_wmb();
		WRITE_ONCE(dev->commit_over, asked);
		wake_up_all(&dev->commit_wait);
	}
	mutex_unlock(&dev->commit_lock);
	memalloc_noio_restore(noio);
}

/**
 * ploop_pending_forget() - drop the changes that an aborted device kept
 * @dev: quiesced
 *
 * Context: Process context.  Holds commit_lock.
 */
void ploop_pending_forget(struct ploop_device *dev)
{
	u32 side, i;

	for (side = 0; side < 2; side++) {
		for (i = 0; i < dev->pending_count[side]; i++)
			ploop_map_put(ploop_map_pinned(dev, dev->pending[side][i].cluster));
		dev->pending_count[side] = 0;
	}
}

/**
 * ploop_abort() - from now on writes fail
 * @dev: the device
 * @error: why
 *
 * Until the device is stopped, or somebody writes 0 to pstate/aborted.
 *
 * Context: Any context.
 */
void ploop_abort(struct ploop_device *dev, int error)
{
	if (cmpxchg(&dev->aborted, 0, error) != 0)
		return;
	ploop_err(dev, "writes fail from now on, error %d; stop the device and check the image\n",
		  error);
	ploop_event(dev, PLOOP_EV_ABORTED, -error);
	ploop_waiting_open(dev, &dev->nospace);
	ploop_parking_open(dev, &dev->full);
	/* A paused job ends, too. */
	wake_up_all(&dev->job->wait);
	/* Flushes that waited for a commit end now. */
	queue_work(dev->commit_wq, &dev->commit_work);
}

/**
 * ploop_fail() - the same for good: nobody knows what is on disk
 * @delta: in which file
 * @error: why
 *
 * The image stays marked in use, so that it is checked before it is used again.
 *
 * Context: Any context.
 */
void ploop_fail(struct ploop_delta *delta, int error)
{
	WRITE_ONCE(delta->doubtful, true);
	ploop_abort(delta->dev, error);
}

/**
 * ploop_write_failed() - a write got an error that will not pass
 * @req: the write; counted in
 * @error: what it got
 *
 * Its data are lost, and whoever sent it is told.  With FUA the error may be that of a
 * sync, which the kernel reports once: what was written before may be lost, too.
 *
 * Context: Any context.
 */
void ploop_write_failed(struct ploop_request *req, int error)
{
	if (req->delta && (ploop_rq(req)->cmd_flags & REQ_FUA))
		ploop_fail(req->delta, error);
	else
		ploop_abort(req->dev, error);
}
