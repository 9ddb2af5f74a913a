// SPDX-License-Identifier: GPL-2.0
/*
 * The walker: do map, tables, free clusters, records and files say the same?
 *
 * For tests, and for who hunts a fault.  With the parameter walk=1 it runs whenever a device is
 * at rest: after ploop_quiesce() and again before ploop_resume() lets go on.  It
 * reads the whole table of each writable level from its file.  What it finds is in the
 * log, counted in the parameter walk_faults, and keeps the image marked in use.
 *
 * What has to hold:
 *  - Only the top is written to; while it is merged into the level below, that too.
 *  - A cluster of a file has one use at most: an entry of the table (with what
 *    is pending), one about to be free, or a place in the list of free ones; and it lies between
 *    the table and the end.
 *  - A record of partial writes is of a cluster between table and end; the slot of a
 *    cluster with a record is partial, so that each write is recorded.
 *  - The map has what the highest level with an entry says, and a slot with a place is
 *    pending if and only if its change is listed.
 *  - The file has all clusters that are in use.
 */
#include <linux/bitmap.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched/mm.h>
#include "core.h"

/* Larger tables would hold tests up. */
#define WALK_CLUSTERS_MAX	1048576u
#define WALK_REPORTS_MAX	16

static bool walk;
module_param(walk, bool, 0644);
MODULE_PARM_DESC(walk, "check all tables whenever a device is quiesced; slow, for tests");

static unsigned long walks;
module_param(walks, ulong, 0444);
MODULE_PARM_DESC(walks, "how often that was done");

static unsigned long walk_faults;
module_param(walk_faults, ulong, 0444);
MODULE_PARM_DESC(walk_faults, "faults that it found");

static DEFINE_MUTEX(walk_lock);	/* guards the counts */

/**
 * struct walk - a walk over one device
 * @dev: the device
 * @page: for reading
 * @tables: entries of each writable level as they will be, by level; else NULL
 * @pending: which clusters have a change that is listed
 * @used: which clusters of a file have a use; of one level at a time
 * @nbits: of @used
 * @odd: entries of that level that are bad, or name a cluster that is in use
 * @faults: found
 */
struct walk {
	struct ploop_device *dev;
	struct page *page;
	u32 **tables;
	unsigned long *pending;
	unsigned long *used;
	u64 nbits;
	u32 odd;
	u32 faults;
};

static __printf(2, 3) void fault(struct walk *w, const char *format, ...)
{
	struct va_format vaf = { .fmt = format };
	va_list args;

	if (w->faults++ >= WALK_REPORTS_MAX)
		return;
	va_start(args, format);
	vaf.va = &args;
	pr_err("ploop%u: walk: %pV\n", w->dev->index, &vaf);
	va_end(args);
}

static bool walk_possible(const struct ploop_delta *delta)
{
	return (delta->fmt->flags & PLOOP_FMTF_TABLE) && delta->geo.clusters <= WALK_CLUSTERS_MAX;
}

static void walk_stack(struct walk *w)
{
	struct ploop_device *dev = w->dev;
	struct ploop_delta *top = ploop_top(dev);
	u32 level;

	for (level = 0; level < dev->nr_levels; level++) {
		struct ploop_delta *delta = dev->levels[level];

		if (delta->level != level)
			fault(w, "level %u takes itself for %u", level, delta->level);
		/* A merge whose end failed still has the lower one open. */
		if (!delta->rdonly && delta != top && delta != dev->alloc &&
		    READ_ONCE(dev->maintenance) != PLOOP_MNTN_MERGE)
			fault(w, "level %u, below the top, is writable", level);
		if (!delta->rdonly && !delta->file->writable)
			fault(w, "the file of level %u is not open for writing", level);
	}
	if (dev->alloc != top && !top->transparent)
		fault(w, "new clusters go to level %u, without a merge", dev->alloc->level);
	if (dev->rdonly != top->rdonly)
		fault(w, "the device is read-only: %d, the top: %d", dev->rdonly, top->rdonly);
}

static int load_table(struct walk *w, struct ploop_delta *delta)
{
	u32 *table = kvmalloc_array(delta->geo.clusters, sizeof(u32), GFP_KERNEL);
	u32 index, cluster = 0;
	int ret = 0;

	if (!table)
		return -ENOMEM;
	w->tables[delta->level] = table;
	for (index = 0; index < ploop_bat_pages(delta) && ret == 0; index++) {
		const __le32 *entries = page_address(w->page);
		u32 slot;

		ret = ploop_bat_check(delta, index, w->page);
		if (ret == -EUCLEAN) {
			fault(w, "page %u of the table of level %u is not as in its file", index,
			      delta->level);
			ret = 0;
		}
		for (slot = index ? 0 : PLOOP_HEADER_SLOTS;
		     ret == 0 && slot < PLOOP_PAGE_SLOTS && cluster < delta->geo.clusters; slot++)
			table[cluster++] = delta->fmt->decode(&delta->geo, entries[slot],
							      delta->file_clusters);
		cond_resched();
	}
	return ret;
}

/* A use of a cluster of the file.  Return: false if it has another one. */
static bool use(struct walk *w, struct ploop_delta *delta, u32 iblock, const char *what)
{
	if (iblock < delta->geo.first_iblock || iblock >= w->nbits) {
		fault(w, "level %u: cluster %u of the file, %s, is not between table and end",
		      delta->level, iblock, what);
		return true;
	}
	return !__test_and_set_bit(iblock, w->used);
}

/* What is listed and not yet in the table. */
static void apply_pending(struct walk *w, u32 side)
{
	struct ploop_device *dev = w->dev;
	u32 *table = w->tables[dev->alloc->level];
	u32 i;

	for (i = 0; i < dev->pending_count[side]; i++) {
		struct ploop_pending *entry = &dev->pending[side][i];

		__set_bit(entry->cluster, w->pending);
		if (entry->freed != PLOOP_IBLOCK_NONE) {
			/* A commit that failed may have changed the page already. */
			if (table[entry->cluster] != entry->freed && !READ_ONCE(dev->commit_stuck))
				fault(w, "entry %u: cluster %u of the file is given up for %u",
				      entry->cluster, table[entry->cluster], entry->freed);
			if (!use(w, dev->alloc, entry->freed, "given up"))
				fault(w, "cluster %u of the file is given up twice", entry->freed);
		}
		table[entry->cluster] = entry->iblock;
	}
}

static void walk_uses(struct walk *w, struct ploop_delta *delta)
{
	u32 *table = w->tables[delta->level];
	u32 cluster, i;

	for (cluster = 0; cluster < delta->geo.clusters; cluster++) {
		u32 iblock = table[cluster];

		if (iblock == PLOOP_IBLOCK_NONE)
			continue;
		if (iblock == PLOOP_IBLOCK_BAD || !use(w, delta, iblock, "in the table"))
			w->odd++;
	}
	for (i = 0; i < delta->nr_free; i++)
		if (!use(w, delta, delta->free[i], "in the list of free ones"))
			fault(w, "level %u: cluster %u of the file is listed as free, and in use",
			      delta->level, delta->free[i]);
	/* An image may have come with such. */
	if (delta->walked && w->odd > delta->walk_odd)
		fault(w, "level %u: %u entries are bad or name a cluster twice, %u before",
		      delta->level, w->odd, delta->walk_odd);
	delta->walk_odd = w->odd;
	delta->walked = true;
}

static void walk_file(struct walk *w, struct ploop_delta *delta)
{
	u64 size = i_size_read(file_inode(delta->file->file));
	u32 *table = w->tables[delta->level];
	struct ploop_partial *partial;
	unsigned long iblock;
	u32 cluster;

	xa_for_each(&delta->partial, iblock, partial)
		if (iblock < delta->geo.first_iblock || iblock >= delta->next)
			fault(w, "level %u: cluster %lu of the file has a record, out of place",
			      delta->level, iblock);
	if (delta->reserved_end < delta->next || delta->file_clusters < delta->next)
		fault(w, "level %u: end %llu, reserved up to %llu of %llu clusters", delta->level,
		      delta->next, delta->reserved_end, delta->file_clusters);
	for (cluster = 0; cluster < delta->geo.clusters; cluster++)
		if (table[cluster] < PLOOP_IBLOCK_BAD &&
		    ((u64)table[cluster] + 1) << delta->geo.cluster_shift > size) {
			fault(w, "level %u: the file ends within or before cluster %u of it",
			      delta->level, table[cluster]);
			break;
		}
}

/* Tables, uses, records and file of a writable level. */
static int walk_level(struct walk *w, struct ploop_delta *delta)
{
	u32 side = w->dev->pending_side;
	int ret = load_table(w, delta);

	if (ret)
		return ret;
	w->nbits = delta->next;
	w->odd = 0;
	w->used = kvcalloc(BITS_TO_LONGS(w->nbits), sizeof(long), GFP_KERNEL);
	if (!w->used)
		return -ENOMEM;
	if (delta == w->dev->alloc) {
		apply_pending(w, !side);
		apply_pending(w, side);
	}
	walk_uses(w, delta);
	walk_file(w, delta);
	kvfree(w->used);
	w->used = NULL;
	return 0;
}

/* Where the map should say that a cluster is. */
static int find_cluster(struct walk *w, u32 cluster, u64 *place)
{
	struct ploop_device *dev = w->dev;
	s64 level;
	int ret = 0;

	*place = SLOT_HOLE;
	for (level = (s64)dev->nr_levels - 1; level >= 0 && ret == 0; level--) {
		struct ploop_delta *delta = dev->levels[level];
		u32 iblock = PLOOP_IBLOCK_NONE;

		if (w->tables[level])
			iblock = cluster < delta->geo.clusters ? w->tables[level][cluster] : iblock;
		else
			ret = ploop_bat_lookup(delta, cluster, &iblock);
		if (iblock == PLOOP_IBLOCK_NONE)
			continue;
		*place = slot_make(iblock, level);
		break;
	}
	return ret;
}

static int walk_slot(struct walk *w, u32 cluster, u64 slot)
{
	u64 place, flags = SLOT_PENDING | SLOT_PARTIAL | SLOT_BUSY;
	struct ploop_delta *delta;
	int ret = find_cluster(w, cluster, &place);

	/* Moved just now: only who moves it knows where it is. */
	if (ret || (slot & SLOT_BUSY))
		return ret;
	if (slot_iblock(slot) == PLOOP_IBLOCK_NONE ? slot_iblock(place) != PLOOP_IBLOCK_NONE :
	    (slot & ~flags) != place)
		fault(w, "cluster %u: the map has %#llx, the tables %#llx", cluster, slot, place);
	if (!slot_is_mapped(slot) || slot_level(slot) >= w->dev->nr_levels)
		return 0;
	/* Holes are not told apart: one may be listed twice. */
	if (!!(slot & SLOT_PENDING) != test_bit(cluster, w->pending))
		fault(w, "cluster %u: the map has %#llx, a change of it is %slisted", cluster,
		      slot, slot & SLOT_PENDING ? "not " : "");
	delta = w->dev->levels[slot_level(slot)];
	if (delta->rdonly)
		return 0;
	if (!(slot & SLOT_PARTIAL) && ploop_partial_has(delta, slot_iblock(slot)))
		fault(w, "cluster %u: the map has %#llx, there is a record", cluster, slot);
	return 0;
}

static int walk_map(struct walk *w)
{
	u32 index, last = ploop_map_index(w->dev->alloc->geo.clusters - 1);
	int ret = 0;

	for (index = 0; index <= last && ret == 0; index++) {
		struct ploop_map_page *page = ploop_map_peek(w->dev, index);
		u64 slot, cluster;

		if (!page)
			continue;
		for (slot = index ? 0 : PLOOP_HEADER_SLOTS; slot < PLOOP_PAGE_SLOTS && ret == 0;
		     slot++) {
			cluster = (u64)index * PLOOP_PAGE_SLOTS + slot - PLOOP_HEADER_SLOTS;
			if (cluster >= w->dev->alloc->geo.clusters)
				break;
			ret = walk_slot(w, cluster, atomic64_read(ploop_map_slot(page, cluster)));
		}
		ploop_map_put(page);
		cond_resched();
	}
	return ret;
}

static int walk_all(struct walk *w)
{
	struct ploop_device *dev = w->dev;
	u32 level;
	int ret = 0;

	walk_stack(w);
	if (dev->identity || !walk_possible(dev->alloc))
		return 0;
	w->pending = kvcalloc(BITS_TO_LONGS(dev->alloc->geo.clusters), sizeof(long), GFP_KERNEL);
	if (!w->pending)
		return -ENOMEM;
	for (level = 0; level < dev->nr_levels && ret == 0; level++)
		if (!dev->levels[level]->rdonly && walk_possible(dev->levels[level]))
			ret = walk_level(w, dev->levels[level]);
	return ret ? ret : walk_map(w);
}

static void walk_free(struct walk *w)
{
	u32 level;

	for (level = 0; w->tables && level < PLOOP_LEVELS_MAX; level++)
		kvfree(w->tables[level]);
	kfree(w->tables);
	kvfree(w->pending);
	kvfree(w->used);
	if (w->page)
		__free_page(w->page);
}

static void walk_report(struct walk *w, int ret)
{
	mutex_lock(&walk_lock);
	walks += ret == 0;
	walk_faults += w->faults;
	mutex_unlock(&walk_lock);
	if (WARN_ON(w->faults > 0))
		WRITE_ONCE(w->dev->alloc->doubtful, true);
}

/**
 * ploop_walk() - check a device, if the module's parameter says so
 * @dev: quiesced
 *
 * What it reads is not counted.
 *
 * Context: Process context; sleeps.  Doesn't hold commit_lock.
 */
void ploop_walk(struct ploop_device *dev)
{
	struct walk w = { .dev = dev };
	unsigned int noio;
	u64 ios, reads;
	int ret = -ENOMEM;

	/* What a failure left half done has no form. */
	if (likely(!READ_ONCE(walk)) || !dev->running || READ_ONCE(dev->aborted))
		return;
	noio = memalloc_noio_save();
	mutex_lock(&dev->commit_lock);
	mutex_lock(&dev->bat_lock);
	ios = ploop_stat(dev, ios);
	reads = ploop_stat(dev, map_reads);
	w.page = alloc_page(GFP_KERNEL);
	w.tables = kcalloc(PLOOP_LEVELS_MAX, sizeof(*w.tables), GFP_KERNEL);
	if (w.page && w.tables)
		ret = walk_all(&w);
	walk_report(&w, ret);
	walk_free(&w);
	ploop_add(dev, ios, ios - ploop_stat(dev, ios));
	ploop_add(dev, map_reads, reads - ploop_stat(dev, map_reads));
	mutex_unlock(&dev->bat_lock);
	mutex_unlock(&dev->commit_lock);
	memalloc_noio_restore(noio);
}
