// SPDX-License-Identifier: GPL-2.0
/*
 * Conditions that can pass: no space, no memory, a server that does not answer.
 *
 * A write that the host has no space for, or that max_delta_bytes forbids, is
 * neither failed (the guest's file system would go read-only) nor does it block
 * a worker: it waits without holding anything (waiting.c), an event tells, and it is tried
 * again each second and whenever a limit is changed.  So are requests that find no memory,
 * or a server that is away, and commits (commit.c), whose flushes wait as long.  What would change
 * a host's file system that is frozen waits in the same way, or it would
 * keep the threads that reads need; that is not told.
 */
#include <linux/statfs.h>
#include "core.h"

/**
 * ploop_error_passes() - can the cause of an error go away?
 * @error: an errno
 *
 * An error of the medium cannot.
 *
 * Context: Any context.
 * Return: true if what failed is to be tried again.
 */
bool ploop_error_passes(int error)
{
	switch (error) {
	case -ENOSPC:
	case -EDQUOT:
	case -E2BIG:
	case -ENOMEM:
	/* Of ours: the host's file system is frozen. */
	case -EBUSY:
	/* A server, on a mount that does not wait for it by itself. */
	case -ETIMEDOUT:
	case -EHOSTUNREACH:
	case -EHOSTDOWN:
	case -ENETUNREACH:
	case -ENETDOWN:
	case -ECONNREFUSED:
		return true;
	default:
		return false;
	}
}

/**
 * ploop_host_frozen() - is the file system frozen that new clusters come from?
 * @dev: counted in, or its stack is stable
 *
 * A look that may be outdated at once.
 *
 * Context: Any context.
 * Return: true if so.
 */
bool ploop_host_frozen(const struct ploop_device *dev)
{
	struct super_block *sb = file_inode(dev->alloc->file->file)->i_sb;

	return READ_ONCE(sb->s_writers.frozen) != SB_UNFROZEN;
}

/**
 * ploop_space_tell() - something waits for a condition to pass
 * @dev: the device
 * @error: of those that can pass
 *
 * Context: Any context.
 */
void ploop_space_tell(struct ploop_device *dev, int error)
{
	bool space = error == -ENOSPC || error == -EDQUOT;

	if (error != -ENOMEM && error != -EBUSY && !xchg(&dev->nospace_seen, true)) {
		ploop_info(dev, "%s, writes wait (%d)\n",
			   space ? "no space" : error == -E2BIG ?
			   "no space within the limit of the delta" : "the host does not answer",
			   error);
		ploop_event(dev, PLOOP_EV_ENOSPC, space ? 0 : error == -E2BIG ? 1 : 2);
	}
	queue_delayed_work(ploop_wq, &dev->nospace_work, error == -EBUSY ? HZ / 10 : HZ);
}

/**
 * ploop_space_is_out() - does something wait for space?
 * @dev: the device
 *
 * Context: Any context.
 * Return: true if so; not on an aborted device, where nothing waits for long.
 */
bool ploop_space_is_out(const struct ploop_device *dev)
{
	return READ_ONCE(dev->nospace_seen) && !READ_ONCE(dev->aborted);
}

/**
 * ploop_space_wait() - park a request that met a condition that can pass
 * @req: the request
 * @error: what it got
 *
 * Reads find the space that they need, so they wait for memory and servers only.
 *
 * Context: Any context.
 * Return: false if @error is another one; then nothing was done.
 */
bool ploop_space_wait(struct ploop_request *req, int error)
{
	struct ploop_device *dev = req->dev;
	bool write = op_is_write(req_op(ploop_rq(req)));

	if (!ploop_error_passes(error) || (write && READ_ONCE(dev->aborted)) ||
	    (!write && (error == -ENOSPC || error == -EDQUOT || error == -E2BIG)))
		return false;
	ploop_leave(dev, req);
	if (req->locked) {
		req->locked = false;
		ploop_cluster_unlock(dev, &req->lock);
	}
	ploop_waiting_close(&dev->nospace);
	ploop_space_tell(dev, error);
	/* An abort in between would have found the parking empty. */
	if ((write && READ_ONCE(dev->aborted)) || !ploop_wait(&dev->nospace, req))
		ploop_rq_queue(req);
	else if (write && READ_ONCE(dev->aborted))
		ploop_waiting_open(dev, &dev->nospace);
	return true;
}

/**
 * ploop_space_found() - an allocation succeeded
 * @dev: the device
 *
 * Context: Any context.
 */
void ploop_space_found(struct ploop_device *dev)
{
	if (likely(!READ_ONCE(dev->nospace_seen)) || !xchg(&dev->nospace_seen, false))
		return;
	ploop_info(dev, "there is space again\n");
	ploop_event(dev, PLOOP_EV_SPACE, 0);
}

static bool is_frozen(struct ploop_device *dev)
{
	bool frozen;

	spin_lock(&dev->stack_lock);
	frozen = dev->alloc && ploop_host_frozen(dev);
	spin_unlock(&dev->stack_lock);
	return frozen;
}

/**
 * ploop_space_work() - try again what waits
 * @work: of the device
 *
 * When nothing has waited since the last time, the condition has passed.
 */
void ploop_space_work(struct work_struct *work)
{
	struct ploop_device *dev = container_of(work, struct ploop_device, nospace_work.work);
	bool stuck = READ_ONCE(dev->commit_stuck);
	bool waits = stuck || READ_ONCE(dev->nospace.count) || READ_ONCE(dev->job_waits);

	ploop_waiting_open(dev, &dev->nospace);
	if (stuck)
		queue_work(dev->commit_wq, &dev->commit_work);
	if (!waits)
		ploop_space_found(dev);
	else
		queue_delayed_work(ploop_wq, &dev->nospace_work, is_frozen(dev) ? HZ / 10 : HZ);
}

/**
 * ploop_space_reserve_ok() - has the host the space that a snapshot wants?
 * @dev: the device
 *
 * Context: Process context; sleeps.  Holds ctl_lock.
 * Return: 0, -ENOSPC, or what the host said.
 */
int ploop_space_reserve_ok(struct ploop_device *dev)
{
	struct ploop_delta *top = ploop_top(dev);
	struct kstatfs statfs;
	int ret;

	if (!dev->reserve_bytes || !top)
		return 0;
	ret = vfs_statfs(&top->file->file->f_path, &statfs);
	if (ret)
		return ret;
	return statfs.f_bavail * statfs.f_bsize < dev->reserve_bytes ? -ENOSPC : 0;
}
