// SPDX-License-Identifier: GPL-2.0
/*
 * Unit tests of the map: where clusters are in a stack, over files in memory.
 *
 * The sources under test are compiled in here; what they call of the rest of the core
 * is below, and can be made to fail.
 */
#include <kunit/test.h>
#include <linux/vmalloc.h>

#include "../../core/map.c"
#include "../../core/bat.c"
#include "../../core/partial.c"
#include "../../format/ploop1_parse.c"

#define SHIFT 16
#define CLUSTER BIT(SHIFT)
#define LEVELS 3
/* Three pages of the map, the last one not full. */
#define CLUSTERS 2500u
#define FILE_CLUSTERS 4000u

/* A file: its first bytes, which hold the header and the table. */
struct memory_file {
	struct ploop_file file;
	u8 *bytes;
	size_t size;
};

struct map_test {
	struct ploop_device dev;
	struct ploop_delta delta[LEVELS];
	struct memory_file memory[LEVELS];
};

static struct {
	u32 reads, writes, zeroed;
	u32 zeroed_blocks[32];
	int fail_reads, fail_writes;
} calls;

int ploop_file_pages(struct ploop_file *file, bool write, loff_t pos, struct page *pages, u32 len)
{
	struct memory_file *memory = container_of(file, struct memory_file, file);
	int *fail = write ? &calls.fail_writes : &calls.fail_reads;

	if (pos + len > memory->size)
		return -EIO;
	if (*fail > 0) {
		--*fail;
		return -EIO;
	}
	if (write) {
		calls.writes++;
		memcpy(memory->bytes + pos, page_address(pages), len);
	} else {
		calls.reads++;
		memcpy(page_address(pages), memory->bytes + pos, len);
	}
	return 0;
}

int ploop_file_write_queued(struct ploop_file *file, loff_t pos, struct page *page)
{
	return ploop_file_pages(file, true, pos, page, PLOOP_PAGE_BYTES);
}

int ploop_file_zero(struct ploop_file *file, loff_t pos, u64 len)
{
	if (calls.fail_writes > 0) {
		calls.fail_writes--;
		return -EIO;
	}
	for (; len > 0; len -= file->block_bytes, pos += file->block_bytes)
		calls.zeroed_blocks[calls.zeroed++ % 32] = (pos % CLUSTER) / file->block_bytes;
	return 0;
}

void ploop_track_file(struct ploop_delta *delta, u64 pos, u64 len)
{
}

static const struct ploop_format test_format = {
	.flags = PLOOP_FMTF_DELTA | PLOOP_FMTF_TABLE,
	.build = ploop1_build,
	.decode = ploop1_decode,
	.encode = ploop1_encode,
	.iblock_max = ploop1_iblock_max,
};

static void put_entry(struct map_test *t, int level, u32 cluster, u32 iblock)
{
	__le32 entry = cpu_to_le32(iblock);

	memcpy(t->memory[level].bytes + PLOOP_HEADER_BYTES + 4 * cluster, &entry, sizeof(entry));
}

static u32 get_entry(struct map_test *t, int level, u32 cluster)
{
	__le32 entry;

	memcpy(&entry, t->memory[level].bytes + PLOOP_HEADER_BYTES + 4 * cluster, sizeof(entry));
	return le32_to_cpu(entry);
}

static int map_test_init(struct kunit *test)
{
	struct map_test *t = vzalloc(sizeof(*t));
	int i;

	if (!t)
		return -ENOMEM;
	test->priv = t;
	memset(&calls, 0, sizeof(calls));
	mutex_init(&t->dev.bat_lock);
	xa_init(&t->dev.map);
	t->dev.cluster_shift = SHIFT;
	t->dev.nr_levels = LEVELS;
	t->dev.stats = alloc_percpu(struct ploop_stats);
	if (!t->dev.stats)
		return -ENOMEM;
	for (i = 0; i < LEVELS; i++) {
		struct ploop_delta *delta = &t->delta[i];

		t->memory[i].size = 4 * PLOOP_PAGE_BYTES;
		t->memory[i].bytes = vzalloc(t->memory[i].size);
		if (!t->memory[i].bytes)
			return -ENOMEM;
		t->memory[i].file.block_bytes = 4096;
		delta->dev = &t->dev;
		delta->level = i;
		delta->fmt = &test_format;
		delta->file = &t->memory[i].file;
		delta->rdonly = i < LEVELS - 1;
		delta->geo.version = 2;
		delta->geo.cluster_shift = SHIFT;
		delta->geo.clusters = CLUSTERS;
		delta->geo.first_iblock = 1;
		delta->geo.sectors = (u64)CLUSTERS << (SHIFT - 9);
		delta->file_clusters = FILE_CLUSTERS;
		delta->next = FILE_CLUSTERS;
		xa_init(&delta->bat);
		INIT_LIST_HEAD(&delta->bat_lru);
		spin_lock_init(&delta->alloc_lock);
		xa_init(&delta->partial);
		t->dev.levels[i] = delta;
	}
	t->dev.alloc = &t->delta[LEVELS - 1];
	return 0;
}

static void map_test_exit(struct kunit *test)
{
	struct map_test *t = test->priv;
	int i;

	if (!t)
		return;
	max_map_pages = 0;
	ploop_map_drop(&t->dev);
	rcu_barrier();
	mutex_lock(&t->dev.bat_lock);
	for (i = 0; i < LEVELS; i++) {
		if (t->dev.levels[i]) {
			ploop_bat_drop(&t->delta[i]);
			ploop_partial_forget(&t->delta[i]);
		}
		vfree(t->memory[i].bytes);
	}
	mutex_unlock(&t->dev.bat_lock);
	free_percpu(t->dev.stats);
	vfree(t);
}

/* The slot of a cluster, as a request sees it after its page was read. */
static u64 slot_of(struct kunit *test, u32 cluster)
{
	struct map_test *t = test->priv;
	struct ploop_map_page *page = ploop_map_get(&t->dev, cluster);
	u64 slot;

	KUNIT_ASSERT_FALSE(test, IS_ERR(page));
	slot = atomic64_read(ploop_map_slot(page, cluster));
	ploop_map_put(page);
	return slot;
}

static void packs_slots(struct kunit *test)
{
	u64 slot = slot_make(0xfffffffd, 127);

	KUNIT_EXPECT_EQ(test, slot_iblock(slot), 0xfffffffd);
	KUNIT_EXPECT_EQ(test, slot_level(slot), 127);
	slot |= SLOT_PENDING | SLOT_PARTIAL | SLOT_BUSY;
	KUNIT_EXPECT_EQ(test, slot_iblock(slot), 0xfffffffd);
	KUNIT_EXPECT_EQ(test, slot_level(slot), 127);
	KUNIT_EXPECT_TRUE(test, slot_is_mapped(slot));
	KUNIT_EXPECT_FALSE(test, slot_is_mapped(SLOT_HOLE));
	KUNIT_EXPECT_FALSE(test, slot_is_mapped(slot_make(PLOOP_IBLOCK_BAD, 3)));
	/* The header takes the first slots, so pages of map and table are the same. */
	KUNIT_EXPECT_EQ(test, ploop_map_index(1007), 0);
	KUNIT_EXPECT_EQ(test, ploop_map_index(1008), 1);
	KUNIT_EXPECT_EQ(test, ploop_map_index(0xfffffff0u - 16), 0xffffffe0u / 1024);
}

static void finds_through_levels(struct kunit *test)
{
	struct map_test *t = test->priv;
	u64 slot;

	put_entry(t, 0, 5, 10);
	put_entry(t, 1, 5, 20);
	put_entry(t, 2, 5, 30);
	put_entry(t, 0, 6, 11);
	put_entry(t, 1, 7, 21);
	put_entry(t, 0, 2499, 12);
	KUNIT_EXPECT_FALSE_MSG(test, ploop_map_find(&t->dev, 5, &slot), "nothing was read yet");
	KUNIT_EXPECT_EQ(test, slot_of(test, 5), slot_make(30, 2));
	KUNIT_EXPECT_EQ(test, slot_of(test, 6), slot_make(11, 0));
	KUNIT_EXPECT_EQ(test, slot_of(test, 7), slot_make(21, 1));
	KUNIT_EXPECT_EQ(test, slot_of(test, 8), SLOT_HOLE);
	KUNIT_EXPECT_EQ(test, slot_of(test, 2499), slot_make(12, 0));
	calls.reads = 0;
	KUNIT_EXPECT_TRUE(test, ploop_map_find(&t->dev, 7, &slot));
	KUNIT_EXPECT_EQ(test, slot, slot_make(21, 1));
	KUNIT_EXPECT_EQ_MSG(test, calls.reads, 0, "a page is read once");
	KUNIT_EXPECT_FALSE_MSG(test, ploop_map_find(&t->dev, 1100, &slot), "page by page");
}

static void lower_levels_may_be_smaller(struct kunit *test)
{
	struct map_test *t = test->priv;

	/* What is behind the end of its table is no entry. */
	put_entry(t, 0, 50, 10);
	put_entry(t, 0, 60, 11);
	t->delta[0].geo.clusters = 60;
	KUNIT_EXPECT_EQ(test, slot_of(test, 50), slot_make(10, 0));
	KUNIT_EXPECT_EQ(test, slot_of(test, 60), SLOT_HOLE);
	KUNIT_EXPECT_EQ(test, slot_of(test, 2400), SLOT_HOLE);
}

static void shows_corrupt_entries(struct kunit *test)
{
	struct map_test *t = test->priv;
	u32 iblock;

	put_entry(t, 2, 9, FILE_CLUSTERS);
	put_entry(t, 2, 10, 7);
	put_entry(t, 0, 9, 8);
	KUNIT_EXPECT_EQ_MSG(test, slot_iblock(slot_of(test, 9)), PLOOP_IBLOCK_BAD,
			    "older data does not shine through");
	KUNIT_EXPECT_EQ(test, slot_of(test, 10), slot_make(7, 2));
	KUNIT_EXPECT_EQ(test, ploop_bat_entry(&t->delta[2], 9, &iblock), -EUCLEAN);
	KUNIT_EXPECT_EQ(test, ploop_bat_entry(&t->delta[2], 10, &iblock), 0);
	KUNIT_EXPECT_EQ(test, iblock, 7);
}

static void recovers_from_read_errors(struct kunit *test)
{
	struct map_test *t = test->priv;
	struct ploop_map_page *page;
	int failing;

	put_entry(t, 0, 3, 9);
	for (failing = 0; failing < LEVELS; failing++) {
		u64 slot;

		calls.fail_reads = 1;
		page = ploop_map_get(&t->dev, 3);
		KUNIT_ASSERT_TRUE(test, IS_ERR(page));
		KUNIT_EXPECT_EQ(test, PTR_ERR(page), -EIO);
		KUNIT_EXPECT_FALSE(test, ploop_map_find(&t->dev, 3, &slot));
		/* The next try gets one level further. */
		mutex_lock(&t->dev.bat_lock);
		KUNIT_EXPECT_FALSE(test, IS_ERR(bat_get(&t->delta[LEVELS - 1 - failing], 0)));
		mutex_unlock(&t->dev.bat_lock);
	}
	KUNIT_EXPECT_EQ(test, slot_of(test, 3), slot_make(9, 0));
}

static void keeps_to_its_limit(struct kunit *test)
{
	struct map_test *t = test->priv;
	struct ploop_map_page *held;
	unsigned long before = lru_count;
	u64 slot;

	put_entry(t, 2, 0, 77);
	max_map_pages = before + 1;
	held = ploop_map_get(&t->dev, 0);
	KUNIT_ASSERT_FALSE(test, IS_ERR(held));
	slot_of(test, 1100);
	slot_of(test, 2100);
	slot_of(test, 1100);
	/* The one in use stays, and the one just asked for. */
	KUNIT_EXPECT_LE(test, lru_count, before + 2);
	KUNIT_EXPECT_TRUE(test, ploop_map_find(&t->dev, 0, &slot));
	KUNIT_EXPECT_EQ(test, slot, slot_make(77, 2));
	ploop_map_put(held);
	KUNIT_EXPECT_EQ_MSG(test, slot_of(test, 0), slot_make(77, 2), "read again when evicted");
	spin_lock(&lru_lock);
	map_evict(100, 400);
	spin_unlock(&lru_lock);
	KUNIT_EXPECT_EQ_MSG(test, lru_count, before, "all that nobody holds can go");
}

static void changes_only_its_place(struct kunit *test)
{
	atomic64_t slot = ATOMIC64_INIT(slot_make(5, 1) | SLOT_PARTIAL);

	KUNIT_EXPECT_TRUE(test, ploop_slot_change(&slot, slot_make(5, 1), SLOT_PARTIAL, SLOT_BUSY));
	KUNIT_EXPECT_EQ(test, (u64)atomic64_read(&slot), slot_make(5, 1) | SLOT_BUSY);
	KUNIT_EXPECT_FALSE(test, ploop_slot_change(&slot, slot_make(6, 1), SLOT_BUSY, 0));
	KUNIT_EXPECT_FALSE(test, ploop_slot_change(&slot, slot_make(5, 2), SLOT_BUSY, 0));
	KUNIT_EXPECT_EQ(test, (u64)atomic64_read(&slot), slot_make(5, 1) | SLOT_BUSY);
}

static void writes_tables_as_a_whole(struct kunit *test)
{
	struct map_test *t = test->priv;
	struct ploop_delta *top = &t->delta[2];

	put_entry(t, 2, 100, 50);
	mutex_lock(&t->dev.bat_lock);
	KUNIT_EXPECT_EQ(test, ploop_bat_set(top, 101, 51), 0);
	KUNIT_EXPECT_EQ(test, ploop_bat_set(top, 2000, 52), 0);
	KUNIT_EXPECT_EQ_MSG(test, get_entry(t, 2, 101), 0, "not before it is told to");
	calls.fail_writes = 1;
	KUNIT_EXPECT_EQ(test, ploop_bat_write(top), -EIO);
	KUNIT_EXPECT_EQ(test, ploop_bat_write(top), 0);
	KUNIT_EXPECT_EQ(test, get_entry(t, 2, 100), 50);
	KUNIT_EXPECT_EQ(test, get_entry(t, 2, 101), 51);
	KUNIT_EXPECT_EQ(test, get_entry(t, 2, 2000), 52);
	calls.writes = 0;
	KUNIT_EXPECT_EQ(test, ploop_bat_write(top), 0);
	KUNIT_EXPECT_EQ_MSG(test, calls.writes, 0, "what did not change is not written");
	KUNIT_EXPECT_EQ(test, ploop_bat_set(top, 100, PLOOP_IBLOCK_NONE), 0);
	top->geo.in_use = PLOOP_IN_USE;
	KUNIT_EXPECT_EQ(test, ploop_bat_set_header(top), 0);
	KUNIT_EXPECT_EQ(test, ploop_bat_write(top), 0);
	KUNIT_EXPECT_EQ(test, get_entry(t, 2, 100), 0);
	KUNIT_EXPECT_EQ_MSG(test, get_entry(t, 2, 101), 51, "the header leaves entries alone");
	KUNIT_EXPECT_TRUE(test, IS_ERR(bat_get(top, 3)));
	mutex_unlock(&t->dev.bat_lock);
}

static void fills_what_was_not_written(struct kunit *test)
{
	struct map_test *t = test->priv;
	struct ploop_delta *top = &t->delta[2];

	KUNIT_ASSERT_TRUE(test, ploop_partial_add(top, 40));
	KUNIT_ASSERT_TRUE(test, ploop_partial_add(top, 41));
	put_entry(t, 2, 3, 40);
	KUNIT_EXPECT_EQ_MSG(test, slot_of(test, 3), slot_make(40, 2) | SLOT_PARTIAL,
			    "a page read again knows of it");
	/* Blocks 1 to 3 and, by a byte each, 14 and 15. */
	KUNIT_EXPECT_FALSE(test, ploop_partial_mark(top, 40, 4096, 3 * 4096));
	KUNIT_EXPECT_FALSE(test, ploop_partial_mark(top, 40, 15 * 4096 - 1, 2));
	KUNIT_EXPECT_FALSE(test, ploop_partial_mark(top, 41, 0, 15 * 4096));
	KUNIT_EXPECT_TRUE(test, ploop_partial_mark(top, 41, 15 * 4096, 4096));
	KUNIT_EXPECT_FALSE(test, ploop_partial_has(top, 41));
	KUNIT_EXPECT_TRUE_MSG(test, ploop_partial_mark(top, 42, 0, 512), "whole all the time");
	calls.fail_writes = 1;
	KUNIT_EXPECT_EQ(test, ploop_partial_fill(top), -EIO);
	KUNIT_EXPECT_TRUE(test, ploop_partial_has(top, 40));
	calls.zeroed = 0;
	KUNIT_EXPECT_EQ(test, ploop_partial_fill(top), 0);
	/* 0, and 4 to 13. */
	KUNIT_EXPECT_EQ(test, calls.zeroed, 11);
	KUNIT_EXPECT_EQ(test, calls.zeroed_blocks[0], 0);
	KUNIT_EXPECT_EQ(test, calls.zeroed_blocks[1], 4);
	KUNIT_EXPECT_EQ(test, calls.zeroed_blocks[10], 13);
	KUNIT_EXPECT_EQ(test, top->partial_bytes, 0);
}

static struct kunit_case map_cases[] = {
	KUNIT_CASE(packs_slots),
	KUNIT_CASE(finds_through_levels),
	KUNIT_CASE(lower_levels_may_be_smaller),
	KUNIT_CASE(shows_corrupt_entries),
	KUNIT_CASE(recovers_from_read_errors),
	KUNIT_CASE(keeps_to_its_limit),
	KUNIT_CASE(changes_only_its_place),
	KUNIT_CASE(writes_tables_as_a_whole),
	KUNIT_CASE(fills_what_was_not_written),
	{}
};

static struct kunit_suite map_suite = {
	.name = "ploop_map",
	.init = map_test_init,
	.exit = map_test_exit,
	.test_cases = map_cases,
};

kunit_test_suite(map_suite);

MODULE_DESCRIPTION("Unit tests of ploop's map");
MODULE_LICENSE("GPL");
