// SPDX-License-Identifier: GPL-2.0
/* Direct I/O on any local file system that can do it. */
#include <linux/module.h>
#include "../include/ploop_io.h"
#include "../include/uapi/ploop_ioctl.h"
#include <uapi/linux/magic.h>

static int direct_probe(struct ploop_file *pf)
{
	struct file *file = pf->file;

	if (!(file->f_mode & FMODE_CAN_ODIRECT) ||
	    file_inode(file)->i_sb->s_magic == NFS_SUPER_MAGIC ||
	    file_inode(file)->i_sb->s_magic == OVERLAYFS_SUPER_MAGIC)
		return -EOPNOTSUPP;
	ploop_kiocb_limits(pf);
	pf->flags = PLOOP_IOF_DIRECT;
	if (file->f_mode & FMODE_NOWAIT)
		pf->flags |= PLOOP_IOF_NOWAIT;
	if (file->f_op->fallocate)
		pf->flags |= PLOOP_IOF_RESERVE;
	return 0;
}

static struct ploop_io direct_io = {
	.owner = THIS_MODULE,
	.id = PLOOP_IO_DIRECT,
	.name = "direct",
	.rank = 1,
	.probe = direct_probe,
	.submit = ploop_kiocb_submit,
	.rw = ploop_kiocb_rw,
	.sync = ploop_kiocb_sync,
	.reserve = ploop_kiocb_reserve,
	.punch = ploop_kiocb_punch,
	.truncate = ploop_kiocb_truncate,
};

static int __init pio_direct_init(void)
{
	return ploop_io_register(&direct_io);
}
module_init(pio_direct_init);

static void __exit pio_direct_exit(void)
{
	ploop_io_unregister(&direct_io);
}
module_exit(pio_direct_exit);

MODULE_DESCRIPTION("ploop: direct I/O");
MODULE_LICENSE("GPL");
MODULE_ALIAS("pio_kaio");
