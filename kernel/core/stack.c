// SPDX-License-Identifier: GPL-2.0
/* Changes of the stack: its levels come, go, and are put in the place of one another. */
#include <linux/pagemap.h>
#include "core.h"

/**
 * ploop_stack_changed() - derive anew what follows from the stack
 * @dev: the device
 *
 * Context: Any context.  Holds stack_lock.
 */
void ploop_stack_changed(struct ploop_device *dev)
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
	ploop_stack_changed(dev);
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
	ploop_stack_changed(dev);
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
	ret = ploop_open_mutex_get(dev->disk);
	if (ret)
		return ret;
	ret = ploop_disk_is_used(dev, 1) ? -EBUSY : del_delta(dev, level);
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
		ploop_stack_changed(dev);
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
