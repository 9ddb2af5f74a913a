// SPDX-License-Identifier: GPL-2.0
/* Start, stop, and changes of the stack. */
#include <linux/module.h>
#include <linux/pagemap.h>
#include "core.h"

/* After the stack changed: everything derived from it. */
static void stack_changed(struct ploop_device *dev)
{
	struct ploop_delta *top = ploop_top(dev);

	lockdep_assert_held(&dev->stack_lock);
	dev->alloc = top;
	dev->rdonly = top && top->rdonly;
	dev->identity = dev->nr_levels == 1 && !(top->fmt->flags & PLOOP_FMTF_TABLE);
	if (!top) {
		dev->version = 0;
		dev->sectors = 0;
		dev->cookie[0] = 0;
		dev->max_delta_bytes = 0;
		dev->reserve_bytes = 0;
		dev->punch = false;
	}
}

/**
 * ploop_stack_push() - put a delta on top; cannot fail
 * @dev: the device; quiesced if it runs
 * @delta: open, of the level it gets, and shown
 *
 * Context: Process context.  Holds ctl_lock (or is its snapshot) and commit_lock.
 */
void ploop_stack_push(struct ploop_device *dev, struct ploop_delta *delta)
{
	spin_lock(&dev->stack_lock);
	if (dev->nr_levels == 0) {
		dev->cluster_shift = delta->geo.cluster_shift;
		dev->version = 0;
	}
	if (delta->geo.version)
		dev->version = delta->geo.version;
	dev->levels[dev->nr_levels] = delta;
	WRITE_ONCE(dev->nr_levels, dev->nr_levels + 1);
	dev->sectors = delta->geo.sectors;
	stack_changed(dev);
	spin_unlock(&dev->stack_lock);
}

/**
 * ploop_stack_remove() - take a delta out
 * @dev: the device; quiesced if it runs, nothing pending
 * @level: which
 *
 * The map and all cached tables are dropped, since levels are renumbered and
 * tools may have changed the files.
 *
 * Context: Process context; sleeps.  Holds ctl_lock and commit_lock.
 * Return: the delta, no longer shown.
 */
struct ploop_delta *ploop_stack_remove(struct ploop_device *dev, u32 level)
{
	struct ploop_delta *delta = dev->levels[level];
	u32 i;

	ploop_map_drop(dev);
	ploop_pdelta_del(delta);
	spin_lock(&dev->stack_lock);
	for (i = level; i + 1 < dev->nr_levels; i++) {
		dev->levels[i] = dev->levels[i + 1];
		dev->levels[i]->level = i;
	}
	WRITE_ONCE(dev->nr_levels, dev->nr_levels - 1);
	dev->levels[dev->nr_levels] = NULL;
	stack_changed(dev);
	spin_unlock(&dev->stack_lock);
	for (i = level; i < dev->nr_levels; i++)
		ploop_pdelta_renumber(dev->levels[i]);
	mutex_lock(&dev->bat_lock);
	for (i = 0; i < dev->nr_levels; i++)
		ploop_bat_drop(dev->levels[i]);
	mutex_unlock(&dev->bat_lock);
	return delta;
}

/**
 * ploop_add_delta() - put one more file on the stack of a stopped device
 * @dev: the device
 * @args: what
 *
 * Context: Process context; sleeps.  Holds ctl_lock.
 * Return: 0 or an errno.
 */
int ploop_add_delta(struct ploop_device *dev, const struct ploop_delta_args *args)
{
	struct ploop_delta *top = ploop_top(dev), *delta;
	int ret;

	if (dev->running || dev->maintenance != PLOOP_MNTN_OFF)
		return -EBUSY;
	if (dev->nr_levels > PLOOP_LEVEL_MAX)
		return -EINVAL;
	if (top && args->cluster_shift && args->cluster_shift != dev->cluster_shift)
		return -EINVAL;
	delta = ploop_delta_open(dev, args);
	if (IS_ERR(delta))
		return PTR_ERR(delta);
	delta->level = dev->nr_levels;
	ret = top && !top->rdonly ? -EINVAL : ploop_pdelta_add(delta);
	if (ret) {
		ploop_delta_close(delta, true);
		return ret;
	}
	mutex_lock(&dev->commit_lock);
	ploop_stack_push(dev, delta);
	mutex_unlock(&dev->commit_lock);
	set_bit(GD_NEED_PART_SCAN, &dev->disk->state);
	return 0;
}

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
	stack_changed(dev);
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

static bool disk_is_used(struct ploop_device *dev, u32 openers_max)
{
	struct gendisk *disk = dev->disk;

	lockdep_assert_held(&disk->open_mutex);
	return disk->open_partitions || disk->part0->bd_holders || dev->open_count > openers_max;
}

/*
 * Who closes the disk last writes back what is cached, and may have open_mutex meanwhile: while
 * its writes wait for space, that is for as long as they do.
 */
static int open_mutex_get(struct gendisk *disk)
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
	int ret = open_mutex_get(disk);

	if (ret)
		return ret;
	if (disk_is_used(dev, openers_max) || (!dev->rdonly && is_dirty(disk->part0))) {
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

/* Return: 0: nothing is under way or uncommitted, and commit_lock is held; or an errno. */
static int change_begin(struct ploop_device *dev)
{
	int ret;

	if (dev->running) {
		ret = ploop_quiesce_for(dev, PLOOP_PATIENCE);
		if (ret)
			return ret;
		ret = ploop_commit_for(dev, PLOOP_PATIENCE);
		if (ret) {
			ploop_resume(dev);
			return ret;
		}
	}
	mutex_lock(&dev->commit_lock);
	return 0;
}

static void change_end(struct ploop_device *dev)
{
	mutex_unlock(&dev->commit_lock);
	if (dev->running)
		ploop_resume(dev);
}

static int del_delta(struct ploop_device *dev, u32 level)
{
	struct ploop_delta *delta;
	bool clean, running = dev->running;
	int ret;

	ret = change_begin(dev);
	if (ret)
		return ret;
	delta = ploop_stack_remove(dev, level);
	if (level > 0)
		ret = ploop_delta_refresh(dev->levels[level - 1], dev->cluster_shift);
	clean = delta->geo.in_use == PLOOP_IN_USE && !dev->aborted;
	ploop_delta_close(delta, clean);
	if (ret)
		ploop_abort(dev, ret);
	if (running)
		set_disk_ro(dev->disk, dev->rdonly);
	change_end(dev);
	return ret;
}

/**
 * ploop_del_delta() - take a level out; what only it has is lost
 * @dev: the device
 * @level: which
 *
 * With the top of a running device what its users see goes back, and it is read-only from
 * then on.  So there must be no users but the caller.
 *
 * Context: Process context; sleeps.  Holds ctl_lock.
 * Return: 0, -EBUSY, -ENOENT, or what refreshing the level below said.
 */
int ploop_del_delta(struct ploop_device *dev, u32 level)
{
	int ret;

	if (dev->maintenance != PLOOP_MNTN_OFF)
		return -EBUSY;
	if (dev->running && level == 0)
		return -EBUSY;
	if (level >= dev->nr_levels)
		return -ENOENT;
	if (!dev->running || level + 1 < dev->nr_levels)
		return del_delta(dev, level);
	ret = open_mutex_get(dev->disk);
	if (ret)
		return ret;
	ret = disk_is_used(dev, 1) ? -EBUSY : del_delta(dev, level);
	invalidate_bdev(dev->disk->part0);
	mutex_unlock(&dev->disk->open_mutex);
	return ret;
}

/**
 * ploop_replace_delta() - another file of the same content at a level
 * @dev: the device
 * @level: which
 * @args: what
 *
 * Context: Process context; sleeps.  Holds ctl_lock.
 * Return: 0 or an errno.
 */
int ploop_replace_delta(struct ploop_device *dev, u32 level, struct ploop_delta_args *args)
{
	struct ploop_delta *old, *delta;
	int ret;

	if (dev->maintenance != PLOOP_MNTN_OFF)
		return -EBUSY;
	if (level >= dev->nr_levels)
		return -ENOENT;
	old = dev->levels[level];
	if (old->rdonly != args->rdonly || (level > 0 && args->format == PLOOP_FMT_RAW) ||
	    (args->cluster_shift && args->cluster_shift != dev->cluster_shift))
		return -EINVAL;
	args->cluster_shift = dev->cluster_shift;
	args->replace = true;
	delta = ploop_delta_open(dev, args);
	if (IS_ERR(delta))
		return PTR_ERR(delta);
	if (delta->geo.version != old->geo.version || delta->geo.sectors != old->geo.sectors) {
		ploop_delta_close(delta, true);
		return -EINVAL;
	}
	ret = change_begin(dev);
	if (ret == 0) {
		ploop_map_drop(dev);
		ploop_pdelta_del(old);
		delta->level = level;
		spin_lock(&dev->stack_lock);
		dev->levels[level] = delta;
		stack_changed(dev);
		spin_unlock(&dev->stack_lock);
		ret = ploop_pdelta_add(delta);
		swap(old, delta);
		change_end(dev);
	}
	ploop_delta_close(delta, !dev->aborted);
	return ret;
}

/**
 * ploop_reload() - read the table of a level again: a tool changed it
 * @dev: the device
 * @level: which
 *
 * Context: Process context; sleeps.  Holds ctl_lock.
 * Return: 0 or an errno.
 */
int ploop_reload(struct ploop_device *dev, u32 level)
{
	struct ploop_delta *delta;
	int ret;

	if (level >= dev->nr_levels)
		return -ENOENT;
	delta = dev->levels[level];
	if (!delta->rdonly || dev->maintenance >= PLOOP_MNTN_MERGE)
		return delta->rdonly ? -EBUSY : -EINVAL;
	ret = change_begin(dev);
	if (ret)
		return ret;
	mutex_lock(&dev->bat_lock);
	ploop_bat_drop(delta);
	mutex_unlock(&dev->bat_lock);
	ploop_map_drop(dev);
	ret = ploop_delta_refresh(delta, dev->cluster_shift);
	change_end(dev);
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
