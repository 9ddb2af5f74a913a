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
STATE_ATTR(queued_bios, "%u", dev->nospace.count + dev->held.count + dev->full.count);
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

	spin_lock(&dev->stack_lock);
	ret = sysfs_emit(buf, "%s\n", dev->cookie);
	spin_unlock(&dev->stack_lock);
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

/* The changes that the abort kept go with the next flush, unless nobody knows what is on disk. */
static int abort_undo(struct ploop_device *dev)
{
	int ret = mutex_lock_interruptible(&dev->ctl_lock);

	if (ret)
		return ret;
	if (dev->snapshotting || dev->maintenance >= PLOOP_MNTN_MERGE) {
		ret = -EBUSY;
	} else if (ploop_doubtful(dev)) {
		ret = -EUCLEAN;
	} else {
		WRITE_ONCE(dev->aborted, 0);
		queue_work(dev->commit_wq, &dev->commit_work);
	}
	mutex_unlock(&dev->ctl_lock);
	return ret;
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
	/* Without ctl_lock: it is the way out when somebody waits with it held. */
	if (value)
		ploop_abort(dev, -EIO);
	else
		ret = abort_undo(dev);
	return ret ? ret : count;
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

/* An attribute whose place in its array is the number of its value. */
struct numbered {
	struct device_attribute attr;
	ssize_t offset;		/* pstat: in struct ploop_stats, or -1 */
	u32 initial;		/* ptune */
};

#define to_numbered(_attr) container_of(_attr, struct numbered, attr)

static struct numbered stats[PLOOP_STATS];
static struct numbered tunes[PLOOP_TUNES];

static ssize_t stat_show(struct device *d, struct device_attribute *attr, char *buf)
{
	struct numbered *stat = to_numbered(attr);
	struct ploop_device *dev = to_ploop(d);
	u64 value = 0;

	if (stat->offset >= 0)
		value = ploop_stat_sum(dev, stat->offset) - READ_ONCE(dev->stat_base[stat - stats]);
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
		WRITE_ONCE(dev->stat_base[stat - stats],
			   ploop_stat_sum(dev, stat->offset) - value);
	return count;
}

static ssize_t tune_show(struct device *d, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%u\n", READ_ONCE(to_ploop(d)->tune[to_numbered(attr) - tunes]));
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
	WRITE_ONCE(dev->tune[tune - tunes], value);
	if (tune - tunes == PLOOP_TUNE_CHECK_ZEROS)
		WRITE_ONCE(dev->check_zeros, value != 0);
	return count;
}

#define STAT(_name, _offset) \
	{ .attr = __ATTR(_name, 0644, stat_show, stat_store), .offset = (_offset) }
#define COUNTED(_name, _field)	STAT(_name, offsetof(struct ploop_stats, _field))
#define NOTHING(_name)		STAT(_name, -1)

static struct numbered stats[PLOOP_STATS] = {
	NOTHING(bio_in),
	COUNTED(bio_fast, fast),
	NOTHING(bio_full),
	COUNTED(bio_out, ios),
	COUNTED(bio_alloc, allocations),
	NOTHING(bio_alloc_whole),
	NOTHING(bio_splits),
	NOTHING(coal_back),
	NOTHING(coal_forw),
	NOTHING(coal_back2),
	NOTHING(coal_forw2),
	NOTHING(coal_oback),
	NOTHING(coal_oforw),
	NOTHING(coal_mback),
	NOTHING(coal_mforw),
	NOTHING(coal_overlap),
	NOTHING(coal_flush),
	NOTHING(bio_barriers),
	COUNTED(bio_rzero, zero_reads),
	COUNTED(bio_wzero, zero_writes),
	NOTHING(bio_syncwait),
	COUNTED(bio_fsync, host_syncs),
	COUNTED(bio_cows, copies),
	NOTHING(bio_whole_cows),
	NOTHING(merge_neg_cluster),
	NOTHING(merge_neg_disable),
	COUNTED(fast_neg_nomap, slow),
	NOTHING(fast_neg_noem),
	NOTHING(fast_neg_shortem),
	NOTHING(fast_neg_backing),
	NOTHING(bio_lockouts),
	NOTHING(map_lockouts),
	NOTHING(merge_lockouts),
	COUNTED(map_reads, map_reads),
	NOTHING(map_merges),
	NOTHING(map_single_writes),
	NOTHING(map_multi_writes),
	NOTHING(map_multi_updates),
	NOTHING(bio_trans_whole),
	NOTHING(bio_trans_copy),
	NOTHING(bio_trans_alloc),
	NOTHING(bio_trans_index),
	COUNTED(bio_flush_in, flushes),
	COUNTED(bio_fua_in, fua_in),
	COUNTED(bio_flush_out, host_syncs),
	COUNTED(bio_fua_out, fua_out),
	NOTHING(bio_flush_skip),
};

#define TUNE(_name, _initial) \
	{ .attr = __ATTR(_name, 0644, tune_show, tune_store), .initial = (_initial) }

static struct numbered tunes[PLOOP_TUNES] = {
	TUNE(max_requests, 256),
	TUNE(batch_entry_qlen, 32),
	TUNE(batch_entry_delay, 50),
	TUNE(fsync_max, 32),
	TUNE(fsync_delay, 100),
	TUNE(min_map_pages, 32),
	TUNE(max_map_inactivity, 10000),
	TUNE(pass_flushes, 1),
	TUNE(pass_fuas, 1),
	TUNE(congestion_detection, 0),
	[PLOOP_TUNE_CHECK_ZEROS] = TUNE(check_zeros, 1),
	TUNE(disable_root_threshold, 0),
	TUNE(disable_user_threshold, 0),
	TUNE(congestion_high_watermark, 192),
	TUNE(congestion_low_watermark, 128),
	TUNE(max_active_requests, 16),
};

static struct attribute *pstat_attrs[PLOOP_STATS + 1];
static struct attribute *ptune_attrs[PLOOP_TUNES + 1];
static const struct attribute_group pstat_group = { .name = "pstat", .attrs = pstat_attrs };
static const struct attribute_group ptune_group = { .name = "ptune", .attrs = ptune_attrs };

const struct attribute_group *ploop_sysfs_groups[] = {
	&pstate_group, &ptune_group, &pstat_group, NULL,
};

/**
 * ploop_sysfs_init() - prepare the groups, before there is a device
 */
void __init ploop_sysfs_init(void)
{
	int i;

	for (i = 0; i < PLOOP_STATS; i++)
		pstat_attrs[i] = &stats[i].attr.attr;
	for (i = 0; i < PLOOP_TUNES; i++)
		ptune_attrs[i] = &tunes[i].attr.attr;
}

/**
 * ploop_tune_init() - the tunables as they are at first
 * @dev: the device
 */
void ploop_tune_init(struct ploop_device *dev)
{
	int i;

	for (i = 0; i < PLOOP_TUNES; i++)
		dev->tune[i] = tunes[i].initial;
}
