/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What differs between kernels.
 *
 * Nothing asks for a version: features.sh tries what there is, and features.h is what it found.
 */
#ifndef _PLOOP_COMPAT_H
#define _PLOOP_COMPAT_H

#include <linux/blk-mq.h>
#include <linux/blkdev.h>
#include <linux/fs.h>
#include <linux/kthread.h>
#include <linux/shrinker.h>
#include <linux/slab.h>
#include "features.h"

#if !defined(PLOOP_HAS_QUEUE_LIMITS) && !defined(PLOOP_HAS_SETTERS)
#error This kernel has neither of the interfaces for queue limits that the driver knows
#endif

/* Entries of tables fill a page in both; see ploop_bat_write(). */
static_assert(PAGE_SIZE == 4096, "the driver needs pages of 4096 bytes");

#ifdef PLOOP_HAS_BLK_MODE
#define PLOOP_MODE		blk_mode_t
#define PLOOP_OPEN_ARGS		struct gendisk *disk, blk_mode_t mode
#define PLOOP_OPEN_DISK		(disk)
#define PLOOP_RELEASE_ARGS	struct gendisk *disk
#else
#define PLOOP_MODE		fmode_t
#define PLOOP_OPEN_ARGS		struct block_device *bdev, fmode_t mode
#define PLOOP_OPEN_DISK		(bdev->bd_disk)
#define PLOOP_RELEASE_ARGS	struct gendisk *disk, fmode_t mode
#endif

/* The last argument of &struct blk_mq_ops.init_request. */
#ifdef PLOOP_HAS_NODE_INT
#define PLOOP_NODE		int
#else
#define PLOOP_NODE		unsigned int
#endif

/* Where in its segment an iterator over segments stands, in bytes. */
static inline unsigned int ploop_bvec_done(const struct bvec_iter *iter)
{
#ifdef PLOOP_HAS_BVEC_OFFSET
	return iter->bi_offset;
#else
	return iter->bi_bvec_done;
#endif
}

/* Later kernels always merge. */
#ifdef PLOOP_HAS_SHOULD_MERGE
#define PLOOP_MQ_MERGE		BLK_MQ_F_SHOULD_MERGE
#else
#define PLOOP_MQ_MERGE		0
#endif

/* The limits of a device of clusters of @cluster_bytes. */
struct ploop_limits_in {
	u32 cluster_bytes;
	u32 discard_bytes;	/* 0: no discard */
	u32 segments;
	bool stable;		/* the host makes checksums of pages */
};

static inline struct gendisk *ploop_alloc_disk(struct blk_mq_tag_set *set, void *data)
{
#ifdef PLOOP_HAS_QUEUE_LIMITS
	struct queue_limits lim = {
		.features = BLK_FEAT_WRITE_CACHE | BLK_FEAT_FUA,
	};

	return blk_mq_alloc_disk(set, &lim, data);
#else
	struct gendisk *disk = blk_mq_alloc_disk(set, data);

	if (!IS_ERR(disk)) {
		blk_queue_write_cache(disk->queue, true, true);
		blk_queue_flag_set(QUEUE_FLAG_NONROT, disk->queue);
	}
	return disk;
#endif
}

/* Of a device without a capacity.  Return: 0, or an errno: then they are as they were. */
static inline int ploop_set_limits(struct gendisk *disk, const struct ploop_limits_in *in)
{
#ifdef PLOOP_HAS_QUEUE_LIMITS
	struct queue_limits lim = queue_limits_start_update(disk->queue);

	lim.logical_block_size = SECTOR_SIZE;
	lim.physical_block_size = PAGE_SIZE;
	lim.io_min = PAGE_SIZE;
	lim.io_opt = in->cluster_bytes;
	lim.chunk_sectors = in->cluster_bytes >> SECTOR_SHIFT;
	lim.max_hw_sectors = in->cluster_bytes >> SECTOR_SHIFT;
	lim.max_user_sectors = min_t(u32, in->cluster_bytes, SZ_1M) >> SECTOR_SHIFT;
	lim.max_segments = in->segments;
	lim.max_segment_size = UINT_MAX;
	lim.max_hw_discard_sectors = in->discard_bytes >> SECTOR_SHIFT;
	lim.max_user_discard_sectors = UINT_MAX;
	lim.max_discard_segments = 1;
	lim.discard_granularity = in->cluster_bytes;
	lim.features &= ~BLK_FEAT_STABLE_WRITES;
	if (in->stable)
		lim.features |= BLK_FEAT_STABLE_WRITES;
#ifdef PLOOP_HAS_LIMITS_FROZEN
	return queue_limits_commit_update_frozen(disk->queue, &lim);
#else
	return queue_limits_commit_update(disk->queue, &lim);
#endif
#else
	struct request_queue *q = disk->queue;

	blk_queue_logical_block_size(q, SECTOR_SIZE);
	blk_queue_physical_block_size(q, PAGE_SIZE);
	blk_queue_io_min(q, PAGE_SIZE);
	blk_queue_io_opt(q, in->cluster_bytes);
	blk_queue_chunk_sectors(q, in->cluster_bytes >> SECTOR_SHIFT);
	blk_queue_max_hw_sectors(q, in->cluster_bytes >> SECTOR_SHIFT);
	blk_queue_max_segments(q, in->segments);
	blk_queue_max_segment_size(q, UINT_MAX);
	blk_queue_max_discard_sectors(q, in->discard_bytes >> SECTOR_SHIFT);
	q->limits.discard_granularity = in->cluster_bytes;
	if (in->stable)
		blk_queue_flag_set(QUEUE_FLAG_STABLE_WRITES, q);
	else
		blk_queue_flag_clear(QUEUE_FLAG_STABLE_WRITES, q);
	return 0;
#endif
}

/* Wait until every request that was made is over. */
static inline void ploop_disk_drain(struct gendisk *disk)
{
#ifdef PLOOP_HAS_FREEZE_FLAGS
	blk_mq_unfreeze_queue(disk->queue, blk_mq_freeze_queue(disk->queue));
#else
	blk_mq_freeze_queue(disk->queue);
	blk_mq_unfreeze_queue(disk->queue);
#endif
}

static inline int ploop_bdev_freeze(struct block_device *bdev)
{
#ifdef PLOOP_HAS_BDEV_FREEZE
	return bdev_freeze(bdev);
#else
	return freeze_bdev(bdev);
#endif
}

static inline int ploop_bdev_thaw(struct block_device *bdev)
{
#ifdef PLOOP_HAS_BDEV_FREEZE
	return bdev_thaw(bdev);
#else
	return thaw_bdev(bdev);
#endif
}

static inline struct address_space *ploop_bdev_mapping(struct block_device *bdev)
{
#ifdef PLOOP_HAS_BDEV_MAPPING
	return bdev->bd_mapping;
#else
	return bdev->bd_inode->i_mapping;
#endif
}

/* Write what is dirty in what is mounted on it. */
static inline void ploop_bdev_sync(struct block_device *bdev)
{
#ifdef PLOOP_HAS_HOLDER_OPS
	mutex_lock(&bdev->bd_holder_lock);
	/* It gives the lock up. */
	if (bdev->bd_holder_ops && bdev->bd_holder_ops->sync) {
		bdev->bd_holder_ops->sync(bdev);
	} else {
		mutex_unlock(&bdev->bd_holder_lock);
		sync_blockdev(bdev);
	}
#else
	fsync_bdev(bdev);
#endif
}

/* Would a freeze of it freeze a file system?  A look that may be outdated at once. */
static inline bool ploop_bdev_mounted(struct block_device *bdev)
{
#ifdef PLOOP_HAS_HOLDER_OPS
	const struct blk_holder_ops *ops = READ_ONCE(bdev->bd_holder_ops);

	return ops && ops->freeze;
#else
	return READ_ONCE(bdev->bd_super);
#endif
}

/* A shrinker, whichever way the kernel wants it allocated. */
struct ploop_shrinker {
#ifdef PLOOP_HAS_SHRINKER_ALLOC
	struct shrinker *shrinker;
#else
	struct shrinker shrinker;
#endif
};

static inline int ploop_shrinker_register(struct ploop_shrinker *s, const char *name,
					  unsigned long (*count)(struct shrinker *,
								 struct shrink_control *),
					  unsigned long (*scan)(struct shrinker *,
								struct shrink_control *))
{
#ifdef PLOOP_HAS_SHRINKER_ALLOC
	s->shrinker = shrinker_alloc(0, "%s", name);
	if (!s->shrinker)
		return -ENOMEM;
	s->shrinker->count_objects = count;
	s->shrinker->scan_objects = scan;
	s->shrinker->seeks = DEFAULT_SEEKS;
	shrinker_register(s->shrinker);
	return 0;
#else
	s->shrinker.count_objects = count;
	s->shrinker.scan_objects = scan;
	s->shrinker.seeks = DEFAULT_SEEKS;
	return register_shrinker(&s->shrinker, "%s", name);
#endif
}

static inline void ploop_shrinker_unregister(struct ploop_shrinker *s)
{
#ifdef PLOOP_HAS_SHRINKER_ALLOC
	shrinker_free(s->shrinker);
#else
	unregister_shrinker(&s->shrinker);
#endif
}

/*
 * The plug of a task holds a time that the scheduler drops when the task
 * sleeps.  Who takes the plug away has to drop it first, or the scheduler oopses.
 */
static inline void ploop_plug_forget_time(void)
{
#if defined(PLOOP_HAS_PLUG_TIME)
	blk_plug_invalidate_ts();
#elif defined(PLOOP_HAS_PLUG_TIME_OF)
	blk_plug_invalidate_ts(current);
#endif
}

/* A kernel thread that runs queued works; started. */
static inline struct kthread_worker *ploop_run_worker(const char *name)
{
#ifdef PLOOP_HAS_RUN_WORKER
	return kthread_run_worker(0, "%s", name);
#else
	return kthread_create_worker(0, "%s", name);
#endif
}

/* Give back the freeze protection that a write under way has, in another task. */
static inline void ploop_end_write(struct kiocb *kiocb)
{
#ifdef PLOOP_HAS_END_WRITE
	kiocb_end_write(kiocb);
#else
	struct super_block *sb = file_inode(kiocb->ki_filp)->i_sb;

	__sb_writers_acquired(sb, SB_FREEZE_WRITE);
	sb_end_write(sb);
#endif
}

#endif /* _PLOOP_COMPAT_H */
