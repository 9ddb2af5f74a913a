// SPDX-License-Identifier: GPL-2.0
/*
 * Calls made in a thread of the kernel's, whoever asks for them.
 *
 * The waits of network file systems and of FUSE end when the waiting task is killed.  Were
 * an administrator's tool that task, a signal to the tool would be an error of the image.
 * So no task that gets signals works on a host's file: io/kiocb.c gives what may sleep
 * to a worker.  The task that asked waits for the worker, whatever signals it gets.
 *
 * There are two workqueues.  What is queued on ploop_wq is short; what is queued on
 * ploop_host_wq may wait for the host for as long as the host likes, and must not keep
 * the deadline of a freeze from being met.
 */
#include <linux/sched/mm.h>
#include "core.h"

struct workqueue_struct *ploop_wq;
struct workqueue_struct *ploop_host_wq;

struct call {
	struct work_struct work;
	struct completion over;
	int (*call)(void *arg);
	void *arg;
	int ret;
};

static void call_work(struct work_struct *work)
{
	struct call *call = container_of(work, struct call, work);
	unsigned int noio = memalloc_noio_save();

	call->ret = call->call(call->arg);
	memalloc_noio_restore(noio);
	complete(&call->over);
}

/**
 * ploop_call() - call a function where no signal can disturb it
 * @func: what; allocations in it do no I/O
 * @arg: for @func
 *
 * Context: Process context; sleeps.
 * Return: what @func returned.
 */
int ploop_call(int (*func)(void *arg), void *arg)
{
	struct call call = { .call = func, .arg = arg };

	if (current->flags & PF_KTHREAD)
		return func(arg);
	INIT_WORK_ONSTACK(&call.work, call_work);
	init_completion(&call.over);
	queue_work(ploop_host_wq, &call.work);
	/* One wait without an end would be taken for a hung task; this may take its time. */
	while (!wait_for_completion_timeout(&call.over, 10 * HZ))
		;
	flush_work(&call.work);
	destroy_work_on_stack(&call.work);
	return call.ret;
}

/**
 * ploop_call_init() - make the workqueues
 *
 * Return: 0 or -ENOMEM.
 */
int __init ploop_call_init(void)
{
	ploop_wq = alloc_workqueue("ploop", WQ_MEM_RECLAIM | WQ_UNBOUND, 0);
	if (!ploop_wq)
		return -ENOMEM;
	ploop_host_wq = alloc_workqueue("ploop_host", WQ_MEM_RECLAIM | WQ_UNBOUND, 0);
	if (ploop_host_wq)
		return 0;
	destroy_workqueue(ploop_wq);
	return -ENOMEM;
}

/**
 * ploop_call_exit() - end them; waits for what is queued
 */
void ploop_call_exit(void)
{
	destroy_workqueue(ploop_host_wq);
	destroy_workqueue(ploop_wq);
}
