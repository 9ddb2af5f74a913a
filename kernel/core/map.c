// SPDX-License-Identifier: GPL-2.0
/*
 * The map: for each virtual cluster, which level has it and where.
 *
 * One map for the whole stack, so that a lookup costs the same for one level
 * and for a hundred.  It is a cache of the deltas' tables, plus what no table
 * has yet: a page with such slots, or about to get one, is held by a reference and
 * stays.  The rest goes when there are too many pages (in all devices), or the
 * system is short of memory.  Lookups take no lock.
 */
#include <linux/module.h>
#include "core.h"

static DEFINE_SPINLOCK(lru_lock);
static LIST_HEAD(lru_list);		/* all pages; guarded by lru_lock */
static unsigned long lru_count;		/* guarded by lru_lock */
static struct ploop_shrinker map_shrinker;

static unsigned int max_map_pages;
module_param(max_map_pages, uint, 0644);
MODULE_PARM_DESC(max_map_pages, "pages of 1024 clusters kept for all devices (0: 16384)");

static unsigned long map_limit(void)
{
	unsigned int limit = READ_ONCE(max_map_pages);

	return limit ? limit : 16384;
}

static void map_page_free(struct ploop_map_page *page)
{
	free_page((unsigned long)page->half[0]);
	free_page((unsigned long)page->half[1]);
	kfree(page);
}

static void map_page_rcu(struct rcu_head *rcu)
{
	map_page_free(container_of(rcu, struct ploop_map_page, rcu));
}

static struct ploop_map_page *map_page_alloc(struct ploop_device *dev, u32 index)
{
	struct ploop_map_page *page = kzalloc(sizeof(*page), GFP_NOIO);
	int i;

	if (!page)
		return NULL;
	refcount_set(&page->ref, 1);
	page->index = index;
	page->dev = dev;
	INIT_LIST_HEAD(&page->lru);
	page->half[0] = (atomic64_t *)__get_free_page(GFP_NOIO);
	page->half[1] = (atomic64_t *)__get_free_page(GFP_NOIO);
	if (!page->half[0] || !page->half[1]) {
		map_page_free(page);
		return NULL;
	}
	for (i = 0; i < PLOOP_PAGE_SLOTS; i++)
		atomic64_set(&page->half[i / 512][i % 512], SLOT_HOLE);
	return page;
}

/* The last reference but the map's own is needed to take a page out. */
static bool map_page_evict(struct ploop_map_page *page)
{
	lockdep_assert_held(&lru_lock);
	if (!refcount_dec_if_one(&page->ref))
		return false;
	xa_erase(&page->dev->map, page->index);
	list_del_init(&page->lru);
	lru_count--;
	call_rcu(&page->rcu, map_page_rcu);
	return true;
}

/* The clock algorithm; @looks bounds the time the lock is held. */
static unsigned long map_evict(unsigned long count, unsigned long looks)
{
	unsigned long freed = 0;

	lockdep_assert_held(&lru_lock);
	while (freed < count && looks-- > 0 && !list_empty(&lru_list)) {
		struct ploop_map_page *page;

		page = list_first_entry(&lru_list, struct ploop_map_page, lru);
		if (!READ_ONCE(page->accessed) && map_page_evict(page)) {
			freed++;
			continue;
		}
		WRITE_ONCE(page->accessed, false);
		list_move_tail(&page->lru, &lru_list);
	}
	return freed;
}

static unsigned long map_shrink_count(struct shrinker *shrinker, struct shrink_control *sc)
{
	return READ_ONCE(lru_count);
}

static unsigned long map_shrink_scan(struct shrinker *shrinker, struct shrink_control *sc)
{
	unsigned long freed;

	if (!spin_trylock(&lru_lock))
		return SHRINK_STOP;
	freed = map_evict(sc->nr_to_scan, 2 * sc->nr_to_scan);
	spin_unlock(&lru_lock);
	return freed;
}

/**
 * ploop_map_init() - prepare what all maps share
 *
 * Return: 0 or an errno.
 */
int __init ploop_map_init(void)
{
	return ploop_shrinker_register(&map_shrinker, "ploop-map", map_shrink_count,
				       map_shrink_scan);
}

/**
 * ploop_map_exit() - undo ploop_map_init()
 */
void ploop_map_exit(void)
{
	ploop_shrinker_unregister(&map_shrinker);
	rcu_barrier();
}

/**
 * ploop_map_count() - pages now in memory, of all devices
 *
 * Return: the count.
 */
unsigned long ploop_map_count(void)
{
	return READ_ONCE(lru_count);
}

/**
 * ploop_map_find() - where a cluster is, if the map knows
 * @dev: the device; the caller is counted in
 * @cluster: which
 * @slot: out
 *
 * Context: Any context.  Does not sleep.
 * Return: false if the page is not there.
 */
bool ploop_map_find(struct ploop_device *dev, u32 cluster, u64 *slot)
{
	struct ploop_map_page *page;
	bool found = false;

	if (dev->identity) {
		*slot = slot_make(cluster, 0);
		return true;
	}
	rcu_read_lock();
	page = xa_load(&dev->map, ploop_map_index(cluster));
	if (likely(page)) {
		*slot = atomic64_read(ploop_map_slot(page, cluster));
		if (!READ_ONCE(page->accessed))
			WRITE_ONCE(page->accessed, true);
		found = true;
	}
	rcu_read_unlock();
	return found;
}

/**
 * ploop_map_peek() - a page of the map, if it is there
 * @dev: the device
 * @index: which page
 *
 * Context: Any context.
 * Return: to be given to ploop_map_put(), or NULL.
 */
struct ploop_map_page *ploop_map_peek(struct ploop_device *dev, u32 index)
{
	struct ploop_map_page *page;

	rcu_read_lock();
	page = xa_load(&dev->map, index);
	if (page && !refcount_inc_not_zero(&page->ref))
		page = NULL;
	rcu_read_unlock();
	return page;
}

static struct ploop_map_page *map_page_build(struct ploop_device *dev, u32 index)
{
	struct ploop_map_page *page;
	int level, ret;

	page = map_page_alloc(dev, index);
	if (!page)
		return ERR_PTR(-ENOMEM);
	for (level = dev->nr_levels - 1; level >= 0; level--) {
		ret = ploop_bat_merge(dev->levels[level], page);
		if (ret < 0)
			goto free;
		if (ret == 0)
			break;
	}
	ret = xa_reserve(&dev->map, index, GFP_NOIO);
	if (ret)
		goto free;
	refcount_inc(&page->ref);
	page->accessed = true;
	/* A page being evicted may still be in the way; it goes at once. */
	spin_lock(&lru_lock);
	ret = xa_err(xa_store(&dev->map, index, page, GFP_ATOMIC));
	if (ret == 0) {
		list_add_tail(&page->lru, &lru_list);
		lru_count++;
		if (lru_count > map_limit())
			map_evict(lru_count - map_limit(), 64);
	}
	spin_unlock(&lru_lock);
	if (ret == 0)
		return page;
free:
	map_page_free(page);
	return ERR_PTR(ret);
}

/**
 * ploop_map_get() - a page of the map, read in if need be
 * @dev: the device; the stack is stable
 * @cluster: one of the page's
 *
 * Context: Process context; sleeps.  Doesn't hold bat_lock.
 * Return: to be given to ploop_map_put(), or an ERR_PTR.
 */
struct ploop_map_page *ploop_map_get(struct ploop_device *dev, u32 cluster)
{
	u32 index = ploop_map_index(cluster);
	struct ploop_map_page *page = ploop_map_peek(dev, index);

	if (page)
		return page;
	mutex_lock(&dev->bat_lock);
	page = ploop_map_peek(dev, index);
	if (!page)
		page = map_page_build(dev, index);
	mutex_unlock(&dev->bat_lock);
	return page;
}

/**
 * ploop_map_pin_again() - one more reference
 * @page: the caller has one
 */
void ploop_map_pin_again(struct ploop_map_page *page)
{
	refcount_inc(&page->ref);
}

/**
 * ploop_map_put() - give a page back
 * @page: from ploop_map_get()
 *
 * Context: Any context.
 */
void ploop_map_put(struct ploop_map_page *page)
{
	/* The map's own reference is dropped by eviction only. */
	WARN_ON_ONCE(refcount_dec_and_test(&page->ref));
}

/**
 * ploop_map_pinned() - a page that is known to be held
 * @dev: the device
 * @cluster: one of the page's, with a reference that somebody holds
 *
 * Context: Any context.
 * Return: the page; no reference is taken.
 */
struct ploop_map_page *ploop_map_pinned(struct ploop_device *dev, u32 cluster)
{
	return xa_load(&dev->map, ploop_map_index(cluster));
}

/**
 * ploop_slot_change() - clear and set flags of a slot, if it is still the same place
 * @slot: in a page the caller holds
 * @place: slot_make() of the place it has to have
 * @clear: flags
 * @set: flags
 *
 * Context: Any context.
 * Return: false if it is another place now.
 */
bool ploop_slot_change(atomic64_t *slot, u64 place, u64 clear, u64 set)
{
	s64 old = atomic64_read(slot);

	do {
		if (slot_iblock(old) != slot_iblock(place) ||
		    (slot_is_mapped(old) && slot_level(old) != slot_level(place)))
			return false;
	} while (!atomic64_try_cmpxchg(slot, &old, (old & ~clear) | set));
	return true;
}

/**
 * ploop_map_drop() - forget the whole map
 * @dev: quiesced, nothing pending
 *
 * Context: Process context.
 */
void ploop_map_drop(struct ploop_device *dev)
{
	struct ploop_map_page *page;
	unsigned long index;

	spin_lock(&lru_lock);
	xa_for_each(&dev->map, index, page)
		WARN_ON_ONCE(!map_page_evict(page));
	spin_unlock(&lru_lock);
}
