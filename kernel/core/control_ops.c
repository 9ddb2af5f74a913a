// SPDX-License-Identifier: GPL-2.0
/* /dev/ploop-control: calls about one device.  See ploop_control.h. */
#include <linux/uaccess.h>
#include "control.h"

/**
 * ploop_ctl_lock() - find and lock a device
 * @index: which
 *
 * Context: Process context; sleeps.
 * Return: to be given to ploop_ctl_unlock(), or an ERR_PTR: -ENODEV, -EBUSY (it is
 * being snapshotted), -ERESTARTSYS.
 */
struct ploop_device *ploop_ctl_lock(u32 index)
{
	struct ploop_device *dev = ploop_device_find(index);
	int ret;

	if (!dev)
		return ERR_PTR(-ENODEV);
	ret = mutex_lock_interruptible(&dev->ctl_lock);
	if (ret)
		return ERR_PTR(ret);
	if (dev->snapshotting) {
		mutex_unlock(&dev->ctl_lock);
		return ERR_PTR(-EBUSY);
	}
	return dev;
}

/**
 * ploop_ctl_lock_soon() - lock a device; a snapshot that is about to fail is waited for
 * @dev: the device
 *
 * Context: Process context; sleeps.
 * Return: 0, -EBUSY (still being snapshotted), -ERESTARTSYS.
 */
int ploop_ctl_lock_soon(struct ploop_device *dev)
{
	int ret;

	wait_event_killable_timeout(dev->event_wait, !READ_ONCE(dev->snapshotting),
				    PLOOP_PATIENCE);
	ret = mutex_lock_interruptible(&dev->ctl_lock);
	if (ret)
		return ret;
	if (!dev->snapshotting)
		return 0;
	mutex_unlock(&dev->ctl_lock);
	return -EBUSY;
}

/**
 * ploop_ctl_unlock() - undo ploop_ctl_lock()
 * @dev: the device
 */
void ploop_ctl_unlock(struct ploop_device *dev)
{
	mutex_unlock(&dev->ctl_lock);
}

/**
 * ploop_ctl_zero() - are all bytes zero?
 * @data: bytes
 * @size: how many
 *
 * Return: true if so.
 */
bool ploop_ctl_zero(const void *data, size_t size)
{
	return !memchr_inv(data, 0, size);
}

/**
 * ploop_ctl_name_ok() - does a zero byte end a name?
 * @name: PLOOP_NAME_BYTES of memory
 *
 * Return: true if so.
 */
bool ploop_ctl_name_ok(const char *name)
{
	return strnlen(name, PLOOP_NAME_BYTES) < PLOOP_NAME_BYTES;
}

/* The calls: see the structures of their arguments. */

int ploop_ctl_version(struct ploop_control *control, void *data)
{
	struct ploop_version *arg = data;

	if (arg->features || !ploop_ctl_zero(arg->reserved, sizeof(arg->reserved)))
		return -EINVAL;
	arg->version = PLOOP_CONTROL_VERSION;
	return 0;
}

int ploop_ctl_limits(struct ploop_control *control, void *data)
{
	struct ploop_limits *arg = data;
	struct ploop_device *dev;

	if (!ploop_ctl_zero(arg->reserved, sizeof(arg->reserved)))
		return -EINVAL;
	dev = ploop_device_find(arg->index);
	if (!dev)
		return -ENODEV;
	/* Without a lock: whoever has it may wait for what this gives. */
	WRITE_ONCE(dev->max_delta_bytes, arg->max_delta_bytes);
	WRITE_ONCE(dev->reserve_bytes, arg->reserve_bytes);
	ploop_waiting_open(dev, &dev->nospace);
	return 0;
}

static struct ploop_device *lock_for_bitmap(const struct ploop_bitmap *arg, bool granule)
{
	if (arg->flags || !ploop_ctl_name_ok(arg->name) || (!granule && arg->granule_log) ||
	    !ploop_ctl_zero(arg->reserved, sizeof(arg->reserved)))
		return ERR_PTR(-EINVAL);
	return ploop_ctl_lock(arg->index);
}

int ploop_ctl_bitmap_create(struct ploop_control *control, void *data)
{
	struct ploop_bitmap *arg = data;
	struct ploop_device *dev = lock_for_bitmap(arg, true);
	int ret = -EINVAL;

	if (IS_ERR(dev))
		return PTR_ERR(dev);
	if (dev->running)
		ret = ploop_bitmap_create(dev, arg->name, arg->granule_log);
	ploop_ctl_unlock(dev);
	return ret;
}

int ploop_ctl_bitmap_delete(struct ploop_control *control, void *data)
{
	struct ploop_bitmap *arg = data;
	struct ploop_device *dev = lock_for_bitmap(arg, false);
	int ret;

	if (IS_ERR(dev))
		return PTR_ERR(dev);
	ret = ploop_bitmap_delete(dev, arg->name);
	ploop_ctl_unlock(dev);
	return ret;
}

int ploop_ctl_bitmap_clear(struct ploop_control *control, void *data)
{
	struct ploop_bitmap *arg = data;
	struct ploop_device *dev = lock_for_bitmap(arg, false);
	int ret;

	if (IS_ERR(dev))
		return PTR_ERR(dev);
	ret = ploop_bitmap_clear(dev, arg->name);
	ploop_ctl_unlock(dev);
	return ret;
}

/* A part of them, so that the lock is not held while the caller's memory is touched. */
static int bitmap_read_some(struct ploop_bitmap_read *part, struct ploop_range *ranges, u32 room)
{
	struct ploop_device *dev = ploop_ctl_lock(part->index);
	int ret;

	if (IS_ERR(dev))
		return PTR_ERR(dev);
	ret = ploop_bitmap_read(dev, part, ranges, room);
	ploop_ctl_unlock(dev);
	return ret;
}

#define RANGES_PER_PAGE	((u32)(PAGE_SIZE / sizeof(struct ploop_range)))

/* Whatever signal there is: else writes would be missed. */
static void unread(const struct ploop_bitmap_read *arg, u64 end, const struct ploop_range *ranges,
		   u32 count)
{
	struct ploop_device *dev = ploop_device_find(arg->index);
	u32 i;

	if (!(arg->flags & PLOOP_BITMAP_CLEAR))
		return;
	mutex_lock(&dev->ctl_lock);
	ploop_bitmap_unread(dev, arg->start, end);
	for (i = 0; i < count; i++)
		ploop_bitmap_unread(dev, ranges[i].start, ranges[i].start + ranges[i].bytes);
	mutex_unlock(&dev->ctl_lock);
}

static int bitmap_read_all(struct ploop_bitmap_read *arg, struct ploop_range *ranges)
{
	struct ploop_range __user *out = u64_to_user_ptr(arg->ranges);
	struct ploop_bitmap_read part = *arg;
	u32 room = arg->nr_ranges, wanted;
	int count;

	arg->nr_ranges = 0;
	do {
		wanted = min(room - arg->nr_ranges, RANGES_PER_PAGE);
		count = bitmap_read_some(&part, ranges, wanted);
		/* What was returned so far is. */
		if (count < 0)
			return arg->nr_ranges > 0 ? 0 : count;
		if (copy_to_user(out + arg->nr_ranges, ranges, count * sizeof(*ranges))) {
			unread(arg, part.start, ranges, count);
			return -EFAULT;
		}
		arg->nr_ranges += count;
		arg->next = part.next;
		part.bytes -= part.next - part.start;
		part.start = part.next;
	} while (count == wanted && arg->nr_ranges < room && part.bytes > 0 &&
		 !fatal_signal_pending(current));
	return 0;
}

int ploop_ctl_bitmap_read(struct ploop_control *control, void *data)
{
	struct ploop_bitmap_read *arg = data;
	struct ploop_range *ranges;
	int ret;

	if ((arg->flags & ~PLOOP_BITMAP_CLEAR) || !ploop_ctl_name_ok(arg->name) ||
	    !ploop_ctl_zero(arg->reserved, sizeof(arg->reserved)))
		return -EINVAL;
	if (!ploop_device_find(arg->index))
		return -ENODEV;
	if (arg->nr_ranges == 0)
		return -EINVAL;
	arg->next = arg->start;
	ranges = kmalloc_array(RANGES_PER_PAGE, sizeof(*ranges), GFP_KERNEL);
	if (!ranges)
		return -ENOMEM;
	ret = bitmap_read_all(arg, ranges);
	kfree(ranges);
	return ret;
}

/**
 * ploop_ctl_bitmap_unread() - the caller wasn't told what was cleared: mark it again
 * @arg: of the call, which began at start and came to next
 */
void ploop_ctl_bitmap_unread(const struct ploop_bitmap_read *arg)
{
	unread(arg, arg->next, NULL, 0);
}

int ploop_ctl_bitmap_list(struct ploop_control *control, void *data)
{
	struct ploop_bitmap_list *arg = data;
	struct ploop_bitmap_info *infos;
	struct ploop_device *dev;
	u32 room = arg->nr;
	int ret = 0;

	if (arg->flags || !ploop_ctl_zero(arg->reserved, sizeof(arg->reserved)))
		return -EINVAL;
	infos = kcalloc(PLOOP_BITMAPS_MAX, sizeof(*infos), GFP_KERNEL);
	if (!infos)
		return -ENOMEM;
	dev = ploop_ctl_lock(arg->index);
	if (IS_ERR(dev)) {
		ret = PTR_ERR(dev);
		goto out;
	}
	arg->nr = ploop_bitmap_list(dev, infos);
	ploop_ctl_unlock(dev);
	if (copy_to_user(u64_to_user_ptr(arg->infos), infos, min(arg->nr, room) * sizeof(*infos)))
		ret = -EFAULT;
out:
	kfree(infos);
	return ret;
}

static int job_start(struct ploop_job *arg)
{
	struct ploop_device *dev;
	int ret;

	dev = ploop_ctl_lock(arg->index);
	if (IS_ERR(dev))
		return PTR_ERR(dev);
	ret = ploop_job_start(dev, arg->kind, arg->arg, arg->rate);
	ploop_ctl_unlock(dev);
	return ret;
}

int ploop_ctl_job(struct ploop_control *control, void *data)
{
	struct ploop_job *arg = data;
	struct ploop_device *dev = ploop_device_find(arg->index);
	int ret = 0;

	if (!ploop_ctl_zero(arg->reserved, sizeof(arg->reserved)) || arg->state || arg->error ||
	    arg->done || arg->total)
		return -EINVAL;
	if (arg->op != PLOOP_JOB_OP_START && (arg->kind || arg->arg || arg->rate))
		return -EINVAL;
	if (!dev)
		return -ENODEV;
	switch (arg->op) {
	case PLOOP_JOB_OP_QUERY:
		break;
	case PLOOP_JOB_OP_START:
		ret = job_start(arg);
		break;
	case PLOOP_JOB_OP_WAIT:
		/* How it ended is in the structure. */
		if (ploop_job_wait(dev) == -ERESTARTSYS)
			ret = -ERESTARTSYS;
		break;
	default:
		dev = ploop_ctl_lock(arg->index);
		if (IS_ERR(dev))
			return PTR_ERR(dev);
		ret = ploop_job_steer(dev, arg->op);
		ploop_ctl_unlock(dev);
		if (ret == 0 && arg->op == PLOOP_JOB_OP_PAUSE)
			ret = ploop_job_wait_paused(dev);
		break;
	}
	if (ret == 0)
		ploop_job_query(dev, arg);
	return ret;
}

int ploop_ctl_watch(struct ploop_control *control, void *data)
{
	struct ploop_watch *arg = data;

	if (!ploop_ctl_zero(arg->reserved, sizeof(arg->reserved)))
		return -EINVAL;
	if (arg->index != PLOOP_INDEX_ANY && !ploop_device_find(arg->index))
		return -ENODEV;
	ploop_watcher_set(control->watcher, arg);
	return 0;
}

/* What the stack says.  Not under ctl_lock: whoever has it may wait for something. */
static void status_stack(struct ploop_device *dev, struct ploop_status *out)
{
	struct ploop_delta *top;

	spin_lock(&dev->stack_lock);
	top = ploop_top(dev);
	out->nr_levels = dev->nr_levels;
	out->cluster_log = dev->cluster_shift - SECTOR_SHIFT;
	out->format_version = dev->version;
	out->device_bytes = dev->sectors << SECTOR_SHIFT;
	if (top) {
		out->file_bytes = (top->rdonly ? READ_ONCE(top->file_clusters) :
				   READ_ONCE(top->next)) << dev->cluster_shift;
		out->free_bytes = (u64)READ_ONCE(top->nr_free) << dev->cluster_shift;
	}
	strscpy(out->cookie, dev->cookie, sizeof(out->cookie));
	spin_unlock(&dev->stack_lock);
}

int ploop_ctl_status(struct ploop_control *control, void *data)
{
	struct ploop_status *arg = data;
	struct ploop_device *dev = ploop_device_find(arg->index);
	struct ploop_status out = { .size = arg->size, .index = arg->index };

	if (!ploop_ctl_zero(arg->reserved, sizeof(arg->reserved)))
		return -EINVAL;
	if (!dev)
		return -ENODEV;
	status_stack(dev, &out);
	out.state = (READ_ONCE(dev->running) ? PLOOP_STATE_RUNNING : 0) |
		(READ_ONCE(dev->rdonly) ? PLOOP_STATE_RDONLY : 0) |
		(READ_ONCE(dev->aborted) ? PLOOP_STATE_ABORTED : 0) |
		(READ_ONCE(dev->nospace_seen) ? PLOOP_STATE_NOSPACE : 0) |
		(atomic_read(&dev->frozen) ? PLOOP_STATE_FROZEN : 0);
	out.maintenance = READ_ONCE(dev->maintenance);
	out.open_count = READ_ONCE(dev->open_count);
	out.reads = ploop_stat(dev, reads);
	out.writes = ploop_stat(dev, writes);
	out.flushes = ploop_stat(dev, flushes);
	out.discards = ploop_stat(dev, discards);
	out.read_bytes = ploop_stat(dev, read_sectors) << SECTOR_SHIFT;
	out.written_bytes = ploop_stat(dev, written_sectors) << SECTOR_SHIFT;
	out.allocations = ploop_stat(dev, allocations);
	out.copies = ploop_stat(dev, copies);
	out.slow_requests = ploop_stat(dev, slow);
	out.parked = READ_ONCE(dev->nospace.count) + READ_ONCE(dev->held.count);
	out.host_syncs = ploop_stat(dev, host_syncs);
	out.map_misses = ploop_stat(dev, map_reads);
	out.frozen_ios = READ_ONCE(dev->frozen_ios);
	out.frozen_us = READ_ONCE(dev->frozen_us);
	out.max_delta_bytes = READ_ONCE(dev->max_delta_bytes);
	out.reserve_bytes = READ_ONCE(dev->reserve_bytes);
	*arg = out;
	return 0;
}
