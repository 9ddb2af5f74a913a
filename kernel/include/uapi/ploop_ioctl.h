/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The block device ioctls that ploop 1.15 uses, as its binaries pass them.
 *
 * Every call goes to the block device itself (/dev/ploopN).  All fields are in
 * the byte order of the host; a field named mbz must be zero.  New programs
 * use ploop_control.h instead.
 */
#ifndef _UAPI_PLOOP_IOCTL_H
#define _UAPI_PLOOP_IOCTL_H

#include <linux/types.h>
#include <linux/ioctl.h>

#define PLOOP_MAJOR		182
/* Minors per device; the index of a device is minor / PLOOP_MINORS. */
#define PLOOP_MINORS		16
#define PLOOP_MINOR_SHIFT	4

/* Formats of a delta. */
#define PLOOP_FMT_RAW		1
#define PLOOP_FMT_PLOOP1	2

/* struct ploop_ctl.flags */
#define PLOOP_CTLF_RDONLY	0x00000001u
#define PLOOP_CTLF_COOKIE	0x00000004u	/* a 64 byte cookie follows the chunk */
#define PLOOP_CTLF_CLUBLKS	0x00000008u	/* size is in clusters, not sectors */
#define PLOOP_CTLF_FS_SYNC	0x10000000u	/* freeze the mounted file system */

#define PLOOP_COOKIE_BYTES	64

/* I/O engines of a delta's file; 0 lets the driver choose. */
#define PLOOP_IO_AUTO		0
#define PLOOP_IO_DIRECT		1
#define PLOOP_IO_NFS		2
#define PLOOP_IO_KAIO		4
#define PLOOP_IO_BUFFERED	5	/* not known to ploop 1.15 */

/* Maintenance types, see struct ploop_balloon_ctl. */
enum {
	PLOOP_MNTN_OFF		= 0,
	PLOOP_MNTN_BALLOON	= 1,
	PLOOP_MNTN_FBLOADED	= 2,
	PLOOP_MNTN_SNAPSHOT	= 3,
	PLOOP_MNTN_TRACK	= 4,
	PLOOP_MNTN_DISCARD	= 5,
	PLOOP_MNTN_MERGE	= 257,
	PLOOP_MNTN_GROW		= 258,
	PLOOP_MNTN_RELOC	= 259,
};

/* What reading pstate/event returns. */
enum {
	PLOOP_EVENT_ABORTED	= 1,
	PLOOP_EVENT_STOPPED	= 2,
	PLOOP_EVENT_ENOSPC	= 3,
};

/**
 * struct ploop_ctl - head of ADD_DELTA, SNAPSHOT, REPLACE_DELTA and GROW
 * @format: PLOOP_FMT_*
 * @flags: PLOOP_CTLF_*
 * @cluster_log: log2 of the cluster size in sectors
 * @size: GROW only: new size in sectors, or clusters with PLOOP_CTLF_CLUBLKS
 * @chunks: number of chunks that follow; 1, except for GROW
 * @level: REPLACE_DELTA only: which level
 * @mbz1: zero
 * @mbz2: zero
 */
struct ploop_ctl {
	__u32 format;
	__u32 flags;
	__u32 cluster_log;
	__u32 size;
	__u16 chunks;
	__u8  level;
	__u8  mbz1;
	__u32 mbz2;
};

/**
 * struct ploop_ctl_chunk - one file of a delta
 * @fd: open for reading, or for reading and writing, as the flags say
 * @io: PLOOP_IO_*
 * @flags: zero
 * @offset: zero
 * @start: zero
 * @len: zero
 */
struct ploop_ctl_chunk {
	__s32 fd;
	__u32 io;
	__u32 flags;
	__u32 offset;
	__u64 start;
	__u64 len;
};

/**
 * struct ploop_track_extent - a range of the top delta's file
 * @start: first byte
 * @end: first byte behind it
 */
struct ploop_track_extent {
	__u64 start;
	__u64 end;
};

/**
 * struct ploop_truncate_ctl - cut the file of a read-only delta
 * @fd: the file, open for writing
 * @alloc_head: its new length in clusters
 * @level: which delta
 * @mbz: zero
 */
struct ploop_truncate_ctl {
	__s32 fd;
	__u32 alloc_head;
	__u8  level;
	__u8  mbz[7];
};

/**
 * struct ploop_index_update_ctl - clusters of a lower delta were moved
 * @n_maps: number of pairs that follow
 * @level: which delta
 * @mbz: zero
 */
struct ploop_index_update_ctl {
	__u32 n_maps;
	__u8  level;
	__u8  mbz[3];
};

/**
 * struct ploop_freeblks_extent - clusters the file system does not use
 * @clu: first virtual cluster
 * @iblk: first cluster in the file
 * @len: count
 * @pad: zero
 */
struct ploop_freeblks_extent {
	__u32 clu;
	__u32 iblk;
	__u32 len;
	__u32 pad;
};

/**
 * struct ploop_freeblks_ctl - head of FREEBLKS and FBGET
 * @n_extents: number of &struct ploop_freeblks_extent that follow
 * @alloc_head: out: first cluster behind the used part of the file
 * @level: which delta
 * @mbz: zero
 */
struct ploop_freeblks_ctl {
	__u32 n_extents;
	__u32 alloc_head;
	__u8  level;
	__u8  mbz[7];
};

/**
 * struct ploop_relocblks_extent - clusters to be moved
 * @clu: first virtual cluster
 * @iblk: first cluster in the file
 * @len: count
 * @free: how many of them the file system does not use
 */
struct ploop_relocblks_extent {
	__u32 clu;
	__u32 iblk;
	__u32 len;
	__u32 free;
};

/**
 * struct ploop_relocblks_ctl - head of RELOCBLKS
 * @n_extents: number of &struct ploop_relocblks_extent that follow
 * @n_scanned: informational
 * @alloc_head: in: as FREEBLKS gave it; out: by how many clusters the file shrank
 * @level: which delta
 * @mbz: zero
 */
struct ploop_relocblks_ctl {
	__u32 n_extents;
	__u32 n_scanned;
	__u32 alloc_head;
	__u8  level;
	__u8  mbz[3];
};

/**
 * struct ploop_balloon_ctl - ask for or change the maintenance type
 * @mntn_type: out: PLOOP_MNTN_*
 * @alloc_head: out, in FBLOADED and RELOC
 * @level: out, in FBLOADED and RELOC
 * @inflate: begin
 * @keep_intact: only ask
 * @mbz: zero
 * @pad: zero
 */
struct ploop_balloon_ctl {
	__u32 mntn_type;
	__u32 alloc_head;
	__u8  level;
	__u8  inflate;
	__u8  keep_intact;
	__u8  mbz;
	__u32 pad;
};

/**
 * struct ploop_getdevice_ctl - the lowest free index
 * @minor: out
 * @mbz: zero
 */
struct ploop_getdevice_ctl {
	__u32 minor;
	__u32 mbz;
};

#define PLOOP_IOC		'P'
#define PLOOP_IOC_ADD_DELTA	_IOW(PLOOP_IOC, 0, struct ploop_ctl)
#define PLOOP_IOC_CLEAR		_IO(PLOOP_IOC, 1)
#define PLOOP_IOC_STOP		_IO(PLOOP_IOC, 2)
#define PLOOP_IOC_START		_IO(PLOOP_IOC, 3)
#define PLOOP_IOC_SNAPSHOT	_IOW(PLOOP_IOC, 4, struct ploop_ctl)
#define PLOOP_IOC_DEL_DELTA	_IOW(PLOOP_IOC, 5, __u32)
#define PLOOP_IOC_TRACK_INIT	_IOR(PLOOP_IOC, 6, struct ploop_track_extent)
#define PLOOP_IOC_TRACK_STOP	_IO(PLOOP_IOC, 7)
#define PLOOP_IOC_TRACK_ABORT	_IO(PLOOP_IOC, 8)
#define PLOOP_IOC_TRACK_SETPOS	_IOW(PLOOP_IOC, 9, __u64)
#define PLOOP_IOC_TRACK_READ	_IOR(PLOOP_IOC, 10, struct ploop_track_extent)
#define PLOOP_IOC_SYNC		_IO(PLOOP_IOC, 11)
#define PLOOP_IOC_MERGE		_IO(PLOOP_IOC, 12)
#define PLOOP_IOC_REPLACE_DELTA	_IOW(PLOOP_IOC, 13, struct ploop_ctl)
#define PLOOP_IOC_TRUNCATE	_IOW(PLOOP_IOC, 14, struct ploop_truncate_ctl)
#define PLOOP_IOC_UPDATE_INDEX	_IOW(PLOOP_IOC, 16, struct ploop_index_update_ctl)
#define PLOOP_IOC_GROW		_IOW(PLOOP_IOC, 17, struct ploop_ctl)
#define PLOOP_IOC_FBGET		_IOW(PLOOP_IOC, 18, struct ploop_freeblks_ctl)
#define PLOOP_IOC_BALLOON	_IOW(PLOOP_IOC, 19, struct ploop_balloon_ctl)
#define PLOOP_IOC_FREEBLKS	_IOW(PLOOP_IOC, 20, struct ploop_freeblks_ctl)
#define PLOOP_IOC_RELOCBLKS	_IOW(PLOOP_IOC, 21, struct ploop_relocblks_ctl)
#define PLOOP_IOC_GETDEVICE	_IOW(PLOOP_IOC, 22, struct ploop_getdevice_ctl)
#define PLOOP_IOC_DISCARD_INIT	_IO(PLOOP_IOC, 23)
#define PLOOP_IOC_DISCARD_FINI	_IO(PLOOP_IOC, 24)
#define PLOOP_IOC_DISCARD_WAIT	_IO(PLOOP_IOC, 25)
#define PLOOP_IOC_FBDROP	_IO(PLOOP_IOC, 26)
/* The argument is a value, not a pointer. */
#define PLOOP_IOC_FBFILTER	_IOR(PLOOP_IOC, 27, __u64)
#define PLOOP_IOC_MAX_DELTA_SIZE _IOW(PLOOP_IOC, 28, __u64)

#endif /* _UAPI_PLOOP_IOCTL_H */
