// SPDX-License-Identifier: GPL-2.0
/*
 * Direct I/O on NFS.
 *
 * An engine of its own because nothing there can be tried without sleeping,
 * and because space is not reserved ahead: many servers can't, and those that
 * can charge a round trip for each.
 */
#include <linux/module.h>
#include "../include/ploop_io.h"
#include "../include/uapi/ploop_ioctl.h"
#include <uapi/linux/magic.h>

static int nfs_probe(struct ploop_file *pf)
{
	if (file_inode(pf->file)->i_sb->s_magic != NFS_SUPER_MAGIC ||
	    !(pf->file->f_mode & FMODE_CAN_ODIRECT))
		return -EOPNOTSUPP;
	ploop_kiocb_limits(pf);
	pf->flags = PLOOP_IOF_DIRECT;
	return 0;
}

static struct ploop_io nfs_io = {
	.owner = THIS_MODULE,
	.id = PLOOP_IO_NFS,
	.name = "nfs",
	.rank = 0,
	.probe = nfs_probe,
	.submit = ploop_kiocb_submit,
	.rw = ploop_kiocb_rw,
	.sync = ploop_kiocb_sync,
	.reserve = ploop_kiocb_reserve,
	.punch = ploop_kiocb_punch,
	.truncate = ploop_kiocb_truncate,
};

static int __init pio_nfs_init(void)
{
	return ploop_io_register(&nfs_io);
}
module_init(pio_nfs_init);

static void __exit pio_nfs_exit(void)
{
	ploop_io_unregister(&nfs_io);
}
module_exit(pio_nfs_exit);

MODULE_DESCRIPTION("ploop: I/O on NFS");
MODULE_LICENSE("GPL");
