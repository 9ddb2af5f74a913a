/* SPDX-License-Identifier: GPL-2.0 */
/* What the files of the core share.  See main.c for the picture. */
#ifndef _PLOOP_CORE_H
#define _PLOOP_CORE_H

#include <linux/blk-mq.h>
#include <linux/blkdev.h>
#include <linux/kobject.h>
#include <linux/llist.h>
#include <linux/mempool.h>
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/refcount.h>
#include <linux/spinlock.h>
#include <linux/srcu.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>
#include "../compat.h"
#include "../include/ploop_format.h"
#include "../include/ploop_io.h"
#include "../include/uapi/ploop_control.h"
#include "../include/uapi/ploop_ioctl.h"
#include "stack.h"
#include "tasks.h"

/**
 * struct ploop_parking - where requests wait for something to end
 * @lock: guards the rest
 * @closed: requests have to wait
 * @list: those that do; &struct ploop_request.list
 * @count: how many
 */
struct ploop_parking {
	spinlock_t lock;	/* guards the rest */
	bool closed;
	struct list_head list;
	u32 count;
};

/**
 * struct ploop_waiting - where writes wait for long, see waiting.c
 * @lock: guards the rest but for @work
 * @closed: writes have to wait
 * @bios: what they were to write
 * @count: how many writes that was
 * @work: submits @bios again
 */
struct ploop_waiting {
	spinlock_t lock;	/* guards the rest */
	bool closed;
	struct bio_list bios;
	u32 count;
	struct work_struct work;
};

/* How long who holds ctl_lock waits for requests or a commit, in jiffies. */
#define PLOOP_PATIENCE		(60 * HZ)

#define PLOOP_LOCK_BUCKETS	64
/* Attributes of pstat and ptune. */
#define PLOOP_STATS		47
#define PLOOP_TUNES		16
#define PLOOP_TUNE_CHECK_ZEROS	10

struct ploop_lock_bucket {
	spinlock_t lock;	/* guards the list, and the locks in it */
	struct hlist_head head;
	wait_queue_head_t wait;
};

/* Counted per CPU; 64 bit in memory, read without locks. */
struct ploop_stats {
	u64 reads, writes, flushes, discards;
	u64 read_sectors, written_sectors;
	u64 allocations, copies, slow, zero_reads, zero_writes;
	u64 map_reads, host_syncs, fua_in, fua_out, fast;
	u64 ios;		/* calls that reached a file */
};

/* One side of the in-flight count, see epoch.c. */
struct ploop_epoch_count {
	unsigned long enter[2];
	unsigned long leave[2];
};

#define PLOOP_QUEUES_MAX	8u
#define PLOOP_QUEUE_DEPTH	128u

/**
 * struct ploop_lane - what belongs to one hardware queue, see lane.c
 * @under_way: reads and writes that the driver has
 * @alone: how many of the last ones, as lane.c counts, found no other under way
 * @list: those that the worker shall send; &struct ploop_request.lane
 * @work: sends them
 */
struct ploop_lane {
	atomic_t under_way;
	unsigned int alone;
	struct llist_head list;
	struct work_struct work;
} ____cacheline_aligned_in_smp;

struct ploop_track;

/**
 * struct ploop_device - one /dev/ploopN
 * @index: N; constant
 * @disk: constant until module unload
 * @tag_set: of @disk
 * @ctl_lock: serialises all control; never held across freeze or thaw
 * @open_count: openers of the disk; guarded by disk->open_mutex
 * @locked: held by an open /proc/vz/ploop_minor; guarded by the index lock
 * @snapshotting: a snapshot is between its steps; written under @ctl_lock
 * @stack_lock: for who looks at the stack and can wait for nothing
 * @levels: the stack.  Changed under @ctl_lock, @commit_lock and @stack_lock with no
 *          request under way; so stable under any of the four
 * @nr_levels: its height
 * @alloc: where new clusters go; like @levels
 * @identity: a lone raw file: no map; like @levels
 * @cluster_shift: log2 of the cluster in bytes; like @levels
 * @version: 0 (raw), 1, 2; guarded by @ctl_lock
 * @sectors: size; guarded by @ctl_lock
 * @running: between START and STOP; written under @ctl_lock
 * @aborted: errno that made writes fail, or 0
 * @swap: there is swap on it
 * @rdonly: the top is; like @levels
 * @stable: pages under write-back are not changed by who wrote them; like @levels
 * @maintenance: PLOOP_MNTN_*; written under @ctl_lock
 * @cookie: like @levels
 * @max_delta_bytes: limit of the top's file, 0 for none
 * @reserve_bytes: wanted free on the host before a snapshot
 * @punch: give freed clusters back to the host
 * @check_zeros: drop writes of zeros to what was never written
 * @discard_wait: DISCARD_INIT was called; guarded by @ctl_lock
 * @discard_queue: for DISCARD_WAIT
 */
struct ploop_device {
	u32 index;
	struct gendisk *disk;
	struct blk_mq_tag_set tag_set;
	struct mutex ctl_lock;	/* serialises all control */
	u32 open_count;
	bool locked;
	bool snapshotting;

	spinlock_t stack_lock;	/* guards the stack against a look at it */
	struct ploop_delta *levels[PLOOP_LEVELS_MAX];
	u32 nr_levels;
	struct ploop_delta *alloc;
	bool identity;
	u32 cluster_shift;
	u32 version;
	u64 sectors;
	bool running;
	int aborted;
	bool swap;
	bool rdonly;
	bool stable;
	u32 maintenance;
	char cookie[PLOOP_COOKIE_BYTES];
	u64 max_delta_bytes;
	u64 reserve_bytes;
	bool punch;
	bool check_zeros;
	bool discard_wait;
	wait_queue_head_t discard_queue;

	/* The map: pages by index.  Insertion under @bat_lock. */
	struct xarray map;
	/* Guards the deltas' cached tables; held across their I/O. */
	struct mutex bat_lock;

	/* In flight, see epoch.c. */
	struct ploop_epoch_count __percpu *epoch_counts;
	unsigned long epoch;
	atomic_t draining;
	struct mutex drain_lock;	/* one drain at a time */
	wait_queue_head_t drain_wait;
	/* Threads that send requests; they may come back after the request is over. */
	struct srcu_struct senders;
	struct ploop_parking gate;	/* nothing may start */
	unsigned int noio;	/* what ploop_resume() restores; of who quiesced */
	struct ploop_waiting nospace;	/* the host is full */
	struct ploop_waiting held;	/* somebody holds writes back */
	struct delayed_work nospace_work;
	bool nospace_seen;	/* the event was raised */
	bool job_waits;		/* a job waits for the same */
	atomic_t unlimited;	/* max_delta_bytes doesn't count; see freeze.c */

	struct mutex commit_lock;	/* one commit at a time, see commit.c */
	spinlock_t pending_lock;	/* guards what is pending */
	struct ploop_pending *pending[2];
	u32 pending_count[2];
	u32 pending_side;
	struct list_head flush_waiters;
	struct work_struct commit_work;
	int commit_stuck;	/* a condition that can pass keeps commits from being made */
	u64 commit_asked;	/* how many asked for one; guarded by pending_lock */
	u64 commit_over;	/* so many of them have been answered; written under commit_lock */
	int commit_ret;		/* how; written under commit_lock */
	wait_queue_head_t commit_wait;
	struct ploop_parking full;	/* too many pending */

	struct ploop_lock_bucket locks[PLOOP_LOCK_BUCKETS];
	struct workqueue_struct *wq;
	struct workqueue_struct *first_wq;
	struct workqueue_struct *commit_wq;
	struct workqueue_struct *lane_wq;
	struct workqueue_struct *waiting_wq;
	struct ploop_lane lanes[PLOOP_QUEUES_MAX];
	mempool_t *bvec_pool;
	mempool_t *copy_pool;

	struct ploop_stats __percpu *stats;

	/* Old tracker, bitmaps; see track.c and bitmap.c. */
	struct ploop_track __rcu *track;
	struct list_head bitmaps;	/* RCU; changed under ctl_lock */
	u32 nr_bitmaps;

	/* Jobs, see job.c. */
	struct ploop_job_state *job;

	/* Event for sysfs; see event.c. */
	atomic_t frozen;	/* file systems that this driver froze */
	bool event_enospc;
	wait_queue_head_t event_wait;
	u64 frozen_ios;
	u64 frozen_us;

	u64 stat_base[PLOOP_STATS];	/* what pstat shows less */
	u32 tune[PLOOP_TUNES];

	struct kobject *pdelta;
};

/**
 * struct ploop_request - what belongs to a request while the driver has it
 * @dev: the device
 * @work: runs ploop_slow_work()
 * @list: in a parking, among a lock's waiters, or waiting for a commit
 * @io: the transfer under way
 * @lock: the cluster's lock, when @locked
 * @locked: see there
 * @in_epoch: counted as under way
 * @epoch: on which side
 * @retried: a short transfer was tried again
 * @lane: in the list of a lane, or of the thread for swap
 * @laned: counted by its lane
 * @commit: a FUA write to a place the table on disk doesn't have yet
 * @cluster: where it is; of ploop_rq_locate()
 * @iblock: where it is in the file of @delta
 * @delta: written to or read from
 * @bvecs: memory for a list of segments, from the pool, or NULL
 * @status: of the request
 */
struct ploop_request {
	struct ploop_device *dev;
	struct work_struct work;
	struct list_head list;
	struct llist_node lane;
	struct ploop_iocb io;
	struct ploop_cluster_lock lock;
	bool locked;
	bool in_epoch;
	u8 epoch;
	bool retried;
	bool commit;
	bool laned;
	u32 cluster;
	u32 iblock;
	struct ploop_delta *delta;
	struct bio_vec *bvecs;
	/* Of a first write under way. */
	struct ploop_map_page *page;
	bool partial;
	blk_status_t status;
};

static inline struct request *ploop_rq(struct ploop_request *req)
{
	return blk_mq_rq_from_pdu(req);
}

/*
 * No write goes through a read-only top, whoever sends it.  The block layer lets those of
 * stacked drivers pass: device mapper and LVM open a disk before they ask what it is.
 */
static inline bool ploop_write_refused(struct ploop_request *req)
{
	return op_is_write(req_op(ploop_rq(req))) && READ_ONCE(req->dev->rdonly);
}

/* Where in its cluster a request begins, in bytes. */
static inline u32 ploop_rq_offset(struct ploop_request *req)
{
	return (blk_rq_pos(ploop_rq(req)) << SECTOR_SHIFT) &
		((1u << req->dev->cluster_shift) - 1);
}

static inline u32 ploop_cluster_bytes(const struct ploop_device *dev)
{
	return 1u << dev->cluster_shift;
}

static inline bool ploop_batch_full(const struct ploop_batch *batch)
{
	return batch->count >= batch->max;
}

static inline struct ploop_delta *ploop_top(const struct ploop_device *dev)
{
	return dev->nr_levels ? dev->levels[dev->nr_levels - 1] : NULL;
}

static inline u64 ploop_stat_sum(const struct ploop_device *dev, size_t offset)
{
	u64 sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += *(u64 *)((char *)per_cpu_ptr(dev->stats, cpu) + offset);
	return sum;
}

static inline void ploop_stat_add(struct ploop_device *dev, size_t offset, u64 n)
{
	this_cpu_add(*(u64 __percpu *)((char __percpu *)dev->stats + offset), n);
}

#define ploop_count(dev, field) \
	ploop_stat_add(dev, offsetof(struct ploop_stats, field), 1)
#define ploop_add(dev, field, n) \
	ploop_stat_add(dev, offsetof(struct ploop_stats, field), n)
#define ploop_stat(dev, field)		ploop_stat_sum(dev, offsetof(struct ploop_stats, field))

#define ploop_err(dev, fmt, ...) \
	pr_err_ratelimited("ploop%u: " fmt, (dev)->index, ##__VA_ARGS__)
#define ploop_info(dev, fmt, ...) \
	pr_info_ratelimited("ploop%u: " fmt, (dev)->index, ##__VA_ARGS__)

#include "parts.h"

#endif /* _PLOOP_CORE_H */
