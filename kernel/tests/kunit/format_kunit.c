// SPDX-License-Identifier: GPL-2.0
/*
 * Unit tests of the image formats, as the driver compiles them.
 */
#include <kunit/test.h>
#include <linux/module.h>
#include <linux/random.h>

#include "../../format/ploop1_parse.c"
#include "../../format/raw_parse.c"

#define CLUSTER_SHIFT 16
#define CLUSTER BIT_ULL(CLUSTER_SHIFT)
#define CLUSTERS 1000u

struct format_test {
	u8 page[PLOOP_PAGE_BYTES];
	u64 file_bytes;
};

static void put(struct format_test *t, unsigned int at, u32 value)
{
	__le32 disk = cpu_to_le32(value);

	memcpy(t->page + at, &disk, sizeof(disk));
}

static u32 get(const struct format_test *t, unsigned int at)
{
	__le32 disk;

	memcpy(&disk, t->page + at, sizeof(disk));
	return le32_to_cpu(disk);
}

/* A good image, written byte by byte from the format's description. */
static void good(struct format_test *t, u32 version)
{
	memset(t, 0, sizeof(*t));
	memcpy(t->page, version == 1 ? "WithoutFreeSpace" : "WithouFreSpacExt", 16);
	put(t, 16, 2);
	put(t, 28, CLUSTER / 512);
	put(t, 32, CLUSTERS);
	put(t, 36, CLUSTERS * (CLUSTER / 512));
	put(t, 48, CLUSTER / 512);
	t->file_bytes = 8 * CLUSTER;
}

static int parse(const struct format_test *t, struct ploop_geometry *geo)
{
	memset(geo, 0, sizeof(*geo));
	return ploop1_parse(t->page, t->file_bytes, geo);
}

static int format_test_init(struct kunit *test)
{
	test->priv = kunit_kzalloc(test, sizeof(struct format_test), GFP_KERNEL);
	return test->priv ? 0 : -ENOMEM;
}

static void parses_good(struct kunit *test)
{
	struct format_test *t = test->priv;
	struct ploop_geometry geo;

	for (u32 version = 1; version <= 2; version++) {
		good(t, version);
		KUNIT_ASSERT_EQ(test, parse(t, &geo), 0);
		KUNIT_EXPECT_EQ(test, geo.version, version);
		KUNIT_EXPECT_EQ(test, geo.cluster_shift, CLUSTER_SHIFT);
		KUNIT_EXPECT_EQ(test, geo.clusters, CLUSTERS);
		KUNIT_EXPECT_EQ(test, geo.first_iblock, 1);
		KUNIT_EXPECT_EQ(test, geo.sectors, CLUSTERS * (CLUSTER / 512));
	}
}

struct field {
	const char *what;
	unsigned int at;
	u32 value;
};

static void refuses_bad_fields(struct kunit *test)
{
	static const struct field fields[] = {
		{ "magic", 0, 0x68746956 }, { "magic's end", 12, 0x65636160 },
		{ "type", 16, 0 }, { "type", 16, 3 },
		{ "cluster 0", 28, 0 }, { "cluster 32", 28, 32 }, { "cluster 96", 28, 96 },
		{ "cluster 2^18", 28, 1 << 18 }, { "cluster top bit", 28, 0x80000000 },
		{ "clusters 0", 32, 0 }, { "clusters + 1", 32, CLUSTERS + 1 },
		{ "clusters max", 32, 0xffffffff },
		{ "sectors 0", 36, 0 }, { "sectors odd", 36, CLUSTERS * (CLUSTER / 512) - 1 },
		{ "sectors high", 40, 1 },
		{ "first 0", 48, 0 }, { "first odd", 48, 1 },
		{ "first behind the file", 48, 9 * 128 },
		{ "first max", 48, 0xffffff80 },
	};
	struct format_test *t = test->priv;
	struct ploop_geometry geo;

	for (u32 version = 1; version <= 2; version++) {
		for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
			good(t, version);
			put(t, fields[i].at, fields[i].value);
			KUNIT_EXPECT_NE_MSG(test, parse(t, &geo), 0, "v%u %s", version,
					    fields[i].what);
			KUNIT_EXPECT_EQ_MSG(test, geo.version, 0, "v%u %s: result touched",
					    version, fields[i].what);
		}
	}
}

static void refuses_bad_lengths(struct kunit *test)
{
	struct format_test *t = test->priv;
	struct ploop_geometry geo;

	good(t, 2);
	for (t->file_bytes = 0; t->file_bytes < CLUSTER; t->file_bytes += 512)
		KUNIT_EXPECT_NE(test, parse(t, &geo), 0);
	t->file_bytes = CLUSTER;
	KUNIT_EXPECT_EQ(test, parse(t, &geo), 0);
	t->file_bytes = CLUSTER + 4096;
	KUNIT_EXPECT_NE(test, parse(t, &geo), 0);
	/* A table that reaches into the data. */
	good(t, 2);
	put(t, 32, 16385);
	put(t, 36, 16385 * 128);
	KUNIT_EXPECT_NE(test, parse(t, &geo), 0);
	put(t, 32, 16368);
	put(t, 36, 16368 * 128);
	KUNIT_EXPECT_EQ(test, parse(t, &geo), 0);
}

static void insists_on_cluster_size(struct kunit *test)
{
	struct format_test *t = test->priv;
	struct ploop_geometry geo = { .cluster_shift = CLUSTER_SHIFT + 1 };

	good(t, 2);
	KUNIT_EXPECT_NE(test, ploop1_parse(t->page, t->file_bytes, &geo), 0);
	geo.cluster_shift = CLUSTER_SHIFT;
	KUNIT_EXPECT_EQ(test, ploop1_parse(t->page, t->file_bytes, &geo), 0);
}

static void build_is_twin_of_parse(struct kunit *test)
{
	struct format_test *t = test->priv;
	struct ploop_geometry geo, again;
	u8 before[PLOOP_PAGE_BYTES / 4];

	for (u32 version = 1; version <= 2; version++) {
		good(t, version);
		put(t, 20, 0x11111111);
		put(t, 24, 0x22222222);
		put(t, 64, 0x33333333);
		KUNIT_ASSERT_EQ(test, parse(t, &geo), 0);
		memcpy(before, t->page, sizeof(before));
		ploop1_build(t->page, &geo);
		KUNIT_EXPECT_EQ_MSG(test, memcmp(before, t->page, sizeof(before)), 0,
				    "v%u: a header rebuilt is the same", version);
		geo.in_use = PLOOP_IN_USE;
		geo.flags = PLOOP_HDRF_EMPTY;
		ploop1_build(t->page, &geo);
		KUNIT_EXPECT_EQ(test, get(t, 44), PLOOP_IN_USE);
		KUNIT_EXPECT_EQ(test, get(t, 52), 1);
		KUNIT_EXPECT_EQ_MSG(test, get(t, 64), 0x33333333, "the table is left alone");
		KUNIT_ASSERT_EQ(test, parse(t, &again), 0);
		KUNIT_EXPECT_EQ(test, memcmp(&geo, &again, sizeof(geo)), 0);
	}
}

static void resizes(struct kunit *test)
{
	struct format_test *t = test->priv;
	struct ploop_geometry geo;

	good(t, 1);
	KUNIT_ASSERT_EQ(test, parse(t, &geo), 0);
	KUNIT_EXPECT_EQ(test, ploop1_resize(&geo, 127), -EINVAL);
	KUNIT_EXPECT_EQ(test, ploop1_resize(&geo, 1ull << 32), -EFBIG);
	KUNIT_EXPECT_EQ(test, ploop1_resize(&geo, 1ull << 62), -EFBIG);
	KUNIT_EXPECT_EQ_MSG(test, geo.clusters, CLUSTERS, "untouched when refused");
	KUNIT_EXPECT_EQ(test, ploop1_resize(&geo, 128 * 17600), 0);
	KUNIT_EXPECT_EQ(test, geo.clusters, 17600);
	KUNIT_EXPECT_EQ_MSG(test, geo.first_iblock, 2, "the table needs a second cluster");
	good(t, 2);
	KUNIT_ASSERT_EQ(test, parse(t, &geo), 0);
	/* 4 TiB: beyond what 32 bits of sectors hold. */
	KUNIT_EXPECT_EQ(test, ploop1_resize(&geo, 1ull << 33), 0);
	KUNIT_EXPECT_EQ(test, geo.sectors, 1ull << 33);
	ploop1_build(t->page, &geo);
	KUNIT_EXPECT_EQ(test, get(t, 36), 0);
	KUNIT_EXPECT_EQ(test, get(t, 40), 2);
	KUNIT_EXPECT_EQ(test, get(t, 32), 1u << 26);
}

static void decodes(struct kunit *test)
{
	struct format_test *t = test->priv;
	struct ploop_geometry geo;

	for (u32 version = 1; version <= 2; version++) {
		u32 unit = version == 1 ? CLUSTER / 512 : 1;

		good(t, version);
		KUNIT_ASSERT_EQ(test, parse(t, &geo), 0);
		KUNIT_EXPECT_EQ(test, ploop1_decode(&geo, 0, 8), PLOOP_IBLOCK_NONE);
		for (u32 i = 1; i < 8; i++) {
			__le32 entry = ploop1_encode(&geo, i);

			KUNIT_EXPECT_EQ(test, le32_to_cpu(entry), i * unit);
			KUNIT_EXPECT_EQ(test, ploop1_decode(&geo, entry, 8), i);
		}
		KUNIT_EXPECT_EQ(test, ploop1_encode(&geo, PLOOP_IBLOCK_NONE), 0);
		KUNIT_EXPECT_EQ_MSG(test, ploop1_decode(&geo, cpu_to_le32(8 * unit), 8),
				    PLOOP_IBLOCK_BAD, "behind the file");
		KUNIT_EXPECT_EQ(test, ploop1_decode(&geo, cpu_to_le32(0xffffffff), ~0ull),
				PLOOP_IBLOCK_BAD);
		KUNIT_EXPECT_EQ(test, ploop1_decode(&geo, cpu_to_le32(0xfffffffe), ~0ull),
				PLOOP_IBLOCK_BAD);
		geo.first_iblock = 3;
		KUNIT_EXPECT_EQ_MSG(test, ploop1_decode(&geo, cpu_to_le32(2 * unit), 8),
				    PLOOP_IBLOCK_BAD, "inside the table");
		if (version == 1)
			KUNIT_EXPECT_EQ(test, ploop1_decode(&geo, cpu_to_le32(5 * unit + 1), 8),
					PLOOP_IBLOCK_BAD);
		/* The last cluster that an entry can name is still named. */
		KUNIT_EXPECT_EQ(test, ploop1_decode(&geo,
						    ploop1_encode(&geo, ploop1_iblock_max(&geo)),
						    ~0ull),
				ploop1_iblock_max(&geo));
	}
}

/* Whatever the bytes: an answer, and one that keeps its promises. */
static void survives_noise(struct kunit *test)
{
	struct format_test *t = test->priv;
	struct ploop_geometry geo;
	u32 seed = get_random_u32(), accepted = 0;

	kunit_info(test, "seed %u", seed);
	for (int i = 0; i < 20000; i++) {
		good(t, 1 + (i & 1));
		for (int change = 0; change <= (i & 3); change++) {
			seed = seed * 1664525 + 1013904223;
			t->page[16 + (seed >> 8) % 48] = seed >> 24;
		}
		if (parse(t, &geo))
			continue;
		accepted++;
		KUNIT_ASSERT_EQ(test, geo.sectors, (u64)geo.clusters << (geo.cluster_shift - 9));
		KUNIT_ASSERT_LE(test, (64 + 4ull * geo.clusters),
				(u64)geo.first_iblock << geo.cluster_shift);
		KUNIT_ASSERT_LE(test, (u64)geo.first_iblock << geo.cluster_shift, t->file_bytes);
	}
	KUNIT_EXPECT_GT(test, accepted, 100);
}

static void raw_files(struct kunit *test)
{
	struct ploop_geometry geo = { 0 };
	u8 page[8];

	KUNIT_EXPECT_NE_MSG(test, raw_parse(page, CLUSTER, &geo), 0, "no cluster size given");
	geo.cluster_shift = CLUSTER_SHIFT;
	KUNIT_EXPECT_NE_MSG(test, raw_parse(page, 0, &geo), 0, "empty");
	KUNIT_EXPECT_EQ(test, raw_parse(page, 10 * CLUSTER + 512, &geo), 0);
	KUNIT_EXPECT_EQ(test, geo.sectors, 10 * CLUSTER / 512 + 1);
	KUNIT_EXPECT_EQ(test, geo.clusters, 11);
	KUNIT_EXPECT_EQ(test, geo.version, 0);
	KUNIT_EXPECT_EQ(test, raw_parse(page, 1ull << 62, &geo), -EFBIG);
}

static struct kunit_case format_cases[] = {
	KUNIT_CASE(parses_good),
	KUNIT_CASE(refuses_bad_fields),
	KUNIT_CASE(refuses_bad_lengths),
	KUNIT_CASE(insists_on_cluster_size),
	KUNIT_CASE(build_is_twin_of_parse),
	KUNIT_CASE(resizes),
	KUNIT_CASE(decodes),
	KUNIT_CASE(survives_noise),
	KUNIT_CASE(raw_files),
	{}
};

static struct kunit_suite format_suite = {
	.name = "ploop_format",
	.init = format_test_init,
	.test_cases = format_cases,
};

kunit_test_suite(format_suite);

MODULE_DESCRIPTION("Unit tests of ploop's image formats");
MODULE_LICENSE("GPL");
