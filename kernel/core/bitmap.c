// SPDX-License-Identifier: GPL-2.0
/*
 * Named bitmaps of written blocks of the virtual device.
 *
 * Bits are set when a write has completed, before it is acknowledged.  So whoever
 * clears a bit and then reads the data has every write that was acknowledged
 * before, and finds the bit set again for each one after.
 */
#include <linux/bitmap.h>
#include <linux/mm.h>
#include <linux/uaccess.h>
#include "core.h"

#define BITMAP_BYTES_MAX (64ull << 20)

struct ploop_bitmap_state {
	struct list_head list;
	struct rcu_head rcu;
	char name[PLOOP_NAME_BYTES];
	u32 shift;
	u64 nbits;
	unsigned long *bits;
};

/**
 * ploop_bitmap_mark() - blocks were written
 * @dev: the device
 * @sector: first
 * @count: how many
 *
 * Context: Any context.
 */
void ploop_bitmap_mark(struct ploop_device *dev, u64 sector, u32 count)
{
	struct ploop_bitmap_state *bitmap;

	if (likely(list_empty(&dev->bitmaps)) || count == 0)
		return;
	rcu_read_lock();
	list_for_each_entry_rcu(bitmap, &dev->bitmaps, list) {
		u64 bit = (sector << SECTOR_SHIFT) >> bitmap->shift;
		u64 last = ((sector + count - 1) << SECTOR_SHIFT) >> bitmap->shift;

		for (; bit <= last && bit < bitmap->nbits; bit++)
			if (!test_bit(bit, bitmap->bits))
				set_bit(bit, bitmap->bits);
	}
	rcu_read_unlock();
}

/* With ctl_lock, or by the device's snapshot. */
static struct ploop_bitmap_state *bitmap_find(struct ploop_device *dev, const char *name)
{
	struct ploop_bitmap_state *bitmap;

	list_for_each_entry(bitmap, &dev->bitmaps, list)
		if (strcmp(bitmap->name, name) == 0)
			return bitmap;
	return NULL;
}

static u64 bits_needed(u64 sectors, u32 shift)
{
	return ((sectors << SECTOR_SHIFT) + (1ull << shift) - 1) >> shift;
}

static unsigned long *bits_alloc(u64 nbits)
{
	u64 bytes = BITS_TO_LONGS(nbits) * sizeof(long);

	return bytes > BITMAP_BYTES_MAX ? ERR_PTR(-EFBIG) :
		kvzalloc(bytes, GFP_KERNEL) ?: ERR_PTR(-ENOMEM);
}

/**
 * ploop_bitmap_create() - begin a bitmap, empty
 * @dev: running
 * @name: a zero byte ends it
 * @granule_log: log2 of the granule in bytes
 *
 * Context: Process context; sleeps.  Holds ctl_lock.
 * Return: 0, -EINVAL, -EEXIST, -ENOSPC (too many), -EFBIG, -ENOMEM.
 */
int ploop_bitmap_create(struct ploop_device *dev, const char *name, u32 granule_log)
{
	struct ploop_bitmap_state *bitmap;
	int ret;

	if (granule_log < 12 || granule_log > 20 || !name[0])
		return -EINVAL;
	if (bitmap_find(dev, name))
		return -EEXIST;
	if (dev->nr_bitmaps >= PLOOP_BITMAPS_MAX)
		return -ENOSPC;
	bitmap = kzalloc(sizeof(*bitmap), GFP_KERNEL);
	if (!bitmap)
		return -ENOMEM;
	strscpy(bitmap->name, name, sizeof(bitmap->name));
	bitmap->shift = granule_log;
	bitmap->nbits = bits_needed(dev->sectors, granule_log);
	bitmap->bits = bits_alloc(bitmap->nbits);
	if (IS_ERR(bitmap->bits)) {
		ret = PTR_ERR(bitmap->bits);
		kfree(bitmap);
		return ret;
	}
	dev->nr_bitmaps++;
	list_add_tail_rcu(&bitmap->list, &dev->bitmaps);
	return 0;
}

static void bitmap_remove(struct ploop_device *dev, struct ploop_bitmap_state *bitmap)
{
	list_del_rcu(&bitmap->list);
	dev->nr_bitmaps--;
	synchronize_rcu();
	kvfree(bitmap->bits);
	kfree(bitmap);
}

/**
 * ploop_bitmap_delete() - end a bitmap
 * @dev: the device
 * @name: of the bitmap
 *
 * Context: Process context; sleeps.  Holds ctl_lock.
 * Return: 0 or -ENOENT.
 */
int ploop_bitmap_delete(struct ploop_device *dev, const char *name)
{
	struct ploop_bitmap_state *bitmap = bitmap_find(dev, name);

	if (!bitmap)
		return -ENOENT;
	bitmap_remove(dev, bitmap);
	return 0;
}

/**
 * ploop_bitmap_clear() - forget the marks
 * @dev: the device; if quiesced, at one instant
 * @name: of the bitmap
 *
 * Context: Process context.  Holds ctl_lock.
 * Return: 0 or -ENOENT.
 */
int ploop_bitmap_clear(struct ploop_device *dev, const char *name)
{
	struct ploop_bitmap_state *bitmap = bitmap_find(dev, name);
	u64 word;

	if (!bitmap)
		return -ENOENT;
	for (word = 0; word < BITS_TO_LONGS(bitmap->nbits); word++)
		xchg(&bitmap->bits[word], 0);
	return 0;
}

/**
 * ploop_bitmaps_free() - end all
 * @dev: the device
 *
 * Context: Process context; sleeps.  Holds ctl_lock.
 */
void ploop_bitmaps_free(struct ploop_device *dev)
{
	struct ploop_bitmap_state *bitmap, *next;

	list_for_each_entry_safe(bitmap, next, &dev->bitmaps, list)
		bitmap_remove(dev, bitmap);
}

/**
 * ploop_bitmaps_resize() - follow the size of the device
 * @dev: quiesced
 * @sectors: new size
 *
 * Context: Process context; sleeps.  Holds ctl_lock.
 * Return: 0, -EFBIG, -ENOMEM.
 */
int ploop_bitmaps_resize(struct ploop_device *dev, u64 sectors)
{
	struct ploop_bitmap_state *bitmap;

	list_for_each_entry(bitmap, &dev->bitmaps, list) {
		u64 nbits = bits_needed(sectors, bitmap->shift);
		unsigned long *bits;

		if (nbits <= bitmap->nbits)
			continue;
		bits = bits_alloc(nbits);
		if (IS_ERR(bits))
			return PTR_ERR(bits);
		bitmap_copy(bits, bitmap->bits, bitmap->nbits);
		swap(bits, bitmap->bits);
		bitmap->nbits = nbits;
		kvfree(bits);
	}
	return 0;
}

/* Find the next run in [*bit, end) and clear it if asked to. */
static bool next_run(struct ploop_bitmap_state *bitmap, u64 *bit, u64 end, bool clear, u64 *first)
{
	*first = find_next_bit(bitmap->bits, end, *bit);
	if (*first >= end) {
		*bit = end;
		return false;
	}
	*bit = *first;
	while (*bit < end && (clear ? test_and_clear_bit(*bit, bitmap->bits) :
			      test_bit(*bit, bitmap->bits)))
		(*bit)++;
	/* Cleared by another reader in between. */
	if (*bit == *first)
		(*bit)++;
	return true;
}

/**
 * ploop_bitmap_read() - see &struct ploop_bitmap_read
 * @dev: the device
 * @arg: checked but for the range
 *
 * After -EFAULT the caller marks what lies between start and next again.
 *
 * Context: Process context; sleeps.  Holds ctl_lock.
 * Return: 0 or an errno.
 */
int ploop_bitmap_read(struct ploop_device *dev, struct ploop_bitmap_read *arg)
{
	struct ploop_bitmap_state *bitmap = bitmap_find(dev, arg->name);
	struct ploop_range __user *out = u64_to_user_ptr(arg->ranges);
	u64 size = dev->sectors << SECTOR_SHIFT;
	bool clear = arg->flags & PLOOP_BITMAP_CLEAR;
	u32 room = arg->nr_ranges;
	u64 bit, end, first;

	if (!bitmap)
		return -ENOENT;
	if (arg->start > size || arg->bytes > size - arg->start || room == 0)
		return -EINVAL;
	bit = arg->start >> bitmap->shift;
	end = bits_needed((arg->start + arg->bytes) >> SECTOR_SHIFT, bitmap->shift);
	arg->nr_ranges = 0;
	while (arg->nr_ranges < room && bit < end) {
		struct ploop_range range;

		if (!next_run(bitmap, &bit, end, clear, &first))
			break;
		range.start = first << bitmap->shift;
		range.bytes = min(bit << bitmap->shift, size) - range.start;
		if (copy_to_user(&out[arg->nr_ranges], &range, sizeof(range))) {
			arg->next = min(bit << bitmap->shift, size);
			return -EFAULT;
		}
		arg->nr_ranges++;
		if (fatal_signal_pending(current))
			break;
		cond_resched();
	}
	arg->next = min(max(bit << bitmap->shift, arg->start), arg->start + arg->bytes);
	return 0;
}

/**
 * ploop_bitmap_list() - see &struct ploop_bitmap_list
 * @dev: the device
 * @arg: checked
 *
 * Context: Process context; sleeps.  Holds ctl_lock.
 * Return: 0 or -EFAULT.
 */
int ploop_bitmap_list(struct ploop_device *dev, struct ploop_bitmap_list *arg)
{
	struct ploop_bitmap_info __user *out = u64_to_user_ptr(arg->infos);
	struct ploop_bitmap_state *bitmap;
	u32 room = arg->nr;

	arg->nr = 0;
	list_for_each_entry(bitmap, &dev->bitmaps, list) {
		struct ploop_bitmap_info info = { .granule_log = bitmap->shift };

		memcpy(info.name, bitmap->name, sizeof(info.name));
		info.marked = bitmap_weight(bitmap->bits, bitmap->nbits);
		if (arg->nr < room && copy_to_user(&out[arg->nr], &info, sizeof(info)))
			return -EFAULT;
		arg->nr++;
	}
	return 0;
}
