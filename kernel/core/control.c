// SPDX-License-Identifier: GPL-2.0
/*
 * /dev/ploop-control: the file, and how structures come in and go out.
 *
 * The calls themselves are in control_ops.c and control_stack.c.
 */
#include <linux/compat.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/uaccess.h>
#include "control.h"

static const struct {
	u32 nr;
	u32 size;
	int (*call)(struct ploop_control *control, void *arg);
} calls[] = {
#define CALL(_cmd, _struct, _call) { _IOC_NR(_cmd), sizeof(struct _struct), _call }
	CALL(PLOOP_CTL_VERSION, ploop_version, ploop_ctl_version),
	CALL(PLOOP_CTL_ATTACH, ploop_attach, ploop_ctl_attach),
	CALL(PLOOP_CTL_DETACH, ploop_ref, ploop_ctl_detach),
	CALL(PLOOP_CTL_STATUS, ploop_status, ploop_ctl_status),
	CALL(PLOOP_CTL_LIMITS, ploop_limits, ploop_ctl_limits),
	CALL(PLOOP_CTL_BITMAP_CREATE, ploop_bitmap, ploop_ctl_bitmap_create),
	CALL(PLOOP_CTL_BITMAP_DELETE, ploop_bitmap, ploop_ctl_bitmap_delete),
	CALL(PLOOP_CTL_BITMAP_CLEAR, ploop_bitmap, ploop_ctl_bitmap_clear),
	CALL(PLOOP_CTL_BITMAP_READ, ploop_bitmap_read, ploop_ctl_bitmap_read),
	CALL(PLOOP_CTL_BITMAP_LIST, ploop_bitmap_list, ploop_ctl_bitmap_list),
	CALL(PLOOP_CTL_SNAPSHOT, ploop_snapshot, ploop_ctl_snapshot),
	CALL(PLOOP_CTL_FREEZE, ploop_freeze, ploop_ctl_freeze),
	CALL(PLOOP_CTL_JOB, ploop_job, ploop_ctl_job),
	CALL(PLOOP_CTL_BLOCK_STATUS, ploop_block_status, ploop_ctl_block_status),
	CALL(PLOOP_CTL_WATCH, ploop_watch, ploop_ctl_watch),
#undef CALL
};

/* The call was made, but its caller could not be told what came of it. */
static void untold(struct ploop_control *control, u32 i, void *arg)
{
	if (calls[i].nr == _IOC_NR(PLOOP_CTL_BITMAP_READ))
		ploop_ctl_bitmap_unread(arg);
	/* Nobody would know which device it is. */
	if (calls[i].nr == _IOC_NR(PLOOP_CTL_ATTACH))
		ploop_ctl_unattach(arg);
	if (calls[i].nr == _IOC_NR(PLOOP_CTL_FREEZE))
		ploop_ctl_thaw(control);
}

static long control_call(struct ploop_control *control, u32 i, bool out, void __user *user)
{
	u32 size, known = calls[i].size;
	void *arg;
	long ret;

	if (get_user(size, (u32 __user *)user))
		return -EFAULT;
	if (size < sizeof(u32) || size > PAGE_SIZE)
		return -EINVAL;
	arg = kzalloc(known, GFP_KERNEL);
	if (!arg)
		return -ENOMEM;
	ret = copy_struct_from_user(arg, known, user, size);
	if (ret == 0)
		ret = calls[i].call(control, arg);
	if (out && ret == 0) {
		/* The size stays the caller's. */
		*(u32 *)arg = size;
		if (copy_to_user(user, arg, min(size, known))) {
			untold(control, i, arg);
			ret = -EFAULT;
		}
	}
	kfree(arg);
	return ret;
}

static long control_ioctl(struct file *file, unsigned int cmd, unsigned long user)
{
	struct ploop_control *control = file->private_data;
	u32 i;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	if (_IOC_TYPE(cmd) != PLOOP_CTL)
		return -ENOTTY;
	if (cmd == PLOOP_CTL_THAW)
		return ploop_ctl_thaw(control);
	for (i = 0; i < ARRAY_SIZE(calls); i++)
		if (calls[i].nr == _IOC_NR(cmd))
			return control_call(control, i, _IOC_DIR(cmd) & _IOC_READ,
					    (void __user *)user);
	return -ENOTTY;
}

static ssize_t control_read(struct file *file, char __user *buf, size_t count, loff_t *pos)
{
	struct ploop_control *control = file->private_data;

	return ploop_watcher_read(control->watcher, buf, count, file->f_flags & O_NONBLOCK);
}

static __poll_t control_poll(struct file *file, poll_table *wait)
{
	struct ploop_control *control = file->private_data;

	return ploop_watcher_poll(control->watcher, file, wait);
}

static int control_open(struct inode *inode, struct file *file)
{
	struct ploop_control *control;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	control = kzalloc(sizeof(*control), GFP_KERNEL);
	if (!control)
		return -ENOMEM;
	mutex_init(&control->lock);
	control->watcher = ploop_watcher_new();
	if (!control->watcher) {
		kfree(control);
		return -ENOMEM;
	}
	file->private_data = control;
	return 0;
}

static int control_release(struct inode *inode, struct file *file)
{
	struct ploop_control *control = file->private_data;

	ploop_ctl_thaw(control);
	ploop_watcher_free(control->watcher);
	kfree(control);
	return 0;
}

static const struct file_operations control_fops = {
	.owner = THIS_MODULE,
	.open = control_open,
	.release = control_release,
	.unlocked_ioctl = control_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.read = control_read,
	.poll = control_poll,
	.llseek = noop_llseek,
};

static struct miscdevice control_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "ploop-control",
	.fops = &control_fops,
	.mode = 0600,
};

/**
 * ploop_control_init() - make the file
 *
 * Return: 0 or an errno.
 */
int __init ploop_control_init(void)
{
	return misc_register(&control_device);
}

/**
 * ploop_control_exit() - undo ploop_control_init()
 */
void ploop_control_exit(void)
{
	misc_deregister(&control_device);
}
