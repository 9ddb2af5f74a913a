// SPDX-License-Identifier: GPL-2.0
/*
 * Freezing the file systems on devices, and holding back all writes, for a bounded time.
 *
 * A delayed work of the kernel owns the thaw: it runs at the deadline, whatever
 * became of the caller.  Whoever thaws first, caller or work, does it for good.
 * No lock of a device is held, since thawing may close one.
 */
#include <linux/module.h>
#include "core.h"

/* A frozen block device; or, without one, a device whose writes are held. */
struct frozen_bdev {
	struct list_head list;
	struct ploop_device *dev;
	struct block_device *bdev;
};

static void thaw_one(struct frozen_bdev *one)
{
	int ret;

	if (!one->bdev) {
		ploop_waiting_open(one->dev, &one->dev->held);
		return;
	}
	ret = ploop_bdev_thaw(one->bdev);
	if (ret)
		ploop_err(one->dev, "thaw failed: %d\n", ret);
	put_device(&one->bdev->bd_device);
}

/* Give all back, the last first: to thaw a file system may be to write to its device. */
static void thaw_all(struct ploop_frozen *frozen)
{
	struct frozen_bdev *one, *next;

	lockdep_assert_held(&frozen->lock);
	list_for_each_entry_safe_reverse(one, next, &frozen->bdevs, list) {
		thaw_one(one);
		atomic_dec(&one->dev->frozen);
		list_del(&one->list);
		kfree(one);
	}
	frozen->thawed = true;
}

static void deadline_work(struct work_struct *work)
{
	struct ploop_frozen *frozen = container_of(work, struct ploop_frozen, deadline.work);
	struct frozen_bdev *one;

	mutex_lock(&frozen->lock);
	if (!frozen->thawed) {
		frozen->expired = true;
		list_for_each_entry(one, &frozen->bdevs, list)
			ploop_event(one->dev, PLOOP_EV_THAWED, 0);
		thaw_all(frozen);
	}
	mutex_unlock(&frozen->lock);
}

/**
 * ploop_frozen_new() - begin, with nothing frozen yet
 *
 * Return: to be given to ploop_thaw(), or NULL.
 */
struct ploop_frozen *ploop_frozen_new(void)
{
	struct ploop_frozen *frozen = kzalloc(sizeof(*frozen), GFP_KERNEL);

	if (!frozen)
		return NULL;
	mutex_init(&frozen->lock);
	INIT_LIST_HEAD(&frozen->bdevs);
	INIT_DELAYED_WORK(&frozen->deadline, deadline_work);
	__module_get(THIS_MODULE);
	return frozen;
}

/* The next mounted partition at or after *number, or the disk itself (0). */
static struct block_device *mounted_part(struct ploop_device *dev, unsigned long *number)
{
	struct block_device *bdev;
	bool got = false;

	rcu_read_lock();
	xa_for_each_start(&dev->disk->part_tbl, *number, bdev, *number)
		if (ploop_bdev_mounted(bdev) && kobject_get_unless_zero(&bdev->bd_device.kobj)) {
			got = true;
			break;
		}
	rcu_read_unlock();
	return got ? bdev : NULL;
}

/* From here on @frozen gives it back. */
static int frozen_add(struct ploop_frozen *frozen, struct frozen_bdev *one)
{
	int ret = 0;

	atomic_inc(&one->dev->frozen);
	mutex_lock(&frozen->lock);
	list_add_tail(&one->list, &frozen->bdevs);
	if (frozen->thawed) {
		/* The deadline passed while this one was being frozen. */
		thaw_all(frozen);
		ret = -ETIMEDOUT;
	}
	mutex_unlock(&frozen->lock);
	return ret;
}

static int freeze_one(struct ploop_frozen *frozen, struct ploop_device *dev,
		      struct block_device *bdev)
{
	struct frozen_bdev *one = kzalloc(sizeof(*one), GFP_KERNEL);
	int ret = -ENOMEM;

	if (one)
		ret = ploop_bdev_freeze(bdev);
	if (ret) {
		kfree(one);
		put_device(&bdev->bd_device);
		return ret;
	}
	one->dev = dev;
	one->bdev = bdev;
	return frozen_add(frozen, one);
}

/**
 * ploop_freeze() - freeze what is mounted from a device
 * @frozen: collects
 * @dev: the device
 * @deadline_ms: how long, from the first call on
 *
 * A file system cannot be frozen while its writes wait for space: the freeze would
 * wait with them, and no deadline ends that.
 *
 * Context: Process context; sleeps.  Holds no lock.
 * Return: 0, -ENOSPC, or an errno; what was frozen before stays so until ploop_thaw().
 */
int ploop_freeze(struct ploop_frozen *frozen, struct ploop_device *dev, u32 deadline_ms)
{
	struct block_device *bdev;
	unsigned long number = 0;
	int ret = 0;

	if (READ_ONCE(dev->nospace_seen) && !READ_ONCE(dev->aborted))
		return -ENOSPC;
	if (!frozen->started) {
		frozen->started = true;
		schedule_delayed_work(&frozen->deadline, msecs_to_jiffies(deadline_ms));
	}
	while (ret == 0 && (bdev = mounted_part(dev, &number))) {
		ret = freeze_one(frozen, dev, bdev);
		number++;
	}
	return ret;
}

/**
 * ploop_hold() - hold back all writes to a device, whoever makes them
 * @frozen: collects; the device is frozen
 * @dev: the device
 *
 * What was acknowledged before is durable when this returns.
 *
 * Context: Process context; sleeps.  Holds no lock.
 * Return: 0, -EBUSY (another holds them), or an errno; they are held until ploop_thaw()
 * also if what was written could not be made durable.
 */
int ploop_hold(struct ploop_frozen *frozen, struct ploop_device *dev)
{
	struct frozen_bdev *one = kzalloc(sizeof(*one), GFP_KERNEL);
	int ret;

	if (!one)
		return -ENOMEM;
	if (!ploop_waiting_close(&dev->held)) {
		kfree(one);
		return -EBUSY;
	}
	one->dev = dev;
	ret = frozen_add(frozen, one);
	if (ret)
		return ret;
	/* It is seen by all that count themselves in after the turn. */
	smp_mb();
	ploop_drain(dev);
	mutex_lock(&dev->commit_lock);
	ret = ploop_commit(dev);
	mutex_unlock(&dev->commit_lock);
	return ret;
}

/**
 * ploop_thaw() - thaw all, unless the deadline did, and free
 * @frozen: of ploop_frozen_new()
 *
 * Context: Process context; sleeps.  Holds no lock.
 * Return: true if the deadline was first.
 */
bool ploop_thaw(struct ploop_frozen *frozen)
{
	bool expired;

	mutex_lock(&frozen->lock);
	expired = frozen->expired;
	if (!frozen->thawed)
		thaw_all(frozen);
	mutex_unlock(&frozen->lock);
	cancel_delayed_work_sync(&frozen->deadline);
	kfree(frozen);
	module_put(THIS_MODULE);
	return expired;
}
