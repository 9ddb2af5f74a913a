/* SPDX-License-Identifier: GPL-2.0 */
/* A stack: its levels, and the map of where clusters are.  Part of core.h. */
#ifndef _PLOOP_STACK_H
#define _PLOOP_STACK_H

/* Levels are numbered 0 (base) to 127. */
#define PLOOP_LEVEL_MAX		(PLOOP_LEVELS_MAX - 1)
/* Table changes that wait for a flush; each of the two lists has room for all of them. */
#define PLOOP_PENDING_MAX	16384u
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
 * @geo: as the header has it; guarded by dev->bat_lock
 * @rdonly: no request writes; changes only while no request is under way
 * @transparent: being merged into the level below
 * @doubtful: what is on disk may not be what was acknowledged: needs a check, for good
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
	struct ploop_geometry geo;
	bool rdonly;
	bool transparent;
	bool doubtful;
	struct kobject kobj;

	struct xarray bat;
	struct list_head bat_lru;
	u32 bat_count;

	spinlock_t alloc_lock;	/* guards what follows */
	u64 next;
	u64 reserved_end;
	u64 file_clusters;
	bool can_reserve;
	u32 *free;
	u32 nr_free;
	u32 floor;
	struct mutex reserve_lock;	/* serialises reserving */

	struct xarray partial;
	size_t partial_bytes;

	/* When its time stamp was set, and after how many writes; guarded by dev->commit_lock. */
	unsigned long touched;
	u64 touched_writes;

	/* The walker's: entries of the table that were bad from the start. */
	bool walked;
	u32 walk_odd;
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

#endif /* _PLOOP_STACK_H */
