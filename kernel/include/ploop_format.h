/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Image formats: what the bytes of a delta mean.
 *
 * A format does no I/O, takes no locks and allocates nothing: it gets bytes
 * and gives values.  So it compiles in user space, too (format/user_shim.h),
 * where it is unit tested and fuzzed.  All input is untrusted.
 */
#ifndef _PLOOP_FORMAT_H
#define _PLOOP_FORMAT_H

#ifdef __KERNEL__
#include <linux/types.h>
#include <linux/errno.h>
struct module;
#else
#include "../format/user_shim.h"
#endif

/* The unit of header and block table I/O, whatever the sector size. */
#define PLOOP_PAGE_BYTES	4096u
#define PLOOP_PAGE_SLOTS	1024u
/* The header takes the place of so many slots of the first page. */
#define PLOOP_HEADER_SLOTS	16u
#define PLOOP_HEADER_BYTES	64u

#define PLOOP_CLUSTER_SHIFT_MIN	15u
#define PLOOP_CLUSTER_SHIFT_MAX	26u

/* Not allocated in this delta. */
#define PLOOP_IBLOCK_NONE	0xffffffffu
/* The entry contradicts the image. */
#define PLOOP_IBLOCK_BAD	0xfffffffeu

#define PLOOP_IN_USE		0x746f6e59u
#define PLOOP_CLEAN_EXT		0x312e3276u

#define PLOOP_HDRF_EMPTY	0x1u
#define PLOOP_HDRF_CONVERT	0x2u

/**
 * struct ploop_geometry - what a header says, once it was found consistent
 * @version: 1 or 2; 0 for a raw file
 * @cluster_shift: log2 of the cluster size in bytes
 * @clusters: virtual clusters, the number of entries in use
 * @first_iblock: first cluster of the file that may hold data
 * @sectors: size of the virtual device
 * @in_use: the mark as found
 * @flags: PLOOP_HDRF_*
 * @ext_off: sector of the format extension, or 0
 */
struct ploop_geometry {
	u32 version;
	u32 cluster_shift;
	u32 clusters;
	u32 first_iblock;
	u64 sectors;
	u32 in_use;
	u32 flags;
	u64 ext_off;
};

/* The format may stand above level 0. */
#define PLOOP_FMTF_DELTA	0x1u
/* There is a header and a block table; without, cluster n is at n. */
#define PLOOP_FMTF_TABLE	0x2u

/**
 * struct ploop_format - one image format
 * @owner: the module
 * @id: PLOOP_FMT_*
 * @name: as sysfs shows it
 * @flags: PLOOP_FMTF_*
 * @parse: check the first PLOOP_PAGE_BYTES of a file of @file_bytes and fill
 *         @geo.  In: @geo->cluster_shift is the cluster size the caller
 *         expects, 0 for any.  Return: 0, -EINVAL (no such image, or not of this kind),
 *         -EFBIG (too large), -EUCLEAN (contradicts itself)
 * @build: bring the header in @page up to @geo, keeping what @geo doesn't say
 * @resize: make @geo that of an image of @sectors.  Return: 0, -EINVAL, -EFBIG
 * @decode: entry of the table to cluster of the file, PLOOP_IBLOCK_NONE or
 *          PLOOP_IBLOCK_BAD; @file_clusters is the length of the file
 * @encode: the reverse; @iblock PLOOP_IBLOCK_NONE gives 0.  The result for an
 *          iblock beyond @iblock_max is undefined
 * @extension: may an image with the extension whose first PLOOP_PAGE_BYTES are in
 *             @page be written by who doesn't know extensions?  Return: 0 or -EOPNOTSUPP
 * @iblock_max: the last cluster of a file that an entry can name
 */
struct ploop_format {
	struct module *owner;
	u32 id;
	const char *name;
	u32 flags;
	int (*parse)(const void *page, u64 file_bytes, struct ploop_geometry *geo);
	void (*build)(void *page, const struct ploop_geometry *geo);
	int (*resize)(struct ploop_geometry *geo, u64 sectors);
	u32 (*decode)(const struct ploop_geometry *geo, __le32 entry, u64 file_clusters);
	__le32 (*encode)(const struct ploop_geometry *geo, u32 iblock);
	int (*extension)(const void *page);
	u32 (*iblock_max)(const struct ploop_geometry *geo);
};

/* The pure parts, in format/ploop1_parse.c and format/raw_parse.c. */
int ploop1_parse(const void *page, u64 file_bytes, struct ploop_geometry *geo);
void ploop1_build(void *page, const struct ploop_geometry *geo);
int ploop1_resize(struct ploop_geometry *geo, u64 sectors);
u32 ploop1_decode(const struct ploop_geometry *geo, __le32 entry, u64 file_clusters);
__le32 ploop1_encode(const struct ploop_geometry *geo, u32 iblock);
int ploop1_extension(const void *page);
u32 ploop1_iblock_max(const struct ploop_geometry *geo);
int raw_parse(const void *page, u64 file_bytes, struct ploop_geometry *geo);

#ifdef __KERNEL__
/**
 * ploop_format_register() - make a format known
 * @format: stays registered and unchanged until ploop_format_unregister()
 *
 * Context: Process context; may sleep.
 * Return: 0 or -EEXIST.
 */
int ploop_format_register(struct ploop_format *format);
void ploop_format_unregister(struct ploop_format *format);
#endif

#endif /* _PLOOP_FORMAT_H */
