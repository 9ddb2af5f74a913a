// SPDX-License-Identifier: GPL-2.0
/*
 * Deep queues: a second processor takes a part.
 *
 * A lone request is quickest in its caller's context: to wake a thread for it costs more
 * than it does.  Who has many under way wants throughput: then all are listed, and a
 * worker, wherever a processor is idle, sends what is listed.  A mixture is worse than
 * either, since the caller stands in the way of its own completions; so is one plug over
 * all that the worker sends, since both then wait for each other's batch.  Hence a lane is
 * either shallow or deep.  It turns deep when a request comes while another is under
 * way, and shallow after a run of requests that came alone.  A disk may be so quick that
 * a caller never has two under way, however many it wants: so a shallow lane
 * lists one in a while, to see whether the next one waits for it.
 * There is a lane for each hardware queue.
 */
#include <linux/sched/mm.h>
#include "core.h"

/* After so many that came alone, the next are sent by their callers, ... */
#define ALONE_RUN	32
/* ... but for one after each so many. */
#define SHALLOW_RUN	64

static void lane_work(struct work_struct *work)
{
	struct ploop_lane *lane = container_of(work, struct ploop_lane, work);
	unsigned int noio = memalloc_noio_save();
	struct ploop_request *req, *next;
	struct llist_node *list;

	while ((list = llist_del_all(&lane->list))) {
		list = llist_reverse_order(list);
		llist_for_each_entry_safe(req, next, list, lane)
			ploop_rq_go(req, false);
	}
	memalloc_noio_restore(noio);
}

/**
 * ploop_lane_init() - give a hardware queue its lane; see blk_mq_ops.init_hctx
 * @hctx: the queue
 * @data: the device
 * @index: of the queue
 *
 * Return: 0.
 */
int ploop_lane_init(struct blk_mq_hw_ctx *hctx, void *data, unsigned int index)
{
	struct ploop_device *dev = data;
	struct ploop_lane *lane = &dev->lanes[index];

	atomic_set(&lane->under_way, 0);
	lane->alone = ALONE_RUN;
	init_llist_head(&lane->list);
	INIT_WORK(&lane->work, lane_work);
	hctx->driver_data = lane;
	return 0;
}

/* Callers on several processors may lose one another's count: the lane turns later, no more. */
static bool lane_is_shallow(struct ploop_lane *lane)
{
	unsigned int alone = READ_ONCE(lane->alone);

	if (atomic_inc_return(&lane->under_way) > 1)
		alone = 0;
	else if (alone == ALONE_RUN + SHALLOW_RUN)
		alone = ALONE_RUN;
	else
		alone++;
	WRITE_ONCE(lane->alone, alone);
	return alone > ALONE_RUN;
}

/**
 * ploop_lane_take() - count a request in, and list it if there are many
 * @lane: of its hardware queue
 * @req: a read or write
 *
 * Context: Any context.
 * Return: true if a worker sends it.
 */
bool ploop_lane_take(struct ploop_lane *lane, struct ploop_request *req)
{
	bool shallow = lane_is_shallow(lane) || num_online_cpus() == 1;

	/* With swap, the caller's context must never wait for memory; see swap.c. */
	if (shallow && likely(!READ_ONCE(req->dev->swap)))
		return false;
	/* Whoever lists the first wakes the worker. */
	if (llist_add(&req->lane, &lane->list))
		queue_work(req->dev->lane_wq, &lane->work);
	return true;
}

/**
 * ploop_lane_done() - count a request out
 * @rq: it was given to ploop_lane_take()
 *
 * Context: Any context.
 */
void ploop_lane_done(struct request *rq)
{
	struct ploop_lane *lane = rq->mq_hctx->driver_data;

	atomic_dec(&lane->under_way);
}
