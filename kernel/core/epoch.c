// SPDX-License-Identifier: GPL-2.0
/*
 * What is under way, and how to wait for it without stopping the rest.
 *
 * Each request counts itself in before it looks where its cluster is, and out
 * once its I/O is over.  ploop_drain() waits for all that were counted in
 * before the call; new ones go on meanwhile.  So whoever first changes the map
 * (or marks slots busy) and then drains knows that nobody uses the old place
 * any more.  The counters are per CPU, with entries and exits apart, in two
 * sides that take turns: the well-known scheme of sleepable RCU.  A request
 * may have read the side long before it counts itself in, hence two turns.
 *
 * ploop_quiesce() closes a gate before that, so that nothing is under way until
 * ploop_resume(); it costs no RCU grace period and does not wait for requests
 * that are parked for want of space.
 */
#include <linux/sched/mm.h>
#include "core.h"

static struct ploop_request *parking_first(struct ploop_parking *parking)
{
	return list_first_entry_or_null(&parking->list, struct ploop_request, list);
}

/**
 * ploop_parking_init() - make an open parking
 * @parking: what
 */
void ploop_parking_init(struct ploop_parking *parking)
{
	spin_lock_init(&parking->lock);
	INIT_LIST_HEAD(&parking->list);
	parking->closed = false;
	parking->count = 0;
}

/**
 * ploop_park() - wait if the parking is closed
 * @parking: what
 * @req: not in any list, holds nothing others wait for
 *
 * Context: Any context.
 * Return: true if @req is now in the parking's hands.
 */
bool ploop_park(struct ploop_parking *parking, struct ploop_request *req)
{
	unsigned long irq;
	bool parked;

	spin_lock_irqsave(&parking->lock, irq);
	parked = parking->closed;
	if (parked) {
		list_add_tail(&req->list, &parking->list);
		parking->count++;
	}
	spin_unlock_irqrestore(&parking->lock, irq);
	return parked;
}

/**
 * ploop_parking_close() - from now on requests have to wait
 * @parking: what
 *
 * Context: Any context.
 * Return: true if it was open.
 */
bool ploop_parking_close(struct ploop_parking *parking)
{
	unsigned long irq;
	bool was_open;

	spin_lock_irqsave(&parking->lock, irq);
	was_open = !parking->closed;
	WRITE_ONCE(parking->closed, true);
	spin_unlock_irqrestore(&parking->lock, irq);
	return was_open;
}

/**
 * ploop_parking_open() - let go on what waits
 * @dev: the device
 * @parking: what
 *
 * Context: Any context.
 */
void ploop_parking_open(struct ploop_device *dev, struct ploop_parking *parking)
{
	struct ploop_request *req;
	unsigned long irq;

	spin_lock_irqsave(&parking->lock, irq);
	WRITE_ONCE(parking->closed, false);
	while ((req = parking_first(parking))) {
		list_del_init(&req->list);
		parking->count--;
		ploop_rq_queue(req);
	}
	spin_unlock_irqrestore(&parking->lock, irq);
}

/**
 * ploop_enter() - count a request in
 * @dev: the device
 * @req: not counted in
 *
 * Context: Any context.
 * Return: false if the gate is closed; then @req was not counted in.
 */
bool ploop_enter(struct ploop_device *dev, struct ploop_request *req)
{
	req->epoch = READ_ONCE(dev->epoch) & 1;
	req->in_epoch = true;
	this_cpu_inc(dev->epoch_counts->enter[req->epoch]);
	/* Pairs with that in side_is_idle(): count first, then look. */
	smp_mb();
	if (likely(!READ_ONCE(dev->gate.closed)))
		return true;
	ploop_leave(dev, req);
	return false;
}

/**
 * ploop_leave() - count a request out
 * @dev: the device
 * @req: counted in, or not
 *
 * Context: Any context.
 */
void ploop_leave(struct ploop_device *dev, struct ploop_request *req)
{
	if (!req->in_epoch)
		return;
	req->in_epoch = false;
	/* Whatever the request did is done before it is counted out. */
	smp_mb();
	this_cpu_inc(dev->epoch_counts->leave[req->epoch]);
	/* Pairs with that in ploop_drain(): count first, then look for waiters. */
	smp_mb();
	if (unlikely(atomic_read(&dev->draining)))
		wake_up_all(&dev->drain_wait);
}

static bool side_is_idle(struct ploop_device *dev, unsigned int side)
{
	unsigned long enter = 0, leave = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		leave += READ_ONCE(per_cpu_ptr(dev->epoch_counts, cpu)->leave[side]);
	/* An exit that was seen has its entry seen, too. */
	smp_mb();
	for_each_possible_cpu(cpu)
		enter += READ_ONCE(per_cpu_ptr(dev->epoch_counts, cpu)->enter[side]);
	return enter == leave;
}

/**
 * ploop_drain_for() - wait for everything now under way, for a time
 * @dev: the device
 * @timeout: in jiffies
 *
 * The caller must not be counted in itself.  Who gives up leaves nothing behind: the next drain
 * waits for both sides again.
 *
 * Context: Process context; sleeps.
 * Return: false if the time was over first.
 */
bool ploop_drain_for(struct ploop_device *dev, long timeout)
{
	int turn;

	/* One drain at a time; who ends one wakes the others. */
	timeout = wait_event_timeout(dev->drain_wait, mutex_trylock(&dev->drain_lock), timeout);
	if (!timeout)
		return false;
	atomic_inc(&dev->draining);
	for (turn = 0; turn < 2 && timeout; turn++) {
		unsigned int old = dev->epoch & 1;

		WRITE_ONCE(dev->epoch, dev->epoch + 1);
		/* The turn, and what the caller changed, before the look. */
		smp_mb();
		timeout = wait_event_timeout(dev->drain_wait, side_is_idle(dev, old), timeout);
	}
	atomic_dec(&dev->draining);
	mutex_unlock(&dev->drain_lock);
	wake_up_all(&dev->drain_wait);
	return timeout;
}

/**
 * ploop_drain() - wait for everything now under way
 * @dev: the device
 *
 * Context: Process context; sleeps.  Does not hold ctl_lock.
 */
void ploop_drain(struct ploop_device *dev)
{
	ploop_drain_for(dev, MAX_SCHEDULE_TIMEOUT);
}

/**
 * ploop_quiesce_for() - stop the device's I/O, if that takes no longer than a time
 * @dev: the device
 * @timeout: in jiffies
 *
 * Nothing is under way when this returns 0, and nothing will be, until
 * ploop_resume().  Requests wait meanwhile.  So must nobody who allocates memory in
 * between: no allocation of this task does I/O until then.  A task that quiesces several
 * devices resumes them in the reverse order.
 *
 * Context: Process context; sleeps.  Holds ctl_lock, or the device is being snapshotted.
 * Return: 0, or -ETIMEDOUT; then the I/O goes on.
 */
int ploop_quiesce_for(struct ploop_device *dev, long timeout)
{
	unsigned int noio = memalloc_noio_save();

	ploop_parking_close(&dev->gate);
	/* The gate is seen by all that count themselves in after the turn. */
	smp_mb();
	if (ploop_drain_for(dev, timeout)) {
		dev->noio = noio;
		ploop_walk(dev);
		return 0;
	}
	ploop_parking_open(dev, &dev->gate);
	memalloc_noio_restore(noio);
	return -ETIMEDOUT;
}

/**
 * ploop_quiesce() - stop the device's I/O, however long that takes
 * @dev: the device
 *
 * Context: The thread of a job; sleeps.  Does not hold ctl_lock.
 */
void ploop_quiesce(struct ploop_device *dev)
{
	ploop_quiesce_for(dev, MAX_SCHEDULE_TIMEOUT);
}

/**
 * ploop_quiesce_job() - the same, for who holds ctl_lock
 * @dev: the device
 *
 * Context: The thread of a job; sleeps.  Holds ctl_lock, and gives it up between two attempts.
 */
void ploop_quiesce_job(struct ploop_device *dev)
{
	while (ploop_quiesce_for(dev, PLOOP_PATIENCE)) {
		mutex_unlock(&dev->ctl_lock);
		cond_resched();
		mutex_lock(&dev->ctl_lock);
	}
}

/**
 * ploop_resume() - end what ploop_quiesce() began
 * @dev: the device
 *
 * Context: The task that quiesced it; sleeps.  Doesn't hold commit_lock.
 */
void ploop_resume(struct ploop_device *dev)
{
	unsigned int noio = dev->noio;

	ploop_walk(dev);
	ploop_parking_open(dev, &dev->gate);
	/* Flushes waited, too. */
	queue_work(dev->commit_wq, &dev->commit_work);
	memalloc_noio_restore(noio);
}

/**
 * ploop_cluster_trylock() - get the right to change where a cluster is
 * @dev: the device
 * @req: whose lock it will be
 * @cluster: which
 *
 * Context: Any context.
 * Return: true if got.  Else @req waits and its work is queued when the lock is
 * given up; it is in others' hands.
 */
bool ploop_cluster_trylock(struct ploop_device *dev, struct ploop_request *req, u32 cluster)
{
	struct ploop_lock_bucket *bucket = &dev->locks[cluster % PLOOP_LOCK_BUCKETS];
	struct ploop_cluster_lock *other;
	unsigned long irq;

	spin_lock_irqsave(&bucket->lock, irq);
	hlist_for_each_entry(other, &bucket->head, node) {
		if (other->cluster != cluster)
			continue;
		ploop_leave(dev, req);
		list_add_tail(&req->list, &other->waiters);
		spin_unlock_irqrestore(&bucket->lock, irq);
		return false;
	}
	req->lock.cluster = cluster;
	INIT_LIST_HEAD(&req->lock.waiters);
	hlist_add_head(&req->lock.node, &bucket->head);
	req->locked = true;
	spin_unlock_irqrestore(&bucket->lock, irq);
	return true;
}

static bool cluster_lock_try(struct ploop_lock_bucket *bucket, struct ploop_cluster_lock *lock,
			     u32 cluster)
{
	struct ploop_cluster_lock *other;
	unsigned long irq;
	bool got = true;

	spin_lock_irqsave(&bucket->lock, irq);
	hlist_for_each_entry(other, &bucket->head, node)
		if (other->cluster == cluster)
			got = false;
	if (got) {
		lock->cluster = cluster;
		INIT_LIST_HEAD(&lock->waiters);
		hlist_add_head(&lock->node, &bucket->head);
	}
	spin_unlock_irqrestore(&bucket->lock, irq);
	return got;
}

/**
 * ploop_cluster_lock() - as ploop_cluster_trylock(), for a thread
 * @dev: the device
 * @lock: stays in place until ploop_cluster_unlock()
 * @cluster: which
 *
 * Context: Process context; sleeps.
 */
void ploop_cluster_lock(struct ploop_device *dev, struct ploop_cluster_lock *lock, u32 cluster)
{
	struct ploop_lock_bucket *bucket = &dev->locks[cluster % PLOOP_LOCK_BUCKETS];

	wait_event(bucket->wait, cluster_lock_try(bucket, lock, cluster));
}

/**
 * ploop_cluster_unlock() - give the right up
 * @dev: the device
 * @lock: held
 *
 * Context: Any context.
 */
void ploop_cluster_unlock(struct ploop_device *dev, struct ploop_cluster_lock *lock)
{
	struct ploop_lock_bucket *bucket = &dev->locks[lock->cluster % PLOOP_LOCK_BUCKETS];
	struct ploop_request *req, *next;
	unsigned long irq;

	spin_lock_irqsave(&bucket->lock, irq);
	hlist_del_init(&lock->node);
	list_for_each_entry_safe(req, next, &lock->waiters, list) {
		list_del_init(&req->list);
		ploop_rq_queue(req);
	}
	spin_unlock_irqrestore(&bucket->lock, irq);
	wake_up_all(&bucket->wait);
}
