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
#include "core.h"

#define BITMAP_BYTES_MAX (64ull << 20)

/* Bits and their number, which are replaced together. */
struct bitmap_bits {
	u64 nbits;
	unsigned long bits[];
};

/* Listed under ctl_lock; who marks looks at it, and at its bits, under RCU. */
struct ploop_bitmap_state {
	struct list_head list;
	char name[PLOOP_NAME_BYTES];
	u32 shift;
	struct bitmap_bits __rcu *bits;
};

/* With ctl_lock, or by the device's snapshot: nobody else replaces them. */
static struct bitmap_bits *bits_of(struct ploop_bitmap_state *bitmap)
{
	return rcu_dereference_protected(bitmap->bits, true);
}

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
		struct bitmap_bits *bits = rcu_dereference(bitmap->bits);
		u64 bit = (sector << SECTOR_SHIFT) >> bitmap->shift;
		u64 last = ((sector + count - 1) << SECTOR_SHIFT) >> bitmap->shift;

		for (; bit <= last && bit < bits->nbits; bit++)
			if (!test_bit(bit, bits->bits))
				set_bit(bit, bits->bits);
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

static struct bitmap_bits *bits_alloc(u64 nbits)
{
	u64 bytes = BITS_TO_LONGS(nbits) * sizeof(long);
	struct bitmap_bits *bits;

	if (bytes > BITMAP_BYTES_MAX)
		return ERR_PTR(-EFBIG);
	bits = kvzalloc(sizeof(*bits) + bytes, GFP_KERNEL);
	if (!bits)
		return ERR_PTR(-ENOMEM);
	bits->nbits = nbits;
	return bits;
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
	struct bitmap_bits *bits;

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
	bits = bits_alloc(bits_needed(dev->sectors, granule_log));
	if (IS_ERR(bits)) {
		kfree(bitmap);
		return PTR_ERR(bits);
	}
	RCU_INIT_POINTER(bitmap->bits, bits);
	dev->nr_bitmaps++;
	list_add_tail_rcu(&bitmap->list, &dev->bitmaps);
	return 0;
}

static void bitmap_remove(struct ploop_device *dev, struct ploop_bitmap_state *bitmap)
{
	list_del_rcu(&bitmap->list);
	dev->nr_bitmaps--;
	synchronize_rcu();
	kvfree(bits_of(bitmap));
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
	struct bitmap_bits *bits;
	u64 word;

	if (!bitmap)
		return -ENOENT;
	bits = bits_of(bitmap);
	for (word = 0; word < BITS_TO_LONGS(bits->nbits); word++)
		xchg(&bits->bits[word], 0);
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
 * ploop_bitmaps_resize() - get long enough for a larger device
 * @dev: the device; it need not be quiesced
 * @sectors: size that it will have
 *
 * Who marks sees the old bits or the new ones.  When nobody sees the old ones any more, what is
 * marked in them is marked in the new ones, too.
 *
 * Context: Process context; sleeps.  Holds ctl_lock.
 * Return: 0, -EFBIG, -ENOMEM; some bitmaps may be longer than needed then, which is no harm.
 */
int ploop_bitmaps_resize(struct ploop_device *dev, u64 sectors)
{
	struct ploop_bitmap_state *bitmap;

	list_for_each_entry(bitmap, &dev->bitmaps, list) {
		u64 nbits = bits_needed(sectors, bitmap->shift), word;
		struct bitmap_bits *old = bits_of(bitmap), *bits;

		if (nbits <= old->nbits)
			continue;
		bits = bits_alloc(nbits);
		if (IS_ERR(bits))
			return PTR_ERR(bits);
		rcu_assign_pointer(bitmap->bits, bits);
		synchronize_rcu();
		for (word = 0; word < BITS_TO_LONGS(old->nbits); word++)
			if (old->bits[word])
				atomic_long_or(old->bits[word], (atomic_long_t *)&bits->bits[word]);
		kvfree(old);
	}
	return 0;
}

/* Find the next run in [*bit, end) and clear it if asked to. */
static bool next_run(struct bitmap_bits *bits, u64 *bit, u64 end, bool clear, u64 *first)
{
	*first = find_next_bit(bits->bits, end, *bit);
	if (*first >= end) {
		*bit = end;
		return false;
	}
	*bit = *first;
	while (*bit < end && (clear ? test_and_clear_bit(*bit, bits->bits) :
			      test_bit(*bit, bits->bits)))
		(*bit)++;
	/* Cleared by another reader in between. */
	if (*bit == *first)
		(*bit)++;
	return true;
}

/**
 * ploop_bitmap_read() - see &struct ploop_bitmap_read
 * @dev: the device
 * @arg: checked but for the range; @next is set
 * @ranges: where they go
 * @room: how many fit
 *
 * Context: Process context; sleeps.  Holds ctl_lock.
 * Return: how many there were, or an errno.
 */
int ploop_bitmap_read(struct ploop_device *dev, struct ploop_bitmap_read *arg,
		      struct ploop_range *ranges, u32 room)
{
	struct ploop_bitmap_state *bitmap = bitmap_find(dev, arg->name);
	u64 size = dev->sectors << SECTOR_SHIFT;
	bool clear = arg->flags & PLOOP_BITMAP_CLEAR;
	struct bitmap_bits *bits;
	u64 bit, end, first;
	u32 count = 0;

	if (!bitmap)
		return -ENOENT;
	if (arg->start > size || arg->bytes > size - arg->start)
		return -EINVAL;
	bits = bits_of(bitmap);
	bit = arg->start >> bitmap->shift;
	end = bits_needed((arg->start + arg->bytes) >> SECTOR_SHIFT, bitmap->shift);
	if (WARN_ON_ONCE(end > bits->nbits))
		return -EIO;
	while (count < room && bit < end) {
		if (!next_run(bits, &bit, end, clear, &first))
			break;
		ranges[count].start = first << bitmap->shift;
		ranges[count].bytes = min(bit << bitmap->shift, size) - ranges[count].start;
		count++;
		if (fatal_signal_pending(current))
			break;
		cond_resched();
	}
	arg->next = min(max(bit << bitmap->shift, arg->start), arg->start + arg->bytes);
	return count;
}

/**
 * ploop_bitmap_unread() - the caller didn't get what was cleared: mark it again
 * @dev: the device
 * @start: first byte
 * @end: behind the last byte
 *
 * In all bitmaps of the device, which is more than needed, and no harm.
 *
 * Context: Process context; sleeps.  Holds ctl_lock.
 */
void ploop_bitmap_unread(struct ploop_device *dev, u64 start, u64 end)
{
	u64 sector = start >> SECTOR_SHIFT;
	u64 last = min_t(u64, DIV_ROUND_UP_ULL(end, SECTOR_SIZE), dev->sectors);

	while (sector < last) {
		u32 part = min_t(u64, last - sector, 1u << 20);

		ploop_bitmap_mark(dev, sector, part);
		sector += part;
		cond_resched();
	}
}

/**
 * ploop_bitmap_list() - see &struct ploop_bitmap_list
 * @dev: the device
 * @infos: room for PLOOP_BITMAPS_MAX; zeros
 *
 * Context: Process context; sleeps.  Holds ctl_lock.
 * Return: how many there are.
 */
u32 ploop_bitmap_list(struct ploop_device *dev, struct ploop_bitmap_info *infos)
{
	struct ploop_bitmap_state *bitmap;
	u32 nr = 0;

	list_for_each_entry(bitmap, &dev->bitmaps, list) {
		struct bitmap_bits *bits = bits_of(bitmap);

		strscpy(infos[nr].name, bitmap->name, sizeof(infos[nr].name));
		infos[nr].granule_log = bitmap->shift;
		infos[nr].marked = bitmap_weight(bits->bits, bits->nbits);
		nr++;
	}
	return nr;
}
