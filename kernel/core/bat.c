// SPDX-License-Identifier: GPL-2.0
/*
 * The table of one delta, as it is on disk.
 *
 * Pages are read when needed and some are kept.  They hold what is durable or
 * about to be: a change enters a page only in a commit, after its data was
 * synced, so a page can be written at any time.  Page 0 holds the header, too; the
 * header is changed in the same page and so never resurrected by an old copy.
 */
#include "core.h"

#define BAT_DIRTY XA_MARK_0

struct ploop_bat_page {
	u32 index;
	struct list_head lru;
	struct page *page;
};

/**
 * ploop_bat_pages() - how long the table is
 * @delta: which
 *
 * Return: in pages; the first begins with the header.
 */
u32 ploop_bat_pages(const struct ploop_delta *delta)
{
	return ((u64)delta->geo.clusters + PLOOP_HEADER_SLOTS + PLOOP_PAGE_SLOTS - 1) /
		PLOOP_PAGE_SLOTS;
}

static void bat_free(struct ploop_delta *delta, struct ploop_bat_page *bp)
{
	xa_erase(&delta->bat, bp->index);
	list_del(&bp->lru);
	delta->bat_count--;
	__free_page(bp->page);
	kfree(bp);
}

static void bat_shrink(struct ploop_delta *delta)
{
	/* Lower levels are read once, to build the map, and seldom again. */
	u32 max = delta->rdonly ? 8 : PLOOP_BAT_PAGES_MAX;
	struct ploop_bat_page *bp, *next;

	list_for_each_entry_safe(bp, next, &delta->bat_lru, lru) {
		if (delta->bat_count <= max)
			break;
		if (!xa_get_mark(&delta->bat, bp->index, BAT_DIRTY))
			bat_free(delta, bp);
	}
}

static struct ploop_bat_page *bat_get(struct ploop_delta *delta, u32 index)
{
	struct ploop_bat_page *bp;
	int ret = -ENOMEM;

	lockdep_assert_held(&delta->dev->bat_lock);
	if (index >= ploop_bat_pages(delta))
		return ERR_PTR(-EINVAL);
	bp = xa_load(&delta->bat, index);
	if (bp) {
		list_move_tail(&bp->lru, &delta->bat_lru);
		return bp;
	}
	bat_shrink(delta);
	bp = kzalloc(sizeof(*bp), GFP_NOIO);
	if (!bp)
		return ERR_PTR(ret);
	bp->index = index;
	bp->page = alloc_page(GFP_NOIO);
	if (!bp->page)
		goto free;
	ploop_count(delta->dev, map_reads);
	ret = ploop_file_pages(delta->file, false, (loff_t)index * PLOOP_PAGE_BYTES, bp->page,
			       PLOOP_PAGE_BYTES);
	if (ret)
		goto free;
	ret = xa_err(xa_store(&delta->bat, index, bp, GFP_NOIO));
	if (ret)
		goto free;
	list_add_tail(&bp->lru, &delta->bat_lru);
	delta->bat_count++;
	return bp;
free:
	if (bp->page)
		__free_page(bp->page);
	kfree(bp);
	return ERR_PTR(ret);
}

static u32 bat_decode(struct ploop_delta *delta, const struct ploop_bat_page *bp, u32 slot)
{
	const __le32 *entries = page_address(bp->page);

	return delta->fmt->decode(&delta->geo, entries[slot], READ_ONCE(delta->file_clusters));
}

/**
 * ploop_bat_lookup() - where a delta has a cluster
 * @delta: which
 * @cluster: virtual cluster
 * @iblock: out: cluster of the file, PLOOP_IBLOCK_NONE or PLOOP_IBLOCK_BAD
 *
 * Context: Process context; sleeps.  Holds bat_lock.
 * Return: 0 or an errno.
 */
int ploop_bat_lookup(struct ploop_delta *delta, u32 cluster, u32 *iblock)
{
	struct ploop_bat_page *bp;

	lockdep_assert_held(&delta->dev->bat_lock);
	*iblock = PLOOP_IBLOCK_NONE;
	if (cluster >= delta->geo.clusters)
		return 0;
	if (!(delta->fmt->flags & PLOOP_FMTF_TABLE)) {
		*iblock = cluster;
		return 0;
	}
	bp = bat_get(delta, ploop_map_index(cluster));
	if (IS_ERR(bp))
		return PTR_ERR(bp);
	*iblock = bat_decode(delta, bp, (cluster + PLOOP_HEADER_SLOTS) % PLOOP_PAGE_SLOTS);
	return 0;
}

/**
 * ploop_bat_entry() - the same, for who does not hold bat_lock
 * @delta: which
 * @cluster: virtual cluster
 * @iblock: out: cluster of the file or PLOOP_IBLOCK_NONE
 *
 * Context: Process context; sleeps.
 * Return: 0, -EUCLEAN (the entry is corrupt), or an errno.
 */
int ploop_bat_entry(struct ploop_delta *delta, u32 cluster, u32 *iblock)
{
	int ret;

	mutex_lock(&delta->dev->bat_lock);
	ret = ploop_bat_lookup(delta, cluster, iblock);
	mutex_unlock(&delta->dev->bat_lock);
	if (ret == 0 && *iblock == PLOOP_IBLOCK_BAD)
		ret = -EUCLEAN;
	return ret;
}

/**
 * ploop_bat_merge() - fill what is still empty of a page of the map
 * @delta: which
 * @page: page of the map; not yet visible
 *
 * Context: Process context; sleeps.  Holds bat_lock.
 * Return: how many slots are still empty, or an errno.
 */
int ploop_bat_merge(struct ploop_delta *delta, struct ploop_map_page *page)
{
	u64 first = (u64)page->index * PLOOP_PAGE_SLOTS;
	struct ploop_bat_page *bp = NULL;
	u32 slot, empty = 0;

	lockdep_assert_held(&delta->dev->bat_lock);
	if (first >= (u64)delta->geo.clusters + PLOOP_HEADER_SLOTS)
		return PLOOP_PAGE_SLOTS;
	if (delta->fmt->flags & PLOOP_FMTF_TABLE) {
		bp = bat_get(delta, page->index);
		if (IS_ERR(bp))
			return PTR_ERR(bp);
	}
	for (slot = page->index ? 0 : PLOOP_HEADER_SLOTS; slot < PLOOP_PAGE_SLOTS; slot++) {
		u64 cluster = first + slot - PLOOP_HEADER_SLOTS;
		atomic64_t *at = &page->half[slot / 512][slot % 512];
		u32 iblock;

		if (slot_iblock(atomic64_read(at)) != PLOOP_IBLOCK_NONE)
			continue;
		iblock = PLOOP_IBLOCK_NONE;
		if (cluster < delta->geo.clusters)
			iblock = bp ? bat_decode(delta, bp, slot) : (u32)cluster;
		if (iblock == PLOOP_IBLOCK_NONE) {
			empty++;
			continue;
		}
		if (iblock == PLOOP_IBLOCK_BAD)
			ploop_err(delta->dev, "level %u: entry of cluster %llu is corrupt\n",
				  delta->level, cluster);
		/* Written on from now on, it has to be recorded as before. */
		atomic64_set(at, slot_make(iblock, delta->level) |
			     (ploop_partial_has(delta, iblock) ? SLOT_PARTIAL : 0));
	}
	return empty;
}

/**
 * ploop_bat_set() - change an entry; ploop_bat_write() makes it last
 * @delta: which
 * @cluster: virtual cluster
 * @iblock: cluster of the file, or PLOOP_IBLOCK_NONE
 *
 * Context: Process context; sleeps.  Holds bat_lock.
 * Return: 0 or an errno.
 */
int ploop_bat_set(struct ploop_delta *delta, u32 cluster, u32 iblock)
{
	struct ploop_bat_page *bp;
	__le32 *entries;

	lockdep_assert_held(&delta->dev->bat_lock);
	if (!(delta->fmt->flags & PLOOP_FMTF_TABLE))
		return 0;
	bp = bat_get(delta, ploop_map_index(cluster));
	if (IS_ERR(bp))
		return PTR_ERR(bp);
	entries = page_address(bp->page);
	entries[(cluster + PLOOP_HEADER_SLOTS) % PLOOP_PAGE_SLOTS] =
		delta->fmt->encode(&delta->geo, iblock);
	xa_set_mark(&delta->bat, bp->index, BAT_DIRTY);
	return 0;
}

/**
 * ploop_bat_set_header() - bring the header up to delta->geo
 * @delta: which
 *
 * Context: Process context; sleeps.  Holds bat_lock.
 * Return: 0 or an errno.
 */
int ploop_bat_set_header(struct ploop_delta *delta)
{
	struct ploop_bat_page *bp;

	lockdep_assert_held(&delta->dev->bat_lock);
	if (!(delta->fmt->flags & PLOOP_FMTF_TABLE))
		return 0;
	bp = bat_get(delta, 0);
	if (IS_ERR(bp))
		return PTR_ERR(bp);
	delta->fmt->build(page_address(bp->page), &delta->geo);
	xa_set_mark(&delta->bat, 0, BAT_DIRTY);
	return 0;
}

/**
 * ploop_bat_write() - write the changed pages; does not sync
 * @delta: which
 *
 * Context: Process context; sleeps.  Holds bat_lock.
 * Return: 0 or an errno; then the pages not written stay changed.
 */
int ploop_bat_write(struct ploop_delta *delta)
{
	struct ploop_bat_page *bp;
	unsigned long index;

	lockdep_assert_held(&delta->dev->bat_lock);
	xa_for_each_marked(&delta->bat, index, bp, BAT_DIRTY) {
		loff_t pos = (loff_t)index * PLOOP_PAGE_BYTES;
		int ret;

		ret = ploop_file_write_queued(delta->file, pos, bp->page);
		ploop_track_file(delta, pos, PLOOP_PAGE_BYTES);
		if (ret)
			return ret;
		xa_clear_mark(&delta->bat, index, BAT_DIRTY);
	}
	bat_shrink(delta);
	return 0;
}

/**
 * ploop_bat_dirty() - is there a changed page?
 * @delta: which
 *
 * Context: Any context; without bat_lock it may be out of date.
 * Return: true if so.
 */
bool ploop_bat_dirty(const struct ploop_delta *delta)
{
	return xa_marked(&delta->bat, BAT_DIRTY);
}

/**
 * ploop_bat_drop() - forget all pages, changed ones too
 * @delta: which
 *
 * Context: Process context.  Holds bat_lock.
 */
void ploop_bat_drop(struct ploop_delta *delta)
{
	struct ploop_bat_page *bp, *next;

	lockdep_assert_held(&delta->dev->bat_lock);
	list_for_each_entry_safe(bp, next, &delta->bat_lru, lru)
		bat_free(delta, bp);
}

/**
 * ploop_bat_check() - read a page from the file, whatever is cached
 * @delta: which
 * @index: of the page
 * @page: out: as the file has it, or as it is about to have it
 *
 * Context: Process context; sleeps.  Holds bat_lock.
 * Return: 0, -EUCLEAN (the cached page is another one), or an errno.
 */
int ploop_bat_check(struct ploop_delta *delta, u32 index, struct page *page)
{
	struct ploop_bat_page *bp;
	int ret;

	lockdep_assert_held(&delta->dev->bat_lock);
	bp = xa_load(&delta->bat, index);
	if (bp && xa_get_mark(&delta->bat, index, BAT_DIRTY)) {
		copy_page(page_address(page), page_address(bp->page));
		return 0;
	}
	ret = ploop_file_pages(delta->file, false, (loff_t)index * PLOOP_PAGE_BYTES, page,
			       PLOOP_PAGE_BYTES);
	if (ret || !bp)
		return ret;
	return memcmp(page_address(page), page_address(bp->page), PLOOP_PAGE_BYTES) ? -EUCLEAN : 0;
}
