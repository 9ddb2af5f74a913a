// SPDX-License-Identifier: GPL-2.0
/*
 * The ioctls around balloon and discard of the old interface.
 *
 * There is no balloon file system support in today's kernels, and discarded
 * clusters are reused without help.  So the states are kept, as the tools
 * expect, but there is never anything to hand over or to relocate.
 */
#include <linux/uaccess.h>
#include "core.h"

static int do_balloon(struct ploop_device *dev, void __user *user)
{
	struct ploop_balloon_ctl ctl;
	struct ploop_delta *top = ploop_top(dev);

	if (!top)
		return -ENOENT;
	if (copy_from_user(&ctl, user, sizeof(ctl)))
		return -EFAULT;
	if (ctl.mbz || (ctl.inflate && ctl.keep_intact))
		return -EINVAL;
	if (dev->maintenance == PLOOP_MNTN_OFF && ctl.inflate) {
		if (!(top->fmt->flags & PLOOP_FMTF_TABLE))
			return -EOPNOTSUPP;
		WRITE_ONCE(dev->maintenance, PLOOP_MNTN_BALLOON);
	} else if (dev->maintenance == PLOOP_MNTN_BALLOON && !ctl.inflate && !ctl.keep_intact) {
		WRITE_ONCE(dev->maintenance, PLOOP_MNTN_OFF);
	}
	ctl.mntn_type = dev->maintenance;
	ctl.alloc_head = 0;
	ctl.level = 0;
	if (dev->maintenance == PLOOP_MNTN_FBLOADED) {
		ctl.alloc_head = min_t(u64, top->next, U32_MAX);
		ctl.level = top->level;
	}
	return copy_to_user(user, &ctl, sizeof(ctl)) ? -EFAULT : 0;
}

static int check_extents(struct ploop_device *dev, const struct ploop_freeblks_ctl *ctl,
			 void __user *user)
{
	struct ploop_freeblks_extent extent;
	u32 i;

	/* One by one: the caller says how many there are. */
	for (i = 0; i < ctl->n_extents; i++) {
		if (copy_from_user(&extent, user + sizeof(*ctl) + (u64)i * sizeof(extent),
				   sizeof(extent)))
			return -EFAULT;
		if ((u64)extent.clu + extent.len > ploop_top(dev)->geo.clusters)
			return -EINVAL;
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return 0;
}

static int do_freeblks(struct ploop_device *dev, void __user *user)
{
	struct ploop_freeblks_ctl ctl;
	struct ploop_delta *top = ploop_top(dev);
	int ret;

	if (!top)
		return -ENOENT;
	if (dev->maintenance == PLOOP_MNTN_OFF)
		return -EINVAL;
	if (dev->maintenance != PLOOP_MNTN_BALLOON)
		return -EBUSY;
	if (copy_from_user(&ctl, user, sizeof(ctl)))
		return -EFAULT;
	if (ctl.level != top->level)
		return -EINVAL;
	ret = check_extents(dev, &ctl, user);
	if (ret)
		return ret;
	ctl.alloc_head = min_t(u64, top->next, U32_MAX);
	if (copy_to_user(user, &ctl, sizeof(ctl)))
		return -EFAULT;
	WRITE_ONCE(dev->maintenance, PLOOP_MNTN_FBLOADED);
	return 0;
}

static int do_fbget(struct ploop_device *dev, void __user *user)
{
	struct ploop_freeblks_ctl ctl;

	if (dev->nr_levels == 0)
		return -ENOENT;
	if (dev->maintenance != PLOOP_MNTN_FBLOADED)
		return -EINVAL;
	if (copy_from_user(&ctl, user, sizeof(ctl)))
		return -EFAULT;
	ctl.n_extents = 0;
	ctl.alloc_head = min_t(u64, ploop_top(dev)->next, U32_MAX);
	ctl.level = ploop_top(dev)->level;
	return copy_to_user(user, &ctl, sizeof(ctl)) ? -EFAULT : 0;
}

static int do_relocblks(struct ploop_device *dev, void __user *user)
{
	struct ploop_relocblks_ctl ctl;

	if (dev->nr_levels == 0)
		return -ENOENT;
	if (dev->maintenance != PLOOP_MNTN_FBLOADED)
		return -EINVAL;
	if (copy_from_user(&ctl, user, sizeof(ctl)))
		return -EFAULT;
	if (ctl.level != ploop_top(dev)->level)
		return -EINVAL;
	ctl.alloc_head = 0;
	WRITE_ONCE(dev->maintenance, dev->discard_wait ? PLOOP_MNTN_DISCARD : PLOOP_MNTN_OFF);
	return copy_to_user(user, &ctl, sizeof(ctl)) ? -EFAULT : 0;
}

static int do_discard_init(struct ploop_device *dev)
{
	struct ploop_delta *top = ploop_top(dev);

	if (!top)
		return -EINVAL;
	if (!(top->fmt->flags & PLOOP_FMTF_TABLE))
		return -EOPNOTSUPP;
	if (dev->maintenance != PLOOP_MNTN_OFF)
		return -EBUSY;
	WRITE_ONCE(dev->maintenance, PLOOP_MNTN_DISCARD);
	WRITE_ONCE(dev->discard_wait, true);
	return 0;
}

static int do_discard_fini(struct ploop_device *dev)
{
	int ret = 0;

	if (!dev->discard_wait)
		return 0;
	if (dev->maintenance == PLOOP_MNTN_DISCARD)
		WRITE_ONCE(dev->maintenance, PLOOP_MNTN_OFF);
	else
		ret = -EBUSY;
	WRITE_ONCE(dev->discard_wait, false);
	wake_up_all(&dev->discard_queue);
	return ret;
}

static int do_discard_wait(struct ploop_device *dev)
{
	int ret;

	if (!dev->discard_wait)
		return 0;
	if (dev->maintenance == PLOOP_MNTN_FBLOADED)
		return 1;
	if (dev->maintenance != PLOOP_MNTN_DISCARD)
		return -EINVAL;
	mutex_unlock(&dev->ctl_lock);
	ret = wait_event_interruptible(dev->discard_queue, !READ_ONCE(dev->discard_wait));
	mutex_lock(&dev->ctl_lock);
	return ret;
}

/**
 * ploop_balloon_ioctl() - what is left of the old ioctls
 * @dev: the device
 * @cmd: PLOOP_IOC_*
 * @arg: see there
 *
 * Context: Process context; sleeps.  Holds ctl_lock, gives it up to wait.
 * Return: 0, a count, or an errno.
 */
int ploop_balloon_ioctl(struct ploop_device *dev, unsigned int cmd, unsigned long arg)
{
	void __user *user = (void __user *)arg;

	switch (cmd) {
	case PLOOP_IOC_BALLOON:
		return do_balloon(dev, user);
	case PLOOP_IOC_FREEBLKS:
		return do_freeblks(dev, user);
	case PLOOP_IOC_FBGET:
		return do_fbget(dev, user);
	case PLOOP_IOC_RELOCBLKS:
		return do_relocblks(dev, user);
	case PLOOP_IOC_DISCARD_INIT:
		return do_discard_init(dev);
	case PLOOP_IOC_DISCARD_FINI:
		return do_discard_fini(dev);
	case PLOOP_IOC_DISCARD_WAIT:
		return do_discard_wait(dev);
	default:
		/* FBFILTER and FBDROP, too: nothing is ever loaded. */
		return -EINVAL;
	}
}
