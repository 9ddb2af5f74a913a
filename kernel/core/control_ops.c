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
	dev = ploop_ctl_lock(arg->index);
	if (IS_ERR(dev))
		return PTR_ERR(dev);
	WRITE_ONCE(dev->max_delta_bytes, arg->max_delta_bytes);
	WRITE_ONCE(dev->reserve_bytes, arg->reserve_bytes);
	ploop_waiting_open(dev, &dev->nospace);
	ploop_ctl_unlock(dev);
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

int ploop_ctl_bitmap_read(struct ploop_control *control, void *data)
{
	struct ploop_bitmap_read *arg = data;
	struct ploop_device *dev;
	int ret;

	if ((arg->flags & ~PLOOP_BITMAP_CLEAR) || !ploop_ctl_name_ok(arg->name) ||
	    !ploop_ctl_zero(arg->reserved, sizeof(arg->reserved)))
		return -EINVAL;
	arg->next = arg->start;
	dev = ploop_ctl_lock(arg->index);
	if (IS_ERR(dev))
		return PTR_ERR(dev);
	ret = ploop_bitmap_read(dev, arg);
	ploop_ctl_unlock(dev);
	return ret;
}

/**
 * ploop_ctl_bitmap_unread() - the caller didn't get what was cleared: mark it again
 * @arg: of the call that failed
 *
 * In all bitmaps of the device, which is more than needed, and no harm.
 */
void ploop_ctl_bitmap_unread(const struct ploop_bitmap_read *arg)
{
	struct ploop_device *dev = ploop_device_find(arg->index);
	u64 sector = arg->start >> SECTOR_SHIFT;
	u64 end = DIV_ROUND_UP_ULL(arg->next, SECTOR_SIZE);

	if (!dev || !(arg->flags & PLOOP_BITMAP_CLEAR))
		return;
	while (sector < end) {
		u32 part = min_t(u64, end - sector, 1u << 20);

		ploop_bitmap_mark(dev, sector, part);
		sector += part;
	}
}

int ploop_ctl_bitmap_list(struct ploop_control *control, void *data)
{
	struct ploop_bitmap_list *arg = data;
	struct ploop_device *dev;
	int ret;

	if (arg->flags || !ploop_ctl_zero(arg->reserved, sizeof(arg->reserved)))
		return -EINVAL;
	dev = ploop_ctl_lock(arg->index);
	if (IS_ERR(dev))
		return PTR_ERR(dev);
	ret = ploop_bitmap_list(dev, arg);
	ploop_ctl_unlock(dev);
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

int ploop_ctl_status(struct ploop_control *control, void *data)
{
	struct ploop_status *arg = data;
	struct ploop_device *dev;
	struct ploop_status out = { .size = arg->size, .index = arg->index };
	struct ploop_delta *top;

	if (!ploop_ctl_zero(arg->reserved, sizeof(arg->reserved)))
		return -EINVAL;
	dev = ploop_ctl_lock(arg->index);
	if (IS_ERR(dev))
		return PTR_ERR(dev);
	top = ploop_top(dev);
	out.state = (dev->running ? PLOOP_STATE_RUNNING : 0) |
		(dev->rdonly ? PLOOP_STATE_RDONLY : 0) |
		(dev->aborted ? PLOOP_STATE_ABORTED : 0) |
		(dev->nospace_seen ? PLOOP_STATE_NOSPACE : 0) |
		(atomic_read(&dev->frozen) ? PLOOP_STATE_FROZEN : 0);
	out.maintenance = dev->maintenance;
	out.nr_levels = dev->nr_levels;
	out.cluster_log = dev->cluster_shift - SECTOR_SHIFT;
	out.format_version = dev->version;
	out.open_count = dev->open_count;
	out.device_bytes = dev->sectors << SECTOR_SHIFT;
	if (top) {
		out.file_bytes = (top->rdonly ? top->file_clusters : top->next) <<
			dev->cluster_shift;
		out.free_bytes = (u64)top->nr_free << dev->cluster_shift;
	}
	out.reads = ploop_stat(dev, reads);
	out.writes = ploop_stat(dev, writes);
	out.flushes = ploop_stat(dev, flushes);
	out.discards = ploop_stat(dev, discards);
	out.read_bytes = ploop_stat(dev, read_sectors) << SECTOR_SHIFT;
	out.written_bytes = ploop_stat(dev, written_sectors) << SECTOR_SHIFT;
	out.allocations = ploop_stat(dev, allocations);
	out.copies = ploop_stat(dev, copies);
	out.slow_requests = ploop_stat(dev, slow);
	out.parked = dev->nospace.count + dev->held.count;
	out.host_syncs = ploop_stat(dev, host_syncs);
	out.map_misses = ploop_stat(dev, map_reads);
	out.frozen_ios = dev->frozen_ios;
	out.frozen_us = dev->frozen_us;
	out.max_delta_bytes = dev->max_delta_bytes;
	out.reserve_bytes = dev->reserve_bytes;
	strscpy(out.cookie, dev->cookie, sizeof(out.cookie));
	ploop_ctl_unlock(dev);
	*arg = out;
	return 0;
}
