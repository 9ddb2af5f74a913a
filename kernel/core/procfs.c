// SPDX-License-Identifier: GPL-2.0
/* /proc/vz/ploop_minor: an open file is a claim on a free device. */
#include <linux/module.h>
#include <linux/proc_fs.h>
#include "core.h"

static struct proc_dir_entry *vz_dir;

static int minor_open(struct inode *inode, struct file *file)
{
	struct ploop_device *dev = ploop_device_reserve();

	if (IS_ERR(dev))
		return PTR_ERR(dev);
	file->private_data = dev;
	return 0;
}

/* The last of all descriptors that share the open file. */
static int minor_release(struct inode *inode, struct file *file)
{
	ploop_device_unreserve(file->private_data);
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
