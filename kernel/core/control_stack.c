// SPDX-License-Identifier: GPL-2.0
/* /dev/ploop-control: attach, detach, snapshots, freezing, block status. */
#include <linux/sort.h>
#include <linux/uaccess.h>
#include "control.h"

static int attach_one(struct ploop_device *dev, const struct ploop_attach *arg, u32 level,
		      const struct ploop_attach_delta *one)
{
	struct ploop_delta_args args = { 0 };

	if (one->reserved)
		return -EINVAL;
	args.fd = one->fd;
	args.format = one->format;
	args.io = one->io;
	args.rdonly = level + 1 < arg->nr_deltas || (arg->flags & PLOOP_ATTACH_RDONLY);
	if (level > 0)
		args.cluster_shift = dev->cluster_shift;
	else if (arg->cluster_log)
		args.cluster_shift = arg->cluster_log + SECTOR_SHIFT;
	return ploop_add_delta(dev, &args);
}

static int attach_all(struct ploop_device *dev, const struct ploop_attach *arg,
		      const struct ploop_attach_delta *deltas)
{
	u32 level;
	int ret = 0;

	lockdep_assert_held(&dev->ctl_lock);
	if (dev->nr_levels > 0 || dev->running)
		return -EBUSY;
	for (level = 0; level < arg->nr_deltas && ret == 0; level++)
		ret = attach_one(dev, arg, level, &deltas[level]);
	if (ret == 0) {
		spin_lock(&dev->stack_lock);
		strscpy(dev->cookie, arg->cookie, sizeof(dev->cookie));
		spin_unlock(&dev->stack_lock);
		dev->max_delta_bytes = arg->max_delta_bytes;
		dev->reserve_bytes = arg->reserve_bytes;
		dev->punch = arg->flags & PLOOP_ATTACH_PUNCH;
		ret = ploop_start(dev);
	}
	if (ret)
		ploop_clear(dev);
	return ret;
}

/* See struct ploop_attach. */
int ploop_ctl_attach(struct ploop_control *control, void *data)
{
	struct ploop_attach *arg = data;
	bool any = arg->index == PLOOP_INDEX_ANY;
	struct ploop_attach_delta *deltas;
	struct ploop_device *dev;
	int ret;

	if ((arg->flags & ~(PLOOP_ATTACH_RDONLY | PLOOP_ATTACH_PUNCH)) || arg->reserved0 ||
	    arg->nr_deltas == 0 || arg->nr_deltas > PLOOP_LEVELS_MAX || arg->cluster_log > 17 ||
	    !ploop_ctl_name_ok(arg->cookie) ||
	    !ploop_ctl_zero(arg->reserved, sizeof(arg->reserved)))
		return -EINVAL;
	deltas = memdup_user(u64_to_user_ptr(arg->deltas), arg->nr_deltas * sizeof(*deltas));
	if (IS_ERR(deltas))
		return PTR_ERR(deltas);
	dev = any ? ploop_device_reserve() : ploop_device_get(arg->index);
	ret = PTR_ERR_OR_ZERO(dev);
	if (ret)
		goto out;
	ret = mutex_lock_interruptible(&dev->ctl_lock);
	if (ret == 0) {
		ret = dev->snapshotting ? -EBUSY : attach_all(dev, arg, deltas);
		mutex_unlock(&dev->ctl_lock);
	}
	if (any)
		ploop_device_unreserve(dev);
	arg->index = dev->index;
out:
	kfree(deltas);
	return ret;
}

/**
 * ploop_ctl_unattach() - take back an attachment that nobody was told of
 * @data: as ploop_ctl_attach() left it
 *
 * Context: Process context; sleeps.
 */
void ploop_ctl_unattach(void *data)
{
	struct ploop_attach *arg = data;
	struct ploop_ref ref = { .size = sizeof(ref), .index = arg->index };

	ploop_ctl_detach(NULL, &ref);
}

static bool ref_ok(const struct ploop_ref *arg, u32 flags)
{
	return !(arg->flags & ~flags) && !arg->reserved;
}

/* See PLOOP_DETACH_FORCE. */
int ploop_ctl_detach(struct ploop_control *control, void *data)
{
	struct ploop_ref *arg = data;
	struct ploop_device *dev;
	int ret = 0;

	if (!ref_ok(arg, PLOOP_DETACH_FORCE))
		return -EINVAL;
	dev = ploop_device_find(arg->index);
	if (!dev)
		return -ENODEV;
	/*
	 * Before any lock: whoever has it may wait for those writes.  They are counted only
	 * while they wait, not while they are tried again.
	 */
	if ((arg->flags & PLOOP_DETACH_FORCE) && READ_ONCE(dev->running) &&
	    (READ_ONCE(dev->nospace.count) > 0 || READ_ONCE(dev->nospace_seen) ||
	     READ_ONCE(dev->commit_stuck)))
		ploop_abort(dev, -ENOSPC);
	if (arg->flags & PLOOP_DETACH_FORCE) {
		ret = ploop_ctl_lock_soon(dev);
	} else {
		dev = ploop_ctl_lock(arg->index);
		ret = PTR_ERR_OR_ZERO(dev);
	}
	if (ret)
		return ret;
	if (dev->running)
		ret = ploop_stop(dev, 0);
	if (!dev->running) {
		int err = ploop_clear(dev);

		ret = ret ? ret : err;
	}
	ploop_ctl_unlock(dev);
	return ret;
}

static int compare_u32(const void *a, const void *b)
{
	u32 left = *(const u32 *)a, right = *(const u32 *)b;

	return left < right ? -1 : left > right;
}

/* Freeze each device of a list. */
static int freeze_list(struct ploop_frozen *frozen, u32 *indices, const struct ploop_freeze *arg)
{
	u32 deadline_ms = arg->deadline_ms ?: 10000, count = arg->nr;
	int ret = 0;
	u32 i;

	sort(indices, count, sizeof(u32), compare_u32, NULL);
	for (i = 0; i < count && ret == 0; i++) {
		struct ploop_device *dev = ploop_device_find(indices[i]);

		if (i > 0 && indices[i] == indices[i - 1])
			ret = -EINVAL;
		else if (!dev)
			ret = -ENODEV;
		else
			ret = ploop_freeze_prepare(dev);
	}
	for (i = 0; i < count && ret == 0; i++)
		ret = ploop_freeze(frozen, ploop_device_find(indices[i]), deadline_ms);
	/* A freeze writes; so no earlier. */
	for (i = 0; i < count && ret == 0 && (arg->flags & PLOOP_FREEZE_HOLD); i++)
		ret = ploop_hold(frozen, ploop_device_find(indices[i]));
	return ret;
}

/* See struct ploop_freeze. */
int ploop_ctl_freeze(struct ploop_control *control, void *data)
{
	struct ploop_freeze *arg = data;
	struct ploop_frozen *frozen;
	u32 *indices;
	int ret;

	if ((arg->flags & ~PLOOP_FREEZE_HOLD) || arg->nr == 0 || arg->nr > PLOOP_SNAPSHOT_MAX ||
	    arg->deadline_ms > PLOOP_DEADLINE_MS_MAX || arg->frozen || arg->unfrozen ||
	    arg->reserved)
		return -EINVAL;
	indices = memdup_user(u64_to_user_ptr(arg->indices), arg->nr * sizeof(u32));
	if (IS_ERR(indices))
		return PTR_ERR(indices);
	mutex_lock(&control->lock);
	ret = -EBUSY;
	if (control->frozen)
		goto out;
	ret = -ENOMEM;
	frozen = ploop_frozen_new();
	if (!frozen)
		goto out;
	ret = freeze_list(frozen, indices, arg);
	if (ret) {
		ploop_thaw(frozen);
		goto out;
	}
	arg->frozen = frozen->count;
	arg->unfrozen = frozen->missed;
	control->frozen = frozen;
out:
	mutex_unlock(&control->lock);
	kfree(indices);
	return ret;
}

/**
 * ploop_ctl_thaw() - end what PLOOP_CTL_FREEZE began
 * @control: the open file
 *
 * Return: 0, -ENOENT (nothing was frozen), -ETIMEDOUT (the deadline was first).
 */
int ploop_ctl_thaw(struct ploop_control *control)
{
	int ret = -ENOENT;

	mutex_lock(&control->lock);
	if (control->frozen) {
		ret = ploop_thaw(control->frozen) ? -ETIMEDOUT : 0;
		control->frozen = NULL;
	}
	mutex_unlock(&control->lock);
	return ret;
}

static int prepare_one(struct ploop_snapshot_set *set, const struct ploop_snapshot *arg,
		       const struct ploop_snapshot_item *item)
{
	struct ploop_delta_args args = { .fd = item->fd, .format = PLOOP_FMT_PLOOP1 };
	struct ploop_device *dev;
	int ret = 0;

	if (item->reserved)
		return -EINVAL;
	dev = ploop_ctl_lock(item->index);
	if (IS_ERR(dev))
		return PTR_ERR(dev);
	if (set->bitmap) {
		ret = ploop_bitmap_create(dev, set->bitmap, arg->granule_log);
		set->fresh[set->count] = ret == 0;
		/* One that exists is cleared at the instant of the switch. */
		if (ret == -EEXIST)
			ret = 0;
	}
	if (ret == 0)
		ret = ploop_snapshot_prepare(dev, &args, &set->deltas[set->count]);
	if (ret && set->bitmap && set->fresh[set->count])
		ploop_bitmap_delete(dev, set->bitmap);
	ploop_ctl_unlock(dev);
	if (ret == 0)
		set->devs[set->count++] = dev;
	return ret;
}

static int snapshot_items(struct ploop_snapshot_set *set, const struct ploop_snapshot *arg)
{
	struct ploop_snapshot_item *items;
	int ret = 0;
	u32 i;

	items = memdup_user(u64_to_user_ptr(arg->items), arg->nr_items * sizeof(*items));
	if (IS_ERR(items))
		return PTR_ERR(items);
	for (i = 0; i < arg->nr_items && ret == 0; i++)
		ret = prepare_one(set, arg, &items[i]);
	kfree(items);
	if (ret == 0)
		return ploop_snapshot_run(set);
	ploop_snapshot_unprepare(set);
	return ret;
}

/* See struct ploop_snapshot. */
int ploop_ctl_snapshot(struct ploop_control *control, void *data)
{
	struct ploop_snapshot *arg = data;
	bool bitmap = arg->flags & PLOOP_SNAPSHOT_BITMAP;
	struct ploop_snapshot_set set = { .count = 0 };
	int ret = -ENOMEM;

	if ((arg->flags & ~(PLOOP_SNAPSHOT_NO_FREEZE | PLOOP_SNAPSHOT_BITMAP)) ||
	    arg->nr_items == 0 || arg->nr_items > PLOOP_SNAPSHOT_MAX || arg->reserved0 ||
	    arg->deadline_ms > PLOOP_DEADLINE_MS_MAX || !ploop_ctl_name_ok(arg->name) ||
	    bitmap != !!arg->name[0] || bitmap != !!arg->granule_log || arg->frozen ||
	    arg->unfrozen || arg->reserved)
		return -EINVAL;
	set.freeze = !(arg->flags & PLOOP_SNAPSHOT_NO_FREEZE);
	set.deadline_ms = arg->deadline_ms ?: 10000;
	set.bitmap = bitmap ? arg->name : NULL;
	set.devs = kcalloc(arg->nr_items, sizeof(*set.devs), GFP_KERNEL);
	set.deltas = kcalloc(arg->nr_items, sizeof(*set.deltas), GFP_KERNEL);
	set.fresh = kcalloc(arg->nr_items, sizeof(*set.fresh), GFP_KERNEL);
	if (set.devs && set.deltas && set.fresh)
		ret = snapshot_items(&set, arg);
	arg->frozen = set.frozen;
	arg->unfrozen = set.missed;
	kfree(set.fresh);
	kfree(set.devs);
	kfree(set.deltas);
	return ret;
}

/* So many clusters are looked at before others may have the lock. */
#define STATUS_CLUSTERS	(64u * PLOOP_PAGE_SLOTS)
#define EXTENTS_PER_PAGE ((u32)(PAGE_SIZE / sizeof(struct ploop_block_extent)))

static int status_slot(struct ploop_device *dev, u32 cluster, u64 *slot)
{
	struct ploop_map_page *page;

	*slot = slot_make(cluster, 0);
	if (dev->identity)
		return 0;
	page = ploop_map_get(dev, cluster);
	if (IS_ERR(page))
		return PTR_ERR(page);
	*slot = atomic64_read(ploop_map_slot(page, cluster)) &
		~(SLOT_PENDING | SLOT_PARTIAL | SLOT_BUSY);
	ploop_map_put(page);
	return slot_iblock(*slot) == PLOOP_IBLOCK_BAD ? -EUCLEAN : 0;
}

static bool goes_on(const struct ploop_block_extent *extent, u64 slot, u32 shift)
{
	if (extent->level == PLOOP_LEVEL_NONE)
		return !slot_is_mapped(slot);
	return slot_is_mapped(slot) && slot_level(slot) == extent->level &&
		(u64)slot_iblock(slot) << shift == extent->offset + extent->bytes;
}

/*
 * Go on with @extents, of which there are *@count, until there are @room, one more begins, or
 * some clusters were looked at.  Holds ctl_lock.
 */
static int status_some(struct ploop_device *dev, struct ploop_block_status *arg,
		       struct ploop_block_extent *extents, u32 room, u32 *count)
{
	u64 size = dev->sectors << SECTOR_SHIFT, end = arg->start + arg->bytes;
	u32 shift = dev->cluster_shift, looked;

	if (!dev->running || (arg->start & ((1ull << shift) - 1)) || arg->start > size ||
	    arg->bytes > size - arg->start)
		return -EINVAL;
	for (looked = 0; arg->next < end && looked < STATUS_CLUSTERS; looked++) {
		u64 bytes = min_t(u64, 1ull << shift, end - arg->next), slot;
		struct ploop_block_extent *extent = *count ? &extents[*count - 1] : NULL;
		int ret = status_slot(dev, arg->next >> shift, &slot);

		if (ret)
			return ret;
		if (!extent || !goes_on(extent, slot, shift)) {
			if (*count == room)
				break;
			extent = &extents[(*count)++];
			memset(extent, 0, sizeof(*extent));
			extent->start = arg->next;
			extent->level = PLOOP_LEVEL_NONE;
			if (slot_is_mapped(slot)) {
				extent->level = slot_level(slot);
				extent->offset = (u64)slot_iblock(slot) << shift;
			}
		}
		extent->bytes += bytes;
		arg->next += bytes;
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return looked < STATUS_CLUSTERS;
}

/* Fill a page of extents, and store it.  Return: 1 if there was nothing more, 0, or an errno. */
static int status_page(struct ploop_block_status *arg, struct ploop_block_extent *extents, u32 room)
{
	struct ploop_block_extent __user *out = u64_to_user_ptr(arg->extents);
	u32 count = 0, wanted = min(room - arg->nr_extents, EXTENTS_PER_PAGE);
	int ret;

	do {
		struct ploop_device *dev = ploop_ctl_lock(arg->index);

		if (IS_ERR(dev))
			return PTR_ERR(dev);
		ret = status_some(dev, arg, extents, wanted, &count);
		ploop_ctl_unlock(dev);
	} while (ret == 0);
	if (ret < 0)
		return ret;
	if (copy_to_user(out + arg->nr_extents, extents, count * sizeof(*extents)))
		return -EFAULT;
	arg->nr_extents += count;
	return arg->next >= arg->start + arg->bytes;
}

/* See struct ploop_block_status. */
int ploop_ctl_block_status(struct ploop_control *control, void *data)
{
	struct ploop_block_status *arg = data;
	struct ploop_block_extent *extents;
	u32 room = arg->nr_extents;
	int ret = 0;

	if (arg->flags || !ploop_ctl_zero(arg->reserved, sizeof(arg->reserved)))
		return -EINVAL;
	if (!ploop_device_find(arg->index))
		return -ENODEV;
	if (room == 0)
		return -EINVAL;
	extents = kmalloc_array(EXTENTS_PER_PAGE, sizeof(*extents), GFP_KERNEL);
	if (!extents)
		return -ENOMEM;
	arg->nr_extents = 0;
	arg->next = arg->start;
	while (ret == 0 && arg->nr_extents < room)
		ret = status_page(arg, extents, room);
	kfree(extents);
	return min(ret, 0);
}
