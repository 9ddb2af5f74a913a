// SPDX-License-Identifier: GPL-2.0
/*
 * Merging a level into the one below it, while the device runs.
 *
 * A lower level that is smaller grows first (grow.c), while the stack is used as before.
 *
 * Upper is not the top: nobody writes to either.  Its clusters are copied into the
 * lower file, where upper hides the place, so nobody sees that; then upper is taken out.
 * Until then both files are whole, however far it got.
 *
 * Upper is the top: both become writable.  Requests go on writing to clusters
 * that upper still has, in place; new clusters go to lower.  Some clusters at a time
 * are moved: copied, lower durable (data, then table), then the entry of upper
 * cleared and that durable, and only then may anything be written to the copy.
 * So no stale cluster of upper ever hides an acknowledged write, whatever
 * crashes, and a merge begun again goes on with what upper still has.
 */
#include "core.h"

struct merge {
	struct ploop_delta *upper;
	struct ploop_delta *lower;
	struct ploop_file *old_file;	/* lower's, read-only */
	struct ploop_grow *grow;	/* of lower, if it needs to */
	bool top;
	bool begun;
	struct ploop_batch batch;
};

/* See that the lower level can be as large as the upper. */
static int merge_fit(struct merge *merge)
{
	struct ploop_delta *lower = merge->lower;
	struct ploop_geometry geo = lower->geo;
	u64 sectors = merge->upper->geo.sectors;
	int ret;

	if (geo.sectors >= sectors)
		return 0;
	if (!(lower->fmt->flags & PLOOP_FMTF_TABLE)) {
		ret = lower->file->io->truncate(lower->file, sectors << SECTOR_SHIFT);
		return ret ? ret : ploop_delta_refresh(lower, lower->geo.cluster_shift);
	}
	ret = lower->fmt->resize(&geo, sectors);
	if (ret)
		return ret;
	merge->grow = kzalloc(sizeof(*merge->grow), GFP_KERNEL);
	return merge->grow ? 0 : -ENOMEM;
}

static int merge_mark_lower(struct merge *merge, u64 rate)
{
	struct ploop_delta *lower = merge->lower;
	int ret = ploop_delta_mark(lower);

	if (ret || !merge->grow)
		return ret;
	ret = ploop_grow_begin(merge->grow, lower, merge->upper->geo.sectors, rate);
	if (ret)
		ploop_delta_clean(lower);
	return ret;
}

static void merge_swap_file(struct ploop_delta *lower, struct ploop_file *file)
{
	spin_lock(&lower->alloc_lock);
	lower->file = file;
	spin_unlock(&lower->alloc_lock);
}

/* Lower writable again and marked in use; quiesced. */
static int merge_open_lower(struct ploop_device *dev, struct merge *merge, u64 rate)
{
	struct ploop_delta *lower = merge->lower;
	struct ploop_file *file;
	int ret;

	mutex_lock(&dev->bat_lock);
	ploop_bat_drop(lower);
	mutex_unlock(&dev->bat_lock);
	ret = ploop_delta_refresh(lower, dev->cluster_shift);
	if (ret == 0 && lower->geo.in_use == PLOOP_IN_USE)
		ret = -EBUSY;
	if (ret)
		return ret;
	file = ploop_file_writable(dev, lower->file);
	if (IS_ERR(file))
		return PTR_ERR(file);
	ret = ploop_file_reclaim(lower->file, true);
	if (ret) {
		ploop_file_drop(dev, file);
		return ret;
	}
	merge->old_file = lower->file;
	file->writable = true;
	merge_swap_file(lower, file);
	ret = merge_fit(merge);
	if (ret == 0)
		ret = merge_mark_lower(merge, rate);
	if (ret == 0)
		return 0;
	merge_swap_file(lower, merge->old_file);
	ploop_file_reclaim(lower->file, false);
	ploop_file_drop(dev, file);
	return ret;
}

/* Lower is as large as upper; quiesced, and nothing is uncommitted. */
static void merge_begin(struct ploop_device *dev, struct merge *merge)
{
	ploop_map_drop(dev);
	merge->upper->transparent = true;
	if (merge->top) {
		merge->lower->rdonly = false;
		dev->alloc = merge->lower;
	}
	merge->begun = true;
}

/* See struct job_kind. */
int ploop_merge_prepare(struct ploop_device *dev, struct ploop_job_state *job)
{
	struct merge *merge;
	int ret;

	if (job->arg == 0)
		return -EINVAL;
	if (job->arg >= dev->nr_levels)
		return -ENOENT;
	/* Whoever attached it so wants its files to stay as they are. */
	if (dev->rdonly)
		return -EROFS;
	ploop_delta_retire_again(dev);
	merge = kzalloc(sizeof(*merge), GFP_KERNEL);
	if (!merge)
		return -ENOMEM;
	ploop_move_init(&merge->batch, dev, job->rate);
	merge->upper = dev->levels[job->arg];
	merge->lower = dev->levels[job->arg - 1];
	merge->top = job->arg == dev->nr_levels - 1 && !merge->upper->rdonly;
	ret = ploop_quiesce_for(dev, PLOOP_PATIENCE);
	if (ret) {
		kfree(merge);
		return ret;
	}
	ret = ploop_commit_for(dev, PLOOP_PATIENCE);
	/* A commit that took too long still has commit_lock. */
	if (ret == 0) {
		mutex_lock(&dev->commit_lock);
		ret = merge_open_lower(dev, merge, job->rate);
		if (ret == 0 && !merge->grow)
			merge_begin(dev, merge);
		mutex_unlock(&dev->commit_lock);
	}
	ploop_resume(dev);
	if (ret) {
		kfree(merge->grow);
		kfree(merge);
		return ret;
	}
	job->private = merge;
	job->total = (u64)merge->upper->geo.clusters << dev->cluster_shift;
	if (merge->grow)
		job->total += ploop_grow_bytes(merge->grow);
	return 0;
}

static int merge_grown(struct ploop_device *dev, struct merge *merge)
{
	int ret;

	mutex_lock(&dev->ctl_lock);
	ploop_quiesce_job(dev);
	mutex_lock(&dev->commit_lock);
	ret = dev->aborted ? -EIO : ploop_commit(dev);
	if (ret == 0)
		ret = ploop_grow_header(merge->grow);
	if (ret == 0) {
		ploop_grow_end(merge->grow, 0);
		merge_begin(dev, merge);
	}
	mutex_unlock(&dev->commit_lock);
	if (ret && !ploop_error_passes(ret))
		ploop_fail(merge->lower, ret);
	ploop_resume(dev);
	mutex_unlock(&dev->ctl_lock);
	return ret;
}

static int merge_grow(struct ploop_device *dev, struct ploop_job_state *job, struct merge *merge)
{
	int ret = ploop_grow_table(merge->grow, job);

	if (ret)
		return ret;
	do {
		ret = merge_grown(dev, merge);
	} while (ploop_job_passes(dev, ret));
	return ret;
}

/* Where in lower a cluster goes: over what upper hides, or to a new one. */
static int merge_target(struct merge *merge, struct ploop_move *move)
{
	bool zero;
	int ret;

	ret = ploop_bat_entry(merge->lower, move->cluster, &move->target);
	if (ret || move->target != PLOOP_IBLOCK_NONE)
		return ret;
	move->fresh = true;
	return ploop_alloc(merge->lower, &move->target, &zero);
}

static int merge_tables(struct merge *merge)
{
	struct ploop_delta *lower = merge->lower, *upper = merge->upper;
	struct ploop_batch *batch = &merge->batch;
	struct ploop_device *dev = batch->dev;
	int ret = 0;
	u32 i;

	mutex_lock(&dev->bat_lock);
	for (i = 0; i < batch->count && ret == 0; i++)
		if (batch->moves[i].fresh)
			ret = ploop_bat_set(lower, batch->moves[i].cluster,
					    batch->moves[i].target);
	if (ret == 0)
		ret = ploop_bat_write(lower);
	mutex_unlock(&dev->bat_lock);
	if (ret == 0)
		ret = ploop_delta_sync(lower);
	if (ret || !merge->top)
		return ret;
	mutex_lock(&dev->bat_lock);
	for (i = 0; i < batch->count && ret == 0; i++)
		ret = ploop_bat_set(upper, batch->moves[i].cluster, PLOOP_IBLOCK_NONE);
	if (ret == 0)
		ret = ploop_bat_write(upper);
	mutex_unlock(&dev->bat_lock);
	return ret ? ret : ploop_delta_sync(upper);
}

/* Copy what the batch has; lower, and for a top merge upper, are durable then. */
static int merge_copy(struct merge *merge)
{
	struct ploop_batch *batch = &merge->batch;
	struct ploop_device *dev = batch->dev;
	int ret = 0;
	u32 i;

	for (i = 0; i < batch->count && ret == 0; i++) {
		struct ploop_move *move = &batch->moves[i];

		ret = merge_target(merge, move);
		if (ret == 0)
			ret = ploop_copy(merge->upper, slot_iblock(move->place), merge->lower,
					 move->target, 0, ploop_cluster_bytes(dev));
	}
	if (ret == 0)
		ret = ploop_delta_sync(merge->lower);
	if (ret) {
		/* It may have lost more than this batch. */
		if (merge->top && READ_ONCE(merge->lower->doubtful))
			ploop_abort(dev, ret);
		return ret;
	}
	do {
		ret = merge_tables(merge);
	} while (merge->top && ploop_job_passes(dev, ret));
	if (ret && merge->top)
		ploop_fail(merge->upper, ret);
	return ret;
}

static int merge_flush(struct merge *merge)
{
	struct ploop_batch *batch = &merge->batch;
	int ret;
	u32 i;

	if (batch->count == 0)
		return 0;
	if (!merge->top) {
		ret = merge_copy(merge);
		batch->count = 0;
		return ret;
	}
	ploop_drain(batch->dev);
	ret = merge_copy(merge);
	for (i = 0; i < batch->count && ret == 0; i++)
		batch->moves[i].place = slot_make(batch->moves[i].target, merge->lower->level);
	ploop_move_release(batch);
	return ret;
}

static int merge_take(struct merge *merge, u32 cluster, u32 iblock)
{
	struct ploop_batch *batch = &merge->batch;
	struct ploop_move *move;

	if (merge->top)
		return ploop_move_add(batch, cluster);
	move = &batch->moves[batch->count++];
	move->cluster = cluster;
	move->place = slot_make(iblock, merge->upper->level);
	move->fresh = false;
	return 0;
}

/* See struct job_kind. */
int ploop_merge_run(struct ploop_device *dev, struct ploop_job_state *job)
{
	struct merge *merge = job->private;
	u32 cluster, iblock, since = 0;
	int ret = ploop_job_step(job, 0, 0);

	if (ret == 0 && merge->grow)
		ret = merge_grow(dev, job, merge);
	for (cluster = 0; cluster < merge->upper->geo.clusters && ret == 0; cluster++) {
		ret = ploop_bat_entry(merge->upper, cluster, &iblock);
		since++;
		if (ret == 0 && iblock != PLOOP_IBLOCK_NONE)
			ret = merge_take(merge, cluster, iblock);
		if (ret == 0 && (since >= PLOOP_PAGE_SLOTS || ploop_batch_full(&merge->batch))) {
			u64 moved = (u64)merge->batch.count << dev->cluster_shift;

			ret = merge_flush(merge);
			if (ret == 0)
				ret = ploop_job_step(job, (u64)since << dev->cluster_shift, moved);
			since = 0;
		}
	}
	if (ret == 0)
		ret = merge_flush(merge);
	if (merge->top)
		ploop_move_release(&merge->batch);
	if (ret == 0)
		ploop_job_step(job, (u64)since << dev->cluster_shift, 0);
	return ret;
}

/* Lower as it was: closed and read-only.  Quiesced. */
static int merge_close_lower(struct ploop_device *dev, struct merge *merge)
{
	struct ploop_delta *lower = merge->lower;
	struct ploop_file *file = lower->file;
	int ret = ploop_delta_clean(lower);

	if (ret)
		return ret;
	lower->rdonly = true;
	ploop_file_reclaim(file, false);
	merge->old_file->writable = false;
	merge_swap_file(lower, merge->old_file);
	merge->old_file = NULL;
	ploop_file_drop(dev, file);
	return 0;
}

/* After an error that passes it can be called again. */
static int merge_end(struct ploop_device *dev, struct merge *merge, bool done)
{
	int ret = ploop_commit(dev);

	if (ret)
		return ret;
	if (!merge->begun) {
		if (merge->grow)
			ploop_grow_end(merge->grow, -ECANCELED);
		return merge_close_lower(dev, merge);
	}
	ploop_map_drop(dev);
	merge->upper->transparent = false;
	if (!done) {
		dev->alloc = ploop_top(dev);
		return merge_close_lower(dev, merge);
	}
	if (!merge->top)
		ret = merge_close_lower(dev, merge);
	if (ret == 0)
		ploop_stack_remove(dev, merge->upper->level);
	return ret;
}

/* Return: of the end; the device may have been aborted meanwhile. */
static int merge_finish(struct ploop_device *dev, struct merge *merge, bool done)
{
	bool again;
	int ret;

	do {
		ploop_quiesce_job(dev);
		mutex_lock(&dev->commit_lock);
		ret = merge_end(dev, merge, done);
		mutex_unlock(&dev->commit_lock);
		if (ret && !ploop_error_passes(ret))
			ploop_fail(merge->lower, ret);
		ploop_resume(dev);
		mutex_unlock(&dev->ctl_lock);
		again = ploop_job_passes(dev, ret);
		mutex_lock(&dev->ctl_lock);
	} while (again);
	return ret;
}

/* Both are open for writing: not even who takes the abort back can go on so. */
static void merge_doubt(struct merge *merge)
{
	if (merge->top && merge->begun)
		WRITE_ONCE(merge->upper->doubtful, true);
	WRITE_ONCE(merge->lower->doubtful, true);
}

/* It is out of the stack.  What was the top has an empty table now. */
static void merge_drop_upper(struct merge *merge)
{
	struct ploop_delta *upper = merge->upper;

	if (merge->top) {
		ploop_partial_forget(upper);
		spin_lock(&upper->alloc_lock);
		upper->next = upper->geo.first_iblock;
		spin_unlock(&upper->alloc_lock);
		upper->geo.flags |= PLOOP_HDRF_EMPTY;
	}
	ploop_delta_close(upper, merge->top);
}

/* See struct job_kind. */
int ploop_merge_finish(struct ploop_device *dev, struct ploop_job_state *job, int ret)
{
	struct merge *merge = job->private;
	bool done = ret == 0;
	int err = -EIO;

	/* An aborted device stays as it is until it is stopped. */
	if (!dev->aborted)
		err = merge_finish(dev, merge, done);
	if (err)
		merge_doubt(merge);
	else if (done)
		merge_drop_upper(merge);
	ret = ret ? ret : err;
	if (merge->old_file)
		ploop_file_drop(dev, merge->old_file);
	kfree(merge->grow);
	kfree(merge);
	job->private = NULL;
	return ret;
}
