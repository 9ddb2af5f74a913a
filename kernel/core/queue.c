// SPDX-License-Identifier: GPL-2.0
/*
 * Requests on their way in and out.
 *
 * What is mapped is sent to the host's file without sleeping (IOCB_NOWAIT): one at a time
 * right here in the caller's context, as no other thread is woken then, which is
 * what a loop device pays for each request; many under way over
 * lane.c.  Everything else, and what the file system could not do at once,
 * goes to a worker (slow.c).
 *
 * The caller may be anywhere, deep in a file system's transaction or in reclaim.
 * So its journal handle, plug and list of bios are put aside while the host's
 * file system runs, allocations do no I/O, and a caller with little stack left,
 * with a limit on file sizes or with bios still to be submitted is served by a worker, too.
 */
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task_stack.h>
#include "core.h"

/* What the host's file systems need, with room to spare. */
#define STACK_BYTES_MIN (7u << 10)

struct caller_state {
	void *journal_info;
	struct bio_list *bio_list;
	struct blk_plug *plug;
	unsigned int noio;
};

static void caller_set_aside(struct caller_state *state)
{
	state->journal_info = current->journal_info;
	state->bio_list = current->bio_list;
	state->plug = current->plug;
	ploop_plug_forget_time();
	current->journal_info = NULL;
	current->bio_list = NULL;
	current->plug = NULL;
	state->noio = memalloc_noio_save();
}

static void caller_restore(const struct caller_state *state)
{
	memalloc_noio_restore(state->noio);
	current->journal_info = state->journal_info;
	current->bio_list = state->bio_list;
	current->plug = state->plug;
}

/*
 * Is there more that the caller submits after this?  The rest of a bio that was cut holds one
 * of the few that its pool guarantees, and the host's file system takes from the same pool: it
 * must not wait for a bio that only this task would submit.
 */
static bool caller_holds_bios(void)
{
	struct bio_list *lists = current->bio_list;

	return lists && (!bio_list_empty(&lists[0]) || !bio_list_empty(&lists[1]));
}

static bool caller_is_fit(void)
{
	unsigned long here = (unsigned long)__builtin_frame_address(0);
	unsigned long end = (unsigned long)task_stack_page(current);

	return here - end >= STACK_BYTES_MIN && rlimit(RLIMIT_FSIZE) == RLIM_INFINITY &&
		!caller_holds_bios();
}

/**
 * ploop_rq_iter() - the memory of a request
 * @req: the request
 * @iter: out
 * @gfp: for the list of segments, where one is needed
 *
 * Context: As @gfp says.
 * Return: 0, -EAGAIN (no memory now), -EIO (a request that breaks the limits).
 */
int ploop_rq_iter(struct ploop_request *req, struct iov_iter *iter, gfp_t gfp)
{
	struct request *rq = ploop_rq(req);
	unsigned int dir = op_is_write(req_op(rq)) ? ITER_SOURCE : ITER_DEST;
	struct req_iterator rq_iter;
	unsigned int count = 0;
	struct bio_vec bvec;

	rq_for_each_bvec(bvec, rq, rq_iter)
		count++;
	if (rq->bio == rq->biotail) {
		struct bio *bio = rq->bio;

		iov_iter_bvec(iter, dir, __bvec_iter_bvec(bio->bi_io_vec, bio->bi_iter), count,
			      blk_rq_bytes(rq));
		iter->iov_offset = ploop_bvec_done(&bio->bi_iter);
		return 0;
	}
	if (count > PLOOP_SEGMENTS)
		return -EIO;
	if (!req->bvecs) {
		req->bvecs = mempool_alloc(req->dev->bvec_pool, gfp);
		if (!req->bvecs)
			return -EAGAIN;
	}
	count = 0;
	rq_for_each_bvec(bvec, rq, rq_iter)
		req->bvecs[count++] = bvec;
	iov_iter_bvec(iter, dir, req->bvecs, count, blk_rq_bytes(rq));
	return 0;
}

/**
 * ploop_end() - the driver is done with a request
 * @req: not in any list; its status is set
 *
 * Context: Any context.
 */
void ploop_end(struct ploop_request *req)
{
	struct ploop_device *dev = req->dev;
	struct request *rq = ploop_rq(req);

	ploop_leave(dev, req);
	if (req->locked) {
		req->locked = false;
		ploop_cluster_unlock(dev, &req->lock);
	}
	if (req->bvecs) {
		mempool_free(req->bvecs, dev->bvec_pool);
		req->bvecs = NULL;
	}
	if (likely(!blk_should_fake_timeout(rq->q)))
		blk_mq_complete_request(rq);
}

/**
 * ploop_end_errno() - the same, with an errno
 * @req: as for ploop_end()
 * @error: 0 or an errno
 *
 * Context: Any context.
 */
void ploop_end_errno(struct ploop_request *req, int error)
{
	req->status = errno_to_blk_status(error);
	ploop_end(req);
}

/**
 * ploop_written() - a write, discard or zeroing is over: tell who watches
 * @req: still counted in
 *
 * Before it is acknowledged, and after a failure, too.
 *
 * Context: Any context.
 */
void ploop_written(struct ploop_request *req)
{
	struct ploop_device *dev = req->dev;
	struct request *rq = ploop_rq(req);

	ploop_bitmap_mark(dev, blk_rq_pos(rq), blk_rq_sectors(rq));
	if (unlikely(rcu_access_pointer(dev->track)) && req->delta)
		ploop_track_file(req->delta, ((u64)req->iblock << dev->cluster_shift) +
				 ploop_rq_offset(req), blk_rq_bytes(rq));
}

/**
 * ploop_rq_locate() - say which cluster a request is in
 * @req: counted in: so the stack, and with it the cluster's size, is the one it will meet
 *
 * Context: Any context.
 * Return: false if there is no such place: the device was stopped, or is smaller by now, or
 * the request is in two clusters, against the limits.
 */
bool ploop_rq_locate(struct ploop_request *req)
{
	struct ploop_device *dev = req->dev;
	struct request *rq = ploop_rq(req);
	u32 shift = dev->cluster_shift - SECTOR_SHIFT;
	u64 cluster = blk_rq_pos(rq) >> shift;

	if (!READ_ONCE(dev->running) || cluster >= dev->alloc->geo.clusters)
		return false;
	req->cluster = cluster;
	return !WARN_ON_ONCE((blk_rq_pos(rq) + blk_rq_sectors(rq) - 1) >> shift != cluster);
}

/**
 * ploop_rw_done() - the transfer of a request that stayed in place is over
 * @iocb: of the request
 * @res: bytes, or an errno
 *
 * Context: Any context.
 */
void ploop_rw_done(struct ploop_iocb *iocb, long res)
{
	struct ploop_request *req = container_of(iocb, struct ploop_request, io);
	struct request *rq = ploop_rq(req);
	struct ploop_device *dev = req->dev;
	bool fua = rq->cmd_flags & REQ_FUA;

	if (iocb->write)
		ploop_written(req);
	if (likely(res == blk_rq_bytes(rq))) {
		if (unlikely(iocb->write && fua && req->commit)) {
			ploop_leave(dev, req);
			ploop_commit_wait(dev, req);
			return;
		}
		req->status = BLK_STS_OK;
		ploop_end(req);
		return;
	}
	if ((res == -EAGAIN || res >= 0) && !req->retried) {
		req->retried = true;
		ploop_leave(dev, req);
		ploop_rq_queue(req);
		return;
	}
	if (res >= 0)
		res = -EIO;
	if (ploop_space_wait(req, res))
		return;
	if (iocb->write)
		ploop_write_failed(req, res);
	ploop_end_errno(req, res);
}

/**
 * ploop_rq_submit() - start the transfer of a request
 * @req: counted in; cluster, iblock and delta are set
 * @done: called once it is over, in any context
 * @flags: PLOOP_SUBMIT_*
 *
 * Context: Sleeps unless told not to.
 * Return: 0, then the request ends by itself; or an errno, then not.
 */
int ploop_rq_submit(struct ploop_request *req, void (*done)(struct ploop_iocb *iocb, long res),
		    u32 flags)
{
	struct ploop_device *dev = req->dev;
	struct request *rq = ploop_rq(req);
	struct iov_iter iter;
	int ret, sender;

	ret = ploop_rq_iter(req, &iter, flags & PLOOP_SUBMIT_NOWAIT ? GFP_NOWAIT : GFP_NOIO);
	if (ret)
		return ret;
	req->io.file = req->delta->file;
	req->io.write = op_is_write(req_op(rq));
	req->io.done = done;
	req->io.ioprio = req_get_ioprio(rq);
	/* @req may be over, and its file no longer used, before this comes back. */
	sender = srcu_read_lock(&dev->senders);
	ret = req->io.file->io->submit(&req->io, &iter,
				       ((loff_t)req->iblock << dev->cluster_shift) +
				       ploop_rq_offset(req), flags);
	srcu_read_unlock(&dev->senders, sender);
	return ret;
}

/**
 * ploop_rq_zero() - answer a read with zeros
 * @req: the read
 *
 * Context: Any context.
 */
void ploop_rq_zero(struct ploop_request *req)
{
	struct bio *bio;

	ploop_count(req->dev, zero_reads);
	__rq_for_each_bio(bio, ploop_rq(req))
		zero_fill_bio(bio);
	ploop_end_errno(req, 0);
}

/* Is a first write just sent, or does it take its time: zeros around it, a wait for its end? */
static bool first_is_sent(struct ploop_device *dev)
{
	return (dev->alloc->file->flags & PLOOP_IOF_DIRECT) && READ_ONCE(dev->alloc->can_reserve) &&
	       !ploop_swap_seen();
}

/*
 * Return: false if a worker has to do it; then @req is not counted in.  @first is set if that
 * worker will only send the first write of a cluster.
 */
static bool try_fast(struct ploop_request *req, bool callers, bool *first)
{
	struct ploop_device *dev = req->dev;
	struct request *rq = ploop_rq(req);
	bool write = op_is_write(req_op(rq));
	struct caller_state caller;
	struct ploop_delta *delta;
	u64 slot;
	int ret;

	if ((callers && !caller_is_fit()) || !ploop_enter(dev, req))
		return false;
	if (!ploop_rq_locate(req) || !ploop_map_find(dev, req->cluster, &slot) ||
	    (slot & SLOT_BUSY))
		goto slow;
	if (!slot_is_mapped(slot)) {
		*first = write && first_is_sent(dev);
		if (write || slot_iblock(slot) != PLOOP_IBLOCK_NONE)
			goto slow;
		ploop_rq_zero(req);
		return true;
	}
	delta = dev->levels[slot_level(slot)];
	if (!(delta->file->flags & PLOOP_IOF_NOWAIT))
		goto slow;
	if (write && (delta->rdonly || (slot & SLOT_PARTIAL) || (rq->cmd_flags & REQ_FUA) ||
		      READ_ONCE(dev->held.closed) || READ_ONCE(dev->aborted)))
		goto slow;
	req->iblock = slot_iblock(slot);
	req->delta = delta;
	if (callers)
		caller_set_aside(&caller);
	ret = ploop_rq_submit(req, ploop_rw_done, PLOOP_SUBMIT_NOWAIT);
	if (callers)
		caller_restore(&caller);
	if (ret)
		goto slow;
	ploop_count(dev, fast);
	return true;
slow:
	ploop_leave(dev, req);
	return false;
}

/**
 * ploop_rq_go() - send a read or write, or give it to a worker of its own
 * @req: not yet counted in
 * @callers: the context is that of whoever made the request
 *
 * Context: Process context; sleeps only to be preempted.
 */
void ploop_rq_go(struct ploop_request *req, bool callers)
{
	bool first = false;

	if (try_fast(req, callers, &first))
		return;
	ploop_count(req->dev, slow);
	/* Several threads would but spin on the lock of the host's file. */
	if (first)
		queue_work(req->dev->first_wq, &req->work);
	else
		ploop_rq_queue(req);
}

/**
 * ploop_rq_queue() - let a thread do, or try again, a request
 * @req: not counted in
 *
 * Context: Any context.
 */
void ploop_rq_queue(struct ploop_request *req)
{
	if (unlikely(ploop_rq(req)->cmd_flags & REQ_SWAP))
		ploop_swap_queue(req);
	else
		queue_work(req->dev->wq, &req->work);
}

static void count_request(struct ploop_device *dev, struct request *rq)
{
	switch (req_op(rq)) {
	case REQ_OP_READ:
		ploop_count(dev, reads);
		ploop_add(dev, read_sectors, blk_rq_sectors(rq));
		break;
	case REQ_OP_WRITE:
		ploop_count(dev, writes);
		ploop_add(dev, written_sectors, blk_rq_sectors(rq));
		if (rq->cmd_flags & REQ_FUA)
			ploop_count(dev, fua_in);
		break;
	case REQ_OP_FLUSH:
		ploop_count(dev, flushes);
		break;
	default:
		ploop_count(dev, discards);
		break;
	}
}

static blk_status_t ploop_queue_rq(struct blk_mq_hw_ctx *hctx,
				   const struct blk_mq_queue_data *bd)
{
	struct request *rq = bd->rq;
	struct ploop_request *req = blk_mq_rq_to_pdu(rq);
	struct ploop_device *dev = req->dev;

	blk_mq_start_request(rq);
	req->locked = false;
	req->in_epoch = false;
	req->retried = false;
	req->commit = false;
	req->laned = false;
	req->bvecs = NULL;
	req->delta = NULL;
	req->page = NULL;
	count_request(dev, rq);
	if (unlikely(ploop_write_refused(req)))
		return BLK_STS_IOERR;

	switch (req_op(rq)) {
	case REQ_OP_FLUSH:
		ploop_commit_wait(dev, req);
		return BLK_STS_OK;
	case REQ_OP_READ:
	case REQ_OP_WRITE:
		if (unlikely(rq->cmd_flags & REQ_SWAP)) {
			ploop_swap_came(dev);
			ploop_count(dev, slow);
			ploop_rq_queue(req);
			return BLK_STS_OK;
		}
		req->laned = true;
		if (!ploop_lane_take(hctx->driver_data, req))
			ploop_rq_go(req, true);
		return BLK_STS_OK;
	case REQ_OP_DISCARD:
		req->cluster = 0;
		ploop_count(dev, slow);
		ploop_rq_queue(req);
		return BLK_STS_OK;
	default:
		return BLK_STS_NOTSUPP;
	}
}

static void ploop_complete_rq(struct request *rq)
{
	struct ploop_request *req = blk_mq_rq_to_pdu(rq);

	if (req->laned)
		ploop_lane_done(rq);
	blk_mq_end_request(rq, req->status);
}

static int ploop_init_request(struct blk_mq_tag_set *set, struct request *rq,
			      unsigned int hctx_idx, PLOOP_NODE numa_node)
{
	struct ploop_request *req = blk_mq_rq_to_pdu(rq);

	req->dev = set->driver_data;
	INIT_WORK(&req->work, ploop_slow_work);
	INIT_LIST_HEAD(&req->list);
	return 0;
}

const struct blk_mq_ops ploop_mq_ops = {
	.queue_rq = ploop_queue_rq,
	.complete = ploop_complete_rq,
	.init_hctx = ploop_lane_init,
	.init_request = ploop_init_request,
};
