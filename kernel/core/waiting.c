// SPDX-License-Identifier: GPL-2.0
/*
 * Writes that wait for long: for space on the host, or for whoever holds writes back.
 *
 * A request is one of a fixed number that a queue has; were they kept, as many writes as
 * there are requests would leave none to read with.  So a write that must wait gives its
 * bios up, its request is free for others, and the bios are submitted again, in their
 * order, when the wait is over.  How many there may be is up to those who
 * write; no memory is needed for them.
 */
#include <linux/sched/mm.h>
#include "core.h"

static void submit_again(struct work_struct *work)
{
	struct ploop_waiting *waiting = container_of(work, struct ploop_waiting, work);
	unsigned int noio = memalloc_noio_save();
	struct bio_list bios;
	struct bio *bio;

	/* All at once: one that has to wait anew is not tried again here. */
	spin_lock_irq(&waiting->lock);
	bios = waiting->bios;
	bio_list_init(&waiting->bios);
	waiting->count = 0;
	spin_unlock_irq(&waiting->lock);
	while ((bio = bio_list_pop(&bios)))
		submit_bio_noacct(bio);
	memalloc_noio_restore(noio);
}

/**
 * ploop_waiting_init() - nobody has to wait
 * @waiting: what
 */
void ploop_waiting_init(struct ploop_waiting *waiting)
{
	spin_lock_init(&waiting->lock);
	bio_list_init(&waiting->bios);
	INIT_WORK(&waiting->work, submit_again);
	waiting->closed = false;
	waiting->count = 0;
}

/**
 * ploop_wait() - wait if writes have to
 * @waiting: what
 * @req: not in any list, not counted in, holds nothing others wait for
 *
 * Context: Any context.
 * Return: true if @req is over and its bios wait.
 */
bool ploop_wait(struct ploop_waiting *waiting, struct ploop_request *req)
{
	struct request *rq = ploop_rq(req);
	unsigned long irq;
	bool closed;

	spin_lock_irqsave(&waiting->lock, irq);
	closed = waiting->closed;
	if (closed) {
		blk_steal_bios(&waiting->bios, rq);
		waiting->count++;
	}
	spin_unlock_irqrestore(&waiting->lock, irq);
	if (closed)
		ploop_end_errno(req, 0);
	return closed;
}

/**
 * ploop_waiting_close() - from now on writes have to wait
 * @waiting: what
 *
 * Context: Any context.
 * Return: true if they had not to.
 */
bool ploop_waiting_close(struct ploop_waiting *waiting)
{
	unsigned long irq;
	bool was_open;

	spin_lock_irqsave(&waiting->lock, irq);
	was_open = !waiting->closed;
	WRITE_ONCE(waiting->closed, true);
	spin_unlock_irqrestore(&waiting->lock, irq);
	return was_open;
}

/**
 * ploop_waiting_open() - let go on what waits
 * @dev: the device
 * @waiting: what
 *
 * Context: Any context.
 */
void ploop_waiting_open(struct ploop_device *dev, struct ploop_waiting *waiting)
{
	unsigned long irq;

	spin_lock_irqsave(&waiting->lock, irq);
	WRITE_ONCE(waiting->closed, false);
	if (!bio_list_empty(&waiting->bios))
		queue_work(dev->waiting_wq, &waiting->work);
	spin_unlock_irqrestore(&waiting->lock, irq);
}
