// SPDX-License-Identifier: GPL-2.0
/*
 * Transfers over the file's own read_iter and write_iter.
 *
 * Any file system that can do direct I/O works, since nothing here knows where
 * on its medium a file is.  Writes hold the host file system's freeze
 * protection from start to completion: a frozen host sees no changes.
 *
 * What may sleep is done by threads of the kernel only, since a signal to another task
 * would end its waits; see core/call.c.
 */
#include <linux/blkdev.h>
#include <linux/falloc.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/stat.h>
#include "../compat.h"
#include "../include/ploop_io.h"

/* Copied in one go where alignment is wanting. */
#define BOUNCE_BYTES	(64u << 10)

static bool aligned(const struct ploop_file *file, const struct iov_iter *iter, loff_t pos)
{
	u64 bits = (u64)pos | iov_iter_count(iter);

	if (bits & file->align_mask)
		return false;
	return !(iov_iter_alignment(iter) & file->align_mask);
}

static void kiocb_complete(struct kiocb *kiocb, long res)
{
	struct ploop_iocb *iocb = container_of(kiocb, struct ploop_iocb, kiocb);

	if (iocb->write)
		ploop_end_write(kiocb);
	iocb->done(iocb, res);
}

static int kiocb_call(struct kiocb *kiocb, struct iov_iter *iter, bool write)
{
	struct file *file = kiocb->ki_filp;

	/* File systems rely on their callers for that. */
	if (WARN_ON_ONCE(write && !(file->f_mode & FMODE_WRITE)))
		return -EBADF;
	return write ? file->f_op->write_iter(kiocb, iter) : file->f_op->read_iter(kiocb, iter);
}

struct submit_call {
	struct ploop_iocb *iocb;
	struct iov_iter *iter;
	loff_t pos;
	u32 flags;
};

static int submit_call(void *arg)
{
	struct submit_call *call = arg;

	return ploop_kiocb_submit(call->iocb, call->iter, call->pos, call->flags);
}

/**
 * ploop_kiocb_submit() - see &struct ploop_io
 * @iocb: with file, done and write filled
 * @iter: the memory; may be changed
 * @pos: byte offset in the file
 * @flags: PLOOP_SUBMIT_*
 *
 * Context: Process context; sleeps unless told not to.
 * Return: see &struct ploop_io.
 */
int ploop_kiocb_submit(struct ploop_iocb *iocb, struct iov_iter *iter, loff_t pos, u32 flags)
{
	struct ploop_file *pf = iocb->file;
	struct kiocb *kiocb = &iocb->kiocb;
	int ret;

	if (unlikely(!(flags & PLOOP_SUBMIT_NOWAIT) && !(current->flags & PF_KTHREAD))) {
		struct submit_call call = { iocb, iter, pos, flags };

		return ploop_call(submit_call, &call);
	}
	if (!(pf->flags & PLOOP_IOF_DIRECT) || (flags & PLOOP_SUBMIT_SYNC) ||
	    !aligned(pf, iter, pos)) {
		size_t len = iov_iter_count(iter);

		/* Or through the page cache, which can't promise not to sleep. */
		if (flags & PLOOP_SUBMIT_NOWAIT)
			return -EAGAIN;
		ret = pf->io->rw(pf, iocb->write, iter, pos);
		if (ret == 0 && (flags & PLOOP_SUBMIT_FUA)) {
			ret = vfs_fsync_range(pf->file, pos, pos + len - 1, 1);
			/*
			 * It may be about earlier writes, and is told once: final, whatever it is.
			 * But want of memory loses nothing where the page cache has nothing.
			 */
			if (ret != 0 && !(ret == -ENOMEM && (pf->flags & PLOOP_IOF_DIRECT)))
				ret = -EIO;
		}
		if (ret != 0)
			return ret;
		iocb->done(iocb, len);
		return 0;
	}

	memset(kiocb, 0, sizeof(*kiocb));
	kiocb->ki_filp = pf->file;
	kiocb->ki_pos = pos;
	kiocb->ki_flags = IOCB_DIRECT;
	kiocb->ki_complete = kiocb_complete;
	kiocb->ki_ioprio = iocb->ioprio;
	if (flags & PLOOP_SUBMIT_NOWAIT)
		kiocb->ki_flags |= IOCB_NOWAIT;
	if (flags & PLOOP_SUBMIT_FUA)
		kiocb->ki_flags |= IOCB_DSYNC;

	if (iocb->write) {
		struct super_block *sb = file_inode(pf->file)->i_sb;

		if (flags & PLOOP_SUBMIT_NOWAIT) {
			if (!sb_start_write_trylock(sb))
				return -EAGAIN;
		} else {
			sb_start_write(sb);
		}
		/* The completion runs elsewhere and gives it back there. */
		__sb_writers_release(sb, SB_FREEZE_WRITE);
	}

	this_cpu_inc(*pf->ios);
	ret = kiocb_call(kiocb, iter, iocb->write);
	if (ret == -EIOCBQUEUED)
		return 0;
	if (ret < 0) {
		if (iocb->write)
			ploop_end_write(kiocb);
		return ret;
	}
	kiocb_complete(kiocb, ret);
	return 0;
}
EXPORT_SYMBOL_GPL(ploop_kiocb_submit);

/* Directly or through the page cache; what was written through it is sent on at once. */
static int transfer(struct ploop_file *pf, bool write, struct iov_iter *iter, loff_t pos,
		    bool direct)
{
	loff_t start = pos;
	int ret = 0;

	if (write)
		file_start_write(pf->file);
	while (iov_iter_count(iter) > 0) {
		struct kiocb kiocb;

		init_sync_kiocb(&kiocb, pf->file);
		kiocb.ki_pos = pos;
		kiocb.ki_flags &= ~(IOCB_DIRECT | IOCB_APPEND);
		if (direct)
			kiocb.ki_flags |= IOCB_DIRECT;
		this_cpu_inc(*pf->ios);
		ret = kiocb_call(&kiocb, iter, write);
		if (ret <= 0) {
			ret = ret == 0 ? -EIO : ret;
			break;
		}
		pos += ret;
		ret = 0;
		if (direct && iov_iter_count(iter) > 0 && !aligned(pf, iter, pos))
			direct = false;
	}
	if (write)
		file_end_write(pf->file);
	if (ret == 0 && write && !direct && (pf->flags & PLOOP_IOF_DIRECT))
		ret = filemap_write_and_wait_range(pf->file->f_mapping, start, pos - 1);
	return ret;
}

/* Through our pages: the blocks that [pos, pos + len) touches, @pages have room for them. */
static int bounce_part(struct ploop_file *pf, bool write, struct iov_iter *iter, loff_t pos,
		       u32 len, struct page *pages)
{
	loff_t start = pos & ~(loff_t)pf->align_mask;
	u32 bytes = ((pos + len + pf->align_mask) & ~(loff_t)pf->align_mask) - start;
	bool edges = bytes > len;
	struct bio_vec bvec = { .bv_page = pages, .bv_len = bytes };
	void *data = page_address(pages) + (pos - start);
	struct iov_iter blocks;
	int ret = 0;

	/* A file need not end with a block, and must not get longer by this. */
	if (edges && start + bytes > i_size_read(file_inode(pf->file))) {
		struct iov_iter some = *iter;

		iov_iter_truncate(&some, len);
		iov_iter_advance(iter, len);
		return transfer(pf, write, &some, pos, false);
	}
	if (write && edges)
		mutex_lock(&pf->edge_lock);
	if (!write || edges) {
		iov_iter_bvec(&blocks, ITER_DEST, &bvec, 1, bytes);
		ret = transfer(pf, false, &blocks, start, true);
	}
	if (ret == 0 && !write && copy_to_iter(data, len, iter) != len)
		ret = -EIO;
	if (ret == 0 && write) {
		if (copy_from_iter(data, len, iter) != len)
			ret = -EIO;
		iov_iter_bvec(&blocks, ITER_SOURCE, &bvec, 1, bytes);
		if (ret == 0)
			ret = transfer(pf, true, &blocks, start, true);
	}
	if (write && edges)
		mutex_unlock(&pf->edge_lock);
	return ret;
}

/*
 * What direct I/O cannot do for want of alignment, by memory of our own: blocks that are
 * written in part are read first.  Not by the page cache: it may write back more
 * than was put into it, over what a direct write did meanwhile.
 */
static int bounce(struct ploop_file *pf, bool write, struct iov_iter *iter, loff_t pos)
{
	unsigned int order = get_order(max_t(u32, pf->align_mask + 1, BOUNCE_BYTES));
	struct page *pages;
	int ret = 0;

	pages = alloc_pages(GFP_NOIO | __GFP_NORETRY | __GFP_NOWARN, order);
	if (!pages) {
		order = get_order(pf->align_mask + 1);
		pages = alloc_pages(GFP_NOIO, order);
	}
	if (!pages)
		return -ENOMEM;
	while (iov_iter_count(iter) > 0 && ret == 0) {
		u32 room = (PAGE_SIZE << order) - (pos & pf->align_mask);
		u32 len = min_t(size_t, iov_iter_count(iter), room);

		ret = bounce_part(pf, write, iter, pos, len, pages);
		pos += len;
	}
	__free_pages(pages, order);
	return ret;
}

struct rw_call {
	struct ploop_file *pf;
	bool write;
	struct iov_iter *iter;
	loff_t pos;
};

static int rw_call(void *arg)
{
	struct rw_call *call = arg;
	struct ploop_file *pf = call->pf;
	bool direct = pf->flags & PLOOP_IOF_DIRECT;

	if (direct && !aligned(pf, call->iter, call->pos))
		return bounce(pf, call->write, call->iter, call->pos);
	return transfer(pf, call->write, call->iter, call->pos, direct);
}

/**
 * ploop_kiocb_rw() - see &struct ploop_io
 * @pf: the file
 * @write: direction
 * @iter: the memory; is used up
 * @pos: byte offset in the file
 *
 * A transfer the file system does in pieces is gone on with.
 *
 * Context: Process context; sleeps.
 * Return: see &struct ploop_io.
 */
int ploop_kiocb_rw(struct ploop_file *pf, bool write, struct iov_iter *iter, loff_t pos)
{
	struct rw_call call = { .pf = pf, .write = write, .iter = iter, .pos = pos };

	return ploop_call(rw_call, &call);
}
EXPORT_SYMBOL_GPL(ploop_kiocb_rw);

static int sync_call(void *arg)
{
	struct ploop_file *pf = arg;

	this_cpu_inc(*pf->ios);
	return vfs_fsync(pf->file, 1);
}

/**
 * ploop_kiocb_sync() - see &struct ploop_io
 * @pf: the file
 *
 * Context: Process context; sleeps.
 * Return: 0 or an errno.
 */
int ploop_kiocb_sync(struct ploop_file *pf)
{
	return ploop_call(sync_call, pf);
}
EXPORT_SYMBOL_GPL(ploop_kiocb_sync);

struct space_call {
	struct ploop_file *pf;
	int mode;
	loff_t pos;
	loff_t len;
};

static int fallocate_call(void *arg)
{
	struct space_call *call = arg;

	this_cpu_inc(*call->pf->ios);
	return vfs_fallocate(call->pf->file, call->mode, call->pos, call->len);
}

/**
 * ploop_kiocb_reserve() - see &struct ploop_io
 * @pf: the file
 * @pos: first byte
 * @len: how many
 * @flags: PLOOP_RESERVE_*
 *
 * Context: Process context; sleeps.
 * Return: see &struct ploop_io.
 */
int ploop_kiocb_reserve(struct ploop_file *pf, loff_t pos, loff_t len, u32 flags)
{
	struct space_call call = {
		.pf = pf, .pos = pos, .len = len,
		.mode = flags & PLOOP_RESERVE_ZERO ? FALLOC_FL_ZERO_RANGE : 0,
	};

	return ploop_call(fallocate_call, &call);
}
EXPORT_SYMBOL_GPL(ploop_kiocb_reserve);

/**
 * ploop_kiocb_punch() - see &struct ploop_io
 * @pf: the file
 * @pos: first byte
 * @len: how many
 *
 * Context: Process context; sleeps.
 * Return: see &struct ploop_io.
 */
int ploop_kiocb_punch(struct ploop_file *pf, loff_t pos, loff_t len)
{
	struct space_call call = {
		.pf = pf, .pos = pos, .len = len,
		.mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
	};

	return ploop_call(fallocate_call, &call);
}
EXPORT_SYMBOL_GPL(ploop_kiocb_punch);

static int truncate_call(void *arg)
{
	struct space_call *call = arg;

	this_cpu_inc(*call->pf->ios);
	return vfs_truncate(&call->pf->file->f_path, call->pos);
}

/**
 * ploop_kiocb_truncate() - see &struct ploop_io
 * @pf: the file
 * @size: new length
 *
 * Context: Process context; sleeps.
 * Return: 0 or an errno.
 */
int ploop_kiocb_truncate(struct ploop_file *pf, loff_t size)
{
	struct space_call call = { .pf = pf, .pos = size };

	if (WARN_ON_ONCE(!(pf->file->f_mode & FMODE_WRITE)))
		return -EBADF;
	return ploop_call(truncate_call, &call);
}
EXPORT_SYMBOL_GPL(ploop_kiocb_truncate);

/**
 * ploop_kiocb_limits() - fill what the file system tells
 * @pf: align_mask and block_bytes are set
 *
 * Context: Process context; may sleep.
 */
void ploop_kiocb_limits(struct ploop_file *pf)
{
	struct inode *inode = file_inode(pf->file);
	struct kstat stat;
	u32 align = SECTOR_SIZE;

	if (inode->i_sb->s_bdev)
		align = bdev_logical_block_size(inode->i_sb->s_bdev);
	if (vfs_getattr(&pf->file->f_path, &stat, STATX_DIOALIGN, AT_STATX_SYNC_AS_STAT) == 0 &&
	    (stat.result_mask & STATX_DIOALIGN) && stat.dio_offset_align != 0)
		align = max(stat.dio_offset_align, stat.dio_mem_align);
	pf->align_mask = align - 1;
	pf->block_bytes = clamp_t(u32, i_blocksize(inode), SECTOR_SIZE, 1u << 16);
}
EXPORT_SYMBOL_GPL(ploop_kiocb_limits);
