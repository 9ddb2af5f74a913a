/* SPDX-License-Identifier: GPL-2.0 */
/* What takes long: jobs, clusters being moved, frozen file systems.  Part of core.h. */
#ifndef _PLOOP_TASKS_H
#define _PLOOP_TASKS_H

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
	spinlock_t lock;	/* guards state, done */
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
 * @old: where ploop_relocate() finds it
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
 * struct ploop_grow - a level that gets larger, see grow.c
 * @delta: the level
 * @geo: as it will be
 * @old_next: end of the file before
 * @batch: what is in the way of a longer table
 */
struct ploop_grow {
	struct ploop_delta *delta;
	struct ploop_geometry geo;
	u64 old_next;
	struct ploop_batch batch;
};

/**
 * struct ploop_frozen - frozen file systems, see freeze.c
 * @ref: one of the caller, and one for each thread that freezes
 * @lock: guards @bdevs, @thawed, @expired, @count, @missed
 * @bdevs: frozen block devices
 * @deadline: thaws
 * @end: when that is, in jiffies; 0 before it was scheduled; the caller's own
 * @thawed: nothing is frozen any more, for good
 * @expired: it was the deadline
 * @count: file systems that were frozen
 * @missed: users of a device or a partition that could not be frozen
 */
struct ploop_frozen {
	refcount_t ref;
	struct mutex lock;	/* guards bdevs, thawed, expired, count, missed */
	struct list_head bdevs;
	struct delayed_work deadline;
	unsigned long end;
	bool thawed;
	bool expired;
	u32 count;
	u32 missed;
};

/**
 * struct ploop_snapshot_set - devices of one snapshot
 * @devs: @count of them
 * @deltas: their new tops
 * @fresh: @bitmap was made for the snapshot
 * @count: how many
 * @freeze: freeze file systems
 * @deadline_ms: for how long at most
 * @bitmap: name of a bitmap to be cleared, or NULL
 * @frozen: out: file systems that were frozen
 * @missed: out: users that could not be frozen
 */
struct ploop_snapshot_set {
	struct ploop_device **devs;
	struct ploop_delta **deltas;
	bool *fresh;
	u32 count;
	bool freeze;
	u32 deadline_ms;
	const char *bitmap;
	u32 frozen;
	u32 missed;
};

#endif /* _PLOOP_TASKS_H */
