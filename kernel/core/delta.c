// SPDX-License-Identifier: GPL-2.0
/*
 * One level: opening and checking its file, its header, closing it.
 *
 * The in-use mark is durable before anything else in a writable file changes, and
 * cleared last, when everything is durable and the file has the form of a
 * closed image.  An aborted device never clears it, and neither does anybody for a level that
 * is in doubt: the kernel reports a failed sync once, and the next one succeeds
 * whatever was lost.
 */
#include <linux/file.h>
#include "core.h"

/* Backups and make(1) look at the time stamp of a file; each change of it costs a transaction. */
#define TOUCH_INTERVAL	(60 * HZ)

static int read_first_page(struct ploop_delta *delta, struct page *page, u64 size)
{
	u32 len = min_t(u64, size, PLOOP_PAGE_BYTES);

	memset(page_address(page), 0, PLOOP_PAGE_BYTES);
	if (!(delta->fmt->flags & PLOOP_FMTF_TABLE))
		return 0;
	if (len < PLOOP_PAGE_BYTES)
		return -EINVAL;
	return ploop_file_pages(delta->file, false, 0, page, len);
}

/**
 * ploop_doubtful() - is a level that is written to in doubt?
 * @dev: the device
 *
 * Context: Process context.  Holds ctl_lock.
 * Return: true if an image has to be checked before anything else is written to it.
 */
bool ploop_doubtful(const struct ploop_device *dev)
{
	u32 level;

	for (level = 0; level < dev->nr_levels; level++)
		if (!dev->levels[level]->rdonly && READ_ONCE(dev->levels[level]->doubtful))
			return true;
	/* A merge of the top that did not come to its end. */
	return dev->alloc != ploop_top(dev);
}

/**
 * ploop_delta_sync() - make durable what was written to a file
 * @delta: which
 *
 * After an error the level is in doubt for good, whatever the error: the kernel tells once that
 * something was lost.  But want of memory loses nothing where the page cache has nothing.
 *
 * Context: Process context; sleeps.
 * Return: 0; -ENOMEM: to be tried again; -EIO.
 */
int ploop_delta_sync(struct ploop_delta *delta)
{
	int ret = delta->file->io->sync(delta->file);

	if (ret == 0 || (ret == -ENOMEM && (delta->file->flags & PLOOP_IOF_DIRECT)))
		return ret;
	ploop_err(delta->dev, "level %u: a sync failed: %d\n", delta->level, ret);
	WRITE_ONCE(delta->doubtful, true);
	return -EIO;
}

/**
 * ploop_delta_touch() - give the file a new time stamp, if it was written since the last one
 * @delta: writable
 *
 * Once a minute at most.
 *
 * Context: Process context; sleeps.  Holds commit_lock.
 */
void ploop_delta_touch(struct ploop_delta *delta)
{
	u64 writes;

	if (time_before(jiffies, delta->touched + TOUCH_INTERVAL))
		return;
	delta->touched = jiffies;
	writes = ploop_stat(delta->dev, writes) + ploop_stat(delta->dev, discards);
	if (writes == delta->touched_writes)
		return;
	delta->touched_writes = writes;
	ploop_file_touch(delta->file);
}

/**
 * ploop_delta_refresh() - read header and size of the file again
 * @delta: nothing is under way; its cached table was dropped
 * @cluster_shift: what it has to be, 0 for any
 *
 * Context: Process context; sleeps.  Holds ctl_lock.
 * Return: 0 or an errno; then nothing changed.
 */
int ploop_delta_refresh(struct ploop_delta *delta, u32 cluster_shift)
{
	struct ploop_geometry geo = { .cluster_shift = cluster_shift };
	u64 size = i_size_read(file_inode(delta->file->file));
	struct page *page = alloc_page(GFP_KERNEL);
	int ret;

	if (!page)
		return -ENOMEM;
	ret = read_first_page(delta, page, size);
	if (ret == 0)
		ret = delta->fmt->parse(page_address(page), size, &geo);
	__free_page(page);
	if (ret)
		return ret;
	mutex_lock(&delta->dev->bat_lock);
	delta->geo = geo;
	spin_lock(&delta->alloc_lock);
	delta->file_clusters = (size + (1ull << geo.cluster_shift) - 1) >> geo.cluster_shift;
	spin_unlock(&delta->alloc_lock);
	mutex_unlock(&delta->dev->bat_lock);
	return 0;
}

/**
 * ploop_delta_mark() - make a delta writable: header in use, durable
 * @delta: its file is open for writing
 *
 * Context: Process context; sleeps.  Holds ctl_lock.
 * Return: 0 or an errno.
 */
int ploop_delta_mark(struct ploop_delta *delta)
{
	int ret;

	ret = ploop_alloc_open(delta);
	if (ret)
		return ret;
	delta->touched = jiffies;
	ploop_file_touch(delta->file);
	if (!(delta->fmt->flags & PLOOP_FMTF_TABLE))
		return 0;
	mutex_lock(&delta->dev->bat_lock);
	delta->geo.in_use = PLOOP_IN_USE;
	/* What an extension says would not be true for long. */
	delta->geo.ext_off = 0;
	ret = ploop_bat_set_header(delta);
	if (ret == 0)
		ret = ploop_bat_write(delta);
	mutex_unlock(&delta->dev->bat_lock);
	return ret ? ret : ploop_delta_sync(delta);
}

static void header_flags(struct ploop_delta *delta)
{
	lockdep_assert_held(&delta->dev->bat_lock);
	if (delta->next > delta->geo.first_iblock)
		delta->geo.flags &= ~PLOOP_HDRF_EMPTY;
}

/**
 * ploop_delta_sync_header() - bring the header up to date, still in use
 * @delta: writable
 *
 * Context: Process context; sleeps.  Holds ctl_lock.
 * Return: 0 or an errno.
 */
int ploop_delta_sync_header(struct ploop_delta *delta)
{
	int ret;

	if (!(delta->fmt->flags & PLOOP_FMTF_TABLE))
		return 0;
	mutex_lock(&delta->dev->bat_lock);
	header_flags(delta);
	ret = ploop_bat_set_header(delta);
	if (ret == 0)
		ret = ploop_bat_write(delta);
	mutex_unlock(&delta->dev->bat_lock);
	return ret ? ret : ploop_delta_sync(delta);
}

/* Write the header, with this mark.  After an error the next one that is written is in use. */
static int write_mark(struct ploop_delta *delta, u32 in_use)
{
	int ret;

	mutex_lock(&delta->dev->bat_lock);
	header_flags(delta);
	delta->geo.in_use = in_use;
	ret = ploop_bat_set_header(delta);
	if (ret == 0)
		ret = ploop_bat_write(delta);
	if (ret) {
		delta->geo.in_use = PLOOP_IN_USE;
		ploop_bat_set_header(delta);
	}
	mutex_unlock(&delta->dev->bat_lock);
	return ret;
}

/**
 * ploop_delta_clean() - bring a delta into the form of a closed image
 * @delta: nobody writes to it any more, its changes are committed
 *
 * Context: Process context; sleeps.  Holds ctl_lock.
 * Return: 0, -EUCLEAN (it is in doubt) or another errno; then it stays in use.
 */
int ploop_delta_clean(struct ploop_delta *delta)
{
	int ret;

	if (READ_ONCE(delta->doubtful))
		return -EUCLEAN;
	ploop_file_touch(delta->file);
	if (!(delta->fmt->flags & PLOOP_FMTF_TABLE))
		return ploop_delta_sync(delta);
	ret = ploop_partial_fill(delta);
	if (ret == 0)
		ret = ploop_alloc_close(delta);
	if (ret == 0)
		ret = ploop_delta_sync(delta);
	if (ret)
		return ret;
	ret = write_mark(delta, 0);
	if (ret) {
		/* It may be on disk all the same.  Failing this, the next commit writes it. */
		write_mark(delta, PLOOP_IN_USE);
		return ret;
	}
	ret = ploop_delta_sync(delta);
	/* Whoever goes on with it finds it in use; durably, with the next sync. */
	if (ret && write_mark(delta, PLOOP_IN_USE))
		WRITE_ONCE(delta->doubtful, true);
	return ret;
}

/**
 * ploop_delta_retire() - it was the top: close its image and let others read the file
 * @delta: read-only by now; its changes are committed
 *
 * After an error it stays marked in use, and its file writable, by which
 * ploop_delta_retire_again() and ploop_delta_close() know that there is something left to do.
 *
 * Context: Process context; sleeps.  Holds ctl_lock, or the device is being snapshotted.
 * Return: 0 or an errno.
 */
int ploop_delta_retire(struct ploop_delta *delta)
{
	int ret = ploop_delta_clean(delta);

	if (ret == 0)
		ret = ploop_file_reclaim(delta->file, false);
	if (ret) {
		ploop_err(delta->dev, "level %u stays marked in use: %d\n", delta->level, ret);
		return ret;
	}
	mutex_lock(&delta->dev->bat_lock);
	ploop_bat_drop(delta);
	mutex_unlock(&delta->dev->bat_lock);
	kvfree(delta->free);
	delta->free = NULL;
	return 0;
}

/**
 * ploop_delta_retire_again() - close the images whose closing failed
 * @dev: the device; it runs, not aborted, without a job
 *
 * Context: Process context; sleeps.  Holds ctl_lock.
 */
void ploop_delta_retire_again(struct ploop_device *dev)
{
	u32 level;

	for (level = 0; level + 1 < dev->nr_levels; level++)
		if (dev->levels[level]->rdonly && dev->levels[level]->file->writable)
			ploop_delta_retire(dev->levels[level]);
}

static int check_place(struct ploop_device *dev, const struct ploop_delta *delta)
{
	struct ploop_delta *below = ploop_top(dev);

	if (delta->geo.version && dev->version && delta->geo.version != dev->version)
		return -EINVAL;
	if (!below)
		return 0;
	if (delta->geo.sectors < below->geo.sectors)
		return -EINVAL;
	/* A raw base must consist of whole clusters to carry a delta. */
	if (below->geo.sectors & ((1u << (dev->cluster_shift - SECTOR_SHIFT)) - 1))
		return -EINVAL;
	return 0;
}

static int check_access(const struct file *source, bool rdonly)
{
	if (!(source->f_mode & FMODE_READ))
		return -EINVAL;
	return !!(source->f_mode & FMODE_WRITE) == rdonly ? -EINVAL : 0;
}

static void delta_destroy(struct ploop_delta *delta)
{
	mutex_lock(&delta->dev->bat_lock);
	ploop_bat_drop(delta);
	mutex_unlock(&delta->dev->bat_lock);
	ploop_partial_forget(delta);
	ploop_file_close(delta->dev, delta->file);
	ploop_format_put(delta->fmt);
	kvfree(delta->free);
	kobject_put(&delta->kobj);
}

static struct ploop_delta *delta_alloc(struct ploop_device *dev, u32 format)
{
	struct ploop_delta *delta = kzalloc(sizeof(*delta), GFP_KERNEL);

	if (!delta)
		return ERR_PTR(-ENOMEM);
	delta->fmt = ploop_format_get(format);
	if (!delta->fmt) {
		kfree(delta);
		return ERR_PTR(-EINVAL);
	}
	delta->dev = dev;
	ploop_pdelta_init(delta);
	xa_init(&delta->bat);
	INIT_LIST_HEAD(&delta->bat_lru);
	spin_lock_init(&delta->alloc_lock);
	mutex_init(&delta->reserve_lock);
	xa_init(&delta->partial);
	return delta;
}

/* An extension is dropped by the first write, if the image allows that. */
static int check_extension(struct ploop_delta *delta)
{
	u64 pos = delta->geo.ext_off << SECTOR_SHIFT;
	struct page *page;
	int ret;

	if (delta->rdonly || !delta->geo.ext_off)
		return 0;
	if (delta->geo.ext_off > (u64)LLONG_MAX >> SECTOR_SHIFT || pos % PLOOP_PAGE_BYTES ||
	    pos >= delta->file_clusters << delta->geo.cluster_shift)
		return -EUCLEAN;
	page = alloc_page(GFP_KERNEL);
	if (!page)
		return -ENOMEM;
	ret = ploop_file_pages(delta->file, false, pos, page, PLOOP_PAGE_BYTES);
	if (ret == 0)
		ret = delta->fmt->extension(page_address(page));
	__free_page(page);
	return ret;
}

/**
 * ploop_delta_open() - open and check the file of a level to be
 * @dev: the device
 * @args: what
 *
 * A writable one is marked in use when this returns.
 *
 * Context: Process context; sleeps.  Holds ctl_lock.
 * Return: to be given to ploop_delta_close(), or an ERR_PTR.
 */
struct ploop_delta *ploop_delta_open(struct ploop_device *dev, const struct ploop_delta_args *args)
{
	struct ploop_delta *delta = delta_alloc(dev, args->format);
	struct file *source;
	int ret;

	if (IS_ERR(delta))
		return delta;
	ret = -EINVAL;
	if (dev->nr_levels > 0 && !(delta->fmt->flags & PLOOP_FMTF_DELTA) && !args->replace)
		goto put_format;
	ret = -EBADF;
	source = fget(args->fd);
	if (!source)
		goto put_format;
	ret = check_access(source, args->rdonly);
	if (ret == 0) {
		delta->file = ploop_file_open(dev, source, !args->rdonly, args->io);
		ret = PTR_ERR_OR_ZERO(delta->file);
	}
	fput(source);
	if (ret)
		goto put_format;
	delta->rdonly = args->rdonly;
	ret = ploop_delta_refresh(delta, args->cluster_shift);
	if (ret == 0 && delta->geo.in_use == PLOOP_IN_USE)
		ret = -EBUSY;
	if (ret == 0 && !args->replace)
		ret = check_place(dev, delta);
	if (ret == 0)
		ret = check_extension(delta);
	if (ret == 0 && !args->rdonly)
		ret = ploop_delta_mark(delta);
	if (ret == 0)
		return delta;
	delta_destroy(delta);
	return ERR_PTR(ret);

put_format:
	ploop_format_put(delta->fmt);
	kobject_put(&delta->kobj);
	return ERR_PTR(ret);
}

/**
 * ploop_delta_close() - undo ploop_delta_open()
 * @delta: in no stack; nothing is under way
 * @clean: bring it into the form of a closed image, if it was writable
 *
 * Context: Process context; sleeps.  Holds ctl_lock.
 * Return: 0 or an errno of cleaning; it is closed all the same.
 */
int ploop_delta_close(struct ploop_delta *delta, bool clean)
{
	int ret = 0;

	if (clean && delta->file->writable)
		ret = ploop_delta_clean(delta);
	delta_destroy(delta);
	return ret;
}
