// SPDX-License-Identifier: GPL-2.0
/*
 * Snapshots: several devices go over to new tops in one instant.
 *
 *	1. open the new tops, each marked in use on disk; what was acknowledged is
 *	   committed, so that little is left for step 3
 *	2. freeze the file systems (no lock held; the deadline runs)
 *	3. quiesce all devices and commit once more; as file systems end a freeze with
 *	   a flush, this is one sync of the host's file
 *	4. if the deadline has not passed: switch all, in memory
 *	5. resume, thaw
 *	6. bring the old tops into the form of closed images, and let others read them
 *
 * While a device is between 1 and 6 its ioctls fail with EBUSY; that, and not
 * ctl_lock, keeps others away, since a lock must not be held in 2 and 5.
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
	mutex_lock(&dev->commit_lock);
	ret = ploop_commit(dev);
	mutex_unlock(&dev->commit_lock);
	if (ret)
		goto close;
	(*delta)->level = dev->nr_levels;
	ret = ploop_pdelta_add(*delta);
	if (ret)
		goto close;
	dev->snapshotting = true;
	return 0;
close:
	ploop_delta_close(*delta, true);
	return ret;
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
		mutex_lock(&dev->ctl_lock);
		dev->snapshotting = false;
		mutex_unlock(&dev->ctl_lock);
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

static int quiesce_all(struct ploop_snapshot_set *set)
{
	int ret = 0;
	u32 i;

	for (i = 0; i < set->count; i++)
		ploop_quiesce(set->devs[i]);
	for (i = 0; i < set->count && ret == 0; i++) {
		mutex_lock(&set->devs[i]->commit_lock);
		ret = ploop_commit(set->devs[i]);
		mutex_unlock(&set->devs[i]->commit_lock);
	}
	return ret;
}

/* Steps 3 to 5 but for the thaw. */
static int snapshot_switch(struct ploop_snapshot_set *set, struct ploop_frozen *frozen)
{
	int ret = quiesce_all(set);
	u32 i;

	/*
	 * Not to be waited for: who has it is the deadline, thawing, and that may
	 * write, which waits for this to resume.
	 */
	if (ret == 0 && frozen && !mutex_trylock(&frozen->lock))
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
	for (i = 0; i < set->count; i++)
		ploop_resume(set->devs[i]);
	return ret;
}

static int freeze_all(struct ploop_snapshot_set *set, struct ploop_frozen *frozen)
{
	int ret = 0;
	u32 i;

	for (i = 0; i < set->count && ret == 0; i++)
		ret = ploop_freeze(frozen, set->devs[i], set->deadline_ms);
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
	ktime_t start = ktime_get();
	int ret = 0;
	u32 i;

	if (set->freeze) {
		frozen = ploop_frozen_new();
		ret = frozen ? freeze_all(set, frozen) : -ENOMEM;
	}
	if (ret == 0)
		ret = snapshot_switch(set, frozen);
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
		mutex_lock(&dev->ctl_lock);
		dev->snapshotting = false;
		mutex_unlock(&dev->ctl_lock);
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
