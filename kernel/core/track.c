// SPDX-License-Identifier: GPL-2.0
/*
 * The old tracker: which parts of the top's file were written since they were
 * copied (`ploop copy`).
 *
 * One bit per granule of the file, allocated when tracking begins, so that no
 * write needs memory.  A bit is set when a write has completed, before it is
 * acknowledged: what completed before TRACK_SETPOS passed it is seen by the copy that
 * follows.
 */
#include <linux/bitmap.h>
#include "core.h"

#define TRACK_GRANULE_MIN	16u
#define TRACK_BITS_MAX		BIT_ULL(26)

struct ploop_track {
	u32 shift;
	u64 nbits;
	u64 end;		/* what was copied; TRACK_SETPOS */
	u64 cursor;		/* where TRACK_READ goes on, a bit */
	bool failed;		/* something was written that has no bit */
	struct ploop_delta *delta;
	unsigned long bits[];
};

/* Guards the pointer and what TRACK_* change; nothing is taken within. */
static DEFINE_MUTEX(track_lock);

static struct ploop_track *track_of(struct ploop_device *dev)
{
	return rcu_dereference_protected(dev->track, lockdep_is_held(&track_lock));
}

/**
 * ploop_track_file() - a range of a delta's file was written
 * @delta: which
 * @pos: byte offset in the file
 * @len: bytes
 *
 * Context: Any context.
 */
void ploop_track_file(struct ploop_delta *delta, u64 pos, u64 len)
{
	struct ploop_track *track;
	u64 bit, last, end;

	rcu_read_lock();
	track = rcu_dereference(delta->dev->track);
	if (!track || track->delta != delta)
		goto out;
	end = min(pos + len, READ_ONCE(track->end));
	if (pos >= end)
		goto out;
	last = (end - 1) >> track->shift;
	for (bit = pos >> track->shift; bit <= last; bit++) {
		if (bit >= track->nbits) {
			WRITE_ONCE(track->failed, true);
			break;
		}
		set_bit(bit, track->bits);
	}
out:
	rcu_read_unlock();
}

static u64 file_end(const struct ploop_delta *delta)
{
	if (!(delta->fmt->flags & PLOOP_FMTF_TABLE))
		return delta->geo.sectors << SECTOR_SHIFT;
	return READ_ONCE(delta->next) << delta->geo.cluster_shift;
}

/**
 * ploop_track_init() - begin
 * @dev: the device
 * @extent: out: the file as it is now
 *
 * Context: Process context; sleeps.  Holds ctl_lock.
 * Return: 0, -EBUSY, -ENOENT, -ENOMEM, -ETIMEDOUT.
 */
int ploop_track_init(struct ploop_device *dev, struct ploop_track_extent *extent)
{
	struct ploop_delta *top = ploop_top(dev);
	struct ploop_track *track;
	u64 bytes;
	u32 shift = TRACK_GRANULE_MIN;
	int ret;

	if (dev->maintenance != PLOOP_MNTN_OFF)
		return -EBUSY;
	if (!top)
		return -ENOENT;
	/* Twice what a whole image takes: there may be holes. */
	bytes = (top->file_clusters + 2 * ((u64)top->geo.first_iblock + top->geo.clusters)) <<
		dev->cluster_shift;
	while (bytes >> shift > TRACK_BITS_MAX)
		shift++;
	track = kvzalloc(sizeof(*track) + BITS_TO_LONGS((bytes >> shift) + 1) * sizeof(long),
			 GFP_KERNEL);
	if (!track)
		return -ENOMEM;
	track->shift = shift;
	track->nbits = (bytes >> shift) + 1;
	track->delta = top;
	mutex_lock(&track_lock);
	rcu_assign_pointer(dev->track, track);
	mutex_unlock(&track_lock);
	WRITE_ONCE(dev->maintenance, PLOOP_MNTN_TRACK);
	if (dev->running) {
		ret = ploop_quiesce_for(dev, PLOOP_PATIENCE);
		if (ret) {
			ploop_track_abort(dev);
			return ret;
		}
		extent->end = file_end(top);
		ploop_resume(dev);
	} else {
		extent->end = file_end(top);
	}
	extent->start = 0;
	return 0;
}

/**
 * ploop_track_setpos() - everything below a position has been copied
 * @dev: the device
 * @pos: bytes; 0 begins anew
 *
 * Context: Process context; sleeps.
 * Return: 0 or -EINVAL.
 */
int ploop_track_setpos(struct ploop_device *dev, u64 pos)
{
	struct ploop_track *track;
	int ret = -EINVAL;

	mutex_lock(&track_lock);
	track = track_of(dev);
	if (track && pos == 0) {
		bitmap_zero(track->bits, track->nbits);
		track->cursor = 0;
		ret = 0;
	} else if (track && pos >= track->end) {
		ret = 0;
	}
	if (ret == 0)
		WRITE_ONCE(track->end, pos);
	mutex_unlock(&track_lock);
	/* Writes that complete from now on see the position. */
	smp_mb();
	return ret;
}

static bool take_run(struct ploop_track *track, u64 from, struct ploop_track_extent *extent)
{
	u64 first = find_next_bit(track->bits, track->nbits, from);
	u64 bit;

	if (first >= track->nbits)
		return false;
	for (bit = first; bit < track->nbits && test_and_clear_bit(bit, track->bits);)
		bit++;
	extent->start = first << track->shift;
	extent->end = min(bit << track->shift, max(track->end, extent->start + 1));
	track->cursor = bit;
	return true;
}

/**
 * ploop_track_read() - take the next written range out
 * @dev: the device
 * @extent: out
 *
 * Context: Process context; sleeps.
 * Return: 0, -EINVAL (not tracking), -ECONNABORTED, -EAGAIN (none).
 */
int ploop_track_read(struct ploop_device *dev, struct ploop_track_extent *extent)
{
	struct ploop_track *track;
	u64 end;
	int ret = 0;

	mutex_lock(&track_lock);
	track = track_of(dev);
	if (!track) {
		ret = -EINVAL;
		goto out;
	}
	if (READ_ONCE(track->failed)) {
		ret = -ECONNABORTED;
		goto out;
	}
	end = file_end(track->delta);
	if (take_run(track, track->cursor, extent))
		goto out;
	if (track->end >= end && take_run(track, 0, extent))
		goto out;
	if (end > track->end) {
		extent->start = track->end;
		extent->end = end;
		goto out;
	}
	track->cursor = 0;
	ret = -EAGAIN;
out:
	mutex_unlock(&track_lock);
	return ret;
}

static void track_end(struct ploop_device *dev, struct ploop_track *track)
{
	lockdep_assert_held(&track_lock);
	rcu_assign_pointer(dev->track, NULL);
	synchronize_rcu();
	kvfree(track);
	cmpxchg(&dev->maintenance, PLOOP_MNTN_TRACK, PLOOP_MNTN_OFF);
}

/**
 * ploop_track_stop() - end, if everything was read
 * @dev: the device
 *
 * Context: Process context; sleeps.
 * Return: 0, -EBUSY (something was not), -ECONNABORTED (ended all the same).
 */
int ploop_track_stop(struct ploop_device *dev)
{
	struct ploop_track *track;
	int ret = 0;

	mutex_lock(&track_lock);
	track = track_of(dev);
	if (track) {
		if (READ_ONCE(track->failed))
			ret = -ECONNABORTED;
		else if (find_first_bit(track->bits, track->nbits) < track->nbits)
			ret = -EBUSY;
		if (ret != -EBUSY)
			track_end(dev, track);
	}
	mutex_unlock(&track_lock);
	return ret;
}

/**
 * ploop_track_abort() - end, whatever was not read
 * @dev: the device
 *
 * Context: Process context; sleeps.
 */
void ploop_track_abort(struct ploop_device *dev)
{
	struct ploop_track *track;

	mutex_lock(&track_lock);
	track = track_of(dev);
	if (track)
		track_end(dev, track);
	mutex_unlock(&track_lock);
}
