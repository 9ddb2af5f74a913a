// SPDX-License-Identifier: GPL-2.0
/*
 * The ioctls of the block device: what ploop 1.15 uses.
 *
 * Preconditions, errors and the state machine are those of the old driver, with
 * these differences: freed clusters are reused by the driver itself, so discard
 * mode has nothing to collect, DISCARD_WAIT sleeps until DISCARD_FINI, and the
 * lists of free blocks are always empty; UPDATE_INDEX reads the whole
 * table of the level again, since 1.15 computes its argument wrongly.
 */
#include <linux/module.h>
#include <linux/uaccess.h>
#include "core.h"

struct delta_arg {
	struct ploop_ctl ctl;
	struct ploop_ctl_chunk chunk;
};

static int get_ctl(void __user *user, struct ploop_ctl *ctl)
{
	if (copy_from_user(ctl, user, sizeof(*ctl)))
		return -EFAULT;
	if (ctl->mbz1 || ctl->mbz2 || ctl->cluster_log > 17)
		return -EINVAL;
	return 0;
}

static int get_delta(void __user *user, struct delta_arg *arg, struct ploop_delta_args *args)
{
	int ret = get_ctl(user, &arg->ctl);

	if (ret)
		return ret;
	if (arg->ctl.chunks != 1)
		return -EINVAL;
	if (copy_from_user(&arg->chunk, user + sizeof(arg->ctl), sizeof(arg->chunk)))
		return -EFAULT;
	if (arg->chunk.offset || arg->chunk.start || arg->chunk.len || arg->chunk.flags)
		return -EINVAL;
	args->fd = arg->chunk.fd;
	args->format = arg->ctl.format;
	args->io = arg->chunk.io;
	args->rdonly = arg->ctl.flags & PLOOP_CTLF_RDONLY;
	args->cluster_shift = arg->ctl.cluster_log + SECTOR_SHIFT;
	args->replace = false;
	return 0;
}

static int do_add_delta(struct ploop_device *dev, void __user *user)
{
	char cookie[PLOOP_COOKIE_BYTES] = "";
	struct ploop_delta_args args;
	struct delta_arg arg;
	int ret = get_delta(user, &arg, &args);

	if (ret)
		return ret;
	if ((arg.ctl.flags & PLOOP_CTLF_COOKIE) && !dev->cookie[0]) {
		if (copy_from_user(cookie, user + sizeof(arg), PLOOP_COOKIE_BYTES - 1))
			return -EFAULT;
		spin_lock(&dev->stack_lock);
		strscpy(dev->cookie, cookie, sizeof(dev->cookie));
		spin_unlock(&dev->stack_lock);
	}
	return ploop_add_delta(dev, &args);
}

static int do_replace(struct ploop_device *dev, void __user *user)
{
	struct ploop_delta_args args;
	struct delta_arg arg;
	int ret = get_delta(user, &arg, &args);

	return ret ? ret : ploop_replace_delta(dev, arg.ctl.level, &args);
}

static int do_snapshot(struct ploop_device *dev, void __user *user)
{
	struct ploop_delta_args args;
	struct delta_arg arg;
	int ret;

	ret = get_delta(user, &arg, &args);
	if (ret)
		return ret;
	if (dev->nr_levels == 0)
		return -ENOENT;
	if (!dev->running)
		return do_add_delta(dev, user);
	if (args.rdonly)
		return -EINVAL;
	return ploop_snapshot_one(dev, &args, arg.ctl.flags & PLOOP_CTLF_FS_SYNC);
}

static int do_del_delta(struct ploop_device *dev, void __user *user)
{
	u32 level;

	if (get_user(level, (u32 __user *)user))
		return -EFAULT;
	return ploop_del_delta(dev, level);
}

static int do_stop(struct ploop_device *dev, struct block_device *bdev)
{
	if (bdev_is_partition(bdev))
		return -ENODEV;
	return ploop_stop(dev, 1);
}

static int job_result(struct ploop_device *dev, int ret)
{
	if (ret)
		return ret;
	/* Not under the lock: others may ask how far it is. */
	mutex_unlock(&dev->ctl_lock);
	ret = ploop_job_wait(dev);
	mutex_lock(&dev->ctl_lock);
	return ret;
}

static int do_merge(struct ploop_device *dev)
{
	if (dev->maintenance == PLOOP_MNTN_MERGE)
		return job_result(dev, 0);
	if (dev->maintenance != PLOOP_MNTN_OFF)
		return -EBUSY;
	if (dev->nr_levels < 2)
		return -ENOENT;
	if (!dev->running)
		return -EINVAL;
	return job_result(dev, ploop_job_start(dev, PLOOP_JOB_MERGE, dev->nr_levels - 1, 0));
}

static int do_grow(struct ploop_device *dev, void __user *user)
{
	struct ploop_ctl ctl;
	u64 sectors;
	int ret;

	if (dev->maintenance == PLOOP_MNTN_GROW)
		return job_result(dev, 0);
	if (dev->maintenance != PLOOP_MNTN_OFF)
		return -EBUSY;
	if (dev->nr_levels == 0)
		return -ENOENT;
	ret = get_ctl(user, &ctl);
	if (ret)
		return ret;
	if (!dev->running || ctl.cluster_log + SECTOR_SHIFT != dev->cluster_shift)
		return -EINVAL;
	sectors = ctl.flags & PLOOP_CTLF_CLUBLKS ? (u64)ctl.size << ctl.cluster_log : ctl.size;
	if (sectors == dev->sectors)
		return 0;
	return job_result(dev, ploop_job_start(dev, PLOOP_JOB_GROW, sectors << SECTOR_SHIFT, 0));
}

static int do_max_delta_size(struct ploop_device *dev, void __user *user)
{
	u64 sectors;

	if (copy_from_user(&sectors, user, sizeof(sectors)))
		return -EFAULT;
	if (READ_ONCE(dev->nr_levels) == 0 || sectors > U64_MAX >> SECTOR_SHIFT)
		return -EINVAL;
	WRITE_ONCE(dev->max_delta_bytes, sectors << SECTOR_SHIFT);
	ploop_waiting_open(dev, &dev->nospace);
	return 0;
}

static int do_sync(struct ploop_device *dev)
{
	struct ploop_delta *top = ploop_top(dev);
	int ret;

	if (!top)
		return -ENOENT;
	if (top->rdonly)
		return 0;
	if (dev->aborted)
		return -EIO;
	if (!dev->running)
		return 0;
	ret = ploop_commit_for(dev, PLOOP_PATIENCE);
	if (ret)
		return ret;
	mutex_lock(&dev->commit_lock);
	ret = ploop_delta_sync_header(top);
	mutex_unlock(&dev->commit_lock);
	return ret;
}

static int do_update_index(struct ploop_device *dev, void __user *user)
{
	struct ploop_index_update_ctl ctl;

	if (copy_from_user(&ctl, user, sizeof(ctl)))
		return -EFAULT;
	if (dev->nr_levels == 0)
		return -ENOENT;
	return ctl.n_maps ? ploop_reload(dev, ctl.level) : 0;
}

static int cut_delta(struct ploop_device *dev, void __user *user)
{
	struct ploop_truncate_ctl ctl;
	struct ploop_delta *delta;
	int ret;

	if (copy_from_user(&ctl, user, sizeof(ctl)))
		return -EFAULT;
	if (ctl.fd < 0)
		return -EBADF;
	if (ctl.level >= dev->nr_levels)
		return -ENOENT;
	delta = dev->levels[ctl.level];
	if (!delta->rdonly || dev->maintenance != PLOOP_MNTN_OFF)
		return -EBUSY;
	if (ctl.alloc_head < delta->geo.first_iblock)
		return -EINVAL;
	ret = ploop_truncate_fd(delta, ctl.fd, (loff_t)ctl.alloc_head << dev->cluster_shift);
	return ret ? ret : ploop_reload(dev, ctl.level);
}

static int do_getdevice(void __user *user)
{
	struct ploop_getdevice_ctl ctl = { 0 };
	int index = ploop_device_lowest();

	if (index < 0)
		return index;
	ctl.minor = index;
	return copy_to_user(user, &ctl, sizeof(ctl)) ? -EFAULT : 0;
}

static int do_track(struct ploop_device *dev, unsigned int cmd, void __user *user)
{
	struct ploop_track_extent extent = { 0 };
	u64 pos;
	int ret;

	switch (cmd) {
	case PLOOP_IOC_TRACK_INIT:
		ret = ploop_track_init(dev, &extent);
		break;
	case PLOOP_IOC_TRACK_READ:
		ret = ploop_track_read(dev, &extent);
		break;
	case PLOOP_IOC_TRACK_SETPOS:
		if (copy_from_user(&pos, user, sizeof(pos)))
			return -EFAULT;
		return ploop_track_setpos(dev, pos);
	case PLOOP_IOC_TRACK_STOP:
		return ploop_track_stop(dev);
	default:
		ploop_track_abort(dev);
		return 0;
	}
	if (ret == 0 && copy_to_user(user, &extent, sizeof(extent))) {
		/* What was taken out is lost to the caller. */
		ploop_track_abort(dev);
		ret = -EFAULT;
	}
	return ret;
}

static int dispatch(struct ploop_device *dev, struct block_device *bdev, unsigned int cmd,
		    unsigned long arg)
{
	void __user *user = (void __user *)arg;

	lockdep_assert_held(&dev->ctl_lock);
	switch (cmd) {
	case PLOOP_IOC_ADD_DELTA:
		return do_add_delta(dev, user);
	case PLOOP_IOC_DEL_DELTA:
		return do_del_delta(dev, user);
	case PLOOP_IOC_REPLACE_DELTA:
		return do_replace(dev, user);
	case PLOOP_IOC_CLEAR:
		return ploop_clear(dev);
	case PLOOP_IOC_START:
		return ploop_start(dev);
	case PLOOP_IOC_STOP:
		return do_stop(dev, bdev);
	case PLOOP_IOC_SNAPSHOT:
		return do_snapshot(dev, user);
	case PLOOP_IOC_MERGE:
		return do_merge(dev);
	case PLOOP_IOC_GROW:
		return do_grow(dev, user);
	case PLOOP_IOC_SYNC:
		return do_sync(dev);
	case PLOOP_IOC_UPDATE_INDEX:
		return do_update_index(dev, user);
	case PLOOP_IOC_TRUNCATE:
		return cut_delta(dev, user);
	case PLOOP_IOC_GETDEVICE:
		return do_getdevice(user);
	case PLOOP_IOC_TRACK_INIT:
	case PLOOP_IOC_TRACK_READ:
	case PLOOP_IOC_TRACK_SETPOS:
	case PLOOP_IOC_TRACK_STOP:
	case PLOOP_IOC_TRACK_ABORT:
		return do_track(dev, cmd, user);
	default:
		return ploop_balloon_ioctl(dev, cmd, arg);
	}
}

/**
 * ploop_ioctl() - an ioctl of the block device
 * @bdev: the disk or a partition of it
 * @mode: of the open file
 * @cmd: PLOOP_IOC_*
 * @arg: see there
 *
 * Return: 0, a count, or an errno.
 */
int ploop_ioctl(struct block_device *bdev, PLOOP_MODE mode, unsigned int cmd,
		unsigned long arg)
{
	struct ploop_device *dev = bdev->bd_disk->private_data;
	int ret;

	if (_IOC_TYPE(cmd) != PLOOP_IOC)
		return -ENOTTY;
	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	/* Without the lock: whoever has it may wait for what this gives. */
	if (cmd == PLOOP_IOC_MAX_DELTA_SIZE)
		return do_max_delta_size(dev, (void __user *)arg);
	if (cmd == PLOOP_IOC_STOP)
		ploop_users_sync(dev);
	ret = mutex_lock_interruptible(&dev->ctl_lock);
	if (ret)
		return ret;
	ret = dev->snapshotting ? -EBUSY : dispatch(dev, bdev, cmd, arg);
	mutex_unlock(&dev->ctl_lock);
	return ret;
}
