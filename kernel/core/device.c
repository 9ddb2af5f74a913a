// SPDX-License-Identifier: GPL-2.0
/*
 * Devices: made by an index, kept until the module goes.
 *
 * A device without deltas has no capacity.  Users of a device hold the module,
 * through the open block device or control file.
 */
#include <linux/module.h>
#include <linux/random.h>
#include "core.h"

#define INDEX_MAX	65535u
#define INDEX_RANDOM_MIN 10000u

static DEFINE_XARRAY(devices);
static DEFINE_MUTEX(index_lock);

static int ploop_open(PLOOP_OPEN_ARGS)
{
	struct ploop_device *dev = PLOOP_OPEN_DISK->private_data;

	WRITE_ONCE(dev->open_count, dev->open_count + 1);
	return 0;
}

static void ploop_release(PLOOP_RELEASE_ARGS)
{
	struct ploop_device *dev = disk->private_data;

	WRITE_ONCE(dev->open_count, dev->open_count - 1);
	if (dev->open_count == 0)
		ploop_track_abort(dev);
}

static const struct block_device_operations ploop_fops = {
	.owner = THIS_MODULE,
	.open = ploop_open,
	.release = ploop_release,
	.ioctl = ploop_ioctl,
	.compat_ioctl = blkdev_compat_ptr_ioctl,
};

/*
 * Compound: file systems that take references of the pages they transfer (NFS) would
 * else free all but the first when they give them back.
 */
static void *copy_pages_alloc(gfp_t gfp, void *order)
{
	return alloc_pages(gfp | __GFP_COMP, (unsigned long)order);
}

/**
 * ploop_device_memory() - what a device needs once it runs
 * @dev: the device
 *
 * Context: Process context; sleeps.  Holds ctl_lock.
 * Return: 0 or -ENOMEM.
 */
int ploop_device_memory(struct ploop_device *dev)
{
	int i;

	for (i = 0; i < 2; i++) {
		if (!dev->pending[i])
			dev->pending[i] = kvmalloc_array(PLOOP_PENDING_MAX,
							 sizeof(struct ploop_pending), GFP_KERNEL);
		if (!dev->pending[i])
			return -ENOMEM;
	}
	if (!dev->bvec_pool)
		dev->bvec_pool = mempool_create_kmalloc_pool(4, PLOOP_SEGMENTS *
							     sizeof(struct bio_vec));
	if (!dev->copy_pool)
		dev->copy_pool = mempool_create(2, copy_pages_alloc, mempool_free_pages,
						(void *)(long)PLOOP_COPY_ORDER);
	return dev->bvec_pool && dev->copy_pool ? 0 : -ENOMEM;
}

static void device_free(struct ploop_device *dev)
{
	if (dev->wq)
		destroy_workqueue(dev->wq);
	if (dev->first_wq)
		destroy_workqueue(dev->first_wq);
	if (dev->commit_wq)
		destroy_workqueue(dev->commit_wq);
	if (dev->lane_wq)
		destroy_workqueue(dev->lane_wq);
	if (dev->waiting_wq)
		destroy_workqueue(dev->waiting_wq);
	mempool_destroy(dev->bvec_pool);
	mempool_destroy(dev->copy_pool);
	kvfree(dev->pending[0]);
	kvfree(dev->pending[1]);
	free_percpu(dev->stats);
	free_percpu(dev->epoch_counts);
	cleanup_srcu_struct(&dev->senders);
	kfree(dev->job);
	kfree(dev);
}

static struct ploop_device *device_alloc(u32 index)
{
	struct ploop_device *dev = kzalloc(sizeof(*dev), GFP_KERNEL);
	int i;

	if (!dev)
		return NULL;
	if (init_srcu_struct(&dev->senders)) {
		kfree(dev);
		return NULL;
	}
	dev->index = index;
	dev->check_zeros = true;
	ploop_tune_init(dev);
	dev->cluster_shift = PLOOP_CLUSTER_SHIFT_MIN;
	mutex_init(&dev->ctl_lock);
	mutex_init(&dev->bat_lock);
	mutex_init(&dev->drain_lock);
	mutex_init(&dev->commit_lock);
	spin_lock_init(&dev->pending_lock);
	spin_lock_init(&dev->stack_lock);
	init_waitqueue_head(&dev->commit_wait);
	init_waitqueue_head(&dev->drain_wait);
	init_waitqueue_head(&dev->discard_queue);
	init_waitqueue_head(&dev->event_wait);
	INIT_LIST_HEAD(&dev->flush_waiters);
	INIT_LIST_HEAD(&dev->bitmaps);
	INIT_WORK(&dev->commit_work, ploop_commit_work);
	INIT_DELAYED_WORK(&dev->nospace_work, ploop_space_work);
	ploop_parking_init(&dev->gate);
	ploop_parking_init(&dev->full);
	ploop_waiting_init(&dev->nospace);
	ploop_waiting_init(&dev->held);
	xa_init(&dev->map);
	for (i = 0; i < PLOOP_LOCK_BUCKETS; i++) {
		spin_lock_init(&dev->locks[i].lock);
		INIT_HLIST_HEAD(&dev->locks[i].head);
		init_waitqueue_head(&dev->locks[i].wait);
	}
	dev->stats = alloc_percpu(struct ploop_stats);
	dev->epoch_counts = alloc_percpu(struct ploop_epoch_count);
	dev->wq = alloc_workqueue("ploop%u", WQ_MEM_RECLAIM | WQ_UNBOUND, 32, index);
	dev->first_wq = alloc_ordered_workqueue("ploop%u_first", WQ_MEM_RECLAIM, index);
	dev->commit_wq = alloc_workqueue("ploop%u_commit", WQ_MEM_RECLAIM | WQ_UNBOUND, 1, index);
	dev->lane_wq = alloc_workqueue("ploop%u_lane", WQ_MEM_RECLAIM | WQ_UNBOUND, 0, index);
	/* Waits for free requests: it must not stand in the way of what makes them free. */
	dev->waiting_wq = alloc_workqueue("ploop%u_wait", WQ_MEM_RECLAIM | WQ_UNBOUND, 0, index);
	dev->job = ploop_job_alloc(dev);
	if (!dev->stats || !dev->epoch_counts || !dev->wq || !dev->first_wq || !dev->commit_wq ||
	    !dev->lane_wq || !dev->waiting_wq || !dev->job) {
		device_free(dev);
		return NULL;
	}
	return dev;
}

static int device_add_disk_of(struct ploop_device *dev)
{
	struct blk_mq_tag_set *set = &dev->tag_set;
	struct gendisk *disk;
	int ret;

	set->ops = &ploop_mq_ops;
	set->nr_hw_queues = min_t(u32, num_online_cpus(), PLOOP_QUEUES_MAX);
	set->queue_depth = PLOOP_QUEUE_DEPTH;
	set->numa_node = NUMA_NO_NODE;
	set->cmd_size = sizeof(struct ploop_request);
	set->flags = PLOOP_MQ_MERGE | BLK_MQ_F_BLOCKING | BLK_MQ_F_NO_SCHED_BY_DEFAULT;
	set->driver_data = dev;
	ret = blk_mq_alloc_tag_set(set);
	if (ret)
		return ret;
	disk = ploop_alloc_disk(set, dev);
	if (IS_ERR(disk)) {
		ret = PTR_ERR(disk);
		goto free_set;
	}
	dev->disk = disk;
	disk->major = PLOOP_MAJOR;
	disk->first_minor = dev->index << PLOOP_MINOR_SHIFT;
	disk->minors = PLOOP_MINORS;
	disk->fops = &ploop_fops;
	disk->private_data = dev;
	snprintf(disk->disk_name, sizeof(disk->disk_name), "ploop%u", dev->index);
	ret = device_add_disk(NULL, disk, ploop_sysfs_groups);
	if (ret)
		goto put;
	dev->pdelta = kobject_create_and_add("pdelta", &disk_to_dev(disk)->kobj);
	if (dev->pdelta)
		return 0;
	ret = -ENOMEM;
	del_gendisk(disk);
put:
	put_disk(disk);
free_set:
	blk_mq_free_tag_set(set);
	return ret;
}

static struct ploop_device *device_create_at(u32 index)
{
	struct ploop_device *dev;
	int ret;

	lockdep_assert_held(&index_lock);
	dev = device_alloc(index);
	if (!dev)
		return ERR_PTR(-ENOMEM);
	ret = device_add_disk_of(dev);
	if (ret == 0) {
		ret = xa_err(xa_store(&devices, index, dev, GFP_KERNEL));
		if (ret == 0)
			return dev;
		kobject_put(dev->pdelta);
		del_gendisk(dev->disk);
		put_disk(dev->disk);
		blk_mq_free_tag_set(&dev->tag_set);
	}
	device_free(dev);
	return ERR_PTR(ret);
}

/**
 * ploop_device_find() - the device of an index
 * @index: which
 *
 * Context: Any context.  The caller holds the module.
 * Return: the device, or NULL.
 */
struct ploop_device *ploop_device_find(u32 index)
{
	return xa_load(&devices, index);
}

/**
 * ploop_device_get() - the device of an index, made if need be
 * @index: which
 *
 * Context: Process context; sleeps.
 * Return: the device or an ERR_PTR.
 */
struct ploop_device *ploop_device_get(u32 index)
{
	struct ploop_device *dev;

	if (index > INDEX_MAX)
		return ERR_PTR(-ERANGE);
	mutex_lock(&index_lock);
	dev = xa_load(&devices, index);
	if (!dev)
		dev = device_create_at(index);
	mutex_unlock(&index_lock);
	return dev;
}

/**
 * ploop_device_reserve() - a device nobody uses, locked for the caller
 *
 * The lowest that exists and that nobody has open, who would then read what the new owner
 * attaches; else a new one of a random index: so a number that was
 * just given up, and may still be named somewhere, is not used at once.
 *
 * Context: Process context; sleeps.
 * Return: to be given to ploop_device_unreserve(), or an ERR_PTR.
 */
struct ploop_device *ploop_device_reserve(void)
{
	struct ploop_device *dev;
	unsigned long index;
	u32 start, i;

	mutex_lock(&index_lock);
	xa_for_each(&devices, index, dev)
		if (!dev->locked && READ_ONCE(dev->nr_levels) == 0 && !READ_ONCE(dev->open_count))
			goto found;
	start = get_random_u32() % (INDEX_MAX + 1 - INDEX_RANDOM_MIN);
	dev = ERR_PTR(-ERANGE);
	for (i = 0; i <= INDEX_MAX - INDEX_RANDOM_MIN; i++) {
		index = INDEX_RANDOM_MIN + (start + i) % (INDEX_MAX + 1 - INDEX_RANDOM_MIN);
		if (xa_load(&devices, index))
			continue;
		dev = device_create_at(index);
		break;
	}
	if (IS_ERR(dev))
		goto out;
found:
	WRITE_ONCE(dev->locked, true);
out:
	mutex_unlock(&index_lock);
	return dev;
}

/**
 * ploop_device_unreserve() - unlock a device
 * @dev: of ploop_device_reserve()
 */
void ploop_device_unreserve(struct ploop_device *dev)
{
	mutex_lock(&index_lock);
	WRITE_ONCE(dev->locked, false);
	mutex_unlock(&index_lock);
}

/**
 * ploop_device_lowest() - the lowest index without deltas
 *
 * Return: the index, or -ERANGE.
 */
int ploop_device_lowest(void)
{
	u32 index;

	for (index = 0; index <= INDEX_MAX; index++) {
		struct ploop_device *dev = xa_load(&devices, index);

		if (!dev || (READ_ONCE(dev->nr_levels) == 0 && !dev->locked))
			return index;
	}
	return -ERANGE;
}

/* Opening a node of an index that doesn't exist makes it. */
static void ploop_probe(dev_t devt)
{
	ploop_device_get(MINOR(devt) >> PLOOP_MINOR_SHIFT);
}

/**
 * ploop_devices_init() - get the major number
 *
 * Return: 0 or an errno.
 */
int __init ploop_devices_init(void)
{
	return __register_blkdev(PLOOP_MAJOR, "ploop", ploop_probe);
}

/**
 * ploop_devices_exit() - end all devices; nobody uses any
 */
void ploop_devices_exit(void)
{
	struct ploop_device *dev;
	unsigned long index;

	unregister_blkdev(PLOOP_MAJOR, "ploop");
	xa_for_each(&devices, index, dev) {
		ploop_shutdown(dev);
		kobject_put(dev->pdelta);
		del_gendisk(dev->disk);
		put_disk(dev->disk);
		cancel_delayed_work_sync(&dev->nospace_work);
		blk_mq_free_tag_set(&dev->tag_set);
		xa_erase(&devices, index);
		device_free(dev);
	}
	xa_destroy(&devices);
}
