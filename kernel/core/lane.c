// SPDX-License-Identifier: GPL-2.0
/*
 * Deep queues: a second processor takes a part.
 *
 * A lone request is quickest in its caller's context.  Who has many under way wants
 * throughput: then the requests beyond the first few are listed, and a worker,
 * wherever a processor is idle, sends all that are listed in one go.  It collects
 * what the host's file system makes of them under one plug, so that the
 * host's disk is told once for many.  There is a lane for each hardware queue.
 */
#include <linux/sched/mm.h>
#include "core.h"

/* So many under way are sent by their callers. */
#define INLINE_MAX 2

static void lane_work(struct work_struct *work)
{
	struct ploop_lane *lane = container_of(work, struct ploop_lane, work);
	unsigned int noio = memalloc_noio_save();
	struct ploop_request *req, *next;
	struct llist_node *list;
	struct blk_plug plug;

	blk_start_plug(&plug);
	while ((list = llist_del_all(&lane->list))) {
		list = llist_reverse_order(list);
		llist_for_each_entry_safe(req, next, list, lane)
			ploop_rq_go(req, false);
	}
	blk_finish_plug(&plug);
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
	init_llist_head(&lane->list);
	INIT_WORK(&lane->work, lane_work);
	hctx->driver_data = lane;
	return 0;
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
	if (atomic_inc_return(&lane->under_way) <= INLINE_MAX || num_online_cpus() == 1)
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
