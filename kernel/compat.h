/* SPDX-License-Identifier: GPL-2.0 */
/* What differs between kernel versions; the only place that asks for one. */
#ifndef _PLOOP_COMPAT_H
#define _PLOOP_COMPAT_H

#include <linux/blk-mq.h>
#include <linux/blkdev.h>
#include <linux/fs.h>
#include <linux/shrinker.h>
#include <linux/slab.h>
#include <linux/version.h>

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 9, 0)
#define PLOOP_KERNEL_6_9	1
#endif

#ifdef PLOOP_KERNEL_6_9
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

/* The limits of a device of clusters of @cluster_bytes. */
struct ploop_limits_in {
	u32 cluster_bytes;
	u32 discard_bytes;	/* 0: no discard */
	u32 segments;
};

static inline struct gendisk *ploop_alloc_disk(struct blk_mq_tag_set *set, void *data)
{
#ifdef PLOOP_KERNEL_6_9
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

static inline int ploop_set_limits(struct gendisk *disk, const struct ploop_limits_in *in)
{
#ifdef PLOOP_KERNEL_6_9
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
	return queue_limits_commit_update(disk->queue, &lim);
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
	return 0;
#endif
}

/* Wait until every request that was made is over. */
static inline void ploop_disk_drain(struct gendisk *disk)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 14, 0)
	blk_mq_unfreeze_queue(disk->queue, blk_mq_freeze_queue(disk->queue));
#else
	blk_mq_freeze_queue(disk->queue);
	blk_mq_unfreeze_queue(disk->queue);
#endif
}

static inline int ploop_bdev_freeze(struct block_device *bdev)
{
#ifdef PLOOP_KERNEL_6_9
	return bdev_freeze(bdev);
#else
	return freeze_bdev(bdev);
#endif
}

static inline int ploop_bdev_thaw(struct block_device *bdev)
{
#ifdef PLOOP_KERNEL_6_9
	return bdev_thaw(bdev);
#else
	return thaw_bdev(bdev);
#endif
}

/* Is a file system mounted on it?  A look that may be outdated at once. */
static inline bool ploop_bdev_mounted(struct block_device *bdev)
{
#ifdef PLOOP_KERNEL_6_9
	return READ_ONCE(bdev->bd_holder_ops) == &fs_holder_ops;
#else
	return READ_ONCE(bdev->bd_super);
#endif
}

/* A shrinker, whichever way the kernel wants it allocated. */
struct ploop_shrinker {
#ifdef PLOOP_KERNEL_6_9
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
#ifdef PLOOP_KERNEL_6_9
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
#ifdef PLOOP_KERNEL_6_9
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
#ifdef PLOOP_KERNEL_6_9
	blk_plug_invalidate_ts();
#endif
}

#endif /* _PLOOP_COMPAT_H */
