// SPDX-License-Identifier: GPL-2.0
/*
 * Files of deltas: opening, and who uses which.
 *
 * A file is opened anew, so that the flags set here affect nobody else's
 * descriptor.  Read-only levels are neither made immutable nor protected from
 * writers: the tools merge into them while they are attached.  What has to be
 * prevented is two devices writing one file: a table keyed by inode allows many
 * readers or one writer.
 */
#include <linux/cred.h>
#include <linux/file.h>
#include <linux/pagemap.h>
#include <uapi/linux/magic.h>
#include "core.h"

/* <linux/magic.h> doesn't have it. */
#define PLOOP_BCACHEFS_MAGIC 0xca451a4e

struct used_inode {
	struct list_head list;
	struct inode *inode;
	u32 readers;
	bool writer;
};

static DEFINE_MUTEX(used_lock);
static LIST_HEAD(used_inodes);

static int inode_claim(struct inode *inode, bool write)
{
	struct used_inode *used, *fresh;
	int ret = 0;

	fresh = kzalloc(sizeof(*fresh), GFP_KERNEL);
	if (!fresh)
		return -ENOMEM;
	mutex_lock(&used_lock);
	list_for_each_entry(used, &used_inodes, list) {
		if (used->inode != inode)
			continue;
		if (write)
			ret = -EBUSY;
		else if (used->writer)
			ret = -ETXTBSY;
		else
			used->readers++;
		goto out;
	}
	fresh->inode = inode;
	fresh->writer = write;
	fresh->readers = !write;
	list_add(&fresh->list, &used_inodes);
	fresh = NULL;
out:
	mutex_unlock(&used_lock);
	kfree(fresh);
	return ret;
}

static void inode_release(struct inode *inode, bool write)
{
	struct used_inode *used;

	mutex_lock(&used_lock);
	list_for_each_entry(used, &used_inodes, list) {
		if (used->inode != inode)
			continue;
		if (write)
			used->writer = false;
		else
			used->readers--;
		if (!used->writer && used->readers == 0) {
			list_del(&used->list);
			kfree(used);
		}
		break;
	}
	mutex_unlock(&used_lock);
}

/**
 * ploop_file_reclaim() - change between reading and writing
 * @file: open; the table has it as it was
 * @write: what it shall be
 *
 * A file that others read cannot become writable.
 *
 * Context: Process context; sleeps.
 * Return: 0, -EBUSY.
 */
int ploop_file_reclaim(struct ploop_file *file, bool write)
{
	struct used_inode *used;
	int ret = -EBUSY;

	mutex_lock(&used_lock);
	list_for_each_entry(used, &used_inodes, list) {
		if (used->inode != file_inode(file->file))
			continue;
		if (write && !used->writer && used->readers == 1) {
			used->writer = true;
			used->readers = 0;
			ret = 0;
		} else if (!write && used->writer) {
			used->writer = false;
			used->readers++;
			ret = 0;
		}
		break;
	}
	mutex_unlock(&used_lock);
	if (ret == 0)
		file->writable = write;
	return ret;
}

static struct file *file_reopen(const struct path *path, bool write)
{
	struct file *own;

	own = dentry_open(path, (write ? O_RDWR : O_RDONLY) | O_LARGEFILE, current_cred());
	if (!IS_ERR(own)) {
		spin_lock(&own->f_lock);
		/* No time stamps: each would need a transaction.  See ploop_file_touch(). */
		own->f_mode |= FMODE_NOCMTIME;
		spin_unlock(&own->f_lock);
	}
	return own;
}

static struct ploop_file *file_alloc(struct ploop_device *dev)
{
	struct ploop_file *file = kzalloc(sizeof(*file), GFP_KERNEL);

	if (!file)
		return NULL;
	mutex_init(&file->edge_lock);
	file->ios = &dev->stats->ios;
	return file;
}

/**
 * ploop_file_open() - open a file for a device
 * @dev: the device
 * @source: the caller's open file
 * @write: for writing, too
 * @io_id: PLOOP_IO_*
 *
 * Context: Process context; sleeps.
 * Return: to be given to ploop_file_close(), or an ERR_PTR: -EINVAL (no regular
 * file, or on the device itself), -EBUSY, -ETXTBSY, -EOPNOTSUPP, ...
 */
struct ploop_file *ploop_file_open(struct ploop_device *dev, struct file *source, bool write,
				   u32 io_id)
{
	struct inode *inode = file_inode(source);
	struct ploop_file *file;
	int ret;

	if (!S_ISREG(inode->i_mode))
		return ERR_PTR(-EINVAL);
	if (inode->i_sb->s_bdev && inode->i_sb->s_bdev->bd_disk == dev->disk)
		return ERR_PTR(-EINVAL);
	if (IS_SWAPFILE(inode))
		return ERR_PTR(write ? -EBUSY : -ETXTBSY);
	if (!source->f_op->read_iter || (write && !source->f_op->write_iter))
		return ERR_PTR(-EOPNOTSUPP);
	ret = inode_claim(inode, write);
	if (ret)
		return ERR_PTR(ret);
	ret = -ENOMEM;
	file = file_alloc(dev);
	if (!file)
		goto release;
	file->file = file_reopen(&source->f_path, write);
	if (IS_ERR(file->file)) {
		ret = PTR_ERR(file->file);
		goto free;
	}
	file->writable = write;
	ret = ploop_io_find(file, io_id);
	if (ret)
		goto put;
	/* Pages in the cache would send each direct transfer the slow way. */
	ret = filemap_write_and_wait(inode->i_mapping);
	if (ret)
		goto put_io;
	if (file->flags & PLOOP_IOF_DIRECT)
		invalidate_inode_pages2(inode->i_mapping);
	return file;

put_io:
	ploop_io_put(file);
put:
	fput(file->file);
free:
	kfree(file);
release:
	inode_release(inode, write);
	return ERR_PTR(ret);
}

/**
 * ploop_file_writable() - open a read-only file for writing in addition
 * @dev: the device
 * @old: open; stays so
 *
 * The table still has it once; see ploop_file_reclaim().
 *
 * Context: Process context; sleeps.
 * Return: as ploop_file_open().
 */
struct ploop_file *ploop_file_writable(struct ploop_device *dev, struct ploop_file *old)
{
	struct ploop_file *file;
	int ret;

	file = file_alloc(dev);
	if (!file)
		return ERR_PTR(-ENOMEM);
	file->file = file_reopen(&old->file->f_path, true);
	if (IS_ERR(file->file)) {
		ret = PTR_ERR(file->file);
		goto free;
	}
	ret = ploop_io_find(file, old->io->id);
	if (ret)
		goto put;
	return file;
put:
	fput(file->file);
free:
	kfree(file);
	return ERR_PTR(ret);
}

/**
 * ploop_file_drop() - close without touching the table of used files
 * @dev: the device
 * @file: of ploop_file_writable(), or replaced by it; no request uses it
 *
 * Waits for those who sent a request that is over, but are still in the host's file
 * system to give up its locks.  They count for their device only: one whose images
 * are on another ploop device would otherwise have to wait for that one's requests.
 *
 * Context: Process context; sleeps.
 */
void ploop_file_drop(struct ploop_device *dev, struct ploop_file *file)
{
	synchronize_srcu(&dev->senders);
	ploop_io_put(file);
	fput(file->file);
	kfree(file);
}

/**
 * ploop_file_close() - undo ploop_file_open()
 * @dev: the device
 * @file: nothing is under way
 *
 * Context: Process context; sleeps.
 */
void ploop_file_close(struct ploop_device *dev, struct ploop_file *file)
{
	inode_release(file_inode(file->file), file->writable);
	ploop_file_drop(dev, file);
}

/**
 * ploop_file_pages() - transfer between a file and pages, and wait
 * @file: the file
 * @write: direction
 * @pos: byte offset in the file
 * @pages: contiguous pages of memory
 * @len: bytes
 *
 * Context: Process context; sleeps.
 * Return: 0 or an errno.
 */
int ploop_file_pages(struct ploop_file *file, bool write, loff_t pos, struct page *pages, u32 len)
{
	struct bio_vec bvec = { .bv_page = pages, .bv_len = len };
	struct iov_iter iter;

	iov_iter_bvec(&iter, write ? ITER_SOURCE : ITER_DEST, &bvec, 1, len);
	return file->io->rw(file, write, &iter, pos);
}

struct queued_write {
	struct ploop_iocb io;
	struct completion over;
	long res;
};

static void queued_write_done(struct ploop_iocb *iocb, long res)
{
	struct queued_write *write = container_of(iocb, struct queued_write, io);

	write->res = res;
	complete(&write->over);
}

/**
 * ploop_file_write_queued() - write a page, and wait
 * @file: the file
 * @pos: byte offset in the file
 * @page: what
 *
 * Sent the way requests are.  The first write that a super block is sent so makes it
 * allocate a workqueue, which should happen when an image is opened and not when a
 * request has to be served that somebody short of memory waits for.
 *
 * Context: Process context; sleeps.
 * Return: 0 or an errno.
 */
int ploop_file_write_queued(struct ploop_file *file, loff_t pos, struct page *page)
{
	struct bio_vec bvec = { .bv_page = page, .bv_len = PAGE_SIZE };
	struct queued_write write = {
		.io = { .file = file, .write = true, .done = queued_write_done },
		.over = COMPLETION_INITIALIZER_ONSTACK(write.over),
	};
	struct iov_iter iter;
	int ret;

	iov_iter_bvec(&iter, ITER_SOURCE, &bvec, 1, PAGE_SIZE);
	ret = file->io->submit(&write.io, &iter, pos, 0);
	if (ret)
		return ret;
	wait_for_completion_io(&write.over);
	if (write.res == PAGE_SIZE)
		return 0;
	return write.res < 0 ? write.res : -EIO;
}

/**
 * ploop_file_zero() - write zeros, and wait
 * @file: the file
 * @pos: byte offset in the file
 * @len: bytes
 *
 * Context: Process context; sleeps.
 * Return: 0 or an errno.
 */
int ploop_file_zero(struct ploop_file *file, loff_t pos, u64 len)
{
	struct bio_vec bvecs[16];
	unsigned int i;

	while (len > 0) {
		u32 part = min_t(u64, len, ARRAY_SIZE(bvecs) * PAGE_SIZE);
		u32 left = part;
		struct iov_iter iter;
		int ret;

		for (i = 0; left > 0; i++) {
			bvecs[i].bv_page = ZERO_PAGE(0);
			bvecs[i].bv_offset = 0;
			bvecs[i].bv_len = min_t(u32, left, PAGE_SIZE);
			left -= bvecs[i].bv_len;
		}
		iov_iter_bvec(&iter, ITER_SOURCE, bvecs, i, part);
		ret = file->io->rw(file, true, &iter, pos);
		if (ret)
			return ret;
		pos += part;
		len -= part;
	}
	return 0;
}

/**
 * ploop_file_touch() - set the time stamp that writes do not
 * @file: open for writing
 *
 * Not while the host's file system is frozen; whoever froze it wants to see no change.
 *
 * Context: Process context; sleeps.
 */
void ploop_file_touch(struct ploop_file *file)
{
	struct super_block *sb = file_inode(file->file)->i_sb;

	if (!sb_start_write_trylock(sb))
		return;
	file_update_time(file->file);
	sb_end_write(sb);
}

/**
 * ploop_file_stable() - must memory that is being written stay as it is?
 * @file: open
 *
 * Where the host makes checksums of it, a change in between is found as damage later.
 *
 * Context: Any context.
 * Return: true if so.
 */
bool ploop_file_stable(const struct ploop_file *file)
{
	struct inode *inode = file_inode(file->file);
	struct super_block *sb = inode->i_sb;

	if (mapping_stable_writes(inode->i_mapping) || (sb->s_iflags & SB_I_STABLE_WRITES) ||
	    (sb->s_bdev && bdev_stable_writes(sb->s_bdev)))
		return true;
	/* These wait in their own page caches, and say nothing. */
	return sb->s_magic == BTRFS_SUPER_MAGIC || sb->s_magic == PLOOP_BCACHEFS_MAGIC;
}

/**
 * ploop_truncate_fd() - cut the file of a delta through a caller's descriptor
 * @delta: read-only
 * @fd: open for writing, of the same file
 * @size: bytes
 *
 * Context: Process context; sleeps.
 * Return: 0, -EBADF, -EINVAL (another file), or an errno.
 */
int ploop_truncate_fd(struct ploop_delta *delta, int fd, loff_t size)
{
	struct file *source = fget(fd);
	int ret = -EINVAL;

	if (!source)
		return -EBADF;
	if (!(source->f_mode & FMODE_WRITE))
		ret = -EBADF;
	else if (file_inode(source) == file_inode(delta->file->file))
		ret = vfs_truncate(&source->f_path, size);
	fput(source);
	return ret;
}
