// SPDX-License-Identifier: GPL-2.0
/*
 * No space: writes wait, reads go on.
 *
 * A write that the host has no space for, or that max_delta_bytes forbids, is
 * neither failed (the guest's file system would go read-only) nor does it block
 * a worker: it waits without holding anything (waiting.c), an event tells, and it is tried
 * again each second and whenever a limit is changed.
 */
#include <linux/statfs.h>
#include "core.h"

/**
 * ploop_space_wait() - park a write that failed for want of space or memory
 * @req: the write
 * @error: what it got
 *
 * Context: Any context.
 * Return: false if @error is another one; then nothing was done.
 */
bool ploop_space_wait(struct ploop_request *req, int error)
{
	struct ploop_device *dev = req->dev;

	if ((error != -ENOSPC && error != -EDQUOT && error != -E2BIG && error != -ENOMEM) ||
	    READ_ONCE(dev->aborted))
		return false;
	ploop_leave(dev, req);
	if (req->locked) {
		req->locked = false;
		ploop_cluster_unlock(dev, &req->lock);
	}
	if (error != -ENOMEM && !xchg(&dev->nospace_seen, true)) {
		ploop_info(dev, "no space%s, writes wait\n",
			   error == -E2BIG ? " within the limit of the delta" : "");
		ploop_event(dev, PLOOP_EV_ENOSPC, error == -E2BIG);
	}
	ploop_waiting_close(&dev->nospace);
	queue_delayed_work(system_unbound_wq, &dev->nospace_work, HZ);
	/* An abort in between would have found the parking empty. */
	if (READ_ONCE(dev->aborted) || !ploop_wait(&dev->nospace, req))
		ploop_rq_queue(req);
	else if (READ_ONCE(dev->aborted))
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

/**
 * ploop_space_work() - try parked writes again
 * @work: of the device
 */
void ploop_space_work(struct work_struct *work)
{
	struct ploop_device *dev = container_of(work, struct ploop_device, nospace_work.work);

	ploop_waiting_open(dev, &dev->nospace);
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
