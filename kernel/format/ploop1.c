// SPDX-License-Identifier: GPL-2.0
/* The module of expandable images. */
#include <linux/module.h>
#include "../include/ploop_format.h"
#include "../include/uapi/ploop_ioctl.h"

static struct ploop_format ploop1_format = {
	.owner = THIS_MODULE,
	.id = PLOOP_FMT_PLOOP1,
	.name = "ploop1",
	.flags = PLOOP_FMTF_DELTA | PLOOP_FMTF_TABLE,
	.parse = ploop1_parse,
	.build = ploop1_build,
	.resize = ploop1_resize,
	.decode = ploop1_decode,
	.encode = ploop1_encode,
	.extension = ploop1_extension,
	.iblock_max = ploop1_iblock_max,
};

static int __init pfmt_ploop1_init(void)
{
	return ploop_format_register(&ploop1_format);
}
module_init(pfmt_ploop1_init);

static void __exit pfmt_ploop1_exit(void)
{
	ploop_format_unregister(&ploop1_format);
}
module_exit(pfmt_ploop1_exit);

MODULE_DESCRIPTION("ploop: expandable images, versions 1 and 2");
MODULE_LICENSE("GPL");
MODULE_ALIAS("ploop-format-2");
