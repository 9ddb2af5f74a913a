// SPDX-License-Identifier: GPL-2.0
/* I/O through the page cache, where there is no direct I/O: tmpfs, overlayfs. */
#include <linux/module.h>
#include "../include/ploop_io.h"
#include "../include/uapi/ploop_ioctl.h"

static int buffered_probe(struct ploop_file *pf)
{
	ploop_kiocb_limits(pf);
	pf->flags = pf->file->f_op->fallocate ? PLOOP_IOF_RESERVE : 0;
	return 0;
}

static struct ploop_io buffered_io = {
	.owner = THIS_MODULE,
	.id = PLOOP_IO_BUFFERED,
	.name = "buffered",
	.rank = 9,
	.probe = buffered_probe,
	.submit = ploop_kiocb_submit,
	.rw = ploop_kiocb_rw,
	.sync = ploop_kiocb_sync,
	.reserve = ploop_kiocb_reserve,
	.punch = ploop_kiocb_punch,
	.truncate = ploop_kiocb_truncate,
};

static int __init pio_buffered_init(void)
{
	return ploop_io_register(&buffered_io);
}
module_init(pio_buffered_init);

static void __exit pio_buffered_exit(void)
{
	ploop_io_unregister(&buffered_io);
}
module_exit(pio_buffered_exit);

MODULE_DESCRIPTION("ploop: I/O through the page cache");
MODULE_LICENSE("GPL");
