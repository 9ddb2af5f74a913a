// SPDX-License-Identifier: GPL-2.0
/*
 * Swap on a device: requests that make memory free.
 *
 * They may use what memory is left, as their sender could.  That is not enough: the
 * host's file system needs bios, and those come from pools, which never touch that.  When
 * memory is used up, a pool has its own reserve only, of two bios; the bios of swap
 * come from the same pool (fs_bio_set), and those that wait for the driver hold it.  A
 * file system lets nobody choose the pool, and a larger one is used up by those who swap
 * out, however large it is.  But the page allocator lets a real-time thread go
 * below its watermark, for a pool, too, where nobody else who waits for memory can follow.
 * So such a thread sends all requests of swap.  It waits for no other request:
 * what must wait is parked.
 *
 * Other requests must not stand in its way: the block layer may have but one
 * thread to give the driver a queue's requests, so on a device with swap a worker
 * sends them (lane.c), which may wait for memory.
 */
#include <linux/kthread.h>
#include "core.h"

static void swap_work(struct kthread_work *work);

static struct kthread_worker *swap_worker;
static DEFINE_KTHREAD_WORK(swap_sender, swap_work);
static LLIST_HEAD(swap_list);
static bool swap_seen;

static void swap_work(struct kthread_work *work)
{
	struct ploop_request *req, *next;
	struct llist_node *list;

	while ((list = llist_del_all(&swap_list))) {
		list = llist_reverse_order(list);
		llist_for_each_entry_safe(req, next, list, lane)
			ploop_slow_work(&req->work);
	}
}

/**
 * ploop_swap_init() - start the thread
 *
 * Return: 0 or an errno.
 */
int __init ploop_swap_init(void)
{
	struct kthread_worker *worker = ploop_run_worker("ploop_swap");

	if (IS_ERR(worker))
		return PTR_ERR(worker);
	sched_set_fifo_low(worker->task);
	swap_worker = worker;
	return 0;
}

/**
 * ploop_swap_exit() - end the thread; there are no devices
 */
void ploop_swap_exit(void)
{
	kthread_destroy_worker(swap_worker);
}

/**
 * ploop_swap_came() - there is swap on a device
 * @dev: the device
 */
void ploop_swap_came(struct ploop_device *dev)
{
	if (READ_ONCE(dev->swap))
		return;
	ploop_info(dev, "is used for swap\n");
	WRITE_ONCE(dev->swap, true);
	WRITE_ONCE(swap_seen, true);
}

/**
 * ploop_swap_queue() - let the thread send a request of swap
 * @req: not in any list, and not counted in
 *
 * Context: Any context.
 */
void ploop_swap_queue(struct ploop_request *req)
{
	/* Whoever lists the first wakes the thread. */
	if (llist_add(&req->lane, &swap_list))
		kthread_queue_work(swap_worker, &swap_sender);
}

/**
 * ploop_swap_seen() - is there swap on any device?
 *
 * Then whoever allocates memory may have to wait for a device's writes, the host's file
 * system included.  A transfer into reserved space ends with a change of the file
 * system's metadata, in a thread of its own that allocates with I/O allowed, and which
 * the ends of all other transfers, those of swap too, may have to wait for.  So such
 * transfers are from then on waited for by their senders, which makes that change in a
 * thread where allocations do no I/O.
 *
 * Return: whether there was a request of swap since the module was loaded.
 */
bool ploop_swap_seen(void)
{
	return READ_ONCE(swap_seen);
}
