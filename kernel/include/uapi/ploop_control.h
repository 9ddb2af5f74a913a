/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The control interface of the ploop driver: ioctls, read(2) and poll(2) on
 * /dev/ploop-control.
 *
 * It is a character device, not more ioctls of the block device, because one
 * call may name several devices, because an open block device counts as a user
 * that keeps it from being stopped, and because block devices have no poll(2).
 *
 * Rules of every structure:
 *  - @size is sizeof() of the structure the caller was built with.  A kernel
 *    that knows more fields takes those missing as zero; one that knows fewer
 *    refuses (E2BIG) unless those it does not know are zero.
 *  - Unknown flag bits and reserved fields that are not zero give EINVAL.
 *  - @index is N of /dev/ploopN; no such device gives ENODEV.
 *  - Offsets and lengths are in bytes.  Pointers are carried in a __u64.
 *  - A maintenance job that is in the way gives EBUSY.
 *  - A call that needs the host gives up after a minute in which the host did not answer
 *    (ETIMEDOUT), and at a fatal signal (EINTR); nothing was changed then.  STATUS, LIMITS,
 *    and what PLOOP_DETACH_FORCE does to waiting writes never wait for another call.
 * All calls need CAP_SYS_ADMIN in the initial user namespace.
 */
#ifndef _UAPI_PLOOP_CONTROL_H
#define _UAPI_PLOOP_CONTROL_H

#include <linux/types.h>
#include <linux/ioctl.h>

#define PLOOP_CONTROL_VERSION	1

#define PLOOP_LEVELS_MAX	128
#define PLOOP_NAME_BYTES	64
#define PLOOP_INDEX_ANY		0xffffffffu
#define PLOOP_SNAPSHOT_MAX	64
#define PLOOP_BITMAPS_MAX	16
#define PLOOP_DEADLINE_MS_MAX	60000

/**
 * struct ploop_version - what this driver can do
 * @size: sizeof(struct ploop_version)
 * @version: out: PLOOP_CONTROL_VERSION
 * @features: out: zero; bits for later additions
 * @reserved: zero
 */
struct ploop_version {
	__u32 size;
	__u32 version;
	__u64 features;
	__u64 reserved[2];
};

/**
 * struct ploop_attach_delta - one file of a stack
 * @fd: open O_RDWR for a writable top, else O_RDONLY; may be closed after the call
 * @format: PLOOP_FMT_RAW (level 0 only) or PLOOP_FMT_PLOOP1
 * @io: PLOOP_IO_*
 * @reserved: zero
 */
struct ploop_attach_delta {
	__s32 fd;
	__u32 format;
	__u32 io;
	__u32 reserved;
};

/* The top is attached read-only, too. */
#define PLOOP_ATTACH_RDONLY	0x1u
/* Freed clusters are punched out of the file. */
#define PLOOP_ATTACH_PUNCH	0x2u

/**
 * struct ploop_attach - make a device of a stack of files and start it
 * @size: sizeof(struct ploop_attach)
 * @flags: PLOOP_ATTACH_*
 * @index: in: wanted index or PLOOP_INDEX_ANY; out: the index
 * @cluster_log: log2 of the cluster size in sectors; 0 takes that of the
 *               files' headers (a lone raw file needs it given)
 * @nr_deltas: how many
 * @reserved0: zero
 * @deltas: pointer to an array of &struct ploop_attach_delta, base first
 * @max_delta_bytes: limit of the top's file, 0 for none
 * @reserve_bytes: what must be free on the host before a snapshot, 0 for none
 * @cookie: text shown in sysfs, ends with a zero byte
 * @reserved: zero
 *
 * All or nothing: after an error no delta is attached and no header changed
 * but for an in-use mark that was set and is cleared again.
 */
struct ploop_attach {
	__u32 size;
	__u32 flags;
	__u32 index;
	__u32 cluster_log;
	__u32 nr_deltas;
	__u32 reserved0;
	__u64 deltas;
	__u64 max_delta_bytes;
	__u64 reserve_bytes;
	char  cookie[PLOOP_NAME_BYTES];
	__u64 reserved[4];
};

/*
 * Writes parked for want of space are failed, so that the stop can go on.  They are also if the
 * device turns out to be in use (EBUSY), and whatever other call is under way.
 */
#define PLOOP_DETACH_FORCE	0x1u

/**
 * struct ploop_ref - names one device: detach, freeze list, queries
 * @size: sizeof(struct ploop_ref)
 * @flags: of the call, else zero
 * @index: which
 * @reserved: zero
 */
struct ploop_ref {
	__u32 size;
	__u32 flags;
	__u32 index;
	__u32 reserved;
};

/* state bits in struct ploop_status */
#define PLOOP_STATE_RUNNING	0x1u
#define PLOOP_STATE_RDONLY	0x2u
#define PLOOP_STATE_ABORTED	0x4u	/* writes fail until the device is stopped */
#define PLOOP_STATE_NOSPACE	0x8u	/* writes are parked for want of space */
#define PLOOP_STATE_FROZEN	0x10u	/* by this interface */

/**
 * struct ploop_status - state and statistics of a device
 * @size: sizeof(struct ploop_status)
 * @index: which
 * @state: out: PLOOP_STATE_*
 * @maintenance: out: PLOOP_MNTN_*
 * @nr_levels: out
 * @cluster_log: out: log2 of the cluster size in sectors
 * @format_version: out: 1 or 2; 0 when there is only a raw file
 * @open_count: out
 * @device_bytes: out: size of the block device
 * @file_bytes: out: used part of the top's file
 * @free_bytes: out: within that, free for reuse
 * @reads: out: requests
 * @writes: out: requests
 * @flushes: out: requests
 * @discards: out: requests
 * @read_bytes: out
 * @written_bytes: out
 * @allocations: out: clusters newly used
 * @copies: out: of these, those filled from a lower level
 * @slow_requests: out: requests that took a thread of their own
 * @parked: out: writes now waiting for space, or held back
 * @host_syncs: out: flushes sent to the host's files
 * @map_misses: out: pages of block tables read
 * @frozen_ios: out: I/O to the host's files between freeze and thaw of the
 *              last snapshot
 * @frozen_us: out: duration of that freeze in microseconds
 * @max_delta_bytes: out
 * @reserve_bytes: out
 * @cookie: out
 * @reserved: zero
 *
 * Also while the device is being snapshotted.
 */
struct ploop_status {
	__u32 size;
	__u32 index;
	__u32 state;
	__u32 maintenance;
	__u32 nr_levels;
	__u32 cluster_log;
	__u32 format_version;
	__u32 open_count;
	__u64 device_bytes;
	__u64 file_bytes;
	__u64 free_bytes;
	__u64 reads;
	__u64 writes;
	__u64 flushes;
	__u64 discards;
	__u64 read_bytes;
	__u64 written_bytes;
	__u64 allocations;
	__u64 copies;
	__u64 slow_requests;
	__u64 parked;
	__u64 host_syncs;
	__u64 map_misses;
	__u64 frozen_ios;
	__u64 frozen_us;
	__u64 max_delta_bytes;
	__u64 reserve_bytes;
	char  cookie[PLOOP_NAME_BYTES];
	__u64 reserved[8];
};

/**
 * struct ploop_limits - change what PLOOP_CTL_ATTACH set
 * @size: sizeof(struct ploop_limits)
 * @index: which device
 * @max_delta_bytes: new value
 * @reserve_bytes: new value
 * @reserved: zero
 *
 * Writes parked by the old limit go on.
 */
struct ploop_limits {
	__u32 size;
	__u32 index;
	__u64 max_delta_bytes;
	__u64 reserve_bytes;
	__u64 reserved[2];
};

/**
 * struct ploop_bitmap - create, delete or clear a named bitmap of written blocks
 * @size: sizeof(struct ploop_bitmap)
 * @index: which device
 * @granule_log: create: log2 of the granule in bytes, 12 to 20
 * @flags: zero
 * @name: ends with a zero byte
 * @reserved: zero
 *
 * A bitmap covers the virtual device, whatever the deltas do below.  A granule
 * is marked before a write, discard or zeroing of any part of it is
 * acknowledged, and also if it failed.  Bitmaps live in memory, until the
 * device is stopped.  A bitmap may take up to 64 MiB; a device too large for
 * the granule gives EFBIG.  A device that grows lengthens them; what is new
 * is not marked.
 */
struct ploop_bitmap {
	__u32 size;
	__u32 index;
	__u32 granule_log;
	__u32 flags;
	char  name[PLOOP_NAME_BYTES];
	__u64 reserved[2];
};

/* Clear what is returned. */
#define PLOOP_BITMAP_CLEAR	0x1u

/**
 * struct ploop_range - some bytes of the virtual device
 * @start: first byte
 * @bytes: length
 */
struct ploop_range {
	__u64 start;
	__u64 bytes;
};

/**
 * struct ploop_bitmap_read - marked ranges of a bitmap, in order
 * @size: sizeof(struct ploop_bitmap_read)
 * @index: which device
 * @flags: PLOOP_BITMAP_CLEAR
 * @nr_ranges: in: room in @ranges; out: how many were stored
 * @start: where to begin
 * @bytes: how far to look
 * @next: out: where a next call should begin; start + bytes when all was seen
 * @ranges: pointer to an array of &struct ploop_range
 * @name: of the bitmap
 * @reserved: zero
 *
 * With PLOOP_BITMAP_CLEAR each granule is tested and cleared in one step: a
 * write that is acknowledged after that marks it again, so a copy of the data
 * made after the call, plus the marks, never miss a write.  If the ranges cannot be
 * stored (EFAULT) their marks are set again.
 */
struct ploop_bitmap_read {
	__u32 size;
	__u32 index;
	__u32 flags;
	__u32 nr_ranges;
	__u64 start;
	__u64 bytes;
	__u64 next;
	__u64 ranges;
	char  name[PLOOP_NAME_BYTES];
	__u64 reserved[2];
};

/**
 * struct ploop_bitmap_info - one entry of a list of bitmaps
 * @name: of the bitmap
 * @granule_log: log2 of the granule in bytes
 * @reserved0: zero
 * @marked: granules now marked
 * @reserved: zero
 */
struct ploop_bitmap_info {
	char  name[PLOOP_NAME_BYTES];
	__u32 granule_log;
	__u32 reserved0;
	__u64 marked;
	__u64 reserved[2];
};

/**
 * struct ploop_bitmap_list - the bitmaps of a device
 * @size: sizeof(struct ploop_bitmap_list)
 * @index: which device
 * @nr: in: room; out: how many there are, be it more than fitted
 * @flags: zero
 * @infos: pointer to an array of &struct ploop_bitmap_info
 * @reserved: zero
 */
struct ploop_bitmap_list {
	__u32 size;
	__u32 index;
	__u32 nr;
	__u32 flags;
	__u64 infos;
	__u64 reserved[2];
};

/**
 * struct ploop_snapshot_item - a device of a snapshot
 * @index: which device
 * @fd: its new top: an empty image of the same version, size and cluster size,
 *      open O_RDWR
 * @reserved: zero
 */
struct ploop_snapshot_item {
	__u32 index;
	__s32 fd;
	__u64 reserved;
};

/* Do not freeze file systems: the snapshot is as after a power cut. */
#define PLOOP_SNAPSHOT_NO_FREEZE	0x1u
/* Start an empty bitmap of the given name on each device at the same instant,
 * or clear it where there is one.
 */
#define PLOOP_SNAPSHOT_BITMAP		0x2u

/**
 * struct ploop_snapshot - switch several devices to new tops in one instant
 * @size: sizeof(struct ploop_snapshot)
 * @flags: PLOOP_SNAPSHOT_*
 * @nr_items: 1 to PLOOP_SNAPSHOT_MAX
 * @deadline_ms: how long the file systems may be frozen at most; 0 means 10000
 * @items: pointer to an array of &struct ploop_snapshot_item, each device once
 * @granule_log: with PLOOP_SNAPSHOT_BITMAP
 * @reserved0: zero
 * @name: with PLOOP_SNAPSHOT_BITMAP
 * @frozen: zero; out: file systems that were frozen
 * @unfrozen: zero; out: users of the devices that were not, as &struct ploop_freeze tells
 * @reserved: zero
 *
 * All devices or none are switched.  The host has to have the devices' reserve
 * free, and no writes may be waiting for space (else ENOSPC).  What is dirty in the file systems is
 * written before they are frozen; ENOSPC also if that runs out of space.  What the freeze
 * itself writes may exceed max_delta_bytes.  At the deadline a timer in the kernel thaws, and
 * the call fails with ETIMEDOUT if the devices were not switched by then.  Devices whose
 * images lie on one another cannot be in one set (EINVAL; where that is not seen, ETIMEDOUT).
 * A new top on a host that needs stable pages gives EOPNOTSUPP if the device was started
 * from files on one that does not.
 */
struct ploop_snapshot {
	__u32 size;
	__u32 flags;
	__u32 nr_items;
	__u32 deadline_ms;
	__u64 items;
	__u32 granule_log;
	__u32 reserved0;
	char  name[PLOOP_NAME_BYTES];
	__u32 frozen;
	__u32 unfrozen;
	__u64 reserved;
};

/* Hold back all other writes, too. */
#define PLOOP_FREEZE_HOLD	0x1u

/**
 * struct ploop_freeze - freeze the file systems on several devices
 * @size: sizeof(struct ploop_freeze)
 * @flags: PLOOP_FREEZE_*
 * @nr: 1 to PLOOP_SNAPSHOT_MAX
 * @deadline_ms: after so long a timer in the kernel thaws; 0 means 10000
 * @indices: pointer to an array of __u32
 * @frozen: zero; out: file systems that were frozen
 * @unfrozen: zero; out: users of the devices or their partitions that were not: file
 *            systems that the kernel does not freeze by their device (btrfs, bcachefs), and other
 *            drivers (LVM, RAID), whatever lies on them
 * @reserved: zero
 *
 * Thawed by PLOOP_CTL_THAW on the same open file, by closing it, and at the
 * deadline, whatever comes first.  PLOOP_CTL_SNAPSHOT with
 * PLOOP_SNAPSHOT_NO_FREEZE may be called in between.  Fails with ENOSPC while
 * writes of one of them wait for space: the freeze would wait with them.  What is dirty is
 * written before, as for PLOOP_CTL_SNAPSHOT.
 *
 * With PLOOP_FREEZE_HOLD, writes, discards and zeroings that reach the devices wait as
 * long, whoever makes them, and what was acknowledged before is durable when the call
 * returns.  Reads and flushes go on; but whoever reads through the page cache of a device
 * (or past it, what is dirty there) may wait for such a write.  One file may hold a device's
 * writes at a time (EBUSY), and a device whose writes are held cannot be stopped (EBUSY).
 */
struct ploop_freeze {
	__u32 size;
	__u32 flags;
	__u32 nr;
	__u32 deadline_ms;
	__u64 indices;
	__u32 frozen;
	__u32 unfrozen;
	__u64 reserved;
};

/* Kinds of jobs; one at a time on a device. */
#define PLOOP_JOB_NONE		0
#define PLOOP_JOB_MERGE		1	/* level @arg into level @arg - 1 */
#define PLOOP_JOB_GROW		2	/* the device to @arg bytes */
#define PLOOP_JOB_COMPACT	3	/* at most @arg bytes per second; 0 = no limit */

/* States of a job. */
#define PLOOP_JOB_RUNNING	1
#define PLOOP_JOB_PAUSED	2
#define PLOOP_JOB_DONE		3
#define PLOOP_JOB_FAILED	4
#define PLOOP_JOB_CANCELLED	5

/* What to do with the job. */
#define PLOOP_JOB_OP_QUERY	0
#define PLOOP_JOB_OP_START	1
#define PLOOP_JOB_OP_PAUSE	2
#define PLOOP_JOB_OP_RESUME	3
#define PLOOP_JOB_OP_CANCEL	4
#define PLOOP_JOB_OP_WAIT	5	/* until it is neither running nor paused */

/**
 * struct ploop_job - start, watch and steer a maintenance job
 * @size: sizeof(struct ploop_job)
 * @index: which device
 * @op: PLOOP_JOB_OP_*
 * @kind: PLOOP_JOB_OP_START: which; else out
 * @arg: PLOOP_JOB_OP_START: see the kinds; else out
 * @rate: PLOOP_JOB_OP_START: bytes per second at most, 0 for no limit; else out
 * @state: out: PLOOP_JOB_RUNNING...
 * @error: out: errno of a failed job
 * @done: out: bytes of the work done
 * @total: out: bytes of the work in all, as known
 * @reserved: zero
 *
 * A cancelled job leaves a whole image; begun again it goes on where the image
 * shows it is.  PLOOP_JOB_OP_PAUSE returns when nothing is moved any more.
 */
struct ploop_job {
	__u32 size;
	__u32 index;
	__u32 op;
	__u32 kind;
	__u64 arg;
	__u64 rate;
	__u32 state;
	__u32 error;
	__u64 done;
	__u64 total;
	__u64 reserved[4];
};

/* Level of a range that no delta holds: it reads as zeros. */
#define PLOOP_LEVEL_NONE	0xffffffffu

/**
 * struct ploop_block_extent - where the newest data of a range is
 * @start: first byte on the virtual device
 * @bytes: length
 * @offset: first byte in the file of @level
 * @level: 0 is the base, or PLOOP_LEVEL_NONE
 * @reserved: zero
 */
struct ploop_block_extent {
	__u64 start;
	__u64 bytes;
	__u64 offset;
	__u32 level;
	__u32 reserved;
};

/**
 * struct ploop_block_status - where the data of a device is
 * @size: sizeof(struct ploop_block_status)
 * @index: which device
 * @flags: zero
 * @nr_extents: in: room; out: how many were stored
 * @start: where to begin; a multiple of the cluster size
 * @bytes: how far to look
 * @next: out: where a next call should begin
 * @extents: pointer to an array of &struct ploop_block_extent
 * @reserved: zero
 */
struct ploop_block_status {
	__u32 size;
	__u32 index;
	__u32 flags;
	__u32 nr_extents;
	__u64 start;
	__u64 bytes;
	__u64 next;
	__u64 extents;
	__u64 reserved[2];
};

/* Event types; bits of a mask as 1 << type. */
#define PLOOP_EV_ABORTED	1	/* arg: errno */
#define PLOOP_EV_STOPPED	2
#define PLOOP_EV_ENOSPC		3	/* writes are parked; arg: 1 = limit, 2 = no answer */
#define PLOOP_EV_STARTED	4
#define PLOOP_EV_SPACE		5	/* parked writes went on */
#define PLOOP_EV_JOB		6	/* a job ended; arg: its state */
#define PLOOP_EV_SNAPSHOT	7	/* switched to a new top; arg: its level */
#define PLOOP_EV_THAWED		8	/* by the deadline */
#define PLOOP_EV_LOST		9	/* events were dropped; arg: how many */

/**
 * struct ploop_watch - which events read(2) on this open file returns
 * @size: sizeof(struct ploop_watch)
 * @index: which device, or PLOOP_INDEX_ANY
 * @mask: 1 << PLOOP_EV_*, or'ed; 0 for all
 * @reserved: zero
 */
struct ploop_watch {
	__u32 size;
	__u32 index;
	__u64 mask;
	__u64 reserved[2];
};

/**
 * struct ploop_event - what read(2) returns, as many as fit
 * @time_ns: CLOCK_MONOTONIC
 * @index: which device
 * @type: PLOOP_EV_*
 * @arg: see the types
 *
 * poll(2) reports POLLIN when there is one.  Without O_NONBLOCK read(2) waits.
 */
struct ploop_event {
	__u64 time_ns;
	__u32 index;
	__u32 type;
	__u64 arg;
};

#define PLOOP_CTL		'P'
#define PLOOP_CTL_VERSION	_IOWR(PLOOP_CTL, 0x80, struct ploop_version)
#define PLOOP_CTL_ATTACH	_IOWR(PLOOP_CTL, 0x81, struct ploop_attach)
#define PLOOP_CTL_DETACH	_IOW(PLOOP_CTL, 0x82, struct ploop_ref)
#define PLOOP_CTL_STATUS	_IOWR(PLOOP_CTL, 0x83, struct ploop_status)
#define PLOOP_CTL_LIMITS	_IOW(PLOOP_CTL, 0x84, struct ploop_limits)
#define PLOOP_CTL_BITMAP_CREATE	_IOW(PLOOP_CTL, 0x85, struct ploop_bitmap)
#define PLOOP_CTL_BITMAP_DELETE	_IOW(PLOOP_CTL, 0x86, struct ploop_bitmap)
#define PLOOP_CTL_BITMAP_CLEAR	_IOW(PLOOP_CTL, 0x87, struct ploop_bitmap)
#define PLOOP_CTL_BITMAP_READ	_IOWR(PLOOP_CTL, 0x88, struct ploop_bitmap_read)
#define PLOOP_CTL_BITMAP_LIST	_IOWR(PLOOP_CTL, 0x89, struct ploop_bitmap_list)
#define PLOOP_CTL_SNAPSHOT	_IOWR(PLOOP_CTL, 0x8a, struct ploop_snapshot)
#define PLOOP_CTL_FREEZE	_IOWR(PLOOP_CTL, 0x8b, struct ploop_freeze)
#define PLOOP_CTL_THAW		_IO(PLOOP_CTL, 0x8c)
#define PLOOP_CTL_JOB		_IOWR(PLOOP_CTL, 0x8d, struct ploop_job)
#define PLOOP_CTL_BLOCK_STATUS	_IOWR(PLOOP_CTL, 0x8e, struct ploop_block_status)
#define PLOOP_CTL_WATCH		_IOW(PLOOP_CTL, 0x8f, struct ploop_watch)

#endif /* _UAPI_PLOOP_CONTROL_H */
