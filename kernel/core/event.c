// SPDX-License-Identifier: GPL-2.0
/*
 * Events, to pstate/event and to open control files.
 *
 * Each watcher has a ring of its own; when it is full, what comes is counted and
 * reported as lost: nobody who doesn't read can hold anything up.
 */
#include <linux/module.h>
#include <linux/poll.h>
#include <linux/uaccess.h>
#include "core.h"

#define RING 64u

struct ploop_watcher {
	struct list_head list;
	spinlock_t lock;	/* guards what follows */
	wait_queue_head_t wait;
	bool listening;
	u32 index;
	u64 mask;
	u32 head, count;
	u64 lost;
	struct ploop_event ring[RING];
};

static DEFINE_SPINLOCK(watchers_lock);
static LIST_HEAD(watchers);	/* guarded by watchers_lock */

static void watcher_push(struct ploop_watcher *watcher, const struct ploop_event *event)
{
	spin_lock(&watcher->lock);
	if (watcher->listening &&
	    (watcher->index == PLOOP_INDEX_ANY || watcher->index == event->index) &&
	    (watcher->mask == 0 || (watcher->mask & BIT_ULL(event->type)))) {
		if (watcher->count < RING)
			watcher->ring[(watcher->head + watcher->count++) % RING] = *event;
		else
			watcher->lost++;
		wake_up_interruptible(&watcher->wait);
	}
	spin_unlock(&watcher->lock);
}

/**
 * ploop_event() - something happened
 * @dev: the device
 * @type: PLOOP_EV_*
 * @arg: see there
 *
 * Context: Any context.
 */
void ploop_event(struct ploop_device *dev, u32 type, u64 arg)
{
	struct ploop_event event = {
		.time_ns = ktime_get_ns(), .index = dev->index, .type = type, .arg = arg,
	};
	struct ploop_watcher *watcher;
	unsigned long irq;

	if (type == PLOOP_EV_ENOSPC)
		WRITE_ONCE(dev->event_enospc, true);
	wake_up_all(&dev->event_wait);
	spin_lock_irqsave(&watchers_lock, irq);
	list_for_each_entry(watcher, &watchers, list)
		watcher_push(watcher, &event);
	spin_unlock_irqrestore(&watchers_lock, irq);
}

/**
 * ploop_watcher_new() - for a control file that was opened
 *
 * Return: to be given to ploop_watcher_free(), or NULL.
 */
struct ploop_watcher *ploop_watcher_new(void)
{
	struct ploop_watcher *watcher = kzalloc(sizeof(*watcher), GFP_KERNEL);

	if (!watcher)
		return NULL;
	spin_lock_init(&watcher->lock);
	init_waitqueue_head(&watcher->wait);
	spin_lock_irq(&watchers_lock);
	list_add_tail(&watcher->list, &watchers);
	spin_unlock_irq(&watchers_lock);
	return watcher;
}

/**
 * ploop_watcher_free() - its control file is being closed
 * @watcher: nobody waits for it
 */
void ploop_watcher_free(struct ploop_watcher *watcher)
{
	spin_lock_irq(&watchers_lock);
	list_del(&watcher->list);
	spin_unlock_irq(&watchers_lock);
	kfree(watcher);
}

/**
 * ploop_watcher_set() - choose what is reported; what was is forgotten
 * @watcher: which
 * @arg: checked
 */
void ploop_watcher_set(struct ploop_watcher *watcher, const struct ploop_watch *arg)
{
	spin_lock_irq(&watcher->lock);
	watcher->index = arg->index;
	watcher->mask = arg->mask;
	watcher->listening = true;
	watcher->count = 0;
	watcher->lost = 0;
	spin_unlock_irq(&watcher->lock);
}

static bool watcher_pop(struct ploop_watcher *watcher, struct ploop_event *event)
{
	bool got = true;

	spin_lock_irq(&watcher->lock);
	if (watcher->count > 0) {
		*event = watcher->ring[watcher->head];
		watcher->head = (watcher->head + 1) % RING;
		watcher->count--;
	} else if (watcher->lost > 0) {
		memset(event, 0, sizeof(*event));
		event->time_ns = ktime_get_ns();
		event->index = PLOOP_INDEX_ANY;
		event->type = PLOOP_EV_LOST;
		event->arg = watcher->lost;
		watcher->lost = 0;
	} else {
		got = false;
	}
	spin_unlock_irq(&watcher->lock);
	return got;
}

/* The reader could not be given one: it is told so with the next. */
static void watcher_lost(struct ploop_watcher *watcher, const struct ploop_event *event)
{
	spin_lock_irq(&watcher->lock);
	watcher->lost += event->type == PLOOP_EV_LOST ? event->arg : 1;
	spin_unlock_irq(&watcher->lock);
}

/* Is there anything to read? */
static bool watcher_ready(struct ploop_watcher *watcher)
{
	return READ_ONCE(watcher->count) > 0 || READ_ONCE(watcher->lost) > 0;
}

/**
 * ploop_watcher_read() - read(2) of a control file
 * @watcher: its
 * @buf: where to
 * @count: room
 * @nonblock: don't wait
 *
 * Return: bytes, or an errno.
 */
ssize_t ploop_watcher_read(struct ploop_watcher *watcher, char __user *buf, size_t count,
			   bool nonblock)
{
	struct ploop_event event;
	size_t done = 0;
	int ret;

	if (count < sizeof(event))
		return -EINVAL;
	while (done + sizeof(event) <= count) {
		if (watcher_pop(watcher, &event)) {
			if (copy_to_user(buf + done, &event, sizeof(event))) {
				watcher_lost(watcher, &event);
				return done ? (ssize_t)done : -EFAULT;
			}
			done += sizeof(event);
			continue;
		}
		if (done > 0)
			break;
		if (nonblock)
			return -EAGAIN;
		ret = wait_event_interruptible(watcher->wait, watcher_ready(watcher));
		if (ret)
			return ret;
	}
	return done;
}

/**
 * ploop_watcher_poll() - poll(2) of a control file
 * @watcher: its
 * @file: the file
 * @wait: of the caller
 *
 * Return: EPOLLIN when there is something to read.
 */
__poll_t ploop_watcher_poll(struct ploop_watcher *watcher, struct file *file, poll_table *wait)
{
	poll_wait(file, &watcher->wait, wait);
	return watcher_ready(watcher) ? EPOLLIN | EPOLLRDNORM : 0;
}

/**
 * ploop_event_wait() - read of pstate/event
 * @dev: the device
 *
 * Return: PLOOP_EVENT_*, or an errno.
 */
int ploop_event_wait(struct ploop_device *dev)
{
	int ret;

	ret = wait_event_interruptible(dev->event_wait, READ_ONCE(dev->event_enospc) ||
				       READ_ONCE(dev->aborted) || !READ_ONCE(dev->running));
	if (ret)
		return ret;
	if (xchg(&dev->event_enospc, false))
		return PLOOP_EVENT_ENOSPC;
	return READ_ONCE(dev->aborted) ? PLOOP_EVENT_ABORTED : PLOOP_EVENT_STOPPED;
}
