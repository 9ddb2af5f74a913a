// SPDX-License-Identifier: GPL-2.0
/* The module of raw images. */
#include <linux/module.h>
#include "../include/ploop_format.h"
#include "../include/uapi/ploop_ioctl.h"

static struct ploop_format raw_format = {
	.owner = THIS_MODULE,
	.id = PLOOP_FMT_RAW,
	.name = "raw",
	.parse = raw_parse,
};

static int __init pfmt_raw_init(void)
{
	return ploop_format_register(&raw_format);
}
module_init(pfmt_raw_init);

static void __exit pfmt_raw_exit(void)
{
	ploop_format_unregister(&raw_format);
}
module_exit(pfmt_raw_exit);

MODULE_DESCRIPTION("ploop: raw images");
MODULE_LICENSE("GPL");
MODULE_ALIAS("ploop-format-1");
