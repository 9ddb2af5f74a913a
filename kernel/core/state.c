// SPDX-License-Identifier: GPL-2.0
/* Start, stop, and who uses the device. */
#include <linux/module.h>
#include <linux/pagemap.h>
#include "core.h"

static int set_limits(struct ploop_device *dev)
{
	struct ploop_limits_in in = {
		.cluster_bytes = ploop_cluster_bytes(dev),
		.segments = PLOOP_SEGMENTS,
	};
	u32 level;

	/* Whatever level is below may be written to one day, by a merge. */
	for (level = 0; level < dev->nr_levels; level++)
		in.stable |= ploop_file_stable(dev->levels[level]->file);

	if (!dev->rdonly && !dev->identity && (dev->alloc->fmt->flags & PLOOP_FMTF_TABLE))
		in.discard_bytes = round_down(UINT_MAX, in.cluster_bytes);
	dev->stable = in.stable;
	return ploop_set_limits(dev->disk, &in);
}

/**
 * ploop_start() - give the device its capacity
 * @dev: the device
 *
 * Context: Process context; sleeps.  Holds ctl_lock.
 * Return: 0 or an errno.
 */
int ploop_start(struct ploop_device *dev)
{
	struct ploop_delta *top = ploop_top(dev);
	int ret;

	if (dev->running)
		return -EBUSY;
	if (!top)
		return -ENOENT;
	if (ploop_doubtful(dev))
		return -EUCLEAN;
	ret = ploop_device_memory(dev);
	if (ret)
		return ret;
	/* Stopped and started again. */
	if (!top->rdonly && top->geo.in_use != PLOOP_IN_USE) {
		ret = ploop_delta_mark(top);
		if (ret)
			return ret;
	}
	dev->aborted = 0;
	dev->nospace_seen = false;
	dev->event_enospc = false;
	dev->commit_stuck = 0;
	spin_lock(&dev->stack_lock);
	ploop_stack_changed(dev);
	spin_unlock(&dev->stack_lock);
	/* With those of another stack requests would cross clusters. */
	ret = set_limits(dev);
	if (ret)
		return ret;
	set_disk_ro(dev->disk, dev->rdonly);
	set_bit(GD_NEED_PART_SCAN, &dev->disk->state);
	WRITE_ONCE(dev->running, true);
	set_capacity_and_notify(dev->disk, dev->sectors);
	ploop_event(dev, PLOOP_EV_STARTED, 0);
	return 0;
}

/**
 * ploop_disk_is_used() - whether more than so many have the device open, or anything lies on it
 * @dev: the device
 * @openers_max: so many are none
 *
 * Context: Any context.  Holds the disk's open_mutex.
 * Return: whether.
 */
bool ploop_disk_is_used(struct ploop_device *dev, u32 openers_max)
{
	struct gendisk *disk = dev->disk;

	lockdep_assert_held(&disk->open_mutex);
	return disk->open_partitions || disk->part0->bd_holders || dev->open_count > openers_max;
}

/**
 * ploop_open_mutex_get() - take a disk's open_mutex, with patience but not for ever
 * @disk: the disk
 *
 * Who closes the disk last writes back what is cached, and may have open_mutex meanwhile: while
 * its writes wait for space, that is for as long as they do.
 *
 * Context: Process context; sleeps.
 * Return: 0, -EBUSY or -EINTR.
 */
int ploop_open_mutex_get(struct gendisk *disk)
{
	unsigned long end = jiffies + PLOOP_PATIENCE / 10;

	while (!mutex_trylock(&disk->open_mutex)) {
		if (time_after(jiffies, end))
			return -EBUSY;
		schedule_timeout_killable(1);
		if (fatal_signal_pending(current))
			return -EINTR;
	}
	return 0;
}

static bool is_dirty(struct block_device *bdev)
{
	struct address_space *mapping = ploop_bdev_mapping(bdev);

	return mapping_tagged(mapping, PAGECACHE_TAG_DIRTY) ||
		mapping_tagged(mapping, PAGECACHE_TAG_WRITEBACK);
}

/*
 * Take the capacity away, unless somebody uses the device.  What is cached was written by
 * ploop_users_sync(), since one must not wait for that here.
 */
static int close_to_users(struct ploop_device *dev, u32 openers_max)
{
	struct gendisk *disk = dev->disk;
	int ret = ploop_open_mutex_get(disk);

	if (ret)
		return ret;
	if (ploop_disk_is_used(dev, openers_max) || (!dev->rdonly && is_dirty(disk->part0))) {
		ret = -EBUSY;
	} else {
		invalidate_bdev(disk->part0);
		set_capacity(disk, 0);
		/* Nothing is read: it only drops the partitions. */
		ret = bdev_disk_changed(disk, false);
	}
	mutex_unlock(&disk->open_mutex);
	return ret;
}

/* It was not stopped after all. */
static void open_to_users(struct ploop_device *dev)
{
	set_bit(GD_NEED_PART_SCAN, &dev->disk->state);
	set_capacity_and_notify(dev->disk, dev->sectors);
}

/**
 * ploop_users_sync() - have what is cached of the device written
 * @dev: the device
 *
 * Before a device with an opener is stopped.  The writes may have to wait for space; then this
 * does not wait with them, and the stop is refused.
 *
 * Context: Process context; sleeps.  Holds no lock.
 */
void ploop_users_sync(struct ploop_device *dev)
{
	struct block_device *bdev = dev->disk->part0;
	unsigned long end = jiffies + PLOOP_PATIENCE;

	while (READ_ONCE(dev->running) && !READ_ONCE(dev->rdonly) && is_dirty(bdev) &&
	       !ploop_space_is_out(dev) && time_before(jiffies, end) &&
	       !fatal_signal_pending(current)) {
		filemap_flush(ploop_bdev_mapping(bdev));
		schedule_timeout_killable(1);
	}
}

/*
 * Everything durable, every file in the form of a closed image.  @stopped: it cannot go on as
 * before.  Return: 0 or an errno.
 */
static int stop_deltas(struct ploop_device *dev, bool *stopped)
{
	int ret = ploop_commit_for(dev, PLOOP_PATIENCE);
	s64 level;

	*stopped = ret == 0 || (dev->aborted && ret != -ETIMEDOUT && ret != -EINTR);
	if (!*stopped)
		return ret;
	mutex_lock(&dev->commit_lock);
	*stopped = false;
	for (level = (s64)dev->nr_levels - 1; level >= 0; level--) {
		struct ploop_delta *delta = dev->levels[level];

		if (ret || dev->aborted || delta->rdonly)
			continue;
		ret = ploop_delta_clean(delta);
		if (ret && !*stopped && ploop_error_passes(ret))
			goto out;
		if (ret)
			ploop_abort(dev, ret);
		*stopped = true;
	}
	*stopped = true;
	if (!dev->aborted)
		ploop_delta_retire_again(dev);
	ploop_pending_forget(dev);
	for (level = 0; level < dev->nr_levels; level++) {
		struct ploop_delta *delta = dev->levels[level];

		/* Its closing failed again: what it would need for that is forgotten here. */
		if (delta->rdonly && delta->file->writable && delta->geo.in_use == PLOOP_IN_USE)
			WRITE_ONCE(delta->doubtful, true);
		/* What was acknowledged and not flushed is gone. */
		if (dev->aborted && !delta->rdonly)
			WRITE_ONCE(delta->doubtful, true);
		mutex_lock(&dev->bat_lock);
		ploop_bat_drop(delta);
		mutex_unlock(&dev->bat_lock);
		ploop_partial_forget(delta);
	}
	ploop_map_drop(dev);
out:
	mutex_unlock(&dev->commit_lock);
	return ret;
}

static int stop_running(struct ploop_device *dev)
{
	bool stopped = false;
	int ret = ploop_quiesce_for(dev, PLOOP_PATIENCE);

	if (ret) {
		open_to_users(dev);
		return ret;
	}
	ret = stop_deltas(dev, &stopped);
	if (!stopped) {
		ploop_resume(dev);
		open_to_users(dev);
		return ret;
	}
	ploop_track_abort(dev);
	WRITE_ONCE(dev->running, false);
	ploop_bitmaps_free(dev);
	WRITE_ONCE(dev->maintenance, PLOOP_MNTN_OFF);
	dev->discard_wait = false;
	ploop_resume(dev);
	/* Whoever waits finds the device stopped. */
	ploop_waiting_open(dev, &dev->nospace);
	flush_work(&dev->nospace.work);
	flush_work(&dev->held.work);
	/* No request of this stack meets the next one. */
	ploop_disk_drain(dev->disk);
	wake_up_all(&dev->discard_queue);
	ploop_event(dev, PLOOP_EV_STOPPED, 0);
	return ret;
}

/**
 * ploop_stop() - end the device's I/O and close the images
 * @dev: the device
 * @openers_max: with more openers it is busy
 *
 * Context: Process context; sleeps.  Holds ctl_lock.
 * Return: 0, -EINVAL (not running), -EBUSY, -ENOSPC or another that ploop_error_passes(),
 * -ETIMEDOUT (the host does not answer), -EINTR: it runs as before; or what closing said: it is
 * stopped then, but its top is still marked in use.
 */
int ploop_stop(struct ploop_device *dev, u32 openers_max)
{
	int ret;

	if (!dev->running)
		return -EINVAL;
	if (dev->maintenance >= PLOOP_MNTN_MERGE || READ_ONCE(dev->held.closed))
		return -EBUSY;
	ret = close_to_users(dev, openers_max);
	return ret ? ret : stop_running(dev);
}

/**
 * ploop_clear() - drop all deltas of a stopped device
 * @dev: the device
 *
 * Context: Process context; sleeps.  Holds ctl_lock.
 * Return: 0 or -EBUSY.
 */
int ploop_clear(struct ploop_device *dev)
{
	int ret = 0;

	if (dev->running || dev->maintenance == PLOOP_MNTN_TRACK ||
	    dev->maintenance >= PLOOP_MNTN_MERGE)
		return -EBUSY;
	while (dev->nr_levels > 0) {
		struct ploop_delta *delta;
		bool clean;
		int err;

		/* A flush may still be looking at the stack. */
		mutex_lock(&dev->commit_lock);
		delta = ploop_stack_remove(dev, dev->nr_levels - 1);
		mutex_unlock(&dev->commit_lock);
		/* Never started: only the mark has to go. */
		clean = delta->geo.in_use == PLOOP_IN_USE && !dev->aborted;
		err = ploop_delta_close(delta, clean);
		ret = ret ? ret : err;
	}
	WRITE_ONCE(dev->maintenance, PLOOP_MNTN_OFF);
	dev->aborted = 0;
	set_bit(GD_NEED_PART_SCAN, &dev->disk->state);
	return ret;
}

/* So often a stop is tried of a device that nobody uses, and whose host does not answer. */
#define SHUTDOWN_TRIES	10

static int shutdown_call(void *arg)
{
	struct ploop_device *dev = arg;
	int ret = 0, tries;

	mutex_lock(&dev->ctl_lock);
	for (tries = 0; tries < SHUTDOWN_TRIES && dev->running; tries++) {
		/* Some errors come back at once, and pass in a while. */
		if (tries > 0)
			schedule_timeout_uninterruptible(HZ);
		ret = ploop_stop(dev, 0);
	}
	/* What cannot be made durable now never will be. */
	if (dev->running) {
		ploop_abort(dev, ret);
		ploop_stop(dev, 0);
	}
	ploop_clear(dev);
	mutex_unlock(&dev->ctl_lock);
	return 0;
}

/**
 * ploop_shutdown() - end a device that nobody uses, whatever its state
 * @dev: the device
 *
 * Whatever signals the caller gets: they are no reason to lose what was written.
 *
 * Context: Process context; sleeps.
 */
void ploop_shutdown(struct ploop_device *dev)
{
	ploop_call(shutdown_call, dev);
}
