// SPDX-License-Identifier: GPL-2.0
/* /dev/ploop-control: attach, detach, snapshots, freezing, block status. */
#include <linux/sort.h>
#include <linux/uaccess.h>
#include "control.h"

static int attach_one(struct ploop_device *dev, const struct ploop_attach *arg, u32 level)
{
	struct ploop_attach_delta one;
	struct ploop_delta_args args = { 0 };

	if (copy_from_user(&one, u64_to_user_ptr(arg->deltas) + level * sizeof(one), sizeof(one)))
		return -EFAULT;
	if (one.reserved)
		return -EINVAL;
	args.fd = one.fd;
	args.format = one.format;
	args.io = one.io;
	args.rdonly = level + 1 < arg->nr_deltas || (arg->flags & PLOOP_ATTACH_RDONLY);
	if (level > 0)
		args.cluster_shift = dev->cluster_shift;
	else if (arg->cluster_log)
		args.cluster_shift = arg->cluster_log + SECTOR_SHIFT;
	return ploop_add_delta(dev, &args);
}

static int attach_all(struct ploop_device *dev, const struct ploop_attach *arg)
{
	u32 level;
	int ret = 0;

	lockdep_assert_held(&dev->ctl_lock);
	if (dev->nr_levels > 0 || dev->running)
		return -EBUSY;
	for (level = 0; level < arg->nr_deltas && ret == 0; level++)
		ret = attach_one(dev, arg, level);
	if (ret == 0) {
		strscpy(dev->cookie, arg->cookie, sizeof(dev->cookie));
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
	struct ploop_device *dev;
	int ret;

	if ((arg->flags & ~(PLOOP_ATTACH_RDONLY | PLOOP_ATTACH_PUNCH)) || arg->reserved0 ||
	    arg->nr_deltas == 0 || arg->nr_deltas > PLOOP_LEVELS_MAX || arg->cluster_log > 17 ||
	    !ploop_ctl_name_ok(arg->cookie) ||
	    !ploop_ctl_zero(arg->reserved, sizeof(arg->reserved)))
		return -EINVAL;
	dev = any ? ploop_device_reserve() : ploop_device_get(arg->index);
	if (IS_ERR(dev))
		return PTR_ERR(dev);
	mutex_lock(&dev->ctl_lock);
	ret = dev->snapshotting ? -EBUSY : attach_all(dev, arg);
	mutex_unlock(&dev->ctl_lock);
	if (any)
		ploop_device_unreserve(dev);
	arg->index = dev->index;
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
	dev = ploop_ctl_lock(arg->index);
	if (IS_ERR(dev))
		return PTR_ERR(dev);
	/* They are counted only while they wait, not while they are tried again. */
	if ((arg->flags & PLOOP_DETACH_FORCE) &&
	    (dev->nospace.count > 0 || READ_ONCE(dev->nospace_seen)))
		ploop_abort(dev, -ENOSPC);
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

/* Freeze each device of a list; @indices is sorted. */
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
			ret = ploop_freeze(frozen, dev, deadline_ms);
	}
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
	    arg->deadline_ms > PLOOP_DEADLINE_MS_MAX ||
	    !ploop_ctl_zero(arg->reserved, sizeof(arg->reserved)))
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
	if (ret)
		ploop_thaw(frozen);
	else
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
		/* One that exists is cleared at the instant of the switch. */
		if (ret == -EEXIST)
			ret = 0;
	}
	if (ret == 0)
		ret = ploop_snapshot_prepare(dev, &args, &set->deltas[set->count]);
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
	    bitmap != !!arg->name[0] || bitmap != !!arg->granule_log ||
	    !ploop_ctl_zero(arg->reserved, sizeof(arg->reserved)))
		return -EINVAL;
	set.freeze = !(arg->flags & PLOOP_SNAPSHOT_NO_FREEZE);
	set.deadline_ms = arg->deadline_ms ?: 10000;
	set.bitmap = bitmap ? arg->name : NULL;
	set.devs = kcalloc(arg->nr_items, sizeof(*set.devs), GFP_KERNEL);
	set.deltas = kcalloc(arg->nr_items, sizeof(*set.deltas), GFP_KERNEL);
	if (set.devs && set.deltas)
		ret = snapshot_items(&set, arg);
	kfree(set.devs);
	kfree(set.deltas);
	return ret;
}

/* The extent of equal place that begins at @cluster; one cluster at least. */
static int status_extent(struct ploop_device *dev, u32 cluster, u32 end,
			 struct ploop_block_extent *extent, u32 *after)
{
	u64 first = 0, slot;
	u32 at;

	for (at = cluster; at < end; at++) {
		if (dev->identity) {
			slot = slot_make(at, 0);
		} else {
			struct ploop_map_page *page = ploop_map_get(dev, at);

			if (IS_ERR(page))
				return PTR_ERR(page);
			slot = atomic64_read(ploop_map_slot(page, at));
			ploop_map_put(page);
		}
		slot &= ~(SLOT_PENDING | SLOT_PARTIAL | SLOT_BUSY);
		if (slot_iblock(slot) == PLOOP_IBLOCK_BAD)
			return -EUCLEAN;
		if (at == cluster)
			first = slot;
		else if (slot_is_mapped(first) ? slot != first + (at - cluster) :
			 slot_is_mapped(slot))
			break;
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	extent->start = (u64)cluster << dev->cluster_shift;
	extent->bytes = (u64)(at - cluster) << dev->cluster_shift;
	extent->offset = slot_is_mapped(first) ?
		(u64)slot_iblock(first) << dev->cluster_shift : 0;
	extent->level = slot_is_mapped(first) ? slot_level(first) : PLOOP_LEVEL_NONE;
	*after = at;
	return 0;
}

static int block_status(struct ploop_device *dev, struct ploop_block_status *arg)
{
	struct ploop_block_extent __user *out = u64_to_user_ptr(arg->extents);
	u64 size = dev->sectors << SECTOR_SHIFT;
	u32 mask = ploop_cluster_bytes(dev) - 1, room = arg->nr_extents;
	u32 cluster, end;

	if (!dev->running || room == 0 || (arg->start & mask) || arg->start > size ||
	    arg->bytes > size - arg->start)
		return -EINVAL;
	cluster = arg->start >> dev->cluster_shift;
	end = (arg->start + arg->bytes + mask) >> dev->cluster_shift;
	arg->nr_extents = 0;
	while (cluster < end && arg->nr_extents < room) {
		struct ploop_block_extent extent = { 0 };
		int ret = status_extent(dev, cluster, end, &extent, &cluster);

		if (ret)
			return ret;
		extent.bytes = min(extent.bytes, arg->start + arg->bytes - extent.start);
		if (copy_to_user(&out[arg->nr_extents], &extent, sizeof(extent)))
			return -EFAULT;
		arg->nr_extents++;
	}
	arg->next = min((u64)cluster << dev->cluster_shift, arg->start + arg->bytes);
	return 0;
}

/* See struct ploop_block_status. */
int ploop_ctl_block_status(struct ploop_control *control, void *data)
{
	struct ploop_block_status *arg = data;
	struct ploop_device *dev;
	int ret;

	if (arg->flags || !ploop_ctl_zero(arg->reserved, sizeof(arg->reserved)))
		return -EINVAL;
	dev = ploop_ctl_lock(arg->index);
	if (IS_ERR(dev))
		return PTR_ERR(dev);
	ret = block_status(dev, arg);
	ploop_ctl_unlock(dev);
	return ret;
}
