// SPDX-License-Identifier: GPL-2.0
/*
 * sysfs: pstate, ptune and pstat of /sys/block/ploopN/.
 *
 * The names are those of the old driver, since tools list them.  What this one
 * has no counterpart of reads as 0 in pstat, and keeps what is written in ptune.
 */
#include <linux/device.h>
#include "core.h"

static struct ploop_device *to_ploop(struct device *d)
{
	return dev_to_disk(d)->private_data;
}

#define STATE_ATTR(_name, _fmt, _value) \
	static ssize_t _name##_show(struct device *d, struct device_attribute *attr, char *buf) \
	{ \
		struct ploop_device *dev = to_ploop(d); \
		return sysfs_emit(buf, _fmt "\n", _value); \
	} \
	static DEVICE_ATTR_RO(_name)

STATE_ATTR(block_size, "%u", READ_ONCE(dev->nr_levels) ?
	   1u << (dev->cluster_shift - SECTOR_SHIFT) : 1u);
STATE_ATTR(fmt_version, "%u", dev->version);
STATE_ATTR(total_bios, "%llu", ploop_stat(dev, reads) + ploop_stat(dev, writes));
STATE_ATTR(queued_bios, "%u", dev->nospace.count + dev->full.count);
STATE_ATTR(running, "%u", READ_ONCE(dev->running));
STATE_ATTR(locked, "%u", READ_ONCE(dev->locked));
STATE_ATTR(top, "%u", READ_ONCE(dev->nr_levels) - 1u);
STATE_ATTR(open_count, "%u", READ_ONCE(dev->open_count));

static ssize_t map_pages_show(struct device *d, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%lu\n", ploop_map_count());
}
static DEVICE_ATTR_RO(map_pages);

/* What this driver has no counterpart of. */
static ssize_t nothing_show(struct device *d, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "0\n");
}

#define NOTHING_ATTR(_name) \
	static struct device_attribute dev_attr_##_name = __ATTR(_name, 0444, nothing_show, NULL)

NOTHING_ATTR(discard_bios);
NOTHING_ATTR(active_reqs);
NOTHING_ATTR(entry_reqs);
NOTHING_ATTR(entry_read_sync_reqs);
NOTHING_ATTR(barrier_reqs);
NOTHING_ATTR(fastpath_reqs);
NOTHING_ATTR(fsync_reqs);

static ssize_t cookie_show(struct device *d, struct device_attribute *attr, char *buf)
{
	struct ploop_device *dev = to_ploop(d);
	ssize_t ret;

	mutex_lock(&dev->ctl_lock);
	ret = sysfs_emit(buf, "%s\n", dev->cookie);
	mutex_unlock(&dev->ctl_lock);
	return ret;
}
static DEVICE_ATTR_RO(cookie);

static ssize_t event_show(struct device *d, struct device_attribute *attr, char *buf)
{
	int ret = ploop_event_wait(to_ploop(d));

	return ret < 0 ? ret : sysfs_emit(buf, "%d\n", ret);
}
static DEVICE_ATTR_RO(event);

static ssize_t aborted_show(struct device *d, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%u\n", READ_ONCE(to_ploop(d)->aborted) != 0);
}

static ssize_t aborted_store(struct device *d, struct device_attribute *attr, const char *buf,
			     size_t count)
{
	struct ploop_device *dev = to_ploop(d);
	bool value;
	int ret;

	ret = kstrtobool(buf, &value);
	if (ret)
		return ret;
	if (value) {
		ploop_abort(dev, -EIO);
	} else {
		/* The changes that the abort kept go with the next flush. */
		WRITE_ONCE(dev->aborted, 0);
		queue_work(dev->commit_wq, &dev->commit_work);
	}
	return count;
}
static DEVICE_ATTR_RW(aborted);

static struct attribute *pstate_attrs[] = {
	&dev_attr_block_size.attr, &dev_attr_fmt_version.attr, &dev_attr_total_bios.attr,
	&dev_attr_queued_bios.attr, &dev_attr_discard_bios.attr, &dev_attr_active_reqs.attr,
	&dev_attr_entry_reqs.attr, &dev_attr_entry_read_sync_reqs.attr,
	&dev_attr_barrier_reqs.attr, &dev_attr_fastpath_reqs.attr, &dev_attr_fsync_reqs.attr,
	&dev_attr_map_pages.attr, &dev_attr_running.attr, &dev_attr_locked.attr,
	&dev_attr_aborted.attr, &dev_attr_top.attr, &dev_attr_event.attr,
	&dev_attr_cookie.attr, &dev_attr_open_count.attr, NULL,
};

static const struct attribute_group pstate_group = { .name = "pstate", .attrs = pstate_attrs };

/* An attribute with a number: which counter or tunable it is. */
struct numbered {
	struct device_attribute attr;
	u32 number;
	ssize_t offset;		/* in struct ploop_stats, or -1 */
	u32 initial;
};

#define to_numbered(_attr) container_of(_attr, struct numbered, attr)

static ssize_t stat_show(struct device *d, struct device_attribute *attr, char *buf)
{
	struct numbered *stat = to_numbered(attr);
	struct ploop_device *dev = to_ploop(d);
	u64 value = 0;

	if (stat->offset >= 0)
		value = ploop_stat_sum(dev, stat->offset) - READ_ONCE(dev->stat_base[stat->number]);
	return sysfs_emit(buf, "%u\n", (u32)value);
}

static ssize_t stat_store(struct device *d, struct device_attribute *attr, const char *buf,
			  size_t count)
{
	struct numbered *stat = to_numbered(attr);
	struct ploop_device *dev = to_ploop(d);
	u32 value;
	int ret;

	ret = kstrtou32(buf, 0, &value);
	if (ret)
		return ret;
	if (stat->offset >= 0)
		WRITE_ONCE(dev->stat_base[stat->number],
			   ploop_stat_sum(dev, stat->offset) - value);
	return count;
}

static ssize_t tune_show(struct device *d, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%u\n", READ_ONCE(to_ploop(d)->tune[to_numbered(attr)->number]));
}

static ssize_t tune_store(struct device *d, struct device_attribute *attr, const char *buf,
			  size_t count)
{
	struct numbered *tune = to_numbered(attr);
	struct ploop_device *dev = to_ploop(d);
	u32 value;
	int ret;

	ret = kstrtou32(buf, 0, &value);
	if (ret)
		return ret;
	WRITE_ONCE(dev->tune[tune->number], value);
	if (tune->number == PLOOP_TUNE_CHECK_ZEROS)
		WRITE_ONCE(dev->check_zeros, value != 0);
	return count;
}

#define OF(_field) offsetof(struct ploop_stats, _field)
#define PSTATS(X) \
	X(bio_in, -1) X(bio_fast, OF(fast)) X(bio_full, -1) X(bio_out, OF(ios)) \
	X(bio_alloc, OF(allocations)) X(bio_alloc_whole, -1) X(bio_splits, -1) \
	X(coal_back, -1) X(coal_forw, -1) X(coal_back2, -1) X(coal_forw2, -1) \
	X(coal_oback, -1) X(coal_oforw, -1) X(coal_mback, -1) X(coal_mforw, -1) \
	X(coal_overlap, -1) X(coal_flush, -1) X(bio_barriers, -1) \
	X(bio_rzero, OF(zero_reads)) X(bio_wzero, OF(zero_writes)) X(bio_syncwait, -1) \
	X(bio_fsync, OF(host_syncs)) X(bio_cows, OF(copies)) X(bio_whole_cows, -1) \
	X(merge_neg_cluster, -1) X(merge_neg_disable, -1) X(fast_neg_nomap, OF(slow)) \
	X(fast_neg_noem, -1) X(fast_neg_shortem, -1) X(fast_neg_backing, -1) \
	X(bio_lockouts, -1) X(map_lockouts, -1) X(merge_lockouts, -1) \
	X(map_reads, OF(map_reads)) X(map_merges, -1) X(map_single_writes, -1) \
	X(map_multi_writes, -1) X(map_multi_updates, -1) X(bio_trans_whole, -1) \
	X(bio_trans_copy, -1) X(bio_trans_alloc, -1) X(bio_trans_index, -1) \
	X(bio_flush_in, OF(flushes)) X(bio_fua_in, OF(fua_in)) \
	X(bio_flush_out, OF(host_syncs)) X(bio_fua_out, OF(fua_out)) X(bio_flush_skip, -1)

enum {
#define X(_name, _offset) STAT_##_name,
	PSTATS(X)
#undef X
	STAT_COUNT
};
static_assert(STAT_COUNT == PLOOP_STATS);

#define X(_name, _offset) \
	static struct numbered stat_##_name = { \
		.attr = __ATTR(_name, 0644, stat_show, stat_store), \
		.number = STAT_##_name, .offset = (_offset) };
PSTATS(X)
#undef X

static struct attribute *pstat_attrs[] = {
#define X(_name, _offset) &stat_##_name.attr.attr,
	PSTATS(X)
#undef X
	NULL,
};

static const struct attribute_group pstat_group = { .name = "pstat", .attrs = pstat_attrs };

#define PTUNES(X) \
	X(max_requests, 256) X(batch_entry_qlen, 32) X(batch_entry_delay, 50) X(fsync_max, 32) \
	X(fsync_delay, 100) X(min_map_pages, 32) X(max_map_inactivity, 10000) \
	X(pass_flushes, 1) X(pass_fuas, 1) X(congestion_detection, 0) X(check_zeros, 1) \
	X(disable_root_threshold, 0) X(disable_user_threshold, 0) \
	X(congestion_high_watermark, 192) X(congestion_low_watermark, 128) \
	X(max_active_requests, 16)

enum {
#define X(_name, _initial) TUNE_##_name,
	PTUNES(X)
#undef X
	TUNE_COUNT
};
static_assert(TUNE_COUNT == PLOOP_TUNES);
static_assert(TUNE_check_zeros == PLOOP_TUNE_CHECK_ZEROS);

#define X(_name, _initial) \
	static struct numbered tune_##_name = { \
		.attr = __ATTR(_name, 0644, tune_show, tune_store), \
		.number = TUNE_##_name, .initial = (_initial) };
PTUNES(X)
#undef X

static struct attribute *ptune_attrs[] = {
#define X(_name, _initial) &tune_##_name.attr.attr,
	PTUNES(X)
#undef X
	NULL,
};

static const struct attribute_group ptune_group = { .name = "ptune", .attrs = ptune_attrs };

const struct attribute_group *ploop_sysfs_groups[] = {
	&pstate_group, &ptune_group, &pstat_group, NULL,
};

/**
 * ploop_tune_init() - the tunables as they are at first
 * @dev: the device
 */
void ploop_tune_init(struct ploop_device *dev)
{
	int i;

	for (i = 0; i < TUNE_COUNT; i++)
		dev->tune[i] = to_numbered(container_of(ptune_attrs[i], struct device_attribute,
							attr))->initial;
}
