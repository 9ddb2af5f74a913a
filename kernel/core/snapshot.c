// SPDX-License-Identifier: GPL-2.0
/*
 * Snapshots: several devices go over to new tops in one instant.
 *
 *	1. open the new tops, each marked in use on disk; what was acknowledged is
 *	   committed, so that little is left for step 3; the file systems' dirty data are written
 *	2. freeze the file systems (no lock held; the deadline runs)
 *	3. quiesce all devices and commit once more; as file systems end a freeze with
 *	   a flush, this is one sync of the host's file
 *	4. if the deadline has not passed: switch all, in memory
 *	5. resume, thaw
 *	6. bring the old tops into the form of closed images, and let others read them
 *
 * While a device is between 1 and 6 its ioctls fail with EBUSY, but for limits and status; that,
 * and not ctl_lock, keeps others away, since a lock must not be held in 2 and 5.
 *
 * No step waits for longer than the deadline.  Where one device's images lie on another, the first
 * cannot be quiesced while the second is: such devices are refused in one set where that
 * is seen, and where it isn't, the snapshot fails at the deadline.
 */
#include "core.h"

static int snapshot_check(struct ploop_device *dev)
{
	lockdep_assert_held(&dev->ctl_lock);
	if (dev->snapshotting || dev->maintenance != PLOOP_MNTN_OFF)
		return -EBUSY;
	if (!dev->running)
		return -EINVAL;
	if (dev->aborted || ploop_doubtful(dev))
		return -EIO;
	if (dev->rdonly)
		return -EROFS;
	if (dev->nr_levels > PLOOP_LEVEL_MAX)
		return -EINVAL;
	/* A raw base that doesn't consist of whole clusters carries nothing. */
	if (dev->sectors & ((1u << (dev->cluster_shift - SECTOR_SHIFT)) - 1))
		return -EINVAL;
	return ploop_space_reserve_ok(dev);
}

/**
 * ploop_snapshot_prepare() - step 1 for one device
 * @dev: the device
 * @args: its new top
 * @delta: out
 *
 * Context: Process context; sleeps.  Holds ctl_lock.
 * Return: 0, then the device is being snapshotted; or an errno.
 */
int ploop_snapshot_prepare(struct ploop_device *dev, struct ploop_delta_args *args,
			   struct ploop_delta **delta)
{
	int ret = snapshot_check(dev);

	if (ret)
		return ret;
	if (args->cluster_shift && args->cluster_shift != dev->cluster_shift)
		return -EINVAL;
	ploop_delta_retire_again(dev);
	args->cluster_shift = dev->cluster_shift;
	*delta = ploop_delta_open(dev, args);
	if (IS_ERR(*delta))
		return PTR_ERR(*delta);
	ret = -EINVAL;
	if ((*delta)->geo.sectors != dev->sectors)
		goto close;
	/* File systems on the device were told when they were mounted. */
	ret = -EOPNOTSUPP;
	if (!dev->stable && ploop_file_stable((*delta)->file))
		goto close;
	ret = ploop_commit_for(dev, PLOOP_PATIENCE);
	if (ret)
		goto close;
	(*delta)->level = dev->nr_levels;
	ret = ploop_pdelta_add(*delta);
	if (ret)
		goto close;
	WRITE_ONCE(dev->snapshotting, true);
	return 0;
close:
	ploop_delta_close(*delta, true);
	return ret;
}

static void snapshot_over(struct ploop_device *dev)
{
	mutex_lock(&dev->ctl_lock);
	WRITE_ONCE(dev->snapshotting, false);
	mutex_unlock(&dev->ctl_lock);
	wake_up_all(&dev->event_wait);
}

static void snapshot_cancel(struct ploop_device *dev, struct ploop_delta *delta)
{
	ploop_pdelta_del(delta);
	ploop_delta_close(delta, true);
}

/**
 * ploop_snapshot_unprepare() - give back devices that are not to be switched after all
 * @set: prepared devices
 *
 * Context: Process context; sleeps.  Holds no lock.
 */
void ploop_snapshot_unprepare(struct ploop_snapshot_set *set)
{
	u32 i;

	for (i = 0; i < set->count; i++) {
		struct ploop_device *dev = set->devs[i];

		snapshot_cancel(dev, set->deltas[i]);
		if (set->bitmap && set->fresh[i])
			ploop_bitmap_delete(dev, set->bitmap);
		snapshot_over(dev);
	}
	set->count = 0;
}

static void switch_top(struct ploop_device *dev, struct ploop_delta *delta)
{
	mutex_lock(&dev->commit_lock);
	ploop_top(dev)->rdonly = true;
	ploop_stack_push(dev, delta);
	mutex_unlock(&dev->commit_lock);
}

/* Does a file of @upper lie on a file system on @lower? */
static bool lies_on(struct ploop_device *upper, struct ploop_delta *top, struct ploop_device *lower)
{
	u32 level;

	for (level = 0; level <= upper->nr_levels; level++) {
		struct ploop_delta *delta = level < upper->nr_levels ? upper->levels[level] : top;
		struct block_device *bdev = file_inode(delta->file->file)->i_sb->s_bdev;

		if (bdev && bdev->bd_disk == lower->disk)
			return true;
	}
	return false;
}

static bool nested(const struct ploop_snapshot_set *set)
{
	u32 i, j;

	for (i = 0; i < set->count; i++)
		for (j = 0; j < set->count; j++)
			if (i != j && lies_on(set->devs[i], set->deltas[i], set->devs[j]))
				return true;
	return false;
}

static long time_left(unsigned long end)
{
	return max_t(long, end - jiffies, 1);
}

static void resume_all(struct ploop_snapshot_set *set, u32 count)
{
	while (count > 0)
		ploop_resume(set->devs[--count]);
}

/* Return: 0, or an errno; then none is quiesced. */
static int quiesce_all(struct ploop_snapshot_set *set, unsigned long end)
{
	u32 i, quiesced;
	int ret = 0;

	for (quiesced = 0; quiesced < set->count; quiesced++) {
		ret = ploop_quiesce_for(set->devs[quiesced], time_left(end));
		if (ret)
			break;
	}
	for (i = 0; i < set->count && ret == 0; i++)
		ret = ploop_commit_for(set->devs[i], time_left(end));
	if (ret)
		resume_all(set, quiesced);
	return ret;
}

/* Steps 3 to 5 but for the thaw. */
static int snapshot_switch(struct ploop_snapshot_set *set, struct ploop_frozen *frozen,
			   unsigned long end)
{
	int ret = quiesce_all(set, end);
	u32 i;

	if (ret)
		return ret;
	/*
	 * Not to be waited for: who has it is the deadline, thawing, and that may
	 * write, which waits for this to resume.
	 */
	if (frozen && !mutex_trylock(&frozen->lock))
		ret = -ETIMEDOUT;
	if (ret == 0 && frozen && frozen->thawed) {
		mutex_unlock(&frozen->lock);
		ret = -ETIMEDOUT;
	}
	if (ret == 0) {
		for (i = 0; i < set->count; i++) {
			switch_top(set->devs[i], set->deltas[i]);
			if (set->bitmap)
				ploop_bitmap_clear(set->devs[i], set->bitmap);
		}
		if (frozen)
			mutex_unlock(&frozen->lock);
	}
	resume_all(set, set->count);
	return ret;
}

static int freeze_all(struct ploop_snapshot_set *set, struct ploop_frozen *frozen)
{
	int ret = 0;
	u32 i;

	for (i = 0; i < set->count && ret == 0; i++)
		ret = ploop_freeze(frozen, set->devs[i], set->deadline_ms);
	set->frozen = frozen->count;
	set->missed = frozen->missed;
	for (i = 0; i < set->count; i++)
		set->devs[i]->frozen_ios = ploop_stat(set->devs[i], ios);
	return ret;
}

static void count_frozen(struct ploop_snapshot_set *set, ktime_t start)
{
	u32 i;

	for (i = 0; i < set->count; i++) {
		struct ploop_device *dev = set->devs[i];

		dev->frozen_ios = ploop_stat(dev, ios) - dev->frozen_ios;
		dev->frozen_us = ktime_us_delta(ktime_get(), start);
	}
}

/**
 * ploop_snapshot_run() - steps 2 to 6
 * @set: prepared devices; given back, as they were or switched
 *
 * Context: Process context; sleeps.  Holds no lock.
 * Return: 0, then all were switched; or an errno, then none.
 */
int ploop_snapshot_run(struct ploop_snapshot_set *set)
{
	struct ploop_frozen *frozen = NULL;
	unsigned long end;
	ktime_t start;
	int ret = nested(set) ? -EINVAL : 0;
	u32 i;

	for (i = 0; i < set->count && set->freeze && ret == 0; i++)
		ret = ploop_freeze_prepare(set->devs[i]);
	start = ktime_get();
	end = jiffies + (set->freeze ? msecs_to_jiffies(set->deadline_ms) : PLOOP_PATIENCE);
	if (set->freeze && ret == 0) {
		frozen = ploop_frozen_new();
		ret = frozen ? freeze_all(set, frozen) : -ENOMEM;
	}
	if (ret == 0)
		ret = snapshot_switch(set, frozen, end);
	if (set->freeze && ret == 0)
		count_frozen(set, start);
	if (frozen)
		ploop_thaw(frozen);
	if (ret) {
		ploop_snapshot_unprepare(set);
		return ret;
	}
	for (i = 0; i < set->count; i++) {
		struct ploop_device *dev = set->devs[i];

		/* All is well without it: it is tried again when the stack changes next. */
		ploop_delta_retire(dev->levels[dev->nr_levels - 2]);
		snapshot_over(dev);
		ploop_event(dev, PLOOP_EV_SNAPSHOT, dev->nr_levels - 1);
	}
	return 0;
}

/**
 * ploop_snapshot_one() - the old ioctl
 * @dev: the device
 * @args: its new top
 * @freeze: freeze what is mounted
 *
 * Context: Process context; sleeps.  Holds ctl_lock, gives it up meanwhile.
 * Return: 0 or an errno.
 */
int ploop_snapshot_one(struct ploop_device *dev, struct ploop_delta_args *args, bool freeze)
{
	struct ploop_delta *delta;
	struct ploop_snapshot_set set = {
		.count = 1, .devs = &dev, .deltas = &delta, .freeze = freeze,
		.deadline_ms = PLOOP_DEADLINE_MS_MAX,
	};
	int ret = ploop_snapshot_prepare(dev, args, &delta);

	if (ret)
		return ret;
	mutex_unlock(&dev->ctl_lock);
	ret = ploop_snapshot_run(&set);
	mutex_lock(&dev->ctl_lock);
	return ret;
}
