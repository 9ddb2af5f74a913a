/* SPDX-License-Identifier: GPL-2.0 */
/*
 * I/O engines: how bytes get to and from the file of a delta.
 *
 * An engine knows neither formats nor requests.  The three that exist share
 * their code (io/kiocb.c): what differs is which files they take and what
 * those can do, so an engine is mostly a description.
 */
#ifndef _PLOOP_IO_H
#define _PLOOP_IO_H

#include <linux/fs.h>
#include <linux/mutex.h>
#include <linux/uio.h>

/* Transfers bypass the page cache. */
#define PLOOP_IOF_DIRECT	0x1u
/* Space can be reserved in such a way that it reads as zeros. */
#define PLOOP_IOF_RESERVE	0x2u
/* A transfer can be tried without sleeping. */
#define PLOOP_IOF_NOWAIT	0x4u

struct ploop_io;

/**
 * struct ploop_file - an open file of a delta
 * @file: own open file, so flags set on it affect nobody else
 * @io: the engine
 * @flags: PLOOP_IOF_* of this file
 * @align_mask: alignment minus one that direct transfers need
 * @block_bytes: unit in which the host's file system has space written or not
 * @writable: opened for writing
 * @edge_lock: held while a block is read, changed in part, and written back
 * @ios: per-CPU count of calls that reach the file
 */
struct ploop_file {
	struct file *file;
	const struct ploop_io *io;
	u32 flags;
	u32 align_mask;
	u32 block_bytes;
	bool writable;
	struct mutex edge_lock;	/* of blocks that are written in part */
	u64 __percpu *ios;
};

/**
 * struct ploop_iocb - one transfer under way
 * @kiocb: the kernel's part
 * @file: where to
 * @done: called once, in any context, unless ploop_io.submit failed.  @res is
 *        the count of bytes or an errno
 * @write: direction
 * @ioprio: of the request, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_NONE, 0) for none
 */
struct ploop_iocb {
	struct kiocb kiocb;
	struct ploop_file *file;
	void (*done)(struct ploop_iocb *iocb, long res);
	bool write;
	u16 ioprio;
};

/* Of ploop_io.submit: fail with -EAGAIN instead of sleeping. */
#define PLOOP_SUBMIT_NOWAIT	0x1u
/* The data is durable when done is called. */
#define PLOOP_SUBMIT_FUA	0x2u
/* It is over when the call returns. */
#define PLOOP_SUBMIT_SYNC	0x4u

/* Of ploop_io.reserve: what is there already shall read as zeros, too. */
#define PLOOP_RESERVE_ZERO	0x1u

/**
 * struct ploop_io - one engine
 * @owner: the module
 * @id: PLOOP_IO_*
 * @name: as sysfs shows it
 * @rank: engines are asked in ascending order
 * @probe: can the engine serve this file?  Sets flags, align_mask and block_bytes.
 *         Return: 0, or -EOPNOTSUPP
 * @submit: start a transfer.  Sleeps unless PLOOP_SUBMIT_NOWAIT is given.
 *          Return: 0, then done is or will be called; or an error, then not
 * @rw: transfer and wait.  Return: 0, -EIO for a short one, or an errno
 * @sync: make durable what was written.  Return: 0 or an errno
 * @reserve: make [pos, pos + len) part of the file without writing.
 *           Return: 0, -EOPNOTSUPP, -ENOSPC, ...
 * @punch: give the space of [pos, pos + len) back.  Return as @reserve
 * @truncate: cut or lengthen.  Return: 0 or an errno
 */
struct ploop_io {
	struct module *owner;
	u32 id;
	const char *name;
	int rank;
	int (*probe)(struct ploop_file *file);
	int (*submit)(struct ploop_iocb *iocb, struct iov_iter *iter, loff_t pos, u32 flags);
	int (*rw)(struct ploop_file *file, bool write, struct iov_iter *iter, loff_t pos);
	int (*sync)(struct ploop_file *file);
	int (*reserve)(struct ploop_file *file, loff_t pos, loff_t len, u32 flags);
	int (*punch)(struct ploop_file *file, loff_t pos, loff_t len);
	int (*truncate)(struct ploop_file *file, loff_t size);
};

/**
 * ploop_io_register() - make an engine known
 * @io: stays registered and unchanged until ploop_io_unregister()
 *
 * Context: Process context; may sleep.
 * Return: 0 or -EEXIST.
 */
int ploop_io_register(struct ploop_io *io);
void ploop_io_unregister(struct ploop_io *io);

/* The shared code of the engines; see struct ploop_io. */
int ploop_kiocb_submit(struct ploop_iocb *iocb, struct iov_iter *iter, loff_t pos, u32 flags);
int ploop_kiocb_rw(struct ploop_file *file, bool write, struct iov_iter *iter, loff_t pos);
int ploop_kiocb_sync(struct ploop_file *file);
int ploop_kiocb_reserve(struct ploop_file *file, loff_t pos, loff_t len, u32 flags);
int ploop_kiocb_punch(struct ploop_file *file, loff_t pos, loff_t len);
int ploop_kiocb_truncate(struct ploop_file *file, loff_t size);
/* Call a function in a thread that gets no signals; see core/call.c. */
int ploop_call(int (*func)(void *arg), void *arg);
/* Fill what of struct ploop_file the file system tells. */
void ploop_kiocb_limits(struct ploop_file *file);

#endif /* _PLOOP_IO_H */
