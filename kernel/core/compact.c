// SPDX-License-Identifier: GPL-2.0
/*
 * Compaction: clusters at the end of the top's file go into its holes, and the file
 * is cut.
 *
 * A look at the whole table finds what is used (a bit per cluster of the file); two
 * entries of one cluster end the job before it moves anything.  While it runs
 * freed clusters are not reused, so that a hole has one owner.  The file is cut
 * with the device quiesced, and only if no cluster was allocated since the last look.
 */
#include <linux/bitmap.h>
#include <linux/mm.h>
#include "core.h"

#define LOOKS_MAX 4

struct compact {
	struct ploop_delta *delta;
	unsigned long *used;
	u64 nbits;
	u64 next;		/* the end of the file at the last look */
	u64 count;		/* used clusters */
	u64 hole;		/* where to look for the next hole */
	struct ploop_batch batch;
};

/* See struct job_kind. */
int ploop_compact_prepare(struct ploop_device *dev, struct ploop_job_state *job)
{
	struct ploop_delta *top = ploop_top(dev);
	struct compact *compact;

	if (top->rdonly)
		return -EROFS;
	if (!(top->fmt->flags & PLOOP_FMTF_TABLE))
		return -EOPNOTSUPP;
	compact = kzalloc(sizeof(*compact), GFP_KERNEL);
	if (!compact)
		return -ENOMEM;
	compact->delta = top;
	job->private = compact;
	job->total = (u64)top->geo.clusters << dev->cluster_shift;
	if (!job->rate)
		job->rate = job->arg;
	ploop_move_init(&compact->batch, dev, job->rate);
	spin_lock(&top->alloc_lock);
	top->nr_free = 0;
	top->floor = U32_MAX;
	spin_unlock(&top->alloc_lock);
	return 0;
}

/* Which clusters of the file are used, once all that is pending is in the table. */
static int compact_look(struct ploop_device *dev, struct compact *compact)
{
	struct ploop_delta *delta = compact->delta;
	u32 cluster, iblock;
	int ret;

	spin_lock(&delta->alloc_lock);
	compact->next = delta->next;
	spin_unlock(&delta->alloc_lock);
	/* Whoever got a cluster before that has listed it. */
	ploop_drain(dev);
	mutex_lock(&dev->commit_lock);
	ret = ploop_commit(dev);
	mutex_unlock(&dev->commit_lock);
	if (ret)
		return ret;
	kvfree(compact->used);
	compact->nbits = compact->next;
	compact->used = kvcalloc(BITS_TO_LONGS(compact->nbits), sizeof(long), GFP_KERNEL);
	if (!compact->used)
		return -ENOMEM;
	compact->count = 0;
	compact->hole = delta->geo.first_iblock;
	for (cluster = 0; cluster < delta->geo.clusters; cluster++) {
		ret = ploop_bat_entry(delta, cluster, &iblock);
		if (ret)
			return ret;
		if ((cluster & 0x3ff) == 0)
			cond_resched();
		if (iblock == PLOOP_IBLOCK_NONE || iblock >= compact->nbits)
			continue;
		if (__test_and_set_bit(iblock, compact->used))
			return -EUCLEAN;
		compact->count++;
	}
	return 0;
}

static int compact_flush(struct ploop_device *dev, struct compact *compact)
{
	struct ploop_batch *batch = &compact->batch;
	int ret = 0;
	u32 i;

	if (batch->count == 0)
		return 0;
	ploop_drain(dev);
	/* A cluster may have been allocated anew since the look at the table. */
	mutex_lock(&dev->commit_lock);
	ret = ploop_commit(dev);
	mutex_unlock(&dev->commit_lock);
	for (i = 0; i < batch->count && ret == 0; i++) {
		struct ploop_move *move = &batch->moves[i];

		compact->hole = find_next_zero_bit(compact->used, compact->nbits, compact->hole);
		/* As many holes as clusters behind the end, or the table changed behind us. */
		if (compact->hole >= compact->nbits) {
			ret = -EUCLEAN;
			break;
		}
		move->old = slot_iblock(move->place);
		move->target = compact->hole++;
		ploop_alloc_at(compact->delta, move->target);
	}
	if (ret == 0)
		ret = ploop_relocate(batch, compact->delta);
	ploop_move_release(batch);
	return ret;
}

static int compact_move(struct ploop_device *dev, struct ploop_job_state *job,
			struct compact *compact)
{
	struct ploop_delta *delta = compact->delta;
	u64 end = delta->geo.first_iblock + compact->count;
	u32 cluster, iblock, since = 0;
	int ret = 0;

	for (cluster = 0; cluster < delta->geo.clusters && ret == 0; cluster++) {
		ret = ploop_bat_entry(delta, cluster, &iblock);
		since++;
		if (ret == 0 && iblock != PLOOP_IBLOCK_NONE && iblock >= end &&
		    iblock < compact->nbits)
			ret = ploop_move_add(&compact->batch, cluster);
		if (ret == 0 && (since >= PLOOP_PAGE_SLOTS || ploop_batch_full(&compact->batch))) {
			u64 moved = (u64)compact->batch.count << dev->cluster_shift;

			ret = compact_flush(dev, compact);
			if (ret == 0)
				ret = ploop_job_step(job, (u64)since << dev->cluster_shift, moved);
			since = 0;
		}
	}
	if (ret == 0)
		ret = compact_flush(dev, compact);
	ploop_move_release(&compact->batch);
	return ret;
}

/* Return: 1 if clusters were allocated since the last look. */
static int compact_cut(struct ploop_device *dev, struct compact *compact)
{
	struct ploop_delta *delta = compact->delta;
	u64 last = find_last_bit(compact->used, compact->nbits);
	u64 end = delta->geo.first_iblock;
	int ret = 1;

	if (last < compact->nbits)
		end = max(end, last + 1);
	ploop_quiesce(dev);
	mutex_lock(&dev->commit_lock);
	if (delta->next == compact->next)
		ret = ploop_alloc_cut(delta, end);
	mutex_unlock(&dev->commit_lock);
	ploop_resume(dev);
	return ret;
}

/* See struct job_kind. */
int ploop_compact_run(struct ploop_device *dev, struct ploop_job_state *job)
{
	struct compact *compact = job->private;
	int ret = 1, look;

	for (look = 0; look < LOOKS_MAX && ret == 1; look++) {
		ret = compact_look(dev, compact);
		if (ret == 0)
			ret = ploop_job_step(job, 0, 0);
		if (ret == 0)
			ret = compact_move(dev, job, compact);
		/* The old places are free now. */
		if (ret == 0)
			ret = compact_look(dev, compact);
		if (ret == 0)
			ret = compact_cut(dev, compact);
	}
	return ret == 1 ? 0 : ret;
}

/* See struct job_kind. */
int ploop_compact_finish(struct ploop_device *dev, struct ploop_job_state *job, int ret)
{
	struct compact *compact = job->private;
	struct ploop_delta *delta = compact->delta;

	spin_lock(&delta->alloc_lock);
	delta->floor = 0;
	spin_unlock(&delta->alloc_lock);
	if (ret == 0)
		job->done = job->total;
	kvfree(compact->used);
	kfree(compact);
	job->private = NULL;
	return ret;
}
