// SPDX-License-Identifier: GPL-2.0
/*
 * Freezing the file systems on devices, and holding back all writes, for a bounded time.
 *
 * A delayed work of the kernel owns the thaw: it runs at the deadline, whatever
 * became of the caller.  Whoever thaws first, caller or work, does it for good.
 * No lock of a device is held, since thawing may close one.
 *
 * A freeze writes what is dirty, and nothing ends a freeze that waits for space on the host.
 * So there are three precautions.  What is dirty is written before, while the
 * file systems are in use (ploop_freeze_prepare()): where space runs out, nothing is frozen.
 * While a freeze writes what became dirty since, the limit of the top's file doesn't count.
 * And a thread of the kernel freezes, not the caller, who gives up at the deadline or
 * when the host has no space; then the thread thaws as soon as the freeze is over.
 */
#include <linux/module.h>
#include "core.h"

/* A frozen block device; or, without one, a device whose writes are held. */
struct frozen_bdev {
	struct list_head list;
	struct ploop_device *dev;
	struct block_device *bdev;
};

/* What a thread does for the caller, to what is mounted from a device. */
struct freezer {
	struct work_struct work;
	refcount_t ref;		/* the caller's and the thread's */
	struct ploop_device *dev;
	struct ploop_frozen *frozen;	/* NULL: only write what is dirty */
	bool over;
	int ret;
};

static void frozen_put(struct ploop_frozen *frozen)
{
	if (!refcount_dec_and_test(&frozen->ref))
		return;
	kfree(frozen);
	module_put(THIS_MODULE);
}

static void freezer_put(struct freezer *freezer)
{
	if (!refcount_dec_and_test(&freezer->ref))
		return;
	if (freezer->frozen)
		frozen_put(freezer->frozen);
	kfree(freezer);
	/* The module's exit waits for the workqueue, too. */
	module_put(THIS_MODULE);
}

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
	refcount_set(&frozen->ref, 1);
	mutex_init(&frozen->lock);
	INIT_LIST_HEAD(&frozen->bdevs);
	INIT_DELAYED_WORK(&frozen->deadline, deadline_work);
	__module_get(THIS_MODULE);
	return frozen;
}

/*
 * The next partition at or after *number, or the disk itself (0), that somebody has claimed, by
 * mounting it for instance.  A claim of a partition is counted by the disk, too; one of the disk
 * itself twice.
 */
static struct block_device *claimed_part(struct ploop_device *dev, unsigned long *number)
{
	struct block_device *bdev, *part;
	bool got = false;

	rcu_read_lock();
	xa_for_each_start(&dev->disk->part_tbl, *number, bdev, *number) {
		int claims = READ_ONCE(bdev->bd_holders);
		unsigned long other;

		if (*number == 0)
			xa_for_each_start(&dev->disk->part_tbl, other, part, 1)
				claims -= READ_ONCE(part->bd_holders);
		if (claims > 0 && kobject_get_unless_zero(&bdev->bd_device.kobj)) {
			got = true;
			break;
		}
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
	if (one->bdev)
		frozen->count++;
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

	if (one) {
		atomic_inc(&dev->unlimited);
		/* One that reached the limit a moment ago. */
		ploop_waiting_open(dev, &dev->nospace);
		ret = ploop_bdev_freeze(bdev);
		atomic_dec(&dev->unlimited);
	}
	if (ret) {
		kfree(one);
		put_device(&bdev->bd_device);
		return ret;
	}
	one->dev = dev;
	one->bdev = bdev;
	return frozen_add(frozen, one);
}

/* Its user is another driver, or a file system that does not let itself be frozen so. */
static void freeze_missed(struct ploop_frozen *frozen, struct block_device *bdev)
{
	put_device(&bdev->bd_device);
	mutex_lock(&frozen->lock);
	frozen->missed++;
	mutex_unlock(&frozen->lock);
}

static void freezer_work(struct work_struct *work)
{
	struct freezer *freezer = container_of(work, struct freezer, work);
	struct ploop_frozen *frozen = freezer->frozen;
	struct ploop_device *dev = freezer->dev;
	struct block_device *bdev;
	unsigned long number;
	int ret = 0;

	for (number = 0; ret == 0 && (bdev = claimed_part(dev, &number)); number++) {
		if (!frozen) {
			ploop_bdev_sync(bdev);
			put_device(&bdev->bd_device);
		} else if (ploop_bdev_mounted(bdev)) {
			ret = freeze_one(frozen, dev, bdev);
		} else {
			freeze_missed(frozen, bdev);
		}
	}
	freezer->ret = ret;
	/* Pairs with that in freezer_run(). */
	smp_wmb();
	WRITE_ONCE(freezer->over, true);
	wake_up_all(&dev->event_wait);
	freezer_put(freezer);
}

/* Let a thread do it, until @end.  Return: 0, -ENOSPC, -ETIMEDOUT, -EINTR, or an errno. */
static int freezer_run(struct ploop_frozen *frozen, struct ploop_device *dev, unsigned long end)
{
	long left = max_t(long, end - jiffies, 1);
	struct freezer *freezer;
	int ret;

	if (ploop_space_is_out(dev))
		return -ENOSPC;
	freezer = kzalloc(sizeof(*freezer), GFP_KERNEL);
	if (!freezer)
		return -ENOMEM;
	__module_get(THIS_MODULE);
	refcount_set(&freezer->ref, 2);
	INIT_WORK(&freezer->work, freezer_work);
	freezer->dev = dev;
	freezer->frozen = frozen;
	if (frozen)
		refcount_inc(&frozen->ref);
	queue_work(ploop_host_wq, &freezer->work);
	left = wait_event_killable_timeout(dev->event_wait, READ_ONCE(freezer->over) ||
					   ploop_space_is_out(dev), left);
	if (READ_ONCE(freezer->over)) {
		/* Pairs with that in freezer_work(). */
		smp_rmb();
		ret = freezer->ret;
	} else if (left > 0) {
		ret = -ENOSPC;
	} else {
		ret = left ? -EINTR : -ETIMEDOUT;
	}
	freezer_put(freezer);
	return ret;
}

/**
 * ploop_freeze_prepare() - write what is dirty in what is mounted from a device
 * @dev: the device
 *
 * Context: Process context; sleeps.  Holds no lock.
 * Return: 0; -ENOSPC: writes wait for space; -ETIMEDOUT, -EINTR, -ENOMEM.
 */
int ploop_freeze_prepare(struct ploop_device *dev)
{
	return freezer_run(NULL, dev, jiffies + PLOOP_PATIENCE);
}

/**
 * ploop_freeze() - freeze what is mounted from a device
 * @frozen: collects, and counts what could not be frozen
 * @dev: the device
 * @deadline_ms: how long, from the first call on
 *
 * Context: Process context; sleeps.  Holds no lock.
 * Return: 0, -ENOSPC, -ETIMEDOUT, -EINTR or another errno; what was frozen before stays so
 * until ploop_thaw().
 */
int ploop_freeze(struct ploop_frozen *frozen, struct ploop_device *dev, u32 deadline_ms)
{
	if (!frozen->end) {
		frozen->end = (jiffies + msecs_to_jiffies(deadline_ms)) | 1;
		queue_delayed_work(ploop_wq, &frozen->deadline, msecs_to_jiffies(deadline_ms));
	}
	return freezer_run(frozen, dev, frozen->end);
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
	if (!ploop_drain_for(dev, max_t(long, frozen->end - jiffies, 1)))
		return -ETIMEDOUT;
	return ploop_commit_for(dev, max_t(long, frozen->end - jiffies, 1));
}

/**
 * ploop_thaw() - thaw all, unless the deadline did, and give it up
 * @frozen: of ploop_frozen_new()
 *
 * A freeze still under way, which the caller did not wait for, thaws when it is over.
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
	frozen_put(frozen);
	return expired;
}
