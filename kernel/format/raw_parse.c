// SPDX-License-Identifier: GPL-2.0
/* Raw images: the content of the device and nothing else. */
#include "../include/ploop_format.h"

/* See struct ploop_format; the cluster size has to be given. */
int raw_parse(const void *page, u64 file_bytes, struct ploop_geometry *geo)
{
	struct ploop_geometry out = { 0 };
	u64 clusters;

	(void)page;
	if (geo->cluster_shift < PLOOP_CLUSTER_SHIFT_MIN ||
	    geo->cluster_shift > PLOOP_CLUSTER_SHIFT_MAX)
		return -EINVAL;
	out.cluster_shift = geo->cluster_shift;
	out.sectors = file_bytes >> 9;
	clusters = (file_bytes + (1ull << out.cluster_shift) - 1) >> out.cluster_shift;
	if (clusters > 0xfffffff0u)
		return -EFBIG;
	if (out.sectors == 0)
		return -EINVAL;
	out.clusters = (u32)clusters;
	*geo = out;
	return 0;
}
