// SPDX-License-Identifier: GPL-2.0
/*
 * Requests that need a thread: pages of the map to be read, first writes, copies
 * from lower levels, and what the fast path could not do at once.
 *
 * A request is done from its start each time its work runs, so it may stop
 * anywhere, give up what it holds, wait in some list, and begin anew.  The exception is a
 * first write whose transfer was sent: it has its cluster.
 */
#include <linux/sched/mm.h>
#include "core.h"

static int copy_range(struct ploop_delta *from, loff_t from_pos, struct ploop_delta *to,
		      loff_t to_pos, u32 len)
{
	struct page *pages = mempool_alloc(to->dev->copy_pool, GFP_NOIO);
	int ret = 0;

	while (len > 0 && ret == 0) {
		u32 part = min(len, PLOOP_COPY_BYTES);

		ret = ploop_file_pages(from->file, false, from_pos, pages, part);
		if (ret == 0)
			ret = ploop_file_pages(to->file, true, to_pos, pages, part);
		from_pos += part;
		to_pos += part;
		len -= part;
	}
	mempool_free(pages, to->dev->copy_pool);
	return ret;
}

/**
 * ploop_copy() - copy a part of a cluster from one place to another
 * @from: which file
 * @from_iblock: which cluster of it
 * @to: which file
 * @to_iblock: which cluster of it
 * @offset: in the cluster
 * @len: bytes
 *
 * A raw file may end within its last cluster; what is behind reads as zeros.
 *
 * Context: Process context; sleeps.
 * Return: 0 or an errno.
 */
int ploop_copy(struct ploop_delta *from, u32 from_iblock, struct ploop_delta *to, u32 to_iblock,
	       u32 offset, u32 len)
{
	u32 shift = to->dev->cluster_shift;
	loff_t from_pos = ((loff_t)from_iblock << shift) + offset;
	loff_t to_pos = ((loff_t)to_iblock << shift) + offset;
	u32 there = len;
	int ret;

	if (!(from->fmt->flags & PLOOP_FMTF_TABLE)) {
		u64 end = from->geo.sectors << SECTOR_SHIFT;

		there = clamp_t(s64, (s64)end - from_pos, 0, len);
	}
	ret = copy_range(from, from_pos, to, to_pos, there);
	if (ret == 0 && there < len)
		ret = ploop_file_zero(to->file, to_pos + there, len - there);
	return ret;
}

static bool request_is_zero(struct ploop_request *req)
{
	struct req_iterator iter;
	struct bio_vec bvec;

	/* Two loops in one macro: leave by return, not by break. */
	rq_for_each_segment(bvec, ploop_rq(req), iter) {
		char *data = bvec_kmap_local(&bvec);
		bool zero = !memchr_inv(data, 0, bvec.bv_len);

		kunmap_local(data);
		if (!zero)
			return false;
	}
	return true;
}

/* All of a new cluster that the request doesn't write. */
static int fill_around(struct ploop_request *req, u64 old, u32 iblock, bool zero, bool *partial)
{
	struct ploop_device *dev = req->dev;
	struct ploop_delta *to = dev->alloc;
	u32 offset = ploop_rq_offset(req), end = offset + blk_rq_bytes(ploop_rq(req));
	u32 size = ploop_cluster_bytes(dev);
	u64 base = (u64)iblock << dev->cluster_shift;
	int ret;

	*partial = false;
	if (end - offset == size)
		return 0;
	if (slot_is_mapped(old)) {
		struct ploop_delta *from = dev->levels[slot_level(old)];

		ploop_count(dev, copies);
		ret = ploop_copy(from, slot_iblock(old), to, iblock, 0, offset);
		if (ret == 0)
			ret = ploop_copy(from, slot_iblock(old), to, iblock, end, size - end);
		return ret;
	}
	if (zero && ploop_partial_add(to, iblock)) {
		*partial = !ploop_partial_mark(to, iblock, offset, end - offset);
		return 0;
	}
	ret = ploop_file_zero(to->file, base, offset);
	if (ret == 0)
		ret = ploop_file_zero(to->file, base + end, size - end);
	return ret;
}

/* Nobody knows how much of a write was done. */
static void submit_failed(struct ploop_request *req, int error)
{
	bool write = op_is_write(req_op(ploop_rq(req)));

	if (write)
		ploop_written(req);
	if (ploop_space_wait(req, error))
		return;
	if (write)
		ploop_write_failed(req, error);
	ploop_end_errno(req, error);
}

/* A first write is done.  Any context. */
static void new_over(struct ploop_request *req)
{
	ploop_written(req);
	if (ploop_rq(req)->cmd_flags & REQ_FUA) {
		ploop_leave(req->dev, req);
		ploop_commit_wait(req->dev, req);
	} else {
		ploop_end_errno(req, 0);
	}
}

/* The data of a first write is in its cluster: show that in the map.  Any context. */
static void new_show(struct ploop_request *req)
{
	struct ploop_device *dev = req->dev;
	struct ploop_map_page *page = req->page;
	struct ploop_delta *delta = req->delta;
	u64 slot = slot_make(req->iblock, delta->level) | SLOT_PENDING |
		   (req->partial ? SLOT_PARTIAL : 0);

	ploop_count(dev, allocations);
	ploop_space_found(dev);
	ploop_track_file(delta, (u64)req->iblock << dev->cluster_shift, ploop_cluster_bytes(dev));
	req->page = NULL;
	/* Listed first: a commit that begins now has the data to sync. */
	ploop_map_pin_again(page);
	ploop_pending_add(dev, page, req->cluster, req->iblock, PLOOP_IBLOCK_NONE);
	atomic64_set(ploop_map_slot(page, req->cluster), slot);
	ploop_map_put(page);
	new_over(req);
}

/* Process context. */
static void new_failed(struct ploop_request *req, int error)
{
	struct ploop_map_page *page = req->page;

	req->page = NULL;
	ploop_map_put(page);
	submit_failed(req, error);
}

static void new_done(struct ploop_iocb *iocb, long res)
{
	struct ploop_request *req = container_of(iocb, struct ploop_request, io);

	if (likely(res == blk_rq_bytes(ploop_rq(req))))
		new_show(req);
	else
		ploop_rq_queue(req);
}

/* What did not get through, or not in one piece, is written once more, and waited for. */
static void new_again(struct ploop_request *req)
{
	struct ploop_delta *delta = req->delta;
	struct iov_iter iter;
	int ret;

	ret = ploop_rq_iter(req, &iter, GFP_NOIO);
	if (ret == 0)
		ret = delta->file->io->rw(delta->file, true, &iter,
					  ((loff_t)req->iblock << req->dev->cluster_shift) +
					  ploop_rq_offset(req));
	if (ret == 0) {
		new_show(req);
		return;
	}
	/* Its record stays: a part may have been written. */
	ploop_alloc_free(delta, req->iblock);
	new_failed(req, ret);
}

/*
 * Put a first write into a new cluster, and give @page up.  The transfer is not waited for: that
 * would hold the lock of the host's file, which all other first writes need, until it is over.
 */
static void first_write(struct ploop_request *req, struct ploop_map_page *page)
{
	u64 old = atomic64_read(ploop_map_slot(page, req->cluster));
	struct ploop_device *dev = req->dev;
	struct ploop_delta *delta = dev->alloc;
	bool zero;
	int ret;

	if (!slot_is_mapped(old) && dev->check_zeros && request_is_zero(req)) {
		ploop_count(dev, zero_writes);
		ploop_map_put(page);
		new_over(req);
		return;
	}
	req->page = page;
	ret = ploop_alloc(delta, &req->iblock, &zero);
	if (ret) {
		new_failed(req, ret);
		return;
	}
	req->delta = delta;
	ret = fill_around(req, old, req->iblock, zero, &req->partial);
	if (ret == 0)
		ret = ploop_rq_submit(req, new_done, ploop_swap_seen() ? PLOOP_SUBMIT_SYNC : 0);
	if (ret) {
		/* Its record stays: a part may have been written. */
		ploop_alloc_free(delta, req->iblock);
		new_failed(req, ret);
	}
}

/* What is to be known of a write in place before it starts.  Return: PLOOP_SUBMIT_*. */
static u32 write_flags(struct ploop_request *req, struct ploop_map_page *page, u64 slot)
{
	u32 flags = 0;

	if ((slot & SLOT_PARTIAL) && ploop_swap_seen())
		flags |= PLOOP_SUBMIT_SYNC;
	if ((slot & SLOT_PARTIAL) &&
	    ploop_partial_mark(req->delta, req->iblock, ploop_rq_offset(req),
			       blk_rq_bytes(ploop_rq(req))))
		ploop_slot_change(ploop_map_slot(page, req->cluster), slot, SLOT_PARTIAL, 0);
	if (ploop_rq(req)->cmd_flags & REQ_FUA) {
		if (slot & SLOT_PENDING) {
			req->commit = true;
		} else {
			ploop_count(req->dev, fua_out);
			flags |= PLOOP_SUBMIT_FUA;
		}
	}
	return flags;
}

/* Before it waits for others: nobody shall have to wait for @req. */
static void step_out(struct ploop_request *req)
{
	struct ploop_device *dev = req->dev;

	ploop_leave(dev, req);
	if (req->locked) {
		req->locked = false;
		ploop_cluster_unlock(dev, &req->lock);
	}
}

/*
 * Give @page back first: once the request is over the device may be quiesced, and the map
 * dropped, before this thread goes on.
 */
static int submit_mapped(struct ploop_request *req, struct ploop_map_page *page, u64 slot)
{
	u32 flags = 0;

	req->iblock = slot_iblock(slot);
	req->delta = req->dev->levels[slot_level(slot)];
	if (op_is_write(req_op(ploop_rq(req))))
		flags = write_flags(req, page, slot);
	if (page)
		ploop_map_put(page);
	return ploop_rq_submit(req, ploop_rw_done, flags);
}

/* A cluster is to be allocated, and its lock is held.  Return as slow_rw_once(). */
static bool slow_first(struct ploop_request *req, struct ploop_map_page *page)
{
	struct ploop_device *dev = req->dev;

	/* A lone raw file has every cluster, and is written in place. */
	if (WARN_ON_ONCE(!page)) {
		ploop_end_errno(req, -EIO);
		return true;
	}
	if (!ploop_pending_room(dev)) {
		ploop_map_put(page);
		if (ploop_space_wait(req, READ_ONCE(dev->commit_stuck)))
			return true;
		step_out(req);
		return ploop_park(&dev->full, req);
	}
	first_write(req, page);
	return true;
}

/* One attempt.  Return: true if @req ended or waits, false to try again. */
static bool slow_rw_once(struct ploop_request *req)
{
	struct ploop_device *dev = req->dev;
	bool write = op_is_write(req_op(ploop_rq(req)));
	struct ploop_map_page *page = NULL;
	int ret = -EIO;
	u64 slot;

	if (!ploop_enter(dev, req))
		return ploop_park(&dev->gate, req);
	if (!ploop_rq_locate(req) || ploop_write_refused(req) ||
	    (write && READ_ONCE(dev->aborted)))
		goto end;
	if (write && READ_ONCE(dev->held.closed)) {
		step_out(req);
		return ploop_wait(&dev->held, req);
	}
	if (write && unlikely(ploop_host_frozen(dev)) && ploop_space_wait(req, -EBUSY))
		return true;
	slot = slot_make(req->cluster, 0);
	if (!dev->identity) {
		page = ploop_map_get(dev, req->cluster);
		ret = PTR_ERR_OR_ZERO(page);
		if (ret)
			goto end_nopage;
		slot = atomic64_read(ploop_map_slot(page, req->cluster));
	}
	if (slot_iblock(slot) == PLOOP_IBLOCK_BAD) {
		ret = -EIO;
		goto end;
	}
	if (!(slot & SLOT_BUSY)) {
		if (!write && !slot_is_mapped(slot)) {
			if (page)
				ploop_map_put(page);
			ploop_rq_zero(req);
			return true;
		}
		if (slot_is_mapped(slot) && (!write || !dev->levels[slot_level(slot)]->rdonly)) {
			ret = submit_mapped(req, page, slot);
			if (ret)
				submit_failed(req, ret);
			return true;
		}
		if (req->locked)
			return slow_first(req, page);
	}
	/* Somebody moves the cluster, or it is to be allocated. */
	if (page)
		ploop_map_put(page);
	if (req->locked) {
		ploop_leave(dev, req);
		req->locked = false;
		ploop_cluster_unlock(dev, &req->lock);
		return false;
	}
	if (!ploop_cluster_trylock(dev, req, req->cluster))
		return true;
	ploop_leave(dev, req);
	return false;
end:
	if (!IS_ERR_OR_NULL(page))
		ploop_map_put(page);
end_nopage:
	if (ploop_space_wait(req, ret))
		return true;
	ploop_end_errno(req, ret);
	return true;
}

/**
 * ploop_slow_work() - do a request in a thread
 * @work: of the request
 */
void ploop_slow_work(struct work_struct *work)
{
	struct ploop_request *req = container_of(work, struct ploop_request, work);
	bool swap = ploop_rq(req)->cmd_flags & REQ_SWAP;
	unsigned int noio = memalloc_noio_save(), reserves = 0;

	/* It makes memory free: it may take what is left, as its sender could. */
	if (swap)
		reserves = memalloc_noreclaim_save();

	if (unlikely(req->page))
		new_again(req);
	else if (req_op(ploop_rq(req)) == REQ_OP_DISCARD)
		ploop_discard(req);
	else
		while (!slow_rw_once(req))
			;
	if (swap)
		memalloc_noreclaim_restore(reserves);
	memalloc_noio_restore(noio);
}
