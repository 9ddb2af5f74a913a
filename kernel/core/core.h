/* SPDX-License-Identifier: GPL-2.0 */
/* What the files of the core share.  See main.c for the picture. */
#ifndef _PLOOP_CORE_H
#define _PLOOP_CORE_H

#include <linux/blk-mq.h>
#include <linux/blkdev.h>
#include <linux/kobject.h>
#include <linux/mempool.h>
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/refcount.h>
#include <linux/spinlock.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>
#include "../compat.h"
#include "../include/ploop_format.h"
#include "../include/ploop_io.h"
#include "../include/uapi/ploop_control.h"
#include "../include/uapi/ploop_ioctl.h"

/* Levels are numbered 0 (base) to 127. */
#define PLOOP_LEVEL_MAX		(PLOOP_LEVELS_MAX - 1)
/* Entries of the list of table changes that wait for a flush. */
#define PLOOP_PENDING_MAX	8192u
#define PLOOP_PENDING_KICK	4096u
/* Free clusters remembered for reuse; more are left to compaction. */
#define PLOOP_FREE_MAX		65536u
/* Memory for the record of clusters written in part. */
#define PLOOP_PARTIAL_BYTES_MAX	(16u << 20)
/* Pages of each delta's table kept as they are on disk. */
#define PLOOP_BAT_PAGES_MAX	512u
/* Bytes copied in one go between files. */
#define PLOOP_COPY_BYTES	(256u << 10)
#define PLOOP_COPY_ORDER	get_order(PLOOP_COPY_BYTES)
/* Segments of a request; a list of so many fills one page. */
#define PLOOP_SEGMENTS		256u

struct ploop_device;
struct ploop_delta;

/*
 * A slot of the map: where a virtual cluster is.  One word, so that position
 * and level are always seen together.
 */
#define SLOT_PENDING	BIT_ULL(40)	/* not yet in the table on disk */
#define SLOT_PARTIAL	BIT_ULL(41)	/* has an entry in ploop_delta.partial */
#define SLOT_BUSY	BIT_ULL(42)	/* being moved: wait for the cluster's lock */
#define SLOT_HOLE	((u64)PLOOP_IBLOCK_NONE)

static inline u32 slot_iblock(u64 slot)
{
	return (u32)slot;
}

static inline u32 slot_level(u64 slot)
{
	return (slot >> 32) & 0xff;
}

static inline u64 slot_make(u32 iblock, u32 level)
{
	return iblock | (u64)level << 32;
}

static inline bool slot_is_mapped(u64 slot)
{
	return slot_iblock(slot) < PLOOP_IBLOCK_BAD;
}

/**
 * struct ploop_map_page - PLOOP_PAGE_SLOTS slots of the map
 * @ref: one of the map itself, and one per user that may change a slot
 * @index: which page
 * @accessed: used since the clock's hand passed
 * @dev: whose
 * @lru: in the list of all pages; guarded by its lock
 * @rcu: readers hold no reference
 * @half: the slots, in two pages of memory
 */
struct ploop_map_page {
	refcount_t ref;
	u32 index;
	bool accessed;
	struct ploop_device *dev;
	struct list_head lru;
	struct rcu_head rcu;
	atomic64_t *half[2];
};

static inline atomic64_t *ploop_map_slot(struct ploop_map_page *page, u32 cluster)
{
	u32 n = (cluster + PLOOP_HEADER_SLOTS) % PLOOP_PAGE_SLOTS;

	return &page->half[n / 512][n % 512];
}

static inline u32 ploop_map_index(u32 cluster)
{
	return (cluster + PLOOP_HEADER_SLOTS) / PLOOP_PAGE_SLOTS;
}

/**
 * struct ploop_delta - one level of a stack
 * @dev: the device; constant
 * @level: place in it; changes only while no request is under way
 * @fmt: the format; constant
 * @file: the file; replaced only while no request is under way
 * @inode: key in the table of used inodes
 * @geo: as the header has it; guarded by dev->bat_lock
 * @rdonly: no request writes; changes only while no request is under way
 * @transparent: being merged into the level below
 * @kobj: pdelta/N
 * @bat: cached table pages, &struct ploop_bat_page; guarded by dev->bat_lock
 * @bat_lru: the same pages, oldest first
 * @bat_count: how many
 * @alloc_lock: guards what follows
 * @next: first cluster of the file never used
 * @reserved_end: clusters from @next up to here are reserved and read as zeros
 * @file_clusters: length of the file
 * @can_reserve: the file system can
 * @free: clusters to be used again, @nr_free of them
 * @nr_free: see there
 * @floor: clusters below are not handed out
 * @reserve_lock: serialises reserving; taken before @alloc_lock
 * @partial: clusters written in part, by iblock: &struct ploop_partial
 * @partial_bytes: memory for them
 */
struct ploop_delta {
	struct ploop_device *dev;
	u32 level;
	const struct ploop_format *fmt;
	struct ploop_file *file;
	struct inode *inode;
	struct ploop_geometry geo;
	bool rdonly;
	bool transparent;
	struct kobject kobj;

	struct xarray bat;
	struct list_head bat_lru;
	u32 bat_count;

	spinlock_t alloc_lock;
	u64 next;
	u64 reserved_end;
	u64 file_clusters;
	bool can_reserve;
	u32 *free;
	u32 nr_free;
	u32 floor;
	struct mutex reserve_lock;

	struct xarray partial;
	size_t partial_bytes;
};

/**
 * struct ploop_pending - a change of the table that waits for a flush
 * @cluster: which entry
 * @iblock: its new value
 * @freed: cluster of the file that is free once that is durable, or
 *         PLOOP_IBLOCK_NONE
 */
struct ploop_pending {
	u32 cluster;
	u32 iblock;
	u32 freed;
};

/**
 * struct ploop_parking - where requests wait for something to end
 * @lock: guards the rest
 * @closed: requests have to wait
 * @list: those that do; &struct ploop_request.list
 * @count: how many
 */
struct ploop_parking {
	spinlock_t lock;
	bool closed;
	struct list_head list;
	u32 count;
};

/**
 * struct ploop_cluster_lock - exclusive right to change where a cluster is
 * @node: in the device's hash; guarded by the bucket's lock
 * @cluster: which
 * @waiters: requests that want it; &struct ploop_request.list
 */
struct ploop_cluster_lock {
	struct hlist_node node;
	u32 cluster;
	struct list_head waiters;
};

#define PLOOP_LOCK_BUCKETS	64
/* Attributes of pstat and ptune. */
#define PLOOP_STATS		47
#define PLOOP_TUNES		16
#define PLOOP_TUNE_CHECK_ZEROS	10

struct ploop_lock_bucket {
	spinlock_t lock;
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

struct ploop_track;

/**
 * struct ploop_job_state - the job of a device, see job.c
 * @dev: the device
 * @lock: guards @state, @done
 * @wait: for changes of @state, @pause, @cancel
 * @kind: PLOOP_JOB_*; like @arg and @rate set under ctl_lock before the job runs
 * @arg: see there
 * @rate: bytes per second, 0 for no limit
 * @state: PLOOP_JOB_RUNNING...
 * @error: how it ended
 * @pause: it shall wait
 * @cancel: it shall end
 * @done: bytes of the work
 * @total: bytes of the work
 * @paid: bytes since @paid_since; the job's own, as is what follows
 * @paid_since: for the rate
 * @private: of the kind
 */
struct ploop_job_state {
	struct ploop_device *dev;
	spinlock_t lock;
	wait_queue_head_t wait;
	u32 kind;
	u64 arg;
	u64 rate;
	u32 state;
	int error;
	bool pause;
	bool cancel;
	u64 done;
	u64 total;
	u64 paid;
	ktime_t paid_since;
	void *private;
};

/* Clusters moved together. */
#define PLOOP_BATCH		32u
#define PLOOP_BATCH_BYTES	(8u << 20)

/**
 * struct ploop_move - one cluster being moved
 * @lock: held
 * @page: of the map; held
 * @cluster: which
 * @target: cluster of the file where it goes
 * @fresh: @target was allocated for it
 * @place: its slot: as it was, or as it shall be
 * @old: where it was, once ploop_relocate() moved it
 */
struct ploop_move {
	struct ploop_cluster_lock lock;
	struct ploop_map_page *page;
	u32 cluster;
	u32 target;
	bool fresh;
	u64 place;
	u32 old;
};

/**
 * struct ploop_batch - clusters being moved, see move.c
 * @dev: the device
 * @max: how many at most
 * @count: how many
 * @moves: them
 */
struct ploop_batch {
	struct ploop_device *dev;
	u32 max;
	u32 count;
	struct ploop_move moves[PLOOP_BATCH];
};

/**
 * struct ploop_delta_args - what to open as a level
 * @fd: of the calling process
 * @format: PLOOP_FMT_*
 * @io: PLOOP_IO_*
 * @rdonly: read-only
 * @cluster_shift: what it has to be, 0 for any
 * @replace: in place of a level there is
 */
struct ploop_delta_args {
	int fd;
	u32 format;
	u32 io;
	bool rdonly;
	u32 cluster_shift;
	bool replace;
};

/**
 * struct ploop_frozen - frozen file systems, see freeze.c
 * @lock: guards @bdevs, @thawed, @expired
 * @bdevs: frozen block devices
 * @deadline: thaws
 * @started: @deadline was scheduled; the caller's own
 * @thawed: nothing is frozen any more, for good
 * @expired: it was the deadline
 */
struct ploop_frozen {
	struct mutex lock;
	struct list_head bdevs;
	struct delayed_work deadline;
	bool started;
	bool thawed;
	bool expired;
};

/**
 * struct ploop_snapshot_set - devices of one snapshot
 * @devs: @count of them
 * @deltas: their new tops
 * @count: how many
 * @freeze: freeze file systems
 * @deadline_ms: for how long at most
 * @bitmap: name of a bitmap to be cleared, or NULL
 */
struct ploop_snapshot_set {
	struct ploop_device **devs;
	struct ploop_delta **deltas;
	u32 count;
	bool freeze;
	u32 deadline_ms;
	const char *bitmap;
};

/**
 * struct ploop_device - one /dev/ploopN
 * @index: N; constant
 * @disk: constant until module unload
 * @tag_set: of @disk
 * @ctl_lock: serialises all control; never held across freeze or thaw
 * @deleted: the module is going
 * @open_count: openers of the disk; guarded by disk->open_mutex
 * @locked: held by an open /proc/vz/ploop_minor; guarded by the index lock
 * @snapshotting: a snapshot is between its steps; guarded by @ctl_lock
 * @levels: the stack.  Changed under @ctl_lock and @commit_lock with no
 *          request under way; so stable under any of the three
 * @nr_levels: its height
 * @alloc: where new clusters go; like @levels
 * @identity: a lone raw file: no map; like @levels
 * @cluster_shift: log2 of the cluster in bytes; like @levels
 * @version: 0 (raw), 1, 2; guarded by @ctl_lock
 * @sectors: size; guarded by @ctl_lock
 * @running: between START and STOP; written under @ctl_lock
 * @aborted: errno that made writes fail, or 0
 * @rdonly: the top is; like @levels
 * @maintenance: PLOOP_MNTN_*; written under @ctl_lock
 * @cookie: guarded by @ctl_lock
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
	struct mutex ctl_lock;
	bool deleted;
	u32 open_count;
	bool locked;
	bool snapshotting;

	struct ploop_delta *levels[PLOOP_LEVELS_MAX];
	u32 nr_levels;
	struct ploop_delta *alloc;
	bool identity;
	u32 cluster_shift;
	u32 version;
	u64 sectors;
	bool running;
	int aborted;
	bool rdonly;
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
	struct mutex drain_lock;
	wait_queue_head_t drain_wait;
	struct ploop_parking gate;	/* nothing may start */
	struct ploop_parking nospace;	/* the host is full */
	struct delayed_work nospace_work;
	bool nospace_seen;	/* the event was raised */

	/* Commit, see commit.c. */
	struct mutex commit_lock;
	spinlock_t pending_lock;
	struct ploop_pending *pending[2];
	u32 pending_count[2];
	u32 pending_side;
	struct list_head flush_waiters;
	struct work_struct commit_work;
	struct ploop_parking full;	/* too many pending */

	struct ploop_lock_bucket locks[PLOOP_LOCK_BUCKETS];
	struct workqueue_struct *wq;
	struct workqueue_struct *commit_wq;
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
 * @commit: a FUA write to a place the table on disk doesn't have yet
 * @cluster: where it is
 * @iblock: where it is in the file of @delta
 * @delta: written to or read from
 * @bvecs: memory for a list of segments, from the pool, or NULL
 * @status: of the request
 */
struct ploop_request {
	struct ploop_device *dev;
	struct work_struct work;
	struct list_head list;
	struct ploop_iocb io;
	struct ploop_cluster_lock lock;
	bool locked;
	bool in_epoch;
	u8 epoch;
	bool retried;
	bool commit;
	u32 cluster;
	u32 iblock;
	struct ploop_delta *delta;
	struct bio_vec *bvecs;
	blk_status_t status;
};

static inline struct request *ploop_rq(struct ploop_request *req)
{
	return blk_mq_rq_from_pdu(req);
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
