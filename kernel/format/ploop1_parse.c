// SPDX-License-Identifier: GPL-2.0
/*
 * Expandable images, versions 1 and 2: header and block table.
 *
 * Pure functions over untrusted bytes.  Stricter than the old driver where
 * the old one trusted the header: the table has to fit before the data, and
 * the number of clusters has to agree with the size.
 */
#ifdef __KERNEL__
#include <linux/build_bug.h>
#include <linux/kernel.h>
#include <linux/log2.h>
#include <linux/string.h>
#endif
#include "../include/ploop_format.h"

#define SECTOR_BYTES_SHIFT 9

struct ploop1_header_disk {
	char   magic[16];
	__le32 type;
	__le32 heads;
	__le32 cylinders;
	__le32 cluster_sectors;
	__le32 clusters;
	__le32 sectors_low;	/* v1: all of it */
	__le32 sectors_high;	/* v1: zero */
	__le32 in_use;
	__le32 first_sector;
	__le32 flags;
	__le64 ext_off;
} __packed;

static_assert(sizeof(struct ploop1_header_disk) == PLOOP_HEADER_BYTES, "header is 64 bytes");

static const char magic_v1[16] = { 'W', 'i', 't', 'h', 'o', 'u', 't', 'F',
				   'r', 'e', 'e', 'S', 'p', 'a', 'c', 'e' };
static const char magic_v2[16] = { 'W', 'i', 't', 'h', 'o', 'u', 'F', 'r',
				   'e', 'S', 'p', 'a', 'c', 'E', 'x', 't' };

static u32 cluster_sectors(const struct ploop_geometry *geo)
{
	return 1u << (geo->cluster_shift - SECTOR_BYTES_SHIFT);
}

/* Clusters that header and table of @clusters entries take. */
static u64 table_clusters(u32 clusters, u32 cluster_shift)
{
	u64 bytes = PLOOP_HEADER_BYTES + 4ull * clusters;

	return (bytes + (1ull << cluster_shift) - 1) >> cluster_shift;
}

/* See struct ploop_format. */
int ploop1_parse(const void *page, u64 file_bytes, struct ploop_geometry *geo)
{
	struct ploop1_header_disk hdr;
	struct ploop_geometry out = { 0 };
	u32 cluster, first;

	if (file_bytes < PLOOP_PAGE_BYTES)
		return -EINVAL;
	memcpy(&hdr, page, sizeof(hdr));
	if (memcmp(hdr.magic, magic_v2, sizeof(magic_v2)) == 0)
		out.version = 2;
	else if (memcmp(hdr.magic, magic_v1, sizeof(magic_v1)) == 0)
		out.version = 1;
	else
		return -EINVAL;
	if (le32_to_cpu(hdr.type) != 2)
		return -EINVAL;

	cluster = le32_to_cpu(hdr.cluster_sectors);
	if (!is_power_of_2(cluster))
		return -EINVAL;
	out.cluster_shift = ilog2(cluster) + SECTOR_BYTES_SHIFT;
	if (out.cluster_shift < PLOOP_CLUSTER_SHIFT_MIN ||
	    out.cluster_shift > PLOOP_CLUSTER_SHIFT_MAX)
		return -EINVAL;
	if (geo->cluster_shift != 0 && geo->cluster_shift != out.cluster_shift)
		return -EINVAL;
	if (file_bytes & ((1ull << out.cluster_shift) - 1))
		return -EINVAL;

	out.clusters = le32_to_cpu(hdr.clusters);
	out.sectors = le32_to_cpu(hdr.sectors_low);
	if (out.version == 2)
		out.sectors |= (u64)le32_to_cpu(hdr.sectors_high) << 32;
	else if (hdr.sectors_high != 0)
		return -EUCLEAN;
	if (out.sectors & (cluster - 1))
		return -EINVAL;
	if (out.sectors != (u64)out.clusters * cluster)
		return -EUCLEAN;

	first = le32_to_cpu(hdr.first_sector);
	if (first == 0 || (first & (cluster - 1)))
		return -EUCLEAN;
	out.first_iblock = first / cluster;
	if (table_clusters(out.clusters, out.cluster_shift) > out.first_iblock)
		return -EUCLEAN;
	if (((u64)out.first_iblock << out.cluster_shift) > file_bytes)
		return -EUCLEAN;

	out.in_use = le32_to_cpu(hdr.in_use);
	out.flags = le32_to_cpu(hdr.flags);
	if (out.in_use != 0 && out.in_use != PLOOP_CLEAN_EXT &&
	    (out.flags & PLOOP_HDRF_CONVERT))
		return -EINVAL;
	out.ext_off = le64_to_cpu(hdr.ext_off);
	*geo = out;
	return 0;
}

static u64 first_divisor(u64 value, const u32 *list)
{
	for (; *list != 0; list++)
		if (value % *list == 0)
			return *list;
	return 0;
}

/* The CHS numbers mean nothing; they are kept as other tools compute them. */
static void fill_chs(struct ploop1_header_disk *hdr, u64 sectors)
{
	static const u32 spts[] = { 63, 32, 16, 8, 0 };
	static const u32 head_counts[] = { 16, 8, 4, 2, 0 };
	u64 spt, heads = 0;

	if (sectors > 1032192 && sectors < 16777216) {
		hdr->heads = cpu_to_le32(16);
		hdr->cylinders = cpu_to_le32((u32)(sectors / 1008));
		return;
	}
	spt = first_divisor(sectors, spts);
	if (spt != 0)
		heads = first_divisor(sectors / spt, head_counts);
	if (spt != 0 && heads != 0) {
		hdr->heads = cpu_to_le32((u32)heads);
		hdr->cylinders = cpu_to_le32((u32)(sectors / spt / heads));
	} else {
		hdr->heads = cpu_to_le32(1);
		hdr->cylinders = cpu_to_le32((u32)sectors);
	}
}

/* See struct ploop_format. */
void ploop1_build(void *page, const struct ploop_geometry *geo)
{
	struct ploop1_header_disk hdr;
	u32 old_clusters;

	memcpy(&hdr, page, sizeof(hdr));
	old_clusters = le32_to_cpu(hdr.clusters);
	memcpy(hdr.magic, geo->version == 1 ? magic_v1 : magic_v2, sizeof(hdr.magic));
	hdr.type = cpu_to_le32(2);
	hdr.cluster_sectors = cpu_to_le32(cluster_sectors(geo));
	hdr.clusters = cpu_to_le32(geo->clusters);
	hdr.sectors_low = cpu_to_le32((u32)geo->sectors);
	hdr.sectors_high = cpu_to_le32((u32)(geo->sectors >> 32));
	hdr.in_use = cpu_to_le32(geo->in_use);
	hdr.first_sector = cpu_to_le32(geo->first_iblock * cluster_sectors(geo));
	hdr.flags = cpu_to_le32(geo->flags);
	hdr.ext_off = cpu_to_le64(geo->ext_off);
	if (old_clusters != geo->clusters)
		fill_chs(&hdr, geo->sectors);
	memcpy(page, &hdr, sizeof(hdr));
}

/* See struct ploop_format. */
int ploop1_resize(struct ploop_geometry *geo, u64 sectors)
{
	u32 per_cluster = cluster_sectors(geo);
	u64 clusters = sectors / per_cluster;
	u64 table;

	if (sectors & (per_cluster - 1))
		return -EINVAL;
	if (clusters > 0xfffffff0u || (geo->version == 1 && sectors > 0xffffffffu))
		return -EFBIG;
	table = table_clusters((u32)clusters, geo->cluster_shift);
	/* The header has 32 bits for the first data sector. */
	if (table * per_cluster > 0xffffffffu)
		return -EFBIG;
	geo->clusters = (u32)clusters;
	geo->sectors = sectors;
	if (table > geo->first_iblock)
		geo->first_iblock = (u32)table;
	return 0;
}

/* See struct ploop_format. */
u32 ploop1_decode(const struct ploop_geometry *geo, __le32 entry, u64 file_clusters)
{
	u32 value = le32_to_cpu(entry);

	if (value == 0)
		return PLOOP_IBLOCK_NONE;
	if (geo->version == 1) {
		if (value & (cluster_sectors(geo) - 1))
			return PLOOP_IBLOCK_BAD;
		value /= cluster_sectors(geo);
	}
	if (value < geo->first_iblock || value >= file_clusters ||
	    value >= PLOOP_IBLOCK_BAD)
		return PLOOP_IBLOCK_BAD;
	return value;
}

/* See struct ploop_format. */
__le32 ploop1_encode(const struct ploop_geometry *geo, u32 iblock)
{
	if (iblock == PLOOP_IBLOCK_NONE)
		return 0;
	if (geo->version == 1)
		iblock *= cluster_sectors(geo);
	return cpu_to_le32(iblock);
}

#define EXTENSION_MAGIC		0xab234cef23dcea87ull
#define EXTENSION_FIRST		24u	/* behind magic and checksum */
#define SECTION_NECESSARY	0x1ull

struct ploop1_section_disk {
	__le64 magic;
	__le64 flags;
	__le32 data_size;
	__le32 unused;
} __packed;

static_assert(sizeof(struct ploop1_section_disk) == 24, "section head is 24 bytes");

/* See struct ploop_format. */
int ploop1_extension(const void *page)
{
	struct ploop1_section_disk section;
	u64 at = EXTENSION_FIRST;
	__le64 magic;

	memcpy(&magic, page, sizeof(magic));
	/* No extension at all is nobody's loss. */
	if (le64_to_cpu(magic) != EXTENSION_MAGIC)
		return 0;
	while (at + sizeof(section) <= PLOOP_PAGE_BYTES) {
		memcpy(&section, (const char *)page + at, sizeof(section));
		if (section.magic == 0)
			return 0;
		if (le64_to_cpu(section.flags) & SECTION_NECESSARY)
			return -EOPNOTSUPP;
		at += sizeof(section) + (((u64)le32_to_cpu(section.data_size) + 7) & ~7ull);
	}
	/* What follows is not seen: it may be necessary. */
	return -EOPNOTSUPP;
}

/* See struct ploop_format. */
u32 ploop1_iblock_max(const struct ploop_geometry *geo)
{
	if (geo->version == 1)
		return 0xffffffffu / cluster_sectors(geo);
	return PLOOP_IBLOCK_BAD - 1;
}
