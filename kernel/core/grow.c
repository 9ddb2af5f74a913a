// SPDX-License-Identifier: GPL-2.0
/*
 * Growing a level: the top, with the device; or one that a larger one is merged into.
 *
 * A longer table may need the place of data clusters.  New ones are no longer
 * put there; those in the way are moved to the end, some at a time, each durable
 * before the old place is touched; then the place is filled with zeros and that made
 * durable; only then the header says that it is table.  A crash before the header
 * leaves an image of the old size, and growing again finds what is left to do.
 */
#include "core.h"

/* From now on nothing is allocated where the table will be. */
static void keep_clear(struct ploop_grow *grow)
{
	struct ploop_delta *delta = grow->delta;
	u32 floor = grow->geo.first_iblock;
	u32 from, to = 0;

	spin_lock(&delta->alloc_lock);
	grow->old_next = delta->next;
	delta->floor = floor;
	for (from = 0; from < delta->nr_free; from++)
		if (delta->free[from] >= floor)
			delta->free[to++] = delta->free[from];
	delta->nr_free = to;
	if (delta->next < floor) {
		delta->next = floor;
		delta->reserved_end = max(delta->reserved_end, delta->next);
		delta->file_clusters = max(delta->file_clusters, delta->next);
	}
	spin_unlock(&delta->alloc_lock);
}

/**
 * ploop_grow_begin() - say how large a level becomes
 * @grow: out
 * @delta: writable
 * @sectors: no less than it has, whole clusters
 * @rate: as for ploop_move_init()
 *
 * Context: Process context.  Holds ctl_lock, and from here on until ploop_grow_end() there
 * is a job.
 * Return: 0, -EFBIG, or what the format says; then nothing changed.
 */
int ploop_grow_begin(struct ploop_grow *grow, struct ploop_delta *delta, u64 sectors, u64 rate)
{
	u64 clusters = sectors >> (delta->geo.cluster_shift - SECTOR_SHIFT);
	int ret = 0;

	ploop_move_init(&grow->batch, delta->dev, rate);
	grow->delta = delta;
	grow->geo = delta->geo;
	if (delta->fmt->flags & PLOOP_FMTF_TABLE)
		ret = delta->fmt->resize(&grow->geo, sectors);
	else if (clusters > 0xfffffff0u)
		ret = -EFBIG;
	if (ret)
		return ret;
	grow->geo.sectors = sectors;
	grow->geo.clusters = clusters;
	if (grow->geo.first_iblock > delta->geo.first_iblock)
		keep_clear(grow);
	return 0;
}

/**
 * ploop_grow_bytes() - how much there is to look at, for a job's total
 * @grow: begun
 *
 * Return: what ploop_grow_table() reports as done, in the end.
 */
u64 ploop_grow_bytes(struct ploop_grow *grow)
{
	struct ploop_geometry *old = &grow->delta->geo;

	return grow->geo.first_iblock > old->first_iblock ?
		(u64)old->clusters << old->cluster_shift : 0;
}

/* See struct job_kind. */
int ploop_grow_prepare(struct ploop_device *dev, struct ploop_job_state *job)
{
	struct ploop_delta *top = ploop_top(dev);
	u64 sectors = job->arg >> SECTOR_SHIFT;
	struct ploop_grow *grow;
	int ret;

	if (top->rdonly)
		return -EROFS;
	if ((job->arg & (ploop_cluster_bytes(dev) - 1)) || sectors < dev->sectors)
		return -EINVAL;
	grow = kzalloc(sizeof(*grow), GFP_KERNEL);
	if (!grow)
		return -ENOMEM;
	ret = ploop_grow_begin(grow, top, sectors, job->rate);
	if (ret) {
		kfree(grow);
		return ret;
	}
	job->private = grow;
	job->total = max(ploop_grow_bytes(grow), 1ull);
	return 0;
}

static int grow_flush(struct ploop_device *dev, struct ploop_grow *grow)
{
	struct ploop_batch *batch = &grow->batch;
	int ret = 0;
	u32 i;

	if (batch->count == 0)
		return 0;
	ploop_drain(dev);
	for (i = 0; i < batch->count && ret == 0; i++) {
		bool zero;

		ret = ploop_alloc(grow->delta, &batch->moves[i].target, &zero);
	}
	if (ret == 0)
		ret = ploop_relocate(batch, grow->delta);
	ploop_move_release(batch);
	return ret;
}

/* It failed: what was put behind the end for the table goes, if nothing followed. */
static void take_end_back(struct ploop_grow *grow)
{
	struct ploop_delta *delta = grow->delta;
	u64 floor = grow->geo.first_iblock;

	spin_lock(&delta->alloc_lock);
	if (delta->floor && grow->old_next < floor && delta->next == floor)
		delta->next = grow->old_next;
	delta->reserved_end = delta->next;
	spin_unlock(&delta->alloc_lock);
}

static int zero_steps(struct ploop_job_state *job, struct ploop_grow *grow, u64 from, u64 to)
{
	struct ploop_file *file = grow->delta->file;
	u64 old_end = grow->old_next << grow->geo.cluster_shift;
	int ret = 0;

	/* Sees at once whether there is the space; it is written all the same. */
	if (to > old_end && (file->flags & PLOOP_IOF_RESERVE))
		ret = file->io->reserve(file, old_end, to - old_end, 0);
	if (ret == -EOPNOTSUPP)
		ret = 0;
	while (from < to && ret == 0) {
		u64 part = min_t(u64, to - from, PLOOP_BATCH_BYTES);

		ret = ploop_file_zero(file, from, part);
		ploop_track_file(grow->delta, from, part);
		if (ret == 0)
			ret = ploop_job_step(job, 0, part);
		from += part;
	}
	return ret;
}

/* The table's new part, durable: zeros. */
static int grow_zero(struct ploop_device *dev, struct ploop_job_state *job, struct ploop_grow *grow)
{
	struct ploop_delta *delta = grow->delta;
	u64 used = PLOOP_HEADER_BYTES + 4ull * delta->geo.clusters;
	u64 from = round_up(used, PLOOP_PAGE_BYTES);
	u64 to = (u64)grow->geo.first_iblock << dev->cluster_shift;
	u32 cluster = delta->geo.clusters;
	int ret;

	/* Requests that still read an old place must be over. */
	ploop_drain(dev);
	ret = zero_steps(job, grow, from, to);
	/* Entries behind the last one, in its page: nobody checked them. */
	mutex_lock(&dev->bat_lock);
	for (; ret == 0 && ploop_map_index(cluster) == ploop_map_index(delta->geo.clusters - 1);
	     cluster++)
		ret = ploop_bat_set(delta, cluster, PLOOP_IBLOCK_NONE);
	if (ret == 0)
		ret = ploop_bat_write(delta);
	mutex_unlock(&dev->bat_lock);
	return ret ? ret : ploop_delta_sync(delta);
}

static int grow_take(struct ploop_grow *grow, u32 cluster, u32 iblock)
{
	struct ploop_batch *batch = &grow->batch;
	int ret = ploop_move_add(batch, cluster);

	if (ret == 0)
		batch->moves[batch->count - 1].old = iblock;
	return ret;
}

static int grow_clear_way(struct ploop_device *dev, struct ploop_job_state *job,
			  struct ploop_grow *grow)
{
	struct ploop_delta *delta = grow->delta;
	u32 cluster, iblock, since = 0;
	int ret;

	/* What was allocated before the floor was set is in the table then. */
	ploop_drain(dev);
	mutex_lock(&dev->commit_lock);
	ret = ploop_commit(dev);
	mutex_unlock(&dev->commit_lock);
	for (cluster = 0; cluster < delta->geo.clusters && ret == 0; cluster++) {
		mutex_lock(&dev->bat_lock);
		ret = ploop_bat_lookup(delta, cluster, &iblock);
		mutex_unlock(&dev->bat_lock);
		since++;
		if (ret == 0 && iblock < grow->geo.first_iblock)
			ret = grow_take(grow, cluster, iblock);
		if (ret == 0 && (since >= PLOOP_PAGE_SLOTS || ploop_batch_full(&grow->batch))) {
			u64 moved = (u64)grow->batch.count << dev->cluster_shift;

			ret = grow_flush(dev, grow);
			if (ret == 0)
				ret = ploop_job_step(job, (u64)since << dev->cluster_shift, moved);
			since = 0;
		}
	}
	if (ret == 0)
		ret = grow_flush(dev, grow);
	ploop_move_release(&grow->batch);
	return ret;
}

/**
 * ploop_grow_table() - make the place of the longer table, durably
 * @grow: begun
 * @job: the running job
 *
 * Context: The job's thread; sleeps.
 * Return: 0, or an errno; then the image is whole, and as large as it was.
 */
int ploop_grow_table(struct ploop_grow *grow, struct ploop_job_state *job)
{
	struct ploop_device *dev = grow->delta->dev;
	int ret = 0;

	if (grow->geo.first_iblock > grow->delta->geo.first_iblock)
		ret = grow_clear_way(dev, job, grow);
	return ret ? ret : grow_zero(dev, job, grow);
}

/**
 * ploop_grow_header() - the level is larger
 * @grow: its table's place is made
 *
 * Context: Process context; sleeps.  Holds ctl_lock and commit_lock; quiesced.
 * Return: 0 or an errno; then it is not, but for what the disk may say if it is in doubt.
 */
int ploop_grow_header(struct ploop_grow *grow)
{
	struct ploop_delta *delta = grow->delta;
	struct ploop_geometry old = delta->geo;
	int ret;

	mutex_lock(&delta->dev->bat_lock);
	grow->geo.in_use = delta->geo.in_use;
	grow->geo.flags = delta->geo.flags;
	delta->geo = grow->geo;
	mutex_unlock(&delta->dev->bat_lock);
	ret = ploop_delta_sync_header(delta);
	if (ret == 0) {
		ploop_alloc_table(delta, grow->geo.first_iblock);
		return 0;
	}
	/* The next header that is written says again what is the case. */
	mutex_lock(&delta->dev->bat_lock);
	delta->geo = old;
	ploop_bat_set_header(delta);
	mutex_unlock(&delta->dev->bat_lock);
	return ret;
}

/**
 * ploop_grow_end() - whether it grew or not
 * @grow: begun; of no use afterwards
 * @error: 0, or why it did not
 *
 * Context: Process context.
 */
void ploop_grow_end(struct ploop_grow *grow, int error)
{
	if (error)
		take_end_back(grow);
	spin_lock(&grow->delta->alloc_lock);
	grow->delta->floor = 0;
	spin_unlock(&grow->delta->alloc_lock);
}

/* See struct job_kind. */
int ploop_grow_run(struct ploop_device *dev, struct ploop_job_state *job)
{
	struct ploop_grow *grow = job->private;
	struct ploop_file *file = grow->delta->file;

	if (!(grow->delta->fmt->flags & PLOOP_FMTF_TABLE))
		return file->io->truncate(file, grow->geo.sectors << SECTOR_SHIFT);
	return ploop_grow_table(grow, job);
}

static int grow_switch(struct ploop_device *dev, struct ploop_grow *grow)
{
	struct ploop_delta *delta = grow->delta;
	int ret = ploop_commit(dev);

	if (ret)
		return ret;
	ret = ploop_grow_header(grow);
	/*
	 * The larger one may be on disk.  Nothing may be put where its table is before that is
	 * undone.
	 */
	if (ret && grow->geo.first_iblock > delta->geo.first_iblock &&
	    ploop_delta_sync_header(delta))
		WRITE_ONCE(delta->doubtful, true);
	if (ret == 0 && !(delta->fmt->flags & PLOOP_FMTF_TABLE))
		delta->file_clusters = grow->geo.clusters;
	return ret;
}

/* See struct job_kind. */
int ploop_grow_finish(struct ploop_device *dev, struct ploop_job_state *job, int ret)
{
	struct ploop_grow *grow = job->private;

	if (ret == 0)
		ret = ploop_bitmaps_resize(dev, grow->geo.sectors);
	if (ret == 0) {
		ploop_quiesce_job(dev);
		/* Those made while it gave ctl_lock up. */
		ret = ploop_bitmaps_resize(dev, grow->geo.sectors);
		mutex_lock(&dev->commit_lock);
		if (ret == 0)
			ret = grow_switch(dev, grow);
		if (ret == 0)
			dev->sectors = grow->geo.sectors;
		mutex_unlock(&dev->commit_lock);
		ploop_resume(dev);
	}
	if (ret == 0)
		set_capacity_and_notify(dev->disk, dev->sectors);
	else if (ret == -EIO || ret == -EUCLEAN || READ_ONCE(grow->delta->doubtful))
		ploop_abort(dev, ret);
	ploop_grow_end(grow, ret);
	job->done = job->total;
	kfree(grow);
	job->private = NULL;
	return ret;
}
