/* SPDX-License-Identifier: GPL-2.0 */
/* What each file of the core gives to the others; described where it is defined. */
#ifndef _PLOOP_PARTS_H
#define _PLOOP_PARTS_H

#include <linux/poll.h>

struct ploop_watcher;

extern const struct blk_mq_ops ploop_mq_ops;
extern const struct attribute_group *ploop_sysfs_groups[];

/* call.c; see also ploop_io.h */
extern struct workqueue_struct *ploop_wq;
extern struct workqueue_struct *ploop_host_wq;
int __init ploop_call_init(void);
void ploop_call_exit(void);

/* registry.c */
const struct ploop_format *ploop_format_get(u32 id);
void ploop_format_put(const struct ploop_format *format);
int ploop_io_find(struct ploop_file *file, u32 id);
void ploop_io_put(struct ploop_file *file);

/* file.c */
int ploop_file_reclaim(struct ploop_file *file, bool write);
struct ploop_file *ploop_file_open(struct ploop_device *dev, struct file *source, bool write,
				   u32 io_id);
struct ploop_file *ploop_file_writable(struct ploop_device *dev, struct ploop_file *old);
void ploop_file_drop(struct ploop_device *dev, struct ploop_file *file);
void ploop_file_close(struct ploop_device *dev, struct ploop_file *file);
int ploop_file_pages(struct ploop_file *file, bool write, loff_t pos, struct page *pages, u32 len);
int ploop_file_write_queued(struct ploop_file *file, loff_t pos, struct page *page);
bool ploop_file_stable(const struct ploop_file *file);
int ploop_file_zero(struct ploop_file *file, loff_t pos, u64 len);
void ploop_file_touch(struct ploop_file *file);
int ploop_truncate_fd(struct ploop_delta *delta, int fd, loff_t size);

/* bat.c */
int ploop_bat_lookup(struct ploop_delta *delta, u32 cluster, u32 *iblock);
int ploop_bat_entry(struct ploop_delta *delta, u32 cluster, u32 *iblock);
int ploop_bat_merge(struct ploop_delta *delta, struct ploop_map_page *page);
int ploop_bat_set(struct ploop_delta *delta, u32 cluster, u32 iblock);
int ploop_bat_set_header(struct ploop_delta *delta);
int ploop_bat_write(struct ploop_delta *delta);
bool ploop_bat_dirty(const struct ploop_delta *delta);
void ploop_bat_drop(struct ploop_delta *delta);
u32 ploop_bat_pages(const struct ploop_delta *delta);
int ploop_bat_check(struct ploop_delta *delta, u32 index, struct page *page);

/* map.c */
int ploop_map_init(void);
void ploop_map_exit(void);
unsigned long ploop_map_count(void);
bool ploop_map_find(struct ploop_device *dev, u32 cluster, u64 *slot);
struct ploop_map_page *ploop_map_get(struct ploop_device *dev, u32 cluster);
struct ploop_map_page *ploop_map_peek(struct ploop_device *dev, u32 index);
void ploop_map_pin_again(struct ploop_map_page *page);
void ploop_map_put(struct ploop_map_page *page);
struct ploop_map_page *ploop_map_pinned(struct ploop_device *dev, u32 cluster);
bool ploop_slot_change(atomic64_t *slot, u64 place, u64 clear, u64 set);
void ploop_map_drop(struct ploop_device *dev);

/* alloc.c */
int ploop_alloc(struct ploop_delta *delta, u32 *iblock, bool *zero);
void ploop_alloc_at(struct ploop_delta *delta, u32 iblock);
void ploop_alloc_free(struct ploop_delta *delta, u32 iblock);
int ploop_alloc_cut(struct ploop_delta *delta, u64 end);
void ploop_alloc_table(struct ploop_delta *delta, u32 first);
int ploop_alloc_open(struct ploop_delta *delta);
int ploop_alloc_close(struct ploop_delta *delta);

/* partial.c */
bool ploop_partial_add(struct ploop_delta *delta, u32 iblock);
bool ploop_partial_has(struct ploop_delta *delta, u32 iblock);
bool ploop_partial_mark(struct ploop_delta *delta, u32 iblock, u32 offset, u32 len);
void ploop_partial_drop(struct ploop_delta *delta, u32 iblock);
void ploop_partial_drop_range(struct ploop_delta *delta, u32 first, u32 last);
int ploop_partial_fill(struct ploop_delta *delta);
void ploop_partial_forget(struct ploop_delta *delta);

/* commit.c */
bool ploop_pending_room(struct ploop_device *dev);
void ploop_pending_add(struct ploop_device *dev, struct ploop_map_page *page, u32 cluster,
		       u32 iblock, u32 freed);
void ploop_commit_wait(struct ploop_device *dev, struct ploop_request *req);
int ploop_commit(struct ploop_device *dev);
int ploop_commit_for(struct ploop_device *dev, long timeout);
void ploop_commit_work(struct work_struct *work);
void ploop_pending_forget(struct ploop_device *dev);
void ploop_abort(struct ploop_device *dev, int error);
void ploop_fail(struct ploop_delta *delta, int error);
void ploop_write_failed(struct ploop_request *req, int error);

/* epoch.c */
void ploop_parking_init(struct ploop_parking *parking);
bool ploop_park(struct ploop_parking *parking, struct ploop_request *req);
bool ploop_parking_close(struct ploop_parking *parking);
void ploop_parking_open(struct ploop_device *dev, struct ploop_parking *parking);
bool ploop_enter(struct ploop_device *dev, struct ploop_request *req);
void ploop_leave(struct ploop_device *dev, struct ploop_request *req);
bool ploop_drain_for(struct ploop_device *dev, long timeout);
void ploop_drain(struct ploop_device *dev);
int ploop_quiesce_for(struct ploop_device *dev, long timeout);
void ploop_quiesce(struct ploop_device *dev);
void ploop_quiesce_job(struct ploop_device *dev);
void ploop_resume(struct ploop_device *dev);
bool ploop_cluster_trylock(struct ploop_device *dev, struct ploop_request *req, u32 cluster);
void ploop_cluster_lock(struct ploop_device *dev, struct ploop_cluster_lock *lock, u32 cluster);
void ploop_cluster_unlock(struct ploop_device *dev, struct ploop_cluster_lock *lock);

/* queue.c */
int ploop_rq_iter(struct ploop_request *req, struct iov_iter *iter, gfp_t gfp);
void ploop_end(struct ploop_request *req);
void ploop_end_errno(struct ploop_request *req, int error);
void ploop_written(struct ploop_request *req);
bool ploop_rq_locate(struct ploop_request *req);
int ploop_rq_submit(struct ploop_request *req, void (*done)(struct ploop_iocb *iocb, long res),
		    u32 flags);
void ploop_rw_done(struct ploop_iocb *iocb, long res);
void ploop_rq_zero(struct ploop_request *req);
void ploop_rq_go(struct ploop_request *req, bool callers);
void ploop_rq_queue(struct ploop_request *req);

/* lane.c */
int ploop_lane_init(struct blk_mq_hw_ctx *hctx, void *data, unsigned int index);
bool ploop_lane_take(struct ploop_lane *lane, struct ploop_request *req);
void ploop_lane_done(struct request *rq);

/* swap.c */
int __init ploop_swap_init(void);
void ploop_swap_exit(void);
void ploop_swap_came(struct ploop_device *dev);
void ploop_swap_queue(struct ploop_request *req);
bool ploop_swap_seen(void);

/* slow.c */
int ploop_copy(struct ploop_delta *from, u32 from_iblock, struct ploop_delta *to, u32 to_iblock,
	       u32 offset, u32 len);
void ploop_slow_work(struct work_struct *work);

/* discard.c */
void ploop_discard(struct ploop_request *req);

/* waiting.c */
void ploop_waiting_init(struct ploop_waiting *waiting);
bool ploop_wait(struct ploop_waiting *waiting, struct ploop_request *req);
bool ploop_waiting_close(struct ploop_waiting *waiting);
void ploop_waiting_open(struct ploop_device *dev, struct ploop_waiting *waiting);

/* space.c */
bool ploop_error_passes(int error);
bool ploop_host_frozen(const struct ploop_device *dev);
void ploop_space_tell(struct ploop_device *dev, int error);
bool ploop_space_is_out(const struct ploop_device *dev);
bool ploop_space_wait(struct ploop_request *req, int error);
void ploop_space_found(struct ploop_device *dev);
void ploop_space_work(struct work_struct *work);
int ploop_space_reserve_ok(struct ploop_device *dev);

/* walk.c */
void ploop_walk(struct ploop_device *dev);

/* delta.c */
bool ploop_doubtful(const struct ploop_device *dev);
int ploop_delta_sync(struct ploop_delta *delta);
void ploop_delta_touch(struct ploop_delta *delta);
int ploop_delta_refresh(struct ploop_delta *delta, u32 cluster_shift);
int ploop_delta_mark(struct ploop_delta *delta);
int ploop_delta_sync_header(struct ploop_delta *delta);
int ploop_delta_clean(struct ploop_delta *delta);
int ploop_delta_retire(struct ploop_delta *delta);
void ploop_delta_retire_again(struct ploop_device *dev);
struct ploop_delta *ploop_delta_open(struct ploop_device *dev, const struct ploop_delta_args *args);
int ploop_delta_close(struct ploop_delta *delta, bool clean);

/* pdelta.c */
void ploop_pdelta_init(struct ploop_delta *delta);
int ploop_pdelta_add(struct ploop_delta *delta);
void ploop_pdelta_del(struct ploop_delta *delta);
void ploop_pdelta_renumber(struct ploop_delta *delta);

/* device.c */
int ploop_device_memory(struct ploop_device *dev);
struct ploop_device *ploop_device_find(u32 index);
struct ploop_device *ploop_device_get(u32 index);
struct ploop_device *ploop_device_reserve(void);
void ploop_device_unreserve(struct ploop_device *dev);
int ploop_device_lowest(void);
int ploop_devices_init(void);
void ploop_devices_exit(void);

/* stack.c */
void ploop_stack_changed(struct ploop_device *dev);
void ploop_stack_push(struct ploop_device *dev, struct ploop_delta *delta);
struct ploop_delta *ploop_stack_remove(struct ploop_device *dev, u32 level);
int ploop_add_delta(struct ploop_device *dev, const struct ploop_delta_args *args);
int ploop_del_delta(struct ploop_device *dev, u32 level);
int ploop_replace_delta(struct ploop_device *dev, u32 level, struct ploop_delta_args *args);
int ploop_reload(struct ploop_device *dev, u32 level);

/* state.c */
bool ploop_disk_is_used(struct ploop_device *dev, u32 openers_max);
int ploop_open_mutex_get(struct gendisk *disk);
int ploop_start(struct ploop_device *dev);
void ploop_users_sync(struct ploop_device *dev);
int ploop_stop(struct ploop_device *dev, u32 openers_max);
int ploop_clear(struct ploop_device *dev);
void ploop_shutdown(struct ploop_device *dev);

/* ioctl.c */
int ploop_ioctl(struct block_device *bdev, PLOOP_MODE mode, unsigned int cmd,
		unsigned long arg);

/* balloon.c */
int ploop_balloon_ioctl(struct ploop_device *dev, unsigned int cmd, unsigned long arg);

/* sysfs.c */
void ploop_sysfs_init(void);
void ploop_tune_init(struct ploop_device *dev);

/* procfs.c */
int ploop_proc_init(void);
void ploop_proc_exit(void);

/* event.c */
void ploop_event(struct ploop_device *dev, u32 type, u64 arg);
struct ploop_watcher *ploop_watcher_new(void);
void ploop_watcher_free(struct ploop_watcher *watcher);
void ploop_watcher_set(struct ploop_watcher *watcher, const struct ploop_watch *arg);
ssize_t ploop_watcher_read(struct ploop_watcher *watcher, char __user *buf, size_t count,
			   bool nonblock);
__poll_t ploop_watcher_poll(struct ploop_watcher *watcher, struct file *file, poll_table *wait);
int ploop_event_wait(struct ploop_device *dev);

/* track.c */
void ploop_track_file(struct ploop_delta *delta, u64 pos, u64 len);
int ploop_track_init(struct ploop_device *dev, struct ploop_track_extent *extent);
int ploop_track_setpos(struct ploop_device *dev, u64 pos);
int ploop_track_read(struct ploop_device *dev, struct ploop_track_extent *extent);
int ploop_track_stop(struct ploop_device *dev);
void ploop_track_abort(struct ploop_device *dev);

/* bitmap.c */
void ploop_bitmap_mark(struct ploop_device *dev, u64 sector, u32 count);
int ploop_bitmap_create(struct ploop_device *dev, const char *name, u32 granule_log);
int ploop_bitmap_delete(struct ploop_device *dev, const char *name);
int ploop_bitmap_clear(struct ploop_device *dev, const char *name);
void ploop_bitmaps_free(struct ploop_device *dev);
int ploop_bitmaps_resize(struct ploop_device *dev, u64 sectors);
int ploop_bitmap_read(struct ploop_device *dev, struct ploop_bitmap_read *arg,
		      struct ploop_range *ranges, u32 room);
void ploop_bitmap_unread(struct ploop_device *dev, u64 start, u64 end);
u32 ploop_bitmap_list(struct ploop_device *dev, struct ploop_bitmap_info *infos);

/* freeze.c */
struct ploop_frozen *ploop_frozen_new(void);
int ploop_freeze_prepare(struct ploop_device *dev);
int ploop_freeze(struct ploop_frozen *frozen, struct ploop_device *dev, u32 deadline_ms);
int ploop_hold(struct ploop_frozen *frozen, struct ploop_device *dev);
bool ploop_thaw(struct ploop_frozen *frozen);

/* snapshot.c */
int ploop_snapshot_prepare(struct ploop_device *dev, struct ploop_delta_args *args,
			   struct ploop_delta **delta);
void ploop_snapshot_unprepare(struct ploop_snapshot_set *set);
int ploop_snapshot_run(struct ploop_snapshot_set *set);
int ploop_snapshot_one(struct ploop_device *dev, struct ploop_delta_args *args, bool freeze);

/* job.c */
struct ploop_job_state *ploop_job_alloc(struct ploop_device *dev);
int ploop_job_step(struct ploop_job_state *job, u64 bytes, u64 moved);
bool ploop_job_passes(struct ploop_device *dev, int error);
int ploop_job_start(struct ploop_device *dev, u32 kind, u64 arg, u64 rate);
int ploop_job_wait(struct ploop_device *dev);
int ploop_job_wait_paused(struct ploop_device *dev);
int ploop_job_steer(struct ploop_device *dev, u32 op);
void ploop_job_query(struct ploop_device *dev, struct ploop_job *arg);

/* move.c */
void ploop_move_init(struct ploop_batch *batch, struct ploop_device *dev, u64 rate);
int ploop_move_add(struct ploop_batch *batch, u32 cluster);
void ploop_move_release(struct ploop_batch *batch);
int ploop_relocate(struct ploop_batch *batch, struct ploop_delta *delta);

/* merge.c */
int ploop_merge_prepare(struct ploop_device *dev, struct ploop_job_state *job);
int ploop_merge_run(struct ploop_device *dev, struct ploop_job_state *job);
int ploop_merge_finish(struct ploop_device *dev, struct ploop_job_state *job, int ret);

/* grow.c */
int ploop_grow_begin(struct ploop_grow *grow, struct ploop_delta *delta, u64 sectors, u64 rate);
u64 ploop_grow_bytes(struct ploop_grow *grow);
int ploop_grow_table(struct ploop_grow *grow, struct ploop_job_state *job);
int ploop_grow_header(struct ploop_grow *grow);
void ploop_grow_end(struct ploop_grow *grow, int error);
int ploop_grow_prepare(struct ploop_device *dev, struct ploop_job_state *job);
int ploop_grow_run(struct ploop_device *dev, struct ploop_job_state *job);
int ploop_grow_finish(struct ploop_device *dev, struct ploop_job_state *job, int ret);

/* compact.c */
int ploop_compact_prepare(struct ploop_device *dev, struct ploop_job_state *job);
int ploop_compact_run(struct ploop_device *dev, struct ploop_job_state *job);
int ploop_compact_finish(struct ploop_device *dev, struct ploop_job_state *job, int ret);

/* control.c */
int ploop_control_init(void);
void ploop_control_exit(void);

#endif /* _PLOOP_PARTS_H */
