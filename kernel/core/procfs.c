// SPDX-License-Identifier: GPL-2.0
/* /proc/vz/ploop_minor: an open file is a claim on a free device. */
#include <linux/module.h>
#include <linux/namei.h>
#include <linux/proc_fs.h>
#include "core.h"

static struct proc_dir_entry *vz_dir;

static int minor_open(struct inode *inode, struct file *file)
{
	struct ploop_device *dev;

	/* The file is the group's to read, and each claim may make a device. */
	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	/* A file of /proc doesn't hold the module by itself. */
	if (!try_module_get(THIS_MODULE))
		return -ENODEV;
	dev = ploop_device_reserve();
	if (IS_ERR(dev)) {
		module_put(THIS_MODULE);
		return PTR_ERR(dev);
	}
	file->private_data = dev;
	return 0;
}

/* The last of all descriptors that share the open file. */
static int minor_release(struct inode *inode, struct file *file)
{
	ploop_device_unreserve(file->private_data);
	module_put(THIS_MODULE);
	return 0;
}

static ssize_t minor_read(struct file *file, char __user *buf, size_t count, loff_t *pos)
{
	struct ploop_device *dev = file->private_data;
	char text[16];
	int len;

	len = snprintf(text, sizeof(text), "%u\n", dev->index << PLOOP_MINOR_SHIFT);
	return simple_read_from_buffer(buf, count, pos, text, len);
}

static const struct proc_ops minor_ops = {
	.proc_open = minor_open,
	.proc_release = minor_release,
	.proc_read = minor_read,
	.proc_lseek = default_llseek,
};

/**
 * ploop_proc_init() - make the file, and the directory if it is not there
 *
 * Return: 0 or -ENOMEM.
 */
int __init ploop_proc_init(void)
{
	struct path path;

	/* There is no way to ask /proc itself, and it warns of a name that is taken. */
	if (kern_path("/proc/vz", LOOKUP_DIRECTORY, &path) == 0)
		path_put(&path);
	else
		vz_dir = proc_mkdir("vz", NULL);
	if (proc_create(vz_dir ? "ploop_minor" : "vz/ploop_minor", 0440, vz_dir, &minor_ops))
		return 0;
	proc_remove(vz_dir);
	return -ENOMEM;
}

/**
 * ploop_proc_exit() - undo ploop_proc_init()
 */
void ploop_proc_exit(void)
{
	if (!vz_dir)
		remove_proc_entry("vz/ploop_minor", NULL);
	proc_remove(vz_dir);
}
