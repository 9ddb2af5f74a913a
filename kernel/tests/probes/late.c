// SPDX-License-Identifier: GPL-2.0
/*
 * Makes those who send requests late: one at a time is held where the host's file
 * system has returned to the driver, long after its request may be over.  Then the file
 * that it was sent to must still be open.
 *   held     how many were held
 *   closed   and found their file closed afterwards
 */
#include <linux/delay.h>
#include <linux/file.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include "../../include/ploop_io.h"

static unsigned int hold_ms = 200;
module_param(hold_ms, uint, 0444);
MODULE_PARM_DESC(hold_ms, "How long one is held, with preemption off");
static atomic_t held, closed, busy;

static int counter_get(char *buffer, const struct kernel_param *kp)
{
	return sysfs_emit(buffer, "%d\n", atomic_read((atomic_t *)kp->arg));
}

static const struct kernel_param_ops counter_ops = {
	.get = counter_get,
};

module_param_cb(held, &counter_ops, &held, 0444);
MODULE_PARM_DESC(held, "Senders that were held");
module_param_cb(closed, &counter_ops, &closed, 0444);
MODULE_PARM_DESC(closed, "Senders whose file was closed meanwhile");

static int submit_called(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	const struct ploop_iocb *iocb = (const void *)regs_get_kernel_argument(regs, 0);

	/* The request is no longer ours when the call returns. */
	*(struct file **)instance->data = iocb->file->file;
	return 0;
}

static int submit_returned(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	struct file *file = *(struct file **)instance->data;

	if (regs_return_value(regs) != 0 || atomic_xchg(&busy, 1))
		return 0;
	/* Preemption is off: closed or not, its memory stays (RCU). */
	mdelay(hold_ms);
	atomic_inc(&held);
	if (file_count(file) == 0)
		atomic_inc(&closed);
	atomic_set(&busy, 0);
	return 0;
}

static struct kretprobe probe = {
	.kp.symbol_name = "ploop_kiocb_submit",
	.entry_handler = submit_called,
	.handler = submit_returned,
	.data_size = sizeof(struct file *),
	.maxactive = 64,
};

static int __init late_init(void)
{
	return register_kretprobe(&probe);
}

static void __exit late_exit(void)
{
	unregister_kretprobe(&probe);
}

module_init(late_init);
module_exit(late_exit);
MODULE_DESCRIPTION("Holds senders of the ploop driver's requests");
MODULE_LICENSE("GPL");
