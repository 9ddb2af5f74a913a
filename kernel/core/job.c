// SPDX-License-Identifier: GPL-2.0
/*
 * Maintenance in the background: one job at a time on a device.
 *
 * A job runs in a thread of its own and asks between its steps whether to go on
 * (ploop_job_step()): so it can be paused, cancelled, and limited in rate.  Who
 * waits for it may be interrupted; the job goes on.  While it runs
 * dev->maintenance keeps changes of the stack away.
 */
#include <linux/freezer.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include "core.h"

struct job_kind {
	u32 maintenance;
	int (*prepare)(struct ploop_device *dev, struct ploop_job_state *job);
	int (*run)(struct ploop_device *dev, struct ploop_job_state *job);
	/* Also after a failure, which @ret tells; with ctl_lock. */
	int (*finish)(struct ploop_device *dev, struct ploop_job_state *job, int ret);
};

static const struct job_kind kinds[] = {
	[PLOOP_JOB_MERGE] = { PLOOP_MNTN_MERGE, ploop_merge_prepare, ploop_merge_run,
			      ploop_merge_finish },
	[PLOOP_JOB_GROW] = { PLOOP_MNTN_GROW, ploop_grow_prepare, ploop_grow_run,
			     ploop_grow_finish },
	[PLOOP_JOB_COMPACT] = { PLOOP_MNTN_RELOC, ploop_compact_prepare, ploop_compact_run,
				ploop_compact_finish },
};

/**
 * ploop_job_alloc() - the place of a device's jobs
 * @dev: the device
 *
 * Return: freed with the device, or NULL.
 */
struct ploop_job_state *ploop_job_alloc(struct ploop_device *dev)
{
	struct ploop_job_state *job = kzalloc(sizeof(*job), GFP_KERNEL);

	if (!job)
		return NULL;
	job->dev = dev;
	spin_lock_init(&job->lock);
	init_waitqueue_head(&job->wait);
	return job;
}

static bool job_active(const struct ploop_job_state *job)
{
	u32 state = READ_ONCE(job->state);

	return state == PLOOP_JOB_RUNNING || state == PLOOP_JOB_PAUSED;
}

static void job_set_state(struct ploop_job_state *job, u32 state)
{
	spin_lock(&job->lock);
	WRITE_ONCE(job->state, state);
	spin_unlock(&job->lock);
	wake_up_all(&job->wait);
}

/* How long to sleep so that the rate is not exceeded. */
static long job_delay(struct ploop_job_state *job)
{
	u64 should, is;

	if (!job->rate)
		return 0;
	should = div64_u64(job->paid * MSEC_PER_SEC, job->rate);
	is = ktime_ms_delta(ktime_get(), job->paid_since);
	return should > is ? msecs_to_jiffies(min_t(u64, should - is, 10000)) : 0;
}

/**
 * ploop_job_step() - a part of the work is done: go on?
 * @job: the running job
 * @bytes: of the work
 * @moved: of these, transferred, which counts for the rate
 *
 * Context: The job's thread; sleeps.  Holds nothing.
 * Return: 0, -ECANCELED, -EIO (the device was aborted).
 */
int ploop_job_step(struct ploop_job_state *job, u64 bytes, u64 moved)
{
	long delay;

	spin_lock(&job->lock);
	job->done += bytes;
	spin_unlock(&job->lock);
	job->paid += moved;
	for (;;) {
		if (READ_ONCE(job->cancel))
			return -ECANCELED;
		if (READ_ONCE(job->dev->aborted))
			return -EIO;
		if (READ_ONCE(job->pause)) {
			job_set_state(job, PLOOP_JOB_PAUSED);
			wait_event(job->wait, !READ_ONCE(job->pause) || READ_ONCE(job->cancel) ||
				   READ_ONCE(job->dev->aborted));
			job_set_state(job, PLOOP_JOB_RUNNING);
			job->paid = 0;
			job->paid_since = ktime_get();
			continue;
		}
		delay = job_delay(job);
		if (!delay)
			break;
		wait_event_timeout(job->wait, READ_ONCE(job->pause) || READ_ONCE(job->cancel) ||
				   READ_ONCE(job->dev->aborted), delay);
	}
	cond_resched();
	return 0;
}

/**
 * ploop_job_passes() - shall a step be made again, that cannot be left half done?
 * @dev: the device of the job
 * @error: of the step, or 0
 *
 * If the cause can pass, after a second in which it may.  It is told as for waiting writes, and the
 * same ends it by force.
 *
 * Context: The job's thread; sleeps.  Holds neither ctl_lock nor commit_lock; not quiesced.
 * Return: true if so; false: it went well, failed for good, or the device is aborted.
 */
bool ploop_job_passes(struct ploop_device *dev, int error)
{
	bool again = ploop_error_passes(error) && !READ_ONCE(dev->aborted);

	WRITE_ONCE(dev->job_waits, again);
	if (!again)
		return false;
	ploop_space_tell(dev, error);
	wait_event_timeout(dev->job->wait, READ_ONCE(dev->aborted), HZ);
	return !READ_ONCE(dev->aborted);
}

static int job_thread(void *data)
{
	struct ploop_job_state *job = data;
	struct ploop_device *dev = job->dev;
	const struct job_kind *kind = &kinds[job->kind];
	int ret;

	/* Discards that began before the job see it from now on. */
	ploop_drain(dev);
	ret = kind->run(dev, job);
	mutex_lock(&dev->ctl_lock);
	ret = kind->finish(dev, job, ret);
	WRITE_ONCE(dev->job_waits, false);
	WRITE_ONCE(dev->maintenance, PLOOP_MNTN_OFF);
	job->error = ret;
	job_set_state(job, ret == 0 ? PLOOP_JOB_DONE :
		      ret == -ECANCELED ? PLOOP_JOB_CANCELLED : PLOOP_JOB_FAILED);
	ploop_event(dev, PLOOP_EV_JOB, job->state);
	mutex_unlock(&dev->ctl_lock);
	wake_up_all(&job->wait);
	module_put_and_kthread_exit(0);
}

/**
 * ploop_job_start() - begin a job
 * @dev: the device
 * @kind: PLOOP_JOB_*
 * @arg: see there
 * @rate: bytes per second, 0 for no limit
 *
 * Context: Process context; sleeps.  Holds ctl_lock.
 * Return: 0, -EBUSY, -EINVAL, or what the kind's preparation said.
 */
int ploop_job_start(struct ploop_device *dev, u32 kind, u64 arg, u64 rate)
{
	struct ploop_job_state *job = dev->job;
	struct task_struct *task;
	int ret;

	if (kind == PLOOP_JOB_NONE || kind >= ARRAY_SIZE(kinds))
		return -EINVAL;
	if (dev->snapshotting || dev->maintenance != PLOOP_MNTN_OFF)
		return -EBUSY;
	if (!dev->running)
		return -EINVAL;
	if (dev->aborted)
		return -EIO;
	job->kind = kind;
	job->arg = arg;
	job->rate = rate;
	job->error = 0;
	job->done = 0;
	job->total = 0;
	job->paid = 0;
	job->paid_since = ktime_get();
	job->pause = false;
	job->cancel = false;
	job->private = NULL;
	WRITE_ONCE(dev->maintenance, kinds[kind].maintenance);
	ret = kinds[kind].prepare(dev, job);
	if (ret)
		goto off;
	job->state = PLOOP_JOB_RUNNING;
	__module_get(THIS_MODULE);
	task = kthread_run(job_thread, job, "ploop%u_job", dev->index);
	if (!IS_ERR(task))
		return 0;
	ret = PTR_ERR(task);
	module_put(THIS_MODULE);
	kinds[kind].finish(dev, job, ret);
	job->state = PLOOP_JOB_FAILED;
	job->error = ret;
off:
	WRITE_ONCE(dev->maintenance, PLOOP_MNTN_OFF);
	return ret;
}

/**
 * ploop_job_wait() - until the job is over
 * @dev: the device
 *
 * Context: Process context; sleeps.  Doesn't hold ctl_lock.
 * Return: the job's result, or -ERESTARTSYS; the job goes on then.
 */
int ploop_job_wait(struct ploop_device *dev)
{
	struct ploop_job_state *job = dev->job;
	int ret = wait_event_interruptible(job->wait, !job_active(job));

	return ret ? ret : READ_ONCE(job->error);
}

/**
 * ploop_job_wait_paused() - until the job moves nothing any more
 * @dev: the device
 *
 * Context: Process context; sleeps.  Doesn't hold ctl_lock.
 * Return: 0, or -ERESTARTSYS; it is paused soon then.
 */
int ploop_job_wait_paused(struct ploop_device *dev)
{
	struct ploop_job_state *job = dev->job;

	return wait_event_interruptible(job->wait, READ_ONCE(job->state) != PLOOP_JOB_RUNNING ||
					!READ_ONCE(job->pause));
}

/**
 * ploop_job_steer() - pause, resume or cancel
 * @dev: the device
 * @op: PLOOP_JOB_OP_*
 *
 * Context: Process context.  Holds ctl_lock.
 * Return: 0, -ENOENT (no job is active), -EINVAL.
 */
int ploop_job_steer(struct ploop_device *dev, u32 op)
{
	struct ploop_job_state *job = dev->job;

	if (!job_active(job))
		return -ENOENT;
	switch (op) {
	case PLOOP_JOB_OP_PAUSE:
		WRITE_ONCE(job->pause, true);
		break;
	case PLOOP_JOB_OP_RESUME:
		WRITE_ONCE(job->pause, false);
		break;
	case PLOOP_JOB_OP_CANCEL:
		WRITE_ONCE(job->cancel, true);
		break;
	default:
		return -EINVAL;
	}
	wake_up_all(&job->wait);
	return 0;
}

/**
 * ploop_job_query() - how far the current or last job is
 * @dev: the device
 * @arg: out
 *
 * Context: Process context.
 */
void ploop_job_query(struct ploop_device *dev, struct ploop_job *arg)
{
	struct ploop_job_state *job = dev->job;

	spin_lock(&job->lock);
	arg->kind = job->kind;
	arg->arg = job->arg;
	arg->rate = job->rate;
	arg->state = job->state;
	arg->error = -job->error;
	arg->done = min(job->done, job->total);
	arg->total = job->total;
	spin_unlock(&job->lock);
}
